"""What pip installs works outside the checkout: presets and demo models travel in the wheel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--set=demo.articles=120", "--set=demo.customers=100", "--set=demo.purchases=3000"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds nothing but the installed wheel."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    dist, place = tmp_path_factory.mktemp("dist"), tmp_path_factory.mktemp("site")
    quiet = {"cwd": dist, "capture_output": True, "check": True, "text": True}
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", dist, ROOT]
    subprocess.run(build, **quiet)
    (wheel,) = dist.glob("*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", place]
    subprocess.run([*pip, wheel], **quiet)
    return place


def fcr(installed: Path, cwd: Path, *arguments: str) -> str:
    code = (
        "import pipelines, pathlib, sys; from pipelines.cli import main\n"
        f"assert pathlib.Path(pipelines.__file__).is_relative_to({str(installed)!r})\n"
        "main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_wheel_holds_the_packages_and_nothing_of_the_tests(installed: Path) -> None:
    tops = {p.name for p in installed.iterdir() if p.is_dir() and not p.name.endswith(".dist-info")}
    assert tops - {"bin"} == {"caption", "recsys", "pipelines"}


def test_presets_and_models_are_found(installed: Path, tmp_path: Path) -> None:
    assert "1500" in fcr(installed, tmp_path, "config", "--config", "hm-small")
    said = fcr(installed, tmp_path, "recommend", "--model=clip", *SMALL)
    assert "clip" in said
    assert (tmp_path / "runs/demo/recommend/metrics.csv").is_file()
