"""Files by URL (`s3://`, `gs://`, `hdfs://` ...): inputs through a cache, outputs delivered.

Every command works on local files. An input with a URL is copied into a cache first, under a name
made of its URL and version (size, ETag, time), so that what has not changed is not read again;
copies go on where they stopped and appear whole or not at all. The photos of a data folder are
copied one by one, when they are opened. An output with a URL is computed into the cache and
delivered when it is whole, manifest last. Runs themselves stay on a disk: their locks and atomic
renames need one.

The cache is $FCR_CACHE, else $XDG_CACHE_HOME/fcr, else ~/.cache/fcr; it may be deleted at any time
at which nothing runs. Copies that were not asked for longest go when it outgrows $FCR_CACHE_GB, or
leaves less than a tenth of its disk free; those of the last hour and those of tables, which
are linked into the copy of their folder, stay. Credentials and endpoints are those of the
protocol's own client (AWS_ENDPOINT_URL, AWS_PROFILE ...).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import datetime
from fnmatch import fnmatchcase
from functools import cache as memoise
from pathlib import Path, PosixPath
from typing import Any

import click

from pipelines import InputError

EXTRAS = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "az": "adlfs", "hdfs": "pyarrow"}
"""Protocol -> the package that speaks it."""
URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*://")
PHOTOS = "images/"
INDEX = ".photos.json"
"""In a copied data folder: the photos that lie in the store."""
CHUNK = 1 << 22
THREADS = 16
KEEP_FREE = 0.1
"""Share of the disk that the cache leaves free."""
IN_USE_S = 3600.0
"""Seconds for which a copy that was asked for stays: its reader may not have opened it yet."""
LOOK_EACH = 1 << 26
"""Bytes that are copied between two looks at the disk, at least."""
_HERE: dict[str, str] = {}
"""Local copy -> its URL, for what this process says."""


def is_url(place: object) -> bool:
    """Whether this names a place in a store rather than on a disk."""
    return isinstance(place, str) and URL.match(place) is not None


def in_words(text: str) -> str:
    """What is said to the user, with the URLs of the files whose copies it names."""
    for here, url in _HERE.items():
        text = text.replace(here, url)
    return text


def is_copy(place: Path) -> bool:
    """Whether this is a copy of what `fetch` found in a store."""
    return any(place.is_relative_to(here) for here in _HERE)


def fetch(url: str, *, lazily: bool = False) -> Path:
    """A local copy of a file or of everything in a folder, as it is now.

    Args:
        url: such as `s3://bucket/folder`; `file://` is the file itself.
        lazily: leave what lies below `images/` in the store; see `images`.

    Raises:
        InputError: nothing there, no permission, no connection, a missing package.
    """
    if url.startswith("file://"):
        return _local(url)
    url = url.rstrip("/")
    folder = _cache("copies", _digest(url))
    mirror = folder / url.rpartition("/")[2]
    _HERE[str(mirror)] = url
    with _explained(url, "read"):
        fs, root = _filesystem(url)
        root = root.rstrip("/")
        fs.invalidate_cache()  # what this process listed before may have changed since
        if fs.isfile(root):
            return _linked(mirror, _entry(url, fs.info(root)))
        found = {}
        for name, info in sorted(fs.find(root, detail=True).items()):
            below = name[len(root) :].lstrip("/")
            if below and not below.endswith("/"):  # some stores list folders as empty objects
                found[_safe(below, url)] = _entry(f"{url}/{below}", info)
        if not found:
            raise FileNotFoundError("nothing lies there")
    photos = {name: e for name, e in found.items() if lazily and name.startswith(PHOTOS)}
    files = {name: e for name, e in found.items() if name not in photos}
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda name: _linked(mirror / name, files[name]), files))
    mirror.mkdir(parents=True, exist_ok=True)
    for old in sorted(mirror.rglob("*")):
        if not old.is_dir() and old.name != INDEX and str(old.relative_to(mirror)) not in files:
            old.unlink(missing_ok=True)
    if photos:
        text = json.dumps({name: asdict(entry) for name, entry in photos.items()})
        write_whole(mirror / INDEX, text.encode())
    else:
        (mirror / INDEX).unlink(missing_ok=True)
    return mirror


def images(folder: Path) -> Path:
    """The folder of photos in a data folder; of one that `fetch` copied lazily, a `StoredPath`."""
    index = folder / INDEX
    try:
        changed = index.stat().st_mtime_ns
    except OSError:
        return folder / "images"
    return StoredPath.of(folder / "images", _index(index, changed))


@contextlib.contextmanager
def delivered(place: Path | str, say: Callable[[str], None]) -> Iterator[Path]:
    """A local folder to write to; with a URL, what lies in it at the end is copied there.

    A killed call finds the folder again. Whether the store can be written is tried beforehand.

    Raises:
        InputError: no permission, no such bucket, no connection, a missing package.
    """
    url = str(place).rstrip("/")
    if not is_url(place) or url.startswith("file://"):
        yield _local(url) if is_url(place) else Path(place)
        return
    with _explained(url, "written"):
        fs, root = _filesystem(url)
        probe = f"{root}/.fcr-{os.getpid()}"
        fs.pipe_file(probe, b"\n")
        fs.rm_file(probe)
    folder = _cache("deliveries", _digest(url)) / url.rpartition("/")[2]
    _HERE[str(folder)] = url
    yield folder
    say(f"delivered {deliver(folder, url):,} files to {url}")


def deliver(folder: Path, place: Path | str) -> int:
    """Copy every file of `folder`, links followed, manifests last; returns how many.

    A file of this name that lies at `place` is replaced whole, others stay.

    Raises:
        InputError: see `delivered`.
    """
    files = [
        Path(top) / name
        for top, _, names in os.walk(folder, followlinks=True)
        for name in names
        if not any(part.startswith(".") for part in Path(top, name).relative_to(folder).parts)
    ]
    files.sort(key=lambda path: (path.name == "manifest.json", path))
    url = str(place).rstrip("/")
    if not is_url(place) or url.startswith("file://"):
        target = _local(url) if is_url(place) else Path(place)
        for path in files:
            copy = target / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            write_whole(copy, path)
        return len(files)
    with _explained(url, "written"):
        fs, root = _filesystem(url)
        for path in files:
            fs.put_file(str(path), f"{root}/{path.relative_to(folder)}")
    return len(files)


def write_whole(path: Path, content: bytes | Path) -> None:
    """Bytes, or what another file holds, into a file that appears whole or not at all."""
    from pipelines.workspace import atomic_file

    with atomic_file(path) as handle:
        if isinstance(content, bytes):
            handle.write(content)
            return
        with open(content, "rb") as source:
            shutil.copyfileobj(source, handle)


class StoredPath(PosixPath):
    """A photo in a store, or a folder of them: a path whose file is copied when it is opened.

    `name`, `/`, `glob`, `stat` and `is_file` answer from the listing; whatever asks for the file's
    name in the system (`open`, Pillow, `os.fspath`) gets that of the copy.
    """

    known: Mapping[str, Entry]
    """Path below the data folder -> the object."""
    within: str

    @classmethod
    def of(cls, path: Path, known: Mapping[str, Entry], within: str = PHOTOS) -> StoredPath:
        """The folder `path`, whose objects are named `within`... in `known`."""
        made = cls(path_text(path))
        made.known, made.within = known, within.rstrip("/")
        return made

    def __truediv__(self, key: Any) -> StoredPath:
        below = f"{self.within}/{key}"
        return StoredPath.of(Path(f"{path_text(self)}/{key}"), self.known, below)

    def __fspath__(self) -> str:
        entry = self.entry()
        return path_text(self) if entry is None else str(_copied(entry))

    def __reduce__(self) -> Any:
        entry = self.entry()
        known = self.known if entry is None else {self.within: entry}
        return StoredPath.of, (Path(path_text(self)), dict(known), self.within)

    def entry(self) -> Entry | None:
        """The object; None of a folder, or where there is none."""
        return self.known.get(self.within)

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Size and time of the object. Raises FileNotFoundError."""
        entry = self.entry()
        if entry is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path_text(self))
        seconds = entry.time // 10**9
        numbers = (stat.S_IFREG | 0o444, 0, 0, 1, 0, 0, entry.size, seconds, seconds, seconds)
        return os.stat_result(numbers, {"st_mtime_ns": entry.time})

    def is_file(self, **_: Any) -> bool:
        """Whether the listing has it."""
        return self.entry() is not None

    def is_dir(self, **_: Any) -> bool:
        """Whether the listing has anything below it."""
        return any(name.startswith(f"{self.within}/") for name in self.known)

    def glob(self, pattern: str, **_: Any) -> Iterator[StoredPath]:  # type: ignore[override]
        """Objects below this folder, a `*` standing within a name."""
        depth = pattern.count("/")
        for name in self.known:
            below = name.removeprefix(f"{self.within}/")
            if below != name and below.count("/") == depth and fnmatchcase(below, pattern):
                yield self / below


def path_text(path: Path) -> str:
    """A path as text, without asking for its file."""
    return PosixPath.__str__(path)


def reference(path: Path) -> str:
    """A path as text that `referred` understands on another machine."""
    entry = path.entry() if isinstance(path, StoredPath) else None
    return path_text(path) if entry is None else json.dumps([path_text(path), asdict(entry)])


def referred(text: str) -> Path:
    """The path that `reference` wrote."""
    if not text.startswith("["):
        return Path(text)
    path, entry = json.loads(text)
    return StoredPath.of(Path(path), {path: Entry(**entry)}, path)


class _Place(click.Path):
    """A path or a URL."""

    def __init__(self, *, url: Callable[[str], Any], **options: Any) -> None:
        super().__init__(path_type=Path, **options)
        self.url = url

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        return self.url(value) if is_url(value) else super().convert(value, param, ctx)


def _no_runs(url: str) -> Path:
    raise InputError(
        f"--runs {url}: runs live on a local disk, because their locks and atomic renames need "
        "one. Leave them there, and hand results over with `fcr export --out URL`"
    )


INPUT = _Place(url=fetch)
"""A file or folder that is read: its local copy."""
INPUT_SET = _Place(url=lambda url: _with_neighbours(url))
"""A file that names others in its folder: its local copy beside theirs."""
DATA = _Place(url=str)
"""A data folder, left to `open_run`."""
OUTPUT = _Place(url=str, file_okay=False)
"""A folder that is written, for `delivered`."""
RUNS = _Place(url=_no_runs, file_okay=False)
"""The folder of all runs: no URL."""


# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Entry:
    """An object as it was when it was listed."""

    url: str
    size: int
    time: int
    """Of its last change, in seconds since 1970 times 10**9; below that, a mark of its content."""
    version: str
    """Digest of its URL, size and what the store says of its content: ETag, checksum, else time."""


def _entry(url: str, info: Mapping[str, Any]) -> Entry:
    size = int(info.get("size") or 0)
    times = ("mtime", "LastModified", "last_modified", "updated", "created")
    when = next((info[name] for name in times if info.get(name)), 0)
    marks = ("ETag", "etag", "md5Hash", "crc32c", "checksum", "generation")
    seen = [f"{name}={info[name]}" for name in marks if info.get(name)]
    time = _nanoseconds(when)
    version = _digest(json.dumps([url, size, *(seen or [str(time)])]))
    if seen:  # times of stores go by the second: what is below it tells contents apart
        time += int.from_bytes(version.encode()[:8], "big") % 10**9 - time % 10**9
    return Entry(url, size, time, version)


def _nanoseconds(when: Any) -> int:
    if isinstance(when, str):
        with contextlib.suppress(ValueError):
            when = datetime.fromisoformat(when)
    if isinstance(when, datetime):
        when = when.timestamp()
    return round(float(when) * 1e6) * 1000 if isinstance(when, int | float) else 0


def _copied(entry: Entry) -> Path:
    """The object's copy in the cache, made now where there is none.

    Raises FileNotFoundError (it went after it was listed) and InputError.
    """
    suffix = "".join(Path(entry.url).suffixes[-2:])
    suffix = suffix if re.fullmatch(r"[.\w-]{0,20}", suffix) else ""
    path = _cache("objects", entry.version[:2]) / f"{entry.version}{suffix}"
    with contextlib.suppress(OSError):  # not there, or of a cache that can be read only
        os.utime(path, ns=(time.time_ns(), entry.time))  # asked for now, see `_Room`
    if path.is_file():
        return path
    with _explained(entry.url, "read", missing=False):
        fs, name = _filesystem(entry.url)
        part = path.with_name(f"{path.name}.part")
        with open(part, "ab") as out:
            fcntl.flock(out, fcntl.LOCK_EX)  # of two that want it, one copies and one waits
            if path.is_file():
                part.unlink(missing_ok=True)
                return path
            done = out.tell()
            if done > entry.size:
                out.truncate(0)
                done = 0
            if not done and entry.size <= CHUNK:
                out.write(fs.cat_file(name))  # one request
            else:
                with fs.open(name, "rb", block_size=CHUNK, cache_type="readahead") as source:
                    source.seek(done)
                    while chunk := source.read(CHUNK):
                        out.write(chunk)
            out.flush()
            os.fsync(out.fileno())
            whole = out.tell() == entry.size
            if done or entry.size > CHUNK or not whole:
                fs.invalidate_cache(fs._parent(name))
                whole = whole and _entry(entry.url, fs.info(name)).version == entry.version
            if not whole:
                part.unlink(missing_ok=True)
                raise InputError(
                    f"{entry.url} changed while it was read: give the same command again"
                )
            os.utime(part, ns=(time.time_ns(), entry.time))
            os.replace(part, path)
    _ROOM.take(entry.size)
    return path


class _Room:
    """Keeps the cache within its bounds."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.copied = 1 << 62  # the first copy looks

    def take(self, size: int) -> None:
        """After a copy of so many bytes: remove the oldest where the bounds are passed.

        Raises InputError for a bound that is no number.
        """
        most = _most()
        with self.lock:
            self.copied += size
            if self.copied < max(LOOK_EACH, (most or 0) // 64):
                return
            self.copied = 0
        folder = _cache("objects")
        disk = shutil.disk_usage(folder)
        over = int(disk.total * KEEP_FREE) - disk.free
        if most is None and over <= 0:
            return
        found: list[tuple[int, int, str]] = []
        for top in os.scandir(folder):
            for copy in os.scandir(top.path):
                with contextlib.suppress(FileNotFoundError):
                    known = copy.stat()
                    if known.st_nlink == 1:  # else its bytes stay where it is linked to
                        half = copy.name.endswith(".part")  # somebody may be writing it
                        asked = max(known.st_atime_ns, known.st_mtime_ns if half else 0)
                        found.append((asked, known.st_blocks * 512, copy.path))
        spare = disk.total // 256  # removed along, so that not every look lists the cache
        if most is not None:
            over, spare = max(over, sum(size for _, size, _ in found) - most), most // 16
        over += spare if over > 0 else 0
        for asked, size, path in sorted(found):
            if over <= 0 or asked > time.time_ns() - IN_USE_S * 1e9:
                return
            with contextlib.suppress(OSError):
                os.unlink(path)
                over -= size


_ROOM = _Room()


def _most() -> int | None:
    """Bytes that $FCR_CACHE_GB allows."""
    text = os.environ.get("FCR_CACHE_GB")
    if not text:
        return None
    with contextlib.suppress(ValueError):
        if (gigabytes := float(text)) >= 0:
            return int(gigabytes * 1e9)
    raise InputError(f"FCR_CACHE_GB is {text!r}: expected gigabytes, such as 50")


def _linked(link: Path, entry: Entry) -> Path:
    """`link` as a link to the object's copy."""
    try:
        target = _copied(entry)
    except FileNotFoundError as error:
        raise InputError(f"{entry.url} went while it was read: give the command again") from error
    if not link.exists() or not link.samefile(target):
        link.parent.mkdir(parents=True, exist_ok=True)
        temporary = link.with_name(f".{link.name}.{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            os.link(target, temporary)
        except OSError:  # a file system without hard links
            os.symlink(target, temporary)
        os.replace(temporary, link)
    return link


def _with_neighbours(url: str) -> Path:
    """The copy of a file among copies of everything in its folder."""
    folder, _, name = url.rpartition("/")
    return fetch(folder) / name


def _filesystem(url: str) -> tuple[Any, str]:
    """The store's client and the place's name in it."""
    import fsspec

    fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return fs, str(root)


@contextlib.contextmanager
def _explained(url: str, what: str, *, missing: bool = True) -> Iterator[None]:
    """Every failure of a store as one line; a file that is `missing` only where that is one."""
    protocol = url.partition("://")[0]
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        package = EXTRAS.get(protocol, f"the fsspec package of {protocol}")
        extra = f"pip install 'fcr[{protocol}]'" if protocol == "s3" else f"pip install {package}"
        raise InputError(f"{url} needs a package that is not installed ({package}): {extra}") from (
            error
        )
    except FileNotFoundError as error:
        if not missing:
            raise
        raise InputError(
            f"{url} is not there ({_first_line(error)}): check the bucket's and the folder's name"
        ) from error
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # this machine's disk
        if type(error) in (TypeError, AttributeError, KeyError, AssertionError):
            raise  # a mistake of the program's
        remedy = "check the credentials and endpoint of this protocol's client"
        if isinstance(error, ValueError) and "rotocol" in str(error):
            remedy = "expected s3://, gs://, hdfs:// or another protocol of fsspec"
        raise InputError(
            f"{url} can't be {what} ({type(error).__name__}: {_first_line(error)}): {remedy}"
        ) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _local(url: str) -> Path:
    """The path of a `file://` URL."""
    from fsspec.implementations.local import LocalFileSystem

    return Path(LocalFileSystem._strip_protocol(url))


def _safe(name: str, url: str) -> str:
    """A name below a listed folder. Raises InputError where it would lead out of it."""
    if not name or name.startswith("/") or ".." in name.split("/") or "\0" in name:
        raise InputError(f"{url} lists an object named {name!r}, which is no name of a file")
    return name


def _cache(*parts: str) -> Path:
    """A folder of the cache, made now."""
    base = os.environ.get("FCR_CACHE")
    if base is None:
        home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        base = f"{home}/fcr"
    folder = Path(base).expanduser().absolute().joinpath("stores", *parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}, for copies of files of stores, can't be made: {error.strerror}. Name "
            "another place in the environment variable FCR_CACHE"
        ) from error
    return folder


@memoise
def _index(path: Path, changed: int) -> Mapping[str, Entry]:
    found = json.loads(path.read_text(encoding="utf-8"))
    return {name: Entry(**entry) for name, entry in found.items()}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
