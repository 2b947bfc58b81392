"""The one door to nearest neighbours: the k items of largest inner product for every query.

Every exact method works in two steps. A fast product gives approximate scores whose error is
bounded; all items that the bound cannot rule out are then scored again in float64, rounded once to
float32, and ordered by (score descending, item id ascending). So the ids do not depend on the
method, the block size or the number of threads, and identical vectors tie by the lowest id.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numba as nb
import numpy as np
from numpy.typing import NDArray

from recsys import InputError, kernels

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Method = Literal["auto", "bf16", "fp32", "faiss"]
METHODS: tuple[str, ...] = ("auto", "bf16", "fp32", "faiss")
Device = Literal["auto", "cpu", "cuda"]

_BLOCK_BYTES = 96 << 20
"""Size of one block of approximate scores: large enough for full matrix speed, small enough to
stay a minor part of memory (it is allocated once and reused)."""


def top_k(
    queries: NDArray[np.float32] | csr_matrix,
    items: NDArray[np.float32] | csr_matrix,
    k: int,
    *,
    exclude: csr_matrix | None = None,
    candidates: NDArray[np.bool_] | None = None,
    device: Device = "auto",
    method: Method = "auto",
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `k` items of largest inner product for each query, exactly.

    Args:
        queries: (n, d) float32, finite; normalise beforehand for cosine. A scipy CSR matrix when
            `items` is one (TF-IDF).
        items: (m, d) float32, finite, or a scipy CSR matrix.
        k: length of the lists, at least 1; may exceed m.
        exclude: CSR (n, m); the item indices stored in row i never appear in list i.
        candidates: (m,) bool; False items never appear in any list.
        device: "cuda" searches with FAISS on all GPUs; "auto" does so where FAISS sees one.
        method: "auto" takes bf16 where this CPU computes bf16 products faster, else fp32; "faiss"
            searches a flat FAISS index. The ids are the same whichever is used.

    Returns:
        ids (n, k) int32 padded with -1, scores (n, k) float32 padded with -inf; each row by
        descending score, equal scores by ascending id.

    Raises:
        InputError: wrong dimensions, NaN or infinite values, k < 1, unknown method or device, or
            CUDA asked for where FAISS has no GPU.
    """
    from scipy import sparse

    is_sparse = sparse.issparse(items)
    if is_sparse != sparse.issparse(queries):
        raise InputError("queries and items must both be dense arrays or both be CSR matrices")
    if not is_sparse:
        queries, items = _dense("queries", queries), _dense("items", items)
    _check(queries, items, k, exclude, candidates, method)
    n, m = queries.shape[0], items.shape[0]
    ids = np.full((n, k), -1, dtype=np.int32)
    scores = np.full((n, k), -np.inf, dtype=np.float32)
    groups = _group(items, candidates)
    if n == 0 or groups.size == 0:
        return ids, scores
    task = _Task(queries, items, groups, _excluded(exclude, n, m), ids, scores)
    if is_sparse:
        _search_sparse(task)
        return ids, scores
    use_gpu = _use_gpu(device)
    if method == "faiss" or (method == "auto" and use_gpu):
        left = _search_faiss(task, use_gpu)
    elif method == "bf16" or (method == "auto" and bf16_pays()):
        left = _search_bf16(task)
    else:
        left = np.arange(n)
    _search_fp32(task, left)
    return ids, scores


@cache
def bf16_pays() -> bool:
    """Whether this machine multiplies bf16 matrices at least 1.3 times as fast as float32 ones."""
    import time

    import torch

    rng = np.random.default_rng(0)
    a = rng.standard_normal((256, 512), dtype=np.float32)
    b = np.ascontiguousarray(rng.standard_normal((8192, 512), dtype=np.float32).T)
    half_a, half_b = torch.from_numpy(a).bfloat16(), torch.from_numpy(b).bfloat16()
    best = {"fp32": np.inf, "bf16": np.inf}
    for _ in range(4):
        start = time.perf_counter()
        a @ b
        middle = time.perf_counter()
        torch.mm(half_a, half_b)
        end = time.perf_counter()
        best["fp32"] = min(best["fp32"], middle - start)
        best["bf16"] = min(best["bf16"], end - middle)
    return best["fp32"] > 1.3 * best["bf16"]


# ---------------------------------------------------------------------------------------------
# Input


@dataclass
class _Groups:
    """Identical item vectors share one group: searched once, expanded to items at the end."""

    first: NDArray[np.int64]  # (u,) the lowest item id of each group
    of_item: NDArray[np.int32]  # (m,) group of an item, -1 for items that are no candidates
    start: NDArray[np.int64]  # (u + 1,) offsets into members
    members: NDArray[np.int32]  # candidate ids, grouped, ascending within a group

    @property
    def size(self) -> int:
        return len(self.first)


@dataclass
class _Task:
    queries: Any  # (n, d) float32 or CSR
    items: Any  # (m, d) float32 or CSR
    groups: _Groups
    exclude: tuple[NDArray[np.int64], NDArray[np.int32]]  # indptr, sorted indices
    ids: NDArray[np.int32]
    scores: NDArray[np.float32]


def _dense(name: str, array: Any) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = np.ascontiguousarray(array, dtype=np.float32)
    if rows.ndim != 2:
        raise InputError(f"{name} has shape {rows.shape}; expected two dimensions (rows, dim)")
    # A sum is finite only if no value is NaN or infinite (or it overflows: then look closely).
    if not np.isfinite(rows.sum(dtype=np.float64)) and not np.isfinite(rows).all():
        row = int(np.flatnonzero(~np.isfinite(rows).all(axis=1))[0])
        raise InputError(
            f"{name} row {row} holds NaN or infinite values; mark such rows as not valid instead"
        )
    return rows


def _check(queries: Any, items: Any, k: int, exclude: Any, candidates: Any, method: str) -> None:
    n, m = queries.shape[0], items.shape[0]
    if queries.shape[1] != items.shape[1]:
        raise InputError(
            f"queries have {queries.shape[1]} dimensions and items have {items.shape[1]}; "
            "both must come from the same encoder"
        )
    if k < 1:
        raise InputError(f"k is {k}; expected at least 1")
    if method not in METHODS:
        raise InputError(f"method is {method!r}; expected one of {', '.join(METHODS)}")
    if exclude is not None and exclude.shape != (n, m):
        raise InputError(f"exclude has shape {exclude.shape}; expected (queries, items) = {n, m}")
    if candidates is not None and candidates.shape != (m,):
        raise InputError(f"candidates has shape {candidates.shape}; expected (items,) = ({m},)")


def _excluded(exclude: Any, n: int, m: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    if exclude is None:
        return np.zeros(n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    if not exclude.has_canonical_format:
        exclude = exclude.copy()
        exclude.sum_duplicates()
    return exclude.indptr.astype(np.int64), exclude.indices.astype(np.int32, copy=False)


def _group(items: Any, candidates: NDArray[np.bool_] | None) -> _Groups:
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
    return _Groups(first[order].astype(np.int64), of_item, start, members)


def _hash_rows(items: Any) -> NDArray[np.uint64]:
    rng = np.random.default_rng(0)
    with np.errstate(over="ignore"):
        if not isinstance(items, np.ndarray):
            factor = rng.integers(1, 2**63, size=items.shape[1], dtype=np.uint64) | np.uint64(1)
            terms = (items.data.view(np.uint32) + np.uint64(1)) * factor[items.indices]
            total = np.concatenate([[np.uint64(0)], np.cumsum(terms, dtype=np.uint64)])
            return np.asarray(total[items.indptr[1:]] - total[items.indptr[:-1]])
        factor = rng.integers(1, 2**63, size=items.shape[1], dtype=np.uint64) | np.uint64(1)
        out = np.empty(len(items), dtype=np.uint64)
        for lo in range(0, len(items), 4096):
            block = items[lo : lo + 4096].view(np.uint32)
            out[lo : lo + 4096] = (block * factor).sum(axis=1, dtype=np.uint64)
    return out


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


def _use_gpu(device: str) -> bool:
    import faiss

    if device not in ("auto", "cpu", "cuda"):
        raise InputError(f"device is {device!r}; expected auto, cpu or cuda")
    available = faiss.get_num_gpus() > 0
    if device == "cuda" and not available:
        raise InputError(
            "device is 'cuda' but FAISS sees no GPU; install faiss-gpu in place of faiss-cpu, "
            "or use device='cpu'"
        )
    return available and device != "cpu"


# ---------------------------------------------------------------------------------------------
# Searches: each fills task.ids and task.scores, or names the rows it could not certify


def _search_fp32(task: _Task, rows: NDArray[np.int64]) -> None:
    """Exact search of `rows`; the bound is that of a float32 sum of d products."""
    if len(rows) == 0:
        return
    items = _distinct(task)
    error = _summation_error(items.shape[1]) * float(_norms(items).max())
    size = _block_rows(task.groups.size, 4)
    block = np.empty((min(size, len(rows)), task.groups.size), dtype=np.float32)
    for lo in range(0, len(rows), size):
        at = rows[lo : lo + size]
        query = task.queries[at]
        out = np.matmul(query, items.T, out=block[: len(at)])
        _select(task, at, query, out.view(np.uint32), 2 * error * _norms(query))


def _search_bf16(task: _Task) -> NDArray[np.int64]:
    """Search by bf16 products; returns the rows whose bound left too many items to score again.

    With q = q' + dq and x = x' + dx (primes rounded to bf16), |qx - q'x'| <= |q||dx| + |dq||x'|.
    Items are centred first: q.mean(x) is one constant per query, so the ranking stays while |x|,
    and with it the bound, shrinks. The product's own rounding to bf16 is `rounding`.
    """
    import torch

    items = _distinct(task)
    u, d = items.shape
    mean = items.mean(axis=0, dtype=np.float64).astype(np.float32)
    half_items = torch.empty((u, d), dtype=torch.bfloat16)
    parts = [slice(lo, lo + 8192) for lo in range(0, u, 8192)]
    scale = 1 / max(max(float(_norms(items[part] - mean).max()) for part in parts), 1e-30)
    residual = 0.0
    for part in parts:
        scaled = (items[part] - mean) * np.float32(scale)  # norms <= 1: no under- or overflow
        half_items[part] = torch.from_numpy(scaled).bfloat16()
        residual = max(residual, float(_norms(scaled - half_items[part].float().numpy()).max()))
    size = _block_rows(u, 2)
    n = len(task.queries)
    block = torch.empty((min(size, n), u), dtype=torch.bfloat16)
    left = []
    for lo in range(0, n, size):
        at = np.arange(lo, min(lo + size, n))
        query = task.queries[at]
        unit = query / np.maximum(_norms(query), 1e-30)[:, None].astype(np.float32)
        half = torch.from_numpy(unit).bfloat16()
        out = block[: len(at)]
        torch.mm(half, half_items.T, out=out)
        error = residual + _norms(unit - half.float().numpy()) + 4 * _summation_error(d)
        bits = out.view(torch.uint16).numpy()
        over = _select(task, at, query, bits, 2.02 * error, rounding=1.01 * 2.0**-8, cap=_CAP)
        left.append(at[over])
    return np.concatenate(left)


def _search_faiss(task: _Task, gpu: bool) -> NDArray[np.int64]:
    """Search a flat FAISS index beyond k, score again; returns the rows that need more."""
    items = _distinct(task)
    u, d = items.shape
    index = _flat_index(items, gpu)
    k = task.ids.shape[1]
    error = _summation_error(d) * float(_norms(items).max())
    n_excluded = np.diff(task.exclude[0])
    rows = np.argsort(n_excluded, kind="stable")  # alike rows together: no row pays for another
    left = []
    for lo in range(0, len(rows), 4096):
        at = rows[lo : lo + 4096]
        query = np.ascontiguousarray(task.queries[at])
        width = int(min(k + 32 + n_excluded[at[-1]], u, _GPU_K if gpu else u))
        approximate, column = index.search(query, width)
        bits = np.ascontiguousarray(approximate, dtype=np.float32).view(np.uint32)
        _select(task, at, query, bits, np.full(len(at), np.inf), columns=column.astype(np.int32))
        if width < u:
            # float32 rounding of the kept score is far below the bound of the product.
            bar = approximate[:, -1] + 2 * error * _norms(query)
            left.append(at[task.scores[at, -1] <= bar])
    return np.concatenate([np.zeros(0, dtype=np.int64), *left])


def _search_sparse(task: _Task) -> None:
    """Exact search of CSR vectors; equal vectors get equal sums, as terms add in one order."""
    items = task.items[task.groups.first]
    n, u = task.queries.shape[0], task.groups.size
    size = _block_rows(u, 4)
    nothing = np.zeros((0, 0), dtype=np.float32)
    for lo in range(0, n, size):
        at = np.arange(lo, min(lo + size, n))
        query = task.queries[at].toarray()
        scores = np.ascontiguousarray((items @ query.T).T, dtype=np.float32)
        _select(task, at, nothing, scores.view(np.uint32), np.zeros(len(at)), rescore=False)


_CAP = 4096
"""Items scored again per row after a bf16 product; beyond it a float32 product is cheaper."""
_GPU_K = 2048
"""The longest list FAISS returns on a GPU."""


def _distinct(task: _Task) -> NDArray[np.float32]:
    items: NDArray[np.float32] = task.items
    return items[task.groups.first] if task.groups.size < len(items) else items


def _norms(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    norms: NDArray[np.float64] = np.sqrt(np.einsum("ij,ij->i", rows, rows, dtype=np.float64))
    return norms


def _summation_error(d: int) -> float:
    """Bound of a float32 inner product of unit vectors of d terms (Higham 2002, section 3.1)."""
    return 1.05 * (d + 2) * 2.0**-24


def _block_rows(n_columns: int, bytes_per_score: int) -> int:
    return int(min(max(_BLOCK_BYTES // (n_columns * bytes_per_score), 16), 4096))


def _flat_index(items: NDArray[np.float32], gpu: bool) -> Any:
    import faiss

    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    if not gpu:
        return index
    options = faiss.GpuMultipleClonerOptions()
    # One copy per GPU answers fastest; items that would crowd a GPU's memory are split instead.
    options.shard = items.nbytes > 0.4 * _gpu_bytes()
    return faiss.index_cpu_to_all_gpus(index, co=options)


def _gpu_bytes() -> float:
    import torch

    if not torch.cuda.is_available():
        return 8e9
    return float(min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))


# ---------------------------------------------------------------------------------------------
# Selection kernel


def _select(
    task: _Task,
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
    """Fill the lists of `rows` from a block of approximate scores; True where `cap` was passed."""
    over = np.zeros(len(rows), dtype=np.bool_)
    groups = task.groups
    arrays = (
        bits,
        np.uint32(32 - 8 * bits.itemsize),
        np.zeros((0, 0), dtype=np.int32) if columns is None else columns,
        query,
        task.items if rescore else np.zeros((0, 0), dtype=np.float32),
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


@nb.njit(inline="always")  # type: ignore[untyped-decorator]
def _value(bits, shift):  # type: ignore[no-untyped-def]
    """The float32 whose leading 16 or 32 bits are `bits`: bf16 and float32 in one kernel."""
    return np.uint32(np.uint32(bits) << shift).view(np.float32)


@nb.njit(nogil=True, fastmath={"reassoc", "contract"})  # type: ignore[untyped-decorator]
def _dot(a, b):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(len(a)):
        total += np.float64(a[i]) * np.float64(b[i])
    return np.float32(total)


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _kth_largest(best, n_best, value):  # type: ignore[no-untyped-def]
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


@nb.njit(cache=True, nogil=True, error_model="numpy", fastmath={"nnan", "nsz"})  # type: ignore[untyped-decorator]
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
            _hide_excluded(bits[r], shift, excluded, of_item, start)
        for c in range(n_chunks):
            largest = np.float32(-np.inf)
            for j in range(c * 64, min(c * 64 + 64, width)):
                value = _value(bits[r, j], shift)
                if value > largest:
                    largest = value
            chunk_max[c] = largest
        # k chunks have a maximum of at least `bar`, so the k-th score is no smaller.
        n_best = 0
        for c in range(n_chunks):
            n_best = _kth_largest(best, n_best, chunk_max[c])
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
                    n_best = _kth_largest(best, n_best, value)
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
            score = _dot(query[r], items[first[group]]) if rescore else _value(bits[r, j], shift)
            for p in range(start[group], start[group + 1]):
                item = members[p]
                if n_out == k:
                    worst = scores[row, k - 1]
                    if score < worst or (score == worst and item > ids[row, k - 1]):
                        break  # members ascend, so the rest of the group is worse still
                if _contains(excluded, item):
                    continue
                at = min(n_out, k - 1)
                while at > 0 and (
                    scores[row, at - 1] < score
                    or (scores[row, at - 1] == score and ids[row, at - 1] > item)
                ):
                    scores[row, at] = scores[row, at - 1]
                    ids[row, at] = ids[row, at - 1]
                    at -= 1
                scores[row, at] = score
                ids[row, at] = item
                n_out = min(n_out + 1, k)


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _bar(kth, slack, rounding):  # type: ignore[no-untyped-def]
    """The approximate score below which no item can belong to the k best.

    The exact score of each of the k best approximate ones is at least kth - rounding |kth| -
    slack / 2, and an item's exact score is at most a + rounding |a| + slack / 2.
    """
    low = np.float64(kth) - rounding * abs(np.float64(kth)) - slack
    low = low / (1 + rounding) if low > 0 else low / (1 - rounding)
    return np.nextafter(np.float32(low), np.float32(-np.inf))


@nb.njit(nogil=True)  # type: ignore[untyped-decorator]
def _hide_excluded(bits, shift, excluded, of_item, start):  # type: ignore[no-untyped-def]
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
