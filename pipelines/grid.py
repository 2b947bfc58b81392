"""`fcr train-captioner --grid`: every combination of listed settings, one training each.

A grid file names settings by path, each with the list of its values:

    train.learning_rate: [1.0e-5, 1.0e-4]
    train.adapt: {targets: [attention-qv, all-linear], rank: [8, 16]}
"""

from __future__ import annotations

import hashlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import polars as pl

from pipelines import InputError
from pipelines.config import find_file, from_mapping, put, read_yaml
from pipelines.run import Run
from pipelines.train_captioner import STAGE, train_captioner
from pipelines.workspace import Workspace, write_table

FOLDER = "grid"
RESULTS = "results.csv"
LONGEST_NAME = 80

Cell = tuple[tuple[str, Any], ...]
"""(setting, value) of one training."""


def train_grid(run: Run, file: str | Path) -> Path:
    """Train every cell in a run of its own below `grid/`, and take over the best one.

    A cell whose settings and inputs have not changed is reused, a killed one goes on from its last
    checkpoint.

    Args:
        run: an open run; its configuration holds for what the grid does not name.
        file: a YAML file or a preset.

    Returns:
        folder of the best cell's captioner, now the run's own (`train-captioner/`); the table of
        all is `grid/results.csv`: the settings, then best_step, best_loss, steps, trainable,
        seconds, caption metrics where the run generates, and `best`.

    Raises:
        InputError: a setting that does not exist or is not swept by a list, one outside train and
            captioner, or what training raises.
    """
    from caption.train import PHOTOS

    cells = read_grid(file)
    root = run.folder / FOLDER
    photos = root / PHOTOS
    rows: list[dict[str, Any]] = []
    spaces: list[Workspace] = []
    for number, cell in enumerate(cells, start=1):
        said = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in cell)
        run.say(f"cell {number} of {len(cells)}: {said}")
        workspace = Workspace.open(cell_name(cell), root)
        began = time.time()
        own = replace(run, workspace=workspace, config=with_cell(run, cell))
        train_captioner(own, photos=photos)
        old = [piece for piece in photos.glob("*") if piece.stat().st_mtime < began]
        if len(old) < len(list(photos.glob("*"))):  # this cell read: what it left serves no other
            for piece in old:
                piece.unlink()
        manifest = workspace.manifest(STAGE)
        assert manifest is not None
        record = manifest["record"]
        rows.append(
            {
                **{key: str(value) for key, value in cell},
                **{name: record[name] for name in ("best_step", "best_loss", "steps", "trainable")},
                "seconds": float(manifest["seconds"]),
                **record["best_metrics"],
            }
        )
        spaces.append(workspace)
        write_table(root / RESULTS, pl.DataFrame(rows))
    shutil.rmtree(photos, ignore_errors=True)
    best = best_row(rows, run.config.train.keep)
    marked = [{**row, "best": i == best} for i, row in enumerate(rows)]
    write_table(root / RESULTS, pl.DataFrame(marked))
    _print(marked)
    adopt(spaces[best], run.workspace)
    chosen = " ".join(f"--set {key}={value}" for key, value in cells[best])
    run.say(f"the run's captioner is the best cell's: {chosen}; all cells in {root / RESULTS}")
    manifest = run.workspace.manifest(STAGE)
    assert manifest is not None
    return run.folder / STAGE / str(manifest["record"]["saved"])


def read_grid(file: str | Path) -> list[Cell]:
    """Every combination of a grid file's lists, the last setting varying fastest.

    Raises:
        InputError: unreadable, empty, a setting that is no list, or one that does not exist.
    """
    path = find_file(file)
    axes = list(_axes(read_yaml(path), ()))
    if not axes:
        raise InputError(f"{path}: a grid names settings, each with a list of values")
    for key, values in axes:
        if not isinstance(values, list) or not values:
            raise InputError(f"{path}: {key} is {values!r}: expected a list of values, such as [1]")
        if key.split(".")[0] not in ("train", "captioner"):
            raise InputError(
                f"{path}: {key} does not change a training: expected train... or captioner..."
            )
    cells = [
        tuple(zip([key for key, _ in axes], values, strict=True))
        for values in itertools.product(*(values for _, values in axes))
    ]
    for cell in cells:
        from_mapping(_nested(cell), str(path))
    return cells


def with_cell(run: Run, cell: Cell) -> Any:
    """The run's configuration, changed by a cell."""
    changes = asdict(run.config)
    for key, value in cell:
        put(changes, key.split("."), value)
    return from_mapping(changes, "grid")


def cell_name(cell: Cell) -> str:
    """A folder name that says what differs, and is one cell's alone."""
    words = "_".join(f"{key.rpartition('.')[2]}-{value}" for key, value in cell)
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", words).strip("-._") or "cell"
    digest = hashlib.sha256(repr(cell).encode()).hexdigest()[:8]
    return f"{plain[:LONGEST_NAME]}_{digest}"


def best_row(rows: Sequence[Mapping[str, Any]], keep: str) -> int:
    """Row of the lowest validation loss, or of the highest caption metric that is kept."""
    if keep == "loss":
        return min(range(len(rows)), key=lambda i: float(rows[i]["best_loss"]))
    return max(range(len(rows)), key=lambda i: float(rows[i][keep]))


def adopt(cell: Workspace, run: Workspace) -> None:
    """Copy a cell's training into the run, as if it had been trained there.

    The manifest goes last: its key is that of the run with the cell's settings.
    """
    source, target = cell.folder / STAGE, run.folder / STAGE
    target.mkdir(exist_ok=True)
    (target / "manifest.json").unlink(missing_ok=True)
    for old in list(target.iterdir()):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    ignore = shutil.ignore_patterns("manifest.json")
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=ignore)
    shutil.copyfile(source / "manifest.json", target / ".manifest.json.tmp")
    (target / ".manifest.json.tmp").replace(target / "manifest.json")


def _axes(changes: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for key, value in changes.items():
        full = (*path, str(key))
        if isinstance(value, Mapping):
            yield from _axes(value, full)
        else:
            yield ".".join(full), value


def _nested(cell: Cell) -> dict[str, Any]:
    changes: dict[str, Any] = {}
    for key, value in cell:
        put(changes, key.split("."), value)
    return changes


def _print(rows: Sequence[Mapping[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.rpartition(".")[2] for name in rows[0]), box=box.SIMPLE_HEAD)
    for row in rows:
        cells = (
            ("best" if value else "")
            if name == "best"
            else f"{value:.4g}"
            if isinstance(value, float)
            else str(value)
            for name, value in row.items()
        )
        table.add_row(*cells)
    Console().print(table)
