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

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from caption.facad import export_photos, read_facad
from caption.flickr import read_flickr
from caption.records import CaptionSet
from caption.sources import (
    Finding,
    Source,
    hm_captions,
    photo_files,
    product_groups,
    read_coco,
    text_findings,
)
from pipelines import InputError
from pipelines.catalog import Catalog, fingerprints, read_catalog
from pipelines.data_split import EIGHTY_TEN_TEN, POLICIES, Protocol, Sizes, cut
from pipelines.stores import in_words, write_whole
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
OURS = (
    "captions.json", "findings.json", "category_map.json", "attributes.json", "articles.csv",
    "customers.csv", "transactions_train.csv", "manifest.json",
)  # fmt: skip
TABLES = ("articles", "customers", "purchases")
FILES = {"purchases": "transactions_train"}
LARGE = frozenset({".hdf5", ".h5", ".zip"})
READ = frozenset({".json", ".csv", ".txt", ".gz", ".token", ".en"})


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
    with_photos: bool = False,
    say: Callable[[str], None] = print,
    progress: Progress | None = None,
) -> Path:
    """Read a dataset, cut it into parts and write it to `out`; unchanged inputs are reused.

    Args:
        dataset: a key of `DATASETS`.
        source: folder of the raw files.
        out: folder to write; new, empty, or of an earlier call.
        split: one of `POLICIES`; None takes the publisher's parts where the files name them (not
            for FACAD, whose parts share texts), else leak-free.
        sizes: examples a part (counts, shares, one -1 for the rest) or altogether.
        as_published: cut as the published comparison did, leaks included.
        seed: of the draw.
        tagger: as `caption.attributes.load_tagger` takes it: adds the nouns and adjectives that
            stand at least ten times in train to the attributes. None keeps the dataset's own
            attributes and, for H&M, the colour.
        with_photos: put the photos into `out` too (as hard links where the disk has them), so that
            the folder can go to another machine; else the set names them where they lie.
        say: receives lines for the user.
        progress: receives (what, done, total) while photos are written.

    Returns:
        path of captions.json.

    Raises:
        InputError: unknown name, files missing or out of step, `out` holding something else, parts
            that don't fit.
    """
    from caption.attributes import load_tagger

    if dataset not in DATASETS:
        raise InputError(f"unknown dataset {dataset!r}: expected one of {', '.join(DATASETS)}")
    source, out = Path(source).resolve(), Path(out).resolve()
    if not source.exists():
        raise InputError(f"--source {source} does not exist; `fcr data get {dataset}` says more")
    if as_published and (split or sizes):
        raise InputError("--as-published fixes split and sizes: leave out --split and --size")
    if split is not None and split not in POLICIES:
        raise InputError(f"--split {split!r}: expected one of {', '.join(POLICIES)}")
    if isinstance(sizes, Mapping):
        sizes = dict(sorted(sizes.items()))  # their order decides ties
    if tagger is not None:
        load_tagger(tagger)  # refused before the photos are read, not after
    inputs = _inputs(dataset, source, out)
    config: dict[str, Any] = {
        "dataset": dataset, "source": in_words(str(source)), "split": split,
        "as_published": as_published, "sizes": sizes, "tagger": tagger,
    }  # fmt: skip
    if with_photos:
        config["with_photos"] = True
    _claim(out, {"dataset": dataset, "key": content_key([config, inputs, seed])}, source)
    stages = Workspace(out.parent)
    with (
        _leaves_nothing(out),
        stages.stage(out.name, config=config, inputs=inputs, seed=seed, say=say) as stage,
    ):
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
            captions = _publish_tables(catalog, captions, out, with_photos)
        elif with_photos:
            captions = _gathered(captions, source, out)
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


def _publish_tables(
    catalog: Catalog, captions: CaptionSet, out: Path, with_photos: bool
) -> CaptionSet:
    """Write the checked tables beside the captions, so that `--data` may name the folder."""
    for table in TABLES:
        frame: pl.DataFrame = getattr(catalog, table)
        if frame.width:
            with atomic_file(out / f"{FILES.get(table, table)}.csv") as file:
                frame.write_csv(file)
    link = out / "images"
    if with_photos:
        for photo in (catalog.folder / "images").glob("*/*.jpg"):
            _placed(photo, link / photo.relative_to(catalog.folder / "images"))
    elif not link.is_symlink():
        os.symlink(catalog.folder / "images", link)
    here = [
        replace(e, image=link / e.image.relative_to(catalog.folder / "images"))
        for e in captions.examples
        if e.image is not None
    ]
    return CaptionSet(captions.name, tuple(here))


def _gathered(captions: CaptionSet, source: Path, out: Path) -> CaptionSet:
    """The set with its photos below `out`, by the names they have below `source`."""
    folder = source if source.is_dir() else source.parent
    here = []
    for e in captions.examples:
        if e.image is not None and e.image.is_relative_to(folder):
            place = out / "images" / e.image.relative_to(folder)
            e = replace(e, image=_placed(e.image, place))
        here.append(e)
    return CaptionSet(captions.name, tuple(here))


def _placed(photo: Path, place: Path) -> Path:
    """A photo under another name; one that isn't there is left to the check of the set."""
    place.parent.mkdir(parents=True, exist_ok=True)
    if photo.is_file() and not place.exists():
        try:
            os.link(photo, place)
        except OSError:  # another disk
            write_whole(place, photo)
    return place


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
            stale += [path for path in photos.rglob("*") if path.is_file()]
        for path in stale:
            path.unlink(missing_ok=True)
        for empty in sorted(photos.rglob("*"), reverse=True):
            empty.rmdir()
        if photos.is_dir():
            photos.rmdir()
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / MARKER, marker)


@contextlib.contextmanager
def _leaves_nothing(out: Path) -> Iterator[None]:
    """A refused call leaves no folder that holds our marker alone."""
    try:
        yield
    except ValueError:  # the InputErrors
        if [path.name for path in out.iterdir()] == [MARKER]:
            (out / MARKER).unlink()
            out.rmdir()
        raise


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
"""Name -> reader, usual and published protocol: H&M by article at random, FACAD's
parts drawn down to 10,000/1,000/2,000, a random third of Flickr30k, the parts the others come with.
"""
