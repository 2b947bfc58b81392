"""Content profiles: known lists, seen items, items and users without vectors, TF-IDF."""

import numpy as np
import polars as pl
import pytest
from scipy import sparse

from recsys import InputError
from recsys.interactions import Interactions
from recsys.recommenders.content import ContentRecommender, tfidf_vectors


def purchases(pairs, n_items, n_users):
    frame = pl.DataFrame(
        {"user_id": [f"u{u}" for u, _ in pairs], "item_id": [f"i{i}" for _, i in pairs]}
    )
    return Interactions.from_frame(
        frame,
        user_ids=[f"u{u}" for u in range(n_users)],
        item_ids=[f"i{i:d}" for i in range(n_items)],
    )


VECTORS = np.array([[2, 0], [1, 0], [0, 3], [1, 1], [0, 0], [-1, 0]], dtype=np.float32)
TRAIN = purchases([(0, 0), (0, 2), (1, 0), (1, 0), (1, 0), (1, 2), (2, 4)], 6, 4)


@pytest.mark.parametrize("as_matrix", [False, True], ids=["dense", "sparse"])
def test_lists_follow_the_mean_cosine(as_matrix):
    vectors = sparse.csr_matrix(VECTORS) if as_matrix else VECTORS
    model = ContentRecommender(vectors).fit(TRAIN)
    ids, scores = model.recommend([0, 3, 2], 6, exclude_seen=False)
    # User 0 bought (1, 0) and (0, 1): the profile is (.5, .5); item 4 has a zero vector.
    assert ids[0].tolist() == [3, 0, 1, 2, 5, -1]
    np.testing.assert_allclose(scores[0, :5], [2**-0.5, 0.5, 0.5, 0.5, -0.5], rtol=1e-6)
    assert (ids[1:] == -1).all()  # nothing bought; nothing bought that has a vector
    assert np.isneginf(scores[1:]).all()
    assert model.n_without_vector == 1


def test_seen_items_can_be_left_out_and_purchases_counted():
    model = ContentRecommender(VECTORS).fit(TRAIN)
    assert model.recommend([0], 3, exclude_seen=True)[0].tolist() == [[3, 1, 5]]
    model = ContentRecommender(VECTORS, weighting="count").fit(TRAIN)
    ids, scores = model.recommend([1], 3, exclude_seen=False)
    assert ids.tolist() == [[0, 1, 3]]  # the profile leans to (1, 0), bought three times
    np.testing.assert_allclose(scores[0, 0], 0.75)


def test_invalid_items_take_no_part():
    valid = np.array([True, True, False, True, True, True])
    model = ContentRecommender(VECTORS, valid).fit(TRAIN)
    ids, scores = model.recommend([0], 5, exclude_seen=False)
    assert ids[0].tolist() == [0, 1, 3, 5, -1]
    assert scores[0, 0] == 1
    assert model.n_without_vector == 2


def test_a_list_does_not_depend_on_its_batch(monkeypatch):
    from recsys.recommenders import content

    rng = np.random.default_rng(0)
    train = purchases([(int(u), int(i)) for u, i in rng.integers(0, 40, (300, 2))], 40, 40)
    model = ContentRecommender(rng.standard_normal((40, 8))).fit(train)
    ids, scores = model.recommend(np.arange(40), 10, exclude_seen=True)
    monkeypatch.setattr(content, "_USERS", 7)
    again, again_scores = model.recommend(np.arange(40)[::-1], 10, exclude_seen=True)
    np.testing.assert_array_equal(ids, again[::-1])
    np.testing.assert_array_equal(scores, again_scores[::-1])
    seen = train.matrix.toarray() > 0
    rows = np.repeat(np.arange(40), 10)
    assert not seen[rows[ids.ravel() >= 0], ids[ids >= 0]].any()


@pytest.mark.parametrize("weighting", ["unique", "count"])
def test_reasons_add_up_to_the_score(weighting):
    model = ContentRecommender(VECTORS, weighting=weighting).fit(TRAIN)
    ids, scores = model.recommend([1], 4, exclude_seen=False)
    for item, score in zip(ids[0], scores[0], strict=True):
        reasons = model.explain(1, int(item), n=9)
        assert sum(reason.weight for reason in reasons) == pytest.approx(score, abs=1e-6)
    assert model.explain(1, 1)[0].idx == 0
    assert model.explain(1, 4) == []
    assert model.explain(3, 1) == []


def test_tfidf_ranks_shared_rare_words_first():
    texts = ["a red dress", "a red velvet dress", "a blue shirt", None, " ", "velvet bow"]
    vectors, valid = tfidf_vectors(texts)
    assert valid.tolist() == [True, True, True, False, False, True]
    np.testing.assert_allclose(np.sqrt(vectors.multiply(vectors).sum(axis=1))[valid], 1, rtol=1e-6)
    train = purchases([(0, 5)], 6, 1)
    ids, _ = ContentRecommender(vectors, valid).fit(train).recommend([0], 5, exclude_seen=True)
    assert ids[0].tolist() == [1, 0, 2, -1, -1]


def test_tfidf_equals_scikit_learn_and_ignores_repeated_texts():
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = ["one two three", "two three", "three four"]
    model = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\b\w+\b")  # noqa: S106
    want = model.fit_transform(texts).toarray()
    found, _ = tfidf_vectors([*texts, "two three", "two three"])
    np.testing.assert_allclose(found.toarray()[:3], want, rtol=1e-6)


def test_bad_input():
    with pytest.raises(InputError, match="6 vectors for 3 items"):
        ContentRecommender(VECTORS).fit(purchases([(0, 0)], 3, 1))
    with pytest.raises(InputError, match="NaN"):
        ContentRecommender(np.array([[np.nan, 1]]))
    with pytest.raises(InputError, match="valid has shape"):
        ContentRecommender(VECTORS, np.ones(2, bool))
    with pytest.raises(InputError, match="expected \\(n_items, dim\\)"):
        ContentRecommender(np.zeros(3))
    with pytest.raises(InputError, match="weighting"):
        ContentRecommender(VECTORS, weighting="log")
    with pytest.raises(InputError, match="no words"):
        tfidf_vectors([None, ""])
