"""Whether a difference is more than noise: bootstrap intervals and corrections for many tests.

Values are per-user metrics; users are resampled with replacement. Resamples are drawn in blocks
of bounded size. Where few distinct values occur (most users have no hit) their counts are drawn
from the multinomial, which is the same distribution at a fraction of the cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys import InputError

_BLOCK = 4_000_000
"""Draws held in memory at a time (32 MB of float64)."""


@dataclass(frozen=True)
class Interval:
    """A mean and its bootstrap confidence interval; NaN where there is no value."""

    estimate: float
    low: float
    high: float
    level: float
    n: int
    """Users that entered."""


@dataclass(frozen=True)
class PairedDifference(Interval):
    """The mean of `treatment - control` over the users that have both values."""

    p_value: float
    """Two-sided: how often the centred bootstrap mean is as far from 0 as the one observed."""
    detectable: float
    """The smallest true difference found with 80 % probability at this level and this noise."""


def bootstrap_mean(
    values: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
    method: Literal["percentile", "bca"] = "percentile",
) -> Interval:
    """Confidence interval of the mean (Efron and Tibshirani 1993, sections 13.3 and 14.3).

    Args:
        values: (n,) float; NaN marks a user without a value and is left out.
        seed: of the resampling; the same call gives the same interval.
        n_resamples: number of bootstrap samples.
        level: coverage, between 0 and 1.
        method: "percentile", or "bca" (bias-corrected and accelerated) for skewed values.

    Raises:
        InputError: level or n_resamples out of range, or values that are not one column.
    """
    sample = _clean(values, level, n_resamples)
    n = len(sample)
    if n == 0:
        return Interval(float("nan"), float("nan"), float("nan"), level, 0)
    mean = float(sample.mean())
    means = _resampled_means(sample, n_resamples, np.random.default_rng(seed))
    low, high = _quantile_levels(sample, means, level, method)
    low, high = np.quantile(means, [low, high])
    return Interval(mean, float(low), float(high), level, n)


def paired_bootstrap(
    treatment: ArrayLike,
    control: ArrayLike,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> PairedDifference:
    """Interval and two-sided p-value of the mean difference between two settings, user by user.

    Args:
        treatment: (n,) float, one value per user; NaN where there is none.
        control: (n,) float, the same users in the same order.
        seed: of the resampling.
        n_resamples: number of bootstrap samples; the p-value is at least 1 / (n_resamples + 1).
        level: coverage of the interval.

    Raises:
        InputError: lengths that differ, level or n_resamples out of range.
    """
    from scipy.stats import norm

    left, right = np.asarray(treatment, dtype=np.float64), np.asarray(control, dtype=np.float64)
    if left.shape != right.shape:
        raise InputError(
            f"treatment has shape {left.shape} and control {right.shape}; "
            "both need the same users in the same order"
        )
    sample = _clean(left - right, level, n_resamples)
    n = len(sample)
    if n == 0:
        nan = float("nan")
        return PairedDifference(nan, nan, nan, level, 0, nan, nan)
    mean = float(sample.mean())
    means = _resampled_means(sample, n_resamples, np.random.default_rng(seed))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    tolerance = 1e-12 * max(float(np.abs(sample).max()), 1e-300)
    extreme = int((np.abs(means - mean) >= abs(mean) - tolerance).sum())
    error = float(sample.std(ddof=1)) / n**0.5 if n > 1 else float("nan")
    detectable = float(norm.ppf((1 + level) / 2) + norm.ppf(0.8)) * error
    p_value = (extreme + 1) / (n_resamples + 1)
    return PairedDifference(mean, float(low), float(high), level, n, p_value, detectable)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values that bound the chance of any false discovery (Holm 1979).

    Args:
        p_values: (n,) in [0, 1]; NaN is passed through and not counted as a test.
    """
    return _adjust(p_values, step_down=True)


def benjamini_hochberg(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Adjusted p-values that bound the expected share of false discoveries (1995).

    Args:
        p_values: (n,) in [0, 1]; NaN is passed through and not counted as a test.
    """
    return _adjust(p_values, step_down=False)


def _adjust(
    p_values: Sequence[float] | NDArray[np.float64], *, step_down: bool
) -> NDArray[np.float64]:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or (p < 0).any() or (p > 1).any():
        raise InputError("p_values must be one column of numbers between 0 and 1")
    adjusted = np.full(len(p), np.nan)
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    n = len(order)
    if step_down:
        raised = np.maximum.accumulate(p[order] * np.arange(n, 0, -1))
    else:
        raised = np.minimum.accumulate((p[order] * n / np.arange(1, n + 1))[::-1])[::-1]
    adjusted[order] = np.minimum(raised, 1)
    return adjusted


def _clean(values: ArrayLike, level: float, n_resamples: int) -> NDArray[np.float64]:
    sample = np.asarray(values, dtype=np.float64)
    if sample.ndim != 1:
        raise InputError(f"values have shape {sample.shape}; expected one value per user")
    if not 0 < level < 1:
        raise InputError(f"level is {level}; expected a share between 0 and 1, such as 0.95")
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}; expected at least 1")
    return sample[~np.isnan(sample)]


def _resampled_means(
    sample: NDArray[np.float64], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    n = len(sample)
    distinct, counts = np.unique(sample, return_counts=True)
    means = np.empty(n_resamples)
    few = len(distinct) * 8 <= n
    size = max(1, _BLOCK // (len(distinct) if few else n))
    for lo in range(0, n_resamples, size):
        b = min(size, n_resamples - lo)
        if few:
            means[lo : lo + b] = rng.multinomial(n, counts / n, size=b) @ distinct / n
        else:
            means[lo : lo + b] = sample[rng.integers(0, n, size=(b, n))].mean(axis=1)
    return means


def _quantile_levels(
    sample: NDArray[np.float64], means: NDArray[np.float64], level: float, method: str
) -> tuple[float, float]:
    from scipy.stats import norm

    ends = np.array([(1 - level) / 2, (1 + level) / 2])
    if method == "percentile":
        return float(ends[0]), float(ends[1])
    if method != "bca":
        raise InputError(f"method is {method!r}; expected percentile or bca")
    centred = sample - sample.mean()
    spread = float((centred**2).sum())
    if spread == 0:
        return float(ends[0]), float(ends[1])
    # The jackknife acceleration of a mean in closed form.
    acceleration = float((centred**3).sum()) / (6 * spread**1.5)
    below = (means < sample.mean()).mean() + (means == sample.mean()).mean() / 2
    bias = norm.ppf(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    z = bias + norm.ppf(ends)
    low, high = norm.cdf(bias + z / (1 - acceleration * z))
    return float(low), float(high)
