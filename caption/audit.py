"""Captions against what a shop knows of its articles: right, silent or contradicting.

Three fields of H&M's article table can be read off a photo: garment type (product_type_name),
colour (colour_group_name with perceived_colour_master_name) and pattern
(graphical_appearance_name). `vocabulary.py` says which words name which of their values.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import polars as pl

from caption import InputError
from caption.vocabulary import FIELDS, Field, Mention, mentions

VERDICTS = ("right", "silent", "contradicting")


@dataclass(frozen=True)
class Audit:
    """What an audit found."""

    per_item: pl.DataFrame
    """article_id, field, verdict, expected (the article's own value), found (the caption's words,
    joined by `, `); no row where the article itself says nothing (Unknown, Garment Set ...)."""
    rates: dict[str, dict[str, dict[str, float]]]
    """field -> right, silent, contradicting (shares of all captions audited for the field) and
    precision (right among those that say something) -> value, low, high (Wilson, 95 %), count, n.
    """
    worst: pl.DataFrame
    """article_id, caption, contradictions (int), details: most contradictions first."""


def audit_captions(captions: pl.DataFrame, articles: pl.DataFrame, *, n_worst: int = 50) -> Audit:
    """Compare each caption with its article's own colour, garment type and pattern.

    `captions` has article_id and caption (str), `articles` article_id and the columns of `FIELDS`.
    A caption is right where it names a word of the article's value, of a kindred one ("top" for a
    T-shirt) or of a broader one ("patterned" for a striped one), whatever else it names: a second
    colour is no mistake. It contradicts where it names only others, and is silent where it names
    none. Words for parts ("gold-coloured buttons", "shirt collar") can neither help nor harm.

    Raises `InputError` on missing columns, repeated ids, and captions of unknown articles.
    """
    _check(captions, articles)
    columns = dict.fromkeys(column for field in FIELDS.values() for column in field.columns)
    facts = captions.select("article_id", "caption").join(
        articles.select("article_id", *columns), on="article_id", how="left", maintain_order="left"
    )
    rows: list[tuple[str, str, str, str, str]] = []
    wrong: dict[str, list[str]] = {}
    for fact in facts.iter_rows(named=True):
        for name, field in FIELDS.items():
            values = tuple(fact[column] or "" for column in field.columns)
            if not (found := _verdict(name, fact["caption"] or "", values)):
                continue
            verdict, words = found
            rows.append((fact["article_id"], name, verdict, values[0], words))
            if verdict == "contradicting":
                wrong.setdefault(fact["article_id"], []).append(f"{name}: {values[0]}, not {words}")
    per_item = pl.DataFrame(
        rows, ["article_id", "field", "verdict", "expected", "found"], orient="row"
    ).cast(pl.String)
    return Audit(per_item, _rates(per_item), _worst(facts, wrong, n_worst))


@dataclass(frozen=True)
class Collapse:
    """How varied captions are."""

    n: int
    """Captions."""
    distinct: int
    """Different strings among them."""
    commonest: str
    commonest_share: float
    """Share of captions that are `commonest`."""
    collapsed: bool
    """One string for more than half of at least 50 photos, or fewer than one in fifty distinct."""

    def __str__(self) -> str:
        said = f"{self.distinct} distinct captions for {self.n} photos"
        if not self.collapsed:
            return said
        return f"COLLAPSED: {said}; {self.commonest_share:.0%} say {self.commonest!r}"


def collapse(captions: Iterable[str]) -> Collapse:
    """Whether a captioner says the same few things whatever it is shown."""
    counts = Counter(" ".join(text.lower().split()) for text in captions)
    n = counts.total()
    text, top = counts.most_common(1)[0] if counts else ("", 0)
    share = top / n if n else 0.0
    return Collapse(n, len(counts), text, share, n >= 50 and (share > 0.5 or len(counts) * 50 < n))


def wilson(count: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % interval of a share (Wilson, 1927); (0, 1) of nothing."""
    if not n:
        return 0.0, 1.0
    share, shrink = count / n, 1 / (1 + z * z / n)
    middle = share + z * z / (2 * n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5
    return max(0.0, (middle - half) * shrink), min(1.0, (middle + half) * shrink)


@lru_cache(maxsize=200_000)
def _verdict(name: str, caption: str, values: tuple[str, ...]) -> tuple[str, str] | None:
    """Verdict and the words it rests on; None where the article's value claims nothing."""
    field: Field = FIELDS[name]
    if (accepted := field.accepts(values)) is None:
        return None
    named = mentions(caption)[name]
    fitting = [m for m in named if accepted.fits(m)]
    if fitting:
        return "right", _words(fitting)
    against = [m for m in named if accepted.contradicts(m)]
    return ("contradicting", _words(against)) if against else ("silent", "")


def _words(found: list[Mention]) -> str:
    return ", ".join(dict.fromkeys(mention.words for mention in found))


def _rates(per_item: pl.DataFrame) -> dict[str, dict[str, dict[str, float]]]:
    rates = {}
    for name in FIELDS:
        counts = Counter(per_item.filter(pl.col("field") == name)["verdict"])
        speaking = counts["right"] + counts["contradicting"]
        shares = {verdict: (counts[verdict], counts.total()) for verdict in VERDICTS}
        shares["precision"] = (counts["right"], speaking)
        rates[name] = {key: _rate(count, n) for key, (count, n) in shares.items()}
    return rates


def _rate(count: int, n: int) -> dict[str, float]:
    low, high = wilson(count, n)
    value = count / n if n else float("nan")
    return {"value": value, "low": low, "high": high, "count": count, "n": n}


def _worst(facts: pl.DataFrame, wrong: dict[str, list[str]], n: int) -> pl.DataFrame:
    columns = {"article_id": pl.String, "contradictions": pl.Int64, "details": pl.String}
    rows = [(item, len(details), "; ".join(details)) for item, details in wrong.items()]
    found = pl.DataFrame(rows, columns, orient="row").join(
        facts.select("article_id", "caption"), on="article_id", how="left", maintain_order="left"
    )
    order = found.sort("contradictions", "article_id", descending=[True, False]).head(n)
    return order.select("article_id", "caption", "contradictions", "details")


def _check(captions: pl.DataFrame, articles: pl.DataFrame) -> None:
    fields = [column for field in FIELDS.values() for column in field.columns]
    for what, frame, columns in (
        ("captions", captions, ["article_id", "caption"]),
        ("articles", articles, ["article_id", *fields]),
    ):
        if missing := [column for column in columns if column not in frame.columns]:
            raise InputError(f"{what} lack the columns {', '.join(missing)}")
        repeated = frame["article_id"].filter(frame["article_id"].is_duplicated())
        if len(repeated):
            raise InputError(f"{what} repeat article_id {repeated[0]}: expected one row each")
    unknown = captions.join(articles, on="article_id", how="anti")["article_id"]
    if len(unknown):
        some = ", ".join(map(str, unknown.head(5)))
        raise InputError(f"{len(unknown)} captions of articles that are not known ({some})")
