"""Numba kernels over purchases; nothing else in the project loops over them.

Every kernel works on a range of rows, releases the GIL and owns its output rows, so `run_blocks`
spreads it over plain threads: one compilation per kernel (no `parallel=True` transform), no
threading layer, and the same result whatever the number of threads. Array types are fixed:
`indptr` int64, indices int32, weights float32. Compiled code is cached beside the package, in the
user's cache folder where the package is read-only, or in a private temporary folder.
"""

import os
import stat
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

BLOCK_ROWS = 65_536  # rows of a block of the inverted index: local numbers fit in uint16
FAR = 32  # entries of the row pointer, likewise
AHEAD = 4  # lists that are fetched before they are needed
LANES = 32  # parts whose maxima say what the k-th best reaches at least
SPARSE = 48  # walk the lists again instead of scanning, where they touch fewer rows than 1 / this
DENSE = 32  # lists that hold at least 1 / this of a block's rows are kept as bitmaps too


def _cache_folder() -> str | None:
    """A temporary folder only this user can write to (numba's cache is executable content)."""
    folder = Path(tempfile.gettempdir()) / f"fcr-numba-{os.getuid() if os.name == 'posix' else 0}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError:
        return None
    private = os.name != "posix" or (
        info.st_uid == os.getuid() and not info.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    )
    return str(folder) if private and stat.S_ISDIR(info.st_mode) else None


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """numba.njit without the GIL, cached where there is a place for it."""
    options = {"nogil": True, "error_model": "numpy", "boundscheck": False}
    try:
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    except RuntimeError:  # neither the package nor the user's cache folder is writable
        numba.config.CACHE_DIR = _cache_folder() or ""
        cached = bool(numba.config.CACHE_DIR)
        return numba.njit(cache=cached, **options)(function)  # type: ignore[no-any-return]


def thread_count() -> int:
    """Threads to use: NUMBA_NUM_THREADS, else OMP_NUM_THREADS, else the cores of this process."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def run_blocks(
    n: int,
    block: int,
    work: Callable[[int, int], Any],
    *,
    done: Callable[[int], None] | None = None,
) -> None:
    """Call `work(start, stop)` for consecutive ranges of `range(n)`, on `thread_count()` threads.

    `done(rows)` is told how many rows each finished range held. An exception of `work` is raised
    here after the running ranges have ended.
    """
    ranges = [(start, min(start + block, n)) for start in range(0, n, block)]
    threads = min(thread_count(), len(ranges))
    if threads <= 1:
        for start, stop in ranges:
            work(start, stop)
            if done:
                done(stop - start)
        return
    with ThreadPoolExecutor(threads) as pool:
        futures = [(pool.submit(work, start, stop), stop - start) for start, stop in ranges]
        try:
            for future, rows in futures:
                future.result()
                if done:
                    done(rows)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def block_of(n: int, most: int) -> int:
    """Rows of one task: enough tasks to keep every thread busy to the end, at most `most` rows."""
    return max(1, min(most, -(-n // (8 * thread_count()))))


# ---------------------------------------------------------------- events to CSR


@jit
def count_rows(rows, ptr):  # type: ignore[no-untyped-def]
    """ptr (n_rows + 1,) int64 of zeros becomes the row pointer of `rows` (n,) int32."""
    for p in range(rows.size):
        ptr[rows[p] + 1] += 1
    for r in range(ptr.size - 1):
        ptr[r + 1] += ptr[r]


@jit
def scatter_events(rows, items, times, cursor, keys):  # type: ignore[no-untyped-def]
    """keys[cursor[row]++] = item << 32 | time: events grouped by row, in order of appearance."""
    for p in range(rows.size):
        at = cursor[rows[p]]
        cursor[rows[p]] = at + 1
        keys[at] = (np.uint64(items[p]) << np.uint64(32)) | np.uint64(times[p])


@jit
def sort_rows(ptr, keys, start, stop):  # type: ignore[no-untyped-def]
    """Sort keys uint64 inside each row: insertion for short rows, heap sort for long ones."""
    for r in range(start, stop):
        lo, hi = ptr[r], ptr[r + 1]
        n = hi - lo
        if n <= 48:
            for p in range(lo + 1, hi):
                key = keys[p]
                q = p
                while q > lo and keys[q - 1] > key:
                    keys[q] = keys[q - 1]
                    q -= 1
                keys[q] = key
            continue
        heap = keys[lo:hi]
        for step in range(n // 2 + n - 1):
            if step < n // 2:
                root, size = n // 2 - 1 - step, n
            else:
                size = n - 1 - (step - n // 2)
                heap[0], heap[size] = heap[size], heap[0]
                root = 0
            while True:
                child = 2 * root + 1
                if child >= size:
                    break
                if child + 1 < size and heap[child + 1] > heap[child]:
                    child += 1
                if heap[root] >= heap[child]:
                    break
                heap[root], heap[child] = heap[child], heap[root]
                root = child


@jit
def unpack_events(keys, items, times, start, stop):  # type: ignore[no-untyped-def]
    for p in range(start, stop):
        items[p] = np.int32(keys[p] >> np.uint64(32))
        times[p] = np.uint32(keys[p] & np.uint64(0xFFFFFFFF))


@jit
def count_pairs(ptr, items, indptr):  # type: ignore[no-untyped-def]
    """indptr (n_rows + 1,): distinct items of each row, summed up; items sorted inside rows."""
    indptr[0] = 0
    for r in range(ptr.size - 1):
        n = 0
        last = np.int32(-1)
        for p in range(ptr[r], ptr[r + 1]):
            if items[p] != last:
                n += 1
                last = items[p]
        indptr[r + 1] = indptr[r] + n


@jit
def fill_pairs(ptr, items, values, indptr, indices, counts, start, stop):  # type: ignore[no-untyped-def]
    """Distinct items of each row and the sum of their values (1 each where `values` is empty)."""
    for r in range(start, stop):
        at = indptr[r] - 1
        last = np.int32(-1)
        for p in range(ptr[r], ptr[r + 1]):
            if items[p] != last:
                at += 1
                last = items[p]
                indices[at] = last
                counts[at] = 0.0
            counts[at] += values[p] if values.size else np.float32(1.0)


@jit
def count_columns(indices, counts):  # type: ignore[no-untyped-def]
    """counts (n_cols,) int64 grow by the entries of each column."""
    for p in range(indices.size):
        counts[indices[p]] += 1


@jit
def transpose(  # type: ignore[no-untyped-def]
    indptr, indices, values, t_cursor, t_indices, t_values, start, stop
):
    """The rows start..stop of a CSR matrix into its transpose.

    t_cursor (n_cols,) int64 = where these rows begin in each column, consumed. Rows stay sorted.
    """
    for r in range(start, stop):
        for p in range(indptr[r], indptr[r + 1]):
            at = t_cursor[indices[p]]
            t_cursor[indices[p]] = at + 1
            t_indices[at] = r
            if values.size:
                t_values[at] = values[p]


# ---------------------------------------------------------------- top-k selection


@jit
def _push(scores, ids, size, k, score, item):  # type: ignore[no-untyped-def]
    """Offer (score, item) to a heap of the k best; its root is the worst. Returns the new size.

    Better: higher score, then lower id.
    """
    if size < k:
        at = size
        size += 1
        while at > 0:
            up = (at - 1) >> 1
            if scores[up] < score or (scores[up] == score and ids[up] > item):
                break
            scores[at], ids[at] = scores[up], ids[up]
            at = up
        scores[at], ids[at] = score, item
        return size
    if score < scores[0] or (score == scores[0] and item > ids[0]):
        return size
    _sink(scores, ids, 0, size, score, item)
    return size


@jit
def _sink(scores, ids, at, size, score, item):  # type: ignore[no-untyped-def]
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        right = child + 1
        if right < size and (
            scores[right] < scores[child]
            or (scores[right] == scores[child] and ids[right] > ids[child])
        ):
            child = right
        if score < scores[child] or (score == scores[child] and item > ids[child]):
            break
        scores[at], ids[at] = scores[child], ids[child]
        at = child
    scores[at], ids[at] = score, item


@jit
def _sort_heap(scores, ids, size):  # type: ignore[no-untyped-def]
    """Turn the heap into a list, best first."""
    while size > 1:
        size -= 1
        score, item = scores[size], ids[size]
        scores[size], ids[size] = scores[0], ids[0]
        _sink(scores, ids, 0, size, score, item)


@intrinsic  # type: ignore[untyped-decorator]
def prefetch(typingctx: Any, array: Any, index: Any) -> Any:
    """Ask for the cache line of array[index]: rows are too short for the processor to guess."""
    from llvmlite import ir  # type: ignore[import-untyped]

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        view = context.make_array(signature.args[0])(context, builder, arguments[0])
        number, pointer = ir.IntType(32), ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [pointer, number, number, number])
        function = builder.module.declare_intrinsic("llvm.prefetch", [pointer], kind)
        address = builder.bitcast(builder.gep(view.data, [arguments[1]]), pointer)
        read, keep, data = (ir.Constant(number, value) for value in (0, 3, 1))
        builder.call(function, [address, read, keep, data])
        return context.get_dummy_value()

    return numba.void(array, numba.uint64), codegen


@intrinsic  # type: ignore[untyped-decorator]
def take_word(
    typingctx: Any, counters: Any, at: Any, words: Any, offsets: Any, n: Any, floor: Any, need: Any,
    sums: Any,
) -> Any:  # fmt: skip
    """Which of 64 counters reach `need` with the bits of n bitmaps added; the counters become 0.

    sums[i] = counters[64 at + i] + the bits i of words[offsets[j] + at], j < n; bit i of the result
    (uint64) says sums[i] >= need. Where no counter reaches `floor`, the result is 0 and nothing is
    added up. Written as vectors: numba makes none of bits.
    """
    from llvmlite import ir
    from numba.core import cgutils

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        number, index = ir.IntType(64), {"c": 0, "w": 2, "o": 3, "s": 7}
        data = {
            name: context.make_array(kinds[i])(context, builder, arguments[i]).data
            for name, i in index.items()
        }
        width = kinds[0].dtype.bitwidth
        lane, vector = ir.IntType(width), ir.VectorType(ir.IntType(width), 64)
        flags = ir.VectorType(ir.IntType(1), 64)

        def reach(values: Any, least: Any) -> Any:
            low = builder.trunc(least, lane) if width < 64 else least
            filled = builder.insert_element(
                ir.Constant(vector, ir.Undefined), low, ir.Constant(ir.IntType(32), 0)
            )
            zeros = ir.Constant(ir.VectorType(ir.IntType(32), 64), [0] * 64)
            every = builder.shuffle_vector(filled, ir.Constant(vector, ir.Undefined), zeros)
            return builder.bitcast(builder.icmp_unsigned(">=", values, every), number)

        byte = width // 8
        first = builder.mul(arguments[1], ir.Constant(number, 64))
        place = builder.bitcast(builder.gep(data["c"], [first]), vector.as_pointer())
        total = cgutils.alloca_once(builder, vector)
        counted = builder.load(place, align=byte)
        builder.store(counted, total)
        builder.store(ir.Constant(vector, None), place, align=byte)
        result = cgutils.alloca_once_value(builder, ir.Constant(number, 0))
        some = builder.icmp_unsigned("!=", reach(counted, arguments[5]), ir.Constant(number, 0))
        with builder.if_then(some):
            with cgutils.for_range(builder, arguments[4]) as loop:
                offset = builder.load(builder.gep(data["o"], [loop.index]))
                where = builder.gep(data["w"], [builder.add(offset, arguments[1])])
                bits = builder.bitcast(builder.load(where), flags)
                builder.store(builder.add(builder.load(total), builder.zext(bits, vector)), total)
            reached = builder.load(total)
            builder.store(reach(reached, arguments[6]), result)
            out = builder.bitcast(data["s"], vector.as_pointer())
            builder.store(reached, out, align=byte)
        return builder.load(result)

    integer = numba.int64
    signature = numba.uint64(counters, integer, words, offsets, integer, integer, integer, sums)
    return signature, codegen


@intrinsic  # type: ignore[untyped-decorator]
def lowest_bit(typingctx: Any, bits: Any) -> Any:
    """The number of the lowest bit that is set in bits (uint64, not 0)."""
    from llvmlite import ir

    def codegen(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return numba.uint64(numba.uint64), codegen


@jit
def product_top_k(  # type: ignore[no-untyped-def]
    q_rows, seen_rows, q_ptr, q_idx, q_val, m_ptr, m_idx, m_val, seen_ptr, seen_idx, n_items,
    out_idx, out_score, start, stop,
):  # fmt: skip
    """Top-k of the sparse product Q[q_rows] @ M, without the items of seen[seen_rows].

    Q and M are CSR (weights float32; an empty q_val means 1 everywhere); an empty seen_ptr keeps
    every item. Scores are summed in float64 in the order of the row and rounded to float32 before
    they are compared; a score of 0 is no score. On entry out_idx (n, k) int32 holds -1 and
    out_score (n, k) float32 holds -inf.
    """
    k = out_idx.shape[1]
    total = np.zeros(n_items, np.float64)  # 0: untouched; -inf: seen
    touched = np.empty(n_items + 1, np.int32)
    found = np.empty(n_items + LANES, np.float32)
    kept = np.empty(n_items + 1, np.int32)
    best = np.empty(LANES, np.float32)
    full = np.uint64(n_items)
    for n in range(start, stop):
        row = q_rows[n]
        n_touched = np.uint64(0)
        seen_lo, seen_hi = 0, 0
        if seen_ptr.size:
            seen_lo, seen_hi = seen_ptr[seen_rows[n]], seen_ptr[seen_rows[n] + 1]
        for p in range(seen_lo, seen_hi):
            total[seen_idx[p]] = -np.inf
        last = q_ptr[row + 1]
        for p in range(q_ptr[row], last):
            if p + AHEAD < last:
                far = np.uint64(m_ptr[q_idx[p + AHEAD]])
                prefetch(m_idx, far)
                prefetch(m_idx, far + np.uint64(16))
                prefetch(m_val, far)
                prefetch(m_val, far + np.uint64(16))
            weight = np.float64(q_val[p]) if q_val.size else 1.0
            middle = q_idx[p]
            for q in range(np.uint64(m_ptr[middle]), np.uint64(m_ptr[middle + 1])):
                item = np.uint32(m_idx[q])
                before = total[item]
                # No branch: it would go astray half the time. An item whose sum comes back to 0 is
                # listed again; it is dropped below.
                touched[min(n_touched, full)] = item
                n_touched += np.uint64(before == 0.0)
                total[item] = before + weight * m_val[q]
        scores, ids, size = out_score[n], out_idx[n], 0
        if n_touched > full:  # only with sums that came back to 0
            n_touched = full
            for t in range(n_items):
                touched[t] = t
        for t in range(n_touched):
            item = np.uint32(touched[t])
            score = np.float32(total[item])
            found[t] = score if score != 0.0 else np.float32(-np.inf)
            total[item] = 0.0
        least = _kth_at_least(found, n_touched, k, best)
        n_kept = np.uint64(0)
        for t in range(n_touched):  # no branch here either
            kept[n_kept] = t
            n_kept += np.uint64(found[t] >= least)
        for t in range(n_kept):
            score = found[np.uint32(kept[t])]
            if score > -np.inf and (size < k or score >= scores[0]):
                size = _push(scores, ids, size, k, score, touched[np.uint32(kept[t])])
        _sort_heap(scores, ids, size)
        for p in range(seen_lo, seen_hi):
            total[seen_idx[p]] = 0.0


@jit
def _kth_at_least(values, n, k, best):  # type: ignore[no-untyped-def]
    """A number that k of values[:n] reach: the k-th largest of the maxima of LANES parts of them.

    best (LANES,) is scratch; values has room for LANES numbers more than n. -inf where it would
    not pay.
    """
    least = np.float32(-np.inf)
    if k > LANES or n < 2 * LANES:
        return least
    end = -(-np.int64(n) // LANES) * LANES
    values[n:end] = -np.inf
    for lane in range(LANES):
        best[lane] = -np.inf
    for start in range(0, end, LANES):
        part = values[start : start + LANES]
        for lane in range(LANES):
            best[lane] = max(best[lane], part[lane])
    for lane in range(LANES):
        reached = 0
        for other in range(LANES):
            reached += best[other] >= best[lane]
        if reached >= k:
            least = max(least, best[lane])
    return least


@jit
def dense_rows_top_k(  # type: ignore[no-untyped-def]
    users, values, columns, position, seen_ptr, seen_idx, out_idx, out_score, start, stop
):
    """Top-k of each row of values (n, m) float32, of the items columns (m,), without seen[users].

    position (n_items,) is the column of each item or -1; the cells of seen items are overwritten.
    """
    k = out_idx.shape[1]
    for n in range(start, stop):
        if seen_ptr.size:
            for p in range(seen_ptr[users[n]], seen_ptr[users[n] + 1]):
                at = position[seen_idx[p]]
                if at >= 0:
                    values[n, at] = -np.inf
        scores, ids, size = out_score[n], out_idx[n], 0
        for at in range(columns.size):
            score = values[n, at]
            if score > -np.inf and (size < k or score > scores[0]):
                size = _push(scores, ids, size, k, score, columns[at])
        _sort_heap(scores, ids, size)


@jit
def ranked_top_k(  # type: ignore[no-untyped-def]
    rows, order, order_score, seen_ptr, seen_idx, out_idx, out_score, start, stop
):
    """The first k of one ranking of the items (order, best first) that are not in seen[rows]."""
    k = out_idx.shape[1]
    for n in range(start, stop):
        lo, hi = 0, 0
        if seen_ptr.size:
            lo, hi = seen_ptr[rows[n]], seen_ptr[rows[n] + 1]
        found = 0
        for p in range(order.size):
            if found == k:
                break
            item = order[p]
            if not _contains(seen_idx, lo, hi, item):
                out_idx[n, found] = item
                out_score[n, found] = order_score[p]
                found += 1


@jit
def _contains(sorted_values, lo, hi, value):  # type: ignore[no-untyped-def]
    end = hi
    while lo < hi:
        middle = (lo + hi) >> 1
        if sorted_values[middle] < value:
            lo = middle + 1
        else:
            hi = middle
    return lo < end and sorted_values[lo] == value


@jit
def random_top_k(  # type: ignore[no-untyped-def]
    rows, seeds, n_items, seen_ptr, seen_idx, out_idx, out_score, start, stop
):
    """k items drawn without replacement (Fisher-Yates on SplitMix64), one stream per row."""
    k = out_idx.shape[1]
    deck = np.empty(n_items, np.int32)
    for item in range(n_items):
        deck[item] = item
    swaps = np.empty(n_items, np.int32)
    for n in range(start, stop):
        state = seeds[n]
        lo, hi = 0, 0
        if seen_ptr.size:
            lo, hi = seen_ptr[rows[n]], seen_ptr[rows[n] + 1]
        found = 0
        drawn = 0
        while drawn < n_items and found < k:
            state += np.uint64(0x9E3779B97F4A7C15)
            z = state
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            z = z ^ (z >> np.uint64(31))
            other = drawn + np.int64((z >> np.uint64(11)) % np.uint64(n_items - drawn))
            swaps[drawn] = other
            deck[drawn], deck[other] = deck[other], deck[drawn]
            item = deck[drawn]
            drawn += 1
            if not _contains(seen_idx, lo, hi, item):
                out_idx[n, found] = item
                out_score[n, found] = np.float32(1.0 - found / n_items)
                found += 1
        while drawn:
            drawn -= 1
            other = swaps[drawn]
            deck[drawn], deck[other] = deck[other], deck[drawn]


# ---------------------------------------------------------------- neighbours by overlap


@jit
def block_index(  # type: ignore[no-untyped-def]
    indptr, indices, order, block_start, block_ptr, block_rows, start, stop
):
    """Blocks start..stop of the inverted index of the rows taken in `order`, BLOCK_ROWS a block.

    block_ptr (n_blocks, n_cols + 1) int32 zeros on entry, block_rows (nnz,) uint16. The entries of
    block b begin at block_start[b]; among them, block_ptr[b, c] : block_ptr[b, c + 1] are the local
    numbers of the rows with column c.
    """
    n_cols = block_ptr.shape[1] - 1
    for b in range(start, stop):
        ptr = block_ptr[b]
        rows = block_rows[block_start[b] : block_start[b + 1]]
        lo, hi = b * BLOCK_ROWS, min((b + 1) * BLOCK_ROWS, order.size)
        for fill in range(2):
            for position in range(lo, hi):
                if position + FAR < hi:  # rows of one size stand anywhere
                    prefetch(indptr, np.uint64(order[position + FAR]))
                if position + 2 * AHEAD < hi:
                    prefetch(indices, np.uint64(indptr[order[position + 2 * AHEAD]]))
                row = order[position]
                if fill:
                    for p in range(indptr[row], indptr[row + 1]):
                        c = indices[p]
                        rows[ptr[c]] = position - lo
                        ptr[c] += 1
                else:
                    for p in range(indptr[row], indptr[row + 1]):
                        ptr[indices[p] + 1] += 1
            if not fill:
                for c in range(n_cols):
                    ptr[c + 1] += ptr[c]
        for c in range(n_cols, 0, -1):
            ptr[c] = ptr[c - 1]
        ptr[0] = 0


@jit
def block_bitmaps(  # type: ignore[no-untyped-def]
    block_ptr, block_start, block_rows, bitmap_of, bitmaps, start, stop
):
    """The lists of blocks start..stop that bitmap_of (n_blocks, n_popular) numbers, as bitmaps.

    bitmaps (n, words) uint64 zeros on entry; bitmap_of is -1 for lists that get none.
    """
    for b in range(start, stop):
        first = block_start[b]
        for c in range(bitmap_of.shape[1]):
            at = bitmap_of[b, c]
            if at >= 0:
                for p in range(first + block_ptr[b, c], first + block_ptr[b, c + 1]):
                    local = np.uint64(block_rows[p])
                    word = np.int64(local >> np.uint64(6))
                    bitmaps[at, word] |= np.uint64(1) << (local & np.uint64(63))


@jit
def _similarity_key(kind, overlap, query_scale, other_scale, shrink):  # type: ignore[no-untyped-def]
    """A number in the order of the similarity, growing with the overlap, falling with the scale.

    Cosine compares overlap**2 / size: one correctly rounded division of exact integers, so equal
    cosines have equal keys.
    """
    c = np.float64(overlap)
    if kind == 0:
        return c * c / other_scale
    if kind == 1:
        return c / (query_scale * other_scale + shrink)
    return c / (query_scale + other_scale - c + shrink)


@jit
def overlap_neighbours(  # type: ignore[no-untyped-def]
    queries, indptr, indices, order, query_scale, scales, chunk_min, block_ptr, block_start,
    block_rows, bitmap_of, bitmaps, kind, shrink, include_self, first_block, counters,
    out_idx, out_sim, start, stop,
):  # fmt: skip
    """The k most similar rows of each of queries[start:stop], by the overlap of their columns.

    `order` lists the rows by size (small first), `scales` (n,) float64 their scale in that order,
    never falling; `chunk_min` the lowest row number of each 64 positions. The queries of one call
    should have similar sizes: blocks are visited outwards from `first_block`, so that the k-th best
    is high early and whole blocks and words can be passed over.

    In a block, the short lists are counted into `counters` (zeros, a multiple of 64). The long
    ones, which are bitmaps, are added 64 rows at a time, and only where the count could reach the
    k-th best were a row in all of them.
    """
    k = out_idx.shape[1]
    n_rows = order.size
    n_blocks, n_popular = block_ptr.shape[0], bitmap_of.shape[1]
    n_queries = stop - start
    keys = np.empty((n_queries, k), np.float64)
    fill = np.zeros(n_queries, np.int64)
    one = counters.dtype.type(1)
    most = np.int64(1)
    for n in range(start, stop):
        most = max(most, indptr[queries[n] + 1] - indptr[queries[n]])
    firsts, lasts = np.empty(most, np.int64), np.empty(most, np.int64)
    offsets = np.empty(most, np.int64)
    sums = np.empty(64, counters.dtype)
    words = bitmaps.ravel()
    n_words = bitmaps.shape[1]
    for turn in range(2 * n_blocks):
        step = (turn + 1) // 2
        b = first_block - step if turn % 2 else first_block + step
        if b < 0 or b >= n_blocks:
            continue
        base = b * BLOCK_ROWS
        size = min(BLOCK_ROWS, n_rows - base)
        ptr = block_ptr[b]
        numbers = bitmap_of[b]
        rows = block_rows[block_start[b] : block_start[b + 1]]
        low, high = scales[base], scales[base + size - 1]
        for n in range(n_queries):
            row = queries[start + n]
            q_lo, q_hi = indptr[row], indptr[row + 1]
            if q_lo == q_hi:
                continue
            heap_key, heap_id = keys[n], out_idx[start + n]
            own, filled = query_scale[row], fill[n]
            if filled == k:
                bound = _best_key(kind, np.float64(q_hi - q_lo), own, low, high, shrink)
                if bound < heap_key[0]:
                    continue
            need = _least_overlap(kind, heap_key, filled, k, own, low, shrink, q_hi - q_lo)
            if need > q_hi - q_lo:
                continue
            touched = np.int64(0)
            n_long, n_short = np.int64(0), np.int64(0)
            for p in range(q_lo, q_hi):
                if p + FAR < q_hi:
                    prefetch(ptr, np.uint64(indices[p + FAR]))
                c = indices[p]
                first, last = ptr[c], ptr[c + 1]
                if c < n_popular and numbers[c] >= 0:
                    offsets[n_long] = np.int64(numbers[c]) * n_words
                    n_long += 1
                elif first < last:
                    prefetch(rows, np.uint64(first))
                    firsts[n_short], lasts[n_short] = first, last
                    n_short += 1
                    touched += np.int64(last - first)
            if n_long + n_short < need:
                continue
            # A bitmap is only read by the scan, which a list of that length asks for anyway.
            scan = n_long > 0 or touched * SPARSE >= size
            for p in range(n_short):
                if p + 2 * AHEAD < n_short:
                    far, end = np.uint64(firsts[p + 2 * AHEAD]), np.uint64(lasts[p + 2 * AHEAD])
                    end = min(end, far + np.uint64(512))
                    while far < end:
                        prefetch(rows, far)
                        far += np.uint64(32)
                for t in range(np.uint64(firsts[p]), np.uint64(lasts[p])):  # unsigned: no wrap
                    counters[rows[t]] += one
            if scan:
                for word in range((size + 63) >> 6):
                    hits = take_word(
                        counters, word, words, offsets, n_long, max(need - n_long, 0), need, sums
                    )
                    if hits == 0:
                        continue
                    position = base + (word << 6)
                    bound = _similarity_key(kind, _largest(sums), own, scales[position], shrink)
                    if filled == k and (
                        bound < heap_key[0]
                        or (bound == heap_key[0] and chunk_min[position >> 6] > heap_id[0])
                    ):
                        continue
                    while hits:
                        lane = np.int64(lowest_bit(hits))
                        hits &= hits - np.uint64(1)
                        other = order[position + lane]
                        if other == row and not include_self:
                            continue
                        key = _similarity_key(
                            kind, sums[lane], own, scales[position + lane], shrink
                        )
                        if filled < k or key >= heap_key[0]:
                            filled = _push(heap_key, heap_id, filled, k, key, other)
                            while (
                                filled == k
                                and need <= q_hi - q_lo
                                and (_similarity_key(kind, need, own, low, shrink) < heap_key[0])
                            ):
                                need += 1
            else:
                for p in range(n_short):
                    for t in range(np.uint64(firsts[p]), np.uint64(lasts[p])):
                        local = rows[t]
                        overlap = counters[local]
                        counters[local] = 0
                        if overlap < need:
                            continue
                        other = order[base + local]
                        if other == row and not include_self:
                            continue
                        key = _similarity_key(kind, overlap, own, scales[base + local], shrink)
                        if filled < k or key >= heap_key[0]:
                            filled = _push(heap_key, heap_id, filled, k, key, other)
                            while (
                                filled == k
                                and need <= q_hi - q_lo
                                and (_similarity_key(kind, need, own, low, shrink) < heap_key[0])
                            ):
                                need += 1
            fill[n] = filled
    for n in range(n_queries):
        row = queries[start + n]
        filled = fill[n]
        _sort_heap(keys[n], out_idx[start + n], filled)
        for j in range(filled):
            key = keys[n, j]
            out_sim[start + n, j] = np.sqrt(key / query_scale[row]) if kind == 0 else key


@jit
def _largest(values):  # type: ignore[no-untyped-def]
    top = values[0]
    for t in range(values.size):
        top = max(top, values[t])
    return top


@jit
def _least_overlap(kind, heap_key, filled, k, own, low, shrink, most):  # type: ignore[no-untyped-def]
    """Smallest overlap that can enter the heap from rows of scale `low` or more; most + 1: none."""
    if filled < k:
        return 1
    too_small = np.int64(0)
    enough = most + 1
    while enough - too_small > 1:
        middle = (too_small + enough) >> 1
        if _similarity_key(kind, middle, own, low, shrink) < heap_key[0]:
            too_small = middle
        else:
            enough = middle
    return enough


@jit
def _best_key(kind, n, own, low, high, shrink):  # type: ignore[no-untyped-def]
    """Upper bound of the key against any row whose scale lies in [low, high].

    Cosine and Jaccard have scale = size, where the overlap is at most min(n, size); the general
    form bounds the overlap by n alone.
    """
    if kind == 1:
        return _similarity_key(kind, n, own, low, shrink)
    size = min(max(n, low), high)
    return _similarity_key(kind, min(n, size), own, size, shrink)


@jit
def compact_rows(idx, values, indptr, out_idx, out_val):  # type: ignore[no-untyped-def]
    """Padded lists (n, k) to CSR with sorted columns; indptr filled here, outputs sized n * k."""
    at = 0
    for r in range(idx.shape[0]):
        lo = at
        for j in range(idx.shape[1]):
            if idx[r, j] < 0:
                break
            item, value = idx[r, j], values[r, j]
            p = at
            while p > lo and out_idx[p - 1] > item:
                out_idx[p], out_val[p] = out_idx[p - 1], out_val[p - 1]
                p -= 1
            out_idx[p], out_val[p] = item, value
            at += 1
        indptr[r + 1] = at


# ---------------------------------------------------------------- negatives for pairwise learning


@jit
def draw_negatives(  # type: ignore[no-untyped-def]
    users, indptr, indices, candidates, seed, out, start, stop
):
    """out[n]: one of candidates (m,) int32, drawn evenly among those not in the row of users[n].

    indices ascending inside a row. Every position has a SplitMix64 stream of its own, so the draw
    depends neither on the order nor on the number of threads. -1 where the row holds them all.
    """
    m = np.uint64(candidates.size)
    for n in range(start, stop):
        lo, hi = indptr[users[n]], indptr[users[n] + 1]
        state = _mixed(seed + np.uint64(n) * np.uint64(0xD1342543DE82EF95))
        out[n] = -1
        for _ in range(64):
            state += np.uint64(0x9E3779B97F4A7C15)
            item = candidates[np.int64(_mixed(state) % m)]
            if not _contains(indices, lo, hi, item):
                out[n] = item
                break
        if out[n] < 0:  # nearly all are taken: the first free one from a drawn place on
            first = np.int64(_mixed(state + np.uint64(1)) % m)
            for step in range(candidates.size):
                at = first + step
                item = candidates[at if at < candidates.size else at - candidates.size]
                if not _contains(indices, lo, hi, item):
                    out[n] = item
                    break


@jit
def _mixed(z):  # type: ignore[no-untyped-def]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
