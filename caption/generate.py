"""Captions for a whole catalogue: streamed, in fixed batches, resumable after a kill."""

import hashlib
import io
import json
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from caption import InputError
from caption.captioners import Captioner
from caption.images import UnreadableImage, prepared_images
from caption.records import write_atomically

Item = tuple[str, Path]
"""(article id, photo)."""

Row = tuple[str, str | None, float | None, str | None]
DIGEST = "sha256"
"""Where a shard's metadata keeps the digest of its rows."""
SCHEMA = {
    "article_id": pl.String,
    "caption": pl.String,
    "logprob": pl.Float64,
    "reason": pl.String,
}
"""Columns of a shard: a caption with its log-probability, or the reason why there is none."""


@dataclass(frozen=True)
class Elsewhere:
    """A captioner in other processes, which call `describe_shard` with one of equal fingerprint."""

    name: str
    fingerprint: str
    describe: Callable[
        [Sequence[Sequence[Item]], Mapping[str, int]], Generator[tuple[int, list[Row]], None, None]
    ]
    """describe(shards, settings) yields (number of a shard, its rows) in any order, each once;
    settings are keyword arguments of `describe_shard`."""


@dataclass(frozen=True)
class GenerateResult:
    """What a catalogue run wrote."""

    captions: Path
    """`captions.parquet`: article_id, caption, captioner, logprob (natural log, 4 decimals)."""
    skipped: Path
    """`skipped.parquet`: article_id, reason."""
    n_captions: int
    n_skipped: int
    n_reused: int
    """Items whose finished shard was found from an earlier call."""


def caption_catalogue(
    captioner: Captioner | Elsewhere,
    items: Sequence[Item],
    out: Path,
    *,
    label: str | None = None,
    beams: int = 1,
    max_new_tokens: int = 50,
    batch_size: int = 64,
    shard_size: int = 1024,
    workers: int = 2,
    progress: Callable[[str, int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> GenerateResult:
    """Describe every photo and write `captions.parquet` and `skipped.parquet` into `out`.

    Finished shards lie under `out/shards`, each named by a hash of everything its captions depend
    on (weights, settings, ids, sizes and dates of its photos): a killed run called again computes
    only what is missing and ends in the same bytes as an undisturbed one; shards of other settings
    or photos are deleted, not reused. A photo that cannot be read, or for which the captioner
    writes nothing, goes to `skipped.parquet` with the reason.

    captioner: one in this process, or one elsewhere, which writes the same captions.
    items: (article id, photo) with unique ids; the rows come in this order.
    label: value of the captioner column (default: the captioner's name).
    beams: 1 is greedy search. batch_size: photos generated at once. shard_size: items a shard;
        rounded up to whole batches. workers: threads that decode photos, and on a CPU also the
        number of batches generated at the same time.
    progress: called as progress("captioning", done, total) after every batch.
    stop: asked after every shard; raises KeyboardInterrupt when it says so, the shard being kept.
    Raises InputError: no items, an id twice, a size below 1.
    """
    if min(batch_size, shard_size, workers, beams, max_new_tokens) < 1:
        raise InputError(
            f"batch_size={batch_size}, shard_size={shard_size}, workers={workers}, beams={beams}, "
            f"max_new_tokens={max_new_tokens}: all have to be at least 1"
        )
    ids = [id for id, _ in items]
    if not ids or len(set(ids)) != len(ids):
        raise InputError(
            f"items: {len(ids)} given, {len(set(ids))} distinct ids; expected at least one, and "
            "every id once"
        )
    searched = {"beams": beams, "max_new_tokens": max_new_tokens, "batch_size": batch_size}
    known = captioner.fingerprint
    settings = {"captioner": known if isinstance(known, str) else known(), **searched}
    shards = _plan(items, settings, out / "shards", -(-shard_size // batch_size) * batch_size)
    found = {path: _read(path, own) for path, own in shards}
    finished = {path: frame for path, frame in found.items() if frame is not None}
    n_reused = done = sum(len(own) for path, own in shards if path in finished)
    missing = [(path, own) for path, own in shards if path not in finished]

    def count(n: int) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress("captioning", done, len(items))

    contents = [own for _, own in missing]
    if isinstance(captioner, Elsewhere):
        described = captioner.describe(contents, searched)
    else:
        described = _one_by_one(captioner, contents, searched, workers, count)
    with closing(described):
        for number, rows in described:
            path, own = missing[number]
            if isinstance(captioner, Elsewhere):
                count(len(own))
            if _key(settings, own) not in path.name:
                raise InputError(
                    f"a photo of {own[0][0]} to {own[-1][0]} went or changed while it was "
                    "described: give the same command again; it goes on from here with the photos "
                    "as they are"
                )
            finished[path] = _frame(rows)
            _write_parquet(finished[path], path, {DIGEST: _digest(finished[path])})
            if stop is not None and stop():
                raise KeyboardInterrupt
    return _join([finished[path] for path, _ in shards], out, label or captioner.name, n_reused)


def describe_shard(
    captioner: Captioner,
    items: Sequence[Item],
    *,
    beams: int,
    max_new_tokens: int,
    batch_size: int,
    workers: int = 1,
) -> list[Row]:
    """The rows of one shard, in order: the bytes that `caption_catalogue` would write."""
    batches = _described(captioner, [items], beams, max_new_tokens, batch_size, workers)
    return [row for batch in batches for row in batch]


def _one_by_one(
    captioner: Captioner,
    shards: Sequence[Sequence[Item]],
    searched: Mapping[str, int],
    workers: int,
    count: Callable[[int], None],
) -> Generator[tuple[int, list[Row]], None, None]:
    """(number, rows) of every shard in this process; `count` hears of every batch."""
    with closing(_described(captioner, shards, **searched, workers=workers)) as batches:
        for number, own in enumerate(shards):
            rows: list[Row] = []
            while len(rows) < len(own):  # batches do not cross shards
                batch = next(batches)
                rows.extend(batch)
                count(len(batch))
            yield number, rows


def _described(
    captioner: Captioner,
    shards: Sequence[Sequence[Item]],
    beams: int,
    max_new_tokens: int,
    batch_size: int,
    workers: int,
) -> Generator[list[Row], None, None]:
    """The rows of every batch, in order. On a CPU `workers` batches are generated side by side.

    One computing thread a batch: small layers gain nothing from more, threads that wait for each
    other lose much on a busy machine, and the sums do not depend on the number of cores.
    """
    import torch

    batches = [
        [id for id, _ in own[start : start + batch_size]]
        for own in shards
        for start in range(0, len(own), batch_size)
    ]
    opened = prepared_images(
        [photo for own in shards for _, photo in own],
        captioner.preprocess,
        at_least=captioner.image_size,
        workers=workers,
        ahead=4 * batch_size,
    )
    on_cpu = captioner.device.type == "cpu"
    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(
        workers if on_cpu else 1,
        initializer=(lambda: torch.set_num_threads(1)) if on_cpu else None,
    )
    pending: deque[Future[list[Row]]] = deque()
    try:
        for ids in batches:
            photos = [next(opened) for _ in ids]
            pending.append(pool.submit(_describe, captioner, ids, photos, beams, max_new_tokens))
            if len(pending) > 2 * workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        opened.close()
        torch.set_num_threads(threads)  # MKL's number is one for the whole process


def _describe(
    captioner: Captioner,
    ids: Sequence[str],
    photos: Sequence[NDArray[np.float32] | UnreadableImage],
    beams: int,
    max_new_tokens: int,
) -> list[Row]:
    """One row an item, in order; unreadable photos take no part in the batch."""
    pixels = [p for p in photos if not isinstance(p, UnreadableImage)]
    written = iter(
        captioner.generate(np.stack(pixels), beams=beams, max_new_tokens=max_new_tokens)
        if pixels
        else ()
    )
    rows: list[Row] = []
    for id, photo in zip(ids, photos, strict=True):
        if isinstance(photo, UnreadableImage):
            rows.append((id, None, None, photo.reason))
            continue
        new = next(written)
        if new.text:
            rows.append((id, new.text, round(new.logprob, 4), None))
        else:
            rows.append((id, None, None, "the captioner wrote nothing"))
    return rows


def _plan(
    items: Sequence[Item], settings: dict[str, Any], folder: Path, size: int
) -> list[tuple[Path, Sequence[Item]]]:
    """Shard files with their items; deletes every other file, and notes the settings for people."""
    shards = []
    for number, start in enumerate(range(0, len(items), size)):
        own = items[start : start + size]
        shards.append((folder / f"{number:05d}-{_key(settings, own)}.parquet", own))
    wanted = {path for path, _ in shards}
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(folder.iterdir()):
        if path not in wanted and path.is_file():
            path.unlink()
    manifest = {**settings, "items": len(items), "shards": [path.name for path, _ in shards]}
    write_atomically(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return shards


def _key(settings: dict[str, Any], own: Sequence[Item]) -> str:
    """What a shard's captions depend on."""
    about = json.dumps([settings, [(id, photo.name, *_stamp(photo)) for id, photo in own]])
    return hashlib.sha256(about.encode()).hexdigest()[:16]


def _stamp(photo: Path) -> tuple[int, int]:
    """Size and time of change: reading every byte of a catalogue would take minutes."""
    try:
        stat = photo.stat()
    except OSError:
        return (-1, -1)
    return (stat.st_size, stat.st_mtime_ns)


def _read(path: Path, own: Sequence[Item]) -> pl.DataFrame | None:
    """A finished shard; None when it is missing or cannot be one."""
    try:
        rows, metadata = pl.read_parquet(path), pl.read_parquet_metadata(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException):
        return None
    whole = rows.schema == pl.Schema(SCHEMA) and rows["article_id"].to_list() == [i for i, _ in own]
    return rows if whole and metadata.get(DIGEST) == _digest(rows) else None


def _digest(rows: pl.DataFrame) -> str:
    """Parquet itself does not notice a letter that changed on the disk."""
    return hashlib.sha256(json.dumps(rows.rows()).encode()).hexdigest()


def _frame(rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def _join(shards: Sequence[pl.DataFrame], out: Path, label: str, n_reused: int) -> GenerateResult:
    rows = pl.concat(shards)
    described = rows.filter(pl.col("reason").is_null())
    captions = described.select(
        "article_id", "caption", pl.lit(label).alias("captioner"), "logprob"
    )
    skipped = rows.filter(pl.col("reason").is_not_null()).select("article_id", "reason")
    result = GenerateResult(
        out / "captions.parquet",
        out / "skipped.parquet",
        captions.height,
        skipped.height,
        n_reused,
    )
    _write_parquet(skipped, result.skipped)
    _write_parquet(captions, result.captions)
    return result


def _write_parquet(frame: pl.DataFrame, path: Path, metadata: dict[str, str] | None = None) -> None:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, metadata=metadata)
    write_atomically(path, buffer.getvalue())
