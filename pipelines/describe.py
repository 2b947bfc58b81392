"""`fcr data describe`: what a dataset looks like, as JSON and as one HTML page drawn from it.

`description.json` holds every number; the page draws them and computes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike

from caption.attributes import words_of
from caption.records import CaptionExample, normalise_text
from caption.sources import Finding
from pipelines import InputError
from pipelines.catalog import Catalog, read_catalog
from pipelines.data_check import (
    FACAD,
    TABLES,
    PhotoScan,
    identify,
    read_captions,
    scan_photos,
)
from pipelines.describe_page import CURVE, page
from pipelines.report_captions import STOPWORDS
from pipelines.workspace import write_json, write_text

if TYPE_CHECKING:
    from pipelines.run import Progress

TOP = 30
"""Entries of a list of most common things."""


def describe(
    folder: Path, out: Path, *, photos: bool = True, progress: Progress | None = None
) -> Path:
    """Write `description.json` and `description.html` to `out`.

    Args:
        folder: a raw dataset or what `fcr data prepare` wrote.
        out: folder for the two files; created.
        photos: read the photos (their sizes, and which are the same).
        progress: receives (what, done, total).

    Returns:
        path of the page.

    Raises:
        InputError: no such folder, nothing known in it, files that can't be read.
    """
    facts = describe_data(folder, photos=photos, progress=progress)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {out} can't be created: {error.strerror}") from error
    write_json(out / "description.json", facts)
    path = out / "description.html"
    write_text(path, page(facts))
    return path


def describe_data(
    folder: Path, *, photos: bool = True, progress: Progress | None = None
) -> dict[str, Any]:
    """The numbers of the page, as JSON values: see the keys; spreads are those of `spread`."""
    holds = identify(folder)
    facts: dict[str, Any] = {"name": Path(folder).resolve().name, "holds": list(holds)}
    catalog = None
    if TABLES in holds:
        has_purchases = (folder / "transactions_train.csv").is_file()
        catalog = read_catalog(folder, purchases=has_purchases, drop_bad_rows=True)
        facts["tables"] = _tables(catalog)
        if has_purchases:
            facts["purchases"] = _purchases(catalog)
    if holds[0] == TABLES:
        assert catalog is not None
        examples = _articles(catalog)
        findings: tuple[Finding, ...] = ()
    else:
        captions, findings = read_captions(folder, holds[0])
        examples = captions.examples
    facts["findings"] = [str(f) for f in findings]
    facts["parts"] = dict(Counter(e.split for e in examples if e.split))
    facts["captions"] = _captions(examples)
    facts["categories"] = _common(Counter(e.category for e in examples if e.category))
    facts["attributes"] = _common(Counter(a for e in examples for a in e.attributes))
    if photos and holds[0] != FACAD:  # whose photos are inside HDF5 files, all 256 x 256
        pictures = [(e.id, e.image) for e in examples if e.image is not None]
        facts["photos"] = _photos(scan_photos(pictures, progress), len(examples) - len(pictures))
    return facts


def spread(values: ArrayLike) -> dict[str, float] | None:
    """n, min, p5, median, mean, p95 and max of numbers; None of nothing."""
    numbers = np.asarray(values, dtype=np.float64)
    if not numbers.size:
        return None
    low, middle, high = np.quantile(numbers, [0.05, 0.5, 0.95]).tolist()
    return {
        "n": numbers.size, "min": float(numbers.min()), "p5": low, "median": middle,
        "mean": round(float(numbers.mean()), 4), "p95": high, "max": float(numbers.max()),
    }  # fmt: skip


def gini(counts: ArrayLike) -> float:
    """Gini coefficient of counts: 0 where all are equal, towards 1 where one has everything."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    n, total = ordered.size, ordered.sum()
    if not n or not total:
        return 0.0
    rank = np.arange(1, n + 1)
    return float(2 * (rank * ordered).sum() / (n * total) - (n + 1) / n)


def _articles(catalog: Catalog) -> tuple[CaptionExample, ...]:
    """Articles as examples; the ones without text stand with an empty one."""
    columns = ("article_id", "detail_desc", "product_type_name")
    rows = catalog.articles.select(columns).iter_rows()
    return tuple(
        CaptionExample(id, photo, (text or "",), category=kind or "")
        for (id, text, kind), photo in zip(rows, catalog.photos(), strict=True)
    )


def _captions(examples: Sequence[CaptionExample]) -> dict[str, Any]:
    texts = [c for e in examples for c in e.captions if c.strip()]
    a_photo = Counter(sum(bool(c.strip()) for c in e.captions) for e in examples)
    words = [[w for w in words_of(text) if w[0].isalnum()] for text in texts]
    counts = Counter(word for own in words for word in own)
    normal = Counter(map(normalise_text, texts))
    lengths = np.bincount([len(own) for own in words]) if words else np.zeros(0, np.int64)
    return {
        "examples": len(examples),
        "captions": len(texts),
        "missing": a_photo[0],
        "a_photo": {str(n): k for n, k in sorted(a_photo.items())},
        "characters": spread([len(text) for text in texts]),
        "words": spread([len(own) for own in words]),
        "of_words": lengths.tolist(),
        "distinct": len(normal),
        "repeated": sum(n for n in normal.values() if n > 1),
        "vocabulary": len(counts),
        "once": sum(n == 1 for n in counts.values()),
        "common": _common(Counter({w: n for w, n in counts.items() if w not in STOPWORDS})),
    }


def _photos(scan: PhotoScan, missing: int) -> dict[str, Any]:
    sizes = np.array(scan.sizes, dtype=np.float64).reshape(-1, 2)
    common = _common(Counter(f"{width} x {height}" for width, height in scan.sizes))
    return {
        "photos": len(scan.sizes),
        "missing": missing,
        "unreadable": len(scan.unreadable),
        "repeated": sum(len(ids) - 1 for ids in scan.repeated),
        "width": spread(sizes[:, 0]),
        "height": spread(sizes[:, 1]),
        "ratio": spread(sizes[:, 0] / sizes[:, 1]),
        "megapixels": spread(sizes.prod(axis=1) / 1e6),
        "sizes": common,
    }


def _tables(catalog: Catalog) -> dict[str, Any]:
    articles = catalog.articles
    columns = ("product_type_name", "colour_group_name", "graphical_appearance_name")
    return {
        "articles": articles.height,
        "products": articles["product_code"].n_unique(),
        "without_text": articles["detail_desc"].null_count(),
        "without_photo": sum(path is None for path in catalog.photos()),
        **{c: _common(Counter(articles[c].drop_nulls().to_list())) for c in columns},
    }


def _purchases(catalog: Catalog) -> dict[str, Any]:
    purchases = catalog.purchases
    weeks = purchases.group_by(pl.col("t_dat").dt.truncate("1w").alias("week")).len().sort("week")
    bought = purchases["article_id"].value_counts(sort=True)["count"].to_numpy()
    histories = purchases["customer_id"].value_counts()["count"].to_numpy()
    reached = np.concatenate([[0], np.cumsum(bought)]) / bought.sum()
    at = np.linspace(0, bought.size, CURVE)
    return {
        "purchases": purchases.height,
        "customers": histories.size,
        "customers_without": catalog.customers.height - histories.size,
        "articles": bought.size,
        "articles_without": catalog.articles.height - bought.size,
        "first": str(purchases["t_dat"].min()),
        "last": str(purchases["t_dat"].max()),
        "by_week": [[str(week), n] for week, n in weeks.iter_rows()],
        "popularity": np.round(np.interp(at, np.arange(bought.size + 1), reached), 6).tolist(),
        "gini": round(gini(bought), 4),
        "of_article": spread(bought),
        "history": spread(histories),
        "of_history": np.bincount(np.minimum(histories, 200)).tolist(),
    }


def _common(counts: Counter[str]) -> dict[str, Any]:
    """How many different ones there are, and the most common with their counts."""
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {"different": len(ordered), "total": counts.total(), "top": ordered[:TOP]}
