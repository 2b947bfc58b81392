"""Kernels against brute force, where the recommenders alone would not reach every branch."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys import kernels
from recsys.recommenders.neighbours import OverlapIndex, transposed

ROOT = Path(__file__).resolve().parents[1]


def csr(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = np.nonzero(matrix)
    indptr = np.zeros(matrix.shape[0] + 1, np.int64)
    np.cumsum(np.bincount(rows, minlength=matrix.shape[0]), out=indptr[1:])
    return indptr, columns.astype(np.int32)


def brute(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosine neighbours by exact integer comparison of overlap^2 / size."""
    overlap = matrix.astype(np.int64) @ matrix.T.astype(np.int64)
    size = np.diag(overlap)
    idx = np.full((matrix.shape[0], k), -1)
    sim = np.full((matrix.shape[0], k), -np.inf)
    for row in range(matrix.shape[0]):
        near = [j for j in np.flatnonzero(overlap[row]) if j != row]
        near.sort(key=lambda j: (-(int(overlap[row, j]) ** 2) / int(size[j]), j))
        for place, j in enumerate(near[:k]):
            idx[row, place] = j
            sim[row, place] = overlap[row, j] / np.sqrt(float(size[row] * size[j]))
    return idx, sim


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.sampled_from([0.01, 0.05, 0.4]))
def test_overlap_neighbours_equal_brute_force(seed: int, k: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.random((rng.integers(1, 700), 40)) < density * rng.random((1, 40)) * 2
    taken = matrix.sum(axis=0)
    idx, sim = OverlapIndex(*csr(matrix), taken, "cosine", 0.0, 0.5).neighbours(
        np.arange(matrix.shape[0], dtype=np.int32), k, False
    )
    expected_idx, expected_sim = brute(matrix, k)
    np.testing.assert_array_equal(idx, expected_idx)
    np.testing.assert_allclose(sim, expected_sim, rtol=1e-6)


@pytest.mark.parametrize(
    ("wide", "similarity", "shrink"),
    [(100, "cosine", 0.0), (300, "cosine", 0.0), (100, "jaccard", 0.0), (100, "cosine", 4.0)],
)
def test_neighbours_over_several_blocks_and_wide_overlaps(
    wide: int, similarity: str, shrink: float
) -> None:
    """More rows than one block, long lists as bitmaps, overlaps on both sides of 255."""
    rng = np.random.default_rng(0)
    n, columns, popular = kernels.BLOCK_ROWS + 5_000, 800, 12
    rows = [rng.choice(np.arange(popular, columns), 3, replace=False) for _ in range(n - 60)]
    rows += [
        rng.choice(np.arange(popular, columns), wide + 3 * i, replace=False) for i in range(60)
    ]
    likes = rng.random((n, popular)) < np.linspace(0.3, 0.01, popular)
    rows = [np.concatenate((np.flatnonzero(likes[i]), np.sort(rows[i]))) for i in range(n)]
    indptr = np.concatenate(([0], np.cumsum([row.size for row in rows])))
    indices = np.concatenate(rows).astype(np.int32)
    taken = np.bincount(indices, minlength=columns)
    index = OverlapIndex(indptr.astype(np.int64), indices, taken, similarity, shrink, 0.5)
    assert index.bitmaps.shape[0] > 10
    asked = np.concatenate((np.arange(0, n - 60, 2_500), np.arange(n - 60, n))).astype(np.int32)
    idx, sim = index.neighbours(asked, 10, False)
    sizes = np.diff(indptr)
    for place, row in enumerate(asked):
        mask = np.zeros(columns, np.int64)
        mask[rows[row]] = 1
        overlap = np.add.reduceat(mask[indices], indptr[:-1]).astype(float)
        overlap[row] = 0
        root = np.sqrt(sizes[row] * sizes.astype(float))
        if similarity == "jaccard":
            key = expected = overlap / (sizes[row] + sizes - overlap)
        elif shrink:
            key = expected = overlap / (np.sqrt(float(sizes[row])) * np.sqrt(sizes) + shrink)
        else:
            key, expected = overlap**2 / sizes, overlap / root
        order = np.lexsort((np.arange(n), -key))[:10]
        np.testing.assert_array_equal(idx[place], order)
        np.testing.assert_allclose(sim[place], expected[order], rtol=1e-6)


def test_a_transpose_in_parts_is_that_of_scipy(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(6)
    matrix = sparse.random(
        3_000, 900, density=0.1, format="csr", random_state=rng, dtype=np.float32
    )
    matrix.data[:] = rng.random(matrix.nnz)
    empty = sparse.csr_matrix((500, 900), dtype=np.float32)
    matrix = sparse.vstack([empty, matrix, empty]).tocsr()
    rows = (matrix.indptr.astype(np.int64), matrix.indices.astype(np.int32), matrix.data)
    expected = matrix.T.tocsr()
    expected.sort_indices()
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        indptr, indices, values = transposed(rows, 900)
        np.testing.assert_array_equal(indptr, expected.indptr)
        np.testing.assert_array_equal(indices, expected.indices)
        np.testing.assert_array_equal(values, expected.data)


def test_results_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(5)
    matrix = rng.random((900, 60)) < 0.1
    every = np.arange(900, dtype=np.int32)
    index = OverlapIndex(*csr(matrix), matrix.sum(axis=0), "jaccard", 1.0, 0.5)
    results = []
    for threads in ("1", "2", "7"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        assert kernels.thread_count() == int(threads)
        results.append(index.neighbours(every, 6, False))
    for other in results[1:]:
        np.testing.assert_array_equal(other[0], results[0][0])
        np.testing.assert_array_equal(other[1], results[0][1])


def test_an_error_in_a_range_is_raised() -> None:
    def work(start: int, stop: int) -> None:
        if start <= 5 < stop:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        kernels.run_blocks(100, 3, work)


def test_every_row_is_handed_out_once() -> None:
    seen = np.zeros(1000, int)
    done = []

    def work(start: int, stop: int) -> None:
        seen[start:stop] += 1

    kernels.run_blocks(1000, 7, work, done=done.append)
    assert (seen == 1).all()
    assert sum(done) == 1000


def test_without_a_writable_cache_kernels_are_cached_privately(tmp_path: Path) -> None:
    """A read-only install whose user has no home: numba alone would refuse to import."""
    code = """
import numba.core.caching as caching
for locator in ("InTreeCacheLocator", "UserWideCacheLocator"):
    getattr(caching, locator).from_function = classmethod(lambda *arguments: None)
import numpy as np
from recsys import kernels
ptr = np.zeros(3, np.int64)
kernels.count_rows(np.array([1, 0, 1], np.int32), ptr)
print(ptr.tolist())
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("NUMBA_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    assert done.stdout.strip() == "[0, 1, 3]", done.stderr
    (folder,) = tmp_path.glob("fcr-numba-*")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert list(folder.rglob("*.nbi"))
