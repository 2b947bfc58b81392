"""Why the words helped: does the quality of an article's caption predict what it gained?

An article's gain under a setting is the mean over its test purchases of 1 / log2(1 + rank), 0
beyond the depth: what NDCG counts, article by article. Its change is the gain under one setting
minus that under another. The change is regressed on one measure of caption quality at a time, with
the logarithm of the article's training purchases beside it, over articles bought in the test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pipelines.cells import Bench, Ranks

FEWEST = 20
"""Articles below which no regression is tried."""
QUALITIES = {
    "audit": "share of the article's colour, type and pattern that the caption has right, minus "
    "the share it contradicts",
    "cider-d": "CIDEr-D against the human description, of articles the captioner never learned "
    "from",
    "clipscore": "cosine of photo and caption by the configured CLIP, times 2.5",
}
"""Measure -> what it is."""


@dataclass(frozen=True)
class Slope:
    """How the change of an article goes with one measure of its caption."""

    slope: float
    """Change of the gain for one standard deviation more of the measure; NaN where undefined."""
    low: float
    high: float
    p_value: float
    n: int
    """Articles."""
    sd: float
    """One standard deviation of the measure."""


def gains(bench: Bench, found: Sequence[Ranks]) -> NDArray[np.float64]:
    """(n_items,) mean of 1 / log2(1 + rank) over an article's test pairs and over seeds; NaN where
    nobody bought it in the test."""
    total = np.zeros(bench.n_items)
    for ranks in found:
        hit = ranks.ranks > 0
        own = np.zeros(len(ranks.ranks))
        own[hit] = 1 / np.log2(1.0 + ranks.ranks[hit])
        total += np.bincount(bench.pair_items, weights=own, minlength=bench.n_items)
    pairs = np.bincount(bench.pair_items, minlength=bench.n_items)
    mean: NDArray[np.float64] = np.where(
        pairs > 0, total / np.maximum(pairs, 1) / max(1, len(found)), np.nan
    )
    return mean


def regress(
    change: NDArray[np.float64], quality: NDArray[np.float64], popularity: NDArray[np.float64]
) -> Slope:
    """Ordinary least squares of change on standardised quality, log(1 + popularity) and a constant.

    Standard errors are HC3 (MacKinnon and White 1985), which hold where the noise differs from
    article to article; interval and p-value by Student's t.

    Args:
        change, quality: (n,), NaN where unknown; such articles are left out.
        popularity: (n,) training purchases.

    Returns:
        NaN everywhere with fewer than `FEWEST` articles, or where the quality does not vary.
    """
    from scipy.stats import t

    known = np.isfinite(change) & np.isfinite(quality)
    y, x = change[known], quality[known]
    n, nan = len(y), float("nan")
    sd = float(x.std(ddof=1)) if n > 1 else nan
    if n < FEWEST or not sd > 0:
        return Slope(nan, nan, nan, nan, n, sd)
    design = np.column_stack([np.ones(n), (x - x.mean()) / sd, np.log1p(popularity[known])])
    inverse = np.linalg.pinv(design.T @ design)
    weights = inverse @ (design.T @ y)
    leverage = np.einsum("ij,jk,ik->i", design, inverse, design)
    residual = (y - design @ weights) / np.maximum(1 - leverage, 1e-12)
    covariance = inverse @ ((design * (residual**2)[:, None]).T @ design) @ inverse
    slope, error = float(weights[1]), math.sqrt(max(0.0, float(covariance[1, 1])))
    freedom = n - int(np.linalg.matrix_rank(design))
    half = float(t.ppf(0.975, freedom)) * error
    p = (
        1.0
        if error == 0 and slope == 0
        else float(2 * t.sf(abs(slope) / max(error, 1e-300), freedom))
    )
    return Slope(slope, slope - half, slope + half, p, n, sd)


def caption_qualities(
    captions: Mapping[str, str],
    articles: pl.DataFrame,
    ids: Sequence[str],
    learned: set[str],
) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Measures of each article's caption that need no encoder: measure -> article_id -> value.

    Args:
        captions: article_id -> caption.
        articles: the catalogue.
        ids: articles that are asked about.
        learned: articles the captioner learned from: they get no CIDEr-D.

    Returns:
        the measures, and the ids on which CIDEr-D was judged.
    """
    from caption.audit import audit_captions
    from caption.metrics import Unavailable, score_captions

    wanted = [a for a in ids if captions.get(a)]
    found: dict[str, dict[str, float]] = {}
    if wanted:
        own = pl.DataFrame({"article_id": wanted, "caption": [captions[a] for a in wanted]})
        value = pl.when(verdict="right").then(1.0).when(verdict="contradicting").then(-1.0)
        marks = audit_captions(own, articles, n_worst=0).per_item
        by_item = marks.group_by("article_id").agg(value.otherwise(0.0).mean().alias("mark"))
        found["audit"] = dict(by_item.sort("article_id").iter_rows())
    human = dict(articles.select("article_id", "detail_desc").iter_rows())
    judged = [a for a in wanted if human[a] and a not in learned]
    if len(judged) >= FEWEST:
        score = score_captions(
            {a: captions[a] for a in judged}, {a: [human[a]] for a in judged}, ("cider-d",)
        )["cider-d"]
        if not isinstance(score, Unavailable) and score.per_item is not None:
            found["cider-d"] = dict(zip(judged, map(float, score.per_item), strict=True))
    return found, judged


def moves(
    bench: Bench,
    with_: Sequence[Ranks],
    against: Sequence[Ranks],
    rows: Sequence[int],
) -> dict[int, list[tuple[int | None, int | None]]]:
    """Item -> (rank before, rank after) of each of its test purchases under the first seed; None
    beyond the depth."""
    found: dict[int, list[tuple[int | None, int | None]]] = {}
    for item in rows:
        pairs = np.flatnonzero(bench.pair_items == item)
        found[item] = [
            (int(against[0].ranks[p]) or None, int(with_[0].ranks[p]) or None) for p in pairs
        ]
    return found


def extremes(change: NDArray[np.float64], n: int) -> tuple[list[int], list[int]]:
    """Rows helped most and hurt most: at most n each, those that did not change in neither."""
    known = np.where(np.isfinite(change), change, 0.0)
    order = np.argsort(-known, kind="stable")
    helped = [int(i) for i in order[:n] if known[i] > 0]
    hurt = [int(i) for i in order[::-1][:n] if known[i] < 0]
    return helped, hurt


def as_array(values: Mapping[str, Any], ids: Sequence[str]) -> NDArray[np.float64]:
    """(n,) of a mapping's values in the order of `ids`, NaN where it has none."""
    return np.array([values.get(i, np.nan) for i in ids], dtype=np.float64)
