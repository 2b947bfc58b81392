"""Recommenders that ignore the user's taste: random order and popularity."""

import hashlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Interactions
from recsys.recommenders.base import (
    Recommender,
    check_choice,
    empty_lists,
    seen_rows,
)


@dataclass
class Random(Recommender):
    """Every order of the catalogue equally likely; a user's order depends on (seed, user id) only.

    Scores fall evenly from 1.
    """

    name: ClassVar[str] = "random"

    seed: int = 0

    def _fit(self, train: Interactions) -> None:
        pass

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        from recsys import kernels

        train = self.fitted()
        key = str(self.seed).encode()
        seeds = np.fromiter(
            (
                int.from_bytes(hashlib.blake2b(user.encode(), digest_size=8, key=key).digest())
                for user in train.user_ids.gather(rows)
            ),
            np.uint64,
            rows.size,
        )
        item_idx, scores = empty_lists(rows.size, k)
        seen = seen_rows(train, exclude_seen)
        kernels.run_blocks(
            rows.size,
            kernels.block_of(rows.size, 65_536),
            lambda start, stop: kernels.random_top_k(
                rows, seeds, train.n_items, *seen, item_idx, scores, start, stop
            ),
        )
        return item_idx, scores


@dataclass
class MostPop(Recommender):
    """The most bought items, all time, over a recent window, or with older purchases weighing less.

    Score of an item = sum over its purchases of 0.5 ** (age / half_life_days), age being the days
    before the last training event; with `window_days` only ages below it count. Items nobody bought
    in the window are not ranked. `count` says what one purchase is: "users" (a user counts once per
    item, with the last purchase) or "events" (every purchase counts).
    """

    name: ClassVar[str] = "mostpop"

    window_days: float | None = None
    half_life_days: float | None = None
    count: str = "users"

    def __post_init__(self) -> None:
        check_choice("count", self.count, ("users", "events"))
        for name in ("window_days", "half_life_days"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"mostpop: {name} must be above 0, got {value}")

    def _fit(self, train: Interactions) -> None:
        by_user = self.count == "users"
        items = train.indices if by_user else train.event_items
        weights: npt.NDArray[np.float64] | None = None
        if self.window_days is not None or self.half_life_days is not None:
            times = train.require_times("mostpop over a window or with decay")
            stamps = train.last_times if by_user else times
            assert stamps is not None
            day = 1.0 if train.time_unit == "D" else 86_400.0
            age = (float(times.max()) - stamps.astype(np.float64)) / day
            weights = np.ones(age.size)
            if self.half_life_days is not None:
                weights = np.exp2(-age / self.half_life_days)
            if self.window_days is not None:
                weights[age >= self.window_days] = 0.0
        popularity = np.bincount(items, weights, minlength=train.n_items).astype(np.float32)
        order = np.argsort(-popularity, kind="stable").astype(np.int32)
        self._order = order[popularity[order] > 0]
        self._popularity = popularity

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        from recsys import kernels

        item_idx, scores = empty_lists(rows.size, k)
        seen = seen_rows(self.fitted(), exclude_seen)
        ranked = self._popularity[self._order]
        kernels.run_blocks(
            rows.size,
            kernels.block_of(rows.size, 65_536),
            lambda start, stop: kernels.ranked_top_k(
                rows, self._order, ranked, *seen, item_idx, scores, start, stop
            ),
        )
        return item_idx, scores
