"""Baselines: by hand, against a plain loop over pairs, and on wrong shapes."""

import numpy as np
import pytest

from caption import InputError
from caption.baselines import consensus, copy_nearest, most_frequent, neighbours
from caption.metrics.cider import CiderReward
from caption.metrics.ngrams import DocumentFrequencies

WORDS = ["red", "blue", "dress", "hat", "with", "a", "long", "short", "sleeve", "collar"]


def test_most_frequent_takes_the_first_of_equals() -> None:
    assert most_frequent(["b", "a", "a", "b"], ["1", "2"]) == {"1": "b", "2": "b"}
    with pytest.raises(InputError, match="no training texts"):
        most_frequent([], ["1"])


def test_copy_nearest_is_by_angle_not_length() -> None:
    train = [[100.0, 1.0], [0.1, 0.1], [0.0, 5.0]]
    query = [[1.0, 0.0], [3.0, 2.9], [0.0, 0.001]]
    found = copy_nearest(train, ["right", "middle", "up"], query, ["x", "y", "z"])
    assert found == {"x": "right", "y": "middle", "z": "up"}


def test_consensus_overrules_the_nearest_photo() -> None:
    train = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0], [0.0, 1.0]]
    texts = [
        "a long blue hat",
        "a red dress with a short sleeve",
        "a red dress with a short collar",
        "something else entirely",
        "nothing at all",
    ]
    query = [[1.0, 0.0]]
    assert copy_nearest(train, texts, query, ["q"])["q"] == texts[0]
    chosen = consensus(train, texts, query, ["q"], n=3, tokenizer="none")
    assert chosen["q"] in texts[1:3]


def test_consensus_equals_a_loop_over_pairs() -> None:
    rng = np.random.default_rng(3)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(60)]
    train, query = rng.normal(size=(60, 5)), rng.normal(size=(15, 5))
    ids = [f"q{i}" for i in range(15)]
    n = 7
    found = consensus(train, texts, query, ids, n=n, tokenizer="none")

    unit = train / np.linalg.norm(train, axis=1, keepdims=True)
    df = DocumentFrequencies.of([[text] for text in texts])
    for row, item in enumerate(ids):
        nearest = np.argsort(-unit @ query[row])[:n]
        means = []
        for i in nearest:
            others = [texts[j] for j in nearest if j != i]
            means.append(CiderReward([others], df)([texts[i]], [0])[0])
        chosen = means[[texts[j] for j in nearest].index(found[item])]
        assert chosen == pytest.approx(max(means), abs=1e-9)
    assert any(
        found[item] != texts[int(np.argmax(unit @ q))] for item, q in zip(ids, query, strict=True)
    )


def test_barred_rows_are_neither_copied_nor_heard() -> None:
    train = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [0.0, 1.0]]
    texts = ["a red dress", "a red dress with a belt", "a red dress with a zip", "a hat"]
    query = [[1.0, 0.0], [1.0, 0.0]]
    barred = [[0, 1], []]
    copied = copy_nearest(train, texts, query, ["own", "new"], barred=barred)
    assert copied == {"own": texts[2], "new": texts[0]}
    # Two rows are left to the first query, so each gets two.
    assert neighbours(train, texts, query, ["own", "new"], 4, barred=barred).tolist() == [
        [2, 3],
        [0, 1],
    ]
    chosen = consensus(train, texts, query, ["own", "new"], barred=barred, tokenizer="none")
    assert chosen["own"] in texts[2:]
    with pytest.raises(InputError, match="may use none of 4"):
        copy_nearest(train, texts, query, ["own", "new"], barred=[range(4), []])
    with pytest.raises(InputError, match="1 lists of barred rows for 2 queries"):
        copy_nearest(train, texts, query, ["own", "new"], barred=[[]])


def test_consensus_of_fewer_photos_than_n() -> None:
    assert consensus([[1.0]], ["only"], [[2.0]], ["q"], tokenizer="none") == {"q": "only"}
    assert consensus([[1.0]], ["only"], np.empty((0, 1)), [], tokenizer="none") == {}


@pytest.mark.parametrize(
    ("train", "texts", "query", "ids", "message"),
    [
        ([[1.0]], ["a", "b"], [[1.0]], ["q"], "1 training vectors for 2 texts"),
        ([[1.0]], ["a"], [[1.0], [2.0]], ["q"], "2 query vectors for 1 ids"),
        ([[1.0]], ["a"], [[1.0, 2.0]], ["q"], "1 dimensions, query vectors 2"),
        ([1.0], ["a"], [[1.0]], ["q"], r"train_vectors has shape \(1,\)"),
        ([[1.0]], ["a"], [[np.nan]], ["q"], "query_vectors row 0 is not finite"),
        (np.empty((0, 1)), [], [[1.0]], ["q"], "0 training photos"),
    ],
)
def test_wrong_input(
    train: object, texts: list[str], query: object, ids: list[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        copy_nearest(train, texts, query, ids)  # type: ignore[arg-type]
