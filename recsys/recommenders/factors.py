"""Linear and factor models: EASE in closed form, implicit's ALS and BPR."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Interactions
from recsys.recommenders.base import (
    Reason,
    Recommender,
    check_at_least,
    empty_lists,
    heaviest,
    seen_rows,
)

BLOCK_CELLS = 16 << 20
"""Cells of a block of scores: users are scored a few at a time, never all of them."""


@dataclass
class EASE(Recommender):
    """Item-item linear regression with a zero diagonal, in closed form.

    P = (X'X + l2 I)^-1, B_ij = -P_ij / P_jj off the diagonal, scores = X B. (Steck, 2019.) X is
    binary. Only items somebody took take part: m of them need 8 m^2 bytes (the double precision
    inverse, in place) plus 4 m^2 (its single precision result); `memory_bytes` says how much before
    anything is allocated, and a fit beyond `memory_limit_gb` (None: 80 % of what is free) is
    refused.
    """

    name: ClassVar[str] = "ease"

    l2: float = 500.0
    memory_limit_gb: float | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.l2 > 0:
            raise InputError(f"ease: l2 must be above 0, got {self.l2}")

    @staticmethod
    def memory_bytes(train: Interactions) -> int:
        """Peak memory of a fit, beside the interactions."""
        return 12 * int((train.item_counts > 0).sum()) ** 2

    def _fit(self, train: Interactions) -> None:
        from scipy.linalg import lapack
        from scipy.sparse import csr_matrix

        need, limit = self.memory_bytes(train), self._limit()
        self._taken = np.flatnonzero(train.item_counts > 0).astype(np.int32)
        m = self._taken.size
        if need > limit:
            raise InputError(
                f"ease needs {need / 1e9:.1f} GB for {m:,} items, and {limit / 1e9:.1f} GB may be "
                "used: keep items with more support, raise memory_limit_gb, or use rp3beta"
            )
        column = np.full(train.n_items, -1, np.int32)
        column[self._taken] = np.arange(m, dtype=np.int32)
        ones = np.ones(train.n_pairs, np.float64)
        self._x = csr_matrix((ones, column[train.indices], train.indptr), (train.n_users, m))
        gram = np.zeros((m, m), order="F")
        product = (self._x.T @ self._x).tocoo()
        gram[product.row, product.col] = product.data
        del product
        gram[np.diag_indices(m)] += self.l2
        # The Cholesky inverse works in place on one triangle.
        gram, info = lapack.dpotrf(gram, lower=1, overwrite_a=1)
        if info == 0:
            gram, info = lapack.dpotri(gram, lower=1, overwrite_c=1)
        if info:
            raise InputError(f"ease: l2={self.l2} is too small for these interactions")
        weights = np.empty((m, m), np.float32)
        scale = -1.0 / np.diag(gram)
        for start in range(0, m, 1024):
            stop = min(start + 1024, m)
            # Rows of the symmetric inverse, of which only the lower triangle was computed.
            rows = np.empty((stop - start, m))
            rows[:, :start] = gram[start:stop, :start]
            rows[:, start:] = gram[start:, start:stop].T
            square = rows[:, start:stop]
            square[:] = np.tril(square.T) + np.tril(square.T, -1).T
            weights[start:stop] = rows * scale
        weights[np.diag_indices(m)] = 0.0
        self._weights = weights
        self._x = self._x.astype(np.float32)

    def _limit(self) -> float:
        if self.memory_limit_gb is not None:
            return self.memory_limit_gb * 1e9
        import psutil

        return 0.8 * float(psutil.virtual_memory().available)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()

        def scores(users: Int32) -> Float32:
            block: Float32 = self._x[users] @ self._weights
            return block

        with_history = np.diff(train.indptr)[rows] > 0
        return dense_top_k(train, rows, k, exclude_seen, scores, self._taken, with_history)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        self.fitted()
        at = np.flatnonzero(self._taken == item_idx)
        if not at.size:
            return []
        items = self._x[user_idx].indices
        shares = self._weights[items, at[0]]
        return heaviest(
            [
                Reason(int(self._taken[i]), float(share), "item")
                for i, share in zip(items, shares, strict=True)
                if share
            ],
            n,
        )


@dataclass
class _Implicit(Recommender):
    """A factor model of the implicit package: scores are products of user and item factors.

    Items nobody took and users without history have no learnt factors: the former are not ranked,
    the latter get empty lists.
    """

    factors: int = 64
    regularization: float = 0.01
    iterations: int = 15
    seed: int = 0

    def __post_init__(self) -> None:
        check_at_least(f"{self.name}: factors", self.factors, 1)
        check_at_least(f"{self.name}: iterations", self.iterations, 1)

    def _model(self, threads: int) -> Any:
        raise NotImplementedError

    def _values(self, train: Interactions) -> Float32:
        return train.counts

    def _fit(self, train: Interactions) -> None:
        import scipy.sparse
        import threadpoolctl  # type: ignore[import-untyped]

        from recsys import kernels

        matrix = scipy.sparse.csr_matrix(
            (self._values(train), train.indices, train.indptr.astype(np.int32)),
            (train.n_users, train.n_items),
        )
        # implicit wants BLAS to stay on one thread below its own.
        with threadpoolctl.threadpool_limits(1, "blas"):
            model = self._model(kernels.thread_count())
            model.fit(matrix, show_progress=False)
        self.user_factors = np.asarray(model.user_factors, np.float32)
        """(n_users, d) float32; BPR's last column is the constant of the item bias."""
        self.item_factors = np.asarray(model.item_factors, np.float32)
        """(n_items, d) float32."""
        self._taken = np.flatnonzero(train.item_counts > 0).astype(np.int32)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        items = np.ascontiguousarray(self.item_factors[self._taken])

        def scores(users: Int32) -> Float32:
            # One row at a time: a product of many rows rounds differently with their number.
            block = np.empty((users.size, items.shape[0]), np.float32)
            for at, user in enumerate(users):
                np.dot(items, self.user_factors[user], out=block[at])
            return block

        with_history = np.diff(train.indptr)[rows] > 0
        return dense_top_k(train, rows, k, exclude_seen, scores, self._taken, with_history)


@dataclass
class ALS(_Implicit):
    """Alternating least squares; a purchase has confidence alpha, none has 1. (Hu et al., 2008.)"""

    name: ClassVar[str] = "als"

    alpha: float = 1.0

    def _model(self, threads: int) -> Any:
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(
            factors=self.factors,
            regularization=self.regularization,
            alpha=self.alpha,
            iterations=self.iterations,
            num_threads=threads,
            random_state=self.seed,
        )


@dataclass
class BPR(_Implicit):
    """Bayesian personalised ranking. (Rendle et al., 2009.)

    Trained on one thread: implicit's parallel updates race, and the result would not repeat.
    """

    name: ClassVar[str] = "bpr"

    iterations: int = 100
    learning_rate: float = 0.01

    def _model(self, threads: int) -> Any:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        return BayesianPersonalizedRanking(
            factors=self.factors,
            learning_rate=self.learning_rate,
            regularization=self.regularization,
            iterations=self.iterations,
            num_threads=1,
            random_state=self.seed,
        )

    def _values(self, train: Interactions) -> Float32:
        return np.ones_like(train.counts)


def dense_top_k(
    train: Interactions,
    rows: Int32,
    k: int,
    exclude_seen: bool,
    scores: Any,
    columns: Int32,
    with_history: npt.NDArray[np.bool_],
) -> tuple[Int32, Float32]:
    """Top-k from `scores(users) -> (n, len(columns)) float32`, a block of users at a time.

    columns: (m,) ascending items the scores are of; users without history get empty lists.
    """
    from recsys import kernels

    item_idx, best = empty_lists(rows.size, k)
    asked = np.flatnonzero(with_history)
    seen = seen_rows(train, exclude_seen)
    position = np.full(train.n_items, -1, np.int32)
    position[columns] = np.arange(columns.size, dtype=np.int32)
    block = max(1, BLOCK_CELLS // max(1, columns.size))
    for start in range(0, asked.size, block):
        places = asked[start : start + block]
        users = rows[places]
        values = np.ascontiguousarray(scores(users), np.float32)
        found, found_scores = empty_lists(users.size, k)

        def work(
            start: int,
            stop: int,
            users: Int32 = users,
            values: Float32 = values,
            found: Int32 = found,
            found_scores: Float32 = found_scores,
        ) -> None:
            kernels.dense_rows_top_k(
                users, values, columns, position, *seen, found, found_scores, start, stop
            )

        kernels.run_blocks(users.size, kernels.block_of(users.size, 1024), work)
        item_idx[places], best[places] = found, found_scores
    return item_idx, best
