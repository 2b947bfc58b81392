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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import polars as pl

from pipelines import InputError
from pipelines.photos import draw_photo
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
DRAWING_VERSION = 1  # raise it when the same seed no longer draws the same bytes

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

    Raises InputError when `n` is not between 1 and 200,000 or `seed` is negative.
    """
    if not 1 <= n <= 200_000:
        raise InputError(f"n is {n}: expected 1 to 200000 articles to draw")
    if seed < 0:
        raise InputError(f"seed is {seed}: expected 0 or more")
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
    in all). A folder that holds another drawn catalogue is drawn anew.

    Raises InputError when the folder holds a catalogue that this function did not write.
    """
    catalogue = draw_articles(n, seed)
    _claim(folder, f"drawing {DRAWING_VERSION}, {n} articles, seed {seed}\n")
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


def _claim(folder: Path, mark: str) -> None:
    """Make the folder ours; leave only what an earlier call with the same `mark` finished."""
    marker = folder / ".drawn"
    if marker.is_file():
        same = marker.read_text() == mark
        for old in [*folder.glob("images/*/*"), *folder.glob(".articles.csv.*")]:
            if not same or old.name.startswith("."):
                old.unlink(missing_ok=True)
        if not same:
            (folder / "articles.csv").unlink(missing_ok=True)
    elif (folder / "articles.csv").exists() or (folder / "images").exists():
        raise InputError(
            f"{folder} holds a catalogue that was not drawn here: expected a new folder or one "
            "written by an earlier drawing; choose another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".drawn.{os.getpid()}"
    part.write_text(mark)
    os.replace(part, marker)


def _draw_product(number: int, seed: int) -> list[tuple[dict[str, object], dict[str, object]]]:
    """The colour variants of one product: (row of articles, row of traits) each."""
    rng = np.random.default_rng([seed, number])
    shares = np.cumsum([garment.share for garment in GARMENTS.values()])
    kind = list(GARMENTS)[int(np.searchsorted(shares, rng.random() * shares[-1], side="right"))]
    garment = GARMENTS[kind]
    # 611,953 and 899,999 share no factor, so codes do not repeat within a catalogue
    code = str(100_000 + (number * 611_953 + seed * 12_347) % 899_999)
    pattern = "solid" if rng.random() < 0.3 else pick(rng, garment.patterns)
    denim = pattern == "denim"
    departments = [p for p in garment.placements if ("enim" in p[4]) == denim]
    placement = pick(rng, departments or garment.placements)
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
        "fabric": "denim" if denim else pick(rng, garment.fabrics),
        "fit": pick(rng, garment.fits),
        "occasion": pick(rng, [o for o in _OCCASIONS if not (warm and o == "holiday")]),
        "season": _SEASONS[int(rng.choice(4, p=(0.1, 0.05, 0.4, 0.45) if warm else
                                          (0.35, 0.4, 0.15, 0.1)))],
        "quality": round(quality, 4),
        "style": pick(rng, _STYLES),
        "price": round(min(max(price, 0.005), 0.2), 6),
    }  # fmt: skip
    if row["sleeve"] == "strappy" and row["neckline"] == "collar":
        row["neckline"] = "square"
    colours = _DENIM_COLOURS if denim else tuple(COLOURS)
    variants = min(int(rng.geometric(0.5)) + int(rng.random() < 0.1), 6)
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
