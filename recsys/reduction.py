"""Exact search with a fraction of the multiplications: bounds from the leading directions first.

An inner product is split into the part along r leading directions of the items and the remainder,
which the Cauchy-Schwarz inequality bounds by a product of two norms. One matrix product of r + 1
columns so gives an upper bound of every score. Items whose bound reaches the k-th best score found
so far get a tighter one from s more directions, and only the few that still reach it are scored in
full (the idea of FEXIPRO: Li, Chan, Yiu, Mamoulis, "FEXIPRO: Fast and Exact Inner Product Retrieval
in Recommender Systems", SIGMOD 2017). Rounding is bounded too, so the lists are those of a full
search, to the bit.
"""

from __future__ import annotations

from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from recsys import kernels
from recsys.kernels import prefetch
from recsys.selection import Groups, Task, chunk_maxima, dot, hide_excluded, kth_largest, offer

_SIZES = (0.0625, 0.125, 0.1875, 0.25, 0.375, 0.5, 0.625, 0.75)
"""Shares of the dimensions that are tried."""
_SAMPLE_ITEMS = 8_192
_SAMPLE_QUERIES = 32
# Costs in multiplications of a matrix product, measured at 105,542 items of 512 dimensions.
_SCAN = 90
"""Of one score: written to memory, read from there and compared."""
_PAIR = 6_000
"""Of one item that the first bound leaves: found among the others, and its row fetched."""
_TIGHTEN = 4
"""Of one term of its second bound."""
_RESCORE = 25
"""Of one dimension of an item scored in full: it comes from memory, and is summed in float64."""
_HALF = 0.32
"""Of one dimension in bf16; half of `_SCAN` is its share of what is written and read."""
_HALF_ERROR = 0.012
"""What rounding to bf16 may change of a score, by the product of the norms."""
_GAIN = 0.85
"""Share of a full search's cost above which the reduction is left."""
_COLUMN = (1 << 32) - 1
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
        basis: (d, r + s) float32, nearly orthonormal columns.
        r: directions of the first bound; the other s make it tighter.
        mean: (d,) float32, taken off every item: it adds one constant to the scores of a query.
        share: expected cost of a search, of that without reduction.
        half: the same of a search by bf16 products.
    """

    def __init__(
        self,
        items: NDArray[np.float32],
        basis: NDArray[np.float32],
        r: int,
        mean: NDArray[np.float32],
        share: float = 1.0,
        half: float = 1.0,
    ) -> None:
        d, both = basis.shape
        self.basis, self.r, self.mean = basis, r, mean
        self.share, self.half = share, half
        skew = float(np.linalg.norm(basis.astype(np.float64).T @ basis - np.eye(both)))
        # Each coordinate is a float32 sum of d terms; norms and bounds are sums as well.
        self._rounding = 1.1 * ((2 * both**0.5 + 9) * summation_error(d) + 3 * skew)
        self.items = np.empty((len(items), r + 1), dtype=np.float32)
        self.more = np.empty((len(items), both - r + 2), dtype=np.float32)
        largest = 0.0
        for lo in range(0, len(items), 8192):
            at = slice(lo, lo + 8192)
            largest = max(largest, self._along(items[at] - mean, self.items[at], self.more[at]))
        self._largest = largest

    def _along(
        self, rows: NDArray[np.float32], out: NDArray[np.float32], more: NDArray[np.float32]
    ) -> float:
        """out (n, r + 1): coordinates and a bound of the remainder's norm; more (n, s + 2): the
        next coordinates, a bound of what they leave, and that of `out` again. Returns the largest
        norm of a row."""
        along = rows @ self.basis
        whole = np.einsum("ij,ij->i", rows, rows)
        rest = whole + self._rounding * whole
        for part, filled in ((along[:, : self.r], out), (along[:, self.r :], more)):
            n = part.shape[1]
            rest -= np.einsum("ij,ij->i", part, part)
            filled[:, :n] = part
            filled[:, n] = 1.000001 * np.sqrt(np.maximum(rest, self._rounding * whole))
        more[:, -1] = out[:, -1]
        return float(whole.max(initial=0.0) ** 0.5)

    def queries(
        self, queries: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float64]]:
        """(n, r + 1) whose products with `items` are upper bounds of the scores, once the third,
        (n,) float64, is added: the constant of each query and what rounding may take away. The
        second, (n, s + 2), times `more` is what makes a bound tighter: its last terms take away
        the product of the remainders."""
        out = np.empty((len(queries), self.items.shape[1]), dtype=np.float32)
        more = np.empty((len(queries), self.more.shape[1]), dtype=np.float32)
        self._along(queries, out, more)
        more[:, -1] *= -1
        slack = (self._rounding + 2.0**-22) * norms(queries)
        constant = queries.astype(np.float64) @ self.mean.astype(np.float64)
        top = self._largest + float(np.linalg.norm(self.mean.astype(np.float64)))
        return out, more, constant + slack * top


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
    left: dict[int, float] = {}  # directions -> share of the items that they leave
    done = 0
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
        left[r] = float(reached.mean())
    costs = {
        (r, both): r
        + 1
        + _SCAN
        + (_PAIR + _TIGHTEN * (both - r + 2)) * left[r]
        + _RESCORE * d * left[both]
        for r in left
        for both in left
        if both > r
    }
    if not costs:
        return None
    r, both = min(costs, key=costs.__getitem__)
    share = costs[r, both] / (d + _SCAN)
    if share >= _GAIN:
        return None
    slack = _HALF_ERROR * np.sqrt(whole[1] * whole[0].max())
    crowd = float((sides[1] @ sides[0].T >= (floor - slack)[:, None]).mean())
    half = (_HALF * d + _SCAN / 2 + _RESCORE * d * crowd) / (d + _SCAN)
    return Reduction(items, np.ascontiguousarray(basis[:, :both]), r, mean, share, half)


def select_bounded(
    items: NDArray[np.float32],
    groups: Groups,
    task: Task,
    rows: NDArray[np.int64],
    query: NDArray[np.float32],
    bounds: NDArray[np.float32],
    more: tuple[NDArray[np.float32], NDArray[np.float32]],
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
        more: (b, s + 2), (u, s + 2) float32 whose products, added to the bounds, make them tighter.
        above: (b,) what is to be added to a bound.
    """
    arrays = (
        bounds, bounds.view(np.uint32), query, items, *more, groups.first, groups.of_item,
        groups.start, groups.members, *task.exclude, rows, above, task.ids, task.scores,
    )  # fmt: skip
    # As many rows as a thread can have: they share the items they need.
    block = min(256, -(-len(rows) // kernels.thread_count()))
    kernels.run_blocks(len(rows), block, lambda lo, hi: _bounded_kernel(*arrays, lo, hi))


@kernels.jit
def _bounded_kernel(  # type: ignore[no-untyped-def]
    bounds, bits, query, items, query_more, items_more, first, of_item, start, members,
    excluded_start, excluded_items, rows, above, ids, scores, begin, end,
):  # fmt: skip
    """Write the lists of the rows begin..end of the block.

    First, row by row, the items of the highest bounds, so that each row's k-th score is high when
    all its other bounds are compared with it. Those then stretch by stretch of items for all
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
    tighter = np.empty(found.size, dtype=np.float32)
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
                        found[n_found] = r << 32 | j
                        n_found += 1
        _score_found(
            found[:n_found], tighter, bounds, query, items, query_more, items_more, first, start,
            members, excluded_start, excluded_items, rows, above, ids, scores, begin, filled,
            worst,
        )  # fmt: skip
    for c in range(n_chunks):
        n_found = 0
        for r in range(n_rows):
            if chunk_max[r, c] >= worst[r]:
                for j in range(c * 64, min(c * 64 + 64, width)):
                    if worst[r] <= bounds[begin + r, j] < top[r]:
                        found[n_found] = r << 32 | j
                        n_found += 1
        _score_found(
            found[:n_found], tighter, bounds, query, items, query_more, items_more, first, start,
            members, excluded_start, excluded_items, rows, above, ids, scores, begin, filled,
            worst,
        )  # fmt: skip


@kernels.jit
def _score_found(  # type: ignore[no-untyped-def]
    found, tighter, bounds, query, items, query_more, items_more, first, start, members,
    excluded_start, excluded_items, rows, above, ids, scores, begin, filled, worst,
):  # fmt: skip
    """Offer to their lists the pairs `found` (row << 32 | column; overwritten), scored in full
    where their tighter bound still reaches the list."""
    k, d, s = ids.shape[1], items.shape[1], items_more.shape[1]
    flat, flat_more = items.reshape(items.size), items_more.reshape(items_more.size)
    n_kept = 0
    for f in range(found.size):
        if f + _AHEAD < found.size:
            at = np.uint64(found[f + _AHEAD] & _COLUMN) * np.uint64(s)
            for t in range(0, s, 16):
                prefetch(flat_more, at + np.uint64(t))
        r, j = found[f] >> 32, found[f] & _COLUMN
        bound = bounds[begin + r, j]
        if bound < worst[r] or bound == -np.inf:
            continue
        bound += _dot_single(query_more[begin + r], items_more[j])
        if bound >= worst[r]:
            found[n_kept], tighter[n_kept] = found[f], bound
            n_kept += 1
    for f in range(n_kept):
        if f + _AHEAD < n_kept:
            at = np.uint64(first[found[f + _AHEAD] & _COLUMN]) * np.uint64(d)
            for t in range(0, d, 16):
                prefetch(flat, at + np.uint64(t))
        r, j = found[f] >> 32, found[f] & _COLUMN
        if tighter[f] < worst[r]:
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


@nb.njit(nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _dot_single(a, b):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for i in range(len(a)):
        total += a[i] * b[i]
    return total
