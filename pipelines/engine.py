"""Ray as the engine of captions, vectors and rankings: the shards of one process, on many workers.

Ray Data's batch inference does the work: a pool of actors that load the model once, shards given
to them with back-pressure, lost workers replaced and their shards given to others. The shards are
those that one process would compute: row groups of a Parquet table, each read by the worker whose
turn it is. What computes them is the same code, and the process that asks writes each shard's
Parquet as it arrives, so results are the same bytes whatever the number of workers, a killed call
goes on from its finished shards, and no process holds the whole table's tasks.

Every machine needs fcr at the same version. Checkpoints of the hub are loaded by each machine;
folders, the run and photos have to lie at the same path everywhere (or photos in an object store).
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

import caption
import recsys
from caption.trust import TRUST, trusted_code
from pipelines import InputError
from pipelines.stores import THREADS as STORE_THREADS
from pipelines.stores import reference, referred
from pipelines.workspace import version

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped, unused-ignore]
    import pyarrow.parquet as pq  # type: ignore[import-untyped, unused-ignore]

    from caption.captioners import Captioner
    from caption.generate import Elsewhere, Item, Row
    from recsys.encoders import Encoding
    from recsys.recommenders.base import Recommender

TRIES = 4
"""Workers that one shard may lose before it is held to be the reason."""
SHARDS_A_FILE = 4096
"""Row groups of one Parquet file of tasks; a worker reads their directory once."""
SCRATCH = "fcr-ray-"
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "AUTOSCALER_METRIC_PORT": "0",
}

Compute = Callable[["pa.Table"], "pa.Table"]


class Work(Protocol):
    """What a worker does; sent to it once."""

    def open(self) -> Compute:
        """Load what is needed; called once a worker, before its first shard."""


class Engine:
    """A Ray cluster, joined when it is first needed.

    Args:
        address: of a cluster (`auto`, HOST:PORT, `ray://...`); None starts one on this machine that
            listens on loopback alone and goes with this process.
        workers: how many; None takes one for each GPU share, or where there is none for each CPU.
        gpus: share of a GPU a worker takes; None takes one where there are any.
        folder: for the tables of tasks, at the same path on every machine; made when it is not
            there. None takes one for temporary files, which suits a cluster of this machine.

    Raises:
        InputError: a number that can't be.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        workers: int | None = None,
        gpus: float | None = None,
        folder: Path | None = None,
    ) -> None:
        if workers is not None and workers < 1:
            raise InputError(f"--engine-workers is {workers}: expected at least 1")
        if gpus is not None and gpus < 0:
            raise InputError(f"--engine-gpus is {gpus:g}: expected a share such as 0.5, 1 or 0")
        self.address, self.workers, self.gpus = address, workers, gpus
        self.folder = folder
        self._scratch: Path | None = None
        self._owned = False
        self._environment: list[str] = []

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave the cluster; one that was started here ends, and its logs go."""
        if self._owned:
            import ray

            ray.shutdown()
            self._owned = False
        if self.folder is not None:
            with contextlib.suppress(OSError):
                self.folder.rmdir()
        if self._scratch is not None:
            shutil.rmtree(self._scratch, ignore_errors=True)
            self._scratch = None
        for name in self._environment:
            os.environ.pop(name, None)
        self._environment.clear()

    def captioner(self, load: Callable[[], Captioner]) -> Elsewhere:
        """The captioner that `load` loads on the workers, for `caption_catalogue`.

        It is loaded once to be identified; no weights come into this process.
        """
        import pyarrow as pa

        from caption.generate import Elsewhere

        (known,) = self.map(_Identify(load), [pa.table({"load": [True]})])
        name, fingerprint = known[1]["name"][0].as_py(), known[1]["fingerprint"][0].as_py()

        def describe(
            shards: Sequence[Sequence[Item]], settings: Mapping[str, int]
        ) -> Generator[tuple[int, list[Row]], None, None]:
            work = _Describe(load, fingerprint, dict(settings))
            tasks = (
                pa.table({"id": [id for id, _ in own], "photo": [reference(p) for _, p in own]})
                for own in shards
            )
            with contextlib.closing(self.map(work, tasks)) as found:
                for number, table in found:
                    yield number, [tuple(row.values()) for row in table.to_pylist()]  # type: ignore[misc]

        return Elsewhere(name, fingerprint, describe)

    def encode(
        self, encoding: Encoding, shards: Sequence[Sequence[Any]]
    ) -> Generator[tuple[int, NDArray[np.float32]], None, None]:
        """`recsys.encoders.Elsewhere`: vectors of shards of texts or paths.

        A worker without a GPU computes with as many threads as this process would, as the last
        digits of a vector depend on it.
        """
        import pyarrow as pa
        import torch

        photos = bool(shards) and isinstance(shards[0][0], Path)
        work = _Encode(encoding, torch.get_num_threads(), photos)
        tasks = (
            pa.table({"source": pa.array(map(reference, own) if photos else own, pa.string())})
            for own in shards
        )
        with contextlib.closing(self.map(work, tasks, cpus=work.threads)) as found:
            for number, table in found:
                rows = _array(table["vectors"])
                yield number, rows[:0, :0] if np.isnan(rows).all() else rows

    def rank(
        self,
        recommender: Recommender,
        blocks: Sequence[NDArray[np.int32]],
        k: int,
        *,
        exclude_seen: bool,
    ) -> Generator[tuple[int, NDArray[np.int32], NDArray[np.float32]], None, None]:
        """(number of a block, item_idx, scores) of blocks of users, in any order, each once.

        The fitted recommender goes to each machine once; its workers share that memory.
        """
        import pyarrow as pa

        ray = self._joined()
        work = _Rank(ray.put(recommender), k, exclude_seen)
        tasks = (pa.table({"user": users}) for users in blocks)
        with contextlib.closing(self.map(work, tasks)) as found:
            for number, table in found:
                yield number, _array(table["items"]), _array(table["scores"])

    def map(
        self, work: Work, shards: Iterable[pa.Table], *, cpus: int = 1
    ) -> Generator[tuple[int, pa.Table], None, None]:
        """(number of a shard, its table) in any order, each once.

        Args:
            work: sent to every worker.
            shards: what goes to one worker at a time, at least one row each, of one schema.
            cpus: of a cluster's, that a worker takes where it has no GPU.

        Raises:
            InputError: as `work` does; a shard whose workers died again and again; a cluster that
                went away; a folder that can't be written, or that a worker doesn't see.
        """
        shards = iter(shards)
        if (first := next(shards, None)) is None:
            return
        ray = self._joined()
        with _written(self.folder or self._scratch, itertools.chain([first], shards)) as tasks:
            yield from self._mapped(ray, work, tasks, cpus)

    def _mapped(
        self, ray: Any, work: Work, tasks: _Tasks, cpus: int
    ) -> Generator[tuple[int, pa.Table], None, None]:
        import pyarrow as pa

        gpus, workers = self._resources(ray, cpus)
        tries = ray.remote(num_cpus=0, max_restarts=-1)(_Tries).remote()
        # Numbers alone, as `read_parquet` would wait for a CPU that the pool never gives back.
        numbers = [{"shard": number} for number in range(tasks.n)]
        data = ray.data.from_items(numbers, override_num_blocks=tasks.n).map_batches(
            _Worker,
            batch_size=1,
            batch_format="pyarrow",
            fn_constructor_args=(work, tasks, tries, TRIES, version(), trusted_code()),
            compute=ray.data.ActorPoolStrategy(size=min(workers, tasks.n)),
            num_cpus=1 if self.address is None or gpus else cpus,
            num_gpus=gpus or None,
        )
        parts: dict[int, list[pa.Table]] = {}
        left = set(range(tasks.n))
        try:
            for block in data.iter_batches(batch_size=None, batch_format="pyarrow"):
                if "error" in block.column_names:
                    raise InputError(block["error"][0].as_py())
                number = block["shard"][0].as_py()
                parts.setdefault(number, []).append(block)
                if sum(part.num_rows for part in parts[number]) == block["of"][0].as_py():
                    whole = pa.concat_tables(parts.pop(number)).sort_by("at")
                    left.remove(number)
                    yield number, whole.drop_columns(["shard", "at", "of"])
            if left:
                raise RuntimeError(f"Ray returned nothing for shards {sorted(left)[:5]}")
        except ray.exceptions.RayTaskError:
            raise  # a mistake of the program's: its own traceback says more
        except ray.exceptions.RayError as error:
            raise InputError(
                f"the Ray cluster failed ({type(error).__name__}: {_first_line(error)}): finished "
                "shards are kept, the same command goes on from there"
            ) from error

    def _joined(self) -> Any:
        """The module `ray`, connected."""
        if not self._environment:
            wanted = QUIET if self.address is not None else {**QUIET, **_private()}
            self._environment += [name for name in wanted if name not in os.environ]
            os.environ.update({name: wanted[name] for name in self._environment})
        try:
            import ray
            import ray.data
        except ImportError as error:
            raise InputError("--engine ray needs Ray: pip install 'fcr[ray]'") from error
        if not ray.is_initialized():
            self._join(ray)
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # failures arrive as exceptions
        # Its own copying of its settings names its own old ones.
        warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"ray\.data\.context")
        ray.data.DataContext.get_current().enable_progress_bars = False
        return ray

    def _join(self, ray: Any) -> None:
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
        if self.address is None:
            self._scratch = _scratch()
            options |= {"address": "local", "include_dashboard": False, "num_cpus": self.workers}
            options |= {"_temp_dir": str(self._scratch)}
        else:
            options |= {"address": self.address}
        with _undisturbed():
            try:
                _answers(self.address)
                ray.init(**options)
            except (ConnectionError, OSError, RuntimeError, ValueError, TimeoutError) as error:
                self.close()
                if "Authentication" in f"{error} {error.__cause__}":
                    raise InputError(
                        f"the Ray cluster at {self.address} asks for a token: set "
                        "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH)"
                    ) from error
                raise InputError(
                    f"no Ray cluster answers at {self.address}: {_first_line(error)}. Give the "
                    "address of one with --engine-address (started by `ray start --head`), or "
                    "leave it out to use this machine"
                    if self.address is not None
                    else f"Ray did not start on this machine: {_first_line(error)}"
                ) from error
        self._owned = True

    def _resources(self, ray: Any, cpus: int) -> tuple[float, int]:
        """GPU share of a worker, and how many workers."""
        there = ray.cluster_resources()
        gpus = float(there.get("GPU", 0))
        share = min(1.0, gpus) if self.gpus is None else self.gpus
        if share > gpus and self.address is None:
            raise InputError(
                f"--engine-gpus is {share:g} and this machine has {gpus:g} GPUs that Ray can use: "
                "leave it out, or name a cluster that has them with --engine-address"
            )
        if self.workers is not None:
            return share, self.workers
        cores = float(there.get("CPU", 1)) / (1 if self.address is None else cpus)
        return share, max(1, int(gpus / share if share else cores))


# ---------------------------------------------------------------------------------------------
# In the workers


@dataclass
class _Tasks:
    """Shards as row groups of Parquet files, in their order."""

    folder: Path
    a_file: int
    n: int = 0
    _open: tuple[int, pq.ParquetFile] | None = None

    def file(self, number: int) -> Path:
        """The file of this number."""
        return self.folder / f"tasks-{number:06d}.parquet"

    def read(self, shard: int) -> pa.Table:
        """A shard; only its bytes are read.

        Raises:
            InputError: this machine doesn't see the folder.
        """
        import pyarrow.parquet as pq

        number, row_group = divmod(shard, self.a_file)
        if self._open is None or self._open[0] != number:
            try:
                self._open = number, pq.ParquetFile(self.file(number), memory_map=True)
            except (FileNotFoundError, PermissionError) as error:
                raise InputError(
                    f"a worker on {socket.gethostname()} doesn't see {self.folder}: the folder of "
                    "runs (--runs) has to lie at the same path on every machine"
                ) from error
        return self._open[1].read_row_group(row_group)


class _Tries:
    """Counts how often each shard was begun: one that kills its worker is begun again and again."""

    def __init__(self) -> None:
        self.begun: dict[int, int] = {}

    def begin(self, shard: int) -> int:
        self.begun[shard] = self.begun.get(shard, 0) + 1
        return self.begun[shard]


class _Worker:
    """An actor of the pool. Mistakes of the user's travel as a row, all others as they are."""

    def __init__(
        self, work: Work, tasks: _Tasks, tries: Any, most: int, asked: str, trusted: bool
    ) -> None:
        self.work, self.tries, self.most, self.asked = work, tries, most, asked
        self.tasks = tasks
        # What this call was told holds on every machine, whatever its own environment says.
        os.environ[TRUST] = "1" if trusted else "0"
        self.compute: Compute | None = None

    def __call__(self, batch: pa.Table) -> pa.Table:
        import pyarrow as pa
        import ray

        number = batch["shard"][0].as_py()
        try:
            if ray.get(self.tries.begin.remote(number)) > self.most:
                raise InputError(
                    f"shard {number} lost its worker {self.most} times, so the next would be lost "
                    "too: most likely memory runs out; take smaller batches or fewer workers"
                )
            if self.compute is None:
                own = version()
                if own != self.asked:
                    raise InputError(
                        f"a worker has fcr {own} and this is {self.asked}: install the same "
                        "version everywhere"
                    )
                self.compute = self.work.open()
            found = self.compute(self.tasks.read(number))
        except (caption.InputError, recsys.InputError, InputError) as error:
            return pa.table({"shard": [number], "error": [str(error)]})
        n = found.num_rows  # a block may be cut on its way back
        added = {"shard": np.full(n, number), "at": np.arange(n), "of": np.full(n, n)}
        for name, column in added.items():
            found = found.append_column(name, pa.array(column))
        return found


@dataclass(frozen=True)
class _Identify:
    load: Callable[[], Captioner]

    def open(self) -> Compute:
        import pyarrow as pa

        known = self.load()
        table = pa.table({"name": [known.name], "fingerprint": [known.fingerprint()]})
        return lambda _: table


@dataclass(frozen=True)
class _Describe:
    load: Callable[[], Captioner]
    fingerprint: str
    settings: dict[str, int]

    def open(self) -> Compute:
        import pyarrow as pa

        from caption.generate import SCHEMA, describe_shard

        captioner = self.load()
        if captioner.fingerprint() != self.fingerprint:
            raise InputError(
                f"a worker loaded other weights as {captioner.name} than the first one: give every "
                "machine the same checkpoint"
            )
        threads = 1 if captioner.device.type == "cpu" else 4  # decode photos; fewer than a GPU's
        types = (pa.string(), pa.string(), pa.float64(), pa.string())
        schema = pa.schema(list(zip(SCHEMA, types, strict=True)))

        def describe(shard: pa.Table) -> pa.Table:
            photos = map(referred, shard["photo"].to_pylist())
            items = list(zip(shard["id"].to_pylist(), photos, strict=True))
            rows = describe_shard(captioner, items, **self.settings, workers=threads)
            return pa.Table.from_pylist(
                [dict(zip(SCHEMA, row, strict=True)) for row in rows], schema
            )

        return describe


@dataclass(frozen=True)
class _Encode:
    encoding: Encoding
    threads: int
    photos: bool = False

    def open(self) -> Compute:
        import pyarrow as pa
        import torch

        from recsys.encoders import encode_shard

        torch.set_num_threads(self.threads)
        model = self.encoding.open()

        def encode(shard: pa.Table) -> pa.Table:
            sources = shard["source"].to_pylist()
            if self.photos:
                with ThreadPoolExecutor(STORE_THREADS) as pool:
                    sources = list(pool.map(_here, sources))
            rows = encode_shard(model, sources)
            if not len(rows):
                rows = np.full((len(sources), 1), np.nan, dtype=np.float32)
            return pa.table({"vectors": _column(rows)})

        return encode


def _here(photo: str) -> Path:
    """A photo on this machine; encoders take a store that fails for a photo that can't be read."""
    path = referred(photo)
    with contextlib.suppress(FileNotFoundError):
        return Path(os.fspath(path))
    return path


@dataclass(frozen=True)
class _Rank:
    recommender: Any
    """ObjectRef of the fitted recommender."""
    k: int
    exclude_seen: bool

    def open(self) -> Compute:
        import pyarrow as pa
        import ray

        recommender = ray.get(self.recommender)

        def rank(shard: pa.Table) -> pa.Table:
            users = shard["user"].to_numpy()
            items, scores = recommender.recommend(users, self.k, exclude_seen=self.exclude_seen)
            return pa.table({"items": _column(items), "scores": _column(scores)})

        return rank


# ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _written(within: Path | None, shards: Iterable[pa.Table]) -> Iterator[_Tasks]:
    """The shards in a folder that goes with the block; None is that of temporary files."""
    import pyarrow.parquet as pq

    with contextlib.ExitStack() as undo:
        try:
            if within is not None:
                within.mkdir(parents=True, exist_ok=True)
            folder = _scratch(within)
            undo.callback(shutil.rmtree, folder, ignore_errors=True)
            tasks = _Tasks(folder, SHARDS_A_FILE)
            with contextlib.ExitStack() as files:
                for shard in shards:
                    if not tasks.n % tasks.a_file:
                        files.close()
                        path = tasks.file(tasks.n // tasks.a_file)
                        writer = files.enter_context(pq.ParquetWriter(path, shard.schema))
                    writer.write_table(shard, row_group_size=len(shard))
                    tasks.n += 1
        except OSError as error:
            raise InputError(
                f"{within or tempfile.gettempdir()} can't be written ({error.strerror or error}): "
                "tables for Ray's workers go there; make room, or choose another with --runs DIR"
            ) from error
        yield tasks


def _column(rows: NDArray[Any]) -> Any:
    """(n, d) as an Arrow column of n lists of d."""
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(rows).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, max(1, rows.shape[1]))


def _array(column: Any) -> NDArray[Any]:
    """The inverse of `_column`."""
    flat: NDArray[Any] = column.combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(len(column), -1)


def _private() -> dict[str, str]:
    """Environment of a cluster for this process alone.

    It listens on 127.0.0.1 only (on Linux too, by the switch Ray has for other systems), and asks
    for a token that only its own processes know. Its workers are as nice as this process: by Ray's
    own 15 they stand still beside anything else that computes.
    """
    return {
        "RAY_worker_niceness": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
    }


def _answers(address: str | None) -> None:
    """Raise OSError where nobody listens at HOST:PORT: Ray would ask for minutes."""
    host, separator, port = (address or "").removeprefix("ray://").rpartition(":")
    if separator and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _scratch(within: Path | None = None) -> Path:
    """A folder for what ends with this process; removes those of processes that were killed.

    Without `within`, one of few letters for Ray's sockets and logs.
    """
    base = within or Path(tempfile.gettempdir())
    if within is None and len(str(base)) > 30:  # sockets below it may have 107 characters
        base = Path("/tmp")  # noqa: S108  # nosec B108
    own = f"{SCRATCH}{socket.gethostname()}-" if within else SCRATCH  # others share `within`
    for old in base.glob(f"{own}*-*"):
        owner = old.name.removeprefix(own).partition("-")[0]
        with contextlib.suppress(OSError):
            if owner.isdigit() and old.stat().st_uid == os.getuid() and not _alive(int(owner)):
                shutil.rmtree(old, ignore_errors=True)
    if within is None:
        return Path(tempfile.mkdtemp(prefix=f"{own}{os.getpid()}-", dir=base))
    folder = within / f"{own}{os.getpid()}-{secrets.token_hex(4)}"
    folder.mkdir()  # readable to whom the run is
    return folder


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """While Ray starts: it takes SIGTERM for itself (ours finishes a shard first), and its library
    greets on the standard error."""
    main = threading.current_thread() is threading.main_thread()
    kept = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)} if main else {}
    stderr = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(silent)
        for number, handler in kept.items():
            signal.signal(number, handler)
