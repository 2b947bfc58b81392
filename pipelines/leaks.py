"""Whether an experiment knows what it could not have known: each check says what it found.

What counts as a leak depends on the question.

*Caption quality* (scores, the regression of attribution) is judged item by item on articles that
the captioner did not learn from; an article of its training part there is a leak.

*Recommendation* is judged on purchases. That the captioner learned from an article's description
tells it nothing about who buys what, so captions of training articles may be recommended by; but
where they repeat that description word for word, the settings `caption` and `mask-P-fill` would
measure the human text under another name, and that is a leak. Short of it, the tables have a slice
of articles the captioner never learned from.

A text of an article that is first sold after the cut-off is no leak: a shop knows its new articles
before they sell. A purchase after the cut-off is one wherever it is used: in training, in
popularity, or as a "cold" article that others already bought.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import InputError

if TYPE_CHECKING:
    from caption.records import CaptionSet
    from recsys.interactions import Interactions
    from recsys.splits import Split

COPIED = 0.05
"""Share of training articles whose caption repeats their own description, beyond the share among
other articles (stock phrases coincide), above which it is a leak: so much of any difference between
captions and descriptions it would hide."""
STAMP = "LEAK"


@dataclass(frozen=True)
class Check:
    """One question of the audit and its answer."""

    name: str
    question: str
    count: int
    """Offenders; 0 passes."""
    found: str
    """What was looked at or found, in a sentence."""
    leak: bool
    """False: passed, or worth knowing without being a leak."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for leaks.json."""
        return asdict(self)


def refuse(checks: Sequence[Check], *, allow: bool) -> str:
    """The stamp for every table: "" where nothing leaks.

    Raises:
        InputError: something leaks and that is not allowed.
    """
    leaks = [check for check in checks if check.leak]
    if not leaks:
        return ""
    said = "; ".join(f"({i}) {check.found}" for i, check in enumerate(leaks, 1))
    if not allow:
        raise InputError(
            f"the leak audit failed: {said}. Mend it, or go on with --allow-leaks, which stamps "
            "every table"
        )
    return f"{STAMP}: {'; '.join(check.found for check in leaks)}"


def caption_split(parts: CaptionSet, product_codes: Mapping[str, str | None]) -> list[Check]:
    """Descriptions and products of the captioner's training part that stand in another part.

    Args:
        parts: examples with their split.
        product_codes: article_id -> product_code.
    """
    from caption.records import normalise_text

    found = []
    for name, noun, keys in (
        (
            "descriptions on both sides",
            "descriptions",
            [{normalise_text(text) for text in e.captions} for e in parts.examples],
        ),
        (
            "products on both sides",
            "product codes",
            [{code} if (code := product_codes.get(e.id)) else set() for e in parts.examples],
        ),
    ):
        train: set[str] = set()
        held: set[str] = set()
        for example, own in zip(parts.examples, keys, strict=True):
            (train if example.split == "train" else held).update(own)
        both = sorted(train & held)
        said = (
            f"{len(both):,} {noun} stand both in the captioner's training part and beside it, e.g. "
            f"{both[0]!r:.80}: captions of the test part are read off, not written"
            if both
            else f"{len(train):,} in the training part, none of them beside it"
        )
        question = f"Do {noun} stand on both sides of the caption split?"
        found.append(Check(name, question, len(both), said, bool(both)))
    return found


def judged_captions(judged: Sequence[str], learned: set[str]) -> Check:
    """Articles on which caption quality is judged although the captioner learned from them."""
    both = sorted(learned & set(judged))
    said = (
        f"caption quality is judged on {len(both):,} articles the captioner learned from, e.g. "
        f"{both[0]}"
        if both
        else f"{len(set(judged)):,} articles judged, the captioner learned from none of them"
    )
    question = "Is the captioner judged on articles it learned from?"
    return Check("captions judged on training articles", question, len(both), said, bool(both))


def repeated_captions(
    captions: Mapping[str, str], human: Mapping[str, str], learned: set[str]
) -> Check:
    """Captions of training articles that are their own description word for word."""
    from caption.records import normalise_text

    told = [a for a in captions if a in human]
    known = [a for a in told if a in learned]
    same = {a for a in told if normalise_text(captions[a]) == normalise_text(human[a])}
    repeated, coincide = same & learned, same - learned
    share = len(repeated) / max(1, len(known))
    usual = len(coincide) / max(1, len(told) - len(known))
    said = (
        f"{len(repeated):,} of {len(known):,} captions of articles the captioner learned from "
        f"repeat their description word for word ({share:.1%}), against {usual:.1%} of the others"
    )
    leak = share - usual > COPIED
    if leak:
        said += ": `caption` and the filled masks measure the human text under another name"
    question = "Do captions repeat the description the captioner learned from?"
    return Check("captions that are the human text", question, len(repeated), said, leak)


def future_purchases(split: Split, *, captions_file: str = "") -> Check:
    """Training purchases at or after the first test purchase: what recommenders must not know.

    Recommenders, popularity windows and profiles see the training part alone; the captioner and the
    vocabularies see articles alone, unless captions come from a file (`captions_file`: its name).
    """
    question = "Does a recommender learn from purchases after the cut-off?"
    name = "purchases after the cut-off"
    train, test = split.train.event_times, split.test.event_times
    if train is None or test is None:
        said = "the purchases carry no dates, so nobody can say which came first"
        return Check(name, question, split.train.n_events, said, True)
    first = int(test.min())
    late = int((train >= first).sum())
    moment = split.train.dates(np.array([first]))[0]
    said = (
        f"{late:,} of {split.train.n_events:,} training purchases were made on or after {moment}, "
        f"the day of the first test purchase (split: {split.report.method}): recommenders, "
        "popularity and profiles know other people's future"
        if late
        else f"every training purchase lies before {moment}, and nothing here sees another"
    )
    if captions_file:
        said += f"; what the captions of {captions_file} were made from can't be seen here"
    return Check(name, question, late, said, late > 0)


def cold_articles(split: Split, everything: Interactions) -> Check:
    """Articles called cold that somebody bought before the test window, sampled away or kept out.

    Args:
        split: its training part says which articles are cold.
        everything: all purchases from the protocol's first day on, before any sampling, filter or
            validation part, with the same items.
    """
    name, question = "cold articles", "Was nobody able to have bought the cold articles?"
    cold = (split.train.item_counts == 0) & (split.test.item_counts > 0)
    times, test = everything.event_times, split.test.event_times
    if times is None or test is None or not everything.item_ids.equals(split.train.item_ids):
        return Check(name, question, 0, "the data can't say: no dates, or other articles", False)
    first = _first_test_moment(split, test)
    before = np.zeros(everything.n_items, dtype=bool)
    before[everything.event_items[times < first]] = True
    warm = np.flatnonzero(cold & before)
    said = (
        f"{len(warm):,} of {int(cold.sum()):,} articles called cold were bought before the test "
        f"window by somebody whose purchase was left out, e.g. {everything.item_ids[int(warm[0])]}"
        if len(warm)
        else f"{int(cold.sum()):,} test articles are cold, and no purchase of them in the data "
        "lies before the test window"
    )
    return Check(name, question, len(warm), said, len(warm) > 0)


def _first_test_moment(split: Split, test: Any) -> int:
    """The first moment of the test window in the unit of the events."""
    if isinstance(split.cutoff, dt.date):
        return int(split.test.moment(split.cutoff))
    return int(test.min())
