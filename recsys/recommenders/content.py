"""Content: profiles and neighbours by any vectors of the items, and TF-IDF vectors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

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
    take_top_k,
    unit_rows,
)
from recsys.recommenders.neighbours import NO_WEIGHTS, compact, taken_items
from recsys.similarity import Device, ItemIndex, Method

_USERS = 16_384
"""Profiles held in memory at a time."""


@dataclass(eq=False)
class ContentRecommender(Recommender):
    """Ranks items by their mean cosine similarity to the items a user bought.

    A user's profile is the mean of the L2-normalised vectors of the bought items, its inner product
    with a normalised item vector is the score. Items without a vector enter no profile and are
    never recommended (`n_without_vector` counts them); users who bought nothing with a vector get
    empty lists. Works with arrays and, for TF-IDF, with scipy CSR matrices.
    """

    name: ClassVar[str] = "content"

    vectors: Any = field(repr=False)
    """(n_items, dim) float32 array or scipy CSR matrix, in the order of the training items."""
    valid: NDArray[np.bool_] | None = field(default=None, repr=False)
    """(n_items,) False where there is no vector; a zero vector counts as none in any case."""
    weighting: Literal["unique", "count"] = "unique"
    """"unique": every bought item once; "count": as often as it was bought."""
    encoder: str = ""
    """Signature of the vectors."""
    method: Method = "auto"
    """See `ItemIndex.top_k`; "ivf", "hnsw" and "pq" are approximate."""
    device: Device = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        check_choice("weighting", self.weighting, ("unique", "count"))
        vectors, self.valid = checked_vectors(self.vectors, self.valid)
        self.vectors = unit_rows(vectors)

    @property
    def n_without_vector(self) -> int:
        """Items that this recommender can neither use nor recommend."""
        return int((~self._valid).sum())

    @cached_property
    def index(self) -> ItemIndex:
        """The searched vectors; `index.recall` says what an approximate method found."""
        return ItemIndex(self.vectors, self._valid)

    @property
    def _valid(self) -> NDArray[np.bool_]:
        valid = self.valid
        assert valid is not None
        return valid

    def _fit(self, train: Interactions) -> None:
        check_one_per_item(self.name, self.vectors, train)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        bought = self.fitted().matrix
        ids = np.full((len(rows), k), -1, dtype=np.int32)
        scores = np.full((len(rows), k), -np.inf, dtype=np.float32)
        for lo in range(0, len(rows), _USERS):
            seen = bought[rows[lo : lo + _USERS]]
            profiles, known = self._profiles(seen)
            at = lo + np.flatnonzero(known)
            ids[at], scores[at] = self.index.top_k(
                profiles[known],
                k,
                exclude=seen[known] if exclude_seen else None,
                method=self.method,
                device=self.device,
            )
        return ids, scores

    def _profiles(self, seen: Any) -> tuple[Any, NDArray[np.bool_]]:
        """Profiles of the rows of `seen`, and which rows bought an item with a vector."""
        from scipy import sparse

        weights = sparse.csr_matrix(seen, dtype=np.float32, copy=True)
        if self.weighting == "unique":
            weights.data[:] = 1
        weights.data *= self._valid[weights.indices]
        total = np.asarray(weights.sum(axis=1), dtype=np.float32).ravel()
        scale = sparse.diags(1 / np.maximum(total, np.float32(1e-12)), dtype=np.float32)
        profiles = (scale @ weights) @ self.vectors
        return profiles, total > 0

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        """The bought items most like the item; their weights add up to its score."""
        seen = self.fitted().matrix[[user_idx]]
        weights = seen.data if self.weighting == "count" else np.ones(seen.nnz, dtype=np.float32)
        weights = weights * self._valid[seen.indices]
        if weights.sum() == 0 or not self._valid[item_idx]:
            return []
        cosine = self.vectors[seen.indices] @ self.vectors[[item_idx]].T
        cosine = np.asarray(cosine.todense() if hasattr(cosine, "todense") else cosine).ravel()
        share = cosine * weights / weights.sum()
        order = np.lexsort((seen.indices, -share))[:n]
        return [Reason(int(seen.indices[i]), float(share[i]), "item") for i in order if share[i]]


@dataclass(eq=False)
class VectorKNN(Recommender):
    """ItemKNN whose neighbours are those of the vectors.

    score(u, j) = sum over items i that u took, with j among the k items of largest positive cosine
    to i (i itself is none of them), of r_ui cos(f_i, f_j); r_ui is 1, or with weighting "count" the
    number of purchases. Equal cosines are ordered by the lowest number. Items without a vector are
    nobody's neighbour and have none (`n_without_vector` counts them). Cold items take part.
    """

    name: ClassVar[str] = "itemknn-vectors"

    vectors: Any = field(repr=False)
    """(n_items, dim) float32 array or scipy CSR matrix, in the order of the training items; a part
    scaled by w counts w^2 in the cosine."""
    valid: NDArray[np.bool_] | None = field(default=None, repr=False)
    """(n_items,) False where there is no vector; a zero vector counts as none in any case."""
    encoder: str = ""
    """Signature of the vectors."""
    k: int = 20
    """Neighbours of an item."""
    weighting: Literal["unique", "count"] = "unique"
    device: Device = field(default="auto", repr=False)

    def __post_init__(self) -> None:
        check_choice(f"{self.name}: weighting", self.weighting, ("unique", "count"))
        check_at_least(f"{self.name}: k", self.k, 1)
        vectors, self.valid = checked_vectors(self.vectors, self.valid)
        self.vectors = unit_rows(vectors)

    @property
    def n_without_vector(self) -> int:
        """Items that this recommender can neither use nor recommend."""
        assert self.valid is not None
        return int((~self.valid).sum())

    def _fit(self, train: Interactions) -> None:
        from scipy import sparse

        check_one_per_item(self.name, self.vectors, train)
        assert self.valid is not None
        n = train.n_items
        asked = np.flatnonzero(self.valid & (train.item_counts > 0))
        neighbours, cosines = empty_lists(n, self.k)
        itself = sparse.csr_matrix(
            (np.ones(asked.size, np.float32), (np.arange(asked.size), asked)), (asked.size, n)
        )
        found, found_cosines = ItemIndex(self.vectors, self.valid).top_k(
            self.vectors[asked], self.k, exclude=itself, device=self.device
        )
        found[found_cosines <= 0] = -1
        neighbours[asked], cosines[asked] = found, found_cosines
        self._similar = compact(neighbours, cosines)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        query = (
            train.indptr, train.indices, NO_WEIGHTS if self.weighting == "unique" else train.counts
        )  # fmt: skip
        return take_top_k(train, rows, rows, query, self._similar, k, exclude_seen)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        """The bought items that have the item among their neighbours; weights add up to its score
        where n is large enough."""
        weighted = self.weighting == "count"
        return taken_items(self.fitted(), self._similar, user_idx, item_idx, n, weighted=weighted)


def tfidf_vectors(
    texts: Sequence[str | None], *, min_df: int = 1, max_features: int | None = None
) -> tuple[Any, NDArray[np.bool_]]:
    """TF-IDF vectors of the article texts: the honest baseline of every sentence encoder.

    Unigrams and bigrams, sublinear term frequency, smoothed idf over the distinct texts (colour
    variants that share a description would otherwise count as many documents), L2-normalised.

    Returns:
        CSR (n, n_terms) float32 and valid (n,) bool, False where the text is missing or blank.
    """
    from scipy import sparse
    from sklearn.feature_extraction.text import (  # type: ignore[import-untyped, unused-ignore]
        TfidfVectorizer,
    )

    plain = [(text or "").strip() for text in texts]
    distinct = sorted({text for text in plain if text})
    model = TfidfVectorizer(
        ngram_range=(1, 2),
        sublinear_tf=True,
        min_df=min_df,
        max_features=max_features,
        dtype=np.float32,
        token_pattern=r"(?u)\b\w+\b",  # noqa: S106
    )
    try:
        known = model.fit_transform(distinct)
    except ValueError as error:
        raise InputError(f"no words in {len(plain)} article texts: {error}") from error
    row = {text: i for i, text in enumerate(distinct)}
    nothing = sparse.csr_matrix((1, known.shape[1]), dtype=np.float32)
    rows = [row.get(text, len(distinct)) for text in plain]
    vectors = sparse.csr_matrix(sparse.vstack([known, nothing]).tocsr()[rows])
    return vectors, np.diff(vectors.indptr) > 0
