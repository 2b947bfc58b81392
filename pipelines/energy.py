"""Energy of a stage by codecarbon, watched from a process of its own.

A stage pays nothing for being watched: codecarbon needs seconds to learn what the machine has, and
memory, and would add both to what it measures. It watches the whole machine, so that a process
beside the stage sees what the stage draws; and what everything else on the machine draws. Stages
that end before `PATIENCE` start no watcher.

This file is the watcher too, run by its path: it imports nothing of fcr.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

PATIENCE = 1.5
"""Seconds a stage has to last to be watched."""
ANSWER = 2.0
"""Seconds that the end of a stage waits for its energy."""
LEAST = 0.3
"""Share of a stage's time that has to be watched, that the rest may be taken to be like it."""
MISSING = "not measured: pip install codecarbon, then run the stage again"
SHORT = "not measured: too short"


@dataclass
class _Watcher:
    """The process beside this one, and what of its answers was not read yet."""

    process: subprocess.Popen[bytes]
    rest: bytes = b""

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{line}\n".encode())

    def answer(self, name: str) -> dict[str, Any]:
        """The line about `name`; {} where it doesn't come in time."""
        assert self.process.stdout is not None
        limit = time.monotonic() + ANSWER
        while True:
            while b"\n" in self.rest:
                line, _, self.rest = self.rest.partition(b"\n")
                said: dict[str, Any] = json.loads(line)
                if said.pop("name") == name:  # one that came too late for its stage is passed over
                    return said
            left = limit - time.monotonic()
            if left <= 0 or not select.select([self.process.stdout], [], [], left)[0]:
                return {}
            more = os.read(self.process.stdout.fileno(), 4096)
            if not more:
                raise BrokenPipeError
            self.rest += more

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


_lock = threading.Lock()
_watchers: dict[int, _Watcher] = {}
"""Process id -> its watcher: a forked process must not talk to its parent's."""


@contextlib.contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """The energy of what runs inside; the mapping is filled at the end, unless that is an error.

    Yields:
        {"wh": watt-hours, "watched": seconds of them that were watched, "by": the parts of the
        machine, as codecarbon names them} or {"unavailable": reason}.
    """
    found: dict[str, Any] = {}
    if not _installed():
        yield found
        found["unavailable"] = MISSING
        return
    name, begun = str(time.monotonic_ns()), time.monotonic()
    known = os.getpid() in _watchers
    timer = threading.Timer(0.0 if known else PATIENCE, _begin, (name,))
    timer.daemon = True
    timer.start()
    try:
        yield found
    finally:
        timer.cancel()
    found.update(_end(name, time.monotonic() - begun))


def _installed() -> bool:
    from importlib.util import find_spec

    return find_spec("codecarbon") is not None


def _begin(name: str) -> None:
    with _lock, contextlib.suppress(OSError):
        if os.getpid() not in _watchers:
            # -P: this folder's modules are not the ones codecarbon wants to import.
            process = subprocess.Popen(
                [sys.executable, "-P", os.path.abspath(__file__)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                start_new_session=True,  # an interrupt is for the stage; this ends with its input
            )
            _watchers[os.getpid()] = watcher = _Watcher(process)
            atexit.register(watcher.close)
        _watchers[os.getpid()].say(f"begin {name}")


def _end(name: str, seconds: float) -> dict[str, Any]:
    """What the watcher says of the stage; why there is nothing where it says nothing."""
    with _lock:
        watcher = _watchers.get(os.getpid())
        if watcher is None:
            return {"unavailable": SHORT}
        try:
            watcher.say(f"end {name}")
            said = watcher.answer(name)
        except OSError:
            return {"unavailable": "not measured: codecarbon ended early"}
    if "wh" not in said:
        return said or {"unavailable": SHORT}
    watched = float(said["watched"])
    if watched < LEAST * seconds:
        return {"unavailable": SHORT}
    # The first moments, before codecarbon was ready, are taken to draw what the rest did.
    return {
        "wh": round(float(said["wh"]) * max(1.0, seconds / watched), 6),
        "watched": round(min(watched, seconds), 1),
        "by": str(said["by"]),
    }


def _watch() -> None:
    """Answer `begin NAME` and `end NAME` on standard input until it, or the parent, is gone."""
    import logging

    parent = os.getppid()
    output = sys.stdout
    sys.stdout = sys.stderr  # only answers go to the pipe
    try:
        from codecarbon import OfflineEmissionsTracker

        logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    except Exception:
        OfflineEmissionsTracker = None
    trackers: dict[str, Any] = {}
    while os.getppid() == parent:
        if not select.select([sys.stdin], [], [], 1.0)[0]:
            continue
        line = os.read(sys.stdin.fileno(), 4096)
        if not line:
            return
        for order in line.decode().splitlines():
            verb, _, name = order.partition(" ")
            try:
                if verb == "begin":
                    # Emissions need a country; only energy is read, which needs none.
                    trackers[name] = OfflineEmissionsTracker(
                        country_iso_code="SWE",
                        output_methods=[],
                        log_level="critical",
                        allow_multiple_runs=True,
                    )
                    trackers[name].start()
                    continue
                answer = _read(trackers.pop(name, None))
            except Exception as error:
                answer = {"unavailable": f"not measured: codecarbon fails ({error})"}
            if verb == "end":
                output.write(json.dumps({"name": name, **answer}) + "\n")
                output.flush()


def _read(tracker: Any) -> dict[str, Any]:
    if tracker is None:
        return {}
    tracker.stop()
    data = tracker.final_emissions_data
    names = (str(part.description()) for part in tracker._hardware)
    by = ", ".join(name.replace("()", "").replace("(", " (") for name in names)
    return {"wh": 1000 * data.energy_consumed, "watched": data.duration, "by": by}


if __name__ == "__main__":
    _watch()
