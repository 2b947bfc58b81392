"""`fcr data check`: what is wrong with a dataset, raw or prepared, before anything is computed.

Every finding has a count, an example and a remedy; `wrong` ones would make results wrong. Each
photo is read once (its bytes, not its pixels): on a disk that reads 200 MB a second the 30 GB of
H&M's photos take minutes, and `photos=False` leaves them out.
"""

from __future__ import annotations

import hashlib
import io
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

import caption
from caption.facad import (
    FACAD_PARTS,
    TWO_CAPTIONS,
    facad_findings,
    photo_digest,
    photo_rows,
    read_facad,
)
from caption.flickr import HUB_TABLE, TEXT_FILES, read_flickr
from caption.images import UnreadableImage, open_image
from caption.records import CaptionExample, CaptionSet
from caption.sources import Finding, Tally, caption_json, read_coco, text_findings
from pipelines import InputError
from pipelines.catalog import Catalog, read_catalog
from pipelines.data import MARKER, table_findings
from pipelines.workspace import Workspace, file_sha256

if TYPE_CHECKING:
    from pipelines.run import Progress

OLDEST = date(1990, 1, 1)
"""No shop's purchases are older; such a date is a wrong year."""
PREPARED = "prepared caption set"
TABLES = "H&M tables"
FACAD = "FACAD files"
FLICKR = "Flickr captions"
COCO = "COCO captions"
TWO_SPLITS = "photo that stands in two splits"
JPEG_END = b"\xff\xd9"


@dataclass(frozen=True)
class Checked:
    """The page of findings."""

    folder: Path
    holds: tuple[str, ...]
    """What the folder was taken for."""
    counts: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def wrong(self) -> tuple[Finding, ...]:
        """The findings that would make results wrong."""
        return tuple(f for f in self.findings if f.wrong)

    def text(self) -> str:
        """The page for the terminal."""
        lines = [f"{self.folder}: {', '.join(self.holds)}"]
        lines.append("  " + ", ".join(f"{n:,} {what}" for what, n in self.counts.items()))
        notes = [f for f in self.findings if not f.wrong]
        for title, found in (("would make results wrong", self.wrong), ("worth knowing", notes)):
            if found:
                lines += ["", title]
            for f in found:
                lines += [
                    f"  {f.count:,} x {f.kind}",
                    f"      e.g. {f.example}",
                    f"      {f.remedy}",
                ]
        if not self.wrong:
            lines += ["", "nothing found that would make results wrong"]
        return "\n".join(lines)

    def json(self) -> str:
        """The page for programs."""
        page = {
            "folder": str(self.folder),
            "holds": list(self.holds),
            "counts": self.counts,
            "findings": [asdict(f) for f in self.findings],
        }
        return json.dumps(page, indent=1, ensure_ascii=False)


@dataclass
class PhotoScan:
    """What a pass over photo files found."""

    sizes: list[tuple[int, int]] = field(default_factory=list)
    """(width, height) in pixels of the readable ones."""
    same: dict[bytes, list[str]] = field(default_factory=dict)
    """Content hash -> ids, in the order of the scan."""
    unreadable: list[tuple[str, str]] = field(default_factory=list)
    """(id, why)."""

    @property
    def repeated(self) -> list[list[str]]:
        """Ids that share a photo, byte for byte."""
        return [ids for ids in self.same.values() if len(ids) > 1]


def check(
    folder: Path,
    *,
    today: date | None = None,
    photos: bool = True,
    progress: Progress | None = None,
) -> Checked:
    """Look for everything known to go wrong in a raw download or a prepared folder.

    Args:
        folder: raw H&M, FACAD, Flickr or COCO files, or what `fcr data prepare` wrote.
        today: purchases after it are in the future; None asks the clock.
        photos: read the photos too.
        progress: receives (what, done, total).

    Raises:
        InputError: no such folder, or nothing in it that is known.
    """
    folder = Path(folder)
    holds = identify(folder)
    counts: dict[str, int] = {}
    findings: list[Finding] = []
    today = today or datetime.now(UTC).date()
    for what in holds:
        try:
            if what == TABLES:
                prepared = PREPARED in holds
                findings += _check_tables(folder, today, counts, photos and not prepared, progress)
            elif what == FACAD:
                findings += _check_facad(folder, counts, photos, progress)
            else:
                findings += _check_captions(folder, what, counts, photos, progress)
        except (InputError, caption.InputError) as error:
            remedy = "nothing can be computed from it until this is mended"
            findings.append(
                Finding(f"{what} that can't be read", 1, str(error), remedy, wrong=True)
            )
    return Checked(folder, holds, counts, tuple(findings))


def identify(folder: Path) -> tuple[str, ...]:
    """What a folder holds: PREPARED, TABLES, FACAD, FLICKR or COCO, or the first two.

    Raises:
        InputError: no such folder, or nothing known in it.
    """
    if not folder.is_dir():
        raise InputError(f"folder {folder} does not exist: give the folder of a dataset")
    found = []
    if (folder / MARKER).is_file():
        if not (folder / "captions.json").is_file():
            raise InputError(
                f"{folder} holds an interrupted `fcr data prepare`: give that command again"
            )
        found.append(PREPARED)
    if (folder / "articles.csv").is_file():
        found.append(TABLES)
    if not found and (
        any(folder.glob("*_CAPTIONS_5.json"))
        or any(folder.glob("*_IMAGES_5.hdf5"))
        or any(folder.glob("meta_all*.json"))
    ):
        found.append(FACAD)
    if not found and (
        any((folder / name).is_file() for name in (*TEXT_FILES, HUB_TABLE))
        or any(folder.glob("*_images.txt"))
    ):
        found.append(FLICKR)
    if not found and caption_json(folder):
        found.append(COCO)
    if not found:
        raise InputError(
            f"{folder} holds no dataset that is known: expected articles.csv, FACAD's, "
            "Flickr's or COCO's files, or what `fcr data prepare` wrote"
        )
    return tuple(found)


def read_captions(folder: Path, what: str) -> tuple[CaptionSet, tuple[Finding, ...]]:
    """The caption set of a folder that `identify` calls `what`, and what reading it found."""
    if what == PREPARED:
        return CaptionSet.load(folder / "captions.json"), ()
    if what == FACAD:
        source = read_facad(folder)
    elif what == FLICKR:
        source = read_flickr(folder, name=folder.name)
    else:
        source = read_coco(folder, name=folder.name)
    return source.captions, source.findings


def scan_photos(photos: Sequence[tuple[str, Path]], progress: Progress | None = None) -> PhotoScan:
    """Read every photo once: size, content hash, and whether it is whole.

    Pixels are decoded only where a JPEG lacks its end mark or the picture is of another format.
    """
    from PIL import Image

    scan = PhotoScan()
    for i, (id, path) in enumerate(photos):
        try:
            content = path.read_bytes()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                with Image.open(io.BytesIO(content)) as image:
                    size, is_jpeg = image.size, image.format == "JPEG"
            if not (is_jpeg and JPEG_END in content[-64:]):
                open_image(path)
        except UnreadableImage as error:
            scan.unreadable.append((id, error.reason))
            continue
        except Exception as error:  # decoders of broken files raise about everything
            reason = "empty file" if path.is_file() and not path.stat().st_size else str(error)
            scan.unreadable.append((id, reason.splitlines()[0] if reason else type(error).__name__))
            continue
        scan.sizes.append(size)
        digest = hashlib.blake2b(content, digest_size=16).digest()
        scan.same.setdefault(digest, []).append(id)
        if progress is not None and i % 100 == 0:
            progress("reading photos", i, len(photos))
    return scan


def _check_captions(
    folder: Path, what: str, counts: dict[str, int], photos: bool, progress: Progress | None
) -> tuple[Finding, ...]:
    tally = Tally()
    if what == PREPARED:
        _check_manifest(folder, tally)
    captions, found = read_captions(folder, what)
    examples = captions.examples
    counts["examples"] = len(examples)
    counts["captions"] = sum(len(e.captions) for e in examples)
    parts = Counter(e.split for e in examples if e.split)
    counts.update({f"in {part}": n for part, n in sorted(parts.items())})
    if parts and "train" not in parts:
        tally.add("missing part", "train", f"there are {', '.join(sorted(parts))} only")
    pictures = [(e.id, e.image) for e in examples if e.image is not None]
    if pictures and photos:
        scan = scan_photos(pictures, progress)
        counts["photos"] = len(pictures)
        _check_unreadable(scan, tally)
        _check_shared(scan, examples, tally)
    return (*found, *text_findings(examples), *tally.findings())


def _check_manifest(folder: Path, tally: Tally) -> None:
    manifest = Workspace(folder.parent).manifest(folder.name)
    if manifest is None:
        again = "preparing was interrupted: give the same command again"
        tally.add("missing manifest", "manifest.json", again, wrong=True)
        return
    for name, digest in manifest["files"].items():
        if not (folder / name).is_file() or file_sha256(folder / name) != digest:
            again = "it was changed or damaged since: prepare again"
            tally.add("file that is not what was prepared", name, again, wrong=True)


def _check_unreadable(scan: PhotoScan, tally: Tally) -> None:
    for id, why in scan.unreadable:
        tally.add("photo that can't be read", f"{id}: {why}", "get it again; commands skip it")


def _check_shared(scan: PhotoScan, examples: Sequence[CaptionExample], tally: Tally) -> None:
    """Photos that several examples share: across parts they leak."""
    split = {e.id: e.split for e in examples}
    for ids in scan.repeated:
        sides = {split[id]: id for id in reversed(ids)}
        if len(sides) > 1:
            named = " and ".join(f"{id} ({side})" for side, id in sorted(sides.items()))
            apart = "the test is seen in training: drop one, or give both one id"
            tally.add(TWO_SPLITS, named, apart, wrong=True)
        else:
            tally.add("photo that several examples share", " and ".join(ids[:3]), "kept")


def _check_tables(
    folder: Path,
    today: date,
    counts: dict[str, int],
    photos: bool,
    progress: Progress | None,
) -> tuple[Finding, ...]:
    has_purchases = (folder / "transactions_train.csv").is_file()
    catalog = read_catalog(folder, purchases=has_purchases, drop_bad_rows=True)
    counts["articles"] = catalog.articles.height
    described = catalog.articles.filter(pl.col("detail_desc").is_not_null())
    texts = [
        CaptionExample(id, None, (text,))
        for id, text in described.select("article_id", "detail_desc").iter_rows()
    ]
    tally = Tally()
    _check_photos(catalog, counts, tally, photos, progress)
    if has_purchases:
        counts["customers"] = catalog.customers.height
        counts["purchases"] = catalog.purchases.height
        _check_purchases(catalog, today, tally)
    else:
        tally.add("missing file", "transactions_train.csv", "captions only, no recommendation")
    return (*table_findings(catalog), *text_findings(texts), *tally.findings())


def _check_photos(
    catalog: Catalog,
    counts: dict[str, int],
    tally: Tally,
    photos: bool,
    progress: Progress | None,
) -> None:
    codes = dict(catalog.articles.select("article_id", "product_code").iter_rows())
    present = []
    for id, path in zip(codes, catalog.photos(), strict=True):
        if path is None:
            tally.add("article without photo", id, "it gets no caption")
        else:
            present.append((id, path))
    counts["photos"] = len(present)
    for stem in sorted(path.stem for path in catalog.folder.glob("images/*/*.jpg")):
        if stem not in codes:
            tally.add("photo of an unknown article", stem, "not used")
    if not photos:
        return
    scan = scan_photos(present, progress)
    _check_unreadable(scan, tally)
    for same in scan.repeated:
        if len({codes[id] for id in same}) > 1:
            kind = "photo that articles of several products share"
            tally.add(kind, " and ".join(same[:3]), "a split by product does not keep it together")


def _check_purchases(catalog: Catalog, today: date, tally: Tally) -> None:
    purchases = catalog.purchases
    day, price = pl.col("t_dat"), pl.col("price")
    mend = "splits by time put it on the wrong side: mend the date or drop the row"
    for kind, rows, remedy, wrong in (
        ("purchase in the future", day > today, mend, True),
        (f"purchase before {OLDEST.year}", day < OLDEST, mend, True),
        ("purchase without a price", price.is_null() | (price <= 0), "kept", False),
    ):
        if (found := purchases.filter(rows)).height:
            example = f"{found['t_dat'][0]} {found['article_id'][0]}"
            tally.add(kind, example, remedy, wrong=wrong, n=found.height)
    keys = ["t_dat", "customer_id", "article_id"]
    repeats = purchases.height - purchases.n_unique(keys)
    kind = "purchase of the same article by the same customer on the same day"
    tally.add(kind, "repeated rows", "kept: they are quantities", n=repeats)
    for column, frame in (("article_id", catalog.articles), ("customer_id", catalog.customers)):
        idle = frame.join(purchases.select(column).unique(), on=column, how="anti")
        if idle.height:
            kind = f"{column.removesuffix('_id')} without purchases"
            tally.add(kind, idle[column][0], "kept", n=idle.height)


def _check_facad(
    folder: Path, counts: dict[str, int], photos: bool, progress: Progress | None
) -> list[Finding]:
    findings = list(facad_findings(folder))
    try:
        examples = read_facad(folder).captions.examples
    except caption.InputError:
        examples = ()  # said by the findings already
    counts["examples"] = len(examples)
    findings += text_findings(examples)
    texts = {e.id: e.captions[0] for e in examples}
    tally = Tally()
    first: dict[bytes, tuple[str, str]] = {}
    n = 0
    for part in FACAD_PARTS.values() if photos else ():
        name = next(k for k, v in FACAD_PARTS.items() if v == part)
        if not (folder / f"{name}_IMAGES_5.hdf5").is_file():
            continue
        for row, pixels in photo_rows(folder, part):
            n += 1
            if progress is not None and n % 1000 == 0:
                progress("reading photos", n, max(n, len(examples)))
            id = f"{part}-{row:07d}"
            if not pixels.any():
                tally.add("blank photo", id, "prepare leaves it out", wrong=True)
                continue
            same, side = first.setdefault(photo_digest(pixels), (id, part))
            if texts.get(same) != texts.get(id):
                tally.add(
                    TWO_CAPTIONS, f"{same} and {id}",
                    "prepare leaves both out: one was replaced by the other's", wrong=True,
                )  # fmt: skip
            elif side != part:
                tally.add(
                    TWO_SPLITS, f"{same} and {id}", "prepare with --split leak-free", wrong=True
                )
    if photos:
        counts["photos"] = n
    return [*findings, *tally.findings()]
