"""One cell of an experiment: where a recommender put what customers went on to buy.

A cell keeps the rank of every test pair, nothing else: every metric of relevance, on every slice,
follows from these. Cells lie in the cache under the content of all that decides them, so that an
experiment goes on after it was killed and another one takes what they share.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines.workspace import atomic_file, content_key, version

if TYPE_CHECKING:
    from recsys.recommenders.base import Recommender
    from recsys.splits import Split

Int32 = NDArray[np.int32]
Mask = NDArray[np.bool_]

ALL, COLD_ALONE = "all", "cold alone"
"""Slices: everything; the cold articles where only these are ranked."""
FORMAT = 1
"""Part of every cell's key: raise it when the meaning of a cell changes."""
SMALL = 5_000
"""Articles up to which whole rankings are drawn where a recommender can't be told candidates."""
USERS_A_BLOCK = 4_096


@dataclass(frozen=True)
class Ranks:
    """Ranks of the test pairs, in the order of `Bench.pair_users`."""

    ranks: Int32
    """(n_pairs,) from 1; 0 beyond the depth or not listed."""
    cold: Int32
    """(n_pairs,) rank among cold articles alone; 0 likewise, -1 where it was not asked."""
    seconds: float
    """What fitting and ranking took; reading vectors not counted."""


class Bench:
    """What stays the same over all cells: the split, its pairs, how deep is looked.

    Args:
        split: what is learned from and what is predicted.
        depth: ranks looked at.
        exclude_seen: leave bought articles out of the lists.
        cold_users: at most so many users, drawn by `seed`, get a ranking of cold articles alone.
    """

    def __init__(
        self, split: Split, *, depth: int, exclude_seen: bool, cold_users: int, seed: int
    ) -> None:
        self.split, self.depth, self.exclude_seen = split, depth, exclude_seen
        self.users: Int32 = split.test_users
        self.truth = split.test.matrix[self.users]
        self.truth.sort_indices()
        self.n_items = int(split.train.n_items)
        counts = np.diff(self.truth.indptr)
        self.pair_users: Int32 = np.repeat(np.arange(len(self.users), dtype=np.int32), counts)
        """(n_pairs,) place of the user in `users`."""
        self.pair_items: Int32 = self.truth.indices.astype(np.int32)
        self.cold: Mask = split.train.item_counts == 0
        """(n_items,) without a training purchase."""
        asked = np.unique(self.pair_users[self.cold[self.pair_items]])
        if len(asked) > cold_users:
            drawn = np.random.default_rng([seed, 1]).choice(asked, cold_users, replace=False)
            asked = np.sort(drawn)
        self.cold_users: Int32 = asked.astype(np.int32)
        """Places in `users` of those for whom cold articles are ranked alone."""

    @cached_property
    def _keys(self) -> NDArray[np.int64]:
        return self.pair_users.astype(np.int64) * self.n_items + self.pair_items

    def measure(self, recommender: Recommender) -> Ranks:
        """Fit on the training part and look where the test pairs stand."""
        started = time.monotonic()
        recommender.fit(self.split.train)
        ranks = np.zeros(len(self.pair_items), dtype=np.int32)
        for lo in range(0, len(self.users), USERS_A_BLOCK):
            places = np.arange(lo, min(lo + USERS_A_BLOCK, len(self.users)))
            lists, _ = recommender.recommend(
                self.users[places], self.depth, exclude_seen=self.exclude_seen
            )
            self._place(ranks, places, lists)
        cold = np.full(len(self.pair_items), -1, dtype=np.int32)
        asked = np.isin(self.pair_users, self.cold_users) & self.cold[self.pair_items]
        listed = self._cold_lists(recommender)
        if listed is not None:
            cold[asked] = 0
            self._place(cold, self.cold_users, listed)
        return Ranks(ranks, cold, time.monotonic() - started)

    def nothing(self) -> Ranks:
        """Ranks where nothing can be ranked."""
        asked = np.isin(self.pair_users, self.cold_users) & self.cold[self.pair_items]
        zero = np.zeros(len(self.pair_items), dtype=np.int32)
        return Ranks(zero, np.where(asked, 0, -1).astype(np.int32), 0.0)

    def _cold_lists(self, recommender: Recommender) -> Int32 | None:
        """(cold users, depth) lists of cold articles alone; None where that can't be had."""
        from recsys.similarity import ItemIndex

        users = self.users[self.cold_users]
        if not len(users):
            return None
        for name in ("index", "_index"):  # of those that search vectors
            whole = getattr(recommender, name, None)
            if not isinstance(whole, ItemIndex):
                continue
            valid = getattr(recommender, "valid", None)
            candidates = self.cold if valid is None else valid & self.cold
            setattr(recommender, name, ItemIndex(whole.items, candidates))
            try:
                return recommender.recommend(users, self.depth, exclude_seen=False)[0]
            finally:
                setattr(recommender, name, whole)
        if self.n_items > SMALL:
            return None
        lists = np.full((len(users), self.depth), -1, dtype=np.int32)
        whole_lists, _ = recommender.recommend(users, self.n_items, exclude_seen=False)
        for row, listed in enumerate(whole_lists):
            found = listed[listed >= 0]
            found = found[self.cold[found]][: self.depth]
            lists[row, : len(found)] = found
        return lists

    def _place(self, ranks: Int32, places: NDArray[Any], lists: Int32) -> None:
        """Write the ranks of the pairs that stand in the lists of the users at `places`."""
        row, column = np.nonzero(lists >= 0)
        keys = places[row].astype(np.int64) * self.n_items + lists[row, column]
        at = np.searchsorted(self._keys, keys)
        hit = (at < len(self._keys)) & (self._keys[np.minimum(at, len(self._keys) - 1)] == keys)
        ranks[at[hit]] = column[hit] + 1

    def values(
        self,
        found: Ranks,
        metrics: Sequence[str],
        ks: Sequence[int],
        *,
        items: Mapping[str, Mask],
        users: Mapping[str, Mask],
    ) -> dict[tuple[str, str], NDArray[np.float64]]:
        """(slice, "ndcg@12") -> (n_users,) values, NaN for users without one.

        Args:
            found: a cell's ranks.
            metrics, ks: as `recsys.metrics.score_lists`.
            items: slice -> (n_items,) bool, the relevant articles that count.
            users: slice -> (n_users,) bool.
        """
        from recsys.metrics import score_lists, score_slices

        lists = self._lists(found.ranks, max(ks))
        by_slice = {ALL: score_lists(lists, self.truth, metrics, ks)}
        by_slice |= score_slices(lists, self.truth, metrics, ks, items=items, users=users)
        if (found.cold >= 0).any():
            among = self._lists(found.cold, max(ks))
            alone = {COLD_ALONE: self.cold}
            by_slice |= score_slices(among, self.truth, metrics, ks, items=alone)
        out: dict[tuple[str, str], NDArray[np.float64]] = {}
        unasked = ~np.isin(np.arange(len(self.users)), self.cold_users)
        for part, scores in by_slice.items():
            for name, score in scores.items():
                assert score.per_user is not None
                out[part, name] = score.per_user
                if part == COLD_ALONE:
                    out[part, name] = np.where(unasked, np.nan, score.per_user)
        return out

    def _lists(self, ranks: Int32, length: int) -> Int32:
        """Lists that hold the hits alone, at their ranks: metrics of relevance see no other."""
        lists = np.full((len(self.users), length), -1, dtype=np.int32)
        hit = (ranks > 0) & (ranks <= length)
        lists[self.pair_users[hit], ranks[hit] - 1] = self.pair_items[hit]
        return lists


@dataclass(frozen=True)
class Store:
    """Finished cells by the content of all that decides them."""

    folder: Path

    def key(self, identity: Mapping[str, Any]) -> str:
        """What a cell is known by."""
        return content_key({**identity, "format": FORMAT, "version": version()})

    def load(self, key: str, n_pairs: int) -> Ranks | None:
        """A finished cell; None where there is none, or its file is damaged."""
        path = self.folder / f"{key}.parquet"
        if not path.is_file():
            return None
        try:
            frame = pl.read_parquet(path)
            metadata = pl.read_parquet_metadata(path)
            seconds = float(metadata["seconds"])
            ranks, cold = frame["rank"].to_numpy(), frame["cold_rank"].to_numpy()
        except (
            pl.exceptions.PolarsError,
            pl.exceptions.PanicException,
            KeyError,
            ValueError,
            OSError,
        ):
            return None
        found = Ranks(ranks, cold, seconds)
        whole = len(ranks) == n_pairs and metadata.get("sha256") == _digest(found)
        return found if whole else None

    def save(self, key: str, found: Ranks) -> None:
        """Keep a cell, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame({"rank": found.ranks, "cold_rank": found.cold})
        with atomic_file(self.folder / f"{key}.parquet") as file:
            about = {"seconds": repr(found.seconds), "sha256": _digest(found)}
            frame.write_parquet(file, metadata=about)


def _digest(found: Ranks) -> str:
    """Parquet itself does not notice a number that changed on the disk."""
    digest = hashlib.sha256(repr(found.seconds).encode())
    for column in (found.ranks, found.cold):
        digest.update(np.ascontiguousarray(column).data)
    return digest.hexdigest()
