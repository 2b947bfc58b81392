"""A short slice of `tests/torture.py`: a few kills and faults, nothing lost."""

import subprocess
import sys
from pathlib import Path

from tests import torture


def test_kills_and_faults_lose_nothing() -> None:
    # A process of its own: it forks, which one whose threads are at work must not.
    command = [sys.executable, str(Path(torture.__file__)), "--kills=4", "--seed=1"]
    command += ["--stages", "caption-items", "recommend", "--only", "slice"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {line[:28].strip(): line[28:].split() for line in done.stdout.splitlines()}
    assert int(rows["kill -9"][0]) >= 4
    for kind in ("manifest damaged", "no space left", "read-only folder", "SIGTERM"):
        assert rows[kind] == ["1", "1"]
    assert rows["all"][2:] == ["lost:", "0"]


def test_what_counts_as_a_refusal_and_as_lost() -> None:
    assert torture.Ended(2, "", "note\nerror: a\n", 0.0).refused
    assert not torture.Ended(2, "", "error: a\nerror: b\n", 0.0).refused
    assert not torture.Ended(1, "", "error: a\n", 0.0).refused
    assert not torture.Ended(2, "", "error: a\nTraceback (most recent call last):\n", 0.0).refused
    tally = torture.Tally()
    tally.note("kill -9", True, "", 2)
    tally.note("kill -9", False, "why", 3)
    assert (tally.faults, tally.survived) == ({"kill -9": 5}, {"kill -9": 2})
    assert tally.lost == ["kill -9: why"]
    assert "lost: 1" in str(tally)
