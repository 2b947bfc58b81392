"""Saved lists and test sets, of this project or any other, scored by the same code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys import InputError
from recsys.metrics import Score, score_lists
from recsys.parquet import checked_parquet
from recsys.readers import UNREADABLE, first_line

_USER = ("user_id", "customer_id", "user", "query_id", "qid", "uid")
_ITEM = ("item_id", "article_id", "item", "doc_id", "docno", "iid")
_GROUP = ("recommender", "setting")
_TABLES = (".csv", ".tsv", ".parquet", ".pq")


@dataclass(frozen=True)
class SavedScores:
    """Scores of one recommender's saved lists."""

    recommender: str
    setting: str
    """Both "" where the file does not name them."""
    user_ids: pl.Series
    """(n_users,) String, the users of the test set, sorted; the order of every `per_user`."""
    scores: dict[str, Score]
    findings: dict[str, int]
    """"users without a list" (each scores 0), "lists without test items" (left out), "repeated
    items" (count at their first place only) and "test pairs" (distinct)."""


def read_recommendations(path: Path) -> pl.DataFrame:
    """Ranked lists from a file.

    Accepts CSV, TSV or Parquet with a user and an item column and `rank` or `score`
    (`recommendations.parquet` of this project, with `recommender` and `setting`); Kaggle's
    submission (`customer_id`, `prediction` = ids joined by blanks); and, under any other suffix, a
    TREC run (`query Q0 document rank score tag`), ordered by score and equal scores by rank.

    Returns:
        user_id, item_id (String), rank (UInt32, 1 is best, without gaps), and recommender and
        setting where the file has them; sorted.

    Raises:
        InputError: no such file, unreadable, columns missing, rank or score not a number.
    """
    frame = _read(path, ("user_id", "Q0", "item_id", "rank", "score", "recommender"))
    groups = [name for name in _GROUP if name in frame.columns]
    if "prediction" in frame.columns and not set(_ITEM) & set(frame.columns):
        user = _column(frame, _USER, path)
        frame = frame.select(
            pl.col(user).alias("user_id"), *groups, pl.col("prediction").str.split(" ")
        )
        frame = frame.explode("prediction").rename({"prediction": "item_id"})
        frame = frame.filter(pl.col("item_id").fill_null("") != "")
        order: list[pl.Expr] = []
    else:
        frame = _named(frame, path)
        order = [
            _number(frame, name, path) * sign
            for name, sign in (("score", -1), ("rank", 1))
            if name in frame.columns
        ]
        if path.suffix in _TABLES:
            order = order[-1:]  # a table's rank is what was meant; only TREC lets the score decide
        if not order:
            raise InputError(f"{path} has neither a rank nor a score column: {frame.columns}")
    by = [*groups, "user_id"]
    ranked = frame.with_row_index("_row").with_columns(
        *(expression.alias(f"_{i}") for i, expression in enumerate(order))
    )
    ranked = ranked.sort([*by, *(f"_{i}" for i in range(len(order))), "_row"])
    rank = (pl.int_range(pl.len()).over(by) + 1).cast(pl.UInt32).alias("rank")
    return ranked.with_columns(rank).select("user_id", "item_id", "rank", *groups)


def read_test(path: Path) -> pl.DataFrame:
    """Relevant items from a file.

    Accepts CSV, TSV or Parquet with a user and an item column (a `relevance` of 0 or less is not
    relevant) and, under any other suffix, TREC qrels (`query 0 document relevance`).

    Returns:
        user_id, item_id (String), distinct.

    Raises:
        InputError: no such file, unreadable, columns missing, nothing relevant.
    """
    frame = _named(_read(path, ("user_id", "iteration", "item_id", "relevance")), path)
    if "relevance" in frame.columns:
        frame = frame.filter(_number(frame, "relevance", path) > 0)
    pairs = frame.select("user_id", "item_id").unique(maintain_order=True)
    if pairs.is_empty():
        raise InputError(f"{path} holds no relevant item")
    return pairs


def score_saved(
    recommendations: pl.DataFrame,
    test: pl.DataFrame,
    metrics: Sequence[str] = ("ndcg", "map"),
    ks: Sequence[int] = (5, 12),
) -> list[SavedScores]:
    """Metrics of saved lists, for every recommender and setting of the file.

    Args:
        recommendations: as from `read_recommendations`.
        test: as from `read_test`.
        metrics, ks: as in `recsys.metrics.score_lists`.

    Raises:
        InputError: unknown metric, k < 1, or no user or no item in common.
    """
    from scipy import sparse

    if recommendations.is_empty() or test.is_empty():
        empty = "recommendations are" if recommendations.is_empty() else "test set is"
        raise InputError(f"the {empty} empty: expected at least one row of a user and an item")
    for column in ("user_id", "item_id"):
        if not recommendations[column].is_in(test[column].unique().implode()).any():
            left, right = recommendations[column][0], test[column][0]
            raise InputError(
                f"no {column} of the recommendations ({left!r}, ...) is in the test set "
                f"({right!r}, ...); are they of one data set, with leading zeros kept?"
            )
    users = test["user_id"].unique().sort()
    items = pl.concat([recommendations["item_id"], test["item_id"]]).unique().sort()
    pairs = _numbered(test, users, items)
    relevant = sparse.csr_matrix(
        (np.ones(len(pairs), dtype=np.float32), (pairs["_user"], pairs["_item"])),
        shape=(len(users), len(items)),
    )
    groups = [name for name in _GROUP if name in recommendations.columns]
    if groups:
        parts = recommendations.partition_by(groups, as_dict=True, maintain_order=True)
    else:
        parts = {(): recommendations}
    found = []
    for key, part in parts.items():
        lists = _numbered(part, users, items)
        known = lists["_user"].n_unique()
        item_idx = np.full((len(users), max(ks, default=1)), -1, dtype=np.int32)
        top = lists.filter(pl.col("rank") <= item_idx.shape[1])
        item_idx[top["_user"], top["rank"] - 1] = top["_item"]
        findings = {
            "users without a list": len(users) - known,
            "lists without test items": part["user_id"].n_unique() - known,
            "repeated items": len(part) - part.select("user_id", "item_id").n_unique(),
            "test pairs": len(pairs),
        }
        named = dict(zip(groups, (str(value) for value in key), strict=True))
        scores = score_lists(item_idx, relevant, metrics, ks)
        found.append(
            SavedScores(
                named.get("recommender", ""), named.get("setting", ""), users, scores, findings
            )
        )
    return found


def _numbered(frame: pl.DataFrame, users: pl.Series, items: pl.Series) -> pl.DataFrame:
    """With `_user` and `_item` numbers; rows of users outside `users` fall away."""
    user = pl.DataFrame({"user_id": users, "_user": np.arange(len(users))})
    item = pl.DataFrame({"item_id": items, "_item": np.arange(len(items), dtype=np.int32)})
    return frame.join(user, on="user_id", how="inner").join(item, on="item_id", how="inner")


def _read(path: Path, trec: Sequence[str]) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    try:
        if path.suffix in (".parquet", ".pq"):
            return pl.read_parquet(checked_parquet(path))
        if path.suffix in _TABLES:
            separator = "\t" if path.suffix == ".tsv" else ","
            # Everything as text: a number would lose the leading zeros of an id.
            return pl.read_csv(path, separator=separator, infer_schema=False)
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError, *UNREADABLE) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from error
    rows = [fields for line in lines if (fields := line.split())]
    for number, fields in enumerate(rows, start=1):
        if len(fields) != len(trec):
            raise InputError(
                f"{path} line {number} has {len(fields)} fields; expected TREC's "
                f"{len(trec)} ({' '.join(trec)}), or a .csv, .tsv or .parquet file"
            )
    columns = zip(*rows, strict=True) if rows else [()] * len(trec)
    table = dict(zip(trec, (list(column) for column in columns), strict=True))
    return pl.DataFrame(table, schema=dict.fromkeys(trec, pl.String))


def _named(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    user, item = _column(frame, _USER, path), _column(frame, _ITEM, path)
    return frame.rename({user: "user_id", item: "item_id"}).with_columns(
        pl.col("user_id", "item_id").cast(pl.String)
    )


def _column(frame: pl.DataFrame, names: Sequence[str], path: Path) -> str:
    for name in names:
        if name in frame.columns:
            return name
    raise InputError(
        f"{path} has the columns {', '.join(frame.columns)}; expected one of {', '.join(names)}"
    )


def _number(frame: pl.DataFrame, name: str, path: Path) -> pl.Expr:
    bad = frame.filter(
        pl.col(name).is_not_null() & pl.col(name).cast(pl.Float64, strict=False).is_null()
        | pl.col(name).is_null()
    )
    if len(bad):
        raise InputError(f"{path}: {name} is {bad[name][0]!r}; expected a number")
    return pl.col(name).cast(pl.Float64)
