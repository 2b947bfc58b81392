"""The one door to nearest neighbours: the k items of largest inner product for every query.

Every exact method works in two steps. A fast product, in bf16 or along fewer directions, gives
approximate scores whose error is bounded; all items that the bound cannot rule out are then scored
again in float64, rounded once to float32, and ordered by (score descending, item id ascending). So
the ids do not depend on the method, the block size or the number of threads, and identical vectors
tie by the lowest id.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from recsys import InputError
from recsys.reduction import Reduction, norms, reduce, select_bounded, summation_error
from recsys.selection import Task, group, select

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

Device = Literal["auto", "cpu", "cuda"]
Method = Literal["auto", "bf16", "fp32", "faiss", "ivf", "hnsw", "pq"]
EXACT: tuple[str, ...] = ("auto", "bf16", "fp32", "faiss")
APPROXIMATE: tuple[str, ...] = ("ivf", "hnsw", "pq")

_BLOCK_BYTES = 96 << 20
"""Size of one block of approximate scores: large enough for full matrix speed, small enough to
stay a minor part of memory."""
_SHARED_BYTES = 192 << 20
"""The same, where a row needs few items, which come from memory: rows of a block share them."""
_SMALL = 2e9
"""Multiplications below which float32 is quick enough and torch need not be imported."""
_LARGE = 3e10
"""Multiplications from which on it pays to look for leading directions, which takes half a second
of processor time itself."""
_CAP = 4096
"""Items scored again per row after a bf16 product; beyond it a float32 product is cheaper."""
_GPU_K = 2048
"""The longest list FAISS returns on a GPU."""
_RECALL_QUERIES = 200
"""Queries on which the recall of an approximate index is measured."""


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
    """The `k` items of largest inner product for each query: one call of `ItemIndex.top_k`."""
    return ItemIndex(items, candidates).top_k(
        queries, k, exclude=exclude, device=device, method=method
    )


class ItemIndex:
    """Items prepared for search: checked, identical vectors merged, indexes built when needed.

    Args:
        items: (m, d) float32, finite, not changed afterwards; or a scipy CSR matrix (TF-IDF).
        candidates: (m,) bool; False items never appear in any list.

    Raises:
        InputError: not two dimensions, NaN or infinite values, candidates of another length.
    """

    def __init__(
        self, items: NDArray[np.float32] | csr_matrix, candidates: NDArray[np.bool_] | None = None
    ) -> None:
        self.items: Any = _checked("items", items)
        m = self.items.shape[0]
        if candidates is not None and candidates.shape != (m,):
            raise InputError(f"candidates has shape {candidates.shape}; expected (items,) = ({m},)")
        self.groups = group(self.items, candidates)
        self.recall: dict[str, float] = {}
        """Approximate method -> share of the exact lists it found, on a sample of the queries."""
        self._indexes: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which builds its own index on its own GPUs."""
        kept = {name: index for name, index in self._indexes.items() if name != "gpu"}
        return {**self.__dict__, "_indexes": kept}

    def top_k(
        self,
        queries: NDArray[np.float32] | csr_matrix,
        k: int,
        *,
        exclude: csr_matrix | None = None,
        device: Device = "auto",
        method: Method = "auto",
    ) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """The `k` items of largest inner product for each query.

        Args:
            queries: (n, d) float32, finite, CSR if the items are; normalise both for cosine.
            k: length of the lists, at least 1; may exceed m.
            exclude: CSR (n, m); the item indices stored in row i never appear in list i.
            device: "cuda" searches with FAISS on all GPUs; "auto" does so where FAISS sees one.
            method: "fp32" multiplies in float32, along fewer directions where that pays (see
                `recsys.reduction`); "bf16" in bf16; "faiss" is a flat FAISS index; "auto" takes
                whichever of the first two is faster on this CPU. These are exact: the ids
                are the same whichever is used. "ivf", "hnsw" and "pq" are approximate FAISS indexes
                whose recall is measured at the first call and kept in `recall`. CSR vectors have
                one exact method.

        Returns:
            ids (n, k) int32 padded with -1, scores (n, k) float32 padded with -inf; each row by
            descending score, equal scores by ascending id.

        Raises:
            InputError: wrong dimensions, NaN or infinite values, k < 1, unknown method or device,
                CUDA asked for where FAISS has no GPU, too few items for an approximate index.
        """
        queries = _checked("queries", queries)
        self._check(queries, k, exclude, method)
        n, m = queries.shape[0], self.items.shape[0]
        ids = np.full((n, k), -1, dtype=np.int32)
        scores = np.full((n, k), -np.inf, dtype=np.float32)
        gpu = method in ("auto", "faiss") and _use_gpu(device)
        if n == 0 or self.groups.size == 0:
            return ids, scores
        task = Task(queries, _excluded(exclude, n, m), ids, scores)
        if not isinstance(queries, np.ndarray):
            self._search_sparse(task)
            return ids, scores
        if method in APPROXIMATE:
            self._search_faiss(task, method)
            self._measure_recall(task, method)
            return ids, scores
        work = n * self.groups.size * queries.shape[1]
        large = work >= _LARGE or "reduction" in self._indexes
        if method == "auto" and not gpu:
            half = work >= _SMALL and bf16_pays()
            method = "bf16" if half and not (large and self._beats_half(task)) else "fp32"
        left = np.arange(n)
        if method == "bf16":
            left = self._search_bf16(task)
        elif method in ("auto", "faiss"):
            left = self._search_faiss(task, "gpu" if gpu else "flat")
        elif large:
            left = self._search_reduced(task)
        self._search_fp32(task, left)
        return ids, scores

    def _check(self, queries: Any, k: int, exclude: Any, method: str) -> None:
        n, m = queries.shape[0], self.items.shape[0]
        if isinstance(queries, np.ndarray) != isinstance(self.items, np.ndarray):
            raise InputError("queries and items must both be arrays or both CSR matrices")
        if queries.shape[1] != self.items.shape[1]:
            raise InputError(
                f"queries have {queries.shape[1]} dimensions and items have "
                f"{self.items.shape[1]}; both must come from the same encoder"
            )
        if k < 1:
            raise InputError(f"k is {k}; expected at least 1")
        if method not in EXACT + APPROXIMATE:
            raise InputError(
                f"method is {method!r}; expected one of {', '.join(EXACT + APPROXIMATE)}"
            )
        if exclude is not None and exclude.shape != (n, m):
            raise InputError(
                f"exclude has shape {exclude.shape}; expected (queries, items) = {n, m}"
            )

    @cached_property
    def _distinct(self) -> Any:
        """(u, d): one vector of each group."""
        whole = self.groups.size == self.items.shape[0]
        return self.items if whole else self.items[self.groups.first]

    @cached_property
    def _largest(self) -> float:
        return float(norms(self._distinct).max())

    @cached_property
    def _half(self) -> tuple[Any, float]:
        """The distinct vectors, centred and scaled to norms of at most 1, in bf16; and the largest
        norm of what that rounding lost."""
        import torch

        items = self._distinct
        mean = items.mean(axis=0, dtype=np.float64).astype(np.float32)
        parts = [slice(lo, lo + 8192) for lo in range(0, len(items), 8192)]
        scale = 1 / max(max(float(norms(items[part] - mean).max()) for part in parts), 1e-30)
        half = torch.empty(items.shape, dtype=torch.bfloat16)
        lost = 0.0
        for part in parts:
            scaled = (items[part] - mean) * np.float32(scale)
            half[part] = torch.from_numpy(scaled).bfloat16()
            lost = max(lost, float(norms(scaled - half[part].float().numpy()).max()))
        return half, lost

    def _reduced(self, task: Task) -> Reduction | None:
        """The reduction that pays for queries such as these; chosen at the first search."""
        if "reduction" not in self._indexes:
            indptr, indices = task.exclude

            def hidden(row: int) -> NDArray[np.int32]:
                groups = self.groups.of_item[indices[indptr[row] : indptr[row + 1]]]
                return groups[groups >= 0]

            k = task.ids.shape[1]
            self._indexes["reduction"] = reduce(self._distinct, task.queries, k, hidden)
        found: Reduction | None = self._indexes["reduction"]
        return found

    def _beats_half(self, task: Task) -> bool:
        """Whether the reduction saves more than bf16 does."""
        reduction = self._reduced(task)
        return reduction is not None and reduction.share < reduction.half

    def _index(self, name: str) -> Any:
        if name not in self._indexes:
            self._indexes[name] = _build_index(self._distinct, name)
        return self._indexes[name]

    def _measure_recall(self, task: Task, method: str) -> None:
        if method in self.recall:
            return
        rng = np.random.default_rng(0)
        n = len(task.queries)
        sample = np.sort(rng.choice(n, min(n, _RECALL_QUERIES), replace=False))
        exact = Task(
            task.queries,
            task.exclude,
            np.full_like(task.ids, -1),
            np.full_like(task.scores, -np.inf),
        )
        self._search_fp32(exact, sample)
        want, found = exact.ids[sample], task.ids[sample]
        same = (want[:, :, None] == found[:, None, :]).any(axis=2) & (want >= 0)
        self.recall[method] = float(same.sum() / max((want >= 0).sum(), 1))

    # Searches: each fills task.ids and task.scores, or names the rows it could not certify.

    def _search_fp32(self, task: Task, rows: NDArray[np.int64]) -> None:
        """Exact search of `rows`; the bound is that of a float32 sum of d products."""
        if len(rows) == 0:
            return
        items = self._distinct
        error = summation_error(items.shape[1]) * self._largest
        size = _block_rows(len(items), 4, _BLOCK_BYTES)
        with _block(min(size, len(rows)) * len(items), np.float32) as block:
            for lo in range(0, len(rows), size):
                at = rows[lo : lo + size]
                query = task.queries[at]
                out = block[: len(at) * len(items)].reshape(len(at), -1)
                np.matmul(query, items.T, out=out)
                bits, slack = out.view(np.uint32), 2 * error * norms(query)
                select(self.items, self.groups, task, at, query, bits, slack)

    def _search_reduced(self, task: Task) -> NDArray[np.int64]:
        """Search by bounds from fewer dimensions; returns the rows left to a full search."""
        reduction = self._reduced(task)
        n = len(task.queries)
        if reduction is None:
            return np.arange(n)
        items = reduction.items
        size = _block_rows(len(items), 4, _SHARED_BYTES)
        with _block(min(size, n) * len(items), np.float32) as block:
            for lo in range(0, n, size):
                at = np.arange(lo, min(lo + size, n))
                query = task.queries[at]
                along, tighter, above = reduction.queries(query)
                bounds = block[: len(at) * len(items)].reshape(len(at), -1)
                np.matmul(along, items.T, out=bounds)
                more = (tighter, reduction.more)
                select_bounded(self.items, self.groups, task, at, query, bounds, more, above)
        return np.zeros(0, dtype=np.int64)

    def _search_bf16(self, task: Task) -> NDArray[np.int64]:
        """Search by bf16 products; returns rows whose bound left too many items to score again.

        With q = q' + dq and x = x' + dx (primes rounded to bf16), |qx - q'x'| <= |q||dx| +
        |dq||x'|. Centring the items adds one constant per query, so the ranking stays while |x|,
        and with it the bound, shrinks. The rounding of the product itself is `rounding`.
        """
        import torch

        half_items, lost = self._half
        u, d = half_items.shape
        n = len(task.queries)
        size = _block_rows(u, 2, _BLOCK_BYTES)
        left = []
        with _block(min(size, n) * u, np.uint16) as block:
            for lo in range(0, n, size):
                at = np.arange(lo, min(lo + size, n))
                query = task.queries[at]
                unit = query / np.maximum(norms(query), 1e-30)[:, None].astype(np.float32)
                half = torch.from_numpy(unit).bfloat16()
                bits = block[: len(at) * u].reshape(len(at), u)
                torch.mm(half, half_items.T, out=torch.from_numpy(bits).view(torch.bfloat16))
                error = lost + norms(unit - half.float().numpy()) + 4 * summation_error(d)
                over = select(
                    self.items,
                    self.groups,
                    task,
                    at,
                    query,
                    bits,
                    2.02 * error,
                    rounding=1.01 * 2.0**-8,
                    cap=_CAP,
                )
                left.append(at[over])
        return np.concatenate(left)

    def _search_faiss(self, task: Task, name: str) -> NDArray[np.int64]:
        """Search a FAISS index beyond k and score again; returns the rows that need more."""
        index = self._index(name)
        u, d = self._distinct.shape
        k = task.ids.shape[1]
        error = summation_error(d) * self._largest
        n_excluded = np.diff(task.exclude[0])
        rows = np.argsort(n_excluded, kind="stable")  # alike rows together: none pays for another
        left = []
        for lo in range(0, len(rows), 4096):
            at = rows[lo : lo + 4096]
            query = np.ascontiguousarray(task.queries[at])
            width = int(min(k + 32 + n_excluded[at[-1]], u, _GPU_K if name == "gpu" else u))
            approximate, column = index.search(query, width)
            bits = np.ascontiguousarray(approximate, dtype=np.float32).view(np.uint32)
            slack = np.full(len(at), np.inf)
            select(
                self.items,
                self.groups,
                task,
                at,
                query,
                bits,
                slack,
                columns=column.astype(np.int32),
            )
            if width < u:
                # float32 rounding of the kept score is far below the bound of the product.
                bar = approximate[:, -1] + 2 * error * norms(query)
                left.append(at[task.scores[at, -1] <= bar])
        return np.concatenate([np.zeros(0, dtype=np.int64), *left])

    def _search_sparse(self, task: Task) -> None:
        """Exact search of CSR vectors; equal vectors get equal sums, as terms add in one order."""
        items = self._distinct
        n = task.queries.shape[0]
        size = _block_rows(self.groups.size, 4, _BLOCK_BYTES)
        nothing = np.zeros((0, 0), dtype=np.float32)
        for lo in range(0, n, size):
            at = np.arange(lo, min(lo + size, n))
            query = task.queries[at].toarray()
            scores = np.ascontiguousarray((items @ query.T).T, dtype=np.float32)
            bits = scores.view(np.uint32)
            select(
                self.items, self.groups, task, at, nothing, bits, np.zeros(len(at)), rescore=False
            )


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


def _checked(name: str, rows: Any) -> Any:
    from scipy import sparse

    if sparse.issparse(rows):
        rows = sparse.csr_matrix(rows, dtype=np.float32)
        if not rows.has_canonical_format:
            rows = rows.copy()
            rows.sum_duplicates()
        data = rows.data
    else:
        data = rows = np.ascontiguousarray(rows, dtype=np.float32)
        if rows.ndim != 2:
            raise InputError(f"{name} has shape {rows.shape}; expected two dimensions (rows, dim)")
    # A sum is finite only if no value is NaN or infinite (or it overflows: then look closely).
    if not np.isfinite(data.sum(dtype=np.float64)) and not np.isfinite(data).all():
        dense = data if data.ndim == 2 else rows.toarray()
        row = int(np.flatnonzero(~np.isfinite(dense).all(axis=1))[0])
        raise InputError(
            f"{name} row {row} holds NaN or infinite values; mark such rows as not valid instead"
        )
    return rows


def _excluded(exclude: Any, n: int, m: int) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    if exclude is None:
        return np.zeros(n + 1, dtype=np.int64), np.zeros(0, dtype=np.int32)
    if not exclude.has_canonical_format:
        exclude = exclude.copy()
        exclude.sum_duplicates()
    return exclude.indptr.astype(np.int64), exclude.indices.astype(np.int32, copy=False)


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


def _gpu_bytes() -> float:
    import torch

    if not torch.cuda.is_available():
        return 8e9
    return float(min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count())))


def _build_index(items: NDArray[np.float32], name: str) -> Any:
    """A FAISS index. Of user profiles over 5,945 MiniLM vectors of H&M texts the approximate ones
    find: IVF .95, HNSW 1.00, PQ .95. Profiles lie between clusters: IVF with a sixteenth of its
    lists probed, enough for items as queries (.95), found only .43 of them."""
    import faiss

    u, d = items.shape
    if name in ("flat", "gpu"):
        index: Any = faiss.IndexFlatIP(d)
        index.add(items)
        if name == "flat":
            return index
        options = faiss.GpuMultipleClonerOptions()
        # A copy on every GPU answers fastest; items that would crowd one are split instead.
        options.shard = items.nbytes > 0.4 * _gpu_bytes()
        return faiss.index_cpu_to_all_gpus(index, co=options)
    if u < 39 * 16:
        raise InputError(
            f"{u} distinct items are too few for method {name!r}; expected at least 624: "
            "use method='auto', which is exact"
        )
    lists = int(min(4 * u**0.5, u / 39))
    # FAISS wants 39 points for each centroid: codes of 8 bits need 9,984 items.
    bits, width = (8, 4) if u >= 39 * 256 else (4, 2)
    m = next(m for m in range(max(d // width, 1), 0, -1) if d % m == 0)
    recipe = {"ivf": f"IVF{lists},Flat", "hnsw": "HNSW32,Flat", "pq": f"PQ{m}x{bits}"}[name]
    index = faiss.index_factory(d, recipe, faiss.METRIC_INNER_PRODUCT)
    threads = faiss.omp_get_max_threads()
    if name == "ivf":
        index.nprobe = max(1, lists // 3)
    elif name == "hnsw":
        index.hnsw.efConstruction, index.hnsw.efSearch = 80, 256
    # HNSW's graph depends on the order in which points enter; on few items threads only wait.
    if name == "hnsw" or items.size < 5_000_000:
        faiss.omp_set_num_threads(1)
    index.train(items)
    index.add(items)
    faiss.omp_set_num_threads(threads)
    return index


_kept: list[NDArray[np.uint8]] = []


@contextmanager
def _block(n: int, dtype: type) -> Iterator[NDArray[Any]]:
    """(n,) of memory for one block of scores. One is kept for the next search: touching fresh
    memory for the first time can take longer than the selection (2 s per GB on some machines)."""
    size = n * np.dtype(dtype).itemsize
    try:
        memory = _kept.pop()
    except IndexError:
        memory = np.empty(0, dtype=np.uint8)
    if memory.nbytes < size:
        memory = np.empty(size, dtype=np.uint8)
    try:
        yield memory[:size].view(dtype)
    finally:
        _kept[:] = [memory]


def _block_rows(n_columns: int, bytes_per_score: int, n_bytes: int) -> int:
    return int(min(max(n_bytes // (n_columns * bytes_per_score), 16), 4096))
