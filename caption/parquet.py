"""Pages of a Parquet file, looked at before polars reads them.

A page that claims fewer values than none makes polars ask for exabytes, which ends the process
instead of raising (polars 2.1). One flipped bit is enough, so the counts are read here first. What
can't be followed is left to polars, which has a word for everything else.

Format: parquet.thrift and Thrift's compact protocol.
"""

from __future__ import annotations

import mmap
from contextlib import suppress
from pathlib import Path
from typing import Any

from caption import InputError

DEPTH = 32


def checked_parquet(path: Path) -> Path:
    """The file, when no page of it states an impossible number.

    Raises InputError: one does.
    """
    column = None
    with (
        suppress(OSError, IndexError, ValueError, KeyError, TypeError, AttributeError),
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        column = _impossible(data)
    if column is not None:
        raise InputError(
            f"{path} cannot be read as Parquet: a page of column {column} states an impossible "
            "number of values or bytes, so the file is damaged: get it again"
        )
    return path


def _impossible(data: mmap.mmap) -> str | None:
    """The first column with such a page."""
    end = len(data) - 8
    footer, _ = _struct(data, end - int.from_bytes(data[end : end + 4], "little"))
    for group in footer[4]:
        for chunk in group[1]:
            about = chunk[3]
            most, at = about[5], min(about.get(11) or about[9], about[9])
            last = at + about[7]
            while at < last:
                page, at = _struct(data, at)
                counts = [page[2], page[3]]
                for kind in (5, 7, 8):
                    if kind in page:
                        values = page[kind][1]
                        counts += [values, most - values if kind != 7 else 0]
                if 8 in page:
                    counts += [page[8].get(field, 0) for field in (2, 3, 5, 6)]
                if min(counts) < 0:
                    return ".".join(part.decode() for part in about[3])
                at += page[3]
    return None


def _struct(data: mmap.mmap, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """(field number -> value, where it ends)."""
    found: dict[int, Any] = {}
    field = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            field += head >> 4
        else:
            field, at = _number(data, at)
        if head & 15 in (1, 2):
            found[field] = head & 15 == 1
        else:
            found[field], at = _value(data, at, head & 15, depth + 1)
    return found, at + 1


def _value(data: mmap.mmap, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if depth > DEPTH:
        raise ValueError("nested too deeply")
    if kind in (1, 2, 3):
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind in (9, 10):
        head, at = data[at], at + 1
        size = head >> 4
        if size == 15:
            size, at = _varint(data, at)
        values = []
        for _ in range(size):
            value, at = _value(data, at, head & 15, depth + 1)
            values.append(value)
        return values, at
    if kind == 12:
        return _struct(data, at, depth)
    raise ValueError(f"type {kind}")


def _number(data: mmap.mmap, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("no number")
