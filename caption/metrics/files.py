"""Tables of captions: COCO results and annotations (JSON), CSV and Parquet with id and text.

Ids are text. Integer ids of JSON and Parquet become their digits; CSV is read as text throughout,
so leading zeros survive.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption import InputError
from caption.metrics import some
from caption.parquet import checked_parquet

if TYPE_CHECKING:
    import polars as pl

ID_COLUMNS = ("article_id", "image_id", "id", "image", "image_name", "file_name")
TEXT_COLUMNS = ("caption", "text", "hypothesis", "reference", "detail_desc", "description")


@dataclass(frozen=True)
class CaptionPair:
    """Hypotheses and references with the same ids, in the order of the hypotheses."""

    hypotheses: dict[str, str]
    references: dict[str, list[str]]
    excluded: dict[str, str]
    """Ids that stand in a file but cannot be scored, each with its reason."""


def read_pair(
    hypotheses: Path,
    references: Path,
    *,
    id_column: str | None = None,
    text_column: str | None = None,
    subset: bool = False,
) -> CaptionPair:
    """Read both tables and bring them together.

    An item whose references are all blank is excluded and reported; so is, with `subset`, an item
    that only the references know (annotations of a whole data set, captions of its test split).

    Raises `InputError` on a file that cannot be read, an id with two hypotheses, a missing caption,
    text that is not text, ids that stand on one side only, and when nothing is left to score.
    """
    hyps = read_hypotheses(hypotheses, id_column=id_column, text_column=text_column)
    refs, excluded = read_references(references, id_column=id_column, text_column=text_column)
    unknown = [i for i in hyps if i not in refs and i not in excluded]
    if unknown:
        raise InputError(
            f"{references}: no reference for {some(unknown)} of {hypotheses}"
            + _zeros(unknown, [*refs, *excluded])
        )
    extra = [i for i in refs if i not in hyps]
    if extra and not subset:
        raise InputError(
            f"{hypotheses}: no caption for {some(extra)} of {references}: caption them, or score "
            "the subset that has captions"
        )
    excluded |= dict.fromkeys(extra, "no hypothesis")
    kept = {i: text for i, text in hyps.items() if i in refs}
    if not kept:
        raise InputError(f"{references}: no item of {hypotheses} has a reference that is not blank")
    return CaptionPair(kept, {i: refs[i] for i in kept}, excluded)


def read_hypotheses(
    path: Path, *, id_column: str | None = None, text_column: str | None = None
) -> dict[str, str]:
    """One caption an id. Raises `InputError`; an empty caption is text, a missing one is not."""
    rows = _read(Path(path), id_column, text_column)
    twice = [i for i, n in Counter(i for i, _ in rows).items() if n > 1]
    if twice:
        raise InputError(f"{path}: {some(twice)} with more than one caption: keep one an item")
    missing = [i for i, text in rows if text is None]
    if missing:
        raise InputError(
            f'{path}: no caption for {some(missing)}: leave the row out, or write "" for an '
            "empty caption"
        )
    return {i: text for i, text in rows if text is not None}


def read_references(
    path: Path, *, id_column: str | None = None, text_column: str | None = None
) -> tuple[dict[str, list[str]], dict[str, str]]:
    """References of each id in file order, and ids whose references are all blank, with a reason.

    A blank text beside others is left out of the list. Raises `InputError`.
    """
    found: dict[str, list[str]] = {}
    for i, text in _read(Path(path), id_column, text_column):
        found.setdefault(i, [])
        if text is not None and text.strip():
            found[i].append(text)
    references = {i: texts for i, texts in found.items() if texts}
    excluded = dict.fromkeys((i for i, texts in found.items() if not texts), "no reference text")
    return references, excluded


def _read(
    path: Path, id_column: str | None, text_column: str | None
) -> list[tuple[str, str | None]]:
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    kind = path.suffix.lower()
    if kind == ".json":
        rows = _read_json(path)
    elif kind in (".csv", ".tsv", ".parquet"):
        rows = _read_table(path, kind, id_column, text_column)
    else:
        raise InputError(f"{path}: expected a .json, .csv, .tsv or .parquet file")
    if not rows:
        raise InputError(f"{path}: holds no captions")
    return rows


def _read_json(path: Path) -> list[tuple[str, str | None]]:
    """COCO results (a list) or COCO annotations (an object with `annotations`)."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:  # truncated, not UTF-8, absurdly nested
        raise InputError(f"{path}: not readable as JSON ({error}): is the file cut off?") from error
    records = content.get("annotations") if isinstance(content, dict) else content
    if not isinstance(records, list):
        raise InputError(
            f'{path}: expected COCO results [{{"image_id", "caption"}}, ...] or COCO annotations '
            '{"annotations": [{"image_id", "caption"}, ...]}'
        )
    rows = []
    for n, record in enumerate(records):
        if not isinstance(record, dict) or not {"image_id", "caption"} <= record.keys():
            raise InputError(
                f"{path}: entry {n} is {_short(record)}: expected image_id and caption"
            )
        rows.append((_id(path, n, record["image_id"]), _text(path, n, record["caption"])))
    return rows


def _read_table(
    path: Path, kind: str, id_column: str | None, text_column: str | None
) -> list[tuple[str, str | None]]:
    import polars as pl

    if kind == ".parquet":
        checked_parquet(path)
    try:
        if kind == ".parquet":
            table = pl.read_parquet(path)
        else:
            separator = "\t" if kind == ".tsv" else ","
            table = pl.read_csv(path, infer_schema=False, separator=separator)
    except (
        pl.exceptions.PolarsError,
        pl.exceptions.PanicException,  # over some damaged Parquet files
        OSError,
        ValueError,
    ) as error:
        said = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{path}: not readable as {kind[1:].upper()} ({said})") from error
    ids = table[_column(path, table, id_column, ID_COLUMNS, "id")]
    texts = table[_column(path, table, text_column, TEXT_COLUMNS, "text")]
    if not (ids.dtype.is_integer() or ids.dtype == pl.String or ids.dtype == pl.Categorical):
        raise InputError(f"{path}: column {ids.name!r} is {ids.dtype}: expected text or integers")
    if texts.dtype != pl.String and not texts.is_null().all():
        raise InputError(f"{path}: column {texts.name!r} is {texts.dtype}: expected text")
    rows = zip(ids.cast(pl.String).to_list(), texts.cast(pl.String).to_list(), strict=True)
    return [(_id(path, n, i), text) for n, (i, text) in enumerate(rows)]


def _column(
    path: Path, table: pl.DataFrame, asked: str | None, usual: Sequence[str], what: str
) -> str:
    if asked is not None and asked not in table.columns:
        raise InputError(f"{path}: no column {asked!r}; it has {', '.join(table.columns)}")
    found = [asked] if asked is not None else [name for name in usual if name in table.columns]
    if not found:
        raise InputError(
            f"{path}: no {what} column: expected one of {', '.join(usual)} (or name yours); it has "
            f"{', '.join(table.columns)}"
        )
    return found[0]


def _id(path: Path, n: int, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        raise InputError(f"{path}: entry {n} has the id {_short(value)}: expected text or a number")
    return str(value)


def _text(path: Path, n: int, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InputError(f"{path}: entry {n} has the caption {_short(value)}: expected text")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _zeros(unknown: Sequence[str], known: Iterable[str]) -> str:
    """A hint where ids differ by nothing but leading zeros."""
    stripped = {i.lstrip("0") for i in known}
    lost = sum(i.lstrip("0") in stripped for i in unknown)
    return f"; {lost} of them differ by leading zeros only" if lost else ""
