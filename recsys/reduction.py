"""Exact search with a fraction of the multiplications: bounds from the leading directions first.

An inner product is split into the part along r leading directions of the items and the remainder,
which the Cauchy-Schwarz inequality bounds by a product of two norms. One matrix product of r + 1
columns so gives an upper bound of every score, and only the few items whose bound reaches the k-th
best score found so far are scored in full (the idea of FEXIPRO: Li, Chan, Yiu, Mamoulis, "FEXIPRO:
Fast and Exact Inner Product Retrieval in Recommender Systems", SIGMOD 2017). Rounding is bounded
too, so the lists are those of a full search, to the bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys import kernels
from recsys.kernels import prefetch
from recsys.selection import Groups, Task, chunk_maxima, dot, hide_excluded, kth_largest, offer

_SIZES = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625)
"""Shares of the dimensions that are tried."""
_SAMPLE_ITEMS = 8_192
_SAMPLE_QUERIES = 32
_RESCORE = 12
"""Cost of scoring one item in full by itself, in units of one item's share of a matrix product of
all dimensions: it comes from memory, and is summed in float64."""
_SCAN = 16
"""Cost of looking at one bound, in multiplications."""
_GAIN = 0.85
"""Share of a full search's cost above which the reduction is left."""
_AHEAD = 2
"""Items that are fetched before they are needed."""


def summation_error(d: int) -> float:
    """Bound of a float32 inner product of unit vectors of d terms (Higham 2002, section 3.1)."""
    return 1.05 * (d + 2) * 2.0**-24


def norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n,) Euclidean norms, summed in float64."""
    found: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return found


class Reduction:
    """The items along their leading directions.

    Args:
        items: (u, d) float32.
        basis: (d, r) float32, nearly orthonormal columns.
        mean: (d,) float32, taken off every item: it adds one constant to the scores of a query.
        share: expected cost of a search, of that without reduction.
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        basis: NDArray[np.float32],
        mean: NDArray[np.float32],
        share: float = 1.0,
    ) -> None:
        d, r = basis.shape
        self.basis, self.mean, self.share = basis, mean, share
        skew = float(np.linalg.norm(basis.astype(np.float64).T @ basis - np.eye(r)))
        # Each of the r coordinates is a float32 sum of d terms.
        self._rounding = 1.1 * ((2 * r**0.5 + 2) * summation_error(d) + 3 * skew)
        self.items = np.empty((len(items), r + 1), dtype=np.float32)
        largest = 0.0
        for lo in range(0, len(items), 8192):
            part = items[lo : lo + 8192] - mean
            largest = max(largest, self._along(part, self.items[lo : lo + 8192]))
        self._largest = largest

    def _along(self, rows: NDArray[np.float32], out: NDArray[np.float32]) -> float:
        """out (n, r + 1): coordinates and a bound of the remainder's norm; returns the largest
        norm of a row."""
        out[:, :-1] = rows @ self.basis
        whole = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
        kept = np.einsum("ij,ij->i", out[:, :-1], out[:, :-1], dtype=np.float64)
        out[:, -1] = 1.000001 * np.sqrt(np.maximum(whole - kept, 0) + self._rounding * whole)
        return float(whole.max(initial=0.0) ** 0.5)

    def queries(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """(n, r + 1) whose products with `items` are upper bounds of the scores, once the second,
        (n,) float64, is added: the constant of each query and what rounding may take away."""
        out = np.empty((len(queries), self.items.shape[1]), dtype=np.float32)
        self._along(queries, out)
        slack = (self._rounding + 2.0**-22) * norms(queries)
        constant = queries.astype(np.float64) @ self.mean.astype(np.float64)
        top = self._largest + float(np.linalg.norm(self.mean.astype(np.float64)))
        return out, constant + slack * top


def reduce(
    items: NDArray[np.float32], queries: NDArray[np.float32], k: int, hidden: Any
) -> Reduction | None:
    """The reduction that makes searching these items cheapest, or None where a full search is.

    Args:
        items: (u, d) float32.
        queries: (n, d) float32, of the kind that will be searched.
        k: length of the lists.
        hidden: `hidden(row)` are the items (n,) int that the list of that query leaves out.

    The choice rests on a sample; whatever it is, the lists are the same.
    """
    u, d = items.shape
    few = items[:: max(1, u // _SAMPLE_ITEMS)]
    mean = few.mean(axis=0, dtype=np.float64).astype(np.float32)
    few = few - mean
    # Profiles lie along the mean of the items: it is the first direction.
    first = mean / np.float32(max(float(np.linalg.norm(mean)), 1e-30))
    _, vectors = np.linalg.eigh((few.T @ few).astype(np.float64))
    basis = np.linalg.qr(np.column_stack([first, vectors[:, ::-1]]))[0].astype(np.float32)
    asked = np.unique(np.linspace(0, len(queries) - 1, _SAMPLE_QUERIES).astype(np.int64))
    query = queries[asked]
    scores = query @ items.T
    for row, number in zip(scores, asked, strict=True):
        row[hidden(int(number))] = -np.inf
    scores.partition(max(u - k, 0), axis=1)
    floor = scores[:, max(u - k, 0)] - query @ mean
    sides = few @ basis, query @ basis  # (items, d), (queries, d)
    whole = [np.einsum("ij,ij->i", side, side) for side in sides]
    bounds = np.zeros((len(query), len(few)), dtype=np.float32)
    kept = [np.zeros_like(norm) for norm in whole]
    best, chosen, done = _GAIN, 0, 0
    for share in _SIZES:
        r = int(d * share) // 16 * 16 - 1  # with the norms a multiple of 16
        if r <= done:
            continue
        parts = [side[:, done:r] for side in sides]
        bounds += parts[1] @ parts[0].T
        kept = [k + np.einsum("ij,ij->i", p, p) for k, p in zip(kept, parts, strict=True)]
        done = r
        rest = [np.sqrt(np.maximum(w - k, 0)) for w, k in zip(whole, kept, strict=True)]
        reached = bounds + rest[1][:, None] * rest[0] >= floor[:, None]
        cost = (r + 1 + _SCAN + _RESCORE * d * float(reached.mean())) / (d + _SCAN)
        if cost < best:
            best, chosen = cost, r
    if not chosen:
        return None
    return Reduction(items, np.ascontiguousarray(basis[:, :chosen]), mean, best)


def select_bounded(
    items: NDArray[np.float32],
    groups: Groups,
    task: Task,
    rows: NDArray[np.int64],
    query: NDArray[np.float32],
    bounds: NDArray[np.float32],
    above: NDArray[np.float64],
) -> None:
    """Fill the lists of `rows` from upper bounds of their scores.

    Args:
        items: (m, d) float32, all items.
        groups: their groups.
        task: holds the exclusions and the lists to fill.
        rows: (b,) rows of the task that the block is about.
        query: (b, d) float32, their queries.
        bounds: (b, u) float32 by group; overwritten.
        above: (b,) what is to be added to a bound.
    """
    arrays = (
        bounds, bounds.view(np.uint32), query, items, groups.first, groups.of_item, groups.start,
        groups.members, *task.exclude, rows, above, task.ids, task.scores,
    )  # fmt: skip
    # As many rows as a thread can have: they share the items they need.
    block = min(256, -(-len(rows) // kernels.thread_count()))
    kernels.run_blocks(len(rows), block, lambda lo, hi: _bounded_kernel(*arrays, lo, hi))


@kernels.jit
def _bounded_kernel(  # type: ignore[no-untyped-def]
    bounds, bits, query, items, first, of_item, start, members, excluded_start, excluded_items,
    rows, above, ids, scores, begin, end,
):  # fmt: skip
    """Write the lists of the rows begin..end of the block.

    First, row by row, the items of the highest bounds, so that each row's k-th score is high when
    all its other bounds are compared with it. Those then stretch by stretch of 64 items for all
    rows, so that an item that several rows need is fetched once.
    """
    width = bounds.shape[1]
    k = ids.shape[1]
    n_rows = end - begin
    n_chunks = (width + 63) // 64
    chunk_max = np.empty((n_rows, n_chunks), dtype=np.float32)
    highest = np.empty(4 * k, dtype=np.float32)
    top = np.empty(n_rows, dtype=np.float32)
    worst = np.full(n_rows, -np.inf, dtype=np.float32)
    filled = np.zeros(n_rows, dtype=np.int64)
    found = np.empty(max(width, 64 * n_rows), dtype=np.int64)
    for r in range(n_rows):
        row = rows[begin + r]
        excluded = excluded_items[excluded_start[row] : excluded_start[row + 1]]
        hide_excluded(bits[begin + r], np.uint32(0), excluded, of_item, start)
        chunk_maxima(bits[begin + r], np.uint32(0), chunk_max[r])
        n_highest = 0
        for c in range(n_chunks):
            n_highest = kth_largest(highest, n_highest, chunk_max[r, c])
        top[r] = highest[0] if n_highest == highest.size else np.float32(-np.inf)
        n_found = 0
        for c in range(n_chunks):
            if chunk_max[r, c] >= top[r]:
                for j in range(c * 64, min(c * 64 + 64, width)):
                    if bounds[begin + r, j] >= top[r]:
                        found[n_found] = r * width + j
                        n_found += 1
        _score_found(
            found[:n_found], bounds, query, items, first, start, members, excluded_start,
            excluded_items, rows, above, ids, scores, begin, filled, worst,
        )  # fmt: skip
    for c in range(n_chunks):
        n_found = 0
        for r in range(n_rows):
            if chunk_max[r, c] >= worst[r]:
                for j in range(c * 64, min(c * 64 + 64, width)):
                    if worst[r] <= bounds[begin + r, j] < top[r]:
                        found[n_found] = r * width + j
                        n_found += 1
        _score_found(
            found[:n_found], bounds, query, items, first, start, members, excluded_start,
            excluded_items, rows, above, ids, scores, begin, filled, worst,
        )  # fmt: skip


@kernels.jit
def _score_found(  # type: ignore[no-untyped-def]
    found, bounds, query, items, first, start, members, excluded_start, excluded_items, rows,
    above, ids, scores, begin, filled, worst,
):  # fmt: skip
    """Score the pairs `found` (row * width + column) in full and offer them to their lists."""
    width = bounds.shape[1]
    k, d = ids.shape[1], items.shape[1]
    flat = items.reshape(items.size)
    for f in range(found.size):
        if f + _AHEAD < found.size:
            at = np.uint64(first[found[f + _AHEAD] % width]) * np.uint64(d)
            for t in range(0, d, 16):
                prefetch(flat, at + np.uint64(t))
        r, j = found[f] // width, found[f] % width
        bound = bounds[begin + r, j]
        if bound < worst[r] or bound == -np.inf:
            continue
        row = rows[begin + r]
        filled[r] = offer(
            dot(query[begin + r], items[first[j]]), start[j], start[j + 1], members,
            excluded_items[excluded_start[row] : excluded_start[row + 1]], ids[row], scores[row],
            filled[r],
        )  # fmt: skip
        if filled[r] == k:
            least = np.float64(scores[row, k - 1]) - above[begin + r]
            worst[r] = np.nextafter(np.float32(least), np.float32(-np.inf))
