"""FACAD (Yang et al. 2020, arXiv 2008.02693) -> `Source`, streamed: files may be 100 GB and more.

The authors' preprocessed files, per part {TRAIN,VAL,TEST}: `{PART}_IMAGES_5.hdf5` (dataset
`images`, uint8 (n, 3, 256, 256)) and, row by row beside it, `{PART}_CAPTIONS_5.json` (word
numbers), `{PART}_CAPLENS_5.json`, `{PART}_ATTRS_5.json`, `{PART}_CATES_5.json`; `WORDMAP_5.json`
names the words. Or the crawled `meta_all_129927.json`, one object an item; or `id.jpg,text` lines.

Nothing in the files says which photo a row shows, so every count and every length is compared and
attributes must be words of their own caption; a file that fails is refused, not guessed at.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption import InputError
from caption.flickr import read_flickr
from caption.records import CaptionExample, CaptionSet
from caption.sources import Finding, Source, Tally, photo_files

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FACAD_PARTS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}
SIDES = ("CAPTIONS", "CAPLENS", "ATTRS", "CATES")
FILLERS = frozenset({"<pad>", "<unk>", "<start>", "<end>", "nah", ""})
LONGEST_ITEM = 1 << 26
"""Characters of one JSON item; more than that is a broken file, not an item."""
BLOCK = 500
"""Rows whose attributes are compared with their captions together."""
TOLERATED = 0.01
"""Share of rows with a wrong length that is left out rather than refused."""
JPEG_QUALITY = 95
TWO_CAPTIONS = "photo that stands under different captions"


def read_facad(folder: Path, *, name: str = "facad") -> Source:
    """Read captions, attributes and categories; photos of the HDF5 files come by `export_photos`.

    Ids are `<part>-<row, 7 digits>` (HDF5) or the item's id (meta); a category is its number.
    Raises InputError: files missing, unreadable or out of step (see `facad_findings`).
    """
    parts, findings = _parts(folder)
    if not parts:
        return _read_meta(folder, name)
    words = _words(folder)
    examples: list[CaptionExample] = []
    notes = list(findings)
    for part in parts:
        found, more = _read_part(folder, part, words, examples)
        if found:
            raise InputError(f"{folder} is out of step: {'; '.join(map(str, found))}")
        notes += more
    if not examples:
        raise InputError(f"{folder}: no row with a caption is left")
    return Source(CaptionSet(name, tuple(examples)), tuple(notes))


def facad_findings(folder: Path) -> tuple[Finding, ...]:
    """What is wrong with the authors' files, without refusing anything; reads the JSON files only.

    Counts that differ between the files of a part, caption lengths that are not the stated ones,
    blocks of rows whose attributes are not words of their captions, missing files.
    """
    parts, findings = _parts(folder)
    if not parts:
        return _read_meta(folder, "facad").findings
    words = _words(folder)
    notes = list(findings)
    for part in parts:
        found, more = _read_part(folder, part, words, [])
        notes += [*found, *more]
    return tuple(notes)


def export_photos(
    folder: Path, examples: Sequence[CaptionExample], out: Path, *, progress: Any = None
) -> tuple[dict[str, Path], tuple[Finding, ...]]:
    """Write the examples' rows of the HDF5 files as JPEG files, reading one row at a time.

    A file that is there already is not written again, so an interrupted export goes on.
    Returns (id -> path below `out`, findings): blank photos have no path, and neither have photos
    that stand under different captions, because which caption is theirs can't be told.
    Raises InputError when h5py is not installed or a file is not HDF5.
    """
    from PIL import Image

    rows: dict[str, dict[int, CaptionExample]] = {}
    for e in examples:
        part, _, number = e.id.partition("-")
        rows.setdefault(part, {})[int(number)] = e
    tally = Tally()
    paths: dict[str, Path] = {}
    shown: dict[bytes, list[CaptionExample]] = {}
    for part, wanted in rows.items():
        for row, pixels in photo_rows(folder, part, sorted(wanted)):
            e = wanted[row]
            if not pixels.any():
                tally.add("blank photo", e.id, "left out", wrong=True)
                continue
            shown.setdefault(photo_digest(pixels), []).append(e)
            path = paths[e.id] = out / part / f"{row:07d}.jpg"
            if not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                scratch = path.with_name(f".{path.name}.tmp-{os.getpid()}")
                picture = Image.fromarray(pixels.transpose(1, 2, 0))
                picture.save(scratch, format="JPEG", quality=JPEG_QUALITY, subsampling=0)
                os.replace(scratch, path)
            if progress is not None and len(paths) % 100 == 0:
                progress("writing photos", len(paths), len(examples))
    for same in shown.values():
        if len({e.captions for e in same}) > 1:
            for e in same:
                tally.add(
                    TWO_CAPTIONS, f"{same[0].id} and {same[-1].id}",
                    "left out: a photo that could not be fetched was replaced by another's",
                    wrong=True,
                )  # fmt: skip
                paths.pop(e.id).unlink(missing_ok=True)
    return paths, tally.findings()


def photo_digest(pixels: "NDArray[np.uint8]") -> bytes:
    """Content hash of a photo's pixels (16 bytes)."""
    import hashlib

    return hashlib.blake2b(pixels.tobytes(), digest_size=16).digest()


def photo_rows(
    folder: Path, part: str, rows: Sequence[int] | None = None
) -> Iterator[tuple[int, "NDArray[np.uint8]"]]:
    """(row, photo uint8 (3, 256, 256)) of a part ("train", "validation", "test"), one at a time.

    rows: ascending; None gives all. Raises InputError like `export_photos`.
    """
    path = _hdf5(folder, {v: k for k, v in FACAD_PARTS.items()}[part])
    with _open(path) as file:
        images = file["images"]
        for row in range(len(images)) if rows is None else rows:
            try:
                yield row, images[row]
            except OSError as error:
                raise InputError(
                    f"{path}: photo {row} can't be read ({error}): the file is incomplete, get it "
                    "again"
                ) from error


def json_items(path: Path, *, chunk: int = 1 << 20) -> Iterator[Any]:
    """Items of a JSON file that is one array, one at a time, read `chunk` characters at once.

    Raises InputError when the file is missing or no such array.
    """
    decoder = json.JSONDecoder()
    if not path.is_file():
        raise InputError(f"{path} is missing")
    try:
        with path.open(encoding="utf-8") as file:
            text, at = file.read(chunk).lstrip(), 1
            if not text.startswith("["):
                raise InputError(f"{path}: expected a JSON array")
            while True:
                # An item that ends with the buffer may go on ("12" of "123", "1." of "1.5"): take
                # it only with what may stand behind it.
                try:
                    at = _skip(text, at)
                    if text.startswith("]", at):
                        return
                    item, end = decoder.raw_decode(text, at)
                    end = _skip(text, end, " \t\r\n")
                    if text[end : end + 1] in (",", "]"):
                        yield item
                        at = end
                        continue
                except (json.JSONDecodeError, IndexError):
                    pass
                more = file.read(chunk) if len(text) - at < LONGEST_ITEM else ""
                if not more:
                    raise InputError(
                        f"{path} is not a whole JSON array: it breaks off or is broken near "
                        f"{text[at : at + 60]!r}"
                    )
                text, at = text[at:] + more, 0
    except (UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error


def _skip(text: str, at: int, what: str = " \t\r\n,") -> int:
    while at < len(text) and text[at] in what:
        at += 1
    return at


def _parts(folder: Path) -> tuple[list[str], tuple[Finding, ...]]:
    """The parts that are there, and whether their counts agree with the photos'."""
    tally = Tally()
    parts = [p for p in FACAD_PARTS if (folder / f"{p}_CAPTIONS_5.json").is_file()]
    for part in parts:
        if not _hdf5(folder, part).is_file():
            tally.add(f"missing {_hdf5(folder, part).name}", part, "the part has no photos")
    if parts and len(parts) < len(FACAD_PARTS):
        absent = ", ".join(p for p in FACAD_PARTS if p not in parts)
        tally.add("missing part", absent, "the set is what the others hold")
    return parts, tally.findings()


def _read_part(
    folder: Path, part: str, words: Mapping[int, str], examples: list[CaptionExample]
) -> tuple[list[Finding], tuple[Finding, ...]]:
    """Append the part's examples; returns (why it has to be refused, what else was found)."""
    counts = dict.fromkeys(SIDES, 0)
    tally = Tally()
    blocks: list[tuple[int, int]] = []
    hit = total = lengths = 0
    split = FACAD_PARTS[part]
    start = len(examples)
    paths = [folder / f"{part}_{side}_5.json" for side in SIDES]
    present = [path for path in paths if path.is_file()]
    for path in paths:
        if path not in present:
            tally.add(f"missing {path.name}", part, "left empty")
            counts.pop(path.name.split("_")[1])
    streams = [json_items(path) if path in present else iter(()) for path in paths]
    absent = object()
    row = -1
    for row, (caption, length, attrs, cate) in enumerate(zip_longest(*streams, fillvalue=absent)):
        for side, value in zip(SIDES, (caption, length, attrs, cate), strict=True):
            if value is not absent:
                counts[side] += 1
        if caption is absent:
            continue
        numbers = _flat(caption)
        text = [w for n in numbers if (w := _word(n, words)) not in FILLERS]
        attributes = () if attrs is absent else _attributes(attrs, words)
        hit += len(set(attributes) & set(text))
        total += len(attributes)
        if (row + 1) % BLOCK == 0:
            blocks.append((hit, total))
            hit = total = 0
        if length is not absent and not _length_fits(numbers, _flat(length), words):
            lengths += 1
            where = f"{split}-{row:07d}"
            tally.add("caption of another length than stated", where, "left out", wrong=True)
            continue
        if not text:
            tally.add("row without a caption", f"{split}-{row:07d}", "left out")
            continue
        category = "" if cate is absent else str(next(iter(_flat(cate)), ""))
        examples.append(
            CaptionExample(
                f"{split}-{row:07d}", None, (" ".join(text),), attributes, category, split
            )
        )
    if total:
        blocks.append((hit, total))
    refused = _count_mismatch(folder, part, counts)
    if lengths > TOLERATED * (row + 1):
        refused.append(_refusal(part, f"{lengths:,} captions of another length than stated"))
    refused += _shifted(part, blocks)
    if refused:
        del examples[start:]
    return refused, tally.findings()


def _count_mismatch(folder: Path, part: str, counts: Mapping[str, int]) -> list[Finding]:
    every = dict(counts)
    if _hdf5(folder, part).is_file():
        with _open(_hdf5(folder, part)) as file:
            every = {"IMAGES": len(file["images"]), **counts}
    if len(set(every.values())) <= 1:
        return []
    return [_refusal(part, ", ".join(f"{n:,} {side.lower()}" for side, n in every.items()))]


def _shifted(part: str, blocks: Sequence[tuple[int, int]]) -> list[Finding]:
    """Blocks in which far fewer attributes are words of their caption than in the best ones."""
    shares = [hit / total if total else None for hit, total in blocks]
    known = sorted(s for s in shares if s is not None)
    if not known or (usual := known[int(0.9 * (len(known) - 1))]) < 0.2:
        return []  # attributes that are not taken from the captions say nothing about their order
    low = [i for i, s in enumerate(shares) if s is not None and s < usual / 2]
    if not low:
        return []
    share = shares[low[0]] or 0.0
    return [
        _refusal(
            part,
            f"rows {low[0] * BLOCK:,} to {(low[0] + 1) * BLOCK - 1:,}: {share:.0%} of the "
            f"attributes stand in their caption, elsewhere {usual:.0%}",
            len(low),
        )
    ]


def _refusal(part: str, example: str, count: int = 1) -> Finding:
    return Finding(
        f"file out of step in {part}",
        count,
        example,
        "captions would go to the wrong photos: get the part's files again, all from one place",
        wrong=True,
    )


def _length_fits(numbers: Sequence[Any], stated: Sequence[Any], words: Mapping[int, str]) -> bool:
    """Stated lengths count from <start> to <end>; some copies count the words alone."""
    tokens = [w for n in numbers if (w := _word(n, words)) != "<pad>"]
    inner = [w for w in tokens if w not in ("<start>", "<end>")]
    return bool(stated) and stated[0] in (len(tokens), len(inner))


def _attributes(value: Any, words: Mapping[int, str]) -> tuple[str, ...]:
    found = (_word(n, words) for n in _flat(value))
    return tuple(dict.fromkeys(w for w in found if w not in FILLERS))


def _word(item: Any, words: Mapping[int, str]) -> str:
    return words.get(item, "<unk>") if isinstance(item, int) else str(item).strip().lower()


def _flat(value: Any) -> list[Any]:
    if isinstance(value, list):
        return [x for item in value for x in (_flat(item) if isinstance(item, list) else [item])]
    return [value]


def _words(folder: Path) -> dict[int, str]:
    path = folder / "WORDMAP_5.json"
    try:
        numbers = json.loads(path.read_bytes())
        words = {int(number): str(word) for word, number in numbers.items()}
    except (OSError, ValueError, AttributeError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} can't be read as word -> number ({error}): captions are stored as numbers and "
            "need it"
        ) from error
    if len(words) != len(numbers):
        raise InputError(f"{path} gives the same number to several words: get it again")
    return {0: "<pad>", **words}


def _read_meta(folder: Path, name: str) -> Source:
    """The crawl: one example an item, its text the description (or title), colours added."""
    files = sorted(folder.glob("meta_all*.json")) if folder.is_dir() else [folder]
    if folder.suffix == ".txt" or (not files and any(folder.glob("train_*.txt"))):
        return read_flickr(folder, name=name)
    if not files:
        raise InputError(
            f"{folder} holds no FACAD files: expected {{TRAIN,VAL,TEST}}_CAPTIONS_5.json with "
            "_IMAGES_5.hdf5, or meta_all_129927.json"
        )
    photos = photo_files(folder if folder.is_dir() else folder.parent)
    tally = Tally()
    examples = []
    seen: set[str] = set()
    for row, item in enumerate(json_items(files[0])):
        try:
            id = str(item["id"])
            text = item.get("description") or item.get("detail_info") or item.get("title") or ""
            text = " ".join((" ".join(text) if isinstance(text, list) else str(text)).split())
            colours = [str(i["color"]).lower() for i in item.get("images") or () if i.get("color")]
            attributes = [str(a).lower() for a in _flat(item.get("attr") or [])]
            category = str(item.get("categoryid") or "")
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{files[0]}: item {row} is not FACAD's ({error!r}); expected an object with id, "
                "images[{color}], title, description, categoryid, attr"
            ) from error
        if not item.get("description"):
            tally.add("item without a description", id, "detail_info or the title stands in")
        if not text or id in seen:
            kind = "item id that came before" if id in seen else "item without any text"
            tally.add(kind, id, "left out")
            continue
        seen.add(id)
        photo = photos.get(f"{id}.jpg") or photos.get(f"{id}.jpeg")
        words = tuple(dict.fromkeys(a for a in [*attributes, *colours] if a not in FILLERS))
        examples.append(CaptionExample(id, photo, (text,), words, category))
    if photos and any(e.image is None for e in examples):
        for e in examples:
            if e.image is None:
                tally.add("item whose photo is missing", e.id, "left out")
        examples = [e for e in examples if e.image is not None]
    if not photos:
        tally.add("missing photos", f"{files[0].name} names them by URL", "the set is text-only")
    if not examples:
        raise InputError(f"{files[0]}: no item with text is left")
    return Source(CaptionSet(name, tuple(examples)), tally.findings())


def _hdf5(folder: Path, part: str) -> Path:
    return folder / f"{part}_IMAGES_5.hdf5"


def _open(path: Path) -> Any:
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError:
        raise InputError(
            f"{path.name} needs h5py, which is not installed: pip install 'fcr[facad]'"
        ) from None
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise InputError(f"{path} is not a whole HDF5 file ({error}): get it again") from error
    images = file.get("images")
    shape: tuple[int, ...] = getattr(images, "shape", ())
    if len(shape) != 4 or shape[1] != 3 or str(getattr(images, "dtype", "")) != "uint8":
        found = "none" if images is None else f"{getattr(images, 'dtype', 'a group')} {shape}"
        file.close()
        raise InputError(
            f"{path}: expected the dataset `images`, uint8 (n, 3, 256, 256), found {found}"
        )
    return file
