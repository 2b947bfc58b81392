"""Whether a difference is more than noise: bootstrap intervals and corrections for many tests.

Values are per-user metrics; users are resampled with replacement. Resamples are drawn in blocks
of bounded size. Where few distinct values occur (most users have no hit) their counts are drawn
from the multinomial, which is the same distribution at a fraction of the cost. Many comparisons on
the same users share their resamples (`Resampled`), so that a pair of columns costs a subtraction.
"""

from __future__ import annotations

import math
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


@dataclass(frozen=True)
class SeededDifference(PairedDifference):
    """A paired difference averaged over seeds."""

    n_changed: int
    """Users whose value differs under any seed."""
    n_seeds: int
    """Different seeds behind the average; 1 where neither side depends on the seed."""
    seed_sd: float
    """Standard deviation of the true difference from seed to seed, beyond what the users' noise
    explains (0 where it explains all); NaN with one seed."""


class Resampled:
    """Columns of per-user values and the bootstrap means of each, users drawn alike for all.

    Args:
        values: (n, columns) float; NaN marks a user without a value in that column.
        seed: of the resampling.
        n_resamples: bootstrap samples; a p-value is at least 1 / (n_resamples + 1), so take more
            than the number of comparisons that are corrected together times 20.

    Raises:
        InputError: values that are not two-dimensional, n_resamples < 1.
    """

    def __init__(self, values: ArrayLike, *, seed: int = 0, n_resamples: int = 10_000) -> None:
        self.values = np.asarray(values, dtype=np.float64)
        if self.values.ndim != 2:
            raise InputError(f"values have shape {self.values.shape}; expected (users, columns)")
        if n_resamples < 1:
            raise InputError(f"n_resamples is {n_resamples}; expected at least 1")
        self.seed = seed
        self._means = _column_means(self.values, n_resamples, np.random.default_rng(seed))

    def mean(self, columns: Sequence[int], *, level: float = 0.95) -> Interval:
        """Interval of the mean of `columns` (one a seed), averaged user by user."""
        found = self.difference(columns, None, level=level)
        return Interval(found.estimate, found.low, found.high, level, found.n)

    def difference(
        self, treatment: Sequence[int], control: Sequence[int] | None, *, level: float = 0.95,
        tests: int = 1, exchangeable: bool = False,
    ) -> SeededDifference:  # fmt: skip
        """Mean of treatment - control over the users that have both, and over seeds.

        Users are a random sample and so are seeds. The bootstrap over users of the seeds' average
        carries the users' noise; a Student t with seeds - 1 degrees of freedom, scaled by the
        variance between seeds that the interaction of users and seeds does not explain, is added
        to it (the expected mean squares of a two-way layout without replication: Searle, Casella
        and McCulloch 1992, section 4.3). With one seed it is `paired_bootstrap`.

        Args:
            treatment: columns, one a seed; a single one stands for all seeds.
            control: likewise, in the order of the same seeds; None compares with 0.
            level: coverage of the interval.
            tests: comparisons that are corrected together; `detectable` is at level
                1 - (1 - level) / tests.
            exchangeable: the side with a single column is, without an effect, one more draw of what
                the other side draws by seed (texts against texts of other items): it has the
                seeds' variance too, and once more undivided.
        """
        from scipy.stats import norm

        seeds = max(len(treatment), len(control or ()))
        sides = [c for c in (treatment, control) if c is not None]
        if not seeds or any(len(side) not in (1, seeds) for side in sides):
            raise InputError(
                f"treatment has {len(treatment)} seeds and control {len(control or ())}; both need "
                "the same seeds, or one column for all of them"
            )
        each = self.values[:, list(treatment)] + np.zeros((1, seeds))
        means = self._means[:, list(treatment)].mean(axis=1)
        if control is not None:
            each = each - self.values[:, list(control)]
            means = means - self._means[:, list(control)].mean(axis=1)
        each = each[~np.isnan(each).any(axis=1)]  # (n, seeds)
        n = len(each)
        nan = float("nan")
        if n == 0:
            return SeededDifference(nan, nan, nan, level, 0, nan, nan, 0, seeds, nan)
        own = each.mean(axis=1)
        estimate = float(own.mean())
        variance = float(own.var(ddof=1)) / n if n > 1 else nan
        between = _seed_variance(each)
        alone = 1.0 if exchangeable and min(map(len, sides)) < seeds else 0.0
        drawn = between * (alone + 1 / seeds) if seeds > 1 else 0.0
        if seeds > 1 and between > 0:
            rng = np.random.default_rng([self.seed, seeds])
            means = means + rng.standard_t(seeds - 1, len(means)) * math.sqrt(drawn)
        low, high = np.nanquantile(means, [(1 - level) / 2, (1 + level) / 2])
        tolerance = 1e-12 * max(float(np.abs(each).max()), 1e-300)
        extreme = int((np.abs(means - estimate) >= abs(estimate) - tolerance).sum())
        error = math.sqrt(variance + drawn)
        return SeededDifference(
            estimate,
            float(low),
            float(high),
            level,
            n,
            (extreme + 1) / (len(means) + 1),
            float(norm.ppf(1 - (1 - level) / 2 / tests) + norm.ppf(0.8)) * error,
            int((np.abs(each) > tolerance).any(axis=1).sum()),
            seeds,
            math.sqrt(between) if seeds > 1 else nan,
        )


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


def _column_means(
    values: NDArray[np.float64], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """(n_resamples, columns) means over the drawn users that have a value; NaN where none has."""
    n, columns = values.shape
    means = np.full((n_resamples, columns), np.nan)
    if n == 0 or columns == 0:
        return means
    there = ~np.isnan(values)
    filled = np.where(there, values, 0.0)
    # Columns of one slice miss the same users: their number is counted once.
    patterns, pattern = np.unique(there, axis=1, return_inverse=True)
    counted = patterns.astype(np.float64)
    size = max(1, _BLOCK // n)
    for lo in range(0, n_resamples, size):
        b = min(size, n_resamples - lo)
        drawn = rng.integers(0, n, size=(b, n)) + n * np.arange(b)[:, None]
        weight = np.bincount(drawn.ravel(), minlength=b * n).reshape(b, n).astype(np.float64)
        users = (weight @ counted)[:, pattern.ravel()]
        with np.errstate(invalid="ignore"):
            means[lo : lo + b] = (weight @ filled) / np.where(users > 0, users, np.nan)
    return means


def _seed_variance(each: NDArray[np.float64]) -> float:
    """Variance of the seeds' true means from (n, seeds) values of a two-way layout; at least 0."""
    n, seeds = each.shape
    if seeds < 2 or n < 2:
        return 0.0
    by_seed = each.mean(axis=0)
    residual: NDArray[np.float64] = each - each.mean(axis=1, keepdims=True) - by_seed + each.mean()
    interaction = float((residual**2).sum()) / ((n - 1) * (seeds - 1))
    return float(max(0.0, by_seed.var(ddof=1) - interaction / n))


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
