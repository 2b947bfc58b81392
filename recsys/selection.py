"""From approximate scores to certified lists: the kernel behind every search.

Identical item vectors form one group, searched once and expanded to items at the end. Given a block
of approximate scores with a bound on their error, `select` scores again, in float64, every item
that the bound cannot rule out, and keeps the k best by (score descending, item id ascending).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numba as nb
import numpy as np
from numpy.typing import NDArray

from recsys import kernels


@dataclass
class Groups:
    """Identical item vectors share one group."""

    first: NDArray[np.int64]  # (u,) the lowest item id of each group
    of_item: NDArray[np.int32]  # (m,) group of an item, -1 for items that are no candidates
    start: NDArray[np.int64]  # (u + 1,) offsets into members
    members: NDArray[np.int32]  # candidate ids, grouped, ascending within a group

    @property
    def size(self) -> int:
        return len(self.first)


@dataclass
class Task:
    """One call: what is asked, and the lists to fill."""

    queries: Any  # (n, d) float32 or CSR
    exclude: tuple[NDArray[np.int64], NDArray[np.int32]]  # indptr, sorted indices
    ids: NDArray[np.int32]
    scores: NDArray[np.float32]


def select(
    items: Any,
    groups: Groups,
    task: Task,
    rows: NDArray[np.int64],
    query: NDArray[np.float32],
    bits: NDArray[Any],
    slack: NDArray[np.float64],
    *,
    rounding: float = 0.0,
    cap: int = 2**31 - 1,
    rescore: bool = True,
    columns: NDArray[np.int32] | None = None,
) -> NDArray[np.bool_]:
    """Fill the lists of `rows` from a block of approximate scores.

    Args:
        items: (m, d) float32, all items.
        groups: their groups.
        task: holds the exclusions and the lists to fill.
        rows: (b,) rows of the task that the block is about.
        query: (b, d) float32, their queries.
        bits: (b, u) uint32 or uint16: float32 or bf16 scores by group, as bits; overwritten.
        slack: (b,) twice the bound on the absolute error.
        rounding: relative error on top of it.
        cap: most items to score again; rows with more are left as they are.
        rescore: False takes the approximate scores for exact.
        columns: (b, u) the group of each score, -1 for none; None for one column a group.

    Returns:
        (b,) bool, True for the rows over `cap`.
    """
    over = np.zeros(len(rows), dtype=np.bool_)
    arrays = (
        bits,
        np.uint32(32 - 8 * bits.itemsize),
        np.zeros((0, 0), dtype=np.int32) if columns is None else columns,
        query,
        items if rescore else np.zeros((0, 0), dtype=np.float32),
        groups.first,
        groups.of_item,
        groups.start,
        groups.members,
        *task.exclude,
        rows,
        slack,
        rounding,
        cap,
        task.ids,
        task.scores,
        over,
    )
    block = kernels.block_of(len(rows), 64)
    kernels.run_blocks(len(rows), block, lambda lo, hi: _select_kernel(*arrays, lo, hi))
    return over


def group(items: Any, candidates: NDArray[np.bool_] | None) -> Groups:
    """Groups of identical rows among the candidates, in order of their lowest id."""
    m = items.shape[0]
    valid = np.arange(m) if candidates is None else np.flatnonzero(candidates)
    _, first, label = np.unique(_hash_rows(items)[valid], return_index=True, return_inverse=True)
    first = valid[first]  # the lowest id, as `valid` ascends
    equal = _rows_equal(items, valid, first[label])
    if not equal.all():  # two different rows with one hash: give each its own group
        odd = np.flatnonzero(~equal)
        label[odd] = len(first) + np.arange(len(odd))
        first = np.concatenate([first, valid[odd]])
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    group = rank[label]
    of_item = np.full(m, -1, dtype=np.int32)
    of_item[valid] = group
    start = np.zeros(len(first) + 1, dtype=np.int64)
    np.cumsum(np.bincount(group, minlength=len(first)), out=start[1:])
    members = valid[np.argsort(group, kind="stable")].astype(np.int32)
    return Groups(first[order].astype(np.int64), of_item, start, members)


def _hash_rows(items: Any) -> NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    factor = rng.integers(1, 2**63, size=items.shape[1], dtype=np.uint64) | np.uint64(1)
    if not isinstance(items, np.ndarray):
        with np.errstate(over="ignore"):
            terms = (items.data.view(np.uint32) + np.uint64(1)) * factor[items.indices]
            total = np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)])
            return np.asarray(total[items.indptr[1:]] - total[items.indptr[:-1]])
    out = np.empty(len(items), dtype=np.uint64)
    bits = items.view(np.uint32)
    kernels.run_blocks(
        len(items), 4096, lambda start, stop: _hash_kernel(bits, factor, out, start, stop)
    )
    return out


@kernels.jit
def _hash_kernel(bits, factor, out, start, stop):  # type: ignore[no-untyped-def]
    for row in range(start, stop):
        total = np.uint64(0)
        for i in range(bits.shape[1]):
            total += np.uint64(bits[row, i]) * factor[i]
        out[row] = total


def _rows_equal(items: Any, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.bool_]:
    equal = np.ones(len(left), dtype=bool)
    differ = np.flatnonzero(left != right)
    for lo in range(0, len(differ), 4096):
        at = differ[lo : lo + 4096]
        if isinstance(items, np.ndarray):
            equal[at] = (items[left[at]] == items[right[at]]).all(axis=1)
        else:
            difference = items[left[at]] != items[right[at]]
            equal[at] = np.diff(difference.indptr) == 0
    return equal


@nb.njit(inline="always")  # type: ignore[untyped-decorator]
def _value(bits, shift):  # type: ignore[no-untyped-def]
    """The float32 whose leading 16 or 32 bits are `bits`: bf16 and float32 in one kernel."""
    return np.uint32(np.uint32(bits) << shift).view(np.float32)


@nb.njit(nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return np.float32(total)


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def kth_largest(best, n_best, value):  # type: ignore[no-untyped-def]
    """Insert into an ascending list of at most len(best) largest values; returns its length."""
    k = len(best)
    if n_best == k:
        if value <= best[0]:
            return n_best
        at = 0
        while at + 1 < k and best[at + 1] < value:
            best[at] = best[at + 1]
            at += 1
        best[at] = value
        return n_best
    at = n_best
    while at > 0 and best[at - 1] > value:
        best[at] = best[at - 1]
        at -= 1
    best[at] = value
    return n_best + 1


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _contains(row, value):  # type: ignore[no-untyped-def]
    at = np.searchsorted(row, value)
    return at < len(row) and row[at] == value


@nb.njit(nogil=True, fastmath={"nnan", "nsz"})  # type: ignore[untyped-decorator]
def chunk_maxima(bits, shift, chunk_max):  # type: ignore[no-untyped-def]
    """The largest of every 64 scores; told that there is no NaN, LLVM takes 16 at a time."""
    for c in range(len(chunk_max)):
        largest = np.float32(-np.inf)
        for j in range(c * 64, min(c * 64 + 64, len(bits))):
            value = _value(bits[j], shift)
            if value > largest:
                largest = value
        chunk_max[c] = largest


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def offer(score, begin, end, members, excluded, ids, scores, n_out):  # type: ignore[no-untyped-def]
    """Offer members[begin:end], all of one score, to a list; returns the length of its filled part.

    ids, scores (k,): the list, by descending score, equal scores by ascending id.
    """
    k = len(ids)
    for p in range(begin, end):
        item = members[p]
        if n_out == k:
            worst = scores[k - 1]
            if score < worst or (score == worst and item > ids[k - 1]):
                break  # members ascend, so the rest of the group is worse still
        if _contains(excluded, item):
            continue
        at = min(n_out, k - 1)
        while at > 0 and (
            scores[at - 1] < score or (scores[at - 1] == score and ids[at - 1] > item)
        ):
            scores[at] = scores[at - 1]
            ids[at] = ids[at - 1]
            at -= 1
        scores[at] = score
        ids[at] = item
        n_out = min(n_out + 1, k)
    return n_out


@kernels.jit
def _select_kernel(  # type: ignore[no-untyped-def]
    bits,
    shift,
    columns,
    query,
    items,
    first,
    of_item,
    start,
    members,
    excluded_start,
    excluded_items,
    rows,
    slack,
    rounding,
    cap,
    ids,
    scores,
    over,
    begin,
    end,
):
    """Write the lists of the rows begin..end of the block."""
    width = bits.shape[1]
    k = ids.shape[1]
    rescore = len(items) > 0
    n_chunks = (width + 63) // 64
    chunk_max = np.empty(n_chunks, dtype=np.float32)
    best = np.empty(k, dtype=np.float32)
    found = np.empty(width, dtype=np.int32)
    for r in range(begin, end):
        row = rows[r]
        excluded = excluded_items[excluded_start[row] : excluded_start[row + 1]]
        if len(columns) == 0:
            hide_excluded(bits[r], shift, excluded, of_item, start)
        chunk_maxima(bits[r], shift, chunk_max)
        # k chunks have a maximum of at least `bar`, so the k-th score is no smaller.
        n_best = 0
        for c in range(n_chunks):
            n_best = kth_largest(best, n_best, chunk_max[c])
        bar = _bar(best[0], slack[r], rounding) if n_best == k else np.float32(-np.inf)
        n_found = 0
        n_best = 0
        for c in range(n_chunks):
            if chunk_max[c] < bar:
                continue
            for j in range(c * 64, min(c * 64 + 64, width)):
                value = _value(bits[r, j], shift)
                if value >= bar and value > -np.inf:
                    found[n_found] = j
                    n_found += 1
                    n_best = kth_largest(best, n_best, value)
        if n_best == k:
            bar = _bar(best[0], slack[r], rounding)
        n_kept = 0
        for f in range(n_found):
            if _value(bits[r, found[f]], shift) >= bar:
                found[n_kept] = found[f]
                n_kept += 1
        if n_kept > cap:
            over[r] = True
            continue
        n_out = 0
        for f in range(n_kept):
            j = found[f]
            group = columns[r, j] if len(columns) > 0 else j
            if group < 0:
                continue
            score = dot(query[r], items[first[group]]) if rescore else _value(bits[r, j], shift)
            n_out = offer(
                score, start[group], start[group + 1], members, excluded, ids[row], scores[row],
                n_out,
            )  # fmt: skip


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _bar(kth, slack, rounding):  # type: ignore[no-untyped-def]
    """The approximate score below which no item can belong to the k best.

    The exact score of each of the k best approximate ones is at least kth - rounding |kth| -
    slack / 2, and an item's exact score is at most a + rounding |a| + slack / 2.
    """
    if kth == -np.inf:  # fewer than k scores so far
        return np.float32(-np.inf)
    low = np.float64(kth) - rounding * abs(np.float64(kth)) - slack
    low = low / (1 + rounding) if low > 0 else low / (1 - rounding)
    return np.nextafter(np.float32(low), np.float32(-np.inf))


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def hide_excluded(bits, shift, excluded, of_item, start):  # type: ignore[no-untyped-def]
    """Set the score of every group whose members are all excluded to -inf."""
    shared = np.empty(len(excluded), dtype=np.int32)
    n_shared = 0
    hidden = np.uint32(0xFF800000) >> shift
    for item in excluded:
        group = of_item[item]
        if group < 0:
            continue
        if start[group + 1] - start[group] == 1:
            bits[group] = hidden
        else:
            shared[n_shared] = group
            n_shared += 1
    shared[:n_shared].sort()
    run = 0
    for at in range(n_shared):
        run = run + 1 if at > 0 and shared[at] == shared[at - 1] else 1
        if run == start[shared[at] + 1] - start[shared[at]]:
            bits[shared[at]] = hidden
