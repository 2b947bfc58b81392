"""The demo again and again in one process: memory, open files, temporary files, threads stay flat.

    python tests/soak.py                     # 20 rounds, some minutes
    python tests/soak.py --rounds 8

Each round is `fcr demo` into a folder of its own, small enough to take seconds. The first rounds
warm up (imports, compiled kernels, pools); after them nothing may grow: a line is fitted through
what each round leaves behind, and its rise over all rounds is bounded.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

SMALL = (
    "--set=demo.articles=160", "--set=demo.customers=120", "--set=demo.purchases=4000",
    "--set=captions.validation=10", "--set=captions.test=25", "--set=train.steps=4",
    "--set=train.batch_size=8", "--set=train.evaluate_every=2", "--set=generate.shard_size=64",
    "--set=generate.batch_size=16", "--set=generate.max_new_tokens=12",
    "--set=recommend.bootstrap=50", "--set=score.bootstrap=50", "--set=report.gallery=4",
    "--set=report.customers=1", "--set=score.metrics=[bleu, rouge-l, cider-d, attributes]",
)  # fmt: skip
WARM_UP = 0.4
"""Share of the rounds that warm up."""


@dataclass(frozen=True)
class Sample:
    """What the process holds after a round."""

    seconds: float
    memory: float
    """Resident, MB."""
    files: int
    """Open file descriptors."""
    temporary: int
    """Files and folders in the temporary folder."""
    threads: int
    """Of the operating system."""
    python_threads: int
    children: int
    """Processes started and still there."""


ALLOWED = Sample(
    seconds=float("inf"), memory=60.0, files=0.5, temporary=0.5, threads=1.5, python_threads=0.5,
    children=0.5,
)  # fmt: skip
"""Rise over the rounds after warming up that is still flat. Memory: an allocator's habit."""


def soak(rounds: int, say: Callable[[str], None] = print) -> list[Sample]:
    """What was held after each round."""
    with tempfile.TemporaryDirectory(prefix="soak") as home:
        inside = Path(home, "tmp")
        inside.mkdir()
        usual = os.environ.get("TMPDIR")
        os.environ["TMPDIR"], tempfile.tempdir = str(inside), None
        say(f"{'round':<6}" + "".join(f"{f.name.replace('_', ' '):>16}" for f in fields(Sample)))
        samples = []
        try:
            for number in range(1, rounds + 1):
                samples.append(_round(Path(home), inside))
                cells = "".join(f"{value:>16,.1f}" for value in astuple(samples[-1]))
                say(f"{number:<6}{cells}")
        finally:
            tempfile.tempdir = None
            os.environ.pop("TMPDIR")
            if usual is not None:
                os.environ["TMPDIR"] = usual
    return samples


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Rise of a line through each measure, over the rounds after warming up."""
    import numpy as np

    kept = samples[int(WARM_UP * len(samples)) :]
    x = np.arange(len(kept), dtype=float)
    table = np.array([astuple(sample) for sample in kept])
    slopes = np.polyfit(x, table, 1)[0]
    return {f.name: float(s * (len(kept) - 1)) for f, s in zip(fields(Sample), slopes, strict=True)}


def grown(samples: Sequence[Sample]) -> list[str]:
    """What did not stay flat, in words."""
    return [
        f"{name} grew by {rise:.1f}, allowed {getattr(ALLOWED, name)}"
        for name, rise in growth(samples).items()
        if rise > getattr(ALLOWED, name)
    ]


def _round(home: Path, temporary: Path) -> Sample:
    import psutil
    from click.testing import CliRunner

    from pipelines.cli import main

    started = time.monotonic()
    runs = home / "runs"
    done = CliRunner().invoke(main, ["demo", f"--runs={runs}", *SMALL])
    if done.exit_code:
        raise RuntimeError(f"the demo failed: {done.output[-2000:]} {done.exception!r}")
    shutil.rmtree(runs)
    gc.collect()
    seconds = time.monotonic() - started
    me = psutil.Process()
    left = sum(1 for _ in temporary.rglob("*"))
    with contextlib.suppress(psutil.Error):
        return Sample(
            seconds, me.memory_info().rss / 1e6, me.num_fds(), left, me.num_threads(),
            threading.active_count(), len(me.children(recursive=True)),
        )  # fmt: skip
    raise RuntimeError("this system does not say what a process holds")


def main() -> int:
    """Run it; exit code 1 when anything grew."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    samples = soak(options.rounds, lambda line: print(line, flush=True))
    rises = ", ".join(f"{name} {rise:+.1f}" for name, rise in growth(samples).items())
    print(f"rise over the last {len(samples) - int(WARM_UP * len(samples))} rounds: {rises}")
    for line in grown(samples):
        print(f"GREW: {line}")
    return 1 if grown(samples) else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    sys.exit(main())
