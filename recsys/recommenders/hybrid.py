"""Recommenders made of others, or of the user's own history: repurchase, blends, and factors for
cold items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Interactions
from recsys.recommenders.base import (
    Reason,
    Recommender,
    check_at_least,
    check_choice,
    check_one_per_item,
    checked_vectors,
    empty_lists,
    heaviest,
    take_top_k,
)
from recsys.recommenders.factors import ALS

RIDGES = tuple(10.0**power for power in range(-6, 4))
USERS = 16_384
"""Users whose lists are searched at a time."""


@dataclass
class Repurchase(Recommender):
    """What the user bought before, most recent or most often first.

    Score of an item = sum over the user's purchases of it of 0.5 ** (age / half_life_days), age in
    days before the last training event; None: the number of purchases. By design it recommends
    nothing when seen items are excluded.
    """

    name: ClassVar[str] = "repurchase"

    half_life_days: float | None = 30.0

    def __post_init__(self) -> None:
        if self.half_life_days is not None and not self.half_life_days > 0:
            raise InputError(
                f"repurchase: half_life_days must be above 0, got {self.half_life_days}"
            )

    def _fit(self, train: Interactions) -> None:
        self._scores = train.counts
        if self.half_life_days is not None and train.event_times is not None:
            times = train.event_times
            day = 1.0 if train.time_unit == "D" else 86_400.0
            age = (float(times.max()) - times.astype(np.float64)) / day
            worth = np.exp2(-age / self.half_life_days)
            worth = np.maximum(worth, np.finfo(np.float32).tiny)  # long ago still outranks never
            self._scores = np.bincount(train.event_pairs, worth, minlength=train.n_pairs).astype(
                np.float32
            )

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        itself = (
            np.arange(train.n_items + 1, dtype=np.int64),
            np.arange(train.n_items, dtype=np.int32),
            np.ones(train.n_items, np.float32),
        )
        query = (train.indptr, train.indices, self._scores)
        return take_top_k(train, rows, rows, query, itself, k, exclude_seen)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        train = self.fitted()
        row = slice(int(train.indptr[user_idx]), int(train.indptr[user_idx + 1]))
        at = np.flatnonzero(train.indices[row] == item_idx)
        return [Reason(item_idx, float(self._scores[row][p]), "item") for p in at][:n]


@dataclass
class Blend(Recommender):
    """A weighted blend of the lists of other recommenders, of the `depth` best of each.

    by "rank": an item at rank r (from 1) of a list gets weight / (r + 60) from it (reciprocal rank
    fusion, Cormack et al., 2009). by "score": weight * (s - low) / (high - low), low and high being
    the ends of that user's list; 1 where they coincide. An item outside a list gets nothing from
    it. Fitting the blend fits its parts.
    """

    name: ClassVar[str] = "blend"

    parts: Sequence[Recommender]
    weights: Sequence[float] | None = None
    """One per part, positive; None: all 1."""
    by: str = "rank"
    depth: int = 200

    def __post_init__(self) -> None:
        check_choice("blend: by", self.by, ("rank", "score"))
        check_at_least("blend: depth", self.depth, 1)
        if not self.parts:
            raise InputError("blend: expected at least one recommender to blend")
        weights = [1.0] * len(self.parts) if self.weights is None else list(self.weights)
        if len(weights) != len(self.parts) or not all(0 < w < float("inf") for w in weights):
            raise InputError(
                f"blend: expected {len(self.parts)} positive weights, one for each recommender, "
                f"got {weights}"
            )
        self.weights = weights

    @property
    def signature(self) -> str:
        """The parts with their weights."""
        assert self.weights is not None
        pairs = zip(self.weights, self.parts, strict=True)
        inside = " + ".join(f"{weight:g} {part.signature}" for weight, part in pairs)
        return f"blend({inside},by={self.by},depth={self.depth})"

    def _fit(self, train: Interactions) -> None:
        for part in self.parts:
            part.fit(train)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        depth = min(max(self.depth, k), train.n_items)
        indices: list[npt.NDArray[np.int32]] = []
        values: list[npt.NDArray[np.float32]] = []
        assert self.weights is not None
        for part, weight in zip(self.parts, self.weights, strict=True):
            item_idx, scores = part.recommend(rows, depth, exclude_seen=exclude_seen)
            indices.append(item_idx)
            values.append((weight * self._shares(item_idx, scores)).astype(np.float32))
        # The lists of all parts side by side are rows of a sparse matrix, added up item by item.
        listed, shares = np.hstack(indices), np.hstack(values)
        kept = listed >= 0
        itself = (
            np.arange(train.n_items + 1, dtype=np.int64),
            np.arange(train.n_items, dtype=np.int32),
            np.ones(train.n_items, np.float32),
        )
        query = (np.concatenate(([0], np.cumsum(kept.sum(axis=1)))), listed[kept], shares[kept])
        own = np.arange(rows.size, dtype=np.int32)
        return take_top_k(train, own, rows, query, itself, k, exclude_seen)

    def _shares(self, item_idx: Int32, scores: Float32) -> npt.NDArray[np.float64]:
        """(n, depth) what each place of a list is worth, above 0 so that it stays listed."""
        if self.by == "rank":
            return np.broadcast_to(1.0 / (np.arange(item_idx.shape[1]) + 61.0), item_idx.shape)
        listed = item_idx >= 0
        high = np.where(listed, scores, -np.inf).max(axis=1, keepdims=True)
        low = np.where(listed, scores, np.inf).min(axis=1, keepdims=True)
        with np.errstate(invalid="ignore"):
            shares = (scores.astype(np.float64) - low) / (high - low)
        shares = np.where(high > low, shares, 1.0)
        return np.maximum(np.where(listed, shares, 0.0), 1e-12)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        """The reasons of the parts, each in the unit of its own score times its weight."""
        assert self.weights is not None
        return heaviest(
            [
                Reason(reason.idx, weight * reason.weight, reason.kind)
                for part, weight in zip(self.parts, self.weights, strict=True)
                for reason in part.explain(user_idx, item_idx, n=n)
            ],
            n,
        )


@dataclass(eq=False)
class ContentToALS(Recommender):
    """ALS whose rarely bought items borrow factors predicted from their vectors.

    A ridge regression maps vectors to the item factors that ALS learned,

        W, c = argmin sum over bought items i of sqrt(n_i) |q_i - c - W f_i|^2 + ridge |W|^2,

    n_i being the users who took i, and item i is ranked with (n_i q_i + support (c + W f_i)) /
    (n_i + support): a cold item by its vectors alone, a popular one by its purchases. (After
    Gantner et al., 2010, who map attributes to factors.) With weights 1 instead of sqrt(n_i) cold
    items are too short to be ranked high, with n_i they crowd out the others.

    Items without a vector keep their ALS factors; without purchases besides they are never
    recommended (`n_without_vector` counts items without a vector). Users without history get empty
    lists.
    """

    name: ClassVar[str] = "content-to-als"

    vectors: Any = field(repr=False)
    """(n_items, dim) float32, in the order of the training items."""
    valid: npt.NDArray[np.bool_] | None = field(default=None, repr=False)
    """(n_items,) False where there is no vector; a zero vector counts as none in any case."""
    encoder: str = ""
    """Signature of the vectors."""
    support: float = 5.0
    """Purchases that the prediction is worth; 0 leaves every bought item its own factors."""
    ridge: float | None = None
    """In units of the mean eigenvalue of the vectors' (weighted) scatter; None: chosen among powers
    of ten by generalised cross-validation."""
    factors: int = 64
    regularization: float = 10.0
    """Of ALS, with the parameters beside it. Stronger than the row's own: factors that follow a
    handful of purchases can't be predicted."""
    alpha: float = 1.0
    iterations: int = 15
    seed: int = 0
    device: Literal["auto", "cpu", "cuda"] = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        self.vectors, self.valid = checked_vectors(self.vectors, self.valid, dense=self.name)
        check_at_least(f"{self.name}: support", self.support, 0)
        if self.ridge is not None and not self.ridge > 0:
            raise InputError(f"{self.name}: ridge must be above 0, got {self.ridge}")
        check_at_least(f"{self.name}: factors", self.factors, 1)
        check_at_least(f"{self.name}: iterations", self.iterations, 1)

    @property
    def n_without_vector(self) -> int:
        """Items whose factors are those of ALS, or that can't be recommended."""
        assert self.valid is not None
        return int((~self.valid).sum())

    def _fit(self, train: Interactions) -> None:
        from recsys.similarity import ItemIndex

        check_one_per_item(self.name, self.vectors, train)
        assert self.valid is not None
        self.als = ALS(
            factors=self.factors,
            regularization=self.regularization,
            iterations=self.iterations,
            seed=self.seed,
            alpha=self.alpha,
        ).fit(train)
        """The model the factors come from."""
        own, counts = self.als.item_factors, train.item_counts.astype(np.float64)
        taught = self.valid & (counts > 0)
        self.chosen_ridge = 0.0
        """The ridge that was used."""
        mixed = np.where(counts[:, None] > 0, own, 0).astype(np.float32)
        if taught.any():
            targets, weights = own[taught].astype(np.float64), np.sqrt(counts[taught])
            predicted, self.chosen_ridge = _map_to(
                self.vectors, taught, targets, weights, self.ridge
            )
            share = (counts / np.maximum(counts + self.support, 1e-12))[:, None]
            mixed[self.valid] = (share * mixed + (1 - share) * predicted)[self.valid]
        known = self.valid | (counts > 0) if taught.any() else counts > 0
        self.item_factors = np.ascontiguousarray(mixed, np.float32)
        """(n_items, factors) float32: what items are ranked with."""
        self._index = ItemIndex(self.item_factors, known)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        item_idx, scores = empty_lists(rows.size, k)
        asked = np.flatnonzero(np.diff(train.indptr)[rows] > 0)
        for start in range(0, asked.size, USERS):
            at = asked[start : start + USERS]
            item_idx[at], scores[at] = self._index.top_k(
                self.als.user_factors[rows[at]],
                k,
                exclude=train.matrix[rows[at]] if exclude_seen else None,
                device=self.device,
            )
        return item_idx, scores

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        """What each bought item added to the score.

        With Y the item factors of ALS and c_i = alpha r_ui (as implicit takes it) for the bought
        items i, a user's factors x solve (Y'Y + sum of (c_i - 1) y_i y_i' + regularization I) x =
        sum of c_i y_i (Hu et al., 2008), so the score is a sum over the bought items. ALS stops
        near that solution: the weights add up to the score but for what more iterations would
        change.
        """
        train = self.fitted()
        row = slice(int(train.indptr[user_idx]), int(train.indptr[user_idx + 1]))
        items = train.indices[row]
        if not items.size or not self.item_factors[item_idx].any():
            return []
        every = self.als.item_factors.astype(np.float64)
        bought, confidence = every[items], self.alpha * train.counts[row].astype(np.float64)
        gram = every.T @ every + self.regularization * np.eye(every.shape[1])
        gram += (bought.T * (confidence - 1)) @ bought
        shares = (bought * confidence[:, None]) @ np.linalg.solve(
            gram, self.item_factors[item_idx].astype(np.float64)
        )
        return heaviest(
            [
                Reason(int(i), float(share), "item")
                for i, share in zip(items, shares, strict=True)
                if share
            ],
            n,
        )


def _map_to(
    vectors: Float32,
    taught: npt.NDArray[np.bool_],
    targets: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
    ridge: float | None,
) -> tuple[npt.NDArray[np.float64], float]:
    """Predicted targets of every row by weighted ridge regression, and the ridge.

    vectors (n, dim); targets and weights of its `taught` rows. The eigenvectors of the smaller of
    X'X and XX' serve every ridge; generalised cross-validation (Golub et al., 1979) divides the
    residual by (rows - degrees of freedom)^2.
    """
    x = vectors[taught].astype(np.float64)
    total = weights.sum()
    middle, base = weights @ x / total, weights @ targets / total
    root = np.sqrt(weights)[:, None]
    x, y = (x - middle) * root, (targets - base) * root
    wide = x.shape[1] > x.shape[0]
    values, basis = np.linalg.eigh(x @ x.T if wide else x.T @ x)
    values = np.maximum(values, 0)
    scale = max(values.mean(), 1e-24)
    # Coordinates of y in the basis of the rows of x: the fit is a shrinkage of each.
    kept = values > 1e-10 * values.max(initial=0)
    spread = np.sqrt(values[kept])
    left = basis[:, kept] if wide else x @ basis[:, kept] / spread
    seen = left.T @ y
    outside = max(float((y**2).sum() - (seen**2).sum()), 0.0)

    def error(candidate: float) -> float:
        shrunk = values[kept] / (values[kept] + candidate * scale)
        residual = outside + float((((1 - shrunk)[:, None] * seen) ** 2).sum())
        return residual / max(len(x) - 1 - float(shrunk.sum()), 1e-9) ** 2

    chosen = min(RIDGES, key=error) if ridge is None else ridge
    inner = (spread / (values[kept] + chosen * scale))[:, None] * seen
    right = x.T @ (left / spread) if wide else basis[:, kept]
    mapping = right @ inner
    return (vectors - middle) @ mapping + base, chosen
