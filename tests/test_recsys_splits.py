import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import InputError
from recsys.interactions import Interactions
from recsys.splits import Split, drop_cold, split_global_time

TABLE = pl.DataFrame(
    {
        "user_id": ["a", "a", "a", "b", "b", "c", "a"],
        "item_id": ["x", "y", "x", "x", "z", "w", "w"],
        "day": [dt.date(2020, 1, d) for d in (1, 2, 9, 3, 10, 10, 5)],
    }
)


def table(frame: pl.DataFrame = TABLE) -> Interactions:
    return Interactions.from_frame(frame, time="day", item_ids=["w", "x", "y", "z", "unsold"])


def cells(part: Interactions | None) -> list[list[float]]:
    assert part is not None
    return part.matrix.toarray().tolist()  # type: ignore[no-any-return]


def check_partition(whole: Interactions, split: Split) -> None:
    """The parts share the ids and hold every event once."""
    parts = [split.train, split.test, *([split.validation] if split.validation else [])]
    for part in parts:
        assert part.user_ids is whole.user_ids
        assert part.item_ids is whole.item_ids
    np.testing.assert_array_equal(sum(p.matrix.toarray() for p in parts), whole.matrix.toarray())


def test_global_time_by_hand() -> None:
    split = split_global_time(table(), last_days=2)
    assert split.cutoff == dt.date(2020, 1, 9)
    assert cells(split.train) == [[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0]]
    assert cells(split.test) == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    assert split.test_users.tolist() == [0, 1, 2]
    report = split.report
    assert (report.train_events, report.test_events, report.test_pairs) == (4, 3, 3)
    assert (report.test_users, report.cold_test_users, report.cold_user_pairs) == (3, 1, 1)
    assert (report.test_items, report.cold_test_items, report.cold_item_pairs) == (3, 1, 1)
    assert report.repeated_pairs == 1
    assert "cold test users: 1 of 3" in "\n".join(report.lines())
    assert report.as_dict()["method"] == "global time, test from 2020-01-09"


def test_cutoff_and_validation() -> None:
    whole = table()
    split = split_global_time(whole, cutoff=dt.date(2020, 1, 9), validation_days=5)
    check_partition(whole, split)
    assert cells(split.validation) == [[1, 0, 0, 0, 0], [0] * 5, [0] * 5]
    assert split.report.validation_users == 1
    seconds = TABLE.with_columns(pl.col("day").cast(pl.Datetime))
    same = split_global_time(table(seconds), last_days=2)
    assert cells(same.test) == cells(split.test)


def test_cold_rows_can_be_dropped_and_are_counted() -> None:
    split = drop_cold(split_global_time(table(), last_days=2))
    assert cells(split.test) == [[0, 1, 0, 0, 0], [0] * 5, [0] * 5]
    assert split.report.dropped == {"of cold users": 1, "of cold items": 1}
    kept = drop_cold(split_global_time(table(), last_days=2), items=False)
    assert kept.report.test_users == 2


def test_an_empty_part_is_an_error() -> None:
    with pytest.raises(InputError, match=r"test part is empty.*from 2020-01-01 to 2020-01-10"):
        split_global_time(table(), cutoff=dt.date(2021, 1, 1))
    with pytest.raises(InputError, match="training part is empty"):
        split_global_time(table(), last_days=100)
    with pytest.raises(InputError, match="either"):
        split_global_time(table())
    with pytest.raises(InputError, match="time of each"):
        split_global_time(Interactions.from_frame(TABLE), last_days=1)


def test_hm_sample_holds_the_measured_split(shared: Path) -> None:
    folder = shared / "hm-sample"
    text = {"article_id": pl.String}
    items = pl.read_csv(folder / "articles.csv", schema_overrides=text)["article_id"]
    whole = Interactions.from_frame(
        pl.read_csv(folder / "transactions_train.csv", schema_overrides=text),
        user="customer_id",
        item="article_id",
        time="t_dat",
        item_ids=items,
    )
    report = split_global_time(whole, cutoff=dt.date(2020, 8, 19)).report
    assert (report.test_users, report.cold_test_users, report.test_pairs) == (241, 29, 996)
    assert (report.cold_test_items, report.test_items) == (604, 860)
