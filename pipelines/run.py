"""What every command starts from: a locked run directory, a configuration, a data folder.

from pipelines.run import open_run
from pipelines.recommend import recommend

with open_run(run="mine", data="hm-folder", config="hm-small") as run:
    print(recommend(run, models=("clip", "itemknn")))
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import InputError, stores
from pipelines.catalog import Catalog, photos_stay, read_catalog
from pipelines.config import Config, load_config
from pipelines.workspace import Stage, Workspace, packaged, read_json, write_json

if TYPE_CHECKING:
    from rich.progress import TaskID

    from pipelines.engine import Engine

DEMO = "demo"
SECONDS_BETWEEN_LINES = 30
Progress = Callable[[str, int, int], None]
"""Called with (what is being done, how much is done, how much there is to do)."""


@dataclass(frozen=True)
class Run:
    """An open run: hold it only inside `open_run`."""

    workspace: Workspace
    config: Config
    data: Path
    """Folder in Kaggle's H&M layout."""
    is_demo: bool
    """The data is the drawn catalogue."""
    say: Callable[[str], None]
    """Receives lines for the user."""
    engine: Engine | None = None
    """Computes captions, vectors and rankings; None: this process."""
    _said: set[str] = field(default_factory=set, repr=False)
    """Findings already said: every stage reads the tables, the user reads each finding once."""

    @property
    def folder(self) -> Path:
        """The run's directory."""
        return self.workspace.folder

    def catalog(self, *, purchases: bool = True) -> Catalog:
        """Read the tables and say every finding."""
        catalog = read_catalog(
            self.data, purchases=purchases, drop_bad_rows=self.config.data.drop_bad_rows
        )
        for note in (f"note: {finding}" for finding in catalog.findings):
            if note not in self._said:
                self._said.add(note)
                self.say(note)
        return catalog

    def stage(
        self, name: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]
    ) -> contextlib.AbstractContextManager[Stage]:
        """`Workspace.stage` of a stage that reads photos: their fingerprint stands in `inputs`."""
        return self.workspace.stage(
            name,
            config=config,
            inputs=inputs,
            seed=self.config.seed,
            say=self.say,
            still=partial(photos_stay, self.data, inputs),
        )

    def progress(self) -> contextlib.AbstractContextManager[Progress]:
        """`live_progress()`."""
        return live_progress()


@contextlib.contextmanager
def live_progress() -> Iterator[Progress]:
    """Live progress on standard error; yields `(what, done, total) -> None`.

    A bar on a terminal; elsewhere (a log) a line every half minute.
    """
    import sys
    import time

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.progress import Progress as Bars

    console = Console(stderr=True)
    last = time.monotonic()

    def log(what: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            print(f"{what}: {done:,} of {total:,}", file=sys.stderr, flush=True)

    if not console.is_terminal:
        yield log
        return
    columns = (
        TextColumn("{task.description:<24}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            name = what.partition(",")[0]  # "training, loss 1.234" stays one bar
            if name not in tasks:
                tasks[name] = bars.add_task(what)
            bars.update(tasks[name], description=what, completed=done, total=total)

        yield show


@contextlib.contextmanager
def open_run(
    *,
    run: str | None = None,
    data: Path | str | None = None,
    config: Config | Path | str | None = None,
    overrides: Sequence[str] = (),
    runs: Path | str = Path("runs"),
    say: Callable[[str], None] = print,
    engine: Engine | None = None,
) -> Iterator[Run]:
    """Open (or create) a run and hold it for this process.

    Args:
        run: its name; default: the data folder's name, or `demo`.
        data: a folder in Kaggle's H&M layout, or its URL (see `stores`); default: the one the run
            was first given, or the embedded catalogue, which is drawn into the run when it isn't
            there.
        config: a Config, a YAML file or a preset's name; default: the one the run was last given
            (a file or preset, which the run remembers), or the defaults.
        overrides: `section.key=value` over it; for this call only.
        runs: folder that holds all runs.
        say: receives lines for the user.
        engine: computes captions, vectors and rankings instead of this process; the caller closes
            it.

    Raises:
        InputError: bad name, configuration or data, or another process holds the run.
    """
    place = None
    if stores.is_url(data):
        place = str(data).rstrip("/")
        data = stores.fetch(place, lazily=True)
    if data is not None and not Path(data).is_dir():
        # Refuse before anything is created, so that a typing mistake leaves no empty run behind.
        read_catalog(Path(data), purchases=False)
    name = run or (Path(data).resolve().name if data is not None else DEMO)
    known = remembered(Path(runs) / name / "run.json")
    if isinstance(config, Config):
        settings = config
    else:
        config = config if config is not None else known.get("config")
        settings = load_config(config, overrides)
        if config is not None and Path(config).is_file():
            config = Path(config).resolve()
    workspace = Workspace.open(name, Path(runs))
    with workspace.lock():
        folder = workspace.folder / "catalogue"
        if data is not None:
            folder = Path(data).resolve()
            place = place or str(folder)
            if known.get("data", place) != place:
                say(f"run {name}: data was {known['data']}, is now {place}; the rest is redone")
        elif "data" in known:
            place = known["data"]
            folder = stores.fetch(place, lazily=True) if stores.is_url(place) else Path(place)
            if not folder.is_dir():
                raise InputError(
                    f"run {name} was made from {folder}, which is gone: give its new place with "
                    "--data DIR"
                )
        record = {} if folder == workspace.folder / "catalogue" else {"data": place}
        if isinstance(config, str | Path):
            record["config"] = str(config)
        if record != known:
            write_json(workspace.folder / "run.json", record)
        is_demo = folder == workspace.folder / "catalogue"
        opened = Run(workspace, settings, folder, is_demo, say, engine)
        if is_demo:
            from pipelines.demo import draw_demo, drawn_as

            if not any(override.startswith("demo.") for override in overrides):
                # A later command that names no size means the catalogue that is there.
                opened = replace(opened, config=drawn_as(opened))
            draw_demo(opened)
        yield opened


def remembered(path: Path) -> dict[str, str]:
    """What a run's `run.json` says: `data` and `config`, where they are not the defaults.

    Raises:
        InputError: the file is there, but is not whole.
    """
    found = read_json(path)
    if found is None and not path.exists():
        return {}
    if found is None or not all(isinstance(value, str) and value for value in found.values()):
        raise InputError(
            f"{path} is not whole, so the run's data and configuration are not known: remove the "
            "file and give them again with --data DIR and --config FILE"
        )
    return found


def checkpoint(name: str, kind: str) -> str:
    """`demo` -> folder of the shipped model of this kind, a URL -> its copy; else the name."""
    if stores.is_url(name):
        return str(stores.fetch(name))
    return str(packaged("data", "demo", kind)) if name == DEMO else name


def checkpoint_hash(name: str) -> str:
    """What a stage's key holds of a checkpoint: a folder's content hash, or the hub's name."""
    from recsys.encoders import checkpoint_digest

    return checkpoint_digest(Path(name)) if Path(name).is_dir() else name
