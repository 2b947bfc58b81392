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

from recsys import InputError
from recsys.interactions import Bool, Interactions


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


__all__ = [
    "Split",
    "SplitReport",
    "drop_cold",
    "make_split",
    "split_global_time",
]
