"""The conformance suite: the contract every recommender keeps, and known answers of each."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from threadpoolctl import threadpool_limits

from recsys import InputError
from recsys.interactions import Interactions
from recsys.readers import read_interactions
from recsys.recommenders import (
    ALS,
    BPR,
    EASE,
    RECOMMENDERS,
    Blend,
    ItemKNN,
    MostPop,
    P3alpha,
    Random,
    Repurchase,
    RP3beta,
    UserKNN,
)
from recsys.recommenders.base import Recommender
from recsys.recommenders.vectors import VECTOR_RECOMMENDERS

SPARSE = ("content", "itemknn-vectors")
"""Vector recommenders that take CSR vectors too."""
EVERY = [*sorted(RECOMMENDERS), *sorted(VECTOR_RECOMMENDERS), *(f"{n}-sparse" for n in SPARSE)]
QUICK = {
    "vbpr": {"factors": 4, "content_factors": 3, "epochs": 3, "batch_size": 64, "parts": (2, 4)},
    "content-to-als": {"factors": 8, "iterations": 3},
}


def interactions(matrix: np.ndarray, *, times: bool = False) -> Interactions:
    """Interactions of a small dense matrix of purchase numbers."""
    users, items = np.nonzero(matrix)
    repeats = matrix[users, items].astype(int)
    users, items = np.repeat(users, repeats), np.repeat(items, repeats)
    return Interactions.from_events(
        pl.Series([f"u{u:03}" for u in range(matrix.shape[0])], dtype=pl.String),
        pl.Series([f"i{i:03}" for i in range(matrix.shape[1])], dtype=pl.String),
        users,
        items,
        np.arange(users.size) if times else None,
    )


def random_matrix(seed: int, users: int = 60, items: int = 40, density: float = 0.12) -> np.ndarray:
    rng = np.random.default_rng(seed)
    taste = rng.random((users, 1)) * rng.random((1, items)) * 4 * density
    return (rng.random((users, items)) < taste) * rng.integers(1, 4, (users, items))


def dense_cosine(matrix: np.ndarray) -> np.ndarray:
    """Cosine between the columns of a binary matrix; 0 where a column is empty."""
    binary = (matrix > 0).astype(float)
    norms = np.sqrt(binary.sum(axis=0))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.nan_to_num(binary.T @ binary / np.outer(norms, norms))


def keep_top(similarity: np.ndarray, k: int, *, self_in_k: bool = False) -> np.ndarray:
    """Only the k largest positive entries of each row, equal ones by the lowest column."""
    kept = np.zeros_like(similarity)
    for row, values in enumerate(similarity):
        order = np.lexsort((np.arange(values.size), -values.round(12)))
        order = [j for j in order if values[j] > 0 and (self_in_k or j != row)][:k]
        kept[row, order] = values[order]
    return kept


def ranked(scores: np.ndarray, k: int, seen: np.ndarray | None = None) -> list[list[int]]:
    """Reference ranking of a dense score matrix: positive scores, equal ones by lowest item."""
    scores = scores.astype(np.float32).copy()
    if seen is not None:
        scores[seen > 0] = 0
    return [
        [int(j) for j in np.lexsort((np.arange(row.size), -row)) if row[j] > 0][:k]
        for row in scores
    ]


def lists(item_idx: np.ndarray) -> list[list[int]]:
    return [[int(i) for i in row if i >= 0] for row in item_idx]


# ---------------------------------------------------------------- the contract


def fitted_to_size(kind: type[Recommender]) -> type[Recommender]:
    """`kind`, cut to the items of the training data, whose number differs between the tests."""

    def fit(self: Recommender, train: Interactions) -> None:
        self.vectors = self.vectors[: train.n_items]  # type: ignore[attr-defined]
        self.valid = self.valid[: train.n_items]  # type: ignore[attr-defined]
        kind._fit(self, train)

    return type(kind.__name__, (kind,), {"_fit": fit})


@pytest.fixture(params=EVERY)
def recommender(request: pytest.FixtureRequest) -> Recommender:
    if request.param == "blend":
        return Blend([ItemKNN(k=5), MostPop()], [2.0, 1.0])
    name = request.param.removesuffix("-sparse")
    if name in VECTOR_RECOMMENDERS:
        vectors = np.random.default_rng(4).normal(size=(40, 6)).astype(np.float32)
        vectors[[5, 11]] = 0  # items without a vector
        vectors[7] = vectors[3]  # a tie
        given = csr_matrix(vectors) if request.param.endswith("-sparse") else vectors
        return fitted_to_size(VECTOR_RECOMMENDERS[name])(given, **QUICK.get(name, {}))
    if request.param == "bpr":
        return BPR(factors=8, iterations=5)
    return RECOMMENDERS[request.param]()


def test_contract(recommender: Recommender) -> None:
    matrix = random_matrix(3)
    matrix[7] = 0  # a user without history
    matrix[:, 11] = 0  # a cold item
    train = interactions(matrix, times=True)
    assert recommender.fit(train) is recommender
    users = np.arange(train.n_users)
    for exclude_seen in (False, True):
        for k in (1, 5, train.n_items + 7):
            item_idx, scores = recommender.recommend(users, k, exclude_seen=exclude_seen)
            assert item_idx.shape == scores.shape == (users.size, k)
            assert item_idx.dtype == np.int32
            assert scores.dtype == np.float32
            assert ((item_idx >= -1) & (item_idx < train.n_items)).all()
            padding = item_idx == -1
            assert (scores[padding] == -np.inf).all()
            assert np.isfinite(scores[~padding]).all()
            assert (padding[:, :-1] <= padding[:, 1:]).all()  # padding only at the end
            better = scores[:, :-1] > scores[:, 1:]
            tied = (scores[:, :-1] == scores[:, 1:]) & (item_idx[:, :-1] < item_idx[:, 1:])
            assert (better | tied | padding[:, 1:]).all()
            for user, row in enumerate(lists(item_idx)):
                assert len(set(row)) == len(row)
                if exclude_seen:
                    assert not set(row) & set(np.flatnonzero(matrix[user]))
        long, _ = recommender.recommend(users, train.n_items, exclude_seen=exclude_seen)
        short, _ = recommender.recommend(users, 4, exclude_seen=exclude_seen)
        np.testing.assert_array_equal(long[:, :4], short)


def test_a_list_depends_neither_on_the_batch_nor_on_a_second_fit(recommender: Recommender) -> None:
    train = interactions(random_matrix(5), times=True)
    recommender.fit(train)
    users = np.arange(train.n_users)
    item_idx, scores = recommender.recommend(users, 6, exclude_seen=False)
    some = np.array([31, 4, 31, 59])
    part_idx, part_scores = recommender.recommend(some, 6, exclude_seen=False)
    np.testing.assert_array_equal(part_idx, item_idx[some])
    np.testing.assert_array_equal(part_scores, scores[some])
    again = dataclasses.replace(recommender).fit(train)  # type: ignore[type-var]
    np.testing.assert_array_equal(again.recommend(users, 6, exclude_seen=False)[0], item_idx)


def test_misuse_is_refused(recommender: Recommender) -> None:
    train = interactions(random_matrix(1), times=True)
    with pytest.raises(InputError, match="not fitted"):
        recommender.recommend([0], 5, exclude_seen=True)
    empty = train.select(np.zeros(train.n_events, bool))
    with pytest.raises(InputError, match="without any event"):
        recommender.fit(empty)
    recommender.fit(train)
    for users, k in (([60], 5), ([-1], 5), ([0], 0), ([0.5], 5), ([[0]], 5)):
        with pytest.raises(InputError):
            recommender.recommend(users, k, exclude_seen=True)
    item_idx, scores = recommender.recommend(np.empty(0, np.int32), 5, exclude_seen=True)
    assert item_idx.shape == scores.shape == (0, 5)


def test_one_user_and_one_item(recommender: Recommender) -> None:
    train = interactions(np.array([[2]]), times=True)
    item_idx, _ = recommender.fit(train).recommend([0], 3, exclude_seen=True)
    assert lists(item_idx) == [[]]


def test_signature_names_the_parameters() -> None:
    assert ItemKNN(k=7).signature.startswith("itemknn(k=7,similarity=cosine,weighting=binary")


def test_importing_the_package_stays_light() -> None:
    heavy = "numba", "scipy", "implicit", "torch", "faiss"
    code = f"import sys, recsys.recommenders as r; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root)
    assert done.stdout.strip() == "[]", done.stderr


# ---------------------------------------------------------------- known answers


def test_mostpop_by_hand() -> None:
    #            item  0  1  2  3
    train = interactions(np.array([[1, 1, 0, 0], [5, 0, 0, 1], [0, 1, 0, 0]]))
    item_idx, scores = MostPop().fit(train).recommend([0, 2], 3, exclude_seen=False)
    assert lists(item_idx) == [[0, 1, 3], [0, 1, 3]]
    assert scores[0].tolist() == [2.0, 2.0, 1.0]
    item_idx, _ = MostPop().fit(train).recommend([0, 1, 2], 3, exclude_seen=True)
    assert lists(item_idx) == [[3], [1], [0, 3]]
    item_idx, scores = MostPop(count="events").fit(train).recommend([0], 1, exclude_seen=False)
    assert (lists(item_idx), scores[0, 0]) == ([[0]], 6.0)


def test_mostpop_window_and_decay_by_hand() -> None:
    ids = pl.Series(["a", "b", "c"])
    days = np.array([0, 0, 90, 100])
    train = Interactions.from_events(ids, ids, [0, 1, 0, 1], [0, 0, 1, 2], days)
    item_idx, _ = MostPop(window_days=11).fit(train).recommend([2], 3, exclude_seen=False)
    assert lists(item_idx) == [[1, 2]]
    decayed = MostPop(half_life_days=10).fit(train)
    item_idx, scores = decayed.recommend([2], 3, exclude_seen=False)
    assert lists(item_idx) == [[2, 1, 0]]
    np.testing.assert_allclose(scores[0], [1, 0.5, 2 * 0.5**10])
    with pytest.raises(InputError, match="time"):
        MostPop(window_days=7).fit(interactions(random_matrix(0)))
    with pytest.raises(InputError, match="window_days"):
        MostPop(window_days=0)


def test_random_is_seeded_by_user_id_and_even() -> None:
    matrix = np.ones((3000, 10), int)
    train = interactions(matrix)
    first, _ = Random(seed=1).fit(train).recommend(np.arange(3000), 10, exclude_seen=False)
    assert (np.sort(first, axis=1) == np.arange(10)).all()
    counts = np.bincount(first[:, 0], minlength=10)
    assert counts.min() > 200  # 300 expected, standard deviation 16
    assert counts.max() < 400
    fewer = train.select(train.event_users >= 1000).without_empty()
    second, _ = Random(seed=1).fit(fewer).recommend(np.arange(2000), 10, exclude_seen=False)
    np.testing.assert_array_equal(second, first[1000:])
    third, _ = Random(seed=2).fit(train).recommend(np.arange(3000), 10, exclude_seen=False)
    assert (third != first).any()


def test_itemknn_by_hand() -> None:
    train = interactions(np.array([[1, 1, 0], [1, 1, 1], [0, 0, 1], [1, 0, 0]]))
    # cosines: s01 = 2/sqrt(6), s02 = 1/sqrt(6), s12 = 1/2
    item_idx, scores = ItemKNN(k=2).fit(train).recommend([3, 2], 3, exclude_seen=False)
    assert lists(item_idx) == [[1, 2], [1, 0]]
    np.testing.assert_allclose(scores[0, :2], [2 / 6**0.5, 1 / 6**0.5], rtol=1e-6)
    np.testing.assert_allclose(scores[1, :2], [0.5, 1 / 6**0.5], rtol=1e-6)
    one = ItemKNN(k=1).fit(train)
    assert lists(one.recommend([3, 2], 3, exclude_seen=False)[0]) == [[1], [1]]
    itself = ItemKNN(k=1, self_in_k=True).fit(train)
    assert lists(itself.recommend([3, 2], 3, exclude_seen=False)[0]) == [[0], [2]]


def test_userknn_by_hand() -> None:
    train = interactions(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 0, 1], [0, 0, 0, 1]]))
    # of user 0: s1 = 2/sqrt(6), s2 = 1/2
    knn = UserKNN(k=2).fit(train)
    others, similarity = knn.neighbours(np.array([0], np.int32))
    assert others.tolist() == [[1, 2]]
    np.testing.assert_allclose(similarity, [[2 / 6**0.5, 0.5]], rtol=1e-6)
    item_idx, scores = knn.recommend([0], 4, exclude_seen=True)
    assert lists(item_idx) == [[2, 3]]
    np.testing.assert_allclose(scores[0, :2], [2 / 6**0.5, 0.5], rtol=1e-6)


def test_ties_go_to_the_lowest_number() -> None:
    train = interactions(np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 0], [0, 0, 0, 0, 1, 1]]))
    item_idx, _ = ItemKNN(k=2).fit(train).recommend([0], 6, exclude_seen=False)
    # 0, 1, 2, 3 are alike: each keeps its two lowest fellows
    similar = keep_top(dense_cosine(np.ones((1, 4))), 2).sum(axis=0)
    assert similar.tolist() == [3, 3, 2, 0]
    assert lists(item_idx)[0][:3] == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.booleans(), st.booleans())
def test_knn_equals_brute_force(seed: int, k: int, self_in_k: bool, exclude_seen: bool) -> None:
    rng = np.random.default_rng(seed)
    matrix = random_matrix(seed, *rng.integers(1, 40, 2), float(rng.uniform(0.02, 0.9)))
    if not matrix.any():
        matrix[0, 0] = 1
    train = interactions(matrix)
    binary = (matrix > 0).astype(float)
    seen = matrix if exclude_seen else None
    users = np.arange(matrix.shape[0])
    items = binary @ keep_top(dense_cosine(matrix), k, self_in_k=self_in_k)
    found, scores = (
        ItemKNN(k=k, self_in_k=self_in_k).fit(train).recommend(users, 8, exclude_seen=exclude_seen)
    )
    same_lists(items, found, scores, 8, seen)
    people = keep_top(dense_cosine(matrix.T), k, self_in_k=self_in_k) @ binary
    found, scores = (
        UserKNN(k=k, self_in_k=self_in_k).fit(train).recommend(users, 8, exclude_seen=exclude_seen)
    )
    same_lists(people, found, scores, 8, seen)


def same_lists(
    expected: np.ndarray, found: np.ndarray, scores: np.ndarray, k: int, seen: np.ndarray | None
) -> None:
    """Each list holds the k best of `expected` with their scores, free only in rounded ties."""
    expected = expected.copy()
    if seen is not None:
        expected[seen > 0] = 0
    for row, items, values in zip(expected, found, scores, strict=True):
        best = np.sort(row[row > 1e-12])[::-1][:k]
        items = items[items >= 0]
        assert items.size == best.size
        np.testing.assert_allclose(values[: best.size], best, rtol=1e-5)
        np.testing.assert_allclose(row[items], best, rtol=1e-5)


@pytest.mark.parametrize(
    "parameters",
    [
        {"shrink": 3.0},
        {"similarity": "jaccard"},
        {"similarity": "asymmetric", "alpha": 0.3},
        {"weighting": "counts"},
        {"weighting": "counts", "similarity": "asymmetric", "alpha": 0.8},
        {"weighting": "tfidf"},
        {"weighting": "bm25", "similarity": "dot"},
    ],
    ids=str,
)
def test_variants_equal_their_formula(parameters: dict[str, object]) -> None:
    matrix = random_matrix(11, 80, 50, 0.3).astype(float)
    train = interactions(matrix)
    knn = ItemKNN(k=6, **parameters).fit(train)  # type: ignore[arg-type]
    rows = matrix.T
    n, alpha = rows.shape[0], parameters.get("alpha", 0.5)
    idf = np.log(n) - np.log1p((rows > 0).sum(axis=0))
    match parameters.get("weighting", "binary"):
        case "binary":
            rows = (rows > 0).astype(float)
        case "tfidf":
            rows = np.sqrt(rows) * idf
        case "bm25":
            norm = 0.25 + 0.75 * rows.sum(axis=1) / rows.sum(axis=1).mean()
            rows = rows * 2.2 / (1.2 * norm[:, None] + rows) * idf
    dot, squares = rows @ rows.T, (rows**2).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        match parameters.get("similarity", "cosine"):
            case "jaccard":
                similarity = dot / (squares[:, None] + squares - dot)
            case "dot":
                similarity = dot
            case _:
                scale = squares[:, None] ** alpha * squares ** (1 - alpha)
                similarity = dot / (scale + parameters.get("shrink", 0.0))
    taken = matrix if "weighting" in parameters else (matrix > 0).astype(float)
    expected = taken @ keep_top(np.nan_to_num(similarity), 6)
    found, scores = knn.recommend(np.arange(80), 10, exclude_seen=False)
    same_lists(expected, found, scores, 10, None)


def test_undefined_combinations_are_refused() -> None:
    for parameters in (
        {"similarity": "euclid"},
        {"weighting": "tfidf", "similarity": "jaccard"},
        {"weighting": "counts", "shrink": 2.0},
        {"similarity": "dot"},
        {"k": 0},
        {"alpha": 1.5},
    ):
        with pytest.raises(InputError):
            ItemKNN(**parameters)  # type: ignore[arg-type]


def test_random_walks_equal_their_formula() -> None:
    matrix = random_matrix(2, 50, 30, 0.25)
    binary = (matrix > 0).astype(float)
    train = interactions(matrix)
    degree, popularity = binary.sum(axis=1), binary.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        to_user = np.nan_to_num(binary.T / popularity[:, None]) ** 0.8
        to_item = np.nan_to_num(binary / degree[:, None]) ** 0.8
    walk = to_user @ to_item
    users = np.arange(50)
    found, scores = P3alpha(k=8, alpha=0.8).fit(train).recommend(users, 9, exclude_seen=True)
    same_lists(binary @ keep_top(walk, 8), found, scores, 9, matrix)
    damped = walk / np.maximum(popularity, 1) ** 0.4
    found, scores = (
        RP3beta(k=8, alpha=0.8, beta=0.4).fit(train).recommend(users, 9, exclude_seen=False)
    )
    same_lists(binary @ keep_top(damped, 8), found, scores, 9, None)


def test_ease_equals_its_formula() -> None:
    matrix = random_matrix(4, 70, 25, 0.3)
    matrix[:, 3] = 0
    binary = (matrix > 0).astype(float)
    inverse = np.linalg.inv(binary.T @ binary + 20 * np.eye(25))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    expected = binary @ weights
    found, scores = (
        EASE(l2=20).fit(interactions(matrix)).recommend(np.arange(70), 25, exclude_seen=False)
    )
    for user in range(70):
        items = found[user][found[user] >= 0]
        if not binary[user].any():
            assert not items.size
            continue
        assert sorted(items) == [i for i in range(25) if i != 3]
        np.testing.assert_allclose(scores[user, :24], expected[user, items], atol=1e-5)


def test_ease_says_what_it_needs_before_it_starts() -> None:
    train = interactions(random_matrix(4, 70, 25, 0.3))
    m = int((train.item_counts > 0).sum())
    assert EASE.memory_bytes(train) == 12 * m * m
    with pytest.raises(InputError, match=r"ease needs .* GB for .* items"):
        EASE(memory_limit_gb=1e-9).fit(train)


def test_factor_models_find_the_blocks() -> None:
    """Two groups of users with items of their own: the hidden item is one of their group."""
    rng = np.random.default_rng(0)
    matrix = np.zeros((80, 20), int)
    matrix[:40, :10], matrix[40:, 10:] = 1, 1
    hidden = np.concatenate((rng.integers(0, 10, 40), rng.integers(10, 20, 40)))
    matrix[np.arange(80), hidden] = 0
    for recommender in (ALS(factors=4), BPR(factors=4, learning_rate=0.05), EASE(l2=5)):
        found, _ = recommender.fit(interactions(matrix)).recommend(
            np.arange(80), 1, exclude_seen=True
        )
        assert (found[:, 0] == hidden).mean() > 0.95


def test_als_scores_are_those_of_implicit() -> None:
    from implicit.cpu.als import AlternatingLeastSquares

    train = interactions(random_matrix(6, 50, 30, 0.3))
    with threadpool_limits(1, "blas"):
        peer = AlternatingLeastSquares(
            factors=8, regularization=0.01, alpha=1.0, iterations=15, num_threads=1, random_state=3
        )
    with threadpool_limits(1, "blas"):
        peer.fit(train.matrix, show_progress=False)
    mine = ALS(factors=8, seed=3).fit(train)
    np.testing.assert_allclose(mine.item_factors, peer.item_factors, rtol=1e-3, atol=1e-4)
    found, scores = mine.recommend([5], 3, exclude_seen=False)
    expected = mine.item_factors[found[0]] @ mine.user_factors[5]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)


def test_repurchase_by_hand() -> None:
    ids = pl.Series(["a", "b", "c"])
    train = Interactions.from_events(ids, ids, [0, 0, 0, 1], [0, 0, 1, 2], np.array([0, 0, 30, 30]))
    found, scores = Repurchase().fit(train).recommend([0, 2], 3, exclude_seen=False)
    assert lists(found) == [[0, 1], []]  # two halves tie with one recent purchase
    np.testing.assert_allclose(scores[0, :2], [1, 1])
    often = Repurchase(half_life_days=None).fit(train)
    assert lists(often.recommend([0], 3, exclude_seen=False)[0]) == [[0, 1]]
    recent = Repurchase(half_life_days=10).fit(train)
    assert lists(recent.recommend([0], 3, exclude_seen=False)[0]) == [[1, 0]]
    assert lists(recent.recommend([0], 3, exclude_seen=True)[0]) == [[]]


def test_blend_by_hand() -> None:
    matrix = np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 1]])
    train = interactions(matrix)
    parts = [ItemKNN(k=3), MostPop()]
    blend = Blend(parts, [3.0, 1.0]).fit(train)
    expected: dict[int, float] = {}
    for part, weight in zip(parts, (3.0, 1.0), strict=True):
        for rank, item in enumerate(lists(part.recommend([0], 4, exclude_seen=True)[0])[0]):
            expected[item] = expected.get(item, 0.0) + weight / (rank + 61)
    found, scores = blend.recommend([0], 4, exclude_seen=True)
    assert lists(found)[0] == sorted(expected, key=lambda i: -expected[i])
    np.testing.assert_allclose(scores[0, : len(expected)], sorted(expected.values())[::-1], 1e-5)
    alone = Blend([MostPop()], by="score").fit(train)
    found, scores = alone.recommend([0], 4, exclude_seen=False)
    assert lists(found)[0] == [1, 0, 2, 3]
    np.testing.assert_allclose(scores[0], [1, 0, 0, 0], atol=1e-6)
    assert "3 itemknn(k=3" in blend.signature
    for arguments in ([[]], [parts, [1.0]], [parts, [1.0, -1.0]], [parts, None, "vote"]):
        with pytest.raises(InputError, match="blend"):
            Blend(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("recommender", [ItemKNN(k=5), UserKNN(k=5), RP3beta(k=5), EASE(l2=5)])
def test_explanations_add_up_to_the_score(recommender: Recommender) -> None:
    matrix = random_matrix(9)
    train = interactions(matrix)
    recommender.fit(train)
    item_idx, scores = recommender.recommend(np.arange(60), 3, exclude_seen=True)
    explained = 0
    for user in range(60):
        for item, score in zip(item_idx[user], scores[user], strict=True):
            if item < 0:
                continue
            reasons = recommender.explain(user, int(item), n=1000)
            np.testing.assert_allclose(sum(r.weight for r in reasons), score, rtol=1e-5)
            assert [r.weight for r in reasons] == sorted((r.weight for r in reasons), reverse=True)
            for reason in reasons:
                taken = (
                    matrix[user, reason.idx] if reason.kind == "item" else matrix[reason.idx, item]
                )
                assert taken > 0
            explained += 1
    assert explained > 50


# ---------------------------------------------------------------- outside tools


def implicit_lists(train: Interactions, kind: str, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    nearest = pytest.importorskip("implicit.nearest_neighbours")
    matrix = train.matrix.astype(np.float64)
    if kind == "CosineRecommender":
        matrix.data[:] = 1
    peer = getattr(nearest, kind)(K=k, num_threads=1)
    peer.fit(matrix, show_progress=False)
    return peer.recommend(np.arange(train.n_users), matrix, N=n, filter_already_liked_items=False)


def read_real(shared: Path, name: str) -> Interactions:
    folder = shared / "recsys" / name
    if name == "ml-100k":
        return read_interactions(folder / "ml-100k.inter")
    return read_interactions(folder / "train.tsv", columns=["user_id", "item_id", "rating"])


@pytest.mark.filterwarnings("ignore:Method expects CSR input")
@pytest.mark.parametrize("name", ["ml-100k", "allrecipes"])
def test_itemknn_equals_implicit_on_real_data(shared: Path, name: str) -> None:
    """Neighbour similarities place by place (implicit is free in the order of ties), then lists."""
    nearest = pytest.importorskip("implicit.nearest_neighbours")
    train = read_real(shared, name)
    matrix = train.matrix.astype(np.float64)
    matrix.data[:] = 1
    peer = nearest.CosineRecommender(K=20, num_threads=1)
    peer.fit(matrix, show_progress=False)
    mine = ItemKNN(k=20, self_in_k=True).fit(train)
    indptr, indices, similarity = mine._similar
    theirs = peer.similarity.tocsr()
    theirs.sort_indices()
    assert theirs.nnz == indices.size
    np.testing.assert_array_equal(theirs.indptr, indptr)
    differing = 0
    for item in range(train.n_items):
        row = slice(indptr[item], indptr[item + 1])
        expected, found = theirs.data[row], similarity[row]
        np.testing.assert_allclose(np.sort(found), np.sort(expected), rtol=1e-5)
        differ = np.setxor1d(theirs.indices[row], indices[row])
        differing += differ.size > 0
        # Where the neighbours differ, they tie with the last one.
        last = expected.min()
        mask = np.isin(indices[row], differ)
        np.testing.assert_allclose(found[mask], last, rtol=1e-5)
    assert differing < train.n_items  # some rows are free of ties at the border
    # The same similarities give the same scores.
    users = np.arange(0, train.n_users, 7)
    _, scores = mine.recommend(users, 12, exclude_seen=True)
    mine_in_theirs = nearest.CosineRecommender(K=20, num_threads=1)
    mine_in_theirs.similarity = csr_matrix(
        (similarity.astype(np.float64), indices, indptr), theirs.shape
    )
    mine_in_theirs.scorer = nearest.NearestNeighboursScorer(mine_in_theirs.similarity)
    _, expected = mine_in_theirs.recommend(users, matrix[users], N=12)
    usable = scores > 0
    assert usable.mean() > 0.3
    np.testing.assert_allclose(scores[usable], expected[usable], rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        ("CosineRecommender", {}),
        ("TFIDFRecommender", {"weighting": "tfidf"}),
        ("BM25Recommender", {"weighting": "bm25", "similarity": "dot"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Method expects CSR input")
def test_itemknn_equals_implicit(kind: str, parameters: dict[str, str]) -> None:
    # Every neighbour kept, so that implicit's arbitrary choice among ties cannot show.
    train = interactions(random_matrix(21, 120, 60, 0.2))
    knn = ItemKNN(k=60, self_in_k=True, **parameters).fit(train)  # type: ignore[arg-type]
    _, scores = knn.recommend(np.arange(120), 10, exclude_seen=False)
    _, expected = implicit_lists(train, kind, 60, 10)
    usable = scores > 0
    np.testing.assert_allclose(scores[usable], expected[usable], rtol=1e-4)
