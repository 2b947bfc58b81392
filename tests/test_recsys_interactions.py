import datetime as dt
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys import InputError, readers
from recsys.interactions import Interactions, read_times
from recsys.readers import memory_needed, read_interactions, read_plain

EVENTS = pl.DataFrame(
    {
        "user": ["b", "a", "b", "b", "a"],
        "item": ["y", "x", "x", "y", "z"],
        "day": ["2020-01-03", "2020-01-01", "2020-01-02", "2020-01-01", "2020-01-05"],
    }
)


def read(frame: pl.DataFrame = EVENTS, **more: object) -> Interactions:
    return Interactions.from_frame(frame, user="user", item="item", time="day", **more)  # type: ignore[arg-type]


def test_a_table_by_hand() -> None:
    found = read()
    assert found.user_ids.to_list() == ["a", "b"]
    assert found.item_ids.to_list() == ["x", "y", "z"]
    assert found.matrix.toarray().tolist() == [[1, 0, 1], [1, 2, 0]]
    assert (found.n_events, found.n_pairs) == (5, 4)
    assert found.event_items.tolist() == [0, 2, 0, 1, 1]
    assert found.event_users.tolist() == [0, 0, 1, 1, 1]
    assert found.event_pairs.tolist() == [0, 1, 2, 3, 3]
    assert found.event_times is not None
    dates = found.dates(found.event_times).astype(str).tolist()
    assert dates == ["2020-01-01", "2020-01-05", "2020-01-02", "2020-01-01", "2020-01-03"]
    assert found.last_times is not None
    assert found.dates(found.last_times).astype(str)[-1] == "2020-01-03"
    assert found.user_idx(["b", "?", "a"]).tolist() == [1, -1, 0]
    assert found.item_idx(pl.Series(["z", "q"])).tolist() == [2, -1]
    assert found.item_counts.tolist() == [2, 1, 1]


def test_row_order_does_not_matter() -> None:
    first, second = read(), read(EVENTS.sample(fraction=1, shuffle=True, seed=4))
    np.testing.assert_array_equal(first.event_items, second.event_items)
    np.testing.assert_array_equal(first.event_times, second.event_times)
    assert first.user_ids.equals(second.user_ids)


def test_a_given_universe_keeps_cold_items_and_counts_strangers() -> None:
    found = read(item_ids=["w", "y", "x"], user_ids=["b", "c"])
    assert found.item_ids.to_list() == ["w", "y", "x"]
    assert found.matrix.toarray().tolist() == [[0, 2, 1], [0, 0, 0]]
    assert found.dropped == {"of unknown users": 2}
    assert read(item_ids=["x"]).dropped == {"of unknown items": 3}
    with pytest.raises(InputError, match="distinct"):
        read(item_ids=["x", "x"])
    with pytest.raises(InputError, match="no interaction is left"):
        read(item_ids=["nothing"])


def test_nulls_and_the_future_are_dropped_and_counted() -> None:
    frame = pl.concat(
        [
            EVENTS,
            pl.DataFrame(
                {"user": [None, "a"], "item": ["x", "x"], "day": ["2020-01-01", "2099-01-01"]}
            ),
        ]
    )
    found = read(frame)
    assert found.n_events == 5
    assert found.dropped == {
        "a null user, item, time or rating": 1,
        "dated in the future": 1,
    }


def test_ratings_are_summed_and_checked() -> None:
    frame = EVENTS.with_columns(stars=pl.Series([4.0, 1.0, 2.5, 1.0, float("nan")]))
    found = read(frame, rating="stars")
    assert found.matrix.toarray().tolist() == [[1, 0], [2.5, 5]]
    assert found.dropped == {"a rating that is no number": 1}
    with pytest.raises(InputError, match="must hold numbers"):
        read(rating="item")


def test_columns_that_are_not_there() -> None:
    with pytest.raises(InputError, match=r"no column 'customer' for the user.*user, item, day"):
        Interactions.from_frame(EVENTS, user="customer", item="item")
    with pytest.raises(InputError, match="ISO 8601"):
        read(EVENTS.with_columns(day=pl.lit("yesterday")))
    with pytest.raises(InputError, match="whole seconds"):
        read(EVENTS.with_columns(day=pl.lit(1.5)))
    with pytest.raises(InputError, match="divide milliseconds"):
        read(EVENTS.with_columns(day=pl.lit(1_600_000_000_000)))


def test_times_of_every_kind() -> None:
    moment = dt.datetime(2020, 1, 2, 3, 4, 5)
    seconds = int(moment.replace(tzinfo=dt.UTC).timestamp())
    for values in ([moment], ["2020-01-02T03:04:05"], [seconds], [float(seconds)]):
        times, unit = read_times(pl.Series("t", values))
        assert (times.to_list(), unit) == ([seconds], "s")
    for values in ([moment.date()], ["2020-01-02"]):
        times, unit = read_times(pl.Series("t", values))
        assert (times.to_list(), unit) == ([seconds // 86_400], "D")


def test_filters_by_hand() -> None:
    found = read()
    early = found.between(end=dt.date(2020, 1, 2))
    assert early.matrix.toarray().tolist() == [[1, 0, 0], [0, 1, 0]]
    assert early.dropped == {"outside the dates asked for": 3}
    late = found.between(start=dt.datetime(2020, 1, 3, tzinfo=dt.UTC))
    assert late.matrix.toarray().tolist() == [[0, 0, 1], [0, 1, 0]]
    popular = found.min_support(item=2)
    assert popular.matrix.toarray().tolist() == [[1, 0, 0], [1, 0, 0]]
    assert popular.k_core(2).n_events == 0
    packed = popular.without_empty(items=True)
    assert packed.item_ids.to_list() == ["x"]
    assert packed.matrix.toarray().tolist() == [[1], [1]]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_events_are_grouped_like_a_sort(data: st.DataObject) -> None:
    n_users, n_items = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 9))
    n = data.draw(st.integers(1, 150))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    users, items = rng.integers(0, n_users, n), rng.integers(0, n_items, n)
    times = rng.integers(0, data.draw(st.sampled_from([1, 5, 2**32])), n)
    values = rng.integers(1, 5, n) if data.draw(st.booleans()) else None
    ids = pl.Series([str(i) for i in range(9)])
    found = Interactions.from_events(ids[:n_users], ids[:n_items], users, items, times, values)
    order = np.lexsort((times, items, users))
    np.testing.assert_array_equal(found.event_users, users[order])
    np.testing.assert_array_equal(found.event_items, items[order])
    np.testing.assert_array_equal(found.event_times, times[order])
    dense = np.zeros((n_users, n_items))
    np.add.at(dense, (users, items), 1 if values is None else values)
    np.testing.assert_array_equal(found.matrix.toarray(), dense)
    kept = rng.random(n) < 0.5
    part = found.select(kept)
    np.testing.assert_array_equal(part.event_users, found.event_users[kept])
    core = found.k_core(2)
    left = core.matrix.toarray() > 0
    assert set(left.sum(axis=0)) <= {0, *range(2, 10)}
    assert set(left.sum(axis=1)) <= {0, *range(2, 10)}


def test_column_numbers_near_the_int32_limit() -> None:
    from recsys import kernels

    last = 2**31 - 1
    items = np.array([last, 5, last, last - 1], np.int32)
    users = np.zeros(4, np.int32)
    times = np.array([2**32 - 1, 0, 1, 2**32 - 1], np.uint32)
    ptr = np.zeros(2, np.int64)
    kernels.count_rows(users, ptr)
    keys = np.empty(4, np.uint64)
    kernels.scatter_events(users, items, times, ptr[:-1].copy(), keys)
    kernels.sort_rows(ptr, keys, 0, 1)
    kernels.unpack_events(keys, items, times, 0, 4)
    assert items.tolist() == [5, last - 1, last, last]
    assert times.tolist() == [0, 2**32 - 1, 1, 2**32 - 1]


def test_numbers_out_of_range_are_refused() -> None:
    ids = pl.Series(["a", "b"])
    with pytest.raises(InputError, match=r"items must lie in 0\.\.1, found 0\.\.2"):
        Interactions.from_events(ids, ids, np.array([0, 1]), np.array([0, 2]))


# ---------------------------------------------------------------- files


def assert_same(found: Interactions, expected: Interactions) -> None:
    assert found.user_ids.to_list() == expected.user_ids.to_list()
    assert found.item_ids.to_list() == expected.item_ids.to_list()
    for name in ("event_ptr", "event_items", "event_times", "event_values"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.time_unit == expected.time_unit
    assert found.dropped == expected.dropped


def random_events(seed: int, n: int, *, nulls: bool = True) -> pl.DataFrame:
    """Ids of every length from 1 to 40 bytes, some of them not ASCII."""
    rng = np.random.default_rng(seed)
    letters = np.array(list("abcdefé漢0123456789"))
    names = ["".join(rng.choice(letters, size)) for size in rng.integers(1, 41, 300)]
    day = dt.date(2019, 1, 1)
    frame = pl.DataFrame(
        {
            "price": rng.random(n).round(6),
            "item": [names[i] for i in rng.zipf(1.3, n) % 120],
            "day": [day + dt.timedelta(days=int(d)) for d in rng.integers(0, 700, n)],
            "user": [names[i] for i in rng.integers(0, 300, n)],
            "stars": rng.integers(1, 6, n) / 2,
        }
    )
    if nulls:
        holes = [
            pl.when(pl.Series(rng.random(n) < 0.9)).then(c).alias(c) for c in frame.columns[:4]
        ]
        frame = frame.with_columns(holes)
    return frame


COLUMNS = {"user": "user", "item": "item", "time": "day"}


@pytest.fixture(params=[0, 1 << 24], ids=["kernels", "polars"])
def either_reader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "SMALL", request.param)


either = pytest.mark.usefixtures("either_reader")


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("line", ["\n", "\r\n"])
@pytest.mark.parametrize("threads", ["1", "3"])
def test_text_files_read_like_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, separator: str, line: str, threads: str
) -> None:
    monkeypatch.setenv("NUMBA_NUM_THREADS", threads)
    monkeypatch.setattr(readers, "SMALL", 0)
    monkeypatch.setattr(readers, "PIECE", 10_000)  # many pieces, each thread several
    path = tmp_path / "events.csv"
    frame = random_events(1, 4_000)
    for rating in (None, "stars"):
        text = frame.write_csv(separator=separator, line_terminator=line)
        path.write_bytes(text.removesuffix(line).encode())  # no newline at the end
        roles = COLUMNS if rating is None else {**COLUMNS, "rating": rating}
        parsed = []
        kernel = readers._parse
        monkeypatch.setattr(readers, "_parse", lambda *a: parsed.append(kernel(*a)) or parsed[-1])  # noqa: B023
        found = read_interactions(path, **roles)
        assert parsed == [found]  # by the kernels, not by polars
        assert_same(found, Interactions.from_frame(frame, **roles))
        monkeypatch.setattr(readers, "_parse", kernel)


@either
def test_universes_of_a_file(tmp_path: Path) -> None:
    frame = random_events(2, 2_000)
    frame.write_csv(tmp_path / "events.csv")
    frame.write_parquet(tmp_path / "events.parquet")
    rng = np.random.default_rng(0)
    users, items = (frame[c].drop_nulls().unique().sort().to_list() for c in ("user", "item"))
    given = {
        "user_ids": [*rng.permutation(users)[:200], "nobody"],
        "item_ids": [*rng.permutation(items)[:80], "unsold"],
    }
    expected = Interactions.from_frame(frame, **COLUMNS, **given)
    assert expected.item_ids[-1] == "unsold"
    assert set(expected.dropped) == {
        "a null user, item, time or rating", "of unknown users", "of unknown items",
    }  # fmt: skip
    assert_same(read_interactions(tmp_path / "events.csv", **COLUMNS, **given), expected)
    assert_same(read_interactions(tmp_path / "events.parquet", **COLUMNS, **given), expected)


@either
@pytest.mark.parametrize(
    "line",
    ['2020-01-05,"a",x', "2020-01-05T10:00:00+02:00,a,x", "20200105x,a,x"],
    ids=["quotes", "time zone", "no time"],
)
def test_unusual_text_takes_the_fuller_reader(tmp_path: Path, line: str) -> None:
    path = tmp_path / "events.csv"
    path.write_text(f"t,user,item\n2020-01-04,b,y\n{line}\n")
    names = {"user": "user", "item": "item", "time": "t"}
    if line.startswith('2020-01-05,"'):
        found = read_interactions(path, **names)
        assert found.user_ids.to_list() == ["a", "b"]
        assert found.event_times is not None
        assert found.dates(found.event_times).astype(str).tolist() == ["2020-01-05", "2020-01-04"]
    else:
        with pytest.raises(InputError, match="ISO 8601"):
            read_interactions(path, **names)


@either
def test_times_in_files(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    names = {"user": "user", "item": "item", "time": "t"}
    for text, expected in (
        ("2020-02-29", "2020-02-29"),
        ("1970-01-01", "1970-01-01"),
        ("2000-12-31 23:59:59", "2000-12-31T23:59:59"),
        ("2019-03-01T00:00:07", "2019-03-01T00:00:07"),
        ("881250949", "1997-12-04T15:55:49"),
        ("0", "1970-01-01T00:00:00"),
    ):
        path.write_text(f"t,user,item\n{text},a,x\n")
        found = read_interactions(path, **names)
        assert found.event_times is not None
        assert found.dates(found.event_times).astype(str).tolist() == [expected]
    for text in ("2019-02-29", "2019-13-01", "2019-00-10", "yesterday", "1.5"):
        path.write_text(f"t,user,item\n{text},a,x\n")
        with pytest.raises(InputError, match="'t' must hold"):
            read_interactions(path, **names)
    path.write_text("t,user,item\n2098-01-01,a,x\n2019-01-01,a,x\n")
    assert read_interactions(path, **names).dropped == {"dated in the future": 1}


@either
def test_files_without_header_and_recbole_types(tmp_path: Path) -> None:
    path = tmp_path / "train.tsv"
    path.write_text("u1\ti2\t4\nu1\ti1\t5\n")
    found = read_interactions(path, rating="rating", columns=["user_id", "item_id", "rating"])
    assert found.matrix.toarray().tolist() == [[5, 4]]
    path.write_text("user_id:token\titem_id:token\ttimestamp:float\n7\t9\t881250949\n")
    assert read_interactions(path, time="timestamp").item_ids.to_list() == ["9"]
    with pytest.raises(InputError, match="3 columns, but 2 were named"):
        read_interactions(path, columns=["user_id", "item_id"])


@either
def test_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    with pytest.raises(InputError, match="no file"):
        read_interactions(path)
    path.write_text("")
    with pytest.raises(InputError, match="empty"):
        read_interactions(path)
    path.write_text("user_id,item_id\n")
    with pytest.raises(InputError, match="no interaction is left"):
        read_interactions(path)
    path.write_text("user_id,item_id\na,x\na,x,7\nb,y\n")
    with pytest.raises(InputError, match="delimited text"):
        read_interactions(path)
    path.write_text("user,item\na,x\n")
    with pytest.raises(InputError, match=r"no column 'user_id' for the user; it has user, item"):
        read_interactions(path)
    path.write_bytes(b"\x00\x01\x02")
    with pytest.raises(InputError, match="not a text file"):
        read_interactions(path)
    path.write_text("user_id,item_id,stars\na,x,good\n")
    with pytest.raises(InputError, match="'stars' must hold numbers, found 'good'"):
        read_interactions(path, rating="stars")
    (tmp_path / "events.parquet").write_text("user_id,item_id\n")
    with pytest.raises(InputError, match="Parquet"):
        read_interactions(tmp_path / "events.parquet")


@either
def test_real_files_read_like_polars(shared: Path) -> None:
    path = shared / "hm-sample" / "transactions_train.csv"
    roles = {"user": "customer_id", "item": "article_id", "time": "t_dat"}
    frame = pl.read_csv(path, schema_overrides={"article_id": pl.String})
    assert_same(read_interactions(path, **roles), Interactions.from_frame(frame, **roles))
    path = shared / "recsys" / "ml-100k" / "ml-100k.inter"
    found = read_interactions(path, time="timestamp")
    assert (found.n_users, found.n_items, found.n_pairs) == (943, 1682, 100_000)


def test_memory_is_reckoned_by_rows(tmp_path: Path) -> None:
    frame = pl.DataFrame({"user_id": ["a"] * 500, "item_id": ["b"] * 500})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_csv(tmp_path / "t.csv")
    frame.write_csv(tmp_path / "quoted.csv", quote_style="always")
    (tmp_path / "broken.parquet").write_text("no table")
    found = {p.name: memory_needed(p) for p in tmp_path.iterdir()}
    assert found == {
        "t.parquet": 500 * 220, "quoted.csv": 501 * 220, "t.csv": 501 * 40, "broken.parquet": 0,
    }  # fmt: skip


def test_the_plain_reader_leaves_the_rest_to_others(tmp_path: Path) -> None:
    roles = {"user": "user_id", "item": "item_id", "time": "day"}
    path = tmp_path / "t.csv"
    path.write_text("user_id,item_id,day\nu,b,2020-01-02\nu,a,2020-01-01\n")
    found = read_plain(path, **roles)
    assert found is not None
    assert found.item_ids.gather(found.event_items).to_list() == ["a", "b"]
    path.write_text('user_id,item_id,day\nu,"b",2020-01-02\n')
    assert read_plain(path, **roles) is None
    with pytest.raises(InputError, match="no column 'day'"):
        path.write_text("user_id,item_id\nu,b\n")
        read_plain(path, **roles)
