"""Train and test parts of interactions in one id space, and what each split left out.

No split renumbers anything: train, validation and test share `user_ids` and `item_ids`. A test user
without training events (cold user) and a test item nobody took in training (cold item) stay, unless
`drop_cold` removes them; the report counts them either way.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys import InputError
from recsys.interactions import Bool, Interactions, position_of


@dataclass(frozen=True)
class SplitReport:
    """What stands on each side; pairs are distinct (user, item)."""

    method: str
    """The split and its parameters."""
    train_events: int
    train_pairs: int
    train_users: int
    train_items: int
    test_events: int
    test_pairs: int
    test_users: int
    test_items: int
    cold_test_users: int
    """Test users without training events."""
    cold_test_items: int
    """Test items nobody took in training."""
    cold_user_pairs: int
    """Test pairs of cold users."""
    cold_item_pairs: int
    """Test pairs of cold items."""
    repeated_pairs: int
    """Test pairs that stand in training too (repurchases)."""
    validation_events: int = 0
    validation_users: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Events left out: reason -> number, from reading to splitting."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for split.json."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The report in sentences."""
        share = self.cold_item_pairs / max(1, self.test_pairs)
        lines = [
            f"{self.method}: {self.train_events:,} training events of {self.train_users:,} users "
            f"on {self.train_items:,} items; {self.test_events:,} test events "
            f"({self.test_pairs:,} pairs) of {self.test_users:,} users",
            f"cold test users: {self.cold_test_users:,} of {self.test_users:,}; cold test items: "
            f"{self.cold_test_items:,} of {self.test_items:,} ({share:.0%} of the pairs); "
            f"repurchases: {self.repeated_pairs:,} pairs",
        ]
        if self.validation_events:
            lines.append(
                f"validation: {self.validation_events:,} events of {self.validation_users:,} users"
            )
        lines += [f"left out: {n:,} events {reason}" for reason, n in self.dropped.items()]
        return lines


@dataclass(frozen=True)
class Split:
    """Interactions to learn from and interactions to predict."""

    train: Interactions
    test: Interactions
    cutoff: dt.date | dt.datetime | None
    """First moment of the test window; None where the split has no common moment."""
    report: SplitReport
    validation: Interactions | None = None

    @property
    def test_users(self) -> npt.NDArray[np.int32]:
        """Rows of the users with a test event, ascending."""
        return np.flatnonzero(np.diff(self.test.event_ptr)).astype(np.int32)


def split_global_time(
    interactions: Interactions,
    *,
    cutoff: dt.date | dt.datetime | None = None,
    last_days: int | None = None,
    validation_days: int = 0,
) -> Split:
    """Train before one moment for everybody, test from it on.

    Give `cutoff` (first test moment) or `last_days` (the test window ends with the last event's
    day). The `validation_days` before the cutoff are taken from train.

    Raises InputError: neither or both given, no times known, or a part is empty.
    """
    times = interactions.require_times("a global time split")
    if (cutoff is None) == (last_days is None):
        raise InputError("a global time split takes either a cutoff date or a number of last days")
    day = 1 if interactions.time_unit == "D" else 86_400
    if cutoff is not None:
        first = interactions.moment(cutoff)
    else:
        assert last_days is not None
        if last_days < 1:
            raise InputError(f"last_days must be at least 1, got {last_days}")
        first = (int(times.max()) // day + 1 - last_days) * day
    test = times >= first
    validation = None
    if validation_days:
        validation = ~test & (times.astype(np.int64) >= first - validation_days * day)
    moment = interactions.dates(np.array([first]))[0].item()
    method = f"global time, test from {moment:%Y-%m-%d}"
    if validation_days:
        method += f", validation {validation_days} days before"
    return _split(interactions, test, validation, method, moment)


def split_leave_last_out(
    interactions: Interactions, *, n: int = 1, validation: bool = False
) -> Split:
    """Test = the last n events of every user who has more; with `validation`, the n before them.

    Events of one user at the same time are taken in the order of their item's number. Users with
    too few events (n, or 2 n with validation) stay in train whole. The future of some users stands
    in the training data of others: use a global time split where that matters.

    Raises InputError: no times known, n < 1, or a part is empty.
    """
    if n < 1:
        raise InputError(f"n must be at least 1, got {n}")
    rank, length = _rank_by_time(interactions, "a leave-last-out split")
    left = length - rank  # 1 for the last event of the user
    test = (left <= n) & (length > n)
    held = None
    if validation:
        held = (left <= 2 * n) & (left > n) & (length > 2 * n)
    method = f"leave the last {n} out" + (f", validation the {n} before" if validation else "")
    return _split(interactions, test, held, method)


def split_user_ratio(
    interactions: Interactions, *, test: float = 0.2, validation: float = 0.0
) -> Split:
    """Test = the latest share of every user's events, validation the share before it.

    A user with m events keeps floor(m (1 - test - validation)) for training, as Elliot's temporal
    hold-out does; events at the same time in the order of their item's number. The future of some
    users stands in the training data of others.

    Raises InputError: no times known, shares out of range, or a part is empty.
    """
    _check_shares(test, validation)
    rank, length = _rank_by_time(interactions, "a split by time within users")
    # The small term keeps 0.8 * 5 from falling below 4.
    to_test = np.floor(length * (1 - test) + 1e-9)
    to_train = np.floor(length * (1 - test - validation) + 1e-9)
    held = (rank >= to_train) & (rank < to_test) if validation else None
    method = f"last {test:g} of every user's events" + (
        f", validation {validation:g} before" if validation else ""
    )
    return _split(interactions, rank >= to_test, held, method)


def split_random(
    interactions: Interactions, *, test: float = 0.2, validation: float = 0.0, seed: int = 0
) -> Split:
    """Every (user, item) pair falls into test with probability `test`, with all its events.

    Ignores time: the past is predicted from the future. Raises InputError: shares out of range, or
    a part is empty.
    """
    _check_shares(test, validation)
    drawn = np.random.default_rng(seed).random(interactions.n_pairs)[interactions.event_pairs]
    held = (drawn >= test) & (drawn < test + validation) if validation else None
    method = f"random pairs, test {test:g}, seed {seed}" + (
        f", validation {validation:g}" if validation else ""
    )
    return _split(interactions, drawn < test, held, method)


def split_fixed(
    train: Interactions, test: Interactions, validation: Interactions | None = None
) -> Split:
    """Parts that were split elsewhere, brought into one id space (the sorted union of their ids).

    Where all parts hold the same ids in the same order, they are kept as they are. Raises
    InputError: a part is empty, train and test share no user, or their times have different units.
    """
    parts = [part for part in (train, test, validation) if part is not None]
    units = {part.time_unit for part in parts if part.event_times is not None}
    if len(units) > 1:
        raise InputError("train and test count time in days and in seconds: give both one form")
    users = _union([part.user_ids for part in parts])
    items = _union([part.item_ids for part in parts])
    moved = [_renumbered(part, users, items) for part in parts]
    split = make_split(
        moved[0], moved[1], moved[2] if validation is not None else None, method="fixed files"
    )
    if split.report.cold_test_users == split.report.test_users:
        raise InputError(
            f"none of the {split.report.test_users:,} test users stands in the training file: the "
            f"ids seem to differ (train {train.user_ids[0]!r}, test {test.user_ids[0]!r})"
        )
    return split


def _split(
    interactions: Interactions,
    test: Bool,
    validation: Bool | None,
    method: str,
    cutoff: dt.date | dt.datetime | None = None,
) -> Split:
    train = ~test if validation is None else ~(test | validation)
    return make_split(
        interactions.select(train),
        interactions.select(test),
        None if validation is None else interactions.select(validation),
        method=method,
        cutoff=cutoff,
    )


def make_split(
    train: Interactions,
    test: Interactions,
    validation: Interactions | None = None,
    *,
    method: str,
    cutoff: dt.date | dt.datetime | None = None,
) -> Split:
    """A split of parts that share one id space. Raises InputError where a part is empty."""
    for name, part in (("training", train), ("test", test), ("validation", validation)):
        if part is not None and part.n_events == 0:
            raise InputError(f"the {name} part is empty ({method}): {_span(train, test)}")
    trained = np.diff(train.event_ptr) > 0
    tested = np.diff(test.event_ptr) > 0
    known_items = train.item_counts > 0
    test_counts = test.item_counts
    pair_users = np.repeat(np.arange(test.n_users), np.diff(test.indptr))
    dropped = dict(train.dropped)
    for part in (test, validation):
        for reason, n in (part.dropped if part is not None else {}).items():
            dropped[reason] = max(dropped.get(reason, 0), n)
    report = SplitReport(
        method=method,
        train_events=train.n_events,
        train_pairs=train.n_pairs,
        train_users=int(trained.sum()),
        train_items=int(known_items.sum()),
        test_events=test.n_events,
        test_pairs=test.n_pairs,
        test_users=int(tested.sum()),
        test_items=int((test_counts > 0).sum()),
        cold_test_users=int((tested & ~trained).sum()),
        cold_test_items=int(((test_counts > 0) & ~known_items).sum()),
        cold_user_pairs=int((~trained[pair_users]).sum()),
        cold_item_pairs=int((~known_items[test.indices]).sum()),
        repeated_pairs=_common_pairs(train, test),
        validation_events=0 if validation is None else validation.n_events,
        validation_users=(
            0 if validation is None else int((np.diff(validation.event_ptr) > 0).sum())
        ),
        dropped=dropped,
    )
    return Split(train, test, cutoff, report, validation)


def drop_cold(split: Split, *, users: bool = True, items: bool = True) -> Split:
    """The split without test events of cold users and / or of cold items, counted in `dropped`."""
    trained = np.diff(split.train.event_ptr) > 0
    known = split.train.item_counts > 0

    def warm(part: Interactions) -> Interactions:
        kept = part
        if users:
            kept = kept.select(np.repeat(trained, np.diff(kept.event_ptr)), reason="of cold users")
        if items:
            kept = kept.select(known[kept.event_items], reason="of cold items")
        return kept

    return make_split(
        split.train,
        warm(split.test),
        None if split.validation is None else warm(split.validation),
        method=split.report.method,
        cutoff=split.cutoff,
    )


def _rank_by_time(
    interactions: Interactions, purpose: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Place (from 0) of each event in its user's time, and the number of events of that user."""
    times = interactions.require_times(purpose)
    # Stable, and events already stand in the order of users and items.
    order = np.lexsort((times, interactions.event_users))
    length = np.repeat(np.diff(interactions.event_ptr), np.diff(interactions.event_ptr))
    place = np.arange(interactions.n_events) - interactions.event_ptr[interactions.event_users]
    rank = np.empty(interactions.n_events, np.int64)
    rank[order] = place
    return rank, length


def _check_shares(test: float, validation: float) -> None:
    if not (0 < test < 1 and 0 <= validation < 1 and test + validation < 1):
        raise InputError(
            f"test and validation shares must be positive and leave something to train on, got "
            f"{test} and {validation}"
        )


def _union(ids: list[pl.Series]) -> pl.Series:
    if all(other.equals(ids[0]) for other in ids[1:]):
        return ids[0]
    return pl.concat([series.rename("id") for series in ids]).unique().sort()


def _renumbered(part: Interactions, users: pl.Series, items: pl.Series) -> Interactions:
    """The same events under other numbers; every id of the part stands in `users` and `items`."""
    if part.user_ids is users and part.item_ids is items:
        return part
    rows = position_of(part.user_ids, users).to_numpy()[part.event_users]
    columns = position_of(part.item_ids, items).to_numpy()[part.event_items]
    return Interactions.from_events(
        users, items, rows, columns, part.event_times, part.event_values,
        time_unit=part.time_unit, dropped=part.dropped,
    )  # fmt: skip


def _common_pairs(train: Interactions, test: Interactions) -> int:
    """Pairs of `test` that stand in `train`, without a users x items table."""
    keys = []
    busy = np.diff(test.indptr) > 0
    for part in (train, test):
        owner = np.repeat(np.arange(part.n_users, dtype=np.int64), np.diff(part.indptr))
        kept = busy[owner]
        keys.append(owner[kept] * part.n_items + part.indices[kept])
    if not keys[0].size:
        return 0
    at = np.searchsorted(keys[0], keys[1])
    return int((keys[0][np.minimum(at, keys[0].size - 1)] == keys[1]).sum())


def _span(train: Interactions, test: Interactions) -> str:
    stamps = [p.event_times for p in (train, test) if p.event_times is not None and p.n_events]
    if not stamps:
        return "no event stands on the other side either"
    low, high = min(int(s.min()) for s in stamps), max(int(s.max()) for s in stamps)
    first, last = train.dates(np.array([low, high]))
    return f"the events run from {first} to {last}; choose a moment inside"
