"""`fcr data prepare`: a raw download -> a caption set with splits, and for H&M checked tables.

The folder it writes:

| file | holds |
|---|---|
| captions.json | the CaptionSet: COCO-format JSON with split, attributes and category |
| findings.json | what was mended, left out or is worth knowing |
| category_map.json | words that name a category, learned from the train part |
| attributes.json | attribute vocabulary of the train part (with a tagger) |
| articles.csv, customers.csv, transactions_train.csv, images | H&M only: fit for `--data` |
| images/ | FACAD only: the chosen rows of the HDF5 files as JPEG |
| manifest.json | settings, input hashes, sha256 of every file |
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from caption.facad import export_photos, read_facad
from caption.flickr import read_flickr
from caption.records import CaptionExample, CaptionSet, component_split
from caption.sources import (
    Finding,
    Source,
    hm_captions,
    photo_files,
    product_groups,
    read_coco,
    same_photos,
    split_leak_free,
    text_findings,
)
from pipelines import InputError
from pipelines.catalog import Catalog, fingerprints, read_catalog
from pipelines.workspace import (
    Workspace,
    atomic_file,
    content_key,
    file_sha256,
    read_json,
    write_json,
)

if TYPE_CHECKING:
    from pipelines.run import Progress

MARKER = "prepare.json"
"""Says that the folder is ours before there is a manifest."""
EIGHTY_TEN_TEN = {"train": 0.8, "validation": 0.1, "test": 0.1}
POLICIES = ("leak-free", "given", "random", "in-order")
OURS = (
    "captions.json", "findings.json", "category_map.json", "attributes.json", "articles.csv",
    "customers.csv", "transactions_train.csv", "manifest.json",
)  # fmt: skip
TABLES = ("articles", "customers", "purchases")
FILES = {"purchases": "transactions_train"}
LARGE = frozenset({".hdf5", ".h5", ".zip"})
READ = frozenset({".json", ".csv", ".txt", ".gz", ".token", ".en"})

Sizes = Mapping[str, float | int]


@dataclass(frozen=True)
class Protocol:
    """How a set is cut into parts."""

    split: str
    """leak-free: no product, text or photo on two sides; given: the publisher's parts; random: by
    example; in-order: train first, then test, then validation."""
    sizes: Sizes | None = None
    """Part -> count or share; None: all of what is given, else 80/10/10."""


@dataclass(frozen=True)
class Dataset:
    """How a dataset is read and cut."""

    read: Callable[[Path], Source]
    usual: Protocol
    published: Protocol


def prepare(
    dataset: str,
    source: Path,
    out: Path,
    *,
    split: str | None = None,
    sizes: Sizes | int | None = None,
    as_published: bool = False,
    seed: int = 0,
    tagger: str | None = None,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Path:
    """Read a dataset, cut it into parts and write it to `out`; unchanged inputs are reused.

    Args:
        dataset: a key of `DATASETS`.
        source: folder of the raw files.
        out: folder to write; new, empty, or of an earlier call.
        split: one of `POLICIES`; None takes the publisher's parts where every example has one (not
            for FACAD, whose parts share texts), else leak-free.
        sizes: examples a part (counts, shares, one -1 for the rest) or altogether.
        as_published: cut as the published comparison did, leaks included.
        seed: of the draw.
        tagger: name of `caption.attributes.TAGGERS`: adds the nouns and adjectives that stand at
            least ten times in train to the attributes. None keeps the dataset's own attributes and,
            for H&M, the colour.
        say: receives lines for the user.
        progress: receives (what, done, total) while photos are written.

    Returns:
        path of captions.json.

    Raises:
        InputError: unknown name, files missing or out of step, `out` holding something else, parts
            that don't fit.
    """
    if dataset not in DATASETS:
        raise InputError(f"unknown dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    source, out = Path(source).resolve(), Path(out).resolve()
    if not source.exists():
        raise InputError(f"--source {source} does not exist; `fcr data get {dataset}` says more")
    if as_published and (split or sizes):
        raise InputError("--as-published fixes split and sizes: leave out --split and --size")
    if split is not None and split not in POLICIES:
        raise InputError(f"--split {split!r}: expected one of {', '.join(POLICIES)}")
    inputs = _inputs(dataset, source, out)
    config: dict[str, Any] = {
        "dataset": dataset, "source": str(source), "split": split, "as_published": as_published,
        "sizes": dict(sizes) if isinstance(sizes, Mapping) else sizes, "tagger": tagger,
    }  # fmt: skip
    _claim(out, {"dataset": dataset, "key": content_key([config, inputs, seed])}, source)
    with Workspace(out.parent).stage(
        out.name, config=config, inputs=inputs, seed=seed, say=say
    ) as stage:
        path = stage.path("captions.json")
        if stage.reused:
            return path
        catalog = _catalog(source) if dataset == "hm" else None
        found = _read_hm(source, catalog) if catalog else DATASETS[dataset].read(source)
        protocol = _protocol(dataset, found.captions, split, sizes, as_published)
        captions = cut(found, protocol, sizes if isinstance(sizes, int) else None, seed)
        findings = list(found.findings)
        if dataset == "facad":
            captions, more = _export(captions, source, out / "images", progress)
            findings += more
        if catalog:
            captions = _publish_tables(catalog, captions, out)
        captions = _describe_items(captions, catalog, tagger, out)
        findings += text_findings(captions.examples)
        captions.save(path)
        write_json(stage.path("findings.json"), {"findings": [asdict(f) for f in findings]})
        parts = dict(Counter(e.split for e in captions.examples))
        stage.record.update(protocol=asdict(protocol), parts=parts, read=len(found.captions))
        for finding in findings:
            say(f"{'warning' if finding.wrong else 'note'}: {finding}")
        counts = ", ".join(f"{name} {n:,}" for name, n in parts.items())
        say(f"{len(captions):,} of {len(found.captions):,} examples, {protocol.split}: {counts}")
    return path


def parse_size(text: str) -> Sizes | int:
    """`1000`, or `train=10000,validation=1000,test=0.1`.

    Raises:
        InputError: anything else.
    """
    try:
        if "=" not in text:
            total = int(text)
            if total < 1:
                raise ValueError
            return total
        pairs = [part.split("=") for part in text.split(",")]
        return {name.strip(): _number(value.strip()) for name, value in pairs}
    except ValueError:
        raise InputError(
            f"--size {text!r}: expected a number of examples, or parts like "
            "train=10000,validation=1000,test=2000 (counts, shares such as 0.1, one -1 for the "
            "rest)"
        ) from None


def cut(source: Source, protocol: Protocol, total: int | None, seed: int) -> CaptionSet:
    """The source's examples with the protocol's parts; those that fit none are left out.

    total: draw so many examples altogether, in the protocol's proportions.

    Raises:
        InputError: the parts don't fit the examples, or none are given.
    """
    captions = source.captions
    n = len(captions)
    if total is not None and total > n:
        raise InputError(f"--size {total}: the set has only {n:,} examples")
    if protocol.split == "given":
        return _given(captions, protocol.sizes, total, seed)
    sizes = protocol.sizes or EIGHTY_TEN_TEN
    if total is not None:
        sizes = scaled(total, sizes)
    if protocol.split == "leak-free":
        photos = same_photos(captions)
        groups = {
            e.id: [*source.groups.get(e.id, ()), *([photos[e.id]] if e.id in photos else [])]
            for e in captions.examples
        }
        cut_set = split_leak_free(captions, groups, sizes, seed)
    elif protocol.split == "random":
        cut_set = captions.with_splits(component_split([[]] * n, sizes, seed))
    else:
        counts = scaled(total or n, sizes)
        order = [p for p in ("train", "test", "validation") for _ in range(counts.get(p, 0))]
        cut_set = captions.with_splits([*order, *[""] * (n - len(order))])
    return CaptionSet(captions.name, tuple(e for e in cut_set.examples if e.split))


def scaled(total: int, weights: Sizes) -> dict[str, int]:
    """`total` dealt in proportion to the weights; what rounding leaves goes to the largest."""
    whole = sum(weights.values())
    counts = {part: int(total * weight / whole) for part, weight in weights.items()}
    largest = max(counts, key=lambda part: counts[part])
    counts[largest] += total - sum(counts.values())
    return counts


def _given(captions: CaptionSet, sizes: Sizes | None, total: int | None, seed: int) -> CaptionSet:
    by_part: dict[str, list[CaptionExample]] = {}
    for e in captions.examples:
        if e.split:
            by_part.setdefault(e.split, []).append(e)
    if not by_part:
        raise InputError(
            f"{captions.name}: the files name no parts: get the publisher's split files, or use "
            "--split leak-free"
        )
    if sizes is None and total is None:
        return CaptionSet(captions.name, tuple(e for part in by_part.values() for e in part))
    have = {part: len(examples) for part, examples in by_part.items()}
    wanted = scaled(min(total, sum(have.values())), have) if total else sizes
    assert wanted is not None
    chosen: list[CaptionExample] = []
    for part, size in wanted.items():
        if part not in by_part:
            raise InputError(f"--size: the files name no part {part!r}; they name {sorted(have)}")
        if size > have[part]:
            raise InputError(f"part {part!r} has {have[part]:,} examples, {size:,} were asked for")
        drawn = component_split([[]] * have[part], {part: size}, seed)
        chosen += [e for e, s in zip(by_part[part], drawn, strict=True) if s]
    return CaptionSet(captions.name, tuple(chosen))


def _protocol(
    dataset: str,
    captions: CaptionSet,
    split: str | None,
    sizes: Sizes | int | None,
    published: bool,
) -> Protocol:
    if published:
        return DATASETS[dataset].published
    usual = DATASETS[dataset].usual
    if split is None:
        parts = {e.split for e in captions.examples}
        split = "leak-free" if dataset == "facad" or parts == {""} else "given"
    if isinstance(sizes, Mapping):
        return Protocol(split, sizes)
    return Protocol(split, None if split == "given" else usual.sizes)


def _catalog(source: Path) -> Catalog:
    return read_catalog(
        source, purchases=(source / "transactions_train.csv").is_file(), drop_bad_rows=True
    )


def _read_hm(source: Path, catalog: Catalog | None = None) -> Source:
    catalog = catalog or _catalog(source)
    captions = hm_captions(catalog.articles, source / "images")
    return Source(captions, table_findings(catalog), product_groups(catalog.articles))


def table_findings(catalog: Catalog) -> tuple[Finding, ...]:
    """What reading the tables found, as findings; ids without their zero join nothing."""
    wrong = ("leading zero", "unreadable date")
    return tuple(
        Finding(f.kind, f.count, f.example, f.done, wrong=any(w in f.kind for w in wrong))
        for f in catalog.findings
    )


def _publish_tables(catalog: Catalog, captions: CaptionSet, out: Path) -> CaptionSet:
    """Write the checked tables beside the captions, so that `--data` may name the folder."""
    for table in TABLES:
        frame: pl.DataFrame = getattr(catalog, table)
        if frame.width:
            with atomic_file(out / f"{FILES.get(table, table)}.csv") as file:
                frame.write_csv(file)
    link = out / "images"
    if not link.is_symlink():
        os.symlink(catalog.folder / "images", link)
    here = [
        replace(e, image=link / e.image.relative_to(catalog.folder / "images"))
        for e in captions.examples
        if e.image is not None
    ]
    return CaptionSet(captions.name, tuple(here))


def _describe_items(
    captions: CaptionSet, catalog: Catalog | None, tagger: str | None, out: Path
) -> CaptionSet:
    """Add attribute words (nouns and adjectives, colours) and write what they were taken from."""
    from caption.attributes import build_vocabulary
    from caption.categories import CategoryMap

    train = [e for e in captions.examples if e.split == "train"] or list(captions.examples)
    if len({e.category for e in train if e.category}) > 1:
        pairs = [(c, e.category) for e in train for c in e.captions if e.category]
        words = CategoryMap.fit([text for text, _ in pairs], [category for _, category in pairs])
        words.save(out / "category_map.json")
    texts: list[frozenset[str]] = [frozenset()] * len(captions)
    rank: dict[str, int] = {}
    if tagger is not None:
        vocabulary = build_vocabulary([c for e in train for c in e.captions], tagger=tagger)
        vocabulary.save(out / "attributes.json")
        texts = vocabulary.attributes([" . ".join(e.captions) for e in captions.examples])
        rank = {word: i for i, word in enumerate(vocabulary.words)}
    colours: dict[str, str] = {}
    if catalog is not None:
        pairs = catalog.articles.select("article_id", "colour_group_name").rows()
        colours = {id: name.lower() for id, name in pairs if name and name != "Unknown"}
    examples = []
    for e, found in zip(captions.examples, texts, strict=True):
        words_of = sorted(found, key=lambda word: rank[word])
        every = [*e.attributes, *words_of, *([colours[e.id]] if e.id in colours else [])]
        examples.append(replace(e, attributes=tuple(dict.fromkeys(every))))
    return CaptionSet(captions.name, tuple(examples))


def _export(
    captions: CaptionSet, source: Path, images: Path, progress: Progress | None
) -> tuple[CaptionSet, tuple[Finding, ...]]:
    """FACAD's photos as files; examples whose photo can't be theirs are left out."""
    parts = {"train": "TRAIN", "validation": "VAL", "test": "TEST"}
    stored = {name for name, part in parts.items() if (source / f"{part}_IMAGES_5.hdf5").is_file()}
    rows = [e for e in captions.examples if e.image is None and e.id.partition("-")[0] in stored]
    if not rows:
        return captions, ()
    paths, findings = export_photos(source, rows, images, progress=progress)
    lost = {e.id for e in rows} - paths.keys()
    kept = (replace(e, image=paths.get(e.id)) for e in captions.examples if e.id not in lost)
    return CaptionSet(captions.name, tuple(kept)), findings


def _claim(out: Path, marker: dict[str, Any], source: Path) -> None:
    """Make `out` ours, or refuse it; what another source or setting left there goes."""
    if out == source:
        raise InputError(f"--out {out} is the source: give another folder")
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {out} is a file: expected a folder")
    old = read_json(out / MARKER)
    if out.is_dir() and old is None and any(out.iterdir()):
        raise InputError(
            f"--out {out} holds files that `fcr data prepare` did not write: give a new folder"
        )
    if old is not None and old != marker:
        photos = out / "images"
        stale = [out / name for name in OURS]
        if photos.is_symlink():
            stale.append(photos)  # the link alone: what it leads to is the source's
        else:
            stale += photos.glob("*/*.jpg")
        for path in stale:
            path.unlink(missing_ok=True)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, marker)


def _inputs(dataset: str, source: Path, out: Path) -> dict[str, str]:
    """Hashes of what is read: texts by content, photos and HDF5 files by name, size and time."""
    if dataset == "hm":
        return fingerprints(source)
    folder = source if source.is_dir() else source.parent
    files = [source] if source.is_file() else sorted([*folder.glob("*"), *folder.glob("anno*/*")])
    found = {f.name: file_sha256(f) for f in files if f.suffix in READ and f.is_file()}
    large = [f for f in files if f.suffix in LARGE]
    photos = [] if large else photo_files(folder).values()
    status = [
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in (*large, *photos)
        if not path.is_relative_to(out)
    ]
    return {**found, "photos": content_key(status)}


def _number(value: str) -> float | int:
    return float(value) if "." in value else int(value)


DATASETS: dict[str, Dataset] = {
    "hm": Dataset(
        _read_hm, Protocol("leak-free", EIGHTY_TEN_TEN), Protocol("random", EIGHTY_TEN_TEN)
    ),
    "facad": Dataset(
        read_facad,
        Protocol("leak-free", EIGHTY_TEN_TEN),
        Protocol("given", {"train": 10_000, "validation": 1_000, "test": 2_000}),
    ),
    "flickr30k": Dataset(
        read_flickr,
        Protocol("leak-free", EIGHTY_TEN_TEN),
        Protocol("random", {"train": 10_170, "validation": 1_271, "test": 1_272}),
    ),
    "flickr8k": Dataset(
        lambda folder: read_flickr(folder, name="flickr8k"),
        Protocol("leak-free", EIGHTY_TEN_TEN),
        Protocol("given"),
    ),
    "coco": Dataset(read_coco, Protocol("leak-free", EIGHTY_TEN_TEN), Protocol("given")),
}
"""Name -> reader, usual and published protocol: H&M by article at random (R3's thesis), FACAD's
parts drawn down to 10,000/1,000/2,000, a random third of Flickr30k, the parts the others come with.
"""
