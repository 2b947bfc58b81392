"""Whether one captioner beats another on the same items by more than chance, metric by metric."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caption import InputError
from caption.metrics import Score, Unavailable

_DRAWS = 4_000_000
"""Items drawn at a time (32 MB)."""


@dataclass(frozen=True)
class Comparison:
    """One metric of two captioners over the items that have a value from both."""

    metric: str
    value_a: float
    """The metric over the corpus, as reported."""
    value_b: float
    difference: float
    """Mean over items of a - b. Of BLEU and METEOR the corpus value is not the mean of its items:
    there the difference of the items stands beside, not between, the corpus values."""
    low: float
    """Percentile bootstrap interval of `difference`."""
    high: float
    p_value: float
    """Two-sided: how often the centred bootstrap mean is as far from 0 as `difference`."""
    p_adjusted: float
    """The same, corrected for the number of metrics compared."""
    n: int
    """Items."""


def compare_captioners(
    scores_a: Mapping[str, Score | Unavailable],
    scores_b: Mapping[str, Score | Unavailable],
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
    correction: Literal["holm", "benjamini-hochberg", "none"] = "holm",
) -> list[Comparison]:
    """Paired bootstrap of every metric that both captioners have item by item.

    Items are resampled once for all metrics, so their comparisons share the same resamples. An item
    that is NaN for either captioner is left out of that metric. Metrics without item values, or
    unavailable for one side, are left out of the list. p-values are at least 1 / (n_resamples + 1).

    `scores_a` and `scores_b` come from `score_captions` over the same items in the same order.
    Raises `InputError` on different numbers of items, different signatures of one metric (they
    would not compare), and `level`, `n_resamples` or `correction` out of range.
    """
    if not 0 < level < 1 or n_resamples < 1:
        raise InputError(
            f"level={level}, n_resamples={n_resamples}: expected 0 < level < 1 and at least 1"
        )
    pairs = []
    for name, a in scores_a.items():
        b = scores_b.get(name)
        if not isinstance(a, Score) or not isinstance(b, Score):
            continue
        if _definition(a.signature) != _definition(b.signature):
            raise InputError(
                f"{name} was computed in two ways, {a.signature} and {b.signature}: "
                "score both captioners with the same options"
            )
        if a.per_item is not None and b.per_item is not None:
            pairs.append((name, a, b, a.per_item, b.per_item))
    lengths = {len(items) for pair in pairs for items in pair[3:]}
    if len(lengths) > 1:
        raise InputError(
            f"scores of {sorted(lengths)} items: expected the same items on both sides"
        )
    if not pairs or lengths == {0}:
        return []
    differences = np.column_stack([a - b for *_, a, b in pairs])  # (n_items, n_metrics)
    means = _resampled_means(differences, n_resamples, seed)  # (n_resamples, n_metrics)
    observed = _mean(differences, np.ones((1, len(differences))))[0]
    lows, highs = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    largest = np.nan_to_num(np.abs(differences)).max(0)
    extreme = np.abs(means - observed) >= np.abs(observed) - 1e-12 * np.maximum(largest, 1e-300)
    p_values = np.where(np.isnan(observed), np.nan, (extreme.sum(0) + 1) / (n_resamples + 1))
    columns = zip(
        observed.tolist(),
        lows.tolist(),
        highs.tolist(),
        p_values.tolist(),
        adjust(p_values, correction).tolist(),
        (~np.isnan(differences)).sum(0).tolist(),
        strict=True,
    )
    return [
        Comparison(name, a.value, b.value, *column)
        for (name, a, b, *_), column in zip(pairs, columns, strict=True)
    ]


def adjust(
    p_values: ArrayLike, correction: Literal["holm", "benjamini-hochberg", "none"]
) -> NDArray[np.float64]:
    """float64 (n,) p-values corrected for n tests; NaN passes through and is no test.

    Holm (1979) bounds the chance of any false discovery, Benjamini and Hochberg (1995) the expected
    share of false ones among the discoveries. Raises `InputError` on another `correction`.
    """
    p = np.asarray(p_values, np.float64)
    if correction not in ("holm", "benjamini-hochberg", "none"):
        raise InputError(
            f"unknown correction {correction!r}: expected holm, benjamini-hochberg or none"
        )
    if correction == "none":
        return p.copy()
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    rank = np.arange(len(order))
    if correction == "holm":
        ranked = np.maximum.accumulate(p[order] * (len(order) - rank))
    else:
        ranked = np.minimum.accumulate((p[order] * len(order) / (rank + 1))[::-1])[::-1]
    out = p.copy()
    out[order] = np.minimum(ranked, 1)
    return out


def _definition(signature: str) -> str:
    """A signature without its counts of captions that had to be cleaned or cut."""
    return re.sub(r"\+\d+-cleaned|\|cut:\d+", "", signature)


def _resampled_means(
    differences: NDArray[np.float64], n_resamples: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    n = len(differences)
    means = np.empty((n_resamples, differences.shape[1]))
    block = max(1, _DRAWS // n)
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = _mean(differences, counts.astype(np.float64))
    return means


def _mean(values: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means (n_draws, n_columns) of values (n, n_columns) taken `counts` (n_draws, n) times."""
    known = ~np.isnan(values)
    total, weight = counts @ np.where(known, values, 0), counts @ known
    return np.divide(total, weight, out=np.full_like(total, np.nan), where=weight != 0)
