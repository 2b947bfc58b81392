import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import InputError
from recsys.interactions import Interactions
from recsys.readers import read_interactions
from recsys.splits import (
    Split,
    drop_cold,
    split_fixed,
    split_global_time,
    split_leave_last_out,
    split_random,
    split_user_ratio,
)

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


def test_leave_last_out_by_hand() -> None:
    whole = table()
    split = split_leave_last_out(whole)
    check_partition(whole, split)
    # a: x1 y2 w5 x9, b: x3 z10; c has one event and stays
    assert cells(split.test) == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0] * 5]
    assert cells(split.train) == [[1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [1, 0, 0, 0, 0]]
    split = split_leave_last_out(whole, validation=True)
    check_partition(whole, split)
    assert cells(split.validation) == [[1, 0, 0, 0, 0], [0] * 5, [0] * 5]
    assert cells(split.test) == [[0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0] * 5]


def test_user_ratio_by_hand() -> None:
    whole = table()
    split = split_user_ratio(whole, test=0.5)
    check_partition(whole, split)
    assert cells(split.train) == [[0, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0] * 5]
    assert cells(split.test) == [[1, 1, 0, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]]
    split = split_user_ratio(whole, test=0.25, validation=0.25)
    check_partition(whole, split)
    assert cells(split.validation) == [[1, 0, 0, 0, 0], [0] * 5, [0] * 5]
    many = pl.DataFrame({"user_id": ["u"] * 5, "item_id": list("abcde"), "day": [1, 2, 3, 4, 5]})
    five = Interactions.from_frame(many, time="day")
    assert split_user_ratio(five, test=0.2).report.train_events == 4
    for wrong in ({"test": 0.0}, {"test": 1.0}, {"test": 0.6, "validation": 0.4}):
        with pytest.raises(InputError, match="shares"):
            split_user_ratio(five, **wrong)


def test_time_decides_within_users_whatever_the_ties() -> None:
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {
            "user_id": rng.integers(0, 30, 900).astype(str),
            "item_id": rng.integers(0, 40, 900).astype(str),
            "day": rng.integers(0, 25, 900),
        }
    )
    whole = Interactions.from_frame(frame, time="day")
    for split in (split_leave_last_out(whole, n=3), split_user_ratio(whole, test=0.3)):
        check_partition(whole, split)
        for user in range(whole.n_users):
            early, late = (
                part.event_times[part.event_ptr[user] : part.event_ptr[user + 1]]  # type: ignore[index]
                for part in (split.train, split.test)
            )
            assert early.max() <= late.min()
    for split in (split_leave_last_out(whole, n=3),):
        assert (np.diff(split.test.event_ptr) == 3).all()


def test_random_split_keeps_pairs_together_and_repeats() -> None:
    rng = np.random.default_rng(1)
    frame = pl.DataFrame(
        {
            "user_id": rng.integers(0, 50, 5000).astype(str),
            "item_id": rng.integers(0, 60, 5000).astype(str),
        }
    )
    whole = Interactions.from_frame(frame)
    split = split_random(whole, test=0.2, validation=0.1, seed=5)
    check_partition(whole, split)
    assert split.report.repeated_pairs == 0
    assert split.report.test_pairs == pytest.approx(0.2 * whole.n_pairs, rel=0.15)
    again = split_random(whole, test=0.2, validation=0.1, seed=5)
    assert cells(again.test) == cells(split.test)
    assert cells(split_random(whole, seed=6).test) != cells(split.test)


def test_fixed_parts_get_one_id_space() -> None:
    train = Interactions.from_frame(pl.DataFrame({"user_id": ["b", "a"], "item_id": ["y", "x"]}))
    test = Interactions.from_frame(pl.DataFrame({"user_id": ["c", "a"], "item_id": ["w", "x"]}))
    split = split_fixed(train, test)
    assert split.train.user_ids.to_list() == ["a", "b", "c"]
    assert split.train.item_ids.to_list() == ["w", "x", "y"]
    assert cells(split.train) == [[0, 1, 0], [0, 0, 1], [0, 0, 0]]
    assert cells(split.test) == [[0, 1, 0], [0, 0, 0], [1, 0, 0]]
    assert (split.report.cold_test_users, split.report.cold_test_items) == (1, 1)
    strangers = Interactions.from_frame(pl.DataFrame({"user_id": ["q"], "item_id": ["x"]}))
    with pytest.raises(InputError, match="none of the 1 test users"):
        split_fixed(train, strangers)
    with pytest.raises(InputError, match="test part is empty"):
        split_fixed(train, test.select(np.zeros(2, bool)))


def test_allrecipes_is_a_fixed_split(shared: Path) -> None:
    folder = shared / "recsys" / "allrecipes"
    columns = ["user_id", "item_id", "rating"]
    parts = [
        read_interactions(folder / f"{name}.tsv", columns=columns)
        for name in ("train", "test", "validation")
    ]
    split = split_fixed(*parts)
    assert split.validation is not None
    lines = [(folder / f"{name}.tsv").read_text().count("\n") for name in ("train", "test")]
    assert [split.train.n_events, split.test.n_events] == lines
