"""Any caption set as a data folder, so that every command reads it as it reads a shop's tables."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import InputError
from pipelines.catalog import ARTICLE_COLUMNS, ID_DIGITS, SAFE_ID, image_path
from pipelines.workspace import Workspace, file_sha256, read_json, write_json, write_table

if TYPE_CHECKING:
    import polars as pl

    from caption.records import CaptionSet

FOLDER = "captions"
"""Folder of the run that the caption set is laid out in."""
MARKER = "source.json"
PARTS = "captions.json"
AUDITED = ("perceived_colour_master_name",)
"""Column that the audit reads besides those every table has."""


def with_captions(options: dict[str, Any], file: Path) -> dict[str, Any]:
    """The options of `open_run` for a run on the caption set in `file`.

    Args:
        options: `runs`, `run`, `data` as of the command line; the run is named after the file's
            folder where it has no name.
        file: COCO-format JSON with splits, as `fcr data prepare` writes it.

    Raises:
        InputError: no such file, no splits, `data` given too, ids that can't be file names.
    """
    if options["data"] is not None:
        raise InputError("--captions and --data both say what to learn from: leave one out")
    name = options["run"] or file.resolve().parent.name
    folder = Workspace.open(name, options["runs"]).folder / FOLDER
    lay_out(file, folder)
    return {**options, "run": name, "data": folder}


def lay_out(file: Path, folder: Path) -> None:
    """Write `articles.csv`, links to the photos and `captions.json` into `folder`.

    Where an `articles.csv` with these ids lies beside `file`, its rows are taken: they know types
    and colours. Otherwise an article's type is the example's category, and colours are unknown.
    """
    from caption.records import CaptionSet

    table = file.parent / "articles.csv"
    source = {
        "captions": file_sha256(file) if file.is_file() else "",
        "articles": file_sha256(table) if table.is_file() else "",
        "folder": str(file.resolve().parent),
    }
    if read_json(folder / MARKER) == source:
        return
    captions = _checked(CaptionSet.load(file), file)
    (folder / MARKER).unlink(missing_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    for e in captions.examples:
        if e.image is not None and e.image.is_file():
            link = image_path(folder, e.id)
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            os.symlink(e.image.resolve(), link)
    write_table(folder / "articles.csv", _articles(captions, table))
    captions.save(folder / PARTS)
    write_json(folder / MARKER, source)


def given_parts(data: Path) -> CaptionSet | None:
    """The caption set that was laid out in a data folder; None where it is a shop's."""
    from caption.records import CaptionSet

    if not (data / MARKER).is_file():
        return None
    return CaptionSet.load(data / PARTS)


def _checked(captions: CaptionSet, file: Path) -> CaptionSet:
    from caption.records import CaptionSet

    parts = {e.split for e in captions.examples}
    if not {"train", "validation", "test"} <= parts:
        raise InputError(
            f"{file} has the parts {sorted(parts - {''})}: expected train, validation and test. "
            "`fcr data prepare` cuts a data set"
        )
    bad = [e.id for e in captions.examples if not SAFE_ID.fullmatch(e.id)]
    if bad:
        raise InputError(
            f"{file}: {len(bad)} ids can't be file names, e.g. {bad[0]!r}: expected letters, "
            "digits, '-', '_' or '.'"
        )
    # Tables pad short numbers, because spreadsheets take leading zeros away.
    kept = (
        replace(e, id=e.id.zfill(ID_DIGITS) if e.id.isdigit() else e.id)
        for e in captions.examples
        if e.split
    )
    return CaptionSet(captions.name, tuple(kept))


def _articles(captions: CaptionSet, table: Path) -> pl.DataFrame:
    import polars as pl

    ids = [e.id for e in captions.examples]
    if table.is_file():
        known = pl.read_csv(table, infer_schema=False)
        if set(ARTICLE_COLUMNS) <= set(known.columns):
            rows = known.filter(pl.col("article_id").is_in(ids))
            if rows.height == len(ids):
                return rows
    columns: dict[str, list[str]] = {name: [""] * len(ids) for name in (*ARTICLE_COLUMNS, *AUDITED)}
    columns |= {
        "article_id": ids,
        "product_code": ids,
        "prod_name": ids,
        "product_type_name": [e.category for e in captions.examples],
        "detail_desc": [e.captions[0] for e in captions.examples],
    }
    return pl.DataFrame(columns)
