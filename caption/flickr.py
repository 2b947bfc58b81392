"""Flickr30k and Flickr8k in every form they are passed around in -> `Source`.

| file | line |
|---|---|
| results.csv | `image_name\\| comment_number\\| comment` |
| captions.txt | `image,caption`, or `image_name,comment_number,comment` |
| Flickr8k.token.txt, results_20130124.token | `image#i<TAB>caption` |
| dataset_flickr30k.json, dataset_flickr8k.json | Karpathy's JSON with his splits |
| flickr_annotations_30k.csv | raw (JSON list of captions), split, filename (the hub's copy) |
| {part}.{1-5}.en[.gz] beside {part}_images.txt | one caption a line, in step with the names |

Flickr8k's own parts are read from `Flickr_8k.{train,dev,test}Images.txt`. Lines are read one by
one: a text file costs the memory of the captions it holds, not of the file.
"""

import csv
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path

from caption import InputError
from caption.sources import PARTS, Collector, Source, caption_json, photo_files, read_coco

# The last two are FACAD's in the same form.
TEXT_FILES = (
    "results.csv", "captions.txt", "captions.csv", "Flickr8k.token.txt", "Flickr8k.token",
    "results_20130124.token", "train_title.txt", "train_description.txt",
)  # fmt: skip
LONGEST_LINE = 1 << 20
"""Bytes; a few kilobytes of gzip can unpack to a line of gigabytes."""
HUB_TABLE = "flickr_annotations_30k.csv"
_TOKEN = re.compile(r"(?P<image>[^\t#]+)#(?P<number>\d+)(?P<gap>\s+)(?P<text>.*)")
_PIPE = re.compile(r"(?P<image>[^|]+)\|\s*(?P<number>\d+)\s*(?P<gap>\|?)(?P<text>.*)")
_NUMBERED = re.compile(r"(?P<image>[^,]+),\s*(?P<number>\d+)\s*(?P<gap>,)(?P<text>.*)")
_PLAIN = re.compile(r"(?P<image>[^,]+)(?P<gap>,)(?P<text>.*)")


def read_flickr(folder: Path, *, name: str = "flickr30k") -> Source:
    """Read the captions of a folder, or of one file; photos may lie anywhere below.

    Without any photo file the set is text-only. Ids are file names without ending.
    Raises InputError: no known file, a file in no known form, parts out of step, nothing left.
    """
    if not folder.exists():
        raise InputError(f"{folder} does not exist: give the folder of the captions and photos")
    base = folder.parent if folder.is_file() else folder
    if folder.suffix == ".json" or (folder.is_dir() and list(folder.glob("dataset_*.json"))):
        return read_coco(folder, name=name)
    collector = Collector(name, photo_files(base) or None)
    aligned = sorted(base.glob("*_images.txt"))
    texts = [folder] if folder.is_file() else [p for f in TEXT_FILES if (p := folder / f).is_file()]
    hub = base / HUB_TABLE
    if hub.is_file() and not texts:
        _read_hub(hub, collector)
    elif texts:
        _read_lines(texts[0], collector)
        _own_parts(base, collector)
    elif aligned:
        for names in aligned:
            _read_aligned(names, collector)
    elif caption_json(base):
        return read_coco(base, name=name)
    else:
        below = next((p.parent for f in TEXT_FILES for p in sorted(base.glob(f"*/{f}"))), None)
        instead = f", but {below} does: give that" if below else ""
        raise InputError(
            f"{folder} holds no captions{instead}: expected one of {', '.join(TEXT_FILES)}, a "
            "Karpathy dataset_*.json, or {part}_images.txt with {part}.1.en.gz"
        )
    if collector.text_only:
        collector.tally.add("missing photos", str(base), "the set is text-only")
    return collector.source()


def read_lines(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Lines of a text file (gzip by its name), numbered from 1: (number, line, is valid UTF-8).

    Bytes that are no UTF-8 become U+FFFD; a byte order mark and line ends go.
    Raises InputError when the file can't be read.
    """
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            for number, raw in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), b""), 1):
                if len(raw) > LONGEST_LINE:
                    raise InputError(
                        f"{path} line {number} is longer than {LONGEST_LINE:,} bytes: that is no "
                        "file of captions"
                    )
                if number == 1:
                    raw = raw.removeprefix(b"\xef\xbb\xbf")
                try:
                    yield number, raw.decode().rstrip("\r\n"), True
                except UnicodeDecodeError:
                    yield number, raw.decode(errors="replace").rstrip("\r\n"), False
    except (OSError, EOFError) as error:
        raise InputError(f"{path} can't be read: {error}") from error


def _read_lines(path: Path, collector: Collector) -> None:
    tally = collector.tally
    form: re.Pattern[str] | None = None
    for number, line, valid in read_lines(path):
        where = f"{path.name} line {number}"
        if not valid:
            tally.add("line that is not UTF-8", where, "read with replacement characters")
        if not line.strip():
            continue
        if form is None:
            form, is_header = _form(line, path)
            if is_header:
                continue
        match = form.fullmatch(line.strip())
        if match is None:
            tally.add("line in another form than the first", f"{where}: {line}", "left out")
            continue
        image, text = match["image"].strip(), _unquoted(match["text"].strip())
        if form is _TOKEN and "\t" not in match["gap"]:
            tally.add(
                "line with a space where the tab should be", f"{where}: {line}",
                "read as a tab; a reader that splits at tabs loses the line or shifts its captions",
                wrong=True,
            )  # fmt: skip
        if form is _PIPE and not match["gap"]:
            tally.add(
                "line without the second separator", f"{where}: {line}",
                "what follows the number is read as the caption", wrong=True,
            )  # fmt: skip
        collector.caption(image, text, where)
    if form is None:
        raise InputError(f"{path} is empty: expected a caption a line")


def _form(line: str, path: Path) -> tuple[re.Pattern[str], bool]:
    """How the file separates its fields, told by its first line, and whether that is a header."""
    names = [part.strip().strip('"').lower() for part in re.split(r"[|,\t]", line)]
    is_header = names[0] in ("image", "image_name", "filename", "image_id")
    if (is_header and "|" in line) or _PIPE.fullmatch(line):
        return _PIPE, is_header
    if re.match(r"[^\t,]+#\d+\s", line):
        return _TOKEN, False
    if is_header and len(names) == 3:
        return _NUMBERED, True
    if "," in line:
        return _PLAIN, is_header
    raise InputError(
        f"{path}: the first line {line[:80]!r} is in no known form; expected `image,caption`, "
        "`image_name| comment_number| comment` or `image#number<TAB>caption`"
    )


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"')
    return text


def _own_parts(folder: Path, collector: Collector) -> None:
    for path in sorted(folder.glob("*Images.txt")):
        if part := re.search("train|dev|val|test", path.name):
            for _, line, _ in read_lines(path):
                if line.strip():
                    collector.photo(line.strip(), PARTS[part[0]])


def _read_hub(path: Path, collector: Collector) -> None:
    with path.open(encoding="utf-8", errors="replace", newline="") as file:
        table = csv.DictReader(file)
        try:
            for row in table:
                image, part, texts = row["filename"], row["split"], json.loads(row["raw"])
                if not image or part is None or not isinstance(texts, list):
                    raise ValueError(f"line {table.line_num} lacks a part")
                collector.photo(image, part)
                for text in texts:
                    collector.caption(image, str(text), f"{path.name} {image}")
        except (KeyError, TypeError, ValueError, RecursionError, csv.Error) as error:
            raise InputError(
                f"{path} is not the hub's table ({error!r}); expected the columns raw (a JSON list "
                "of captions), split, filename"
            ) from error


def _read_aligned(names: Path, collector: Collector) -> None:
    part = names.name.removesuffix("_images.txt")
    images = [line.strip() for _, line, _ in read_lines(names)]
    files = sorted([*names.parent.glob(f"{part}.*.en"), *names.parent.glob(f"{part}.*.en.gz")])
    if not files:
        raise InputError(f"{names}: no captions beside it; expected {part}.1.en or {part}.1.en.gz")
    for image in images:
        collector.photo(image, part)
    for path in files:
        number = 0
        for number, line, _ in read_lines(path):
            if number <= len(images):
                collector.caption(images[number - 1], line, f"{path.name} line {number}")
        if number != len(images):
            raise InputError(
                f"{path} has {number:,} lines, {names.name} names {len(images):,} photos: the two "
                "are out of step, so captions would go to the wrong photos. Get both files again"
            )
