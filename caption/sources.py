"""Datasets on disk -> `CaptionSet`: H&M articles with their photos, COCO and Karpathy JSON.

Readers repair what has one right reading, drop what has none, and say both as `Finding`s.
`flickr.py` and `facad.py` read the two datasets whose files need more care.
"""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caption import InputError
from caption.records import (
    CaptionExample,
    CaptionSet,
    component_split,
    normalise_text,
    whole,
)

if TYPE_CHECKING:
    import polars as pl

HM_COLUMNS = ("article_id", "product_code", "product_type_name", "detail_desc")
PARTS = {
    "train": "train", "restval": "train", "val": "validation", "valid": "validation",
    "dev": "validation", "validation": "validation", "test": "test",
}  # fmt: skip
"""What publishers call their parts -> what this project calls them."""
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
FILE_PATH = re.compile(r"\S*\.(?:jpe?g|png|gif|webp|bmp)", re.IGNORECASE)
"""A whole "caption" that is the path of a picture."""
PATH_CAPTION = '"caption" that is the path of a file'
LEAKED_SHARE = 0.01
"""Above this share of a split's captions, those it has in common with train decide its scores."""
OTHER_JSON = frozenset({"manifest.json", "findings.json", "prepare.json", "description.json"})
"""Files beside captions that hold none."""
ID_WORD = re.compile(r"\w*\d{6}\w*")


@dataclass(frozen=True)
class Finding:
    """Something about a dataset the user should know."""

    kind: str
    """What was found."""
    count: int
    example: str
    remedy: str
    """What a reader here does about it, or what the user should do."""
    wrong: bool = False
    """Results computed on the files as they stand would be wrong."""

    def __str__(self) -> str:
        """One line for the terminal."""
        return f"{self.count:,} x {self.kind} (e.g. {self.example}): {self.remedy}"


@dataclass(frozen=True)
class Source:
    """A dataset as it was read."""

    captions: CaptionSet
    """`split` is what the publisher says, "" where nothing does."""
    findings: tuple[Finding, ...] = ()
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """id -> keys that tie it to other examples (a product shown several times)."""


class Tally:
    """Counts findings of a kind, keeping the first example of each."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, str, bool], tuple[int, str]] = {}

    def add(self, kind: str, example: str, remedy: str, *, wrong: bool = False, n: int = 1) -> None:
        """`n` more of `kind`; nothing where n is 0."""
        if not n:
            return
        count, first = self._found.get((kind, remedy, wrong), (0, example))
        self._found[kind, remedy, wrong] = (count + n, first)

    def findings(self) -> tuple[Finding, ...]:
        """What was counted, in the order of first sight."""
        return tuple(
            Finding(kind, count, example[:200], remedy, wrong)
            for (kind, remedy, wrong), (count, example) in self._found.items()
        )


class Collector:
    """Gathers captions by photo: drops what is no caption, finds the photo files, counts both."""

    def __init__(self, name: str, photos: Mapping[str, Path] | None) -> None:
        """`photos`: file name -> path; None keeps the set text-only."""
        self.name = name
        self.text_only = photos is None
        self.tally = Tally()
        self._photos = photos
        self._captions: dict[str, list[str]] = {}
        self._about: dict[str, tuple[str, tuple[str, ...], str]] = {}

    def photo(
        self, image: str, split: str = "", attributes: Iterable[str] = (), category: str = ""
    ) -> None:
        """Say of an image (its file name) which part it belongs to and what it shows."""
        about = PARTS.get(split.lower(), whole(split)), tuple(map(whole, attributes))
        self._about[whole(image)] = (*about, whole(category))

    def caption(self, image: str, text: str, where: str) -> None:
        """Add a caption of the image; `where` names its place in the source."""
        image, text = whole(image), " ".join(whole(text).split())
        if not text:
            self.tally.add("row without a caption", where, "left out")
        elif FILE_PATH.fullmatch(text):
            self.tally.add(
                PATH_CAPTION,
                f"{where}: {text}",
                "left out; a reader that keeps it scores against a path",
                wrong=True,
            )
        else:
            self._captions.setdefault(image, []).append(text)

    def source(self) -> Source:
        """The set, in order of the images' names. Raises InputError when nothing is left."""
        examples = []
        counts = Counter(map(len, self._captions.values()))
        usual = max(counts, key=lambda n: counts[n], default=0)
        odd = [image for image, texts in self._captions.items() if len(texts) != usual]
        if odd:
            self.tally.add(
                f"photo with more or fewer than {usual} captions",
                f"{odd[0]} has {len(self._captions[odd[0]])}",
                "kept; scores against more references are higher",
                n=len(odd),
            )
        for image in sorted(self._captions):
            path = self._photos.get(Path(image).name) if self._photos is not None else None
            if self._photos is not None and path is None:
                self.tally.add("caption of a photo that is missing", image, "left out")
                continue
            split, attributes, category = self._about.get(image, ("", (), ""))
            texts = tuple(self._captions[image])
            examples.append(CaptionExample(_stem(image), path, texts, attributes, category, split))
        for image in self._about.keys() - self._captions.keys():
            self.tally.add("image without a caption", image, "left out")
        if not examples:
            found = "no captions"
            if self._captions:
                found = f"{len(self._captions)} captioned photos, none of their files"
            raise InputError(
                f"{self.name}: nothing to read, {found}; `fcr data get` lists the files expected"
            )
        return Source(CaptionSet(self.name, tuple(examples)), self.tally.findings())


def hm_captions(articles: "pl.DataFrame", images: Path, *, name: str = "hm") -> CaptionSet:
    """The H&M articles that have both a description and a photo.

    articles: frame with at least HM_COLUMNS; article_id is the 10-digit string.
    images: folder of `<first 3 digits>/<article_id>.jpg`.
    The type's name becomes the category. Articles come in order of article_id, unsplit.
    Raises InputError when a column is missing or nothing is left.
    """
    missing = [c for c in HM_COLUMNS if c not in articles.columns]
    if missing:
        raise InputError(f"articles: columns {missing} are missing; expected {list(HM_COLUMNS)}")
    examples = []
    described = 0
    for row in articles.sort("article_id").iter_rows(named=True):
        text = " ".join((row["detail_desc"] or "").split())
        if not text:
            continue
        described += 1
        photo = images / row["article_id"][:3] / f"{row['article_id']}.jpg"
        if photo.is_file():
            examples.append(
                CaptionExample(
                    row["article_id"], photo, (text,), category=row["product_type_name"] or ""
                )
            )
    if not examples:
        raise InputError(
            f"none of {articles.height} articles has both a description ({described} have one) "
            f"and a photo under {images}; expected {images}/<first 3 digits>/<article_id>.jpg"
        )
    return CaptionSet(name, tuple(examples))


def split_hm(
    captions: CaptionSet,
    articles: "pl.DataFrame",
    sizes_or_fractions: Mapping[str, float | int],
    seed: int,
) -> CaptionSet:
    """Split so that neither a product_code nor a normalised description stands on two sides.

    Examples that fit no split are left out. Arguments as for `component_split`.
    """
    return split_leak_free(captions, product_groups(articles), sizes_or_fractions, seed)


def product_groups(articles: "pl.DataFrame") -> dict[str, tuple[str, ...]]:
    """article_id -> the key of its product_code."""
    pairs = articles.select("article_id", "product_code").iter_rows()
    return {id: (f"code:{code}",) for id, code in pairs}


def split_leak_free(
    captions: CaptionSet,
    groups: Mapping[str, Sequence[str]],
    sizes_or_fractions: Mapping[str, float | int],
    seed: int,
) -> CaptionSet:
    """Split so that neither a key of `groups` nor a normalised text stands on two sides.

    Examples that fit no split are left out. Arguments as for `component_split`.
    """
    keys = [
        [*groups.get(e.id, ()), *(f"text:{normalise_text(c)}" for c in e.captions)]
        for e in captions.examples
    ]
    split = captions.with_splits(component_split(keys, sizes_or_fractions, seed))
    return CaptionSet(split.name, tuple(e for e in split.examples if e.split))


def same_photos(captions: CaptionSet) -> dict[str, str]:
    """id -> key, for the examples whose photo is another's too, byte for byte.

    Only files of equal size are read.
    """
    by_size: dict[int, list[CaptionExample]] = {}
    for e in captions.examples:
        if e.image is not None and e.image.is_file():
            by_size.setdefault(e.image.stat().st_size, []).append(e)
    by_content: dict[str, list[str]] = {}
    for candidates in by_size.values():
        for e in candidates if len(candidates) > 1 else ():
            assert e.image is not None
            with e.image.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            by_content.setdefault(f"photo:{digest}", []).append(e.id)
    return {id: key for key, ids in by_content.items() if len(ids) > 1 for id in ids}


def coco_captions(path: Path, *, images: Path | None = None) -> CaptionSet:
    """Any COCO-format caption JSON; images without a caption are an error (see CaptionSet.load)."""
    return CaptionSet.load(path, images=images)


def read_coco(folder: Path, *, name: str = "coco") -> Source:
    """COCO's captions_*.json, Karpathy's dataset_*.json, or any JSON of either form.

    folder: the JSON file, or the folder it lies in (or in `annotations/` of); photos anywhere
        below. Several files make one set; a part is named by Karpathy's `split`, COCO-format
        `split`, or the file's name (`captions_val2017.json`).
    Images without captions, and captions of images that are not listed, are left out and counted.
    Raises InputError: no such file, not JSON of either form, nothing left.
    """
    files = [folder] if folder.is_file() else caption_json(folder)
    if not files:
        raise InputError(
            f"{folder} holds no caption JSON: expected captions_*.json or dataset_*.json"
        )
    below = folder.parent if folder.is_file() else folder
    collector = Collector(name, photo_files(below) or None)
    for path in files:
        document = _document(path)
        part = next((PARTS[p] for p in re.findall("train|val|test", path.stem)), "")
        try:
            if any("sentences" in image for image in document["images"][:1]):
                _karpathy(document, path, collector)
            else:
                _coco(document, path, part, collector)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is not caption JSON ({error!r}); expected COCO's images[{{id, file_name}}]"
                " and annotations[{image_id, caption}], or Karpathy's images[{filename, split, "
                "sentences[{raw}]}]"
            ) from error
    return collector.source()


def caption_json(folder: Path) -> list[Path]:
    """Files of a folder that look like caption JSON, the surest kind alone."""
    for pattern in ("dataset_*.json", "captions*.json", "*.json"):
        found = sorted([*folder.glob(pattern), *folder.glob(f"annotations/{pattern}")])
        found = [f for f in found if f.name not in OTHER_JSON]
        if found:
            return found
    return []


def photo_files(folder: Path) -> dict[str, Path]:
    """Picture files at most three folders below: name -> path, the shallowest of each name."""
    found: dict[str, Path] = {}
    for depth in range(4):
        for path in sorted(folder.glob("*/" * depth + "*.*")):
            if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file():
                found.setdefault(path.name, path)
    return found


def text_findings(examples: Sequence[CaptionExample]) -> tuple[Finding, ...]:
    """What is wrong with the texts of a set: paths, other examples' ids, leaks out of training."""
    ids = {e.id for e in examples if ID_WORD.fullmatch(e.id)}
    train = {normalise_text(c) for e in examples if e.split == "train" for c in e.captions}
    sizes: Counter[str] = Counter()
    leaks: dict[str, list[str]] = {}
    tally = Tally()
    for e in examples:
        if paths := [c for c in e.captions if FILE_PATH.fullmatch(c.strip())]:
            tally.add(
                PATH_CAPTION, f"{e.id}: {paths[0]}", "prepare the set from its source again",
                wrong=True,
            )  # fmt: skip
        for caption in e.captions:
            words = {w.zfill(len(e.id)) for w in ID_WORD.findall(caption)}
            if (words & ids) - {e.id}:
                tally.add(
                    "caption that names another example's id", f"{e.id}: {caption}",
                    "rows are out of step or files were joined wrongly: mend the source",
                    wrong=True,
                )  # fmt: skip
        sizes[e.split] += len(e.captions)
        if e.split != "train":
            known = [e.id for c in e.captions if normalise_text(c) in train]
            leaks.setdefault(e.split, []).extend(known)
        if len(set(e.captions)) < len(e.captions):
            tally.add("example with the same caption twice", e.id, "kept")
    return (
        *tally.findings(),
        *(
            Finding(
                f"caption of split {split!r} that stands in train word for word",
                len(found),
                found[0],
                "scores of copying are inflated: prepare with --split leak-free",
                wrong=len(found) > LEAKED_SHARE * sizes[split],
            )
            for split, found in sorted(leaks.items())
            if found
        ),
    )


def _karpathy(document: Mapping[str, Any], path: Path, collector: Collector) -> None:
    for image in document["images"]:
        name = str(image["filename"])
        collector.photo(name, str(image.get("split") or ""))
        for i, sentence in enumerate(image["sentences"]):
            text = sentence.get("raw") or " ".join(sentence.get("tokens") or ())
            collector.caption(name, text, f"{path.name} {name}, caption {i + 1}")


def _coco(document: Mapping[str, Any], path: Path, part: str, collector: Collector) -> None:
    names: dict[str, str] = {}
    about: dict[str, str] = {}
    for image in document["images"]:
        id = str(image["id"])
        if id in names:
            collector.tally.add("image id that came before", id, "the last file name is kept")
        names[id] = str(image.get("file_name") or id)
        about[names[id]] = str(image.get("split") or part)
        collector.photo(names[id], about[names[id]])
    for annotation in document["annotations"]:
        id = str(annotation["image_id"])
        if id not in names:
            collector.tally.add(
                "caption of an image that is not listed", f"image_id {id}", "left out"
            )
            continue
        attributes = tuple(str(a) for a in annotation.get("attributes") or ())
        category = str(annotation.get("category") or "")
        if attributes or category:
            collector.photo(names[id], about[names[id]], attributes, category)
        where = f"{path.name} annotation {annotation.get('id', '')}"
        collector.caption(names[id], str(annotation["caption"] or ""), where)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object with `images`")
    return document


def _stem(image: str) -> str:
    path = Path(image)
    return path.stem if path.suffix.lower() in PHOTO_SUFFIXES else image
