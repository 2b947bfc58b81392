"""The one interface of every recommender: fit on interactions, then ranked lists in batches."""

import dataclasses
from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Int64, Interactions


class Reason(NamedTuple):
    """One thing that carried a recommendation."""

    idx: int
    """Row of a neighbour user, or column of an item the user took (see `kind`)."""
    weight: float
    """Its share of the score, in the unit of the score."""
    kind: str
    """"user" or "item"."""


class Recommender(ABC):
    """Ranks the items of a catalogue for users; every subclass passes one conformance suite.

    A subclass is a dataclass whose fields are its parameters. It implements `_fit` and
    `_recommend`; checking, padding and "not fitted" are done here once.
    """

    name: ClassVar[str] = ""
    train: Interactions | None = None

    def fit(self, train: Interactions) -> Self:
        """Learn from `train`. Raises InputError when it holds no event."""
        if train.n_events == 0:
            raise InputError(f"{self.name}: cannot fit on interactions without any event")
        self._fit(train)
        self.train = train
        return self

    def recommend(
        self, user_idx: npt.ArrayLike, k: int, *, exclude_seen: bool
    ) -> tuple[Int32, Float32]:
        """The k best items of each user.

        user_idx: (n,) rows of the interactions fitted on. Returns item_idx int32 (n, k) and scores
        float32 (n, k), best first; equal scores in the order of the item's number; where fewer than
        k items can be ranked the rest is -1 / -inf. With `exclude_seen` the items of the user's
        training events are left out. The list of a user does not depend on the rest of the batch.

        Raises InputError: not fitted, k < 1, or a row out of range.
        """
        train = self.fitted()
        users = np.asarray(user_idx)
        if users.ndim != 1 or (users.size and users.dtype.kind not in "iu"):
            raise InputError(
                f"user_idx must be one-dimensional integers, got shape {users.shape} of "
                f"{users.dtype}: look ids up with Interactions.user_idx"
            )
        if users.size and (users.min() < 0 or users.max() >= train.n_users):
            raise InputError(
                f"user_idx must lie in 0..{train.n_users - 1}, found {users.min()}..{users.max()}"
            )
        if k < 1:
            raise InputError(f"k must be at least 1, got {k}")
        rows = np.require(users, np.int32, ["C", "W", "A"])
        item_idx = np.full((rows.size, k), -1, np.int32)
        scores = np.full((rows.size, k), -np.inf, np.float32)
        width = min(k, train.n_items)
        if rows.size and width:
            found, found_scores = self._recommend(rows, width, exclude_seen)
            item_idx[:, :width], scores[:, :width] = found, found_scores
        return item_idx, scores

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        """The at most n neighbours or taken items that carried this item, heaviest first.

        Empty where this recommender has no such thing, or nothing carried the item.
        """
        return []

    @property
    def signature(self) -> str:
        """Name and parameters, as every reported number carries them."""
        fields: list[str] = []
        if dataclasses.is_dataclass(self):
            for f in dataclasses.fields(self):
                if f.repr and f.init:
                    value = getattr(self, f.name)
                    text = value.signature if isinstance(value, Recommender) else f"{value}"
                    fields.append(f"{f.name}={text}")
        return f"{self.name}({','.join(fields)})"

    def fitted(self) -> Interactions:
        """The interactions fitted on, or InputError."""
        if self.train is None:
            raise InputError(f"{self.name} is not fitted: call fit(train) first")
        return self.train

    @abstractmethod
    def _fit(self, train: Interactions) -> None: ...

    @abstractmethod
    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        """As `recommend`, with checked rows and 1 <= k <= n_items."""


def empty_lists(n: int, k: int) -> tuple[Int32, Float32]:
    """item_idx (n, k) of -1 and scores (n, k) of -inf."""
    return np.full((n, k), -1, np.int32), np.full((n, k), -np.inf, np.float32)


def seen_rows(train: Interactions, exclude_seen: bool) -> tuple[Int64, Int32]:
    """Row pointer and columns to leave out; both empty where nothing is."""
    if exclude_seen:
        return train.indptr, train.indices
    return np.empty(0, np.int64), np.empty(0, np.int32)


def take_top_k(
    train: Interactions,
    query_rows: Int32,
    users: Int32,
    query: tuple[Int64, Int32, Float32],
    matrix: tuple[Int64, Int32, Float32],
    k: int,
    exclude_seen: bool,
) -> tuple[Int32, Float32]:
    """Top-k of Q[query_rows] @ M for `users`; CSR both, empty query weights mean 1 everywhere."""
    from recsys import kernels

    item_idx, scores = empty_lists(users.size, k)
    seen = seen_rows(train, exclude_seen)
    kernels.run_blocks(
        users.size,
        kernels.block_of(users.size, 16_384),
        lambda start, stop: kernels.product_top_k(
            query_rows, users, *query, *matrix, *seen, train.n_items, item_idx, scores, start, stop
        ),
    )
    return item_idx, scores


def heaviest(reasons: list[Reason], n: int) -> list[Reason]:
    """The n reasons of largest weight, equal ones by the lowest number."""
    return sorted(reasons, key=lambda reason: (-reason.weight, reason.idx))[:n]


def checked_vectors(
    vectors: Any, valid: npt.NDArray[np.bool_] | None, *, dense: str = ""
) -> tuple[Any, npt.NDArray[np.bool_]]:
    """Vectors (n_items, dim) as float32 (array or CSR) and which rows have one.

    A row counts where `valid` (None: everywhere) and its norm is above 0. With `dense`, the name of
    a recommender that needs an array, CSR is refused.

    Raises InputError: not two dimensions, NaN or infinite values, `valid` of another length.
    """
    from scipy import sparse

    if sparse.issparse(vectors):
        if dense:
            raise InputError(
                f"{dense} needs an array of vectors, got a sparse matrix of "
                f"{vectors.shape[1]:,} dimensions: reduce it first (recsys.encoders.reduced)"
            )
        vectors = sparse.csr_matrix(vectors, dtype=np.float32)
    else:
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if vectors.ndim != 2:
            raise InputError(f"vectors have shape {vectors.shape}; expected (n_items, dim)")
    n = vectors.shape[0]
    valid = np.ones(n, dtype=bool) if valid is None else np.asarray(valid, dtype=bool)
    if valid.shape != (n,):
        raise InputError(f"valid has shape {valid.shape}; expected ({n},), one per vector")
    data = vectors.data if sparse.issparse(vectors) else vectors
    if not np.isfinite(data).all():
        raise InputError("vectors hold NaN or infinite values; set those rows to 0, valid to False")
    return vectors, valid & (vector_norms(vectors) > 0)


def check_one_per_item(name: str, vectors: Any, train: Interactions) -> None:
    """InputError where there is not one vector for every item of `train`."""
    if vectors.shape[0] != train.n_items:
        raise InputError(
            f"{name}: {vectors.shape[0]} vectors for {train.n_items} items; "
            "expected one row per item of the training interactions, in their order"
        )


def vector_norms(vectors: Any) -> npt.NDArray[np.float64]:
    """(n,) float64 norms of the rows of an array or a CSR matrix."""
    if hasattr(vectors, "multiply"):
        square = vectors.multiply(vectors).sum(axis=1)
        return np.sqrt(np.asarray(square, dtype=np.float64).ravel())  # type: ignore[no-any-return]
    square = np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64)
    return np.sqrt(square)  # type: ignore[no-any-return]


def unit_rows(vectors: Any) -> Any:
    """Rows scaled to norm 1, float32; rows of zeros stay."""
    from scipy import sparse

    norms = vector_norms(vectors)
    if sparse.issparse(vectors):
        scale = np.where(norms > 0, 1 / np.maximum(norms, 1e-300), 0).astype(np.float32)
        return sparse.csr_matrix(sparse.diags(scale) @ vectors, dtype=np.float32)
    return (vectors / np.maximum(norms, 1e-300)[:, None]).astype(np.float32)


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """InputError where `value` is none of the choices."""
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_at_least(name: str, value: float, low: float) -> None:
    """InputError where value < low."""
    if not value >= low:
        raise InputError(f"{name} must be at least {low}, got {value}")
