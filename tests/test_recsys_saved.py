"""Saved lists of any origin: tables, Kaggle submissions, TREC files."""

import numpy as np
import polars as pl
import pytest

from recsys import InputError
from recsys.metrics import score_lists
from recsys.saved import read_recommendations, read_test, score_saved

RUN = """\
q1 Q0 d7 2 0.5 mine
q1 Q0 d1 1 0.9 mine
q2 Q0 d4 2 1e-3 mine
q2 Q0 d5 1 1e-3 mine
q3 Q0 d1 1 2 mine
"""
QRELS = """\
q1 0 d1 1
q1 0 d9 2
q1 0 d7 0
q2 0 d4 1
q4 0 d4 1
"""


def test_trec_files(tmp_path):
    (tmp_path / "a.run").write_text(RUN)
    (tmp_path / "a.qrels").write_text(QRELS)
    lists = read_recommendations(tmp_path / "a.run")
    assert lists.filter(pl.col("user_id") == "q1")["item_id"].to_list() == ["d1", "d7"]
    assert lists.filter(pl.col("user_id") == "q2")["item_id"].to_list() == ["d5", "d4"]  # by rank
    (found,) = score_saved(lists, read_test(tmp_path / "a.qrels"), ("mrr", "recall"), (2,))
    assert found.recommender == "mine"
    assert found.user_ids.to_list() == ["q1", "q2", "q4"]
    assert found.scores["mrr@2"].per_user.tolist() == [1, 0.5, 0]
    assert found.scores["recall@2"].per_user.tolist() == [0.5, 1, 0]
    assert found.findings == {
        "users without a list": 1,
        "lists without test items": 1,
        "repeated items": 0,
        "test pairs": 4,
    }


def test_our_own_file_gives_the_numbers_of_the_run(tmp_path):
    rng = np.random.default_rng(0)
    lists = np.array([rng.permutation(50)[:12] for _ in range(30)], dtype=np.int32)
    truth = rng.random((30, 50)) < 0.1
    truth[:, 0] = True
    user, place = np.divmod(np.arange(lists.size), 12)
    frame = pl.DataFrame(
        {
            "user_id": [f"{u:03d}" for u in user],
            "rank": (place + 1).astype(np.int32),
            "article_id": [f"{i:010d}" for i in lists.ravel()],
            "score": np.zeros(lists.size, dtype=np.float32),
        }
    )
    other = frame.with_columns(pl.col("rank").reverse().over("user_id"))
    both = [
        part.with_columns(recommender=pl.lit("clip"), setting=pl.lit(setting))
        for part, setting in ((frame, "fill"), (other, "original"))
    ]
    pl.concat(both).sample(fraction=1, shuffle=True, seed=1).write_parquet(tmp_path / "r.parquet")
    pairs = np.argwhere(truth)
    table = pl.DataFrame(
        {
            "customer_id": [f"{u:03d}" for u in pairs[:, 0]],
            "article_id": [f"{i:010d}" for i in pairs[:, 1]],
        }
    )
    pl.concat([table, table[:5]]).write_csv(tmp_path / "test.csv")
    saved = score_saved(
        read_recommendations(tmp_path / "r.parquet"), read_test(tmp_path / "test.csv")
    )
    from scipy import sparse

    for ours, ranked in zip(saved, (lists, lists[:, ::-1]), strict=True):
        want = score_lists(ranked, sparse.csr_matrix(truth))
        assert ours.recommender == "clip"
        assert list(ours.scores) == list(want)
        for name, score in want.items():
            np.testing.assert_allclose(ours.scores[name].per_user, score.per_user)
    assert [ours.setting for ours in saved] == ["fill", "original"]


def test_kaggle_submission_and_repeated_items(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("customer_id,prediction\na,0001 0002 0001  0003\nb,\n")
    lists = read_recommendations(path)
    assert lists["item_id"].to_list() == ["0001", "0002", "0001", "0003"]
    assert lists["rank"].to_list() == [1, 2, 3, 4]
    test = pl.DataFrame({"user_id": ["a", "a", "b"], "item_id": ["0001", "0003", "0001"]})
    (found,) = score_saved(lists, test, ("map",), (12,))
    np.testing.assert_allclose(found.scores["map@12"].per_user, [(1 + 2 / 4) / 2, 0])
    assert found.findings["repeated items"] == 1
    assert found.findings["users without a list"] == 1


def test_tables_of_peers(tmp_path):
    path = tmp_path / "lists.tsv"
    path.write_text("query_id\tdoc_id\tscore\n1\t07\t-2\n1\t08\t3.5\n")
    assert read_recommendations(path)["item_id"].to_list() == ["08", "07"]
    ranked = tmp_path / "lists.csv"
    # Where a table has both, its rank is meant: scores may be distances.
    ranked.write_text("user,item,rank,score\n1,a,2,9\n1,b,1,3\n1,c,10,1\n")
    assert read_recommendations(ranked)["item_id"].to_list() == ["b", "a", "c"]
    graded = tmp_path / "test.csv"
    graded.write_text("user_id,item_id,relevance\nu,a,0\nu,b,2\n")
    assert read_test(graded).rows() == [("u", "b")]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", "who,item_id,rank\n1,2,3\n", "columns who"),
        ("a.csv", "user_id,item_id\n1,2\n", "neither a rank nor a score"),
        ("a.csv", "user_id,item_id,rank\n1,2,first\n", "'first'"),
        ("a.run", "q1 d1 1 0.5\n", "line 1 has 4 fields"),
        ("a.parquet", "not parquet", "cannot read"),
    ],
)
def test_bad_files(tmp_path, name, text, words):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        read_recommendations(tmp_path / name)


def test_files_that_do_not_fit_together(tmp_path):
    with pytest.raises(InputError, match="no file"):
        read_test(tmp_path / "none.csv")
    (tmp_path / "t.qrels").write_text("q 0 d 0\n")
    with pytest.raises(InputError, match="no relevant item"):
        read_test(tmp_path / "t.qrels")
    lists = pl.DataFrame({"user_id": ["a"], "item_id": ["108775015"], "rank": [1]})
    test = pl.DataFrame({"user_id": ["a"], "item_id": ["0108775015"]})
    with pytest.raises(InputError, match="leading zeros"):
        score_saved(lists, test)
