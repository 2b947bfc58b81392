"""Every definition against hand-tabulated values, brute force and outside tools."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys import InputError
from recsys.metrics import (
    LIST_METRICS,
    RELEVANCE_METRICS,
    gini,
    history_bands,
    popularity_bands,
    score_catalogue,
    score_lists,
    score_slices,
)


def relevant_sets(sets, n_items):
    rows = [row for row, items in enumerate(sets) for _ in items]
    items = [item for items in sets for item in items]
    return sparse.csr_matrix((np.ones(len(rows)), (rows, items)), shape=(len(sets), n_items))


# Recommended [a, x, b, y, z], a and b relevant, m relevant in all: the tools' own outputs at k=5.
A, B, X, Y, Z = 0, 1, 2, 3, 4
PEERS = {
    "map": (0.8333, 0.3333),
    "map_r": (0.8333, 0.2083),
    "map_hits": (0.8333, 0.8333),
    "map_elliot": (0.6133, 0.6133),
    "ndcg": (0.9197, 0.5087),
    "ndcg_all": (0.5087, 0.5087),
    "precision": (0.4, 0.4),
    "recall": (1.0, 0.25),
    "hit_rate": (1.0, 1.0),
    "mrr": (1.0, 1.0),
}


def test_every_definition_on_the_table_of_peers():
    assert set(PEERS) == set(RELEVANCE_METRICS)
    lists = np.array([[A, X, B, Y, Z]] * 2, dtype=np.int32)
    truth = relevant_sets([[A, B], [A, B, 10, 11, 12, 13, 14, 15]], 20)
    found = score_lists(lists, truth, list(PEERS), (5,))
    for name, values in PEERS.items():
        np.testing.assert_allclose(found[f"{name}@5"].per_user, values, atol=5e-5, err_msg=name)


@pytest.mark.parametrize(
    ("actual", "predicted", "k", "value"),
    [  # The cases of Kaggle's ml_metrics: average_precision.
        (range(1, 6), [6, 4, 7, 1, 2], 2, 0.25),
        (range(1, 6), [1, 1, 1, 1, 1], 5, 0.2),
        (range(1, 101), [*range(1, 21), *range(200, 600)], 20, 1.0),
        ([1, 3], [1, 2, 3, 4, 5], 3, 5 / 6),
        ([1, 2, 3], [1, 1, 1], 3, 1 / 3),
        ([1, 2, 3], [1, 2, 1], 3, 2 / 3),
    ],
)
def test_kaggles_own_cases_of_map(actual, predicted, k, value):
    lists = np.array([predicted], dtype=np.int32)
    found = score_lists(lists, relevant_sets([list(actual)], 700), ("map",), (k,))
    assert found[f"map@{k}"].value == pytest.approx(value)


def brute_force(items, relevant, k):
    """Straight from the definitions, one user at a time."""
    relevant, m = set(relevant), len(set(relevant))
    rel = [
        int(i < len(items) and items[i] in relevant and items[i] not in list(items[:i]))
        for i in range(k)
    ]
    precision = [sum(rel[: i + 1]) / (i + 1) for i in range(k)]
    gains = [1 / np.log2(i + 2) for i in range(k)]
    dcg = sum(r * g for r, g in zip(rel, gains, strict=True))
    ap = sum(r * p for r, p in zip(rel, precision, strict=True))
    return {
        "ndcg": dcg / sum(gains[: min(m, k)]),
        "ndcg_all": dcg / sum(gains),
        "map": ap / min(m, k),
        "map_r": ap / m,
        "map_hits": ap / max(sum(rel), 1),
        "map_elliot": sum(precision) / k,
        "precision": sum(rel) / k,
        "recall": sum(rel) / m,
        "hit_rate": float(sum(rel) > 0),
        "mrr": 1 / (rel.index(1) + 1) if 1 in rel else 0.0,
    }


@settings(max_examples=150, deadline=None)
@given(
    users=st.lists(
        st.tuples(
            st.lists(st.integers(-1, 60), min_size=7, max_size=7),
            st.sets(st.integers(0, 60), max_size=50),
        ),
        min_size=1,
        max_size=6,
    ),
    ks=st.lists(st.integers(1, 12), min_size=1, max_size=3, unique=True),
)
def test_definitions_hold_on_any_lists(users, ks):
    lists = np.array([items for items, _ in users], dtype=np.int32)
    found = score_lists(lists, relevant_sets([s for _, s in users], 61), list(PEERS), ks)
    for row, (items, relevant) in enumerate(users):
        for k in ks:
            for name in PEERS:
                value = found[f"{name}@{k}"].per_user[row]
                if relevant:
                    assert value == pytest.approx(brute_force(items, relevant, k)[name]), name
                else:
                    assert np.isnan(value)


def test_scores_carry_what_they_mean():
    lists = np.array([[1, 2], [3, -1], [-1, -1]], dtype=np.int32)
    found = score_lists(lists, relevant_sets([[1], [], [5]], 9), ("ndcg", "map"), (12, 1))
    assert list(found) == ["ndcg@12", "ndcg@1", "map@12", "map@1"]
    score = found["ndcg@12"]
    assert score.n_users == 2
    assert score.value == 0.5  # an empty list is a miss, a user without truth is nothing
    assert score.signature == "ndcg@12|gain:binary|discount:log2(rank+1)|ideal:min(m,k)|users:m>0"
    assert np.isnan(score_lists(lists, relevant_sets([[], [], []], 9))["map@5"].value)


@pytest.fixture(scope="module")
def golden():
    """40 drawn users with the values RecTools 0.19.0 and ranx 0.3.21 give them."""
    path = Path(__file__).parent / "golden" / "ranking_metrics.json"
    data = json.loads(path.read_text())
    lists = np.full((len(data["lists"]), 12), -1, dtype=np.int32)
    for row, items in enumerate(data["lists"]):
        lists[row, : len(items)] = items
    users, items = zip(*data["train"], strict=True)
    shape = (len(lists), data["n_items"])
    train = sparse.csr_matrix((np.ones(len(users)), (users, items)), shape=shape)
    return lists, relevant_sets(data["truth"], data["n_items"]), train, data["values"]


@pytest.mark.parametrize("tool", ["rectools", "ranx"])
def test_users_get_the_values_other_tools_give_them(golden, tool):
    lists, truth, train, values = golden
    found = score_lists(lists, truth, list(RELEVANCE_METRICS), (5, 12))
    found |= score_catalogue(
        lists, ("novelty", "popularity", "coverage"), (5, 12), n_items=truth.shape[1], train=train
    )
    assert len(values[tool]) >= 12
    for name, want in values[tool].items():
        ours = found[name].value if name.startswith("coverage") else found[name].per_user
        np.testing.assert_allclose(ours, want, atol=1e-9, err_msg=name)


def test_movielens_gets_the_means_rectools_gives_it(shared):
    """The last fifth of each user's ratings as truth, the most rated unseen items as lists."""
    path = shared / "recsys" / "ml-100k" / "ml-100k.inter"
    if not path.is_file():
        pytest.skip("needs ml-100k in the shared data")
    frame = pl.read_csv(path, separator="\t", new_columns=["user", "item", "rating", "time"])
    frame = frame.sort("user", "time", "item")
    late = pl.int_range(pl.len()).over("user") >= pl.len().over("user") * 0.8
    train, test = frame.filter(~late), frame.filter(late)
    sets = []
    for part in (train, test):
        ids = part["user"].to_numpy() - 1, part["item"].to_numpy() - 1
        sets.append(sparse.csr_matrix((np.ones(len(part)), ids), shape=(943, 1682)))
    seen = sets[0].toarray() > 0
    order = np.argsort(-seen.sum(axis=0), kind="stable")
    lists = np.array([order[~row[order]][:12] for row in seen], dtype=np.int32)
    found = score_lists(lists, sets[1], ("ndcg", "ndcg_all", "map_r", "recall", "mrr"), (5, 12))
    found |= score_catalogue(lists, ("novelty",), (5, 12), n_items=1682, train=sets[0])
    want = {
        "ndcg@5": 0.10952920945873337,
        "ndcg_all@5": 0.10900812584696618,
        "map_r@5": 0.01858141242723502,
        "recall@5": 0.03243668897388283,
        "mrr@5": 0.20307529162248145,
        "novelty@5": 1.1282994935987698,
        "ndcg@12": 0.11081864717104958,
        "ndcg_all@12": 0.10112482263598986,
        "map_r@12": 0.026566312063271796,
        "recall@12": 0.06775062594086756,
        "mrr@12": 0.22884411452810183,
        "novelty@12": 1.3461721792239283,
    }
    assert {name: found[name].value for name in want} == pytest.approx(want, abs=1e-12)


def test_metrics_of_the_lists_alone():
    lists = np.array([[0, 1, 2], [1, 2, -1], [-1, -1, -1]], dtype=np.int32)
    train = sparse.csr_matrix(np.array([[1, 1, 0, 0]] * 2 + [[1, 0, 0, 0]] * 2))
    vectors = np.array([[1, 0], [0, 2], [0, 0], [1, 1]], dtype=np.float32)
    found = score_catalogue(lists, ks=(2,), n_items=4, train=train, vectors=vectors)
    assert list(found) == [f"{name}@2" for name in LIST_METRICS]
    # Shares of users: 4/4, 2/4, none (taken as 1/4).
    np.testing.assert_allclose(found["novelty@2"].per_user, [0.5, 1.5, np.nan])
    np.testing.assert_allclose(found["popularity@2"].per_user, [3, 1, np.nan])
    np.testing.assert_allclose(found["diversity@2"].per_user, [1, np.nan, np.nan])
    assert found["coverage@2"].value == 0.75
    assert found["gini@2"].value == gini(np.array([1, 2, 1, 0]))
    assert found["gini@2"].per_user is None
    assert found["novelty@2"].value == 1


@settings(max_examples=50, deadline=None)
@given(
    counts=st.lists(st.integers(0, 50), min_size=1, max_size=30).filter(any),
    seed=st.integers(0, 999),
)
def test_gini_is_half_the_relative_mean_difference(counts, seed):
    x = np.array(counts, dtype=float)
    want = np.abs(x[:, None] - x).mean() / (2 * x.mean())
    assert gini(np.random.default_rng(seed).permutation(x)) == pytest.approx(want, abs=1e-12)


def test_diversity_is_the_mean_over_all_pairs():
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    lists = np.array([rng.choice(30, 6, replace=False) for _ in range(20)], dtype=np.int32)
    found = score_catalogue(lists, ("diversity",), (6,), n_items=30, vectors=vectors)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    for row, value in zip(lists, found["diversity@6"].per_user, strict=True):
        cosine = unit[row] @ unit[row].T
        assert value == pytest.approx(1 - cosine[np.triu_indices(6, 1)].mean(), abs=1e-6)


def test_bands_of_items_and_users():
    bands = popularity_bands(np.array([0, 6, 3, 1, 1, 1, 6, 0]))
    assert bands["cold"].nonzero()[0].tolist() == [0, 7]
    assert bands["warm"].sum() == 6
    # 18 purchases: the thirds begin at 0, 6 and 12.
    assert bands["head"].nonzero()[0].tolist() == [1]
    assert bands["middle"].nonzero()[0].tolist() == [6]
    assert bands["tail"].nonzero()[0].tolist() == [2, 3, 4, 5]
    users = history_bands(np.array([0, 1, 4, 5, 19, 20, 400]))
    assert list(users) == ["history 0", "history 1-4", "history 5-19", "history 20+"]
    assert [int(mask.sum()) for mask in users.values()] == [1, 2, 2, 2]


def test_slices_restrict_the_truth_and_not_the_lists():
    lists = np.array([[1, 2, 3], [4, 5, 6]], dtype=np.int32)
    truth = relevant_sets([[2, 9], [4]], 10)
    cold = np.arange(10) >= 4
    found = score_slices(
        lists,
        truth,
        ("recall",),
        (3,),
        items={"cold": cold, "warm": ~cold},
        users={"new": np.array([False, True])},
    )
    np.testing.assert_array_equal(found["cold"]["recall@3"].per_user, [0, 1])
    np.testing.assert_array_equal(found["warm"]["recall@3"].per_user, [1, np.nan])
    np.testing.assert_array_equal(found["new"]["recall@3"].per_user, [np.nan, 1])
    assert found["cold"]["recall@3"].signature.endswith("|relevant:cold")
    assert found["new"]["recall@3"].signature.endswith("|users:new")


def test_bad_input():
    lists, truth = np.zeros((2, 3), np.int32), relevant_sets([[1], [2]], 4)
    with pytest.raises(InputError, match="unknown metric 'auc'"):
        score_lists(lists, truth, ("auc",))
    with pytest.raises(InputError, match="at least 1"):
        score_lists(lists, truth, ks=(0,))
    with pytest.raises(InputError, match="one row per user"):
        score_lists(lists[:1], truth)
    with pytest.raises(InputError, match="give train"):
        score_catalogue(lists, ("novelty",), n_items=4)
    with pytest.raises(InputError, match="give vectors"):
        score_catalogue(lists, ("diversity",), n_items=4)
    with pytest.raises(InputError, match="vectors is about 3 items"):
        score_catalogue(lists, ("diversity",), n_items=4, vectors=np.ones((3, 2), np.float32))
    with pytest.raises(InputError, match="unknown metric 'ndcg'"):
        score_catalogue(lists, ("ndcg",), n_items=4)
