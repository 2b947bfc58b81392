"""Content: the items most like what a user bought, by any vectors of the items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from recsys import InputError
from recsys.interactions import Float32, Int32, Interactions
from recsys.recommenders.base import Reason, Recommender, check_choice
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
        self.vectors, self.valid = _normalise(self.vectors, self.valid)

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
        if self.vectors.shape[0] != train.n_items:
            raise InputError(
                f"{self.name}: {self.vectors.shape[0]} vectors for {train.n_items} items; "
                "expected one row per item of the training interactions, in their order"
            )

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


def _normalise(vectors: Any, valid: NDArray[np.bool_] | None) -> tuple[Any, NDArray[np.bool_]]:
    from scipy import sparse

    if not sparse.issparse(vectors):
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
    if sparse.issparse(vectors):
        square = vectors.multiply(vectors).sum(axis=1)
        norms = np.sqrt(np.asarray(square, dtype=np.float64).ravel())
        scale = np.where(norms > 0, 1 / np.maximum(norms, 1e-300), 0).astype(np.float32)
        unit = sparse.csr_matrix(sparse.diags(scale) @ vectors, dtype=np.float32)
    else:
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        unit = (vectors / np.maximum(norms, 1e-300)[:, None]).astype(np.float32)
    return unit, valid & (norms > 0)
