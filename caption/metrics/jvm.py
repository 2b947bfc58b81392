"""Java for the metrics that need it: find it, run one process to its end, say why it failed.

The scorers of meteor-1.5.jar and spice-1.0.jar are called by small launchers of our own
(`java/*.java`, compiled into `java/launchers.jar`). After a change there,
`python -m caption.metrics.jvm` rebuilds the archive; that alone needs a JDK.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import tempfile
import zipfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from caption import InputError

LAUNCHERS = Path(__file__).with_name("java") / "launchers.jar"
NO_JAVA = "Java was not found: install a Java runtime (8 or newer), or set JAVA_HOME"


class JavaError(RuntimeError):
    """A Java process that gave no answer; the message is one sentence a user can act on."""


def find_java() -> str:
    """Path of a `java` that runs: JAVA_HOME's, else the one on PATH. Raises `JavaError`."""
    home = os.environ.get("JAVA_HOME")
    candidates = [str(Path(home) / "bin" / "java")] if home else []
    candidates += [found] if (found := shutil.which("java")) else []
    for java in candidates:
        if java_version(java):
            return java
    raise JavaError(NO_JAVA)


@lru_cache(maxsize=8)
def java_version(java: str) -> int:
    """Feature version (8, 17, 25) of an executable; 0 if it is none or does not run."""
    try:
        said = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60).stderr
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else 0


def jar_folder(package: str) -> Path:
    """Folder of pycocoevalcap's `package` (meteor, spice), without importing it."""
    from importlib.util import find_spec

    spec = find_spec("pycocoevalcap")
    if spec is None or not spec.submodule_search_locations:
        raise JavaError("pycocoevalcap is not installed: pip install pycocoevalcap")
    return Path(next(iter(spec.submodule_search_locations))) / package


def java_memory(memory: str | None, default: str) -> str:
    """A checked -Xmx value: the argument, else FCR_JAVA_MEMORY, else `default`."""
    chosen = memory or os.environ.get("FCR_JAVA_MEMORY") or default
    if not re.fullmatch(r"[1-9]\d*[kmgKMG]", chosen):
        raise InputError(f"Java memory {chosen!r}: expected a number and a unit, such as 1500m, 2g")
    return chosen


def clean_line(text: str) -> str:
    """A text that fits on one line of the launchers' input: control characters become blanks."""
    return re.sub(r"[\x00-\x1f\x7f]", " ", text)


def run_java(
    classpath: Sequence[Path],
    main: str,
    arguments: Sequence[str] = (),
    *,
    stdin: bytes = b"",
    flags: Sequence[str] = (),
    memory: str,
    timeout: float,
) -> bytes:
    """Run `main` to its end and return its standard output; raises `JavaError` otherwise.

    One process a call: nothing is left behind that could hang, and input and output move at the
    same time. `timeout` is in seconds, `memory` an -Xmx value.
    """
    for jar in classpath:
        if not jar.exists():
            raise JavaError(f"{jar.name} is missing from {jar.parent}: reinstall its package")
    command = [
        *(find_java(), f"-Xmx{memory}", "-XX:+UseParallelGC"),
        # METEOR prints and parses numbers in the default locale: a decimal comma breaks it.
        *("-Duser.language=en", "-Duser.country=US", "-Dfile.encoding=UTF-8"),
        *(*flags, "-cp", os.pathsep.join(map(str, classpath)), main, *arguments),
    ]
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        raise JavaError(f"Java gave no answer within {timeout:.0f} seconds") from None
    except OSError as error:
        raise JavaError(f"Java could not be started ({error})") from None
    if done.returncode:
        raise JavaError(_reason(done.returncode, done.stderr, memory))
    return done.stdout


def _reason(code: int, stderr: bytes, memory: str) -> str:
    if code < 0:
        name = signal.Signals(-code).name if -code in set(signal.Signals) else str(-code)
        return f"the Java process was killed by {name} (out of memory on this machine?)"
    said = stderr.decode("utf-8", "replace")
    if "OutOfMemoryError" in said or "Could not reserve enough space" in said:
        return f"Java ran out of memory at {memory}: set FCR_JAVA_MEMORY higher"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    marks = r"Caused by|Exception|Error|[\w.]+(Error|Exception)"
    cause = [line for line in lines if re.match(marks, line)]
    return f"Java stopped with code {code}: {(cause or lines or ['no message'])[-1][:300]}"


def build() -> None:
    """Compile java/*.java into `LAUNCHERS`, sources included; the same sources, the same bytes."""
    sources = sorted(LAUNCHERS.parent.glob("*.java"))
    with tempfile.TemporaryDirectory() as folder:
        scorer = str(jar_folder("meteor") / "meteor-1.5.jar")
        options = ["--release", "8", "-Xlint:-options", "-d", folder, "-cp", scorer]
        subprocess.run(["javac", *options, *map(str, sources)], check=True)
        scratch = LAUNCHERS.with_suffix(".tmp")
        with zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as jar:
            for path in sorted([*Path(folder).glob("*.class"), *sources], key=lambda p: p.name):
                jar.writestr(zipfile.ZipInfo(path.name, (2020, 1, 1, 0, 0, 0)), path.read_bytes())
        os.replace(scratch, LAUNCHERS)


if __name__ == "__main__":
    build()
