"""Recommenders made of others, or of the user's own history: repurchase and blends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Interactions
from recsys.recommenders.base import (
    Reason,
    Recommender,
    check_at_least,
    check_choice,
    heaviest,
    take_top_k,
)


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
