"""Energy of a stage: watched from beside, with a reason where it was not."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines import energy
from pipelines.workspace import Workspace


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No watcher yet; what the test starts ends with it."""
    monkeypatch.setattr(energy, "_watchers", {})
    yield
    for watcher in energy._watchers.values():
        watcher.close()


def manifest(tmp_path: Path, seconds: float = 0.0) -> dict[str, object]:
    workspace = Workspace.open("r", tmp_path)
    with workspace.stage("s", config={}, inputs={}, seed=0, say=print):
        time.sleep(seconds)
    found: dict[str, object] = json.loads((tmp_path / "r/s/manifest.json").read_text())["energy"]
    return found


def test_the_reason_stands_where_the_energy_would(
    tmp_path: Path, nobody: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if energy._installed():
        assert manifest(tmp_path / "short") == {"unavailable": energy.SHORT}
    monkeypatch.setattr(energy, "_installed", lambda: False)
    assert manifest(tmp_path / "without") == {"unavailable": energy.MISSING}
    assert "pip install codecarbon" in energy.MISSING


def test_a_stage_is_watched(tmp_path: Path, nobody: None, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("codecarbon", reason="package codecarbon")
    monkeypatch.setattr(energy, "PATIENCE", 0.0)
    monkeypatch.setattr(energy, "ANSWER", 60.0)
    with energy.measured():
        pass
    # Its answer came when it was ready, so that this one is watched from the beginning.
    with energy.measured() as found:
        time.sleep(1.2)
    watts = found["wh"] * 3600 / 1.2
    assert 0.1 < watts < 5000, found
    assert 1 <= found["watched"] <= 1.5
    assert "CPU" in found["by"]
    process = energy._watchers[os.getpid()].process
    process.kill()
    process.wait()
    with energy.measured() as found:
        time.sleep(0.1)
    assert "ended early" in found["unavailable"]


def test_what_was_not_watched_is_taken_to_be_like_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        def say(self, line: str) -> None:
            pass

        def answer(self, name: str) -> dict[str, object]:
            return {"wh": 2.0, "watched": 5.0, "by": "CPU"}

    monkeypatch.setattr(energy, "_watchers", {os.getpid(): Half()})
    assert energy._end("x", 10.0) == {"wh": 4.0, "watched": 5.0, "by": "CPU"}
    assert energy._end("x", 5.0) == {"wh": 2.0, "watched": 5.0, "by": "CPU"}
    assert energy._end("x", 100.0) == {"unavailable": energy.SHORT}


def test_answers_that_come_late_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "ANSWER", 5.0)
    echo = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
    watcher = energy._Watcher(echo)
    try:
        watcher.say('{"name": "one", "wh": 1}\n{"name": "two", "wh": 2}\n{"name": "three"}')
        assert watcher.answer("two") == {"wh": 2}
        assert watcher.answer("three") == {}
        monkeypatch.setattr(energy, "ANSWER", 0.05)
        assert watcher.answer("four") == {}
    finally:
        watcher.close()


def test_a_stage_that_fails_says_its_own_error(nobody: None) -> None:
    with pytest.raises(ValueError, match="own"), energy.measured():
        raise ValueError("own")
