"""Nearest-neighbour and random-walk recommenders: UserKNN, ItemKNN, P3alpha, RP3beta.

Neighbours are exact. With binary weighting a similarity is a function of the number of common
users (items) and the two sizes, and is computed from integer overlaps with a blocked inverted
index; weighted similarities are a sparse product. Either way equal similarities are ordered by the
lowest number, and no matrix of users x items (or items x items) is ever filled in.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from recsys import InputError
from recsys.interactions import Float32, Int32, Int64, Interactions
from recsys.recommenders.base import (
    Reason,
    Recommender,
    check_at_least,
    check_choice,
    empty_lists,
    heaviest,
    take_top_k,
)

Csr = tuple[Int64, Int32, Float32]
SIMILARITIES = ("cosine", "asymmetric", "jaccard", "dot")
WEIGHTINGS = ("binary", "counts", "tfidf", "bm25")
QUERY_BATCH = 2_048
NO_WEIGHTS = np.empty(0, np.float32)


@dataclass
class _Neighbours(Recommender):
    """Parameters of UserKNN and ItemKNN. Below, x and y are two rows (users, or items).

    similarity, of binary rows with sizes |x|, |y| and c common entries:
        cosine      c / (sqrt(|x| |y|) + shrink)
        asymmetric  c / (|x|^(2 alpha) |y|^(2 (1 - alpha)) + shrink), with |.| = sqrt(size); x is
                    the row whose neighbours are sought
        jaccard     c / (|x| + |y| - c + shrink)
    weighting: "counts" uses the number of purchases, "tfidf" and "bm25" weigh them as implicit
    does (sqrt(count) * idf; count (K1 + 1) / (K1 * length + count) * idf, idf = log(N / (1 + df)));
    then "cosine", "asymmetric" or "dot" (the plain inner product) apply, without shrink.
    Only positive similarities make neighbours.
    self_in_k: the row itself takes one of its k places, as in Elliot and implicit.
    """

    k: int = 20
    similarity: str = "cosine"
    weighting: str = "binary"
    shrink: float = 0.0
    alpha: float = 0.5
    bm25_k1: float = 1.2
    bm25_b: float = 0.75
    self_in_k: bool = False

    def __post_init__(self) -> None:
        check_at_least(f"{self.name}: k", self.k, 1)
        check_at_least(f"{self.name}: shrink", self.shrink, 0)
        check_choice(f"{self.name}: similarity", self.similarity, SIMILARITIES)
        check_choice(f"{self.name}: weighting", self.weighting, WEIGHTINGS)
        if not 0 <= self.alpha <= 1:
            raise InputError(f"{self.name}: alpha must lie in 0..1, got {self.alpha}")
        binary = self.weighting == "binary"
        if (binary and self.similarity == "dot") or (
            not binary and (self.similarity == "jaccard" or self.shrink > 0)
        ):
            raise InputError(
                f"{self.name}: similarity {self.similarity!r} with shrink {self.shrink} is not "
                f"defined for weighting {self.weighting!r}: jaccard and shrink need 'binary', "
                "dot needs a weighting"
            )

    def _index(self, rows: Csr, taken: Int64) -> "OverlapIndex | WeightedIndex":
        """Neighbour search among `rows`; taken (n_columns,): entries of each column."""
        if self.weighting == "binary":
            return OverlapIndex(rows[0], rows[1], taken, self.similarity, self.shrink, self.alpha)
        values = self._weights(rows)
        if self.similarity == "dot":
            query = other = values
        else:
            owner = np.repeat(np.arange(rows[0].size - 1), np.diff(rows[0]))
            squares = np.bincount(owner, values * values, minlength=rows[0].size - 1)
            alpha = self.alpha if self.similarity == "asymmetric" else 0.5
            with np.errstate(divide="ignore"):
                query = values * (squares**-alpha)[owner]
                other = values * (squares ** (alpha - 1))[owner]
        indptr, indices, _ = rows
        other_t = transposed((indptr, indices, other.astype(np.float32)), taken.size)
        return WeightedIndex((indptr, indices, query.astype(np.float32)), other_t)

    def _weights(self, rows: Csr) -> npt.NDArray[np.float64]:
        indptr, terms, counts = rows
        n_rows = indptr.size - 1
        values = counts.astype(np.float64)
        if self.weighting == "counts":
            return values
        idf = np.log(n_rows) - np.log1p(np.bincount(terms))
        if self.weighting == "tfidf":
            return np.sqrt(values) * idf[terms]  # type: ignore[no-any-return]
        owner = np.repeat(np.arange(n_rows), np.diff(indptr))
        lengths = np.bincount(owner, values, minlength=n_rows)
        norm = (1 - self.bm25_b) + self.bm25_b * lengths / lengths.mean()
        k1 = self.bm25_k1
        return values * (k1 + 1) / (k1 * norm[owner] + values) * idf[terms]  # type: ignore[no-any-return]


@dataclass
class ItemKNN(_Neighbours):
    """score(u, j) = sum over items i that u took, with j among the k neighbours of i, of r_ui s_ij.

    r_ui is 1 with binary weighting, else the count. (Deshpande and Karypis, 2004.)
    """

    name: ClassVar[str] = "itemknn"

    def _fit(self, train: Interactions) -> None:
        users = (train.indptr, train.indices, train.counts)
        items = transposed(users, train.n_items)
        index = self._index(items, np.diff(train.indptr))
        every = np.arange(train.n_items, dtype=np.int32)
        self._similar = compact(*index.neighbours(every, self.k, self.self_in_k))

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        taken = NO_WEIGHTS if self.weighting == "binary" else train.counts
        query = (train.indptr, train.indices, taken)
        return take_top_k(train, rows, rows, query, self._similar, k, exclude_seen)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        weighted = self.weighting != "binary"
        return taken_items(self.fitted(), self._similar, user_idx, item_idx, n, weighted=weighted)


@dataclass
class UserKNN(_Neighbours):
    """score(u, j) = sum over the k neighbours v of u who took j of s_uv r_vj.

    r_vj is 1 with binary weighting, else the count. Neighbours are looked up when a user is first
    asked for, so a fit costs the index only.
    """

    name: ClassVar[str] = "userknn"

    k: int = 10

    def _fit(self, train: Interactions) -> None:
        users = (train.indptr, train.indices, train.counts)
        taken = _counts_by_part(train.indptr, train.indices, train.n_items)[0].sum(axis=0)
        self._searcher = self._index(users, taken)

    def neighbours(self, rows: Int32) -> tuple[Int32, Float32]:
        """The k most similar users (n, k) of `rows` and their similarities; padded -1 / -inf."""
        self.fitted()
        return self._searcher.neighbours(rows, self.k, self.self_in_k)

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        query = compact(*self.neighbours(rows))
        taken = train.counts
        if self.weighting == "binary":
            taken = np.ones_like(taken)
        matrix = (train.indptr, train.indices, taken)
        own = np.arange(rows.size, dtype=np.int32)
        return take_top_k(train, own, rows, query, matrix, k, exclude_seen)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        train = self.fitted()
        others, similarity = self.neighbours(np.array([user_idx], np.int32))
        reasons = []
        for v, s in zip(others[0].tolist(), similarity[0].tolist(), strict=True):
            if v < 0:
                break
            row = slice(int(train.indptr[v]), int(train.indptr[v + 1]))
            for count in train.counts[row][train.indices[row] == item_idx]:
                weight = 1.0 if self.weighting == "binary" else float(count)
                reasons.append(Reason(v, weight * s, "user"))
        return heaviest(reasons, n)


@dataclass
class P3alpha(Recommender):
    """Random walk user -> item -> user -> item, transition probabilities raised to alpha.

    s_ij = sum over users v of (r_vi / |i|)^alpha (r_vj / |v|)^alpha, the k largest j of each i kept
    (i itself is none of them), score(u, j) = sum over items i of u of s_ij. (Cooper et al., 2014.)
    `binary`: r is 0 or 1; else the number of purchases.
    """

    name: ClassVar[str] = "p3alpha"

    k: int = 100
    alpha: float = 1.0
    binary: bool = True

    def __post_init__(self) -> None:
        check_at_least(f"{self.name}: k", self.k, 1)
        check_at_least(f"{self.name}: alpha", self.alpha, 0)

    def _penalty(self, popularity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.ones_like(popularity)

    def _fit(self, train: Interactions) -> None:
        counts = np.ones_like(train.counts) if self.binary else train.counts
        users = (train.indptr, train.indices, counts)
        items = transposed(users, train.n_items)
        popularity = _row_sums(items)
        penalty = self._penalty(popularity)
        to_user = (items[2] / _each(items, popularity)) ** self.alpha
        to_item = (counts / _each(users, _row_sums(users))) ** self.alpha / penalty[train.indices]
        index = WeightedIndex(
            (items[0], items[1], to_user.astype(np.float32)),
            (users[0], users[1], to_item.astype(np.float32)),
        )
        every = np.arange(train.n_items, dtype=np.int32)
        self._similar = compact(*index.neighbours(every, self.k, include_self=False))

    def _recommend(self, rows: Int32, k: int, exclude_seen: bool) -> tuple[Int32, Float32]:
        train = self.fitted()
        query = (train.indptr, train.indices, NO_WEIGHTS if self.binary else train.counts)
        return take_top_k(train, rows, rows, query, self._similar, k, exclude_seen)

    def explain(self, user_idx: int, item_idx: int, *, n: int = 5) -> list[Reason]:
        return taken_items(
            self.fitted(), self._similar, user_idx, item_idx, n, weighted=not self.binary
        )


@dataclass
class RP3beta(P3alpha):
    """P3alpha with s_ij divided by |j|^beta, against the pull of popular items.

    (Paudel et al., 2017.)
    """

    name: ClassVar[str] = "rp3beta"

    beta: float = 0.6

    def _penalty(self, popularity: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.maximum(popularity, 1.0) ** self.beta  # type: ignore[no-any-return]


# ---------------------------------------------------------------- searching neighbours


class OverlapIndex:
    """Exact neighbours of binary rows through a blocked inverted index over the rows by size."""

    KINDS: ClassVar[dict[str, int]] = {"cosine": 0, "asymmetric": 1, "jaccard": 2}

    def __init__(
        self, indptr: Int64, indices: Int32, taken: Int64, similarity: str, shrink: float,
        alpha: float,
    ) -> None:  # fmt: skip
        """taken (n_columns,): entries of each column."""
        from recsys import kernels

        # Popular columns first: the long lists of a block then stand together in the cache.
        n_columns = taken.size
        popular = _ascending(taken.max(initial=0) - taken)
        renumbered = np.empty(n_columns, np.int32)
        renumbered[popular] = np.arange(n_columns, dtype=np.int32)
        own = np.empty_like(indices)
        kernels.run_blocks(
            indices.size,
            1 << 20,
            lambda start, stop: np.take(
                renumbered, indices[start:stop], out=own[start:stop], mode="clip"
            ),
        )
        indices = own
        self.indptr, self.indices, self.shrink = indptr, indices, float(shrink)
        sizes = np.diff(indptr)
        # Small rows first; equal sizes in the order of their number, so ties need no search.
        self.order = _ascending(sizes).astype(np.int32)
        self.kind = self.KINDS[similarity]
        self.query_scale = scale = sizes.astype(np.float64)
        if similarity == "asymmetric":
            self.query_scale, scale = scale**alpha, scale ** (1 - alpha)
        elif similarity == "cosine" and shrink > 0:
            self.kind = 1
            self.query_scale = scale = np.sqrt(scale)
        self.scales = scale[self.order]
        self.rank = np.empty_like(self.order)
        self.rank[self.order] = np.arange(sizes.size, dtype=np.int32)
        self.sizes = sizes
        starts = np.arange(0, sizes.size, kernels.BLOCK_ROWS)
        held = np.add.reduceat(sizes[self.order], starts)
        if held.max() >= 2**31:
            raise InputError(
                f"{held.max():,} pairs of {kernels.BLOCK_ROWS:,} rows are beyond what the index "
                "takes (2^31): drop the longest histories"
            )
        self.block_start = np.concatenate(([0], np.cumsum(held)))
        self.block_ptr = np.zeros((starts.size, n_columns + 1), np.int32)
        self.block_rows = np.empty(indices.size, np.uint16)
        kernels.run_blocks(
            starts.size,
            1,
            lambda start, stop: kernels.block_index(
                indptr, indices, self.order, self.block_start, self.block_ptr, self.block_rows,
                start, stop,
            ),
        )  # fmt: skip
        self._make_bitmaps(held.size)
        starts = np.arange(0, sizes.size, 64)
        self.chunk_min = np.minimum.reduceat(self.order, starts)

    def _make_bitmaps(self, n_blocks: int) -> None:
        """Bitmaps of the lists that hold 1 / DENSE of a block's rows or more."""
        from recsys import kernels

        n_rows = self.order.size
        sizes = np.full(n_blocks, kernels.BLOCK_ROWS)
        sizes[-1] = n_rows - (n_blocks - 1) * kernels.BLOCK_ROWS
        lengths = np.diff(self.block_ptr, axis=1)
        long = lengths * kernels.DENSE >= np.maximum(sizes, 64 * kernels.DENSE)[:, None]
        n_popular = int(np.flatnonzero(long.any(axis=0))[-1]) + 1 if long.any() else 0
        long = long[:, :n_popular]
        self.bitmap_of = np.where(long, np.cumsum(long).reshape(long.shape) - 1, -1).astype(
            np.int32
        )
        # A line of the cache more: bitmaps a power of 2 apart would push each other out of it.
        words = -(-min(n_rows, kernels.BLOCK_ROWS) // 64) + 8
        self.bitmaps = np.zeros((int(long.sum()), words), np.uint64)
        kernels.run_blocks(
            n_blocks,
            1,
            lambda start, stop: kernels.block_bitmaps(
                self.block_ptr, self.block_start, self.block_rows, self.bitmap_of, self.bitmaps,
                start, stop,
            ),
        )  # fmt: skip

    def neighbours(self, rows: Int32, k: int, include_self: bool) -> tuple[Int32, Float32]:
        """(n, k) int32 most similar rows and their similarities float32; padded -1 / -inf."""
        from recsys import kernels

        by_size = np.argsort(self.rank[rows], kind="stable")
        queries = rows[by_size]
        idx, sim = empty_lists(rows.size, k)

        def search(start: int, stop: int) -> None:
            largest = int(self.sizes[queries[stop - 1]])
            # The overlap is at most the query's size; one more means that none is enough. Small
            # data shares one compiled kernel.
            kind: type = np.uint32
            if self.order.size > kernels.BLOCK_ROWS:
                kind = np.uint8 if largest < 255 else np.uint16 if largest < 65_535 else np.uint32
            held = min(kernels.BLOCK_ROWS, self.order.size)
            whole = -(-held // 64) * 64
            counters: npt.NDArray[Any] = np.zeros(whole, kind)
            # Of the cosine the smallest rows are the best: those that lie within the query.
            middle = int(self.rank[queries[(start + stop) // 2]]) if self.kind else 0
            kernels.overlap_neighbours(
                queries, self.indptr, self.indices, self.order, self.query_scale, self.scales,
                self.chunk_min, self.block_ptr, self.block_start, self.block_rows, self.bitmap_of,
                self.bitmaps, self.kind, self.shrink, include_self, middle // kernels.BLOCK_ROWS,
                counters, idx, sim, start, stop,
            )  # fmt: skip

        kernels.run_blocks(rows.size, kernels.block_of(rows.size, QUERY_BATCH), search)
        out_idx, out_sim = np.empty_like(idx), np.empty_like(sim)
        out_idx[by_size], out_sim[by_size] = idx, sim
        return out_idx, out_sim


class WeightedIndex:
    """Exact neighbours by the inner product of weighted rows: rows @ transposed_rows."""

    def __init__(self, rows: Csr, transposed_rows: Csr) -> None:
        self.rows, self.transposed_rows = rows, transposed_rows
        n = rows[0].size - 1
        self.itself = (np.arange(n + 1, dtype=np.int64), np.arange(n, dtype=np.int32))

    def neighbours(self, rows: Int32, k: int, include_self: bool) -> tuple[Int32, Float32]:
        """(n, k) int32 rows of the largest positive product, and it; padded -1 / -inf."""
        from recsys import kernels

        left_out = self.itself
        if include_self:
            left_out = (np.empty(0, np.int64), np.empty(0, np.int32))
        idx, sim = empty_lists(rows.size, k)
        n_rows = self.itself[1].size
        kernels.run_blocks(
            rows.size,
            kernels.block_of(rows.size, QUERY_BATCH),
            lambda start, stop: kernels.product_top_k(
                rows, rows, *self.rows, *self.transposed_rows, *left_out, n_rows,
                idx, sim, start, stop,
            ),
        )  # fmt: skip
        idx[sim <= 0] = -1
        sim[sim <= 0] = -np.inf
        return idx, sim


def transposed(rows: Csr, n_columns: int) -> Csr:
    """CSR (indptr, indices, values) of the transpose; columns ascending inside a row."""
    from recsys import kernels

    indptr, indices, values = rows
    counts, edges = _counts_by_part(indptr, indices, n_columns)
    parts = counts.shape[0]
    out_ptr = np.zeros(n_columns + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=out_ptr[1:])
    # Where the rows of each part begin in each column: the parts before them come first.
    cursors = np.concatenate((out_ptr[None, :-1], counts[:-1]))
    np.cumsum(cursors, axis=0, out=cursors)
    out_indices, out_values = np.empty_like(indices), np.empty_like(values)
    kernels.run_blocks(
        parts,
        1,
        lambda part, _: kernels.transpose(
            indptr, indices, values, cursors[part], out_indices, out_values,
            edges[part], edges[part + 1],
        ),
    )  # fmt: skip
    return out_ptr, out_indices, out_values


def _counts_by_part(indptr: Int64, indices: Int32, n_columns: int) -> tuple[Int64, Int64]:
    """Entries of each column in each of some ranges of rows (parts, n_columns), and their edges."""
    from recsys import kernels

    # Every part has counters of all columns, so there are few parts.
    parts = max(1, min(kernels.thread_count(), 8, indices.size >> 16))
    inner = np.searchsorted(indptr, np.linspace(0, indices.size, parts + 1)[1:-1])
    edges = np.concatenate(([0], inner, [indptr.size - 1]))
    counts = np.zeros((parts, n_columns), np.int64)
    kernels.run_blocks(
        parts,
        1,
        lambda part, _: kernels.count_columns(
            indices[indptr[edges[part]] : indptr[edges[part + 1]]], counts[part]
        ),
    )
    return counts, edges


def _ascending(values: Int64) -> Int64:
    """Stable argsort; of 16-bit numbers it is a radix sort."""
    small = values.max(initial=0) < 65_536
    return np.argsort(values.astype(np.uint16) if small else values, kind="stable")


def compact(idx: Int32, values: Float32) -> Csr:
    """Padded lists (n, k) as CSR with ascending columns."""
    from recsys import kernels

    indptr = np.zeros(idx.shape[0] + 1, np.int64)
    n = int((idx >= 0).sum())
    out_idx, out_values = np.empty(n, np.int32), np.empty(n, np.float32)
    kernels.compact_rows(idx, values, indptr, out_idx, out_values)
    return indptr, out_idx, out_values


def taken_items(
    train: Interactions, similar: Csr, user: int, item: int, n: int, *, weighted: bool
) -> list[Reason]:
    """The items of `user` that have `item` among their neighbours, heaviest share first."""
    indptr, neighbours, similarity = similar
    reasons = []
    for p in range(int(train.indptr[user]), int(train.indptr[user + 1])):
        i = int(train.indices[p])
        row = slice(int(indptr[i]), int(indptr[i + 1]))
        weight = float(train.counts[p]) if weighted else 1.0
        reasons += [
            Reason(i, weight * float(s), "item") for s in similarity[row][neighbours[row] == item]
        ]
    return heaviest(reasons, n)


def _row_sums(rows: Csr) -> npt.NDArray[np.float64]:
    owner = np.repeat(np.arange(rows[0].size - 1), np.diff(rows[0]))
    return np.bincount(owner, rows[2], minlength=rows[0].size - 1).astype(np.float64)


def _each(rows: Csr, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """values[row] of every stored entry."""
    return np.repeat(values, np.diff(rows[0]))
