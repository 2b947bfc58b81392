"""Purchases as a sparse matrix of users and items, with the dated events behind it."""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys import InputError

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
UInt32 = npt.NDArray[np.uint32]
Float32 = npt.NDArray[np.float32]
Bool = npt.NDArray[np.bool_]
TimeUnit = Literal["D", "s"]
Ids = pl.Series | Sequence[str] | npt.NDArray[Any]

ROWS_A_TASK = 65_536


@dataclass(frozen=True, eq=False)
class Interactions:
    """Who took what, and when.

    Rows are users, columns are items; the external ids are strings and stand beside the numbers.
    Events are grouped by user and sorted by (item, time) inside a user; the CSR matrix of distinct
    (user, item) pairs is derived from them. An item of the given universe that nobody took keeps
    its (empty) column, a user without events keeps its (empty) row.
    """

    user_ids: pl.Series
    """External user ids, String (n_users,), distinct."""
    item_ids: pl.Series
    """External item ids, String (n_items,), distinct."""
    event_ptr: Int64
    """(n_users + 1,): the events of user u are event_ptr[u] : event_ptr[u + 1]."""
    event_items: Int32
    """(n_events,) column of each event."""
    event_times: UInt32 | None = None
    """(n_events,) days (time_unit "D") or seconds ("s") since 1970-01-01; None: no time known."""
    event_values: Float32 | None = None
    """(n_events,) rating or quantity; None: every event counts 1."""
    time_unit: TimeUnit = "D"
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Events left out on the way here: reason -> number of events."""

    # ------------------------------------------------------------ construction

    @classmethod
    def from_frame(
        cls,
        frame: pl.DataFrame,
        *,
        user: str = "user_id",
        item: str = "item_id",
        time: str | None = None,
        rating: str | None = None,
        user_ids: Ids | None = None,
        item_ids: Ids | None = None,
    ) -> Self:
        """Interactions of a table with one event per row, in any order.

        `time` may be a Date, a Datetime, ISO 8601 text, or whole seconds since 1970. With
        `item_ids` (or `user_ids`) the universe is fixed: its order is kept, ids nobody took stay,
        and events of unknown ids are dropped and counted in `dropped`. Without it the ids are those
        of the table, sorted. Rows with a null user, item, time or rating, and rows dated after
        tomorrow, are dropped and counted too.

        Raises InputError: a column is missing, ids repeat in a universe, times cannot be read,
        ratings are not numbers, or nothing is left.
        """
        wanted = {"user": user, "item": item, "time": time, "rating": rating}
        for role, name in wanted.items():
            if name is not None and name not in frame.columns:
                raise InputError(
                    f"no column {name!r} for the {role} in the interactions; "
                    f"found {', '.join(frame.columns) or 'none'}: name the right column"
                )
        columns = [
            frame[user].cast(pl.String).alias("user"),
            frame[item].cast(pl.String).alias("item"),
        ]
        unit: TimeUnit = "D"
        if time is not None:
            moments, unit = read_times(frame[time])
            columns.append(moments.alias("time"))
        if rating is not None:
            if not frame[rating].dtype.is_numeric():
                raise InputError(
                    f"column {rating!r} must hold numbers, found {frame[rating].dtype}"
                )
            columns.append(frame[rating].cast(pl.Float32).alias("value"))
        events = pl.DataFrame(columns)
        dropped: dict[str, int] = {}

        def keep(kept: pl.DataFrame, reason: str) -> pl.DataFrame:
            if kept.height < events.height:
                dropped[reason] = events.height - kept.height
            return kept

        events = keep(events.drop_nulls(), "a null user, item, time or rating")
        if rating is not None:
            events = keep(events.filter(pl.col("value").is_finite()), "a rating that is no number")
        if time is not None:
            events = keep(events.filter(pl.col("time") <= tomorrow(unit)), "dated in the future")
        users = universe_of(events["user"], user_ids, "user_ids")
        items = universe_of(events["item"], item_ids, "item_ids")
        known = events.with_columns(
            position_of(events["user"], users).alias("user"),
            position_of(events["item"], items).alias("item"),
        )
        events = keep(known.filter(pl.col("user") >= 0), "of unknown users")
        events = keep(events.filter(pl.col("item") >= 0), "of unknown items")
        if events.is_empty():
            reasons = "; ".join(f"{n} {why}" for why, n in dropped.items()) or "the table is empty"
            raise InputError(f"no interaction is left to work with ({reasons})")
        return cls.from_events(
            users,
            items,
            events["user"].to_numpy(),
            events["item"].to_numpy(),
            events["time"].to_numpy() if time is not None else None,
            events["value"].to_numpy() if rating is not None else None,
            time_unit=unit,
            dropped=dropped,
        )

    @classmethod
    def from_events(
        cls,
        user_ids: pl.Series,
        item_ids: pl.Series,
        users: npt.NDArray[Any],
        items: npt.NDArray[Any],
        times: npt.NDArray[Any] | None = None,
        values: npt.NDArray[Any] | None = None,
        *,
        time_unit: TimeUnit = "D",
        dropped: Mapping[str, int] | None = None,
    ) -> Self:
        """Interactions of events given by row and column numbers, in any order.

        users, items (n,) integers in range; times (n,) days or seconds since 1970; values (n,).
        """
        users, items = as_array(users, np.int32), as_array(items, np.int32)
        _check_range(users, len(user_ids), "users")
        _check_range(items, len(item_ids), "items")
        times = None if times is None else as_array(times, np.uint32)
        values = None if values is None else as_array(values, np.float32)
        ptr, items, times, values = _group(users, items, times, values, len(user_ids))
        return cls(user_ids, item_ids, ptr, items, times, values, time_unit, dict(dropped or {}))

    # ------------------------------------------------------------ sizes and the matrix

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.item_ids)

    @property
    def n_events(self) -> int:
        return int(self.event_items.size)

    @property
    def n_pairs(self) -> int:
        """Distinct (user, item) pairs: the non-zeros of the matrix."""
        return int(self.indices.size)

    @cached_property
    def _csr(self) -> tuple[Int64, Int32, Float32]:
        from recsys import kernels

        indptr = np.empty(self.n_users + 1, np.int64)
        kernels.count_pairs(self.event_ptr, self.event_items, indptr)
        indices = np.empty(int(indptr[-1]), np.int32)
        counts = np.empty(indices.size, np.float32)
        values = np.empty(0, np.float32) if self.event_values is None else self.event_values
        kernels.run_blocks(
            self.n_users,
            ROWS_A_TASK,
            lambda start, stop: kernels.fill_pairs(
                self.event_ptr, self.event_items, values, indptr, indices, counts, start, stop
            ),
        )
        return indptr, indices, counts

    @property
    def indptr(self) -> Int64:
        """(n_users + 1,) row pointer of the CSR matrix."""
        return self._csr[0]

    @property
    def indices(self) -> Int32:
        """(n_pairs,) columns of the CSR matrix, ascending inside a row, each once."""
        return self._csr[1]

    @property
    def counts(self) -> Float32:
        """(n_pairs,) number of events of each pair, or the sum of their values."""
        return self._csr[2]

    @property
    def matrix(self) -> Any:
        """scipy.sparse.csr_matrix (n_users, n_items) float32 over the same memory."""
        from scipy.sparse import csr_matrix

        return csr_matrix(
            (self.counts, self.indices, self.indptr), shape=(self.n_users, self.n_items)
        )

    @cached_property
    def last_times(self) -> UInt32 | None:
        """(n_pairs,) time of the last event of each pair, in the order of `indices`."""
        if self.event_times is None:
            return None
        return self.event_times[self._pair_starts[1:] - 1]

    @property
    def event_pairs(self) -> Int64:
        """(n_events,) the pair (position in `indices`) each event belongs to."""
        starts = self._pair_starts
        return np.repeat(np.arange(starts.size - 1), np.diff(starts))

    @property
    def _pair_starts(self) -> Int64:
        """(n_pairs + 1,) first event of each pair."""
        new = np.empty(self.n_events, np.bool_)
        new[:1] = True
        np.not_equal(self.event_items[1:], self.event_items[:-1], out=new[1:])
        starts = self.event_ptr[:-1]
        new[starts[starts < self.n_events]] = True
        return np.append(np.flatnonzero(new), self.n_events)

    @property
    def event_users(self) -> Int32:
        """(n_events,) row of each event."""
        return np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.event_ptr))

    @property
    def item_counts(self) -> Int64:
        """(n_items,) number of distinct users who took each item."""
        return np.bincount(self.indices, minlength=self.n_items).astype(np.int64, copy=False)

    def user_idx(self, ids: Ids) -> Int32:
        """Rows of external user ids, (n,) int32; -1 where unknown."""
        return as_array(position_of(_strings(ids), self.user_ids).to_numpy(), np.int32)

    def item_idx(self, ids: Ids) -> Int32:
        """Columns of external item ids, (n,) int32; -1 where unknown."""
        return as_array(position_of(_strings(ids), self.item_ids).to_numpy(), np.int32)

    def dates(self, times: npt.NDArray[Any]) -> npt.NDArray[np.datetime64]:
        """Event times (n,) as numpy datetime64 of this table's unit."""
        return times.astype(np.int64).astype(f"datetime64[{self.time_unit}]")

    # ------------------------------------------------------------ filters

    def select(self, events: Bool, *, reason: str | None = None) -> Self:
        """The events where the mask (n_events,) is true; users and items keep their numbers.

        With a `reason` the others are counted in `dropped`.
        """
        before = np.concatenate(([0], np.cumsum(events, dtype=np.int64)))
        dropped = dict(self.dropped)
        lost = self.n_events - int(before[-1])
        if reason and lost:
            dropped[reason] = dropped.get(reason, 0) + lost
        return replace(
            self,
            event_ptr=before[self.event_ptr],
            event_items=self.event_items[events],
            event_times=None if self.event_times is None else self.event_times[events],
            event_values=None if self.event_values is None else self.event_values[events],
            dropped=dropped,
        )

    def between(
        self, start: dt.date | dt.datetime | None = None, end: dt.date | dt.datetime | None = None
    ) -> Self:
        """Events with start <= time < end. Raises InputError where no time is known."""
        times = self.require_times("a date filter")
        keep = np.ones(self.n_events, np.bool_)
        if start is not None:
            keep &= times >= self.moment(start)
        if end is not None:
            keep &= times < self.moment(end)
        return self.select(keep, reason="outside the dates asked for")

    def min_support(self, *, user: int = 1, item: int = 1) -> Self:
        """One pass: items with at least `item` distinct users, then users with `user` items."""
        enough = self.item_counts >= item
        kept = self.select(
            enough[self.event_items], reason=f"of items with fewer than {item} users"
        )
        rows = np.diff(kept.indptr) >= user
        return kept.select(
            np.repeat(rows, np.diff(kept.event_ptr)),
            reason=f"of users with fewer than {user} items",
        )

    def k_core(self, k: int) -> Self:
        """The largest part in which every user has k items and every item k users (repeatedly)."""
        kept = self
        while True:
            n = kept.n_events
            kept = kept.min_support(user=k, item=k)
            if kept.n_events == n:
                return kept

    def without_empty(self, *, users: bool = True, items: bool = False) -> Self:
        """Drop rows without events, and columns too with `items`; numbers change, ids do not."""
        keep_users = np.diff(self.event_ptr) > 0 if users else np.ones(self.n_users, np.bool_)
        keep_items = self.item_counts > 0 if items else np.ones(self.n_items, np.bool_)
        return self.keep(keep_users, keep_items)

    def keep(self, keep_users: Bool, keep_items: Bool) -> Self:
        """The rows (n_users,) and columns (n_items,) that are true; the others have no event."""
        number = np.cumsum(keep_items, dtype=np.int32) - np.int32(1)
        return replace(
            self,
            user_ids=self.user_ids.filter(pl.Series(keep_users)),
            item_ids=self.item_ids.filter(pl.Series(keep_items)),
            event_ptr=np.concatenate(([0], self.event_ptr[1:][keep_users])),
            event_items=number[self.event_items],
        )

    # ------------------------------------------------------------ time

    def require_times(self, purpose: str) -> UInt32:
        """event_times, or InputError saying what needs them."""
        if self.event_times is None:
            raise InputError(
                f"{purpose} needs the time of each interaction, and none is known: name the time "
                "column when reading"
            )
        return self.event_times

    def moment(self, when: dt.date | dt.datetime) -> int:
        """A date (midnight) or datetime (UTC unless it says otherwise) in this table's unit."""
        if not isinstance(when, dt.datetime):
            when = dt.datetime(when.year, when.month, when.day)
        if when.tzinfo is None:
            when = when.replace(tzinfo=dt.UTC)
        seconds = int(when.timestamp())
        return -(-seconds // 86_400) if self.time_unit == "D" else seconds


# ---------------------------------------------------------------- helpers


def read_times(column: pl.Series) -> tuple[pl.Series, TimeUnit]:
    """A time column as UInt32 days ("D", for dates) or seconds ("s") since 1970; nulls stay.

    Raises InputError for anything that is not a date, a datetime, ISO 8601 text or whole seconds.
    """
    name, kind = column.name, column.dtype
    if kind == pl.String:
        filled = column.drop_nulls()
        text = str(filled[0]) if len(filled) else ""
        target: Any = pl.Date if len(text) <= 10 else pl.Datetime("ms")
        try:
            column = column.str.strptime(target, strict=True)
        except pl.exceptions.PolarsError as error:
            raise InputError(
                f"column {name!r} must hold ISO 8601 dates (2020-09-22) or seconds since 1970; "
                f"found {text!r}: {str(error).splitlines()[0]}"
            ) from None
        kind = column.dtype
    unit: TimeUnit = "s"
    if kind == pl.Date:
        numbers, unit = column.to_physical().cast(pl.Int64), "D"
    elif isinstance(kind, pl.Datetime):
        numbers = column.dt.epoch("s")
    elif kind.is_integer():
        numbers = column.cast(pl.Int64)
    elif kind.is_float() and bool((column.drop_nulls().floor() == column.drop_nulls()).all()):
        numbers = column.cast(pl.Int64, strict=False)
    else:
        raise InputError(
            f"column {name!r} must hold dates, datetimes or whole seconds since 1970, found {kind}"
        )
    low, high = numbers.min(), numbers.max()
    if isinstance(low, int) and isinstance(high, int) and (low < 0 or high >= 2**32):
        raise InputError(
            f"column {name!r} holds times from {low} to {high}; expected seconds (or dates) "
            "between 1970 and 2106: divide milliseconds by 1000"
        )
    return numbers.cast(pl.UInt32), unit


def position_of(ids: pl.Series, universe: pl.Series) -> pl.Series:
    """Int32 position of each id in `universe`; -1 where it does not stand there."""
    table = pl.DataFrame({"id": universe, "at": np.arange(len(universe), dtype=np.int32)})
    found = ids.alias("id").to_frame().join(table, on="id", how="left", maintain_order="left")
    return found["at"].fill_null(-1)


def universe_of(column: pl.Series, given: Ids | None, name: str) -> pl.Series:
    if given is None:
        return column.unique().sort()
    ids = _strings(given)
    if ids.n_unique() < len(ids) or ids.null_count():
        repeated = ids.filter(ids.is_duplicated() | ids.is_null())
        raise InputError(
            f"{name} must be distinct and not null; {len(repeated)} are not, first "
            f"{repeated[0]!r}: remove the repeats"
        )
    return ids


def _strings(ids: Ids) -> pl.Series:
    series = ids if isinstance(ids, pl.Series) else pl.Series(values=ids)
    return series.cast(pl.String)


def as_array(values: npt.NDArray[Any], kind: type) -> npt.NDArray[Any]:
    """Contiguous and writable, so that a kernel is compiled for one array type only."""
    return np.require(values, kind, ["C", "W", "A"])


def _check_range(numbers: Int32, n: int, name: str) -> None:
    if numbers.size and (numbers.min() < 0 or numbers.max() >= n):
        raise InputError(f"{name} must lie in 0..{n - 1}, found {numbers.min()}..{numbers.max()}")


def _group(
    users: Int32, items: Int32, times: UInt32 | None, values: Float32 | None, n_users: int
) -> tuple[Int64, Int32, UInt32 | None, Float32 | None]:
    """Group events by user and sort them by (item, time) inside a user."""
    from recsys import kernels

    ptr = np.zeros(n_users + 1, np.int64)
    kernels.count_rows(users, ptr)
    if values is not None:
        order = np.lexsort(
            (values, items, users) if times is None else (values, times, items, users)
        )
        return ptr, items[order], None if times is None else times[order], values[order]
    keys = np.empty(users.size, np.uint64)
    stamps = np.zeros(users.size, np.uint32) if times is None else times
    kernels.scatter_events(users, items, stamps, ptr[:-1].copy(), keys)
    items, stamps = sorted_keys(ptr, keys)
    return ptr, items, None if times is None else stamps, None


def sorted_keys(ptr: Int64, keys: npt.NDArray[np.uint64]) -> tuple[Int32, UInt32]:
    """Sort item << 32 | time inside each row, in place, and take the two apart."""
    from recsys import kernels

    kernels.run_blocks(
        ptr.size - 1, ROWS_A_TASK, lambda start, stop: kernels.sort_rows(ptr, keys, start, stop)
    )
    items, times = np.empty(keys.size, np.int32), np.empty(keys.size, np.uint32)
    kernels.run_blocks(
        keys.size,
        1 << 20,
        lambda start, stop: kernels.unpack_events(keys, items, times, start, stop),
    )
    return items, times


def tomorrow(unit: TimeUnit) -> int:
    now = int(dt.datetime.now(dt.UTC).timestamp()) + 86_400
    return now // 86_400 if unit == "D" else now
