"""Run directories: whole or absent, reused when nothing changed, one process at a time."""

import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import pytest

from pipelines import InputError
from pipelines.catalog import fingerprints, photos_stay
from pipelines.run import open_run
from pipelines.workspace import Workspace, atomic_file, file_sha256


def compute(workspace: Workspace, config: dict[str, int], content: str = "result") -> bool:
    """Run a stage that writes one file; True when it was reused."""
    lines: list[str] = []
    with workspace.stage("s", config=config, inputs={"a": "1"}, seed=0, say=lines.append) as stage:
        if not stage.reused:
            stage.path("out.txt").write_text(content)
    assert stage.reused == bool(lines)
    return stage.reused


def test_a_stage_is_reused_until_its_configuration_or_files_change(tmp_path: Path) -> None:
    workspace = Workspace.open("r", tmp_path)
    assert not compute(workspace, {"x": 1})
    assert compute(workspace, {"x": 1})
    assert not compute(workspace, {"x": 2})
    (tmp_path / "r/s/out.txt").write_text("flipped")
    assert not compute(workspace, {"x": 2})
    assert (tmp_path / "r/s/out.txt").read_text() == "result"
    manifest = workspace.manifest("s")
    assert manifest is not None
    assert manifest["files"] == {"out.txt": file_sha256(tmp_path / "r/s/out.txt")}
    assert manifest["config"] == {"x": 2}
    assert manifest["peak_memory_mb"] > 1


def test_a_stage_whose_photos_changed_meanwhile_is_made_anew(tmp_path: Path) -> None:
    """... and one of the same photos is not taken for what it would have been with them all."""
    images = tmp_path / "images" / "010"
    images.mkdir(parents=True)
    photo = images / "0101.jpg"
    photo.write_bytes(b"x")
    when = photo.stat()
    inputs = fingerprints(tmp_path, purchases=False)
    workspace = Workspace.open("r", tmp_path)
    keys: list[str] = []
    reused: list[bool] = []
    said: list[str] = []
    for vanish in (True, False, False):
        with workspace.stage(
            "s", config={}, inputs=inputs, seed=0, say=said.append,
            still=partial(photos_stay, tmp_path, inputs),
        ) as stage:  # fmt: skip
            reused.append(stage.reused)
            if vanish:
                photo.unlink()
        photo.write_bytes(b"x")
        os.utime(photo, ns=(when.st_atime_ns, when.st_mtime_ns))
        manifest = workspace.manifest("s")
        assert manifest is not None
        keys.append(manifest["key"])
    assert reused == [False, False, True]
    assert keys[0] != keys[1] == keys[2]
    assert [line.partition(" while ")[0] for line in said] == [
        "note: photos went or changed",
        f"s: nothing changed, reused ({tmp_path / 'r/s'})",
    ]


def test_half_files_of_a_killed_process_are_swept(tmp_path: Path) -> None:
    workspace = Workspace.open("r", tmp_path)
    (tmp_path / "r/s").mkdir()
    for name in (".out.txt.tmp-123", ".captions.parquet.123.tmp"):
        (tmp_path / "r/s" / name).write_text("half")
    compute(workspace, {"x": 1})
    manifest = workspace.manifest("s")
    assert manifest is not None
    assert list(manifest["files"]) == ["out.txt"]
    assert {p.name for p in (tmp_path / "r/s").iterdir()} == {"out.txt", "manifest.json"}


def test_a_run_remembers_its_data_and_its_preset(tmp_path: Path) -> None:
    data = tmp_path / "shop"
    data.mkdir()
    where = {"runs": tmp_path / "runs", "say": lambda _: None}
    with open_run(data=data, config="hm-small", **where) as run:
        assert run.config.captions.test == 1000
    with open_run(run="shop", overrides=["train.steps=3"], **where) as run:
        assert run.data == data
        assert run.config.captions.test == 1000
        assert run.config.train.steps == 3
    with open_run(run="shop", **where) as run:
        assert run.config.train.steps == 2000  # an override is for one call


def test_a_failed_stage_leaves_no_manifest(tmp_path: Path) -> None:
    workspace = Workspace.open("r", tmp_path)
    compute(workspace, {"x": 1})
    with (
        pytest.raises(RuntimeError),
        workspace.stage("s", config={"x": 2}, inputs={}, seed=0, say=print),
    ):
        raise RuntimeError
    assert workspace.manifest("s") is None
    assert workspace.stage_file("s", "out.txt") is None


def test_a_changed_file_of_an_earlier_stage_is_never_used(tmp_path: Path) -> None:
    workspace = Workspace.open("r", tmp_path)
    compute(workspace, {"x": 1})
    assert workspace.stage_file("s", "out.txt") == tmp_path / "r/s/out.txt"
    (tmp_path / "r/s/out.txt").write_bytes(b"resulT")
    with pytest.raises(InputError, match="checksum differs"):
        workspace.stage_file("s", "out.txt")


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic_file(path, "w") as handle:
        handle.write("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_second_process_is_refused_and_a_killed_one_leaves_no_lock(tmp_path: Path) -> None:
    code = f"""
        import time
        from pathlib import Path
        from pipelines.workspace import Workspace
        with Workspace.open("r", Path({str(tmp_path)!r})).lock():
            print("held", flush=True)
            time.sleep(60)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        workspace = Workspace.open("r", tmp_path)
        with pytest.raises(InputError, match=rf"in use .*pid {holder.pid}"), workspace.lock():
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
        with workspace.lock():
            pass


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "x" * 200, "a b"])
def test_run_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not usable"):
        Workspace.open(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
