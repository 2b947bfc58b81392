"""Where exact search must give way, and to what: IVF-PQ over up to ten million vectors.

    python tests/benchmarks/bench_far.py [--vectors 1000000 10000000] [--dim 128] [--queries 500]

Vectors are drawn part by part from a seed, clustered, with a falling spectrum as embeddings have,
and never held whole: exact answers come from a second pass over the same parts. One JSON line a
figure: {job, vectors, dim, ...}. Inner product, top 12, two passes:

    exact      milliseconds a query of a full product in float32, and the bytes it would hold
    ivf-pq     seconds to learn and to fill, bytes a vector, and for several numbers of probed
               lists: milliseconds a query and the share of the exact top 12 among the 12 found, and
               among the 12 best of 200 found when those are scored again with the whole vectors
    sharded    the same index as four parts, each searched alone, their lists merged
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

K = 12
FOUND = 200
PART = 250_000
CLUSTERS = 20_000
SHARDS = 4
Vectors = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vectors", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--queries", type=int, default=500)
    options = parser.parse_args()
    for n in options.vectors:
        for line in bench(n, options.dim, options.queries):
            print(json.dumps({"vectors": n, "dim": options.dim, **line}), flush=True)


def bench(n: int, dim: int, n_queries: int) -> Iterator[dict[str, Any]]:
    drawn = Draw(dim)
    queries = drawn.part(10**6, n_queries)
    truth, seconds = exact(drawn, n, queries)
    yield {
        "job": "exact",
        "ms_a_query": round(1000 * seconds / n_queries, 2),
        "gb": round(n * dim * 4 / 1e9, 2),
    }
    lists = int(2 * n**0.5)
    shards, learn_s, fill_s = fill(drawn, n, lists)
    whole = shards[0] if len(shards) == 1 else merged(shards)
    bytes_each = shards[0].code_size + 8
    yield {
        "job": "ivf-pq, build",
        "lists": lists,
        "learn_s": round(learn_s, 1),
        "fill_s": round(fill_s, 1),
        "bytes_a_vector": bytes_each,
        "gb": round(n * bytes_each / 1e9, 2),
    }
    for probed in (8, 32, 128, 512):
        start = time.perf_counter()
        ids = search(whole, queries, probed)
        seconds = time.perf_counter() - start
        rescored = rescore(drawn, n, queries, ids)
        yield {
            "job": "ivf-pq",
            "probed": probed,
            "ms_a_query": round(1000 * seconds / n_queries, 3),
            "recall": recall(ids[:, :K], truth),
            "recall_rescored": recall(rescored, truth),
            "same_from_shards": bool((ids == search(shards, queries, probed)).all()),
        }


class Draw:
    """Vectors of unit length around CLUSTERS centres; part p is the same whenever it is drawn."""

    def __init__(self, dim: int) -> None:
        rng = np.random.default_rng(0)
        self.fall = (1 / np.sqrt(np.arange(1, dim + 1))).astype(np.float32)
        self.centres = rng.standard_normal((CLUSTERS, dim), np.float32) * self.fall

    def part(self, p: int, rows: int = PART) -> Vectors:
        rng = np.random.default_rng([1, p])
        found = rng.standard_normal((rows, self.fall.size), np.float32)
        found *= 0.7 * self.fall
        found += self.centres[rng.integers(0, CLUSTERS, rows)]
        found /= np.linalg.norm(found, axis=1, keepdims=True)
        return found  # type: ignore[no-any-return]

    def parts(self, n: int) -> Iterator[tuple[int, Vectors]]:
        for p in range(-(-n // PART)):
            yield p * PART, self.part(p, min(PART, n - p * PART))


def exact(drawn: Draw, n: int, queries: Vectors) -> tuple[NDArray[np.int64], float]:
    """The true top K (queries, K), and the seconds of searching for them."""
    scores, ids = (np.full((len(queries), K), x) for x in (-np.inf, -1))
    seconds = 0.0
    for first, vectors in drawn.parts(n):
        start = time.perf_counter()
        best, where = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
        seconds += time.perf_counter() - start
        scores, ids = join([(scores, ids), (best, where + first)], K)
    return ids, seconds


def fill(drawn: Draw, n: int, lists: int) -> tuple[list[Any], float, float]:
    """SHARDS IVF-PQ indexes of one learned quantiser, each with every SHARDS-th part."""
    dim = drawn.fall.size
    start = time.perf_counter()
    # A graph over the centroids: with n**.5 of them, looking through all would cost n**1.5.
    index = faiss.index_factory(
        dim, f"IVF{lists}_HNSW32,PQ{dim // 4}x8", faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed, index.cp.niter = 0, 10
    index.train(drawn.part(10**6 + 1, min(40 * lists, n)))
    learn_s = time.perf_counter() - start
    shards = [faiss.clone_index(index) for _ in range(SHARDS)]
    fill_s = 0.0
    for first, vectors in drawn.parts(n):
        start = time.perf_counter()
        ids = np.arange(first, first + len(vectors))
        shards[first // PART % SHARDS].add_with_ids(vectors, ids)
        fill_s += time.perf_counter() - start
    return shards, learn_s, fill_s


def merged(shards: list[Any]) -> Any:
    whole = faiss.clone_index(shards[0])
    for shard in shards[1:]:
        whole.merge_from(faiss.clone_index(shard), 0)
    return whole


def search(index: Any, queries: Vectors, probed: int) -> NDArray[np.int64]:
    parts = []
    for shard in index if isinstance(index, list) else [index]:
        inner = faiss.extract_index_ivf(shard)
        inner.nprobe = probed
        faiss.downcast_index(inner.quantizer).hnsw.efSearch = max(64, 2 * probed)
        parts.append(shard.search(queries, FOUND))
    return join(parts, FOUND)[1]


def join(parts: list[Any], k: int) -> tuple[Any, Any]:
    """The k best of several lists; equal scores in the order of the id."""
    scores = np.concatenate([part[0] for part in parts], axis=1)
    ids = np.concatenate([part[1] for part in parts], axis=1)
    order = np.lexsort((ids, -scores))[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(ids, order, 1)


def rescore(drawn: Draw, n: int, queries: Vectors, ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """The K best of ids by their whole vectors (read from disk in earnest, drawn again here)."""
    scores = np.full(ids.shape, -np.inf, np.float32)
    for first, vectors in drawn.parts(n):
        row, place = np.nonzero((ids >= first) & (ids < first + len(vectors)))
        own = vectors[ids[row, place] - first]
        scores[row, place] = np.einsum("nd,nd->n", queries[row], own)
    return join([(scores, ids)], K)[1]  # type: ignore[no-any-return]


def recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    hits = [np.isin(a, b).sum() for a, b in zip(truth, found, strict=True)]
    return round(float(np.sum(hits)) / truth.size, 4)


if __name__ == "__main__":
    main()
