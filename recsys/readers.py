"""Files of interactions: Kaggle's CSV of 3.5 GB, any CSV, TSV or Parquet with named columns."""

import datetime as dt
import io
import mmap
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from recsys import InputError
from recsys.interactions import (
    Ids,
    Interactions,
    TimeUnit,
    sorted_keys,
    tomorrow,
    universe_of,
)
from recsys.parquet import checked_parquet

PIECE = 16 << 20
"""Bytes parsed at once by a thread: its row numbers stay in the cache until they are written."""
SMALL = 16 << 20
"""Bytes below which polars reads a file before the kernels are compiled."""
BYTES_A_ROW = 40
"""Memory of a row of plain text, measured on 31.8 million of Kaggle's."""
BYTES_A_TABLE_ROW = 220
"""Of one that polars reads: ids stand in it as text."""
UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException)
"""What polars raises over a table that is none: it panics over some damaged Parquet files."""
REASONS = (
    "a null user, item, time or rating",
    "of unknown users",
    "of unknown items",
    "dated in the future",
)


def read_interactions(
    path: Path,
    *,
    user: str = "user_id",
    item: str = "item_id",
    time: str | None = None,
    rating: str | None = None,
    user_ids: Ids | None = None,
    item_ids: Ids | None = None,
    columns: Sequence[str] | None = None,
    separator: str | None = None,
) -> Interactions:
    """Interactions of a file with one event per line, in any order; ids stay text.

    `.parquet` is read as such, everything else as delimited text: `separator` is guessed from the
    first line (tab, comma, semicolon, bar) unless given; `columns` names the columns of a file
    without a header; a column may be named without RecBole's type (`user_id` for `user_id:token`).
    Dates, universes and what is dropped are those of `Interactions.from_frame`; the result is the
    same. Large plain text is parsed straight into numbers, on all threads; small files, text with
    quotes, and times or ratings of an unusual form go through polars.

    Raises InputError: no such file, it is empty or binary, a column is missing, a line has another
    number of fields, or what `Interactions.from_frame` raises.
    """
    found = _read(
        Path(path), {"user": user, "item": item, "time": time, "rating": rating},
        {"user_ids": user_ids, "item_ids": item_ids}, columns, separator,
    )  # fmt: skip
    assert found is not None
    return found


def read_plain(path: Path, *, user: str, item: str, time: str) -> Interactions | None:
    """As `read_interactions`, of delimited text with one form of time; None where it is not plain.

    Plain: no quotes, the fields of every line those of the header, nothing missing. What another
    reader would make of the rest is left to the caller.

    Raises InputError: no such file, it is empty or binary, or a column is missing.
    """
    names: dict[str, str | None] = {"user": user, "item": item, "time": time}
    return _read(path, names, {"user_ids": None, "item_ids": None}, None, None, fuller=False)


def memory_needed(path: Path) -> int:
    """Bytes that reading this file takes at its peak, as far as its first lines tell."""
    path = Path(path)
    if path.suffix == ".parquet":
        try:
            return BYTES_A_TABLE_ROW * int(pl.scan_parquet(path).select(pl.len()).collect().item())
        except UNREADABLE:
            return 0  # reading it will say what is wrong
    with path.open("rb") as file:
        start = file.read(1 << 20)
    rows = path.stat().st_size * start.count(b"\n") // max(1, len(start))
    return rows * (BYTES_A_TABLE_ROW if b'"' in start else BYTES_A_ROW)


def first_line(error: BaseException) -> str:
    """What an error says, without the pages that polars adds."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]


def _read(
    path: Path,
    names: dict[str, str | None],
    universes: dict[str, Any],
    columns: Sequence[str] | None,
    separator: str | None,
    *,
    fuller: bool = True,
) -> Interactions | None:
    if not path.is_file():
        raise InputError(f"no file of interactions at {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty; expected one interaction per line below a header")
    if path.suffix == ".parquet":
        try:
            header = pl.scan_parquet(checked_parquet(path)).collect_schema().names()
            wanted = _locate(header, names, path)
            frame = pl.read_parquet(path, columns=sorted({header[i] for i in wanted.values()}))
        except UNREADABLE as error:
            raise InputError(f"{path} cannot be read as Parquet: {first_line(error)}") from None
        return _from_frame(frame, header, wanted, universes)
    text = _Text.open(path, columns, separator)
    wanted = _locate(text.header, names, path)
    if path.stat().st_size >= SMALL or not fuller:
        found = _parse(text, wanted, universes["user_ids"], universes["item_ids"])
        if found is not None:
            return found
    if not fuller:
        return None
    try:
        frame = pl.read_csv(
            path,
            has_header=columns is None,
            new_columns=list(text.header),
            columns=sorted(set(wanted.values())),
            separator=text.separator,
            schema_overrides=dict.fromkeys(text.header, pl.String),
        )
        frame.columns = [text.header[i] for i in sorted(set(wanted.values()))]
        return _from_frame(_numbers(frame, text.header, wanted), text.header, wanted, universes)
    except UNREADABLE as error:
        raise InputError(f"{path} cannot be read as delimited text: {first_line(error)}") from None


def _locate(header: Sequence[str], names: dict[str, str | None], path: Path) -> dict[str, int]:
    """Column number of each role."""
    plain = [column.split(":")[0] for column in header]
    found = {}
    for role, name in names.items():
        if name is None:
            continue
        if name not in header and name not in plain:
            raise InputError(
                f"{path} has no column {name!r} for the {role}; it has {', '.join(header)}: "
                "name the right column, or name all columns of a file without a header"
            )
        found[role] = header.index(name) if name in header else plain.index(name)
    return found


def _from_frame(
    frame: pl.DataFrame, header: Sequence[str], wanted: dict[str, int], universes: dict[str, Any]
) -> Interactions:
    roles = {role: header[column] for role, column in wanted.items()}
    return Interactions.from_frame(frame, **roles, **universes)


def _numbers(frame: pl.DataFrame, header: Sequence[str], wanted: dict[str, int]) -> pl.DataFrame:
    """Text columns of whole seconds or ratings as numbers, where they are."""
    for role in ("time", "rating"):
        if role not in wanted:
            continue
        name = header[wanted[role]]
        values = frame[name].str.strip_chars().cast(pl.Float64, strict=False)
        if role == "rating" and values.null_count() > frame[name].null_count():
            wrong = frame[name].filter(values.is_null() & frame[name].is_not_null())
            raise InputError(f"column {name!r} must hold numbers, found {wrong[0]!r}")
        if values.null_count() == frame[name].null_count():
            frame = frame.with_columns(values)
    return frame


@dataclass
class _Text:
    """A mapped text file: its bytes, its form, and where its rows begin."""

    path: Path
    data: npt.NDArray[np.uint8]
    header: list[str]
    separator: str
    terminator: int
    skip: int
    begin: int

    @classmethod
    def open(cls, path: Path, columns: Sequence[str] | None, separator: str | None) -> "_Text":
        with path.open("rb") as file:
            start = file.readline(1 << 20)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if b"\0" in start:
            raise InputError(f"{path} is not a text file: expected CSV, TSV or Parquet")
        bom = 3 if start.startswith(b"\xef\xbb\xbf") else 0
        try:
            line = start[bom:].decode().rstrip("\r\n")
        except UnicodeDecodeError:
            raise InputError(f"{path} is not UTF-8 text") from None
        if separator is None:
            separator = max("\t,;|", key=line.count)
        names = [name.strip().strip('"') for name in line.split(separator)]
        if columns is not None:
            if len(columns) != len(names):
                raise InputError(
                    f"{path} has {len(names)} columns, but {len(columns)} were named "
                    f"({', '.join(columns)})"
                )
            names, begin = list(columns), bom
        else:
            begin = len(start)
        carriage = start.endswith(b"\r\n")
        return cls(
            path,
            np.frombuffer(mapped, np.uint8),
            names,
            separator,
            13 if carriage else 10,
            2 if carriage else 1,
            begin,
        )


def _parse(
    text: _Text, wanted: dict[str, int], user_ids: Ids | None, item_ids: Ids | None
) -> Interactions | None:
    """The file through the kernels; None where it needs a fuller reader."""
    from recsys import csv_kernels as csv
    from recsys import kernels

    kind = _time_kind(text, wanted)
    if kind is None:
        return None
    fields = [wanted.get(role, -1) for role in ("user", "item", "time", "rating")]
    if len(set(fields) - {-1}) < sum(field >= 0 for field in fields):
        return None  # one column in two roles
    given = [
        None if ids is None else universe_of(pl.Series(dtype=pl.String), ids, name)
        for ids, name in ((user_ids, "user_ids"), (item_ids, "item_ids"))
    ]
    tables = [_table(ids) for ids in given]
    regions, tail = _regions(text, kernels.thread_count())

    def parse(region: tuple[npt.NDArray[np.uint8], int, int]) -> "_Region":
        data, start, stop = region
        ids = [(table[0].copy(), table[1], table[2].copy()) for table in tables]
        done = _Region(data, [], ids[0], ids[1])
        row_bytes = 2.0 * len(text.header)
        while start < stop:
            end = min(start + PIECE, stop)
            rows = int((end - start) / row_bytes) + 1024
            users, keys = np.empty(rows, np.int32), np.empty(rows, np.uint64)
            values = np.empty(rows if "rating" in wanted else 0, np.float32)
            status, n, at, done.users, done.items = csv.parse_rows(
                data, start, end, ord(text.separator), text.terminator, text.skip,
                len(text.header), *fields, kind, done.users, done.items,
                given[0] is not None, given[1] is not None, users, keys, values,
            )  # fmt: skip
            if status != csv.OK:
                done.complete = False
                break
            done.pieces.append((users[:n], keys[:n], values[:n]))
            row_bytes = max(1.0, 0.98 * (at - start) / max(1, n))
            start = at
        return done

    with ThreadPoolExecutor(max(1, len(regions))) as pool:
        parsed = [*pool.map(parse, regions), parse(tail)]
    if not all(region.complete for region in parsed):
        return None
    ids, maps = [], []
    for which in range(2):
        try:
            numbers, mappings = _merge([region.ids(which) for region in parsed], given[which])
        except (pl.exceptions.ComputeError, ValueError):
            return None  # an id that is not UTF-8, or holds another kind of line end
        ids.append(numbers)
        maps.append(mappings)
    unit: TimeUnit = "D" if kind == csv.DATE else "s"
    limit = tomorrow(unit) if "time" in wanted else 2**32 - 1
    fixed = given[0] is not None, given[1] is not None
    return _collect(parsed, ids, maps, fixed, unit, limit, "time" in wanted, "rating" in wanted)


@dataclass
class _Region:
    """What one thread read."""

    data: npt.NDArray[np.uint8]
    pieces: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint64], npt.NDArray[np.float32]]]
    users: tuple[Any, int, Any]
    items: tuple[Any, int, Any]
    complete: bool = True

    def ids(self, which: int) -> tuple[npt.NDArray[np.uint8], tuple[Any, int, Any]]:
        return self.data, (self.users, self.items)[which]


def _time_kind(text: _Text, wanted: dict[str, int]) -> int | None:
    """Which form the times have, by the first row; None for any other."""
    from recsys import csv_kernels as csv

    if "time" not in wanted:
        return csv.NO_TIME
    line = (
        text.data[text.begin : text.begin + 4096].tobytes().split(b"\n")[0].decode(errors="replace")
    )
    fields = line.rstrip("\r").split(text.separator)
    sample = fields[wanted["time"]] if wanted["time"] < len(fields) else ""
    if sample.isascii() and sample.isdigit():
        return csv.SECONDS
    try:
        dt.datetime.fromisoformat(sample)
    except ValueError:
        return None
    return {10: csv.DATE, 19: csv.DATETIME}.get(len(sample))


def _table(ids: pl.Series | None) -> Any:
    """(table, ids in it, spans) with the given ids numbered in their order."""
    from recsys import csv_kernels as csv

    empty = np.empty(0, np.int32), np.empty(0, np.uint64), np.empty(0, np.float32)
    spans = np.empty((1024, 2), np.int64)
    table = (csv.new_table(1024), 0, spans)
    if ids is None:
        return table
    lines = "\n".join(ids).encode()
    data = _readonly(np.frombuffer(lines + b"\n" + bytes(csv.PADDING), np.uint8))
    rows = len(ids)
    users, keys = np.empty(rows, np.int32), np.empty(rows, np.uint64)
    none = (csv.new_table(2), 0, np.empty((1, 2), np.int64))
    _, _, _, table, _ = csv.parse_rows(
        data, 0, len(lines) + 1, 0, 10, 1, 1, 0, -1, -1, -1, csv.NO_TIME, table, none,
        False, False, users, keys, empty[2],
    )  # fmt: skip
    return table


def _regions(
    text: _Text, n: int
) -> tuple[list[tuple[npt.NDArray[np.uint8], int, int]], tuple[npt.NDArray[np.uint8], int, int]]:
    """The rows in n regions of the mapped file, and a padded copy of the last few.

    Kernels read whole words, up to 7 bytes beyond a row: behind the last row of the map there must
    be something to read.
    """
    from recsys import csv_kernels as csv

    data, size = text.data, text.data.size
    last = max(text.begin, size - 4096)
    last = _row_start(text, data, last, size) if last > text.begin else text.begin
    ending = data[last:].tobytes()
    end = b"\r\n" if text.skip == 2 else b"\n"
    if ending and not ending.endswith(end):
        ending += end
    padded = _readonly(np.frombuffer(ending + bytes(csv.PADDING), np.uint8))
    edges = [
        _row_start(text, data, text.begin + (last - text.begin) * part // n, last)
        for part in range(1, n)
    ]
    edges = [text.begin, *edges, last]
    regions = [(data, edges[i], edges[i + 1]) for i in range(n) if edges[i] < edges[i + 1]]
    return regions, (padded, 0, len(ending))


def _row_start(text: _Text, data: npt.NDArray[np.uint8], at: int, stop: int) -> int:
    """First start of a row at or behind `at`."""
    step = 1 << 16
    low = max(at - text.skip, 0)
    while low < stop:
        found = np.flatnonzero(data[low : low + step] == text.terminator)
        if found.size:
            return min(low + int(found[0]) + text.skip, stop)
        low += step
    return stop


def _readonly(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """As a mapped file is, so that a kernel is compiled for one array type only."""
    data.flags.writeable = False
    return data


def _merge(
    found: list[tuple[npt.NDArray[np.uint8], tuple[Any, int, Any]]], fixed: pl.Series | None
) -> tuple[pl.Series, list[npt.NDArray[np.int32]]]:
    """All ids, sorted (or as given), and for each region the final number of its own numbers."""
    from recsys import csv_kernels as csv

    if fixed is not None:
        return fixed, [np.arange(len(fixed), dtype=np.int32) for _ in found]
    table, n = csv.new_table(1024), 0
    mappings, texts = [], []
    for data, (own, own_n, spans) in found:
        before = n
        mapping = np.empty(own_n, np.int32)
        table, n = csv.merge(table, n, own, own_n, mapping)
        mappings.append(mapping)
        new = spans[:own_n][mapping >= before]
        out = np.empty(int(new[:, 1].sum()) + new.shape[0], np.uint8)
        csv.copy_spans(data, new, new.shape[0], out)
        texts.append(out.tobytes())
    lines = b"".join(texts)
    if lines.count(b"\n") != n or b"\r" in lines or b"\x1e" in lines:
        raise ValueError("an id that is not one line")
    ids = pl.read_csv(
        io.BytesIO(lines),
        has_header=False,
        new_columns=["id"],
        schema_overrides={"id": pl.String},
        quote_char=None,
        separator="\x1e",
        infer_schema=False,
    )["id"] if n else pl.Series("id", [], pl.String)  # fmt: skip
    order = ids.arg_sort().to_numpy()
    rank = np.empty(n, np.int32)
    rank[order] = np.arange(n, dtype=np.int32)
    return ids.gather(order), [rank[mapping] for mapping in mappings]


def _collect(
    parsed: list[_Region],
    ids: list[pl.Series],
    maps: list[list[npt.NDArray[np.int32]]],
    fixed: tuple[bool, bool],
    unit: TimeUnit,
    limit: int,
    timed: bool,
    rated: bool,
) -> Interactions:
    """Renumber the pieces and bring the events into the order of users."""
    from recsys import csv_kernels as csv

    n_users = len(ids[0])
    losses = np.zeros((len(parsed), len(REASONS)), np.int64)
    counts = np.zeros((len(parsed), n_users), np.int64)

    def renumber(at: int) -> None:
        for users, keys, _ in parsed[at].pieces:
            csv.renumber(users, keys, maps[0][at], maps[1][at], counts[at], limit, losses[at])

    with ThreadPoolExecutor(len(parsed)) as pool:
        list(pool.map(renumber, range(len(parsed))))
    dropped = {why: int(n) for why, n in zip(REASONS, losses.sum(axis=0), strict=True) if n}
    total = int(counts.sum())
    if total == 0:
        reasons = "; ".join(f"{n} {why}" for why, n in dropped.items()) or "the table is empty"
        raise InputError(f"no interaction is left to work with ({reasons})")
    # Ids that stand in rows without a part or dated in the future alone are none of the table's.
    strange = not all(fixed) and bool(losses[:, [0, 3]].any())
    seen = _seen(parsed, ids, fixed, counts.sum(axis=0)) if strange else None

    def known(found: Interactions) -> Interactions:
        return found if seen is None else found.keep(*seen)

    if rated:
        users, keys, values = (
            np.concatenate([piece[part] for region in parsed for piece in region.pieces])
            for part in range(3)
        )
        keep = users >= 0
        keys = keys[keep]
        return known(
            Interactions.from_events(
                ids[0], ids[1], users[keep], (keys >> np.uint64(32)).astype(np.int32),
                (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32) if timed else None, values[keep],
                time_unit=unit, dropped=dropped,
            )
        )  # fmt: skip
    ptr = np.zeros(n_users + 1, np.int64)
    np.cumsum(counts.sum(axis=0), out=ptr[1:])
    cursors = np.cumsum(counts, axis=0) - counts + ptr[:-1]
    keys = np.empty(total, np.uint64)

    def scatter(at: int) -> None:
        for users, piece, _ in parsed[at].pieces:
            csv.scatter_keys(users, piece, cursors[at], keys)
        parsed[at].pieces.clear()

    with ThreadPoolExecutor(len(parsed)) as pool:
        list(pool.map(scatter, range(len(parsed))))
    items, times = sorted_keys(ptr, keys)
    return known(
        Interactions(ids[0], ids[1], ptr, items, times if timed else None, None, unit, dropped)
    )


def _seen(
    parsed: list[_Region], ids: list[pl.Series], fixed: tuple[bool, bool], counts: Any
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which users and items stand in a whole row dated in the past, by renumbered pieces."""
    users = (counts > 0) | fixed[0]
    items = np.full(len(ids[1]), fixed[1])
    for region in parsed:
        for rows, keys, _ in region.pieces:
            users[-3 - rows[rows <= -3]] = True
            if not fixed[1]:
                items[(keys[(rows >= 0) | (rows == -2)] >> np.uint64(32)).astype(np.int64)] = True
    return users, items
