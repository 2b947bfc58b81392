"""A drawn fashion catalogue in H&M's layout: traits, articles and photos from a seed.

`draw_articles` draws products with visible traits (type, colour, pattern, length, neckline, sleeve,
details) and traits a photo does not show (fabric, fit, occasion, season, quality, style, price).
`draw_photo` paints the visible ones as a lay-down photo. `write_catalogue` writes both as Kaggle's
`articles.csv` and `images/`. Products are drawn one after another from their own random streams, so
the first articles of a seed are the same whatever `n` is.
"""

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from pipelines.wording import (
    COLOURS,
    GARMENT_GROUPS,
    GARMENTS,
    INDEXES,
    PATTERNS,
    SECTIONS,
    describe,
    pick,
    product_name,
    web_caption,
)

__all__ = [
    "DrawnCatalogue",
    "describe",
    "draw_articles",
    "draw_photo",
    "web_caption",
    "write_catalogue",
]

WINDOW_DAYS = 730
COLD_DAYS = 28
JPEG_QUALITY = 84

Floats = NDArray[np.float32]
Point = tuple[float, float]

_DENIM_COLOURS = ("Dark Blue", "Blue", "Light Blue", "Black", "Dark Grey", "White")
_STYLES = ("classic", "sporty", "romantic", "bohemian", "minimal", "street")
_OCCASIONS = ("everyday", "office", "party", "outdoor", "holiday", "lounge")
_SEASONS = ("spring", "summer", "autumn", "winter")
_WARM = frozenset({"Sweater", "Cardigan", "Hoodie", "Coat", "Jacket", "Boots", "Scarf",
                   "Hat/beanie"})  # fmt: skip


@dataclass(frozen=True)
class DrawnCatalogue:
    """Articles and the traits behind them, one row each in the same order.

    `articles` has the 25 columns of Kaggle's `articles.csv`; `article_id` and `product_code` are
    strings, other codes Int64, `detail_desc` null where there is no description. `traits` has
    article_id, product_code, garment_type (= product_type_name), colour (= colour_group_name),
    pattern, length, neckline, sleeve, details ("" where one does not apply; details are joined by
    ", "), fabric, fit, occasion, season, style (str), quality (0..1) and price (H&M's scale, 0.005
    to 0.2) as Float64, has_description, has_image (Boolean), and arrival (Int64: day of first sale
    in the two-year window, 0..729).
    """

    articles: pl.DataFrame
    traits: pl.DataFrame


def draw_articles(n: int, seed: int) -> DrawnCatalogue:
    """Draw `n` articles (about two colour variants a product).

    Raises ValueError when `n` is not between 1 and 200,000.
    """
    if not 1 <= n <= 200_000:
        raise ValueError(f"n is {n}; expected 1 to 200000 articles")
    articles: list[dict[str, object]] = []
    traits: list[dict[str, object]] = []
    number = 0
    while len(articles) < n:
        for article, trait in _draw_product(number, seed):
            articles.append(article)
            traits.append(trait)
        number += 1
    return DrawnCatalogue(
        pl.DataFrame(articles[:n], schema_overrides={"detail_desc": pl.String}),
        pl.DataFrame(traits[:n], schema_overrides={"quality": pl.Float64, "price": pl.Float64}),
    )


def write_catalogue(
    folder: Path,
    n: int,
    seed: int,
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> DrawnCatalogue:
    """Write `articles.csv` and `images/0NN/<article_id>.jpg` under `folder`.

    Photos that are there already are kept (each is written under a temporary name and renamed, so
    one that is there is whole); `articles.csv` comes last and so marks a finished folder. The same
    seed gives the same bytes whatever `workers` is. `progress` is called with (photos done, photos
    in all).
    """
    catalogue = draw_articles(n, seed)
    wanted = catalogue.traits.filter(pl.col("has_image")).to_dicts()
    jobs = [(row, folder / "images" / str(row["article_id"])[:3]) for row in wanted]
    for place in sorted({place for _, place in jobs}):
        place.mkdir(parents=True, exist_ok=True)
    missing = [(row, at) for row, at in jobs if not (at / f"{row['article_id']}.jpg").is_file()]
    done = len(jobs) - len(missing)
    if progress:
        progress(done, len(jobs))
    for _ in _each(missing, seed, workers):
        done += 1
        if progress:
            progress(done, len(jobs))
    part = folder / f".articles.csv.{os.getpid()}"
    catalogue.articles.write_csv(part)
    os.replace(part, folder / "articles.csv")
    return catalogue


def draw_photo(
    trait_row: Mapping[str, object], seed: int, size: tuple[int, int] = (128, 192)
) -> Image.Image:
    """One lay-down photo (RGB, `size` = width, height in pixels) of a row of `traits`.

    Depends on the visible traits, and on `article_id` and `seed` for pose, light and background.
    """
    row = {key: str(value) for key, value in trait_row.items()}
    entropy = zlib.crc32(row["article_id"].encode())
    studio = _Studio(np.random.default_rng([seed, entropy]), row, size)
    _PAINTERS[row["garment_type"]](studio, row)
    return studio.photo()


# ---------------------------------------------------------------------------------- articles


def _draw_product(number: int, seed: int) -> list[tuple[dict[str, object], dict[str, object]]]:
    """The colour variants of one product: (row of articles, row of traits) each."""
    rng = np.random.default_rng([seed, number])
    shares = np.cumsum([garment.share for garment in GARMENTS.values()])
    kind = list(GARMENTS)[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
    garment = GARMENTS[kind]
    # 611,953 and 899,999 share no factor, so codes do not repeat within a catalogue
    code = str(100_000 + (number * 611_953 + seed * 12_347) % 899_999)
    placement = pick(rng, garment.placements)
    pattern = "solid" if rng.random() < 0.3 else pick(rng, garment.patterns)
    details = [d for d in garment.details if rng.random() < 0.42][:2]
    quality = float(rng.beta(2.2, 2.6))
    price = garment.price * (0.65 + 0.75 * quality) * float(np.exp(rng.normal(0, 0.22)))
    warm = kind in _WARM
    row: dict[str, object] = {
        "product_code": code,
        "garment_type": kind,
        "pattern": pattern,
        "length": pick(rng, garment.lengths),
        "neckline": pick(rng, garment.necklines),
        "sleeve": pick(rng, garment.sleeves),
        "details": ", ".join(details),
        "fabric": pick(rng, garment.fabrics),
        "fit": pick(rng, garment.fits),
        "occasion": pick(rng, _OCCASIONS),
        "season": _SEASONS[int(rng.choice(4, p=(0.1, 0.05, 0.4, 0.45) if warm else
                                          (0.35, 0.4, 0.15, 0.1)))],
        "quality": round(quality, 4),
        "style": pick(rng, _STYLES),
        "price": round(min(max(price, 0.005), 0.2), 6),
    }  # fmt: skip
    colours = _DENIM_COLOURS if pattern == "denim" else tuple(COLOURS)
    variants = min(1 + int(rng.geometric(0.5)) - 1 + int(rng.random() < 0.1), 6, len(colours))
    weight = np.array([2.6 if c in ("Black", "White", "Dark Blue") else 1.0 for c in colours])
    chosen = rng.choice(len(colours), size=variants, replace=False, p=weight / weight.sum())
    start = rng.random()
    arrival = (
        0 if start < 0.35
        else int(rng.integers(0, WINDOW_DAYS - COLD_DAYS)) if start < 0.9
        else int(rng.integers(WINDOW_DAYS - COLD_DAYS, WINDOW_DAYS))
    )  # fmt: skip
    described = rng.random() >= 0.2
    name = product_name(row, rng)
    text = describe(
        {**row, "colour": colours[int(chosen[0])]},
        rng,
        mention_colour=bool(variants == 1 and rng.random() < 0.34),
    )
    found = []
    for variant, index in enumerate(chosen, start=1):
        later = int(rng.integers(30, 300)) if variant > 1 and rng.random() < 0.25 else 0
        article_id = f"0{code}{variant:03d}"
        trait: dict[str, object] = {
            "article_id": article_id,
            **row,
            "colour": colours[int(index)],
            "has_description": described,
            "has_image": bool(rng.random() >= 0.01),
            "arrival": min(arrival + later, WINDOW_DAYS - 1),
        }
        found.append((_article(trait, placement, name, text if described else None),
                      {column: trait[column] for column in _TRAITS}))  # fmt: skip
    return found


_TRAITS = (
    "article_id", "product_code", "garment_type", "colour", "pattern", "length", "neckline",
    "sleeve", "details", "fabric", "fit", "occasion", "season", "quality", "style", "price",
    "has_description", "has_image", "arrival",
)  # fmt: skip


def _article(
    trait: Mapping[str, object],
    placement: tuple[str, int, int, int, str],
    name: str,
    text: str | None,
) -> dict[str, object]:
    kind, colour = str(trait["garment_type"]), str(trait["colour"])
    index, section, group, department, department_name = placement
    look = PATTERNS[str(trait["pattern"])]
    colour_code, value, value_name, master, master_name = COLOURS[colour][:5]
    index_name, index_group, index_group_name = INDEXES[index]
    return {
        "article_id": trait["article_id"],
        "product_code": trait["product_code"],
        "prod_name": name,
        "product_type_no": GARMENTS[kind].type_no,
        "product_type_name": kind,
        "product_group_name": GARMENTS[kind].group,
        "graphical_appearance_no": look[0],
        "graphical_appearance_name": look[1],
        "colour_group_code": colour_code,
        "colour_group_name": colour,
        "perceived_colour_value_id": value,
        "perceived_colour_value_name": value_name,
        "perceived_colour_master_id": master,
        "perceived_colour_master_name": master_name,
        "department_no": department,
        "department_name": department_name,
        "index_code": index,
        "index_name": index_name,
        "index_group_no": index_group,
        "index_group_name": index_group_name,
        "section_no": section,
        "section_name": SECTIONS[section],
        "garment_group_no": group,
        "garment_group_name": GARMENT_GROUPS[group],
        "detail_desc": text,
    }


def _each(
    jobs: Sequence[tuple[Mapping[str, object], Path]], seed: int, workers: int
) -> Iterator[None]:
    """Draw every job's photo, in this process or in `workers` others; yields after each."""
    rows, places = [row for row, _ in jobs], [place for _, place in jobs]
    if workers <= 1 or len(jobs) < 64:
        yield from map(_save_photo, rows, places, repeat(seed))
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    # spawn: forking a process that holds BLAS or torch threads can hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(_save_photo, rows, places, repeat(seed), chunksize=32)


def _save_photo(row: Mapping[str, object], place: Path, seed: int) -> None:
    data = io.BytesIO()
    draw_photo(row, seed).save(data, "JPEG", quality=JPEG_QUALITY)
    part = place / f".{row['article_id']}.{os.getpid()}"
    part.write_bytes(data.getvalue())
    os.replace(part, place / f"{row['article_id']}.jpg")


# ------------------------------------------------------------------------------------ studio


class _Studio:
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
        self.zoom = float(rng.uniform(0.93, 1.05))
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
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        qx, qy = px - self.shift[0], py - self.shift[1]
        self.x: Floats = ((cos * qx + sin * qy) / self.zoom).astype(np.float32)
        self.y: Floats = ((cos * qy - sin * qx) / self.zoom + 0.75).astype(np.float32)
        self.crumple = self._noise(5, 8) + 0.55 * self._noise(11, 16)
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
        return Image.fromarray((np.clip(noisy, 0, 1) * 255 + 0.5).astype(np.uint8), "RGB")

    def pixels(self, points: Sequence[Point]) -> Floats:
        at = np.asarray(points, np.float64) * self.zoom
        at[:, 1] -= 0.75 * self.zoom
        cos, sin = np.cos(self.turn), np.sin(self.turn)
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
        cos, sin = np.cos(angle), np.sin(angle)
        u, v = cos * x + sin * y, cos * y - sin * x
        base = self.colour if colour is None else colour
        albedo = self._albedo(pattern or self.pattern, base, u, v, box, part)
        gy, gx = np.gradient(soft)
        form = (gx * self.light * -1.0 + gy * 0.75) * 0.95 * relief / radius * radius
        wrinkle_y, wrinkle_x = np.gradient(self.crumple[box])
        wrinkle = 0.30 * (wrinkle_x * -self.light + wrinkle_y * 0.6) * self.unit / 128 * relief
        lit = 0.86 + 0.16 * soft + form * 1.1 + wrinkle
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
            [_ring((x, y + 0.003), radius) for x, y in centres], radius * 0.6, tone=0.6, alpha=0.6
        )
        made = self._mask([_ring(c, radius) for c in centres])
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
            return _mix(plain, np.float32(0.97) - 0.55 * base, 0.20 + 0.16 * np.clip(grain, -1, 2))
        if pattern == "colour-block":
            level = {"lower": 0.72, "leg": 0.95}.get(part, 0.66) + 0.06 * float(self.phase[2])
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
        petals = _step(0.33 + 0.10 * np.cos(5 * theta) - r, soft)
        leaf = _step(0.09 - np.hypot(dx - 0.33, (dy - 0.30) * 1.8), soft)
        petal = np.where((choice > 0.5)[..., None], self.accent, self.accent2)
        green = np.float32([0.36, 0.50, 0.34])
        flowers = _mix(_mix(plain, green, leaf * 0.8), petal, petals)
        return _mix(flowers, np.float32([0.95, 0.80, 0.38]), _step(0.10 - r, soft))

    def _motif(self, u: Floats, v: Floats) -> Floats:
        """A chest print: a sun, bars of lettering, a wave or a ring."""
        y = v - 0.64
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
            return _step(0.095 - r, 0.008) * np.maximum(sea, _step(-0.01 - y, 0.01) * 0.35)
        return _step(0.024 - np.abs(r - 0.075), 0.007) + 0.8 * _step(0.03 - r, 0.008)


def _step(value: Floats, width: float) -> Floats:
    """0..1 across `width` around zero."""
    return np.clip(value / width * 0.5 + 0.5, 0, 1)


def _mix(below: Floats, above: Floats | np.float32, amount: Floats) -> Floats:
    weight = amount[..., None]
    return (below + (above - below) * weight).astype(np.float32)


def _tone(rgb: tuple[int, int, int], change: float) -> Floats:
    return np.clip(np.array(rgb, np.float32) / 255 * (1 + change), 0.02, 0.97)


def _accent(colour: str, rng: np.random.Generator) -> Floats:
    """A second colour that reads against the first."""
    own = np.array(COLOURS[colour][5], np.float32) / 255
    options = [_tone(entry[5], 0.0) for entry in COLOURS.values()]
    weights = [float(np.abs(other - own).mean()) for other in options]
    light = own.mean() > 0.55
    fit = [
        other
        for other, weight in zip(options, weights, strict=True)
        if weight > 0.22 and (other.mean() < own.mean() if light else other.mean() > own.mean())
    ]
    neutral = _tone((243, 241, 236), 0.0) if not light else _tone((47, 50, 66), 0.0)
    return neutral if rng.random() < 0.5 or not fit else pick(rng, fit)


def _ring(centre: Point, radius: float, count: int = 14) -> list[Point]:
    angles = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(centre[0] + radius * float(np.cos(a)), centre[1] + radius * float(np.sin(a)))
            for a in angles]  # fmt: skip


def _curve(points: Sequence[Point], steps: int = 7) -> list[Point]:
    """A Catmull-Rom curve through `points`; a doubled point makes a corner."""
    p = np.asarray([points[0], *points, points[-1]], np.float64)
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    found = []
    for a, b, c, d in zip(p[:-3], p[1:-2], p[2:-1], p[3:], strict=True):
        if np.allclose(b, c):
            continue
        found.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2
                            + (3 * b - a - 3 * c + d) * t**3))  # fmt: skip
    return [(float(x), float(y)) for x, y in np.concatenate([*found, p[-1:]])]


def _both(half: Sequence[Point]) -> list[Point]:
    """Close a right half (top centre to bottom centre) with its mirror image."""
    return [*half, *[(-x, y) for x, y in reversed(half)]]


def _flip(points: Sequence[Point]) -> list[Point]:
    return [(-x, y) for x, y in points]


# ---------------------------------------------------------------------------------- garments

_FIT_WIDTH = {"slim": 0.93, "regular": 1.0, "relaxed": 1.06, "oversized": 1.12}


def _neck(s: _Studio, row: Mapping[str, str], y: float, wide: float) -> list[Point]:
    """Paint the inside of the back and return the front neckline, centre to shoulder."""
    depth = {"round": 0.075, "v-neck": 0.19, "square": 0.115, "turtle neck": 0.02, "hood": 0.07,
             "collar": 0.09, "stand-up collar": 0.06, "lapels": 0.30}[row["neckline"]]  # fmt: skip
    back = _curve([(-wide, y), (-wide * 0.5, y + 0.022), (wide * 0.5, y + 0.022), (wide, y)])
    s.cloth([*back, (wide * 0.8, y + depth + 0.02), (0, y + depth + 0.045),
             (-wide * 0.8, y + depth + 0.02)], shade=0.66, shadow=0.1, relief=0.4)  # fmt: skip
    s.lines([[(-0.012, y + 0.036), (0.012, y + 0.036)]], 0.012, tone=0.5)
    if row["neckline"] in ("v-neck", "lapels"):
        return [(0, y + depth), (wide * 0.55, y + depth * 0.45), (wide, y)]
    if row["neckline"] == "square":
        return [(0, y + depth), (wide * 0.88, y + depth - 0.004), (wide, y)]
    return _curve([(0, y + depth), (wide * 0.62, y + depth * 0.78), (wide * 0.96, y + 0.02),
                   (wide, y)])  # fmt: skip


def _sleeves(
    s: _Studio, row: Mapping[str, str], y: float, shoulder: float, chest: float, *, long: float,
    thick: float = 1.0, ribs: bool = False, cuff: bool = False,
) -> None:  # fmt: skip
    """Both sleeves, painted before the body. `long` is the length of a long sleeve."""
    kind = row["sleeve"]
    length = {"short": 0.235, "elbow": 0.33, "3/4-length": long * 0.78}.get(kind, long)
    spread = {"short": 0.62, "elbow": 0.45}.get(kind, 0.24)
    for side in (1, -1):
        angle = spread + float(s.rng.normal(0, 0.035))
        dx, dy = float(np.sin(angle)), float(np.cos(angle))
        width = (0.135 if kind in ("short", "elbow") else 0.088) * thick
        if kind == "puff":
            width = 0.10
        top, pit = (shoulder - 0.01, y + 0.03), (chest - 0.015, y + 0.235)
        out = (top[0] + dx * length, top[1] + dy * length)
        inner = (out[0] - dy * width, out[1] + dx * width * 0.9)
        bulge = 0.075 if kind == "puff" else 0.022
        outer = [top, (top[0] + dx * length * 0.25 + bulge * 0.8, top[1] + dy * length * 0.22),
                 (top[0] + dx * length * 0.72 + bulge, top[1] + dy * length * 0.72), out]  # fmt: skip
        lower = [inner, (inner[0] * 0.6 + pit[0] * 0.4 + (0.03 if kind == "puff" else 0.004),
                         inner[1] * 0.6 + pit[1] * 0.4), pit]  # fmt: skip
        shape = [*_curve(outer), *_curve(lower), (shoulder * 0.6, y + 0.12)]
        at = shape if side == 1 else _flip(shape)
        s.cloth(at, angle=-angle * side, shade=0.96, ribs=0.8 if ribs else 0.0, shadow=0.25)
        end = 0.04 if kind in ("long", "puff", "3/4-length") else 0.012
        hem = [(out[0] - dx * end, out[1] - dy * end), (inner[0] - dx * end, inner[1] - dy * end)]
        hem = hem if side == 1 else _flip(hem)
        if ribs or cuff or kind == "puff":
            band = [*hem, *([inner, out] if side == 1 else _flip([inner, out]))]
            s.cloth(band, angle=-angle * side, ribs=2.0 if ribs else 0.3, shadow=0.12, relief=0.5)
        s.seams(hem, tone=0.8)


def _body(
    s: _Studio, row: Mapping[str, str], neck: Sequence[Point], y: float, shoulder: float,
    chest: float, waist: float, hem: float, bottom: float, **cloth: float,
) -> None:  # fmt: skip
    """The trunk of a top: shoulder, armhole, side, hem."""
    pit = y + 0.225
    if row["sleeve"] in ("sleeveless", "strappy"):
        arm = _curve([(shoulder * 0.82, y + 0.02), (shoulder * 0.74, y + 0.12), (chest, pit)])
    else:
        arm = _curve([(shoulder, y + 0.035), (shoulder * 0.97, y + 0.13), (chest, pit)])
    side = _curve([(chest, pit), (waist, pit + (bottom - pit) * 0.45), (hem, bottom - 0.008)])
    half = [*neck, *arm, *side, *_curve([(hem, bottom - 0.008), (hem * 0.5, bottom + 0.004),
                                         (0, bottom + 0.006)])]  # fmt: skip
    s.cloth(_both(half), part="front", **cloth)  # type: ignore[arg-type]


def _trim_neck(s: _Studio, neck: Sequence[Point], width: float = 0.016, tone: float = 0.86) -> None:
    s.lines([_both(neck)[: 2 * len(neck)], ], width, tone=tone)  # fmt: skip


def _front_details(s: _Studio, row: Mapping[str, str], y: float, bottom: float) -> None:
    if "chest pocket" in s.details:
        s.seams(_box(0.05, y + 0.20, 0.075, 0.085), tone=0.78)
    if "two chest pockets" in s.details:
        for x in (-0.125, 0.05):
            s.seams(_box(x, y + 0.20, 0.075, 0.085), [(x, y + 0.225), (x + 0.075, y + 0.225)])
    if "patch pockets" in s.details:
        for x in (-0.15, 0.045):
            s.seams(_box(x, bottom - 0.20, 0.105, 0.12), tone=0.75)
    if "flap pockets" in s.details:
        for side in (1, -1):
            flap = [(0.055, bottom - 0.21), (0.165, bottom - 0.215), (0.165, bottom - 0.17),
                    (0.055, bottom - 0.165)]  # fmt: skip
            s.cloth(flap if side == 1 else _flip(flap), shadow=0.35, relief=0.6)
    if "zip pockets" in s.details:
        for side in (1, -1):
            s.lines([[(side * 0.10, bottom - 0.20), (side * 0.14, bottom - 0.07)]], 0.010, tone=0.5)
    if "slits" in s.details:
        for side in (1, -1):
            s.lines([[(side * 0.17, bottom - 0.06), (side * 0.175, bottom)]], 0.010, tone=0.55)
    if "cable knit" in s.details:
        t = np.linspace(y + 0.14, bottom - 0.05, 60)
        for x in (-0.085, 0.0, 0.085):
            for sign in (1, -1):
                wave = [(x + sign * 0.017 * float(np.sin(v * 70)), float(v)) for v in t]
                s.seams(wave, tone=0.80)
    if "lace trim" in s.details or "gathers" in s.details:
        marks = [[(x, y + 0.235), (x + 0.006, y + 0.30)] for x in np.linspace(-0.14, 0.14, 15)]
        s.lines(marks, 0.005, tone=0.82)
    if "frill" in s.details:
        for side in (1, -1):
            t = np.linspace(y + 0.05, bottom - 0.12, 34)
            edge = [(side * (0.075 + 0.014 * float(np.sin(v * 75))), float(v)) for v in t]
            s.cloth([(side * 0.03, y + 0.06), *edge, (side * 0.03, bottom - 0.12)], shade=1.02,
                    folds=0.5, shadow=0.35)  # fmt: skip


def _box(x: float, y: float, w: float, h: float) -> list[Point]:
    return [(x, y), (x + w, y), (x + w, y + h * 0.85), (x + w / 2, y + h), (x, y + h * 0.85),
            (x, y)]  # fmt: skip


def _belt(s: _Studio, y: float, half: float, tail: float = 0.22) -> None:
    s.cloth([(-half, y - 0.02), (half, y - 0.02), (half, y + 0.02), (-half, y + 0.02)],
            pattern="solid", shade=0.9, shadow=0.3)  # fmt: skip
    for dx, length in ((0.05, tail), (-0.03, tail * 0.85)):
        s.cloth([(-0.014, y), (0.014, y), (dx + 0.02, y + length), (dx - 0.016, y + length)],
                pattern="solid", shade=0.96, shadow=0.35)  # fmt: skip
    for side in (1, -1):
        loop = _curve([(0, y), (side * 0.05, y - 0.035), (side * 0.085, y + 0.005),
                       (side * 0.045, y + 0.025), (0, y)])  # fmt: skip
        s.cloth(loop, pattern="solid", shade=1.0, shadow=0.35)
    s.cloth(_ring((0, y), 0.022), pattern="solid", shade=0.93, shadow=0.2)


def _collar(s: _Studio, row: Mapping[str, str], y: float, wide: float, reach: float = 0.0) -> None:
    """Collar, stand, lapels, hood or turtle neck laid over the finished body."""
    kind = row["neckline"]
    if kind == "collar":
        for side in (1, -1):
            leaf = [(0.004, y + 0.085), (wide * 0.55, y - 0.012), (wide + 0.006, y - 0.02),
                    (wide + 0.035, y + 0.05), (0.085, y + 0.135)]  # fmt: skip
            s.cloth(leaf if side == 1 else _flip(leaf), angle=side * 0.6, shadow=0.4, shade=1.02)
    elif kind == "stand-up collar":
        band = [(wide + 0.01, y), (wide - 0.012, y - 0.05), (-wide + 0.012, y - 0.05),
                (-wide - 0.01, y), (-0.01, y + 0.062), (0.01, y + 0.062)]  # fmt: skip
        s.cloth(_curve(band), shade=0.98, shadow=0.3)
        s.lines([[(0, y - 0.03), (0, y + 0.06)]], 0.010, tone=0.55)
    elif kind == "turtle neck":
        high = y - 0.085
        tube = [(wide + 0.012, y + 0.03), (wide - 0.008, high), (0, high - 0.012),
                (-wide + 0.008, high), (-wide - 0.012, y + 0.03), (0, y + 0.055)]  # fmt: skip
        s.cloth(_curve([*tube, tube[0]]), ribs=1.8, pattern="solid", shadow=0.35)
        s.seams([(-wide, y - 0.02), (0, y + 0.002), (wide, y - 0.02)], tone=0.85)
    elif kind == "lapels":
        for side in (1, -1):
            leaf = [(0.0, y + 0.31 + reach), (wide * 0.45, y - 0.01), (wide + 0.012, y - 0.03),
                    (wide + 0.05, y + 0.07), (wide + 0.025, y + 0.085), (wide + 0.06, y + 0.13)]  # fmt: skip
            s.cloth(leaf if side == 1 else _flip(leaf), angle=side * 0.5, shadow=0.42, shade=1.03)
    elif kind == "hood":
        hood = _curve([(0, y + 0.10), (wide + 0.03, y + 0.03), (wide + 0.045, y - 0.06),
                       (wide * 0.55, y - 0.125), (-wide * 0.55, y - 0.125),
                       (-wide - 0.045, y - 0.06), (-wide - 0.03, y + 0.03), (0, y + 0.10)])  # fmt: skip
        s.cloth(hood, shadow=0.35, shade=1.0)
        inside = _curve([(0, y + 0.085), (wide * 0.7, y + 0.0), (wide * 0.55, y - 0.07),
                         (-wide * 0.55, y - 0.07), (-wide * 0.7, y), (0, y + 0.085)])  # fmt: skip
        s.cloth(inside, shade=0.62, shadow=0.0, relief=0.6)


def _placket(s: _Studio, y: float, bottom: float, count: int, x: float = 0.0) -> None:
    s.seams([(x - 0.02, y), (x - 0.02, bottom)], [(x + 0.02, y), (x + 0.02, bottom)], tone=0.84)
    s.buttons([(x, float(v)) for v in np.linspace(y + 0.03, bottom - 0.06, count)])


def _paint_top(s: _Studio, row: Mapping[str, str]) -> None:
    kind = row["garment_type"]
    knit = kind in ("Sweater", "Cardigan", "Hoodie")
    heavy = kind in ("Jacket", "Coat", "Blazer", "Hoodie")
    fit = _FIT_WIDTH[row["fit"]]
    tall = {"cropped": 0.50, "regular": 0.64, "long": 0.76, "short": 0.80, "knee-length": 0.95,
            "calf-length": 1.10}[row["length"]]  # fmt: skip
    if kind == "Blazer":
        tall += 0.04
    y = 0.76 - tall / 2 + (0.03 if row["neckline"] in ("hood", "turtle neck") else 0.0)
    shoulder, chest = 0.188 * fit, 0.196 * fit
    waist, hem = chest * 0.965, chest * (1.0 if not heavy else 1.03)
    wide = {"turtle neck": 0.066, "hood": 0.085, "collar": 0.072, "square": 0.115,
            "lapels": 0.07, "stand-up collar": 0.07}.get(row["neckline"], 0.088)  # fmt: skip
    if kind == "Vest top":
        wide = 0.115 if row["sleeve"] == "strappy" else 0.095
        shoulder, waist = 0.165 * fit, chest * 0.93
        chest *= 0.9
        hem = chest * 1.03
    if tall > 0.8:
        hem = chest * 1.16
    bottom = y + tall
    neck = _neck(s, row, y, wide)
    if row["sleeve"] not in ("sleeveless", "strappy"):
        _sleeves(s, row, y, shoulder, chest, long=0.60 if tall > 0.55 else 0.56,
                 thick=1.12 if heavy else 1.0, ribs=knit, cuff=kind in ("Shirt", "Blouse"))  # fmt: skip
    strappy = row["sleeve"] == "strappy"
    if strappy:
        top = y + 0.13
        low = {"round": 0.06, "v-neck": 0.10, "square": 0.012}[row["neckline"]]
        neck = _curve([(0, top + low), (wide * 0.6, top + low * 0.55), (wide, top)])
        s.lines([[(side * wide, top + 0.01), (side * (wide - 0.02), y - 0.06)] for side in (1, -1)],
                0.013, colour=s.colour * 0.88)  # fmt: skip
        half = [*neck, *_curve([(wide, top), (chest * 0.86, y + 0.19), (chest, y + 0.235)]),
                *_curve([(chest, y + 0.235), (waist, (y + bottom) / 2), (hem, bottom)]),
                (0, bottom + 0.008)]  # fmt: skip
        s.cloth(_both(half), part="front", folds=0.35)
    else:
        rounded = kind in ("Shirt", "Blouse")
        _body(s, row, neck, y, shoulder, chest, waist, hem, bottom,
              ribs=0.7 if kind in ("Sweater", "Cardigan") else 0.0,
              folds=0.45 if rounded else 0.15 if heavy else 0.25,
              gloss=0.5 if row["pattern"] == "glitter" else 0.0)  # fmt: skip
    if row["neckline"] in ("round", "v-neck", "square") and kind != "Cardigan":
        _trim_neck(s, neck, 0.022 if kind == "Sweater" or "ribbed neckline" in s.details else 0.013)
    if (knit and kind != "Cardigan") or "ribbed hem" in s.details:
        s.cloth([(-hem, bottom - 0.055), (hem, bottom - 0.055), (hem * 0.96, bottom + 0.002),
                 (0, bottom + 0.014), (-hem * 0.96, bottom + 0.002)], ribs=2.2, relief=0.6,
                pattern="solid" if row["pattern"] == "printed" else None, shadow=0.15)  # fmt: skip
    else:
        s.seams([(-hem * 0.98, bottom - 0.025), (0, bottom - 0.014), (hem * 0.98, bottom - 0.025)],
                tone=0.84)  # fmt: skip
    if kind in ("Shirt", "Blouse"):
        start = y + {"collar": 0.09, "stand-up collar": 0.06, "v-neck": 0.19}.get(
            row["neckline"], 0.09)  # fmt: skip
        if kind == "Shirt" or "covered buttons" in s.details:
            _placket(s, start, bottom, 7 if kind == "Shirt" else 9)
    if kind == "Cardigan":
        deep = y + (0.19 if row["neckline"] == "v-neck" else 0.075)
        for side in (1, -1):
            s.lines([[(side * wide, y), (side * wide * 0.5, (y + deep) / 2), (0, deep),
                      (0, bottom)]], 0.022, tone=0.9)  # fmt: skip
        _placket(s, deep, bottom, 6)
    if kind in ("Jacket", "Coat", "Blazer"):
        double = "double-breasted" in s.details
        start = y + (0.31 if row["neckline"] == "lapels" else 0.10)
        s.seams([(0.012 if not double else 0.06, start), (0.012 if not double else 0.06, bottom)],
                tone=0.6)  # fmt: skip
        if kind == "Jacket":
            s.lines([[(0.0, start - 0.03), (0.0, bottom)]], 0.012, colour=np.float32([0.62] * 3))
        elif double:
            s.buttons([(x, start + d) for x in (-0.05, 0.05) for d in (0.02, 0.11)], 0.014)
        else:
            s.buttons([(0.0, start + 0.02 + d) for d in (0.0, 0.10, 0.20)[: 2 + (kind == "Coat")]],
                      0.014)  # fmt: skip
        if "quilting" in s.details:
            net = [[(-hem, v), (hem, v + 0.004)] for v in np.arange(y + 0.16, bottom - 0.03, 0.075)]
            s.seams(*net, tone=0.75)
        if row["pattern"] == "denim":
            _stitches(s, [[(-0.15, y + 0.19), (-0.03, y + 0.19)], [(0.03, y + 0.19),
                          (0.15, y + 0.19)], [(-hem, bottom - 0.04), (hem, bottom - 0.04)]])  # fmt: skip
    _front_details(s, row, y, bottom)
    if kind == "Hoodie":
        if "zip front" in s.details:
            s.lines([[(0, y + 0.08), (0, bottom)]], 0.012, colour=np.float32([0.7] * 3))
        else:
            s.seams([(-0.10, bottom - 0.24), (0.10, bottom - 0.24), (0.155, bottom - 0.07),
                     (-0.155, bottom - 0.07), (-0.10, bottom - 0.24)], tone=0.75)  # fmt: skip
    _collar(s, row, y, wide)
    if kind == "Hoodie" or "drawstring" in s.details:
        cords = [_curve([(side * 0.035, y + 0.075), (side * 0.045, y + 0.15),
                         (side * 0.04, y + 0.23)]) for side in (1, -1)]  # fmt: skip
        s.lines(cords, 0.011, tone=0.5, alpha=0.5)
        s.lines(cords, 0.009, colour=np.clip(s.colour * 0.4 + 0.55, 0, 1))
    if "tie" in s.details and kind == "Blouse":
        _bow(s, y + 0.10)
    if "tie belt" in s.details:
        _belt(s, y + 0.47, chest * 1.02)


def _bow(s: _Studio, y: float) -> None:
    for side in (1, -1):
        tail = _curve([(0, y), (side * 0.02, y + 0.09), (side * 0.035, y + 0.18)])
        s.lines([tail], 0.014, tone=0.6, alpha=0.6)
        s.lines([tail], 0.010, colour=s.colour * 0.9)


def _stitches(s: _Studio, shapes: Sequence[Sequence[Point]]) -> None:
    s.lines(shapes, 0.006, colour=np.float32([0.80, 0.58, 0.34]), alpha=0.8)


def _paint_dress(s: _Studio, row: Mapping[str, str]) -> None:
    fit = _FIT_WIDTH[row["fit"]]
    tall = {"short": 0.84, "knee-length": 1.02, "calf-length": 1.20}[row["length"]]
    y = 0.74 - tall / 2
    shoulder, chest, waist = 0.148 * fit, 0.150 * fit, 0.132 * fit
    flare = 0.215 if "pleats" in s.details or "flounce" in s.details else 0.185
    hem = flare * (0.75 + 0.25 * fit) * (0.92 + 0.12 * tall)
    bottom, middle = y + tall, y + 0.40
    wide = {"collar": 0.062, "square": 0.095}.get(row["neckline"], 0.078)
    strappy = row["sleeve"] == "strappy"
    if strappy:
        top, low = y + 0.12, {"round": 0.05, "v-neck": 0.10, "square": 0.01}.get(row["neckline"], 0)
        neck = _curve([(0, top + low), (0.055, top + low * 0.6), (0.098, top)])
        s.cloth(_both([(0, top + 0.015), (0.095, top + 0.004), (0.1, top + 0.09), (0, top + 0.12)]),
                shade=0.64, shadow=0.1)  # fmt: skip
        s.lines([[(side * 0.096, top + 0.01), (side * 0.08, y - 0.05)] for side in (1, -1)],
                0.012, colour=s.colour * 0.88)  # fmt: skip
        arm = _curve([(0.098, top), (chest * 0.88, y + 0.17), (chest, y + 0.20)])
    else:
        neck = _neck(s, row, y, wide)
        if row["sleeve"] in ("short", "long", "puff"):
            _sleeves(s, row, y, shoulder, chest, long=0.54, thick=0.88,
                     cuff=row["sleeve"] != "short")  # fmt: skip
        edge = 0.83 if row["sleeve"] == "sleeveless" else 1.0
        arm = _curve([(shoulder * edge, y + 0.03), (shoulder * edge * 0.96, y + 0.12),
                      (chest, y + 0.20)])  # fmt: skip
    wavy = [(float(x), bottom + 0.010 * float(np.sin(x * 70 + s.phase[5] * 6)) - abs(x) * 0.05)
            for x in np.linspace(hem, -hem, 26)]  # fmt: skip
    skirt = [(waist, middle - 0.012), *_curve([(waist, middle), (waist + (hem - waist) * 0.55,
             middle + (bottom - middle) * 0.42), (hem, bottom)])]  # fmt: skip
    s.cloth([*skirt, *wavy, *_flip(skirt)[::-1]], folds=1.25, part="lower")
    half = [*neck, *arm, *_curve([(chest, y + 0.20), (waist * 1.0, middle - 0.03),
                                  (waist, middle)]), (0, middle + 0.008)]  # fmt: skip
    s.cloth(_both(half), folds=0.3, shadow=0.18, part="front")
    s.seams([(-waist, middle), (0, middle + 0.008), (waist, middle)], tone=0.75)
    if row["neckline"] != "collar":
        _trim_neck(s, neck, 0.011)
    _collar(s, row, y, wide)
    if "flounce" in s.details:
        for part in (0.55, 0.80):
            v = middle + (bottom - middle) * part
            half_width = waist + (hem - waist) * (part * 0.96 + 0.05)
            s.seams([(-half_width, v - 0.004), (0, v + 0.008), (half_width, v - 0.004)], tone=0.68)
            ticks = [[(float(x), v + 0.008), (float(x) * 1.02, v + 0.05)]
                     for x in np.linspace(-half_width * 0.9, half_width * 0.9, 13)]  # fmt: skip
            s.lines(ticks, 0.005, tone=0.84)
    if "gathers" in s.details:
        rows = [[(-waist, middle + d), (waist, middle + d)] for d in (-0.06, -0.04, -0.02, 0.02)]
        s.lines(rows, 0.005, tone=0.80)
    if "pleats" in s.details:
        s.lines([[(float(x) * waist, middle + 0.01), (float(x) * hem, bottom - 0.01)]
                 for x in np.linspace(-0.85, 0.85, 9)], 0.007, tone=0.82)  # fmt: skip
    if "buttons" in s.details:
        s.buttons([(0.0, float(v)) for v in np.arange(y + 0.24, bottom - 0.08, 0.085)])
    if "tie belt" in s.details:
        _belt(s, middle, waist * 1.03)


def _legs(
    s: _Studio, y: float, crotch: float, bottom: float, waist: float, hip: float, cuff: float,
    gap: float, **cloth: float,
) -> None:  # fmt: skip
    """Two trouser legs and the seat."""
    for side in (-1, 1):
        lean = float(s.rng.normal(0, 0.006))
        outer = _curve([(waist, y), (hip, y + 0.16), (hip * 0.98 + gap * 0.3, (crotch + bottom) / 2),
                        (gap + 2 * cuff + lean, bottom)])  # fmt: skip
        inner = _curve([(gap + lean, bottom + 0.004), (gap * 0.7, (crotch + bottom) / 2),
                        (0.006, crotch), (-0.002, crotch)])  # fmt: skip
        leg = [*outer, *inner, (-0.004, y)]
        s.cloth(
            leg if side == 1 else _flip(leg),
            angle=-0.04 * side,
            folds=0.35,
            part="leg",
            shadow=0.24,
            **cloth,
        )  # type: ignore[arg-type]
        ends = [(gap + lean + 0.004, bottom - 0.028), (gap + 2 * cuff + lean, bottom - 0.03)]
        if "turn-ups" in s.details:
            band = [(gap + lean - 0.006, bottom - 0.055), (gap + 2 * cuff + lean + 0.006,
                    bottom - 0.057), (gap + 2 * cuff + lean + 0.006, bottom + 0.004),
                    (gap + lean - 0.006, bottom + 0.008)]  # fmt: skip
            s.cloth(band if side == 1 else _flip(band), shade=1.03, shadow=0.3, relief=0.6)
        else:
            s.seams(ends if side == 1 else _flip(ends), tone=0.82)


def _waistband(s: _Studio, row: Mapping[str, str], y: float, half: float) -> None:
    loose = bool({"elasticated waist", "drawstring", "tie belt"} & s.details)
    s.cloth([(-half, y - 0.005), (0, y + 0.006), (half, y - 0.005), (half, y + 0.045),
             (0, y + 0.055), (-half, y + 0.045)], ribs=1.8 if loose else 0.0, shadow=0.2,
            relief=0.6)  # fmt: skip
    s.cloth(_curve([(-half * 0.94, y - 0.004), (0, y - 0.014), (half * 0.94, y - 0.004),
                    (0, y + 0.007), (-half * 0.94, y - 0.004)]), shade=0.55, shadow=0.0,
            relief=0.2)  # fmt: skip
    if not loose:
        s.seams([(-half, y + 0.045), (0, y + 0.055), (half, y + 0.045)], tone=0.75)
        s.lines([[(x, y - 0.002), (x, y + 0.06)] for x in (-half * 0.6, half * 0.6)], 0.012,
                tone=0.85)  # fmt: skip
        s.buttons([(0.004, y + 0.028)], 0.010)
    if "drawstring" in s.details:
        for side in (1, -1):
            cord = _curve([(0, y + 0.03), (side * 0.02, y + 0.10), (side * 0.03, y + 0.19)])
            s.lines([cord], 0.010, colour=np.clip(s.colour * 0.4 + 0.5, 0, 1))
    if "tie belt" in s.details:
        _belt(s, y + 0.03, half * 1.02)


def _paint_bottoms(s: _Studio, row: Mapping[str, str]) -> None:
    short = row["garment_type"] == "Shorts"
    fit = {"slim": 0.82, "regular": 1.0, "relaxed": 1.18, "oversized": 1.34}[row["fit"]]
    tall = {"short": 0.44, "knee-length": 0.66, "cropped": 0.96, "ankle-length": 1.10,
            "full-length": 1.24}[row["length"]]  # fmt: skip
    y = 0.75 - tall / 2
    grow = 1.25 if short else 1.0
    waist, hip = 0.128 * grow, 0.156 * grow * (0.92 + 0.08 * fit)
    cuff = (0.078 * fit if short else 0.046 * fit) * grow
    gap = 0.022 if short else 0.030 / fit
    _legs(s, y, y + 0.29 * (0.96 if short else 1.0), y + tall, waist, hip, cuff, gap)
    fly = [(0.0, y + 0.05), (0.0, y + 0.28)]
    s.seams(fly, tone=0.7)
    pockets = [[(side * waist * 0.45, y + 0.055), (side * waist * 0.75, y + 0.115),
                (side * hip * 0.96, y + 0.125)] for side in (1, -1)]  # fmt: skip
    s.seams(*pockets, tone=0.72)
    if row["pattern"] == "denim":
        _stitches(s, [*pockets, [(0.03, y + 0.05), (0.028, y + 0.17), (0.0, y + 0.22)],
                      [(-waist, y + 0.012), (waist, y + 0.012)]])  # fmt: skip
    if "creases" in s.details:
        s.lines([[(side * (hip * 0.55), y + 0.14), (side * (gap + cuff), y + tall - 0.01)]
                 for side in (1, -1)], 0.009, tone=1.14)  # fmt: skip
    if "flap pockets" in s.details and not short:
        for side in (1, -1):
            flap = [(0.075, y + 0.50), (0.15, y + 0.50), (0.148, y + 0.545), (0.077, y + 0.545)]
            s.cloth(flap if side == 1 else _flip(flap), shadow=0.35)
            at = [(x, v + 0.045) for x, v in _box(0.08, y + 0.5, 0.066, 0.10)]
            s.seams(at if side == 1 else _flip(at), tone=0.78)
    _waistband(s, row, y, waist)


def _paint_jumpsuit(s: _Studio, row: Mapping[str, str]) -> None:
    tall = {"short": 0.86, "long": 1.26}[row["length"]]
    y = 0.77 - tall / 2
    middle = y + 0.37
    fit = _FIT_WIDTH[row["fit"]]
    waist, chest = 0.128, 0.146 * fit
    short = row["length"] == "short"
    _legs(s, middle, middle + 0.25, y + tall, waist, 0.165 * fit, 0.075 if short else 0.058, 0.02)
    wide = 0.098 if row["neckline"] == "square" else 0.078
    if row["sleeve"] == "strappy":
        top, low = y + 0.11, {"round": 0.05, "v-neck": 0.10, "square": 0.01}[row["neckline"]]
        s.cloth(_both([(0, top + 0.015), (0.095, top + 0.004), (0.1, top + 0.09), (0, top + 0.12)]),
                shade=0.64, shadow=0.1)  # fmt: skip
        neck = _curve([(0, top + low), (0.055, top + low * 0.6), (0.098, top)])
        s.lines([[(side * 0.096, top + 0.01), (side * 0.08, y - 0.05)] for side in (1, -1)],
                0.013, colour=s.colour * 0.88)  # fmt: skip
        arm = _curve([(0.098, top), (chest * 0.88, y + 0.16), (chest, y + 0.19)])
    else:
        neck = _neck(s, row, y, wide)
        edge = 0.83 if row["sleeve"] == "sleeveless" else 1.0
        if row["sleeve"] == "short":
            _sleeves(s, row, y, 0.146 * fit, chest, long=0.5, thick=0.9)
        arm = _curve([(0.146 * fit * edge, y + 0.03), (0.14 * fit * edge, y + 0.12),
                      (chest, y + 0.20)])  # fmt: skip
    half = [*neck, *arm, *_curve([(chest, y + 0.20), (waist * 1.02, middle - 0.04),
                                  (waist, middle + 0.01)]), (0, middle + 0.016)]  # fmt: skip
    s.cloth(_both(half), folds=0.3, shadow=0.2, part="front")
    _trim_neck(s, neck, 0.011)
    s.seams([(-waist, middle), (0, middle + 0.008), (waist, middle)], tone=0.7)
    s.seams([(0, middle + 0.01), (0, middle + 0.25)], tone=0.75)
    if "buttons" in s.details:
        s.buttons([(0.0, float(v)) for v in np.linspace(y + 0.22, middle - 0.03, 4)])
    if "gathers" in s.details:
        s.lines([[(-waist, middle + d), (waist, middle + d)] for d in (-0.04, -0.02, 0.025)], 0.006,
                tone=0.78)  # fmt: skip
    if "side pockets" in s.details:
        s.seams(*[[(side * 0.10, middle + 0.06), (side * 0.148, middle + 0.17)]
                  for side in (1, -1)], tone=0.68)  # fmt: skip
    if "tie belt" in s.details:
        _belt(s, middle, waist * 1.04)


def _paint_skirt(s: _Studio, row: Mapping[str, str]) -> None:
    tall = {"short": 0.52, "knee-length": 0.72, "calf-length": 0.98}[row["length"]]
    y = 0.75 - tall / 2
    full = {"slim": 1.12, "regular": 1.45, "relaxed": 1.8}[row["fit"]]
    full += 0.25 * ("pleats" in s.details)
    waist = 0.140
    hem = waist * (full + 0.12 * (tall - 0.5))
    bottom = y + tall
    side = _curve([(waist, y), (waist + (hem - waist) * 0.62 + 0.012, y + tall * 0.42),
                   (hem, bottom - 0.015)])  # fmt: skip
    wavy = [(float(x), bottom + 0.009 * full * float(np.sin(x * 60 + s.phase[5] * 6))
             - 0.25 * x * x) for x in np.linspace(hem, -hem, 30)]  # fmt: skip
    s.cloth([*side, *wavy, *_flip(side)[::-1]], folds=0.9 * full - 0.6, part="lower")
    if "pleats" in s.details:
        s.lines([[(float(x) * waist, y + 0.05), (float(x) * hem, bottom - 0.01)]
                 for x in np.linspace(-0.88, 0.88, 11)], 0.008, tone=0.78)  # fmt: skip
    if "flounce" in s.details:
        v = bottom - 0.17
        at = waist + (hem - waist) * 0.82
        s.seams([(-at, v - 0.02), (0, v), (at, v - 0.02)], tone=0.66)
        s.lines([[(float(x) * at, v), (float(x) * at * 1.04, v + 0.06)]
                 for x in np.linspace(-0.9, 0.9, 15)], 0.006, tone=0.82)  # fmt: skip
    if "slit" in s.details:
        s.cloth([(0.07, bottom - tall * 0.4), (0.095, bottom + 0.004), (0.06, bottom + 0.004)],
                shade=0.5, shadow=0.0)  # fmt: skip
    if "buttons" in s.details:
        s.seams([(-0.022, y + 0.05), (-0.022, bottom - 0.01)], tone=0.8)
        s.buttons([(0.0, float(v)) for v in np.arange(y + 0.09, bottom - 0.03, 0.085)], 0.012)
    if row["pattern"] == "denim":
        _stitches(s, [[(-hem * 0.97, bottom - 0.035), (0, bottom - 0.02),
                       (hem * 0.97, bottom - 0.035)]])  # fmt: skip
    else:
        s.seams([(-hem * 0.97, bottom - 0.04), (0, bottom - 0.022), (hem * 0.97, bottom - 0.04)],
                tone=0.85)  # fmt: skip
    _waistband(s, row, y, waist)


def _paint_bag(s: _Studio, row: Mapping[str, str]) -> None:
    big = row["length"] == "large"
    w, h = (0.29, 0.42) if big else (0.23, 0.28)
    y = 0.78 if big else 0.84
    metal = np.float32([0.83, 0.70, 0.42])
    arc = _curve([(-w * 0.72, y + 0.02), (-w * 0.58, y - 0.28), (0, y - 0.40), (w * 0.58, y - 0.28),
                  (w * 0.72, y + 0.02)])  # fmt: skip
    if "chain strap" in s.details:
        s.lines([arc], 0.020, tone=0.7)
        for i in range(0, len(arc) - 2, 2):
            s.lines([arc[i : i + 2]], 0.014, colour=metal)
    else:
        s.lines([[(x + 0.012, v + 0.012) for x, v in arc]], 0.034, tone=0.82)
        s.lines([arc], 0.030, colour=s.colour * 0.72)
        s.lines([[(x - 0.004, v - 0.004) for x, v in arc]], 0.010, colour=s.colour * 0.8 + 0.12)
    body = _both([(0, y), (w * 0.90, y), (w * 0.90, y), *_curve([(w * 0.93, y + 0.02),
                 (w * 1.03, y + h * 0.8), (w * 0.97, y + h), (0, y + h + 0.012)])])  # fmt: skip
    s.cloth(body, gloss=0.5, relief=1.3, part="front")
    s.lines([_both([(0, y + 0.018), (w * 0.88, y + 0.018), (w * 0.98, y + h * 0.8),
                    (w * 0.92, y + h - 0.02), (0, y + h - 0.008)])], 0.005, tone=0.8)  # fmt: skip
    if "flap" in s.details or not big:
        flap = _both([(0, y - 0.012), (w * 0.93, y - 0.012), *_curve([(w * 0.96, y),
                     (w * 0.95, y + h * 0.36), (w * 0.7, y + h * 0.50), (0, y + h * 0.56)])])  # fmt: skip
        s.cloth(flap, gloss=0.6, shadow=0.45, shade=1.02)
    if "zip pocket" in s.details:
        s.lines([[(-w * 0.6, y + h * 0.72), (w * 0.6, y + h * 0.72)]], 0.013, colour=metal * 0.9)
    if "metal clasp" in s.details or "flap" in s.details:
        s.cloth(_ring((0, y + h * 0.52), 0.028), colour=metal, pattern="solid", gloss=1.0)
    s.lines([_ring((side * w * 0.72, y + 0.01), 0.022) for side in (1, -1)], 0.010, colour=metal)


def _shoe(points: Sequence[Point], dx: float, dy: float, size: float) -> list[Point]:
    return [(x * size + dx, y * size + dy) for x, y in points]


def _paint_sneakers(s: _Studio, row: Mapping[str, str]) -> None:
    high = row["length"] == "high"
    thick = 0.085 if "chunky soles" in s.details else 0.055
    white = np.float32([0.93, 0.92, 0.90])
    rise = 0.20 if high else 0.0
    for dx, dy, size in ((0.05, 0.56, 0.92), (-0.035, 0.93, 1.0)):
        at = lambda points, dx=dx, dy=dy, size=size: _shoe(points, dx, dy, size)  # noqa: E731
        upper = _curve([(-0.33, 0.06), (-0.335, -0.06), (-0.31, -0.16 - rise), (-0.31, -0.16 - rise),
                        (-0.20, -0.12 - rise), (-0.12, -0.17 - rise), (-0.12, -0.17 - rise),
                        (-0.02, -0.09 - rise * 0.4), (0.12, -0.02), (0.28, 0.015), (0.335, 0.07),
                        (0.335, 0.10), (0.335, 0.10), (-0.33, 0.10)])  # fmt: skip
        s.cloth(at(_curve([(-0.3, -0.15 - rise), (-0.2, -0.18 - rise), (-0.13, -0.16 - rise),
                           (-0.2, -0.08 - rise), (-0.3, -0.15 - rise)])), shade=0.5)  # fmt: skip
        s.cloth(at(upper), relief=1.3, gloss=0.3, part="front")
        toe = _curve([(0.17, 0.10), (0.16, 0.03), (0.22, 0.0), (0.30, 0.022), (0.335, 0.10)])
        s.seams(at(toe[:15]), at(_curve([(-0.22, 0.10), (-0.20, -0.02), (-0.24, -0.12 - rise)])))
        sole = _curve([(-0.345, 0.08), (-0.345, 0.08), (-0.10, 0.095), (0.20, 0.095), (0.345, 0.07),
                       (0.35, 0.09 + thick * 0.6), (0.30, 0.08 + thick), (-0.30, 0.08 + thick),
                       (-0.35, 0.09 + thick * 0.6), (-0.345, 0.08)])  # fmt: skip
        s.cloth(at(sole), colour=white, pattern="solid", shadow=0.38, relief=0.8)
        s.lines([at([(-0.335, 0.115), (0.33, 0.11)])], 0.007, tone=0.85)
        if "side stripe" in s.details:
            s.lines([at([(-0.14, 0.08), (0.01, -0.05)]), at([(-0.08, 0.085), (0.05, -0.025)])],
                    0.024, colour=s.accent)  # fmt: skip
        if "heel tab" in s.details:
            s.cloth(at([(-0.335, -0.13 - rise), (-0.285, -0.13 - rise), (-0.285, 0.0),
                        (-0.335, 0.0)]), colour=s.accent, pattern="solid")  # fmt: skip
        count = 6 if high else 4
        for i in range(count):
            part = i / (count - 1)
            x = -0.10 + 0.20 * part
            v = (-0.125 - rise * 0.85) * (1 - part) + -0.015 * part
            s.lines([at([(x - 0.045, v + 0.035), (x + 0.035, v - 0.02)])], 0.017, colour=white)


def _paint_boots(s: _Studio, row: Mapping[str, str]) -> None:
    tall = row["length"] == "knee-high"
    top = -0.66 if tall else -0.30
    heel = 0.11 if "block heels" in s.details else 0.06
    size = 0.84 if tall else 1.0
    sole = s.colour * 0.45
    for dx, dy in ((0.13, 0.86 if tall else 0.74), (-0.10, 0.97 if tall else 0.90)):
        at = lambda points, dx=dx, dy=dy: _shoe(points, dx, dy + (0.16 if tall else 0), size)  # noqa: E731
        s.cloth(at(_curve([(-0.18, top), (-0.09, top - 0.022), (0.0, top), (-0.09, top + 0.03),
                           (-0.18, top)])), shade=0.45)  # fmt: skip
        s.cloth(at([(-0.19, 0.04), (-0.06, 0.06), (-0.075, 0.06 + heel), (-0.18, 0.06 + heel)]),
                colour=sole, pattern="solid")  # fmt: skip
        shape = _curve([(-0.185, top), (-0.185, top), (-0.09, top + 0.022), (0.0, top), (0.0, top),
                        (0.015, top * 0.5), (0.01, -0.13), (0.09, -0.045), (0.21, -0.01),
                        (0.265, 0.05), (0.26, 0.09), (0.26, 0.09), (0.02, 0.075), (-0.19, 0.075),
                        (-0.19, 0.075), (-0.20, -0.05), (-0.18, top * 0.5), (-0.185, top)])  # fmt: skip
        s.cloth(at(shape), gloss=0.7, relief=1.5, part="front")
        s.cloth(at([(-0.195, 0.068), (0.02, 0.066), (0.265, 0.078), (0.262, 0.11), (0.03, 0.10),
                    (-0.06, 0.10), (-0.19, 0.09)]), colour=sole, pattern="solid", relief=0.5)  # fmt: skip
        if "elastic gores" in s.details:
            gore = [(-0.125, top + 0.03), (-0.045, top + 0.03), (-0.07, -0.06), (-0.10, -0.06)]
            s.cloth(at(gore), shade=0.8, ribs=2.0, pattern="solid", shadow=0.1)
        elif "lacing" in s.details:
            for v in np.linspace(top * 0.8 if not tall else -0.34, -0.10, 5):
                s.lines([at([(-0.045, float(v)), (0.018, float(v) + 0.02)])], 0.013,
                        colour=np.clip(s.colour * 0.5 + 0.35, 0, 1))  # fmt: skip
        else:
            s.seams(at([(-0.09, 0.06), (-0.10, -0.06), (-0.095, top + 0.03)]), tone=0.7)


def _paint_hat(s: _Studio, row: Mapping[str, str]) -> None:
    y, w = 0.56, 0.27
    base = y + 0.44
    dome = _both([(0, y), *_curve([(0.03, y), (w * 0.62, y + 0.06), (w * 0.97, y + 0.24),
                                   (w, base)]), (0, base + 0.02)])  # fmt: skip
    if "pompom" in s.details:
        for k in range(26):
            a, r = s.rng.random() * 6.28, 0.055 * s.rng.random() ** 0.5
            s.cloth(_ring((r * float(np.cos(a)), y - 0.055 + r * float(np.sin(a))), 0.035, 8),
                    pattern="solid", shade=0.86 + 0.012 * k, shadow=0.12)  # fmt: skip
    s.cloth(dome, ribs=1.9, relief=1.5, part="front")
    wedges = [_curve([(0, y + 0.01), (x * 0.75, y + 0.15), (x, base)])
              for x in (-w * 0.6, -w * 0.22, w * 0.22, w * 0.6)]  # fmt: skip
    s.lines(wedges, 0.006, tone=0.86)
    if "cable knit" in s.details:
        t = np.linspace(y + 0.08, base, 50)
        for x in (-0.12, 0.0, 0.12):
            s.seams(*[[(x * (0.55 + 0.45 * (float(v) - y) / 0.44) + k * 0.02
                        * float(np.sin(v * 65)), float(v)) for v in t] for k in (1, -1)], tone=0.8)  # fmt: skip
    deep = 0.15 if "turn-up" in s.details else 0.075
    band = [(-w * 1.03, base - 0.03), (0, base - 0.012), (w * 1.03, base - 0.03),
            (w * 1.02, base + deep - 0.03), (0, base + deep), (-w * 1.02, base + deep - 0.03)]  # fmt: skip
    s.cloth(band, ribs=2.6, relief=0.9, shadow=0.4,
            pattern=None if row["pattern"] == "melange" else "solid",
            colour=s.accent if row["pattern"] == "colour-block" else None)  # fmt: skip


def _paint_scarf(s: _Studio, row: Mapping[str, str]) -> None:
    low = 1.20
    ends = (((-0.13, 0.52), (-0.02, 0.55), -0.16, 0.02), ((0.02, 0.50), (0.14, 0.50), 0.19, -0.05))
    for (left, right, lean, more), turn in zip(ends, (0.06, -0.1), strict=True):
        bottom = low + more
        a, b = (left[0] + lean * 0.3, bottom), (right[0] + lean * 0.3 + 0.02, bottom - 0.015)
        if "raw edges" not in s.details:
            fringe = [[(a[0] + (b[0] - a[0]) * k, a[1] - 0.01),
                       (a[0] + (b[0] - a[0]) * k + float(s.rng.normal(0, 0.008)), a[1] + 0.085)]
                      for k in np.linspace(0.03, 0.97, 11)]  # fmt: skip
            s.lines(fringe, 0.011, colour=s.colour * 0.82)
        s.cloth([left, right, *_curve([right, (right[0] + lean * 0.12 + 0.015, 0.85), b]),
                 *_curve([a, (left[0] + lean * 0.12 - 0.01, 0.85), left])], angle=turn, folds=0.8)  # fmt: skip
    loop = _curve([(0, 0.24), (0.20, 0.27), (0.27, 0.40), (0.19, 0.55), (0, 0.63), (-0.19, 0.56),
                   (-0.27, 0.41), (-0.20, 0.27), (0, 0.24)])  # fmt: skip
    s.cloth(loop, folds=0.4, relief=1.6, shadow=0.42, angle=0.25)
    hole = _curve([(0, 0.31), (0.12, 0.32), (0.15, 0.38), (0, 0.44), (-0.15, 0.385), (-0.12, 0.32),
                   (0, 0.31)])  # fmt: skip
    s.cloth(hole, shade=0.55, shadow=0.0, relief=0.5)
    creases = [_curve([(-0.24, 0.45 + d), (0, 0.52 + d), (0.24, 0.44 + d)]) for d in (-0.02, 0.045)]
    s.seams(*creases, tone=0.8, width=0.010)


_PAINTERS: dict[str, Callable[[_Studio, Mapping[str, str]], None]] = {
    "T-shirt": _paint_top,
    "Vest top": _paint_top,
    "Blouse": _paint_top,
    "Shirt": _paint_top,
    "Sweater": _paint_top,
    "Cardigan": _paint_top,
    "Hoodie": _paint_top,
    "Jacket": _paint_top,
    "Blazer": _paint_top,
    "Coat": _paint_top,
    "Dress": _paint_dress,
    "Jumpsuit/Playsuit": _paint_jumpsuit,
    "Skirt": _paint_skirt,
    "Trousers": _paint_bottoms,
    "Shorts": _paint_bottoms,
    "Bag": _paint_bag,
    "Sneakers": _paint_sneakers,
    "Boots": _paint_boots,
    "Hat/beanie": _paint_hat,
    "Scarf": _paint_scarf,
}
