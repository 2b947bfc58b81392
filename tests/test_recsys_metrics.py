"""Every definition against hand-tabulated values, brute force and outside tools."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from recsys import InputError
from recsys.metrics import RELEVANCE_METRICS, score_lists


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


def test_bad_input():
    lists, truth = np.zeros((2, 3), np.int32), relevant_sets([[1], [2]], 4)
    with pytest.raises(InputError, match="unknown metric 'auc'"):
        score_lists(lists, truth, ("auc",))
    with pytest.raises(InputError, match="at least 1"):
        score_lists(lists, truth, ks=(0,))
    with pytest.raises(InputError, match="one row per user"):
        score_lists(lists[:1], truth)
