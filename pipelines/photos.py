"""One photo of a drawn garment: `draw_photo`, and how each product type is cut and sewn."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from PIL import Image

from pipelines.studio import Point, Studio, both, curve, flip, rgb, ring


def draw_photo(
    trait_row: Mapping[str, object], seed: int, size: tuple[int, int] = (128, 192)
) -> Image.Image:
    """One lay-down photo (RGB, `size` = width, height in pixels) of a row of `traits`.

    Depends on the visible traits, and on `article_id` and `seed` for pose, light and background.
    """
    row = {key: str(value) for key, value in trait_row.items()}
    entropy = zlib.crc32(row["article_id"].encode())
    studio = Studio(np.random.default_rng([seed, entropy]), row, size)
    _PAINTERS[row["garment_type"]](studio, row)
    return studio.photo()


_FIT_WIDTH = {"slim": 0.93, "regular": 1.0, "relaxed": 1.06, "oversized": 1.12}


def _neck(s: Studio, row: Mapping[str, str], y: float, wide: float) -> list[Point]:
    """Paint the inside of the back and return the front neckline, centre to shoulder."""
    depth = {"round": 0.075, "v-neck": 0.19, "square": 0.115, "turtle neck": 0.02, "hood": 0.07,
             "collar": 0.09, "stand-up collar": 0.06, "lapels": 0.30}[row["neckline"]]  # fmt: skip
    back = curve([(-wide, y), (-wide * 0.5, y + 0.022), (wide * 0.5, y + 0.022), (wide, y)])
    s.cloth([*back, (wide * 0.8, y + depth + 0.02), (0, y + depth + 0.045),
             (-wide * 0.8, y + depth + 0.02)], shade=0.66, shadow=0.1, relief=0.4)  # fmt: skip
    s.lines([[(-0.012, y + 0.036), (0.012, y + 0.036)]], 0.012, tone=0.5)
    if row["neckline"] in ("collar", "lapels"):
        stand = curve([(-wide - 0.012, y + 0.004), (-wide * 0.8, y - 0.030), (0, y - 0.040),
                        (wide * 0.8, y - 0.030), (wide + 0.012, y + 0.004)])  # fmt: skip
        s.cloth([*stand, (0, y + 0.03)], shade=0.94, shadow=0.2, relief=0.6)
    if row["neckline"] in ("v-neck", "lapels"):
        return [(0, y + depth), (wide * 0.55, y + depth * 0.45), (wide, y)]
    if row["neckline"] == "square":
        return [(0, y + depth), (wide * 0.88, y + depth - 0.004), (wide, y)]
    return curve([(0, y + depth), (wide * 0.62, y + depth * 0.78), (wide * 0.96, y + 0.02),
                   (wide, y)])  # fmt: skip


def _straps(s: Studio, row: Mapping[str, str], top: float, wide: float, high: float) -> list[Point]:
    """Paint shoulder straps and the back edge; return the front edge, centre to strap."""
    low = {"round": 0.05, "v-neck": 0.10}.get(row["neckline"], 0.01)
    s.cloth(both([(0, top + 0.022), (wide * 0.97, top + 0.006), (wide, top + 0.09),
                   (0, top + 0.13)]), shade=0.64, shadow=0.1)  # fmt: skip
    s.lines([[(side * (wide - 0.004), top + 0.012), (side * (wide - 0.022), high)]
             for side in (1, -1)], 0.013, colour=s.colour * 0.88)  # fmt: skip
    if row["neckline"] == "v-neck":
        return [(0, top + low), (wide * 0.55, top + low * 0.42), (wide, top)]
    return curve([(0, top + low), (wide * 0.6, top + low * 0.62), (wide, top)])


def _sleeves(
    s: Studio, row: Mapping[str, str], y: float, shoulder: float, chest: float, *, long: float,
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
        top, pit = (shoulder - 0.025, y + 0.038), (chest - 0.015, y + 0.235)
        out = (top[0] + dx * length, top[1] + dy * length)
        inner = (out[0] - dy * width, out[1] + dx * width * 0.9)
        bulge = 0.075 if kind == "puff" else 0.022
        round_off = (top[0] + 0.028 + 0.4 * dx * 0.1 + bulge * 0.2, top[1] + 0.03)
        outer = [
            top,
            round_off,
            (top[0] + dx * length * 0.3 + bulge, top[1] + dy * length * 0.28),
            (top[0] + dx * length * 0.72 + bulge, top[1] + dy * length * 0.72),
            out,
        ]
        lower = [inner, (inner[0] * 0.6 + pit[0] * 0.4 + (0.03 if kind == "puff" else 0.004),
                         inner[1] * 0.6 + pit[1] * 0.4), pit]  # fmt: skip
        shape = [*curve(outer), *curve(lower), (shoulder * 0.6, y + 0.12)]
        at = shape if side == 1 else flip(shape)
        s.cloth(at, angle=-angle * side, shade=0.96, ribs=0.8 if ribs else 0.0, shadow=0.25)
        end = 0.04 if kind in ("long", "puff", "3/4-length") else 0.012
        hem = [(out[0] - dx * end, out[1] - dy * end), (inner[0] - dx * end, inner[1] - dy * end)]
        hem = hem if side == 1 else flip(hem)
        if ribs or cuff or kind == "puff":
            band = [*hem, *([inner, out] if side == 1 else flip([inner, out]))]
            s.cloth(band, angle=-angle * side, ribs=2.0 if ribs else 0.3, shadow=0.12, relief=0.5)
        s.seams(hem, tone=0.8)


def _body(
    s: Studio, row: Mapping[str, str], neck: Sequence[Point], y: float, shoulder: float,
    chest: float, waist: float, hem: float, bottom: float,
    *, ribs: float = 0.0, folds: float = 0.0, gloss: float = 0.0,
) -> None:  # fmt: skip
    """The trunk of a top: shoulder, armhole, side, hem."""
    pit = y + 0.225
    if row["sleeve"] in ("sleeveless", "strappy"):
        arm = curve([(shoulder * 0.82, y + 0.02), (shoulder * 0.74, y + 0.12), (chest, pit)])
    else:
        arm = curve(
            [
                (shoulder - 0.016, y + 0.036),
                (shoulder, y + 0.062),
                (shoulder * 0.97, y + 0.14),
                (chest, pit),
            ]
        )
    side = curve([(chest, pit), (waist, pit + (bottom - pit) * 0.45), (hem, bottom - 0.008)])
    half = [*neck, *arm, *side, *curve([(hem, bottom - 0.008), (hem * 0.5, bottom + 0.004),
                                         (0, bottom + 0.006)])]  # fmt: skip
    s.cloth(both(half), part="front", ribs=ribs, folds=folds, gloss=gloss)


def _trim_neck(s: Studio, neck: Sequence[Point], width: float = 0.016, tone: float = 0.86) -> None:
    s.lines([[*flip(neck)[::-1], *neck]], width, tone=tone)


def _front_details(s: Studio, row: Mapping[str, str], y: float, bottom: float) -> None:
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
            s.cloth(flap if side == 1 else flip(flap), shadow=0.35, relief=0.6)
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


def _belt(s: Studio, y: float, half: float, tail: float = 0.22) -> None:
    s.cloth([(-half, y - 0.02), (half, y - 0.02), (half, y + 0.02), (-half, y + 0.02)],
            pattern="solid", shade=0.9, shadow=0.3)  # fmt: skip
    for dx, length in ((0.05, tail), (-0.03, tail * 0.85)):
        s.cloth([(-0.014, y), (0.014, y), (dx + 0.02, y + length), (dx - 0.016, y + length)],
                pattern="solid", shade=0.96, shadow=0.35)  # fmt: skip
    for side in (1, -1):
        loop = curve([(0, y), (side * 0.05, y - 0.035), (side * 0.085, y + 0.005),
                       (side * 0.045, y + 0.025), (0, y)])  # fmt: skip
        s.cloth(loop, pattern="solid", shade=1.0, shadow=0.35)
    s.cloth(ring((0, y), 0.022), pattern="solid", shade=0.93, shadow=0.2)


def _collar(s: Studio, row: Mapping[str, str], y: float, wide: float, reach: float = 0.0) -> None:
    """Collar, stand, lapels, hood or turtle neck laid over the finished body."""
    kind = row["neckline"]
    if kind == "collar":
        for side in (1, -1):
            leaf = [(0.004, y + 0.085), (wide * 0.55, y - 0.012), (wide + 0.006, y - 0.02),
                    (wide + 0.035, y + 0.05), (0.085, y + 0.135)]  # fmt: skip
            s.cloth(leaf if side == 1 else flip(leaf), angle=side * 0.6, shadow=0.4, shade=1.02)
    elif kind == "stand-up collar":
        band = [(wide + 0.01, y), (wide - 0.012, y - 0.05), (-wide + 0.012, y - 0.05),
                (-wide - 0.01, y), (-0.01, y + 0.062), (0.01, y + 0.062)]  # fmt: skip
        s.cloth(curve(band), shade=0.98, shadow=0.3)
        s.lines([[(0, y - 0.03), (0, y + 0.06)]], 0.010, tone=0.55)
    elif kind == "turtle neck":
        high = y - 0.085
        tube = [(wide + 0.012, y + 0.03), (wide - 0.008, high), (0, high - 0.012),
                (-wide + 0.008, high), (-wide - 0.012, y + 0.03), (0, y + 0.055)]  # fmt: skip
        s.cloth(curve([*tube, tube[0]]), ribs=1.8, pattern="solid", shadow=0.35)
        s.seams([(-wide, y - 0.02), (0, y + 0.002), (wide, y - 0.02)], tone=0.85)
    elif kind == "lapels":
        for side in (1, -1):
            leaf = [
                (0.0, y + 0.31 + reach),
                (wide * 0.45, y - 0.01),
                (wide + 0.012, y - 0.03),
                (wide + 0.05, y + 0.07),
                (wide + 0.025, y + 0.085),
                (wide + 0.06, y + 0.13),
            ]
            s.cloth(leaf if side == 1 else flip(leaf), angle=side * 0.5, shadow=0.42, shade=1.03)
    elif kind == "hood":
        hood = curve(
            [
                (0, y + 0.10),
                (wide + 0.03, y + 0.03),
                (wide + 0.045, y - 0.06),
                (wide * 0.55, y - 0.125),
                (-wide * 0.55, y - 0.125),
                (-wide - 0.045, y - 0.06),
                (-wide - 0.03, y + 0.03),
                (0, y + 0.10),
            ]
        )
        s.cloth(hood, shadow=0.35, shade=1.0)
        inside = curve([(0, y + 0.085), (wide * 0.7, y + 0.0), (wide * 0.55, y - 0.07),
                         (-wide * 0.55, y - 0.07), (-wide * 0.7, y), (0, y + 0.085)])  # fmt: skip
        s.cloth(inside, shade=0.62, shadow=0.0, relief=0.6)


def _placket(s: Studio, y: float, bottom: float, count: int, x: float = 0.0) -> None:
    s.seams([(x - 0.02, y), (x - 0.02, bottom)], [(x + 0.02, y), (x + 0.02, bottom)], tone=0.84)
    s.buttons([(x, float(v)) for v in np.linspace(y + 0.03, bottom - 0.06, count)])


def _paint_top(s: Studio, row: Mapping[str, str]) -> None:
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
    strappy = row["sleeve"] == "strappy"
    neck = [] if strappy else _neck(s, row, y, wide)
    if row["sleeve"] not in ("sleeveless", "strappy"):
        _sleeves(
            s,
            row,
            y,
            shoulder,
            chest,
            long=0.60 if tall > 0.55 else 0.56,
            thick=1.12 if heavy else 1.0,
            ribs=knit,
            cuff=kind in ("Shirt", "Blouse"),
        )
    if strappy:
        top = y + 0.13
        neck = _straps(s, row, top, wide, y - 0.06)
        half = [*neck, *curve([(wide, top), (chest * 0.86, y + 0.19), (chest, y + 0.235)]),
                *curve([(chest, y + 0.235), (waist, (y + bottom) / 2), (hem, bottom)]),
                (0, bottom + 0.008)]  # fmt: skip
        s.cloth(both(half), part="front", folds=0.35)
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
            s.lines([[(0.0, start - 0.03), (0.0, bottom)]], 0.012, colour=rgb(0.62, 0.62, 0.62))
        elif double:
            s.buttons([(x, start + d) for x in (-0.05, 0.05) for d in (0.02, 0.11)], 0.014)
        else:
            s.buttons([(0.0, start + 0.02 + d) for d in (0.0, 0.10, 0.20)[: 2 + (kind == "Coat")]],
                      0.014)  # fmt: skip
        if "quilting" in s.details:
            net = [[(-hem, v), (hem, v + 0.004)] for v in np.arange(y + 0.16, bottom - 0.03, 0.075)]
            s.seams(*net, tone=0.75)
        if row["pattern"] == "denim":
            _stitches(
                s,
                [
                    [(-0.15, y + 0.19), (-0.03, y + 0.19)],
                    [(0.03, y + 0.19), (0.15, y + 0.19)],
                    [(-hem, bottom - 0.04), (hem, bottom - 0.04)],
                ],
            )
    _front_details(s, row, y, bottom)
    if kind == "Hoodie":
        if "zip front" in s.details:
            s.lines([[(0, y + 0.08), (0, bottom)]], 0.012, colour=rgb(0.7, 0.7, 0.7))
        else:
            s.seams([(-0.10, bottom - 0.24), (0.10, bottom - 0.24), (0.155, bottom - 0.07),
                     (-0.155, bottom - 0.07), (-0.10, bottom - 0.24)], tone=0.75)  # fmt: skip
    _collar(s, row, y, wide)
    if kind == "Hoodie" or "drawstring" in s.details:
        cords = [curve([(side * 0.035, y + 0.075), (side * 0.045, y + 0.15),
                         (side * 0.04, y + 0.23)]) for side in (1, -1)]  # fmt: skip
        s.lines(cords, 0.011, tone=0.5, alpha=0.5)
        s.lines(cords, 0.009, colour=np.clip(s.colour * 0.4 + 0.55, 0, 1))
    if "tie" in s.details and kind == "Blouse":
        _bow(s, y + 0.10)
    if "tie belt" in s.details:
        _belt(s, y + 0.47, chest * 1.02)


def _bow(s: Studio, y: float) -> None:
    for side in (1, -1):
        tail = curve([(0, y), (side * 0.02, y + 0.09), (side * 0.035, y + 0.18)])
        s.lines([tail], 0.014, tone=0.6, alpha=0.6)
        s.lines([tail], 0.010, colour=s.colour * 0.9)


def _stitches(s: Studio, shapes: Sequence[Sequence[Point]]) -> None:
    s.lines(shapes, 0.006, colour=rgb(0.80, 0.58, 0.34), alpha=0.8)


def _paint_dress(s: Studio, row: Mapping[str, str]) -> None:
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
        top = y + 0.12
        neck = _straps(s, row, top, 0.098, y - 0.05)
        arm = curve([(0.098, top), (chest * 0.88, y + 0.17), (chest, y + 0.20)])
    else:
        neck = _neck(s, row, y, wide)
        if row["sleeve"] in ("short", "long", "puff"):
            _sleeves(s, row, y, shoulder, chest, long=0.54, thick=0.88,
                     cuff=row["sleeve"] != "short")  # fmt: skip
        edge = 0.83 if row["sleeve"] == "sleeveless" else 1.0
        arm = curve([(shoulder * edge, y + 0.03), (shoulder * edge * 0.96, y + 0.12),
                      (chest, y + 0.20)])  # fmt: skip
    wavy = [(float(x), bottom + 0.006 * float(np.sin(x * 48 + s.phase[5] * 6)) - 0.3 * x * x)
            for x in np.linspace(hem, -hem, 60)]  # fmt: skip
    skirt = [(waist, middle - 0.012), *curve([(waist, middle), (waist + (hem - waist) * 0.55,
             middle + (bottom - middle) * 0.42), (hem, bottom)])]  # fmt: skip
    s.cloth([*skirt, *wavy, *flip(skirt)[::-1]], folds=1.25, part="lower")
    half = [*neck, *arm, *curve([(chest, y + 0.20), (waist * 1.0, middle - 0.03),
                                  (waist, middle)]), (0, middle + 0.008)]  # fmt: skip
    s.cloth(both(half), folds=0.3, shadow=0.18, part="front")
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
    s: Studio, y: float, crotch: float, bottom: float, waist: float, hip: float, cuff: float,
    gap: float,
) -> None:  # fmt: skip
    """Two trouser legs and the seat."""
    for side in (-1, 1):
        lean = float(s.rng.normal(0, 0.006))
        outer = curve([(waist, y), (hip, y + 0.16), (hip * 0.98 + gap * 0.3, (crotch + bottom) / 2),
                        (gap + 2 * cuff + lean, bottom)])  # fmt: skip
        inner = curve([(gap + lean, bottom + 0.004), (gap * 0.7, (crotch + bottom) / 2),
                        (0.006, crotch), (-0.002, crotch)])  # fmt: skip
        leg = [*outer, *inner, (-0.004, y)]
        s.cloth(
            leg if side == 1 else flip(leg),
            angle=-0.04 * side,
            folds=0.35,
            part="leg",
            shadow=0.24,
        )
        ends = [(gap + lean + 0.004, bottom - 0.028), (gap + 2 * cuff + lean, bottom - 0.03)]
        if "turn-ups" in s.details:
            band = [(gap + lean - 0.006, bottom - 0.055), (gap + 2 * cuff + lean + 0.006,
                    bottom - 0.057), (gap + 2 * cuff + lean + 0.006, bottom + 0.004),
                    (gap + lean - 0.006, bottom + 0.008)]  # fmt: skip
            s.cloth(band if side == 1 else flip(band), shade=1.03, shadow=0.3, relief=0.6)
        else:
            s.seams(ends if side == 1 else flip(ends), tone=0.82)


def _waistband(s: Studio, row: Mapping[str, str], y: float, half: float) -> None:
    loose = bool({"elasticated waist", "drawstring", "tie belt"} & s.details)
    s.cloth([(-half, y - 0.005), (0, y + 0.006), (half, y - 0.005), (half, y + 0.045),
             (0, y + 0.055), (-half, y + 0.045)], ribs=1.8 if loose else 0.0, shadow=0.2,
            relief=0.6)  # fmt: skip
    s.cloth(curve([(-half * 0.94, y - 0.004), (0, y - 0.014), (half * 0.94, y - 0.004),
                    (0, y + 0.007), (-half * 0.94, y - 0.004)]), shade=0.55, shadow=0.0,
            relief=0.2)  # fmt: skip
    if not loose:
        s.seams([(-half, y + 0.045), (0, y + 0.055), (half, y + 0.045)], tone=0.75)
        s.lines([[(x, y - 0.002), (x, y + 0.06)] for x in (-half * 0.6, half * 0.6)], 0.012,
                tone=0.85)  # fmt: skip
        s.buttons([(0.004, y + 0.028)], 0.010)
    if "drawstring" in s.details:
        for side in (1, -1):
            cord = curve([(0, y + 0.03), (side * 0.02, y + 0.10), (side * 0.03, y + 0.19)])
            s.lines([cord], 0.010, colour=np.clip(s.colour * 0.4 + 0.5, 0, 1))
    if "tie belt" in s.details:
        _belt(s, y + 0.03, half * 1.02)


def _paint_bottoms(s: Studio, row: Mapping[str, str]) -> None:
    short = row["garment_type"] == "Shorts"
    fit = {"slim": 0.82, "regular": 1.0, "relaxed": 1.18, "oversized": 1.34}[row["fit"]]
    tall = {"short": 0.44, "knee-length": 0.66, "cropped": 0.96, "ankle-length": 1.10,
            "full-length": 1.24}[row["length"]]  # fmt: skip
    y = 0.75 - tall / 2
    grow = 1.25 if short else 1.0
    waist, hip = 0.128 * grow, 0.156 * grow * (0.92 + 0.08 * fit)
    gap = 0.016 if short else 0.030 / fit
    cuff = (hip * (0.90 + 0.12 * fit) - gap) / 2 if short else 0.046 * fit
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
            s.cloth(flap if side == 1 else flip(flap), shadow=0.35)
            at = [(x, v + 0.045) for x, v in _box(0.08, y + 0.5, 0.066, 0.10)]
            s.seams(at if side == 1 else flip(at), tone=0.78)
    _waistband(s, row, y, waist)


def _paint_jumpsuit(s: Studio, row: Mapping[str, str]) -> None:
    tall = {"short": 0.86, "long": 1.26}[row["length"]]
    y = 0.77 - tall / 2
    middle = y + 0.37
    fit = _FIT_WIDTH[row["fit"]]
    waist, chest = 0.128, 0.146 * fit
    short = row["length"] == "short"
    _legs(s, middle, middle + 0.25, y + tall, waist, 0.165 * fit, 0.075 if short else 0.058, 0.02)
    wide = 0.098 if row["neckline"] == "square" else 0.078
    if row["sleeve"] == "strappy":
        top = y + 0.11
        neck = _straps(s, row, top, 0.098, y - 0.05)
        arm = curve([(0.098, top), (chest * 0.88, y + 0.16), (chest, y + 0.19)])
    else:
        neck = _neck(s, row, y, wide)
        edge = 0.83 if row["sleeve"] == "sleeveless" else 1.0
        if row["sleeve"] == "short":
            _sleeves(s, row, y, 0.146 * fit, chest, long=0.5, thick=0.9)
        arm = curve([(0.146 * fit * edge, y + 0.03), (0.14 * fit * edge, y + 0.12),
                      (chest, y + 0.20)])  # fmt: skip
    half = [*neck, *arm, *curve([(chest, y + 0.20), (waist * 1.02, middle - 0.04),
                                  (waist, middle + 0.01)]), (0, middle + 0.016)]  # fmt: skip
    s.cloth(both(half), folds=0.3, shadow=0.2, part="front")
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


def _paint_skirt(s: Studio, row: Mapping[str, str]) -> None:
    tall = {"short": 0.52, "knee-length": 0.72, "calf-length": 0.98}[row["length"]]
    y = 0.75 - tall / 2
    full = {"slim": 1.12, "regular": 1.45, "relaxed": 1.8}[row["fit"]]
    full += 0.25 * ("pleats" in s.details)
    waist = 0.140
    hem = waist * (full + 0.12 * (tall - 0.5))
    bottom = y + tall
    side = curve([(waist, y), (waist + (hem - waist) * 0.62 + 0.012, y + tall * 0.42),
                   (hem, bottom - 0.015)])  # fmt: skip
    wavy = [(float(x), bottom + 0.0045 * full * float(np.sin(x * 42 + s.phase[5] * 6))
             - 0.25 * x * x) for x in np.linspace(hem, -hem, 60)]  # fmt: skip
    s.cloth([*side, *wavy, *flip(side)[::-1]], folds=0.9 * full - 0.6, part="lower")
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


def _paint_bag(s: Studio, row: Mapping[str, str]) -> None:
    big = row["length"] == "large"
    w, h = (0.29, 0.42) if big else (0.23, 0.28)
    y = 0.78 if big else 0.84
    metal = rgb(0.83, 0.70, 0.42)
    arc = curve([(-w * 0.72, y + 0.02), (-w * 0.58, y - 0.28), (0, y - 0.40), (w * 0.58, y - 0.28),
                  (w * 0.72, y + 0.02)])  # fmt: skip
    if "chain strap" in s.details:
        s.lines([arc], 0.020, tone=0.7)
        for i in range(0, len(arc) - 2, 2):
            s.lines([arc[i : i + 2]], 0.014, colour=metal)
    else:
        s.lines([[(x + 0.012, v + 0.012) for x, v in arc]], 0.034, tone=0.82)
        s.lines([arc], 0.030, colour=s.colour * 0.72)
        s.lines([[(x - 0.004, v - 0.004) for x, v in arc]], 0.010, colour=s.colour * 0.8 + 0.12)
    body = both([(0, y), (w * 0.90, y), (w * 0.90, y), *curve([(w * 0.93, y + 0.02),
                 (w * 1.03, y + h * 0.8), (w * 0.97, y + h), (0, y + h + 0.012)])])  # fmt: skip
    s.cloth(body, gloss=0.5, relief=1.3, part="front")
    s.lines([both([(0, y + 0.018), (w * 0.88, y + 0.018), (w * 0.98, y + h * 0.8),
                    (w * 0.92, y + h - 0.02), (0, y + h - 0.008)])], 0.005, tone=0.8)  # fmt: skip
    if "flap" in s.details or not big:
        flap = both(
            [
                (0, y - 0.012),
                (w * 0.93, y - 0.012),
                *curve(
                    [
                        (w * 0.96, y),
                        (w * 0.95, y + h * 0.36),
                        (w * 0.7, y + h * 0.50),
                        (0, y + h * 0.56),
                    ]
                ),
            ]
        )
        s.cloth(flap, gloss=0.6, shadow=0.45, shade=1.02)
    if "zip pocket" in s.details:
        s.lines([[(-w * 0.6, y + h * 0.72), (w * 0.6, y + h * 0.72)]], 0.013, colour=metal * 0.9)
    if "metal clasp" in s.details or "flap" in s.details:
        s.cloth(ring((0, y + h * 0.52), 0.028), colour=metal, pattern="solid", gloss=1.0)
    s.lines([ring((side * w * 0.72, y + 0.01), 0.022) for side in (1, -1)], 0.010, colour=metal)


def _shoe(points: Sequence[Point], dx: float, dy: float, size: float) -> list[Point]:
    return [(x * size + dx, y * size + dy) for x, y in points]


def _paint_sneakers(s: Studio, row: Mapping[str, str]) -> None:
    high = row["length"] == "high"
    thick = 0.085 if "chunky soles" in s.details else 0.055
    white = rgb(0.93, 0.92, 0.90)
    rise = 0.20 if high else 0.0
    for dx, dy, size in ((0.05, 0.56, 0.92), (-0.035, 0.93, 1.0)):
        at = partial(_shoe, dx=dx, dy=dy, size=size)
        upper = curve([(-0.33, 0.06), (-0.335, -0.06), (-0.31, -0.16 - rise), (-0.31, -0.16 - rise),
                        (-0.20, -0.12 - rise), (-0.12, -0.17 - rise), (-0.12, -0.17 - rise),
                        (-0.02, -0.09 - rise * 0.4), (0.12, -0.02), (0.28, 0.015), (0.335, 0.07),
                        (0.335, 0.10), (0.335, 0.10), (-0.33, 0.10)])  # fmt: skip
        s.cloth(at(curve([(-0.3, -0.15 - rise), (-0.2, -0.18 - rise), (-0.13, -0.16 - rise),
                           (-0.2, -0.08 - rise), (-0.3, -0.15 - rise)])), shade=0.5)  # fmt: skip
        s.cloth(at(upper), relief=1.3, gloss=0.3, part="shoe")
        toe = curve([(0.17, 0.10), (0.16, 0.03), (0.22, 0.0), (0.30, 0.022), (0.335, 0.10)])
        s.seams(at(toe[:15]), at(curve([(-0.22, 0.10), (-0.20, -0.02), (-0.24, -0.12 - rise)])))
        sole = curve([(-0.345, 0.08), (-0.345, 0.08), (-0.10, 0.095), (0.20, 0.095), (0.345, 0.07),
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


def _paint_boots(s: Studio, row: Mapping[str, str]) -> None:
    tall = row["length"] == "knee-high"
    top = -0.66 if tall else -0.30
    heel = 0.11 if "block heels" in s.details else 0.06
    size = 0.84 if tall else 1.0
    sole = s.colour * 0.45
    for dx, dy in ((0.13, 0.86 if tall else 0.74), (-0.10, 0.97 if tall else 0.90)):
        at = partial(_shoe, dx=dx, dy=dy + (0.16 if tall else 0), size=size)
        s.cloth(at(curve([(-0.18, top), (-0.09, top - 0.022), (0.0, top), (-0.09, top + 0.03),
                           (-0.18, top)])), shade=0.45)  # fmt: skip
        s.cloth(at([(-0.19, 0.04), (-0.06, 0.06), (-0.075, 0.06 + heel), (-0.18, 0.06 + heel)]),
                colour=sole, pattern="solid")  # fmt: skip
        shape = curve(
            [
                (-0.185, top),
                (-0.185, top),
                (-0.09, top + 0.022),
                (0.0, top),
                (0.0, top),
                (0.015, top * 0.5),
                (0.01, -0.13),
                (0.09, -0.045),
                (0.21, -0.01),
                (0.265, 0.05),
                (0.26, 0.09),
                (0.26, 0.09),
                (0.02, 0.075),
                (-0.19, 0.075),
                (-0.19, 0.075),
                (-0.20, -0.05),
                (-0.18, top * 0.5),
                (-0.185, top),
            ]
        )
        s.cloth(at(shape), gloss=0.7, relief=1.5, part="front")
        s.cloth(
            at(
                [
                    (-0.195, 0.068),
                    (0.02, 0.066),
                    (0.265, 0.078),
                    (0.262, 0.11),
                    (0.03, 0.10),
                    (-0.06, 0.10),
                    (-0.19, 0.09),
                ]
            ),
            colour=sole,
            pattern="solid",
            relief=0.5,
        )
        if "elastic gores" in s.details:
            gore = [(-0.125, top + 0.03), (-0.045, top + 0.03), (-0.07, -0.06), (-0.10, -0.06)]
            s.cloth(at(gore), shade=0.8, ribs=2.0, pattern="solid", shadow=0.1)
        elif "lacing" in s.details:
            for v in np.linspace(top * 0.8 if not tall else -0.34, -0.10, 5):
                s.lines([at([(-0.045, float(v)), (0.018, float(v) + 0.02)])], 0.013,
                        colour=np.clip(s.colour * 0.5 + 0.35, 0, 1))  # fmt: skip
        else:
            s.seams(at([(-0.09, 0.06), (-0.10, -0.06), (-0.095, top + 0.03)]), tone=0.7)


def _paint_hat(s: Studio, row: Mapping[str, str]) -> None:
    y, w = 0.56, 0.27
    base = y + 0.44
    dome = both([(0, y), *curve([(0.03, y), (w * 0.62, y + 0.06), (w * 0.97, y + 0.24),
                                   (w, base)]), (0, base + 0.02)])  # fmt: skip
    if "pompom" in s.details:
        for k in range(26):
            a, r = s.rng.random() * 6.28, 0.055 * s.rng.random() ** 0.5
            s.cloth(ring((r * float(np.cos(a)), y - 0.055 + r * float(np.sin(a))), 0.035, 8),
                    pattern="solid", shade=0.86 + 0.012 * k, shadow=0.12)  # fmt: skip
    s.cloth(dome, ribs=1.9, relief=1.5, part="front")
    wedges = [curve([(0, y + 0.01), (x * 0.75, y + 0.15), (x, base)])
              for x in (-w * 0.6, -w * 0.22, w * 0.22, w * 0.6)]  # fmt: skip
    s.lines(wedges, 0.006, tone=0.86)
    if "cable knit" in s.details:
        t = np.linspace(y + 0.08, base, 50)
        for x in (-0.12, 0.0, 0.12):
            s.seams(
                *[
                    [
                        (
                            x * (0.55 + 0.45 * (float(v) - y) / 0.44)
                            + k * 0.02 * float(np.sin(v * 65)),
                            float(v),
                        )
                        for v in t
                    ]
                    for k in (1, -1)
                ],
                tone=0.8,
            )
    deep = 0.15 if "turn-up" in s.details else 0.075
    band = [
        (-w * 1.03, base - 0.03),
        (0, base - 0.012),
        (w * 1.03, base - 0.03),
        (w * 1.02, base + deep - 0.03),
        (0, base + deep),
        (-w * 1.02, base + deep - 0.03),
    ]
    s.cloth(band, ribs=2.6, relief=0.9, shadow=0.4,
            pattern=None if row["pattern"] == "melange" else "solid",
            colour=s.accent if row["pattern"] == "colour-block" else None)  # fmt: skip


def _paint_scarf(s: Studio, row: Mapping[str, str]) -> None:
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
        s.cloth(
            [
                left,
                right,
                *curve([right, (right[0] + lean * 0.12 + 0.015, 0.85), b]),
                *curve([a, (left[0] + lean * 0.12 - 0.01, 0.85), left]),
            ],
            angle=turn,
            folds=0.8,
        )
    loop = curve([(0, 0.24), (0.20, 0.27), (0.27, 0.40), (0.19, 0.55), (0, 0.63), (-0.19, 0.56),
                   (-0.27, 0.41), (-0.20, 0.27), (0, 0.24)])  # fmt: skip
    s.cloth(loop, folds=0.4, relief=1.6, shadow=0.42, angle=0.25)
    hole = curve([(0, 0.31), (0.12, 0.32), (0.15, 0.38), (0, 0.44), (-0.15, 0.385), (-0.12, 0.32),
                   (0, 0.31)])  # fmt: skip
    s.cloth(hole, shade=0.55, shadow=0.0, relief=0.5)
    creases = [curve([(-0.24, 0.45 + d), (0, 0.52 + d), (0.24, 0.44 + d)]) for d in (-0.02, 0.045)]
    s.seams(*creases, tone=0.8, width=0.010)


_PAINTERS: dict[str, Callable[[Studio, Mapping[str, str]], None]] = {
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
