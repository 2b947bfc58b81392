"""The text an article has under a named setting: the only thing that differs between settings."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import InputError
from pipelines.catalog import ID_DIGITS
from recsys.parquet import checked_parquet

SETTINGS: dict[str, str] = {
    "none": "no text at all",
    "metadata": "colour, type and pattern by template",
    "original": "the human description",
    "caption": "the machine's caption",
    "fill": "the human description, or the caption where it is missing",
    "both": "the human description, then the caption",
    "shuffled": "the caption of another article, drawn by seed: the placebo of `caption`",
    "shuffled-fill": "`fill` with the caption of another article: the placebo of `fill`",
    "copy": "the description of the training article whose photo is nearest",
}
"""Setting -> what an article's text is. Besides these, `mask-P` takes P % of the human descriptions
away (a seeded draw; mask-20 takes a part of what mask-40 takes), and `mask-P-fill` puts captions in
their place."""
MASK = re.compile(r"mask-(\d{1,3})(-fill)?")
SILENT = ("", "unknown", "undefined", "other")
"""Values of a shop's columns that say nothing."""
_ID, _TEXT = ("article_id", "id", "item_id"), ("description", "caption", "detail_desc", "text")


@dataclass(frozen=True)
class TextSource:
    """Everything that settings draw on; lists are in the order of `article_ids`."""

    article_ids: Sequence[str]
    human: Sequence[str | None]
    """(n,) human descriptions, None where missing."""
    captions: Mapping[str, str] = field(default_factory=dict)
    """article_id -> machine caption."""
    metadata: Sequence[str | None] = ()
    """(n,) texts of `metadata_texts`; needed by `metadata`."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """article_id -> text of the nearest training photo; needed by `copy`."""

    def under(self, setting: str, seed: int = 0) -> list[str | None]:
        """(n,) texts under `setting`, None where an article has none; `seed` draws masks and
        placebos and is read by no other setting.

        Raises:
            InputError: unknown setting, or one whose source is missing.
        """
        human = [text or None for text in self.human]
        machine = [self.captions.get(article_id) or None for article_id in self.article_ids]
        if (mask := MASK.fullmatch(setting)) is not None and int(mask[1]) <= 100:
            hidden = self._masked(int(mask[1]), seed)
            kept = [None if gone else text for text, gone in zip(human, hidden, strict=True)]
            return _filled(kept, machine) if mask[2] else kept
        if setting == "none":
            return [None] * len(human)
        if setting == "metadata":
            if len(self.metadata) != len(human):
                raise InputError("text setting 'metadata' needs the articles' own columns")
            return list(self.metadata)
        if setting == "original":
            return human
        if setting == "caption":
            return machine
        if setting == "fill":
            return _filled(human, machine)
        if setting == "both":
            pairs = zip(human, machine, strict=True)
            return [" ".join(text for text in pair if text) or None for pair in pairs]
        if setting == "shuffled":
            return self._shuffled(machine, seed)
        if setting == "shuffled-fill":
            return _filled(human, self._shuffled(machine, seed))
        if setting == "copy":
            return [self.copies.get(article_id) or None for article_id in self.article_ids]
        raise InputError(
            f"text setting {setting!r} is unknown: expected one of {', '.join(SETTINGS)}, mask-P "
            "or mask-P-fill with P from 0 to 100"
        )

    def _order(self, rows: Sequence[int], purpose: str, seed: int) -> list[int]:
        """`rows` in a seeded random order that does not depend on the order of the articles."""
        start = f"{purpose}|{seed}|".encode()
        drawn = {r: hashlib.blake2b(start + self.article_ids[r].encode()).digest() for r in rows}
        return sorted(rows, key=drawn.__getitem__)

    def _masked(self, percent: int, seed: int) -> list[bool]:
        described = self._order([r for r, text in enumerate(self.human) if text], "mask", seed)
        gone = set(described[: round(percent * len(described) / 100)])
        return [row in gone for row in range(len(self.human))]

    def _shuffled(self, machine: Sequence[str | None], seed: int) -> list[str | None]:
        """A cycle through the captioned articles in random order: nobody keeps its own caption."""
        cycle = self._order([r for r, text in enumerate(machine) if text], "shuffle", seed)
        shuffled: list[str | None] = [None] * len(machine)
        for row, other in zip(cycle, [*cycle[1:], *cycle[:1]], strict=True):
            shuffled[row] = machine[other] if other != row else None
        return shuffled


def article_texts(
    article_ids: list[str],
    descriptions: list[str | None],
    captions: Mapping[str, str],
    setting: str,
) -> list[str | None]:
    """Per article its text under `setting`, None where it has none: `TextSource.under`.

    Raises:
        InputError: unknown setting, or one that needs more than these.
    """
    return TextSource(article_ids, descriptions, captions).under(setting)


def seeded(setting: str) -> bool:
    """Whether the seed decides anything of the setting's texts."""
    mask = MASK.fullmatch(setting)
    return setting.startswith("shuffled") or (mask is not None and 0 < int(mask[1]) < 100)


def canonical(setting: str) -> str:
    """`mask-0` and `mask-100` are other settings: the name under which their texts are known."""
    same = {
        "mask-0": "original",
        "mask-0-fill": "fill",
        "mask-100": "none",
        "mask-100-fill": "caption",
    }
    return same.get(setting, setting)


def metadata_texts(articles: pl.DataFrame) -> list[str | None]:
    """ "Light Pink T-shirt, Stripe." from colour_group_name, product_type_name and
    graphical_appearance_name; values that say nothing are left out, None where all do."""
    columns = ("colour_group_name", "product_type_name", "graphical_appearance_name")
    texts: list[str | None] = []
    for row in articles.select(columns).iter_rows():
        colour, kind, pattern = (
            "" if (value or "").strip().lower() in SILENT else str(value).strip() for value in row
        )
        text = ", ".join(part for part in (f"{colour} {kind}".strip(), pattern) if part)
        texts.append(f"{text}." if text else None)
    return texts


def nearest_copies(
    article_ids: Sequence[str],
    product_codes: Sequence[str | None],
    human: Sequence[str | None],
    vectors: NDArray[np.float32],
    valid: NDArray[np.bool_],
    training: Iterable[str],
    *,
    depth: int = 64,
) -> dict[str, str]:
    """Text of the training article with the nearest photo, for every article with a photo.

    A training article takes it from another product with another text, or copying would be reading
    its own description; where none is among the `depth` nearest photos it gets no text.

    Args:
        article_ids, product_codes, human: (n,) in one order.
        vectors: (n, dim) float32 image embeddings; valid: (n,) bool.
        training: ids of the articles whose texts may be copied.
    """
    from caption.baselines import neighbours
    from caption.records import normalise_text

    row = {article_id: i for i, article_id in enumerate(article_ids)}
    known = [row[a] for a in training if a in row and valid[row[a]] and human[row[a]]]
    asked = np.flatnonzero(valid).tolist()
    if not known or not asked:
        return {}
    texts = [human[i] or "" for i in known]
    plain = [normalise_text(text) for text in texts]
    ids = [article_ids[i] for i in asked]
    near = neighbours(vectors[known], texts, vectors[asked], ids, depth)
    found: dict[str, str] = {}
    for i, candidates in zip(asked, near.tolist(), strict=True):
        own = normalise_text(human[i] or "")
        for j in candidates:
            if known[j] == i or product_codes[known[j]] == product_codes[i] or plain[j] == own:
                continue
            found[article_ids[i]] = texts[j]
            break
    return found


def read_captions(path: Path, known: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Captions written elsewhere: a CSV or Parquet table of an id and a text column.

    The id column is article_id, id or item_id; the text column description, caption, detail_desc or
    text. Ids may have lost their leading zero (read as integers once); an unnamed index column is
    ignored.

    Returns:
        article_id -> text, and what is worth knowing (rows left out and why).

    Raises:
        InputError: no such file, not such a table, an id twice with different texts, or no row of
            a known article.
    """
    frame = _read(path)
    names = {name.strip().lower(): name for name in frame.columns}
    ids = next((names[n] for n in _ID if n in names), None)
    text = next((names[n] for n in _TEXT if n in names), None)
    if ids is None or text is None:
        raise InputError(
            f"{path}: found the columns {', '.join(map(repr, frame.columns)) or 'none'}; expected "
            f"an id ({', '.join(_ID)}) and a text ({', '.join(_TEXT)})"
        )
    universe = set(known)
    captions: dict[str, str] = {}
    unknown: list[str] = []
    empty = padded = 0
    for raw, said in frame.select(pl.col(ids, text).cast(pl.String)).iter_rows():
        article_id = re.sub(r"\.0$", "", (raw or "").strip())
        if article_id not in universe and article_id.isdigit():
            longer = article_id.zfill(ID_DIGITS)
            padded += longer in universe
            article_id = longer
        if article_id not in universe:
            unknown.append(article_id)
        elif not (said or "").strip():
            empty += 1
        elif captions.setdefault(article_id, said.strip()) != said.strip():
            raise InputError(
                f"{path}: article_id {article_id} stands there twice with different texts: keep one"
            )
    if not captions:
        raise InputError(
            f"{path}: no row has a text for an article of this catalogue (first id "
            f"{frame[ids][0] if frame.height else 'none'!r}): do file and --data belong together?"
        )
    notes = [f"{path.name}: {len(captions):,} texts for {len(universe):,} articles"]
    for n, what in (
        (padded, f"ids padded to {ID_DIGITS} digits"),
        (empty, "rows without a text left out"),
        (len(unknown), f"rows of unknown articles left out, e.g. {unknown[0] if unknown else ''}"),
    ):
        if n:
            notes.append(f"{path.name}: {n:,} {what}")
    return captions, notes


def _filled(kept: Sequence[str | None], machine: Sequence[str | None]) -> list[str | None]:
    return [text or other for text, other in zip(kept, machine, strict=True)]


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise InputError(f"captions file {path} does not exist")
    try:
        if path.suffix == ".parquet":
            return pl.read_parquet(checked_parquet(path))
        return pl.read_csv(path, infer_schema=False, encoding="utf8-lossy")
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        first = str(error).splitlines()[0]
        raise InputError(f"{path} can't be read as a table of captions: {first}") from error
