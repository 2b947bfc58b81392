"""The suite on somebody else's machine: what must make no difference, all of it different at once.

    python tests/elsewhere.py                     # the whole suite
    python tests/elsewhere.py tests/test_caption_records.py -k leak

Turkish, where "I".lower() of C libraries is no "i"; a time zone a day ahead of the other one; a
random hash seed; a checkout whose path has spaces and letters outside ASCII; a home that can't be
written. Whatever follows goes to pytest. Without a Turkish locale one is compiled; where that can't
be done the locale stays as it is, and the first line says so.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCALE = "tr_TR.UTF-8"
ZONE = "Pacific/Kiritimati"


def main(arguments: list[str]) -> int:
    """Run pytest there; its exit code."""
    with tempfile.TemporaryDirectory(prefix="fcr elsewhere ğİ ") as place:
        copy = Path(place, "Öğe checkout")
        _copy(copy)
        home = Path(place, "home")
        home.mkdir()
        home.chmod(0o555)
        seed = random.SystemRandom().randrange(1, 2**32)
        environment = {
            **os.environ,
            "HOME": str(home),
            "PYTHONHASHSEED": str(seed),
            "PYTHONPATH": str(copy),
            "TZ": ZONE,
            **_turkish(Path(place, "locales")),
        }
        for name in [n for n in environment if n.startswith(("XDG_", "LANG"))]:
            del environment[name]
        said = environment.get("LC_ALL") or "as it is: no localedef, or no source of tr_TR"
        print(f"locale {said}, zone {ZONE}, hash seed {seed}, in {copy}", flush=True)
        command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]
        try:
            done = subprocess.run(
                command, cwd=copy, env=environment, check=False, preexec_fn=_without_privilege
            )
        finally:
            home.chmod(0o755)
    return done.returncode


def _copy(copy: Path) -> None:
    """The files that git knows, or would take; the research data by a link."""
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    shared = ROOT.parent / "shared"
    if shared.is_dir():
        (copy.parent / "shared").symlink_to(shared)
    if (ROOT / ".venv").is_dir():
        (copy / ".venv").symlink_to(ROOT / ".venv")


def _turkish(folder: Path) -> dict[str, str]:
    """Variables that choose the locale; none where it can't be had."""
    folder.mkdir()
    have = subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
    if "tr_TR.utf8" in have.split():
        return {"LC_ALL": LOCALE}
    if shutil.which("localedef") is None:
        return {}
    subprocess.run(
        ["localedef", "-i", "tr_TR", "-f", "UTF-8", str(folder / "tr_TR.utf8")],
        capture_output=True, check=False,
    )  # fmt: skip
    made = (folder / "tr_TR.utf8" / "LC_CTYPE").is_file()
    return {"LC_ALL": LOCALE, "LOCPATH": str(folder)} if made else {}


def _without_privilege() -> None:
    """Root could write into the home after all."""
    sys.path.insert(0, str(ROOT))
    from tests.torture import as_anybody

    as_anybody()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
