"""Faults at random points of every stage: afterwards everything is whole, or one line says why not.

    python tests/torture.py                  # everything: more than 200 kills, half an hour
    python tests/torture.py --kills 20       # a slice

A small demo run is made once; every trial works on a copy of it. The process that runs a command is
forked from one that has the heavy packages imported, so that a trial costs what the stage costs.
Whatever the fault, the same command given again has to end in the bytes of the undisturbed run, or
in exit code 2 with a single line. A trial that does neither counts as lost.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SMALL = [
    "--set=demo.articles=160", "--set=demo.customers=120", "--set=demo.purchases=4000",
    "--set=captions.validation=10", "--set=captions.test=25", "--set=train.steps=8",
    "--set=train.batch_size=8", "--set=train.evaluate_every=2", "--set=generate.shard_size=32",
    "--set=generate.batch_size=16", "--set=generate.max_new_tokens=20",
    "--set=recommend.bootstrap=50", "--set=score.bootstrap=50", "--set=report.gallery=4",
    "--set=score.metrics=[bleu, rouge-l, cider-d, attributes, verbatim]",
    "--set=report.customers=1", "--set=recommend.text=[original, fill]", "--set=reinforce.steps=4",
    "--set=reinforce.batch_size=8", "--set=reinforce.evaluate_every=2",
    "--set=experiment.encoders=[tfidf, sbert]", "--set=experiment.seeds=[0]",
    "--set=experiment.bootstrap=50", "--set=experiment.mask=[0, 50]",
    "--set=experiment.cold_users=20", "--set=experiment.depth=30",
]  # fmt: skip
STAGES = (
    "train-captioner", "reinforce-captioner", "caption-items", "score-captions", "recommend",
    "experiment", "report", "export",
)  # fmt: skip
VOLATILE = re.compile(r"manifest\.json|finished\.json|\.lock|run\.json|shards/|^report/")
"""Files that hold times of this run, or are pieces of another file."""
PATIENCE = 240.0


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def refused(self) -> bool:
        """Exit code 2, one line, no traceback."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        return self.code == 2 and len(lines) == 1 and "Traceback" not in self.err


@dataclass
class Tally:
    """Faults, and what became of them."""

    faults: dict[str, int] = field(default_factory=dict)
    survived: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def note(self, kind: str, ok: bool, what: str, n: int = 1) -> None:
        self.faults[kind] = self.faults.get(kind, 0) + n
        if ok:
            self.survived[kind] = self.survived.get(kind, 0) + n
        else:
            self.lost.append(f"{kind}: {what}")

    def __str__(self) -> str:
        rows = [f"{'fault':<28}{'tried':>8}{'survived':>10}"]
        rows += [f"{k:<28}{n:>8}{self.survived.get(k, 0):>10}" for k, n in self.faults.items()]
        rows.append(
            f"{'all':<28}{sum(self.faults.values()):>8}{sum(self.survived.values()):>10}"
            f"   lost: {len(self.lost)}"
        )
        return "\n".join([*rows, *(f"LOST {line}" for line in self.lost)])


def torture(
    home: Path,
    *,
    kills: int,
    seed: int = 0,
    stages: Sequence[str] = STAGES,
    kinds: Sequence[str] = (),
    say: Callable[[str], None] = print,
) -> Tally:
    """Make the run, then every kind of fault; `home` is an empty folder.

    kills: at least so many, spread over `stages` and over the demo as a whole. kinds: names of
    KINDS, all where none is given; with fewer than 100 kills each is tried once or twice.
    """
    draw = random.Random(seed)
    tally = Tally()
    with copied(home) as place:  # every trial works at this path: captions.json names photos
        for command in ("demo", *stages) if stages == STAGES else stages:
            made = run([command, *SMALL], place)
            if made.code:
                raise RuntimeError(f"the undisturbed {command} failed: {made.err[-2000:]}")
            say(f"undisturbed {command}: {made.seconds:.1f} s")
        shutil.copytree(place, home, dirs_exist_ok=True)
    whole = contents(home)
    durations = {}
    for stage in stages if kills else ():
        with copied(home) as copy:
            shutil.rmtree(copy / "runs/demo" / stage)
            durations[stage] = run([stage, *SMALL], copy).seconds
    say(f"{len(whole)} files; seconds of the stages alone: {_rounded(durations)}")
    turn = 0
    while tally.faults.get("kill -9", 0) < kills:
        stage = stages[turn % len(stages)]
        turn += 1
        with copied(home) as copy:
            _kills(copy, stage, durations[stage], whole, draw, tally, 3 if kills < 100 else 5)
        if turn % len(stages) == 0:
            say(f"{tally.faults.get('kill -9', 0)} kills, {len(tally.lost)} lost")
    small = kills < 100 and not kinds
    for name, fault in KINDS.items():
        if name in kinds or not (kinds or name == "slice"):
            before = len(tally.lost)
            fault(home, whole, draw, tally, 1 if small else 4)
            say(f"{name}: {sum(tally.faults.values())} faults, {len(tally.lost)} lost so far")
            for line in tally.lost[before:]:
                say(f"LOST {line}")
    return tally


def _rounded(seconds: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" for name, value in seconds.items())


def run(
    arguments: list[str],
    cwd: Path,
    *,
    prepare: Callable[[], None] = lambda: None,
    kill_after: float | None = None,
    with_signal: int = signal.SIGKILL,
) -> Ended:
    """Call `fcr` in a forked process, from `cwd`; kill it after some seconds where asked to."""
    _preload()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as scratch:
        out, err = Path(scratch, "out"), Path(scratch, "err")
        child = os.fork()
        if child == 0:
            _become(arguments, cwd, out, err, prepare)
        deadline = started + (PATIENCE if kill_after is None else kill_after)
        status = None
        while status is None and time.monotonic() < deadline:
            pid, found = os.waitpid(child, os.WNOHANG)
            status = found if pid else None
            if status is None:
                time.sleep(0.002)
        if status is None:
            os.kill(child, with_signal)
            if with_signal != signal.SIGKILL:
                stop = time.monotonic() + PATIENCE
                while status is None and time.monotonic() < stop:
                    pid, found = os.waitpid(child, os.WNOHANG)
                    status = found if pid else None
                    time.sleep(0.01)
                if status is None:
                    os.kill(child, signal.SIGKILL)
            if status is None:
                _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        texts = [p.read_text(errors="replace") if p.exists() else "" for p in (out, err)]
    return Ended(code, *texts, time.monotonic() - started)


def contents(home: Path) -> dict[str, str]:
    """File of the run -> sha256, for all that must come out the same."""
    base = home / "runs/demo"
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(base.rglob("*"))
        if path.is_file() and not VOLATILE.search(name := str(path.relative_to(base)))
    }


@contextlib.contextmanager
def copied(home: Path) -> Iterator[Path]:
    """A copy of the run, always at the same path: one with a space and a letter outside ASCII."""
    copy = home.with_name(f"{home.name} été")
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(home, copy)
    try:
        yield copy
    finally:
        shutil.rmtree(copy, ignore_errors=True)


def _kills(
    copy: Path,
    stage: str,
    usual: float,
    whole: dict[str, str],
    draw: random.Random,
    tally: Tally,
    rounds: int,
) -> None:
    """Start the stage from nothing, kill it again and again, let it finish, compare."""
    folder = copy / "runs/demo" / stage
    shutil.rmtree(folder)
    killed = 0
    for _ in range(rounds):
        ended = run([stage, *SMALL], copy, kill_after=draw.uniform(0, usual))
        killed += ended.code == -signal.SIGKILL
        if ended.code == 0:  # it was faster than the shot: once more from nothing
            shutil.rmtree(folder)
    last = run([stage, *SMALL], copy)
    left = [str(p) for p in (copy / "runs").rglob(".*.tmp*")] + _behind(copy)
    ok = last.code == 0 and contents(copy) == whole and not left
    if killed:
        tally.note(
            "kill -9", ok, f"{stage}: {last.err[-300:]} {_unequal(copy, whole)} {left}", killed
        )


def _kills_of_all(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """The demo from an empty folder, drawing its catalogue too, killed wherever it is."""
    if times == 1:
        return
    with copied(home) as copy:
        shutil.rmtree(copy / "runs")
        killed = 0
        for _ in range(4 * times):
            code = run(["demo", *SMALL], copy, kill_after=draw.uniform(0.3, 8)).code
            killed += code == -signal.SIGKILL
            if code == 0:
                shutil.rmtree(copy / "runs")
        for command in ("demo", *STAGES):
            last = run([command, *SMALL], copy)
        ok = last.code == 0 and contents(copy) == whole
        tally.note("kill -9", ok, f"demo: {last.err[-300:]} {_unequal(copy, whole)}", killed)


def _damage(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """Flip a bit of, or cut, an artefact; the stages behind it refuse or rebuild, never use it."""
    names = [n for n in whole if n.split("/")[0] in STAGES and n.split("/")[0] != "export"]
    for name in draw.sample(names, min(len(names), 6 * times)):
        own = name.split("/")[0]
        behind = STAGES[STAGES.index(own) + 1 :]
        kind = draw.choice(("bit flipped", "truncated"))
        with copied(home) as copy:
            path = copy / "runs/demo" / name
            data = bytearray(path.read_bytes())
            if kind == "truncated" or not data:
                data = data[: len(data) // 2]
            else:
                data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            changed = hashlib.sha256(data).hexdigest() != whole[name]
            said = [run([stage, *SMALL], copy) for stage in behind]
            after = {n: d for n, d in contents(copy).items() if n != name}
            unused = all(e.code == 0 or e.refused for e in said)
            unused &= all(after.get(n) == d for n, d in whole.items() if n != name)
            mended = run([own, *SMALL], copy).code == 0 and contents(copy) == whole
        if changed:
            errors = " ".join(e.err[-200:] for e in said)
            tally.note(kind, unused and mended, f"{name}: used {not unused}, {errors}")


def _pieces(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """A bit flips in what vouches for a stage, in a killed stage's pieces, or in the cache."""
    for stage in draw.sample(STAGES, min(len(STAGES), 2 * times)):
        with copied(home) as copy:
            _flip(copy / "runs/demo" / stage / "manifest.json", draw)
            last = run([stage, *SMALL], copy)
            ok = last.code == 0 and contents(copy) == whole
        tally.note("manifest damaged", ok, f"{stage}: {last.err[-300:]}")
    for stage in ("train-captioner", "reinforce-captioner", "caption-items", "experiment")[:times]:
        with copied(home) as copy:
            folder = copy / "runs/demo" / stage
            for part in (folder, copy / "runs/.cache/experiment"):
                shutil.rmtree(part, ignore_errors=True)
            for _ in range(4):
                run([stage, *SMALL], copy, kill_after=draw.uniform(1.0, 3.0))
                if (folder / "manifest.json").is_file():
                    (folder / "manifest.json").unlink()
                pieces = [p for p in sorted(folder.rglob("*")) if p.is_file() and _big(p)]
                cells = sorted((copy / "runs/.cache").glob("experiment/*"))
                for path in draw.sample([*pieces, *cells], min(3, len(pieces) + len(cells))):
                    _flip(path, draw)
            last = run([stage, *SMALL], copy)
            ok = last.code == 0 and contents(copy) == whole
            bad = _unequal(copy, whole)
        tally.note("piece damaged", ok, f"{stage}: {last.err[-300:]} {bad}")
    for stage in ("recommend", "score-captions")[:times]:
        with copied(home) as copy:
            for path in sorted((copy / "runs/.cache").rglob("*.safetensors")):
                _flip(path, draw)
            shutil.rmtree(copy / "runs/demo" / stage)
            last = run([stage, *SMALL], copy)
            ok = last.code == 0 and contents(copy) == whole
            bad = _unequal(copy, whole)
        tally.note("cache damaged", ok, f"{stage}: {last.err[-300:]} {bad}")


def _big(path: Path) -> bool:
    return path.stat().st_size > 0


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    path.write_bytes(data)


def _signals(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """SIGTERM and Ctrl-C: exit 130 with a line that says how to go on, then resume."""
    for number in (signal.SIGTERM, signal.SIGINT):
        for _ in range(times):
            stage = draw.choice(STAGES[:6])
            with copied(home) as copy:
                shutil.rmtree(copy / "runs/demo" / stage)
                ended = run(
                    [stage, *SMALL], copy, kill_after=draw.uniform(0.2, 1.0), with_signal=number
                )
                said = ended.code == 0 or (ended.code == 130 and "goes on" in ended.err)
                said = said or ended.code == -number  # before the command had begun
                ok = said and run([stage, *SMALL], copy).code == 0 and contents(copy) == whole
            name = signal.Signals(number).name
            tally.note(name, ok, f"{stage}: exit {ended.code} {ended.err[-300:]}")


def _limits(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """A disk that is full, and memory that is short: refused in one line, resumed afterwards."""
    size = 0

    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    def no_space() -> None:
        """As a file system that allocates late: the bytes were taken, then there is no room."""
        left, sync = size // 10_000, os.fsync

        def fsync(handle: int) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(handle)

        os.fsync = fsync

    def short() -> None:
        used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024  # type: ignore[index]
        room = used + draw.choice((16, 48, 96, 400)) * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (room, room))

    # Short of memory native code may abort before Python is asked: nothing is lost by that.
    for kind, limit in (
        ("file too large", full), ("no space left", no_space), ("memory short", short)
    ):  # fmt: skip
        for stage in STAGES if times > 1 else draw.sample(STAGES, 1):
            size = draw.choice((1_000, 2_000, 20_000, 60_000))
            with copied(home) as copy:
                shutil.rmtree(copy / "runs/demo" / stage)
                ended = run([stage, *SMALL], copy, prepare=limit)
                said = ended.code == 0 or ended.refused or limit is short
                last = run([stage, *SMALL], copy)
                ok = said and last.code == 0 and contents(copy) == whole
            tally.note(
                kind, ok, f"{stage}, {size}: exit {ended.code} {ended.err[-400:]} {last.err[-300:]}"
            )


def _read_only(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """Folders that can't be written: refused in one line; once they can, all goes on."""
    for stage in STAGES if times > 1 else draw.sample(STAGES, 1):
        for place in ("runs", "runs/demo", f"runs/demo/{stage}", "runs/.cache"):
            with copied(home) as copy:
                (copy / "runs/demo" / stage / "manifest.json").unlink()
                shut = [copy / place, *(p for p in (copy / place).rglob("*") if p.is_dir())]
                for folder in shut:
                    folder.chmod(0o555)
                ended = run([stage, *SMALL], copy, prepare=as_anybody)
                for folder in shut:
                    folder.chmod(0o755)
                said = ended.code == 0 or ended.refused
                last = run([stage, *SMALL], copy)
                ok = said and last.code == 0 and contents(copy) == whole
            tally.note(
                "read-only folder", ok,
                f"{stage}, {place}: exit {ended.code} {ended.err[-400:]} {last.err[-300:]}",
            )  # fmt: skip


def as_anybody() -> None:
    """Give up root's right to write what is read-only."""
    if os.geteuid():
        return
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # of version 3, for this process
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def _photos(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """A photo that vanishes while captions are written, and a model file that is no model."""
    for _ in range(times):
        stage = draw.choice(("caption-items", "score-captions"))
        with copied(home) as copy:
            shutil.rmtree(copy / "runs/demo" / stage)
            shutil.rmtree(copy / "runs/.cache/embeddings")
            photos = sorted((copy / "runs/demo/catalogue/images").glob("*/*.jpg"))
            victim = draw.choice(photos[len(photos) // 2 :])
            saved = victim.read_bytes(), victim.stat()
            ended = run([stage, *SMALL], copy, prepare=lambda v=victim: _vanishing(v))  # type: ignore[misc]
            said = ended.code == 0 or ended.refused
            gone = not victim.exists()
            victim.write_bytes(saved[0])
            os.utime(victim, ns=(saved[1].st_atime_ns, saved[1].st_mtime_ns))
            last = run([stage, *SMALL], copy)
            ok = said and gone and last.code == 0 and contents(copy) == whole
            ended.err += f"{last.err[-300:]} {_unequal(copy, whole)}"
        tally.note("photo vanished", ok, f"{stage}: {ended.code} {ended.err[-700:]}")
        with copied(home) as copy:
            model = copy / "model"
            from pipelines.workspace import packaged

            shutil.copytree(packaged("data", "demo", "blip"), model)
            weights = model / "model.safetensors"
            data = bytearray(weights.read_bytes())
            weights.write_bytes(data[: draw.randrange(len(data))])
            ended = run(
                ["caption-items", "--run=other", "--data=runs/demo/catalogue", *SMALL,
                 f"--captioner={model}"], copy,
            )  # fmt: skip
            tally.note("corrupt model file", ended.refused, ended.err[-300:])


def _clock(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """A clock that is set back, before a command (its files are of the future) or in the middle."""

    def backwards() -> None:
        import datetime as dt

        calls, usual = 0, time.time

        def now() -> float:
            nonlocal calls
            calls += 1
            return usual() - (400 * 86400 if calls > 20 else 0)

        class Earlier(dt.datetime):
            @classmethod
            def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
                return dt.datetime.fromtimestamp(now(), tz)

        time.time, dt.datetime = now, Earlier  # type: ignore[assignment, misc]

    for stage in STAGES if times > 1 else draw.sample(STAGES, 1):
        with copied(home) as copy:
            ahead = time.time() + 10 * 365 * 86400
            for path in (copy / "runs/demo" / stage).rglob("*"):
                os.utime(path, (ahead, ahead))
            ended = run([stage, *SMALL], copy)
            ok = ended.code == 0 and "reused" in ended.out and contents(copy) == whole
        tally.note("clock set back", ok, f"{stage}: {ended.out[-200:]} {ended.err[-200:]}")
        with copied(home) as copy:
            shutil.rmtree(copy / "runs/demo" / stage)
            ended = run([stage, *SMALL], copy, prepare=backwards)
            same = contents(copy) == whole
            last = run([stage, *SMALL], copy)
            ok = ended.code == 0 and same and last.code == 0 and "reused" in last.out
        tally.note("clock runs backwards", ok, f"{stage}: {ended.err[-300:]} {last.out[-200:]}")


def _second_process(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """Two processes on one run: the second is refused while the first works."""
    stage = "train-captioner"  # takes seconds: what is over at once refuses nobody
    for _ in range(times):
        with copied(home) as copy:
            shutil.rmtree(copy / "runs/demo" / stage)
            first = os.fork()
            if first == 0:
                null = Path(os.devnull)
                _become([stage, *SMALL], copy, null, null, lambda: None)
            second = Ended(0, "", "", 0)
            while os.waitpid(first, os.WNOHANG)[0] == 0 and not second.refused:
                second = run(["report", *SMALL], copy)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(first, 0)
            ok = second.refused and run([stage, *SMALL], copy).code == 0
            ok = ok and contents(copy) == whole
        tally.note("second process", ok, second.err[-300:])


def _broken_pipe(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """Nobody reads the output any more: no traceback, nothing lost."""

    def closed() -> None:
        reader, writer = os.pipe()
        os.close(reader)
        os.dup2(writer, 1)

    for stage in STAGES[: 1 + times]:
        with copied(home) as copy:
            shutil.rmtree(copy / "runs/demo" / stage)
            ended = run([stage, *SMALL], copy, prepare=closed)
            ok = "Traceback" not in ended.err and ended.code in (0, 141)
            ok = ok and run([stage, *SMALL], copy).code == 0 and contents(copy) == whole
        tally.note("broken pipe", ok, f"{stage}: exit {ended.code} {ended.err[-300:]}")


def _vanishing(victim: Path) -> None:
    """In the child: the photo goes when the first one is opened, after all were listed."""
    from PIL import Image

    import caption.images

    usual = Image.open

    def opened(*arguments: object, **options: object) -> object:
        victim.unlink(missing_ok=True)
        return usual(*arguments, **options)  # type: ignore[arg-type]

    caption.images.Image.open = opened  # type: ignore[assignment]


def _slice(
    home: Path, whole: dict[str, str], draw: random.Random, tally: Tally, times: int
) -> None:
    """One fault of several kinds on one stage, for the tests: each costs a second or two."""
    stage = "recommend"

    def no_space() -> None:
        def fsync(handle: int) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        os.fsync = fsync

    def nothing() -> None:
        pass

    def tried(kind: str, before: Callable[[Path], None], prepare: Callable[[], None]) -> None:
        with copied(home) as copy:
            before(copy / "runs/demo" / stage)
            late = 0.3 if kind == "SIGTERM" else None
            ended = run(
                [stage, *SMALL], copy, prepare=prepare, kill_after=late, with_signal=signal.SIGTERM
            )
            if (copy / "runs/demo" / stage).is_dir():
                (copy / "runs/demo" / stage).chmod(0o755)
            # -15: it came before the command had begun.
            said = ended.code in (0, 130, -signal.SIGTERM) or ended.refused
            last = run([stage, *SMALL], copy)
            ok = said and last.code == 0 and contents(copy) == whole
        tally.note(kind, ok, f"exit {ended.code} {ended.err[-400:]} {last.err[-300:]}")

    def shut(folder: Path) -> None:
        (folder / "manifest.json").unlink()
        folder.chmod(0o555)

    tried("manifest damaged", lambda folder: _flip(folder / "manifest.json", draw), nothing)
    tried("no space left", shutil.rmtree, no_space)
    tried("read-only folder", shut, as_anybody)
    tried("SIGTERM", shutil.rmtree, nothing)


KINDS: dict[str, Callable[[Path, dict[str, str], random.Random, Tally, int], None]] = {
    "the demo killed": _kills_of_all,
    "damage": _damage,
    "pieces": _pieces,
    "signals": _signals,
    "limits": _limits,
    "read-only": _read_only,
    "photos and models": _photos,
    "clock": _clock,
    "second process": _second_process,
    "broken pipe": _broken_pipe,
    "slice": _slice,
}
"""Name -> how it is tried; `slice` is some of the others on one stage, for the tests."""


def _behind(copy: Path, patience: float = 20.0) -> list[str]:
    """Processes of killed commands that are still at work after some seconds: Java, workers."""
    limit = time.monotonic() + patience
    while True:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if Path(os.readlink(process / "cwd")) == copy:
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        if not found or time.monotonic() > limit:
            return found
        time.sleep(0.2)


def _unequal(copy: Path, whole: dict[str, str]) -> list[str]:
    now = contents(copy)
    return sorted(n for n in {*now, *whole} if now.get(n) != whole.get(n))[:5]


def _preload() -> None:
    """Import what commands need, without starting any thread that a fork would lose."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    root = str(Path(__file__).resolve().parents[1])
    if root not in sys.path:
        sys.path.insert(0, root)
    import faiss  # noqa: F401
    import matplotlib  # noqa: F401
    import numba  # noqa: F401
    import peft  # noqa: F401
    import polars  # noqa: F401
    import sentence_transformers  # noqa: F401
    import sklearn  # noqa: F401
    import torch  # noqa: F401
    import transformers  # noqa: F401

    import pipelines.cli  # noqa: F401


def _become(
    arguments: list[str], cwd: Path, out: Path, err: Path, prepare: Callable[[], None]
) -> None:
    """In the child: become `fcr arguments`; never returns."""
    code = 1
    try:
        os.chdir(cwd)
        for number, path in ((1, out), (2, err)):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, number)
        sys.stdout = os.fdopen(1, "w", closefd=False)
        sys.stderr = os.fdopen(2, "w", closefd=False, buffering=1)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.argv = ["fcr", *arguments]
        prepare()
        from pipelines.cli import main

        main(args=arguments)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def main() -> int:
    """Run it; exit code 1 when anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=(), choices=tuple(KINDS), help="kinds")
    parser.add_argument("--stages", nargs="*", default=STAGES, choices=STAGES, help="killed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fcr torture ") as home:
        tally = torture(
            Path(home),
            kills=options.kills,
            seed=options.seed,
            stages=options.stages,
            kinds=options.only,
        )
    print(tally)
    return 1 if tally.lost else 0


if __name__ == "__main__":
    sys.exit(main())
