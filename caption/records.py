"""Photos with their descriptions: `CaptionSet`, COCO-format JSON in and out, leak-free splits."""

import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from caption import InputError


@dataclass(frozen=True)
class CaptionExample:
    """One photo and what people wrote about it."""

    id: str
    """External id (an article id, a file stem); unique within its set."""
    image: Path | None
    """The photo; None for text-only sets."""
    captions: tuple[str, ...]
    """The human descriptions, at least one."""
    attributes: tuple[str, ...] = ()
    """Attribute words of the item (FACAD: nouns and adjectives)."""
    category: str = ""
    """The item's category; empty when unknown."""
    split: str = ""
    """The part it belongs to ("train", "validation", "test"); empty when unsplit."""


@dataclass(frozen=True)
class CaptionSet:
    """A named, ordered set of examples with unique ids.

    Raises InputError when an id stands twice, or an example has no id or no caption.
    """

    name: str
    examples: tuple[CaptionExample, ...]

    def __post_init__(self) -> None:
        repeated = [id for id, n in Counter(e.id for e in self.examples).items() if n > 1]
        if repeated:
            raise InputError(
                f"caption set {self.name!r}: {len(repeated)} ids stand more than once, e.g. "
                f"{repeated[0]!r}; ids must be unique"
            )
        for e in self.examples:
            if not e.id or not any(c.strip() for c in e.captions):
                raise InputError(
                    f"caption set {self.name!r}: example {e.id!r} has no id or no caption; "
                    "drop such examples before building the set"
                )

    def __len__(self) -> int:
        return len(self.examples)

    def by_split(self, split: str) -> "CaptionSet":
        """The examples of one split, in order. Raises InputError when there are none."""
        chosen = tuple(e for e in self.examples if e.split == split)
        if not chosen:
            names = sorted({e.split for e in self.examples})
            raise InputError(
                f"caption set {self.name!r} has no split {split!r}; its splits are {names}"
            )
        return CaptionSet(self.name, chosen)

    def with_splits(self, splits: Sequence[str]) -> "CaptionSet":
        """The same examples with `splits[i]` written on example i."""
        pairs = zip(self.examples, splits, strict=True)
        return CaptionSet(self.name, tuple(replace(e, split=s) for e, s in pairs))

    def save(self, path: Path) -> None:
        """Write COCO-format JSON: `info`, `licenses`, `images[{id, file_name, split}]`,
        `annotations[{id, image_id, caption, attributes, category}]`, one annotation a caption.

        `file_name` is relative to the JSON's folder where the photo lies under it, else absolute.
        The write is atomic; the same set gives the same bytes.
        """
        path = Path(path)
        base = path.parent.resolve()
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for e in self.examples:
            images.append({"id": e.id, "file_name": _file_name(e.image, base), "split": e.split})
            for caption in e.captions:
                annotations.append(
                    {
                        "id": len(annotations),
                        "image_id": e.id,
                        "caption": caption,
                        "attributes": list(e.attributes),
                        "category": e.category,
                    }
                )
        document = {
            "info": {"description": self.name},
            "licenses": [],
            "images": images,
            "annotations": annotations,
        }
        write_atomically(path, json.dumps(document, ensure_ascii=False, indent=1).encode())

    @classmethod
    def load(cls, path: Path, *, images: Path | None = None) -> Self:
        """Read COCO-format JSON, as `save` or COCO's own tools write it.

        images: folder that relative file names are under (default: the JSON's folder). Integer
        image ids become strings. An image without a caption is an error, as is a caption of an
        image that is not listed. Raises InputError.
        """
        path = Path(path)
        document = _read_json(path)
        base = images if images is not None else path.parent
        captions: dict[str, list[str]] = {}
        about: dict[str, tuple[tuple[str, ...], str]] = {}
        try:
            listed = [
                (whole(i["id"]), whole(i.get("file_name") or ""), whole(i.get("split") or ""))
                for i in document["images"]
            ]
            for a in document["annotations"]:
                image_id = whole(a["image_id"])
                captions.setdefault(image_id, []).append(whole(a["caption"]))
                attributes = tuple(whole(x) for x in a.get("attributes") or ())
                about.setdefault(image_id, (attributes, whole(a.get("category") or "")))
            name = (document.get("info") or {}).get("description") or path.stem
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{path} is not COCO caption JSON ({error!r}); expected images[{{id, file_name}}] "
                "and annotations[{image_id, caption}]"
            ) from error
        unknown = sorted(captions.keys() - {id for id, _, _ in listed})
        if unknown:
            raise InputError(
                f"{path}: {len(unknown)} captions belong to images that are not listed, "
                f"e.g. image_id {unknown[0]!r}"
            )
        examples = []
        for id, file_name, split in listed:
            attributes, category = about.get(id, ((), ""))
            photo = base / file_name if file_name else None
            examples.append(
                CaptionExample(id, photo, tuple(captions.get(id, ())), attributes, category, split)
            )
        return cls(whole(name), tuple(examples))


def component_split(
    keys: Sequence[Sequence[str]],
    sizes_or_fractions: Mapping[str, float | int],
    seed: int,
) -> list[str]:
    """Assign every example to a split such that no key stands on two sides.

    Examples sharing ANY key (a product code, a normalised description) are one connected
    component, and components are dealt whole in shuffled order, each to the split that is furthest
    below its target and has room. Sizes are therefore met to within the largest component.

    keys: per example its keys; tag them by kind ("code:123", "text:...") so that kinds cannot
        collide. Empty keys link nothing.
    sizes_or_fractions: split -> size. All floats are fractions of all examples (sum <= 1); ints
        are counts; one value may be -1 ("the rest"). When the targets leave examples over, those
        get "".
    Returns one split name per example; deterministic for a seed.
    Raises InputError on targets that exceed the examples, or more than one "rest".
    """
    n = len(keys)
    targets = _targets(n, sizes_or_fractions)
    members: dict[int, list[int]] = {}
    for row, label in enumerate(components(keys)):
        members.setdefault(label, []).append(row)
    dealt = list(members.values())  # in order of their first example
    order = np.random.default_rng(seed).permutation(len(dealt)).tolist()
    everything = sum(targets.values()) == n
    left = dict(targets)
    result = [""] * n
    for c in order:
        rows_of = dealt[c]
        fits = [s for s in left if left[s] >= len(rows_of)]
        if not fits and not everything:
            continue  # no split has room for it: the examples stay out
        # Relative to its target, so that every split gets its share of large components.
        split = max(fits or left, key=lambda s: left[s] / targets[s])
        left[split] -= len(rows_of)
        for row in rows_of:
            result[row] = split
    return result


def components(keys: Sequence[Sequence[str]]) -> list[int]:
    """A number for each example: equal where examples are linked by shared keys, however far.

    keys: per example its keys, as for `component_split`.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    n = len(keys)
    numbers: dict[str, int] = {}
    rows, columns = [], []
    for row, own in enumerate(keys):
        for key in own:
            if key:
                rows.append(row)
                columns.append(n + numbers.setdefault(key, len(numbers)))
    total = n + len(numbers)
    links = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(total, total))
    _, labels = connected_components(links, directed=False)
    found: list[int] = labels[:n].tolist()
    return found


def whole(value: object) -> str:
    """A JSON value as text that can be written: half a surrogate pair becomes "?"."""
    return str(value).encode(errors="replace").decode()


def normalise_text(text: str) -> str:
    """Lower-cased NFKC text without punctuation and repeated spaces: the leak test's view of it."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(re.sub(r"[^\w\s]|_", " ", folded).split())


def write_atomically(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either its old or its new bytes, never half of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _targets(n: int, wanted: Mapping[str, float | int]) -> dict[str, int]:
    if not wanted:
        raise InputError("component_split needs at least one split with its size or fraction")
    rest = [s for s, v in wanted.items() if v == -1]
    sizes: dict[str, int] = {}
    for split, value in wanted.items():
        if value == -1:
            continue
        bad = not math.isfinite(value) or value < 0 or (isinstance(value, float) and value > 1)
        if bad:
            raise InputError(
                f"split {split!r}: {value!r} is neither a count (int >= 0), a fraction (float in "
                "0..1) nor -1 (the rest)"
            )
        sizes[split] = round(value * n) if isinstance(value, float) else value
    if all(isinstance(v, float) for v in wanted.values()) and sum(wanted.values()) > 1 - 1e-9:
        # Rounded fractions that make up the whole must take every example.
        largest = max(sizes, key=lambda s: sizes[s])
        sizes[largest] += n - sum(sizes.values())
    over = sum(wanted.values()) > 1 + 1e-9 and all(isinstance(v, float) for v in wanted.values())
    if len(rest) > 1 or over or sum(sizes.values()) > n:
        raise InputError(
            f"splits {dict(wanted)} do not fit {n} examples: the sizes may add up to {n} at most, "
            "fractions to 1, and one split may be -1 (the rest)"
        )
    if rest:
        sizes[rest[0]] = n - sum(sizes.values())
    return {s: sizes[s] for s in wanted if sizes[s] > 0}


def _file_name(image: Path | None, base: Path) -> str | None:
    if image is None:
        return None
    resolved = Path(os.path.abspath(image))
    return resolved.relative_to(base).as_posix() if resolved.is_relative_to(base) else str(resolved)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no caption file {path}; expected COCO-format JSON")
    try:
        document = json.loads(path.read_bytes())
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(document, dict):
        raise InputError(f"{path}: expected a JSON object with images and annotations")
    return document
