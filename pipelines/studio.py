"""The studio of the drawn photos: shapes of cloth become light, folds, patterns and shadow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipelines.wording import COLOURS, pick

Floats = NDArray[np.floating[Any]]
Point = tuple[float, float]

# how much of the frame a garment fills; upper-body garments take the default
_ZOOM = {
    "Coat": 1.1, "Dress": 1.08, "Jumpsuit/Playsuit": 1.05, "Trousers": 1.05, "Skirt": 1.2,
    "Shorts": 1.45, "T-shirt": 1.3, "Vest top": 1.5, "Bag": 1.3, "Sneakers": 1.08, "Boots": 1.2,
    "Hat/beanie": 1.25, "Scarf": 1.1,
}  # fmt: skip


class Studio:
    """One photo in the making: shapes in garment units become shaded, shadowed layers.

    Units: the width of the photo is 1, y points down, the picture is 1 x 1.5 with x in -0.5..0.5
    and y in 0..1.5. Masks are drawn three times larger and averaged, everything else is numpy at
    the final size.
    """

    OVER = 3

    def __init__(
        self, rng: np.random.Generator, row: Mapping[str, str], size: tuple[int, int]
    ) -> None:
        self.rng = rng
        self.w, self.h = size
        self.unit = min(self.w, self.h / 1.5)
        self.details = frozenset(filter(None, row["details"].split(", ")))
        self.pattern = row["pattern"]
        self.zoom = _ZOOM.get(row["garment_type"], 1.2) * float(rng.uniform(0.93, 1.04))
        self.turn = float(rng.normal(0, 0.018))
        self.shift = (float(rng.normal(0, 0.010)), float(rng.normal(0, 0.014)))
        self.light = float(rng.uniform(-0.9, -0.3))
        self.colour = _tone(COLOURS[row["colour"]][5], float(rng.normal(0, 0.022)))
        self.accent = _accent(row["colour"], rng)
        self.accent2 = _accent(row["colour"], rng)
        self.phase = rng.random(8).astype(np.float32)
        self.upright = row["garment_type"] in ("Shirt", "Trousers", "Blazer") or rng.random() < 0.15
        ys, xs = np.mgrid[0 : self.h, 0 : self.w].astype(np.float32)
        px, py = (xs + 0.5 - self.w / 2) / self.unit, (ys + 0.5 - self.h / 2) / self.unit
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        qx, qy = px - self.shift[0], py - self.shift[1]
        self.x: Floats = ((cos * qx + sin * qy) / self.zoom).astype(np.float32)
        self.y: Floats = ((cos * qy - sin * qx) / self.zoom + 0.75).astype(np.float32)
        self.crumple = self._noise(5, 8) + 0.55 * self._noise(11, 16)
        down, across = np.gradient(self.crumple)
        self.wrinkle: Floats = (across * -self.light + down * 0.6) * (0.30 * self.unit / 128)
        self.grain = rng.normal(0, 1, (self.h, self.w)).astype(np.float32)
        self.canvas = self._background(px, py)

    def _noise(self, columns: int, rows: int) -> Floats:
        coarse = Image.fromarray(self.rng.normal(0, 1, (rows, columns)).astype(np.float32))
        return np.asarray(coarse.resize((self.w, self.h), Image.Resampling.BICUBIC))

    def _background(self, px: Floats, py: Floats) -> Floats:
        base = self.rng.uniform(0.925, 0.972) + self.rng.normal(0, 0.004, 3)
        fade = 0.022 * (px * self.light * 2 - py * 0.7) - 0.035 * (px**2 + 0.5 * py**2)
        plain = base.astype(np.float32) + np.array([0.004, 0.001, -0.005], np.float32)
        return np.clip(plain + fade[..., None], 0, 1).astype(np.float32)

    def photo(self) -> Image.Image:
        noisy = self.canvas + 0.004 * self.grain[..., None]
        return Image.fromarray((np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8))

    def pixels(self, points: Sequence[Point]) -> Floats:
        at = np.asarray(points, np.float64) * self.zoom
        at[:, 1] -= 0.75 * self.zoom
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        x = cos * at[:, 0] - sin * at[:, 1] + self.shift[0]
        y = sin * at[:, 0] + cos * at[:, 1] + self.shift[1]
        scaled = np.stack([x * self.unit + self.w / 2, y * self.unit + self.h / 2], 1)
        return scaled.astype(np.float32)

    def _mask(
        self, shapes: Sequence[Sequence[Point]], width: float = 0.0, pad: int = 2
    ) -> tuple[Image.Image, tuple[slice, slice]] | None:
        """Coverage of polygons (`width` 0) or polylines, cropped to their box."""
        drawn = [self.pixels(points) for points in shapes]
        every = np.concatenate(drawn)
        margin = pad + int(width * self.unit) + 1
        left, top = np.maximum(np.floor(every.min(0)).astype(int) - margin, 0)
        right, bottom = np.ceil(every.max(0)).astype(int) + margin
        right, bottom = min(int(right), self.w), min(int(bottom), self.h)
        if right - left < 2 or bottom - top < 2:
            return None
        over = self.OVER
        image = Image.new("L", ((right - left) * over, (bottom - top) * over))
        draw = ImageDraw.Draw(image)
        for points in drawn:
            flat = ((points - (left, top)) * over).ravel().tolist()
            if width:
                thick = max(1, round(width * self.zoom * self.unit * over))
                draw.line(flat, fill=255, width=thick, joint="curve")
            else:
                draw.polygon(flat, fill=255)
        return image.reduce(over), (slice(int(top), bottom), slice(int(left), right))

    def cloth(
        self,
        points: Sequence[Point],
        *,
        colour: Floats | None = None,
        pattern: str | None = None,
        angle: float = 0.0,
        folds: float = 0.0,
        shade: float = 1.0,
        ribs: float = 0.0,
        gloss: float = 0.0,
        shadow: float = 0.30,
        relief: float = 1.0,
        part: str = "",
    ) -> None:
        """Paint one piece of cloth and the shadow that it throws on what lies below.

        `angle` turns the pattern (radians), `folds` is the depth of hanging folds, `ribs` that of
        knitted ribs, `gloss` the strength of highlights, `shade` a factor on the whole piece.
        """
        made = self._mask([points], pad=6)
        if made is None:
            return
        image, box = made
        radius = self.unit / 128
        soft = np.asarray(image.filter(ImageFilter.GaussianBlur(3.2 * radius)), np.float32) / 255
        cover = np.asarray(image, np.float32) / 255
        below = self.canvas[box]
        dx, dy = round(-1.6 * self.light * radius), round(2 * radius)
        thrown = np.roll(soft, (dy, dx), (0, 1)) * (1 - cover)
        below = below * (1 - shadow * thrown[..., None])
        x, y = self.x[box], self.y[box]
        cos, sin = math.cos(angle), math.sin(angle)
        u, v = cos * x + sin * y, cos * y - sin * x
        base = self.colour if colour is None else colour
        albedo = self._albedo(pattern or self.pattern, base, u, v, box, part)
        gy, gx = np.gradient(soft)
        form = (gx * -self.light + gy * 0.75) * (1.05 * relief * radius)
        lit = 0.86 + 0.16 * soft + form + relief * self.wrinkle[box]
        if folds:
            wave = np.sin(u * 62 + self.crumple[box] * 1.5 + self.phase[0] * 6.28)
            wave += 0.6 * np.sin(u * 37 + self.crumple[box] * 2.0 + self.phase[1] * 6.28)
            lit = lit + folds * wave * 0.09
        if ribs:
            lit = lit + ribs * 0.07 * np.sin(u * 6.2832 / 0.026)
        lit = lit * shade
        sheen = np.clip(lit - 0.93, 0, 1) * (0.22 + gloss * 2.2)
        rgb = albedo * lit[..., None] + sheen[..., None]
        self.canvas[box] = below + (rgb - below) * cover[..., None]

    def lines(
        self,
        shapes: Sequence[Sequence[Point]],
        width: float = 0.008,
        *,
        tone: float = 0.72,
        colour: Floats | None = None,
        alpha: float = 1.0,
    ) -> None:
        """Thin strokes: seams (multiply by `tone`) or cords and stitches (`colour`)."""
        made = self._mask(shapes, width)
        if made is None:
            return
        image, box = made
        cover = (np.asarray(image, np.float32) * (alpha / 255))[..., None]
        below = self.canvas[box]
        over = below * tone if colour is None else colour
        self.canvas[box] = below + (over - below) * cover

    def seams(self, *shapes: Sequence[Point], tone: float = 0.72, width: float = 0.007) -> None:
        """Seams: a dark line and a lighter one beside it."""
        self.lines([[(x + 0.006, y + 0.005) for x, y in s] for s in shapes], width, tone=1.09)
        self.lines(shapes, width, tone=tone)

    def buttons(self, centres: Sequence[Point], radius: float = 0.011) -> None:
        """Round buttons, light on dark cloth and dark on light."""
        dark = float(self.colour.mean()) > 0.45
        face = self.colour * 0.55 if dark else self.colour * 0.6 + 0.28
        self.lines(
            [ring((x, y + 0.003), radius) for x, y in centres], radius * 0.6, tone=0.6, alpha=0.6
        )
        made = self._mask([ring(c, radius) for c in centres])
        if made is not None:
            image, box = made
            cover = np.asarray(image, np.float32)[..., None] / 255
            self.canvas[box] += (face - self.canvas[box]) * cover

    def _albedo(
        self,
        pattern: str,
        base: Floats,
        u: Floats,
        v: Floats,
        box: tuple[slice, slice],
        part: str,
    ) -> Floats:
        """(h, w, 3) colours of a piece before light."""
        grain = self.grain[box]
        plain = np.broadcast_to(base, (*u.shape, 3))
        other, third = self.accent, self.accent2
        if pattern == "striped":
            s = u if self.upright else v
            period = (0.040, 0.055, 0.075)[int(self.phase[2] * 3)]
            wave = np.sin(s * 6.2832 / period) - (0.25 if self.phase[3] < 0.5 else -0.1)
            return _mix(plain, other, _step(wave, 0.30))
        if pattern == "checked":
            period = (0.085, 0.11, 0.14)[int(self.phase[2] * 3)]
            a = _step(np.sin(u * 6.2832 / period), 0.25)
            b = _step(np.sin(v * 6.2832 / period), 0.25)
            thin = np.maximum(_step(np.cos(u * 6.2832 / period) - 0.93, 0.05),
                              _step(np.cos(v * 6.2832 / period) - 0.93, 0.05))  # fmt: skip
            return _mix(_mix(plain, other, 0.5 * (a + b) * 0.92), third, thin * 0.55)
        if pattern in ("dotted", "floral", "leopard"):
            return self._scatter(pattern, plain, u, v)
        if pattern == "melange":
            return _mix(plain, 0.92 - 0.35 * base, 0.14 + 0.075 * np.clip(grain, -1.6, 2))
        if pattern == "colour-block":
            if part == "shoe":
                return _mix(plain, other, _step(0.10 - np.abs(self.x[box] + 0.02), 0.006))
            level = 0.66 + 0.06 * float(self.phase[2])
            return _mix(plain, other, _step(self.y[box] - level, 0.006))
        if pattern == "denim":
            twill = 0.035 * np.sin((u + v) * 260) + 0.03 * grain
            worn = np.clip(self.crumple[box] * 0.10 + 0.05, 0, 0.3)
            return _mix(plain * (1 + twill[..., None]), np.float32(0.92), worn)
        if pattern == "glitter":
            return _mix(plain, np.float32(1.0) - 0.1 * base, _step(grain - 1.25, 0.25) * 0.85)
        if pattern == "printed" and part == "front":
            return _mix(plain, other, self._motif(u, v))
        return plain

    def _scatter(self, pattern: str, plain: Floats, u: Floats, v: Floats) -> Floats:
        """Motifs scattered over jittered cells."""
        cell = {"dotted": 0.052, "floral": 0.088, "leopard": 0.062}[pattern]
        cell *= 0.85 + 0.4 * float(self.phase[2])
        row = np.floor(v / cell)
        a = u / cell + 0.5 * (row % 2)
        column = np.floor(a)
        code = column * 12.9898 + row * 78.233 + self.phase[4] * 50
        jitter1, jitter2, choice = (np.mod(np.sin(code * k) * 43758.5, 1) for k in (1, 1.7, 2.3))
        amount = 0.0 if pattern == "dotted" else 0.32
        dx = a - column - 0.5 + amount * (jitter1 - 0.5)
        dy = v / cell - row - 0.5 + amount * (jitter2 - 0.5)
        r = np.hypot(dx, dy)
        soft = 0.0075 / cell
        if pattern == "dotted":
            return _mix(plain, self.accent, _step(0.25 - r, soft))
        theta = np.arctan2(dy, dx) + choice * 6.28
        if pattern == "leopard":
            edge = 0.36 + 0.07 * np.sin(3 * theta) - r
            spot = _step(edge, soft) * _step(r - 0.20, soft) * _step(np.sin(theta) + 0.6, 0.3)
            warm = _mix(plain, plain[0, 0] * 0.72, _step(0.24 - r, soft))
            dark = plain[0, 0] * 0.22 if float(plain[0, 0].mean()) > 0.3 else self.accent
            return _mix(warm, dark, spot)
        petals = _step(0.32 + 0.07 * np.cos(5 * theta) - r, soft)
        leaf = _step(0.09 - np.hypot(dx - 0.33, (dy - 0.30) * 1.8), soft)
        petal = np.where((choice > 0.5)[..., None], self.accent, self.accent2)
        green = rgb(0.36, 0.50, 0.34)
        flowers = _mix(_mix(plain, green, leaf * 0.8), petal, petals)
        return _mix(flowers, rgb(0.95, 0.80, 0.38), _step(0.10 - r, soft))

    def _motif(self, u: Floats, v: Floats) -> Floats:
        """A chest print: a sun, bars of lettering, a wave or a ring."""
        y = v - 0.69
        r = np.hypot(u, y)
        theta = np.arctan2(y, u)
        kind = int(self.phase[2] * 4)
        if kind == 0:
            rays = _step(np.sin(theta * 11), 0.4) * _step(r - 0.075, 0.01) * _step(0.115 - r, 0.01)
            return np.maximum(_step(0.058 - r, 0.008), rays)
        if kind == 1:
            letters = _step(np.sin(u * 150 + self.phase[3] * 6 + 2 * np.sin(u * 41)) + 0.5, 0.4)
            first = _step(0.021 - np.abs(y + 0.03), 0.006) * _step(0.12 - np.abs(u), 0.006)
            second = _step(0.011 - np.abs(y - 0.02), 0.006) * _step(0.08 - np.abs(u), 0.006)
            return np.maximum(first, second) * letters
        if kind == 2:
            sea = _step(np.sin(y * 130 + 1.4 * np.sin(u * 45)), 0.5)
            sky = _step(-0.01 - y, 0.01) * 0.35
            return np.asarray(_step(0.095 - r, 0.008) * np.maximum(sea, sky))
        return _step(0.024 - np.abs(r - 0.075), 0.007) + 0.8 * _step(0.03 - r, 0.008)


def _step(value: Floats, width: float) -> Floats:
    """0..1 across `width` around zero."""
    return np.asarray(np.clip(value / width * 0.5 + 0.5, 0, 1))


def _mix(below: Floats, above: Floats | np.float32, amount: Floats) -> Floats:
    weight = amount[..., None]
    return (below + (above - below) * weight).astype(np.float32)


def rgb(red: float, green: float, blue: float) -> Floats:
    return np.array([red, green, blue], np.float32)


def _tone(rgb: tuple[int, int, int], change: float) -> Floats:
    return np.clip(np.array(rgb, np.float32) / 255 * (1 + change), 0.02, 0.97)


def _accent(colour: str, rng: np.random.Generator) -> Floats:
    """A second colour that reads against the first."""
    own = _PALETTE[colour]
    light = _MEANS[colour] > 0.55
    chance = rng.random()
    if chance < 0.25:  # a lighter or darker tone of its own
        return own * np.float32(0.5) if light else own * np.float32(0.3) + np.float32(0.66)
    neutral = ((47, 50, 66), (38, 37, 40), (120, 84, 60)) if light else ((243, 241, 236),
              (226, 208, 180), (205, 208, 214))  # fmt: skip
    if chance < 0.75 or not _PARTNERS[colour]:
        return _tone(pick(rng, neutral), 0.0)
    return _PALETTE[pick(rng, _PARTNERS[colour])]


_PALETTE = {name: _tone(entry[5], 0.0) for name, entry in COLOURS.items()}
_MEANS = {name: float(tone.mean()) for name, tone in _PALETTE.items()}
# light colours pair with darker ones and the reverse, far enough apart to be seen
_PARTNERS = {
    name: [
        other
        for other, tone in _PALETTE.items()
        if float(np.abs(tone - own).mean()) > 0.22
        and (_MEANS[other] < _MEANS[name]) == (_MEANS[name] > 0.55)
    ]
    for name, own in _PALETTE.items()
}


def ring(centre: Point, radius: float, count: int = 14) -> list[Point]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(centre[0] + radius * float(np.cos(a)), centre[1] + radius * float(np.sin(a)))
            for a in angles]  # fmt: skip


def curve(points: Sequence[Point], steps: int = 7) -> list[Point]:
    """A Catmull-Rom curve through `points`; a doubled point makes a corner."""
    p = np.asarray([points[0], *points, points[-1]], np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    found = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        if b[0] == c[0] and b[1] == c[1]:
            continue
        found.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                            + (3 * b - a - 3 * c + d) * t**3))  # fmt: skip
    return [(float(x), float(y)) for x, y in np.concatenate([*found, p[-1:]])]


def both(half: Sequence[Point]) -> list[Point]:
    """Close a right half (top centre to bottom centre) with its mirror image."""
    return [*half, *[(-x, y) for x, y in reversed(half)]]


def flip(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]
