"""Exact neighbours: every method against brute force in float64."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys import InputError, reduction, similarity
from recsys.similarity import top_k

METHODS = ("fp32", "bf16", "faiss")


def brute_force(queries, items, k, exclude=None, candidates=None):
    scores = (queries.astype(np.float64) @ items.astype(np.float64).T).astype(np.float32)
    ids = np.full((len(queries), k), -1, dtype=np.int32)
    best = np.full((len(queries), k), -np.inf, dtype=np.float32)
    for row in range(len(queries)):
        allowed = np.ones(len(items), bool) if candidates is None else candidates.copy()
        if exclude is not None:
            allowed[exclude.indices[exclude.indptr[row] : exclude.indptr[row + 1]]] = False
        pool = np.flatnonzero(allowed)
        order = pool[np.lexsort((pool, -scores[row, pool]))][:k]
        ids[row, : len(order)] = order
        best[row, : len(order)] = scores[row, order]
    return ids, best


@pytest.mark.parametrize("method", METHODS)
def test_known_answer_ties_by_lowest_id_and_padding(method):
    items = np.array([[0, 1], [1, 0], [1, 0], [3, 0], [-1, 0]], dtype=np.float32)
    queries = np.array([[1, 0], [0, 2]], dtype=np.float32)
    exclude = sparse.csr_matrix(([1.0, 1.0], ([0, 1], [3, 0])), shape=(2, 5))
    candidates = np.array([True, True, True, True, False])
    ids, scores = top_k(queries, items, 4, exclude=exclude, candidates=candidates, method=method)
    assert ids.tolist() == [[1, 2, 0, -1], [1, 2, 3, -1]]
    assert scores.tolist() == [[1, 1, 0, -np.inf], [0, 0, 0, -np.inf]]
    assert ids.dtype == np.int32
    assert scores.dtype == np.float32


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_every_method_equals_brute_force(data):
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    n, m = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 700))
    d, k = data.draw(st.integers(1, 48)), data.draw(st.integers(1, 60))
    distinct = data.draw(st.integers(1, m))
    shift, scale = data.draw(st.sampled_from([(0, 1), (5, 1), (0, 1e-20), (-1, 1e15)]))
    base = (rng.standard_normal((distinct, d)) + shift) * scale
    items = base[rng.integers(0, distinct, m)].astype(np.float32)
    queries = (rng.standard_normal((n, d)) + shift).astype(np.float32)
    queries[0] = 0
    density = data.draw(st.sampled_from([0, 0.05, 0.9]))
    exclude = sparse.random(n, m, density=density, format="csr", random_state=seed % 1000)
    candidates = rng.random(m) < data.draw(st.sampled_from([1.0, 0.5]))
    want_ids, want_scores = brute_force(queries, items, k, exclude, candidates)
    for method in METHODS:
        ids, scores = top_k(
            queries, items, k, exclude=exclude, candidates=candidates, method=method
        )
        filled = want_ids >= 0
        np.testing.assert_array_equal(ids >= 0, filled)
        # One rounding may differ between orders of summation: compare scores, then ids by score.
        size = np.linalg.norm(queries.astype(np.float64), axis=1) * np.linalg.norm(
            items.astype(np.float64), axis=1
        ).max(initial=0)
        tolerance = np.broadcast_to(size[:, None] * 2.0**-23, want_scores.shape)[filled]
        assert (np.abs(scores[filled] - want_scores[filled]) <= tolerance).all()
        exact = ids == want_ids
        if not exact.all():
            row, place = np.argwhere(~exact)[0]
            assert abs(scores[row, place] - want_scores[row, place]) <= size[row] * 2.0**-23


def test_all_paths_agree_to_the_bit_on_crowded_vectors():
    # Cosines of .999: the bf16 bound alone can not order these; the second step must.
    rng = np.random.default_rng(3)
    items = (1 + 0.02 * rng.standard_normal((6000, 96))).astype(np.float32)
    items /= np.linalg.norm(items, axis=1, keepdims=True)
    queries = items[:50]
    lists = [top_k(queries, items, 12, method=method) for method in METHODS]
    for ids, scores in lists[1:]:
        np.testing.assert_array_equal(ids, lists[0][0])
        np.testing.assert_array_equal(scores, lists[0][1])
    assert (lists[0][0][:, 0] == np.arange(50)).all()


def spread(rng, n, d, power):
    """Vectors whose spread falls with the dimension, as that of embeddings does."""
    base = rng.standard_normal((n, d)) * (np.arange(d) + 1.0) ** -power + 0.3
    return (base @ np.linalg.qr(rng.standard_normal((d, d)))[0]).astype(np.float32)


@pytest.mark.parametrize("power", [0.7, 1.0, 2.0])
def test_fewer_dimensions_give_the_lists_of_all(power, monkeypatch):
    rng = np.random.default_rng(11)
    items = spread(rng, 3000, 96, power)
    items[2000:2200] = items[:200]
    bought = sparse.random(70, 3000, density=0.004, format="csr", random_state=3)
    queries = (bought @ items).astype(np.float32)
    queries[3] = 0
    exclude = sparse.csr_matrix(bought > 0)
    candidates = rng.random(3000) < 0.9
    full = top_k(queries, items, 12, exclude=exclude, candidates=candidates, method="fp32")
    monkeypatch.setattr(similarity, "_LARGE", 0)
    monkeypatch.setattr(reduction, "_GAIN", np.inf)  # whether it pays or not
    for threads in ("1", "3"):
        monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
        index = similarity.ItemIndex(items, candidates)
        found = index.top_k(queries, 12, exclude=exclude, method="fp32")
        assert index._indexes["reduction"] is not None
        np.testing.assert_array_equal(found[0], full[0])
        np.testing.assert_array_equal(found[1], full[1])


@pytest.mark.parametrize(("power", "half"), [(0.3, True), (2.0, False)])
def test_auto_takes_the_cheaper_of_bf16_and_fewer_dimensions(power, half, monkeypatch):
    rng = np.random.default_rng(13)
    items = spread(rng, 4000, 128, power)
    queries = spread(rng, 40, 128, power)
    used = []
    for name in ("_search_bf16", "_search_reduced"):
        search = getattr(similarity.ItemIndex, name)

        def record(index, task, name=name, search=search):
            used.append(name)
            return search(index, task)

        monkeypatch.setattr(similarity.ItemIndex, name, record)
    monkeypatch.setattr(similarity, "bf16_pays", lambda: True)
    monkeypatch.setattr(similarity, "_LARGE", 0)
    monkeypatch.setattr(similarity, "_SMALL", 0)
    ids, _ = top_k(queries, items, 6)
    assert used == ["_search_bf16" if half else "_search_reduced"]
    np.testing.assert_array_equal(ids, top_k(queries, items, 6, method="faiss")[0])


def test_flat_spectra_are_not_reduced(monkeypatch):
    monkeypatch.setattr(similarity, "_LARGE", 0)
    rng = np.random.default_rng(12)
    index = similarity.ItemIndex(rng.standard_normal((2000, 64)).astype(np.float32))
    queries = rng.standard_normal((9, 64)).astype(np.float32)
    ids, _ = index.top_k(queries, 5, method="fp32")
    assert index._indexes["reduction"] is None
    np.testing.assert_array_equal(ids, brute_force(queries, index.items, 5)[0])


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), size=st.sampled_from([1, 5, 31]))
def test_no_score_exceeds_its_bound(seed, size):
    rng = np.random.default_rng(seed)
    items = spread(rng, 200, 32, rng.random() * 2) * np.float32(10.0 ** rng.integers(-8, 8))
    queries = spread(rng, 20, 32, rng.random())
    queries[0], items[0] = 0, 0
    queries[1] = items[1]
    basis = np.linalg.qr(rng.standard_normal((32, size)))[0].astype(np.float32)
    first = int(rng.integers(0, size + 1))
    found = reduction.Reduction(items, basis, first, items.mean(axis=0))
    along, more, above = found.queries(queries)
    loose = along @ found.items.T
    scores = queries.astype(np.float64) @ items.astype(np.float64).T
    assert (loose.astype(np.float64) + above[:, None] >= scores).all()
    bounds = (loose + more @ found.more.T).astype(np.float64) + above[:, None]
    assert (bounds >= scores).all()
    if size == 31:  # one direction of 32 is left: the bound is tight, where it is not zero
        length = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(items, axis=1)
        assert np.median((bounds - scores) / np.maximum(length, 1e-30)) < 0.1


def test_bf16_rows_over_the_cap_fall_back(monkeypatch):
    rng = np.random.default_rng(4)
    items = rng.standard_normal((500, 8)).astype(np.float32)
    queries = rng.standard_normal((30, 8)).astype(np.float32)
    asked = []
    whole = similarity.ItemIndex._search_fp32
    monkeypatch.setattr(similarity, "_CAP", 12)

    def record(index, task, rows):
        asked.append(len(rows))
        whole(index, task, rows)

    monkeypatch.setattr(similarity.ItemIndex, "_search_fp32", record)
    ids, _ = top_k(queries, items, 10, method="bf16")
    assert 0 < asked[0] <= 30
    np.testing.assert_array_equal(ids, brute_force(queries, items, 10)[0])


def test_faiss_widens_where_exclusions_starve_the_list():
    rng = np.random.default_rng(5)
    items = rng.standard_normal((400, 6)).astype(np.float32)
    queries = np.repeat(rng.standard_normal((1, 6)), 3, axis=0).astype(np.float32)
    order = brute_force(queries[:1], items, 400)[0][0]
    exclude = sparse.lil_matrix((3, 400))
    exclude[1, order[:300]] = 1
    exclude[2, order] = 1
    ids, _ = top_k(queries, items, 20, exclude=exclude.tocsr(), method="faiss")
    np.testing.assert_array_equal(ids[0], order[:20])
    np.testing.assert_array_equal(ids[1], order[300:320])
    assert (ids[2] == -1).all()


def test_thread_count_and_block_size_change_nothing(monkeypatch):
    rng = np.random.default_rng(6)
    items = rng.standard_normal((3000, 32)).astype(np.float32)
    queries = rng.standard_normal((200, 32)).astype(np.float32)
    one = top_k(queries, items, 9, method="fp32")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    monkeypatch.setattr(similarity, "_BLOCK_BYTES", 1 << 18)
    two = top_k(queries, items, 9, method="fp32")
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])


@pytest.mark.parametrize("method", METHODS)
def test_whole_stretches_of_items_left_out(method):
    # With k = 15 stretches of 64 items the last, of four, may have no allowed item at all.
    rng = np.random.default_rng(9)
    items = rng.standard_normal((900, 12)).astype(np.float32)
    queries = rng.standard_normal((20, 12)).astype(np.float32)
    exclude = sparse.csr_matrix(rng.random((20, 900)) < np.linspace(0, 0.98, 20)[:, None])
    ids, _ = top_k(queries, items, 15, exclude=exclude, method=method)
    np.testing.assert_array_equal(ids, brute_force(queries, items, 15, exclude)[0])


def test_sparse_vectors():
    rng = np.random.default_rng(7)
    items = sparse.random(300, 80, density=0.1, format="csr", random_state=1, dtype=np.float32)
    items = sparse.vstack([items, items[:40]]).tocsr()
    queries = sparse.random(25, 80, density=0.2, format="csr", random_state=2, dtype=np.float32)
    exclude = sparse.csr_matrix(rng.random((25, 340)) < 0.1)
    ids, scores = top_k(queries, items, 15, exclude=exclude)
    want, want_scores = brute_force(queries.toarray(), items.toarray(), 15, exclude)
    np.testing.assert_allclose(scores, want_scores, rtol=1e-5)
    assert (ids == want).mean() > 0.98  # sums of equal value in another order may swap
    assert not exclude[np.repeat(np.arange(25), 15), ids.ravel()].any()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": np.zeros((2, 3), np.float32)}, "dimensions"),
        ({"items": np.array([[0, np.nan]], np.float32)}, "items row 0"),
        ({"k": 0}, "at least 1"),
        ({"method": "annoy"}, "expected one of"),
        ({"exclude": sparse.csr_matrix((1, 1))}, "exclude has shape"),
        ({"candidates": np.ones(9, bool)}, "candidates has shape"),
        ({"items": np.zeros(4, np.float32)}, "two dimensions"),
        ({"items": sparse.csr_matrix((2, 2))}, "both"),
    ],
)
def test_bad_input(change, words):
    call = {
        "queries": np.zeros((2, 2), np.float32),
        "items": np.ones((3, 2), np.float32),
        "k": 2,
    } | change
    with pytest.raises(InputError, match=words):
        top_k(call.pop("queries"), call.pop("items"), call.pop("k"), **call)


def test_nothing_to_search():
    empty = np.zeros((0, 4), np.float32)
    ids, scores = top_k(np.ones((2, 4), np.float32), empty, 3)
    assert (ids == -1).all()
    assert np.isneginf(scores).all()
    assert top_k(empty, np.ones((2, 4), np.float32), 3)[0].shape == (0, 3)


def test_cuda_asked_for_without_a_gpu():
    import faiss

    if faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match="faiss-gpu"):
        top_k(np.ones((1, 2), np.float32), np.ones((2, 2), np.float32), 1, device="cuda")


@pytest.mark.parametrize("method", ["ivf", "hnsw", "pq"])
def test_approximate_indexes_measure_their_recall(method):
    rng = np.random.default_rng(8)
    centres = rng.standard_normal((40, 16))
    items = centres[rng.integers(0, 40, 1500)] + 0.3 * rng.standard_normal((1500, 16))
    items = items.astype(np.float32)
    index = similarity.ItemIndex(items, np.arange(1500) != 3)
    exclude = sparse.csr_matrix(np.eye(60, 1500))
    found, scores = index.top_k(items[:60], 10, exclude=exclude, method=method)
    want, _ = index.top_k(items[:60], 10, exclude=exclude)
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, want, strict=True)])
    assert index.recall == {method: pytest.approx(recall)}
    assert 0.7 < recall <= 1
    assert not (found == 3).any()
    assert not (found == np.arange(60)[:, None]).any()
    at = np.argwhere(found >= 0)
    exact = (items[at[:, 0]].astype(np.float64) * items[found[tuple(at.T)]]).sum(axis=1)
    np.testing.assert_allclose(scores[tuple(at.T)], exact, rtol=1e-6)
    again = similarity.ItemIndex(items, np.arange(1500) != 3)
    np.testing.assert_array_equal(
        again.top_k(items[:60], 10, exclude=exclude, method=method)[0], found
    )


def test_an_approximate_index_needs_items_to_learn_from():
    with pytest.raises(InputError, match="too few"):
        top_k(np.ones((1, 4), np.float32), np.eye(4, dtype=np.float32), 1, method="ivf")


def test_the_gpu_path_keeps_to_its_longest_list_and_certifies(monkeypatch):
    # FAISS' own CPU index stands where its GPU copy would: the limits are the GPU's.
    import faiss

    rng = np.random.default_rng(9)
    items = rng.standard_normal((900, 12)).astype(np.float32)
    queries = rng.standard_normal((20, 12)).astype(np.float32)
    exclude = sparse.csr_matrix(rng.random((20, 900)) < np.linspace(0, 0.9, 20)[:, None])
    moved, widths = [], []
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 1)
    monkeypatch.setattr(similarity, "_GPU_K", 64)

    class Limited:
        def __init__(self, index):
            self.index = index

        def search(self, query, k):
            widths.append(k)
            return self.index.search(query, k)

    def to_gpus(index, co):
        moved.append(co.shard)
        return Limited(index)

    class Options:
        shard = None

    monkeypatch.setattr(faiss, "index_cpu_to_all_gpus", to_gpus)
    monkeypatch.setattr(faiss, "GpuMultipleClonerOptions", Options, raising=False)
    ids, _ = top_k(queries, items, 15, exclude=exclude)
    np.testing.assert_array_equal(ids, brute_force(queries, items, 15, exclude)[0])
    assert moved == [False]
    assert max(widths) <= 64
    monkeypatch.setattr(similarity, "_gpu_bytes", lambda: 1000.0)
    top_k(queries, items, 15, device="cuda")
    assert moved == [False, True]
