"""Run directories: atomic files, manifests, one process at a time, reuse of what is already there.

A run is `runs/<name>/`, a stage is a folder in it. A stage is whole when, and only when, its
`manifest.json` stands: the manifest is written last, names the key (configuration, inputs, version)
the stage was computed from and the sha256 of every file, and is removed before the stage is
computed again. Whoever dies in between leaves a folder without manifest, which the next call
computes again from whatever resumable pieces the stage keeps.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, is_dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipelines import InputError
from pipelines.energy import measured

if TYPE_CHECKING:
    import polars as pl

PACKAGES = [
    "fcr",
    "torch",
    "transformers",
    "peft",
    "sentence-transformers",
    "faiss-cpu",
    "faiss-gpu",
    "implicit",
    "polars",
    "numba",
    "numpy",
    "scipy",
    "pycocoevalcap",
    "safetensors",
    "pillow",
]
SEAL = "manifest_sha256"
"""In a manifest, the `content_key` of all else in it."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass
class Stage:
    """One stage of a run: where its files lie and what is known about how they were made."""

    folder: Path
    key: str
    reused: bool
    record: dict[str, Any] = field(default_factory=dict)
    """Extra facts a command puts into the manifest (counts, notes); JSON values only."""

    def path(self, name: str) -> Path:
        """Path of the stage's file `name`."""
        return self.folder / name


@dataclass(frozen=True)
class Workspace:
    """A run directory."""

    folder: Path

    @classmethod
    def open(cls, run: str, root: Path) -> Workspace:
        """The run `run` (a plain name) below `root`; creates the folder.

        Raises:
            InputError: `run` is not a plain name, or the folder can't be created or written.
        """
        if not NAME.fullmatch(run):
            raise InputError(
                f"run name {run!r} is not usable: expected letters, digits, '.', '_' or '-', "
                f"starting with a letter or digit (it becomes a folder below {root})"
            )
        folder = root / run
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"run folder {folder} can't be created: {error.strerror}. "
                "Choose another with --runs DIR"
            ) from error
        if not os.access(folder, os.W_OK):
            raise InputError(
                f"run folder {folder} is not writable. Choose another place with --runs DIR"
            )
        return cls(folder)

    @classmethod
    def known(cls, run: str, root: Path) -> Workspace:
        """The run `run` below `root`, which has to be there.

        Raises:
            InputError: there is none.
        """
        if not NAME.fullmatch(run) or not (root / run).is_dir():
            there = sorted(p.name for p in root.glob("*") if p.is_dir() and NAME.fullmatch(p.name))
            raise InputError(
                f"no run {run!r} in {root}: expected one of {', '.join(there) or '(none yet)'}"
            )
        return cls(root / run)

    @property
    def cache(self) -> Path:
        """Content-addressed pieces (embeddings) that any stage of any run below the root shares."""
        return self.folder.parent / ".cache"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process; the kernel releases it when the process dies.

        Raises:
            InputError: another process holds the run.
        """
        with open(self.folder / ".lock", "a+", encoding="utf-8") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                handle.seek(0)
                owner = handle.read().strip() or "unknown"
                raise InputError(
                    f"run {self.folder} is in use by another process (pid {owner}): wait for it, "
                    "or give this call its own run with --run NAME"
                ) from error
            handle.seek(0)
            handle.truncate()
            handle.write(str(os.getpid()))
            handle.flush()
            yield

    def manifest(self, stage: str) -> dict[str, Any] | None:
        """The manifest of a finished stage, or None where the stage is not whole."""
        found = read_json(self.folder / stage / "manifest.json")
        if found is None or found.pop(SEAL, None) != content_key(found):
            return None  # a manifest that changed since it was written vouches for nothing
        if any(os.path.isabs(name) or ".." in Path(name).parts for name in found["files"]):
            return None  # no stage writes outside its folder
        return found

    def stage_file(self, stage: str, name: str) -> Path | None:
        """A file of a finished stage, checked against its manifest; None where there is none.

        Raises:
            InputError: the file is named by the manifest but missing or changed since.
        """
        manifest = self.manifest(stage)
        if manifest is None or name not in manifest["files"]:
            return None
        path = self.folder / stage / name
        if not path.is_file() or file_sha256(path) != manifest["files"][name]:
            raise InputError(
                f"{path} is missing or not what stage '{stage}' wrote (checksum differs from its "
                f"manifest): run `fcr {stage}` again, it will be rebuilt"
            )
        return path

    @contextlib.contextmanager
    def stage(
        self,
        name: str,
        *,
        config: Mapping[str, Any],
        inputs: Mapping[str, str],
        seed: int,
        say: Callable[[str], None],
        still: Callable[[], bool] | None = None,
    ) -> Iterator[Stage]:
        """Compute a stage, or find it unchanged.

        Args:
            name: the stage's folder.
            config: everything of the configuration that decides the stage's result, JSON values.
            inputs: name -> content hash of everything the stage reads.
            seed: the seed it runs with.
            say: receives one line when the stage is reused.
            still: asked at the end whether what was read is still what `inputs` say; a stage that
                met something else is finished, and is made anew when it is asked for again.

        Yields:
            A Stage; when `reused` is True its files are whole and there is nothing to do.
        """
        folder = self.folder / name
        key = content_key({"config": dict(config), "inputs": dict(inputs), "version": version()})
        old = self.manifest(name)
        if old is not None and old.get("key") == key and not _damaged(folder, old["files"]):
            say(f"{name}: nothing changed, reused ({folder})")
            yield Stage(folder, key, reused=True, record=old.get("record", {}))
            return
        folder.mkdir(parents=True, exist_ok=True)
        for damaged in _damaged(folder, old["files"]) if old is not None else ():
            (folder / damaged).unlink(missing_ok=True)  # nothing may go on from it
        (folder / "manifest.json").unlink(missing_ok=True)
        for stale in folder.rglob(".*.tmp*"):  # ours and caption's: half files of a killed process
            stale.unlink(missing_ok=True)
        stage = Stage(folder, key, reused=False)
        started = time.monotonic()
        with measured() as energy, peak_memory() as peak:
            yield stage
        if still is not None and not still():
            say(
                f"note: photos went or changed while {name} was at work; it holds what it met, and "
                "the same command makes it anew"
            )
            key = content_key({"key": key, "changed while at work": time.time_ns()})
        files = {
            str(path.relative_to(folder)): file_sha256(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != "manifest.json" and ".tmp-" not in path.name
        }
        manifest = {
            "stage": name,
            "key": key,
            "command": " ".join(["fcr", *map(shlex.quote, sys.argv[1:])]),
            "config": dict(config),
            "inputs": dict(inputs),
            "packages": package_versions(),
            "python": platform.python_version(),
            "git": git_revision(),
            "seed": seed,
            "seconds": round(time.monotonic() - started, 3),
            "peak_memory_mb": round(peak[0] / 2**20, 1),
            "energy": energy,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "record": stage.record,
            "files": files,
        }
        manifest = json.loads(json.dumps(manifest))  # as it will be read: all keys are text
        write_json(folder / "manifest.json", {**manifest, SEAL: content_key(manifest)})


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; on success it replaces `path`, on any error it goes."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically: sorted keys, so that equal values give equal bytes."""
    with atomic_file(path, "w") as handle:
        json.dump(value, handle, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        handle.write("\n")


def write_text(path: Path, text: str) -> None:
    """Write text atomically."""
    with atomic_file(path, "w") as handle:
        handle.write(text)


def write_table(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame atomically, as Parquet or CSV by the file's ending.

    Encoded in memory first: polars hides the errno of a full disk in an error of its own.
    """
    buffer = io.BytesIO()
    if path.suffix == ".csv":
        frame.write_csv(buffer)
    else:
        frame.write_parquet(buffer)
    with atomic_file(path) as handle:
        handle.write(buffer.getbuffer())


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file; None where the file is missing or not whole."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # cut off, changed, no JSON at all
        return None
    return value if isinstance(value, dict) else None


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def folder_fingerprint(folder: Path, pattern: str = "**/*") -> str:
    """Hash over the names, sizes and change times of a folder's files: cheap for 100k photos."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob(pattern)):
        if path.is_file() and not path.name.startswith("."):
            status = path.stat()
            line = f"{path.relative_to(folder)}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode())
    return digest.hexdigest()


def content_key(value: Any) -> str:
    """Hex sha256 of a JSON-able value (dataclasses and paths included) in canonical form."""

    def plain(item: Any) -> Any:
        if is_dataclass(item) and not isinstance(item, type):
            return asdict(item)
        if isinstance(item, Path):
            return str(item)
        raise TypeError(f"{type(item).__name__} can't be part of a key")

    text = json.dumps(value, sort_keys=True, default=plain, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def version() -> str:
    """The installed version of fcr."""
    try:
        return metadata.version("fcr")
    except metadata.PackageNotFoundError:
        return "unknown"


def package_versions() -> dict[str, str]:
    """Versions of the packages that decide results, of those that are installed."""
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def git_revision() -> str | None:
    """The checkout's revision, or None outside a checkout of fcr."""
    root = Path(__file__).resolve().parents[1]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


@contextlib.contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Peak resident memory of this process within the block, in bytes, as a one-item list.

    Linux lets a process reset its own high-water mark; elsewhere the peak since start is given.
    """
    import resource

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    result = [0]
    try:
        yield result
    finally:
        try:
            status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
            result[0] = int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024  # type: ignore[index]
        except (OSError, TypeError):
            result[0] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def packaged(*parts: str) -> Path:
    """A preset or demo model: in the checkout, or inside the installed package."""
    here = Path(__file__).resolve().parent
    for base in (here.parent / parts[0], here / f"_{parts[0]}"):
        path = base.joinpath(*parts[1:])
        if path.exists():
            return path
    raise InputError(
        f"{'/'.join(parts)} does not come with this installation of fcr: install it again"
    )


def _damaged(folder: Path, files: Mapping[str, str]) -> list[str]:
    """Files that are missing, or not what the manifest says."""
    return [
        name
        for name, digest in files.items()
        if not (folder / name).is_file() or file_sha256(folder / name) != digest
    ]
