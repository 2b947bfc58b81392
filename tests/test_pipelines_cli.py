"""The commands as a user gives them: the whole way at small size, mistakes, interruptions."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

SMALL = [
    "--set=demo.articles=160", "--set=demo.customers=120", "--set=demo.purchases=4000",
    "--set=captions.validation=10", "--set=captions.test=25", "--set=train.steps=8",
    "--set=train.batch_size=8", "--set=generate.shard_size=32", "--set=generate.batch_size=16",
    "--set=generate.max_new_tokens=20", "--set=recommend.bootstrap=50",
    "--set=score.bootstrap=50", "--set=report.gallery=4", "--set=report.customers=1",
]  # fmt: skip
STAGES = [
    "catalogue",
    "train-captioner",
    "caption-items",
    "score-captions",
    "recommend",
    "attention",
    "zero-shot",
    "report",
]


def fcr(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pipelines", *map(str, arguments)]
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=280, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]), **environment},
    )  # fmt: skip


def fails(*arguments: str | Path, cwd: Path, **environment: str) -> str:
    """The one line a mistake gives."""
    done = fcr(*arguments, cwd=cwd, **environment)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    return errors[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A small demo, run once; its folder and what it printed."""
    home = tmp_path_factory.mktemp("a demo, été")
    done = fcr("demo", *SMALL, cwd=home)
    assert done.returncode == 0, done.stderr[-4000:]
    return home, done.stdout


def test_the_demo_goes_all_the_way(finished: tuple[Path, str]) -> None:
    home, said = finished
    run = home / "runs/demo"
    for stage in STAGES:
        manifest = json.loads((run / stage / "manifest.json").read_text())
        assert manifest["seconds"] > 0
        assert manifest["files"], stage
    captions = pl.read_parquet(run / "caption-items/captions.parquet")
    photos = {path.stem for path in run.glob("catalogue/images/*/*.jpg")}
    skipped = pl.read_parquet(run / "caption-items/skipped.parquet")
    assert {*captions["article_id"], *skipped["article_id"]} == photos
    metrics = pl.read_csv(run / "recommend/metrics.csv")
    rows = set(metrics.select("recommender", "setting").iter_rows())
    texts = {(row, text) for row in ("tfidf", "sbert", "resbert", "clip")
             for text in ("original", "fill")}  # fmt: skip
    others = {(row, "-") for row in ("random", "mostpop", "userknn", "itemknn", "resnet")}
    assert rows == texts | others
    assert metrics["value"].is_between(0, 1).all()
    assert set(metrics.select("metric", "k").iter_rows()) == {
        ("ndcg", 5), ("ndcg", 12), ("map", 5), ("map", 12)
    }  # fmt: skip
    assert str(run / "report/report.html").split("runs/")[1] in said.splitlines()[-2]
    scores = json.loads((run / "score-captions/fine-tuned/scores.json").read_text())
    assert all("signature" in s or "unavailable" in s for s in scores.values())


def test_what_is_handed_over_describes_photos_as_the_run_did(finished: tuple[Path, str]) -> None:
    from huggingface_hub import ModelCard

    from caption.captioners import load_captioner
    from caption.images import open_image
    from pipelines.workspace import packaged

    home, _ = finished
    written = pl.read_parquet(home / "runs/demo/caption-items/captions.parquet").head(8)
    photos = [home / f"runs/demo/catalogue/images/{i[:3]}/{i}.jpg" for i in written["article_id"]]
    folder = home / "runs/demo/export"
    for options in ((), ("--merged",)):
        done = fcr("export", *options, cwd=home)
        assert done.returncode == 0, done.stderr
        if options:
            captioner = load_captioner(folder / "captioner")
        else:
            base = packaged("data", "demo", "blip")
            captioner = load_captioner(base, adapter=folder / "captioner")
        pixels = np.stack([captioner.preprocess(open_image(p)) for p in photos])
        captions = [g.text for g in captioner.generate(pixels, max_new_tokens=20)]
        assert captions == written["caption"].to_list()
        card = ModelCard.load(folder / "captioner/README.md", ignore_metadata_errors=False)
        assert card.data.license == "mit"
        assert "CIDEr-D" in {r.metric_name for r in card.data.eval_results}
        assert ("An adapter for" in card.text) == (not options)
        texts = [p.read_text() for p in folder.glob("captioner/*.[jm]*") if p.suffix != ".model"]
        assert not any(str(home) in text or str(Path.cwd()) in text for text in texts)
    articles = pl.read_csv(folder / "articles.csv", infer_schema=False)
    own = pl.read_csv(home / "runs/demo/catalogue/articles.csv", infer_schema=False)
    assert articles.columns[: len(own.columns)] == own.columns
    kept = own["detail_desc"].is_not_null()
    assert (articles["detail_desc"] == own["detail_desc"]).filter(kept).all()
    assert set(articles["description_source"].filter(~kept)) <= {"generated", None}


def test_a_second_call_reuses_everything(finished: tuple[Path, str]) -> None:
    home, _ = finished
    before = {p: p.stat().st_mtime_ns for p in home.rglob("*") if p.is_file()}
    done = fcr("demo", *SMALL, cwd=home)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("nothing changed, reused") == len(STAGES) - 1
    changed = [p for p, at in before.items() if p.stat().st_mtime_ns != at and p.name != ".lock"]
    assert changed == []


def stopped_captioning(
    finished: Path, home: Path, number: signal.Signals, shards: int
) -> tuple[Path, bytes, int, str]:
    """Caption a copy of the run anew and send a signal once `shards` shards are written.

    Returns the stage's folder, the captions of the undisturbed run, exit code and standard error.
    """
    shutil.copytree(finished, home)
    folder = home / "runs/demo/caption-items"
    whole = (folder / "captions.parquet").read_bytes()
    shutil.rmtree(folder)
    command = [sys.executable, "-m", "pipelines", "caption-items", *SMALL]
    with subprocess.Popen(
        command, cwd=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    ) as process:  # fmt: skip
        deadline = time.monotonic() + 200
        while len(list(folder.glob("shards/*.parquet"))) < shards and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        assert process.poll() is None, "finished before it could be stopped"
        process.send_signal(number)
        _, said = process.communicate(timeout=200)
    return folder, whole, process.returncode, said


def test_killed_captioning_resumes_to_the_same_bytes(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "copy"
    folder, whole, _, _ = stopped_captioning(finished[0], home, signal.SIGKILL, 2)
    assert not (folder / "captions.parquet").exists()
    done = fcr("caption-items", *SMALL, cwd=home)
    assert done.returncode == 0, done.stderr
    assert "were there from an interrupted call" in done.stdout
    assert (folder / "captions.parquet").read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_the_shard_and_says_how_to_go_on(
    number: signal.Signals, finished: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "copy"
    folder, whole, code, said = stopped_captioning(finished[0], home, number, 1)
    assert code == 130, said
    assert "finishing the shard" in said
    assert "the same command goes on from here" in said
    assert fcr("caption-items", *SMALL, cwd=home).returncode == 0
    assert (folder / "captions.parquet").read_bytes() == whole


def test_a_damaged_artefact_is_refused_or_rebuilt(
    finished: tuple[Path, str], tmp_path: Path
) -> None:
    home = tmp_path / "copy"
    shutil.copytree(finished[0], home)
    captions = home / "runs/demo/caption-items/captions.parquet"
    whole = captions.read_bytes()
    captions.write_bytes(whole[:-10] + bytes(10))
    assert "checksum differs" in fails("recommend", *SMALL, cwd=home)
    assert fcr("caption-items", *SMALL, cwd=home).returncode == 0
    assert captions.read_bytes() == whole


def test_a_disk_that_is_full_costs_one_line(finished: tuple[Path, str], tmp_path: Path) -> None:
    home = tmp_path / "copy"
    shutil.copytree(finished[0], home)
    shutil.rmtree(home / "runs/demo/recommend")
    # No file of the process may grow past 2 kB: writing fails as on a full disk.
    code = (
        "import resource, signal, errno, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))\n"
        "from pipelines.cli import main; main()"
    )
    command = ["recommend", "--model", "mostpop", *SMALL]
    done = subprocess.run(
        [sys.executable, "-c", code, *command], cwd=home, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
        check=False,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert not (home / "runs/demo/recommend/manifest.json").exists()
    assert fcr(*command, cwd=home).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["recommend", "--data", "nowhere"], "data folder nowhere does not exist"),
        (["recommend", "--run", "../x"], "run name '../x'"),
        (["train-captioner", "--set", "train.step=1"], "did you mean 'train.steps'"),
        (["train-captioner", "--config", "none.yaml"], "config none.yaml does not exist"),
        (["score-captions", "--hypotheses", "x.json"], "go together"),
    ],
)
def test_mistakes_cost_one_line_and_leave_nothing(
    arguments: list[str], expected: str, tmp_path: Path
) -> None:
    assert expected in fails(*arguments, cwd=tmp_path)
    assert list(tmp_path.glob("runs/*")) == []


def test_mistakes_on_a_run(finished: tuple[Path, str], tmp_path: Path) -> None:
    home = finished[0]
    folder = tmp_path / "not-a-model"
    folder.mkdir()
    for model in (folder, tmp_path / "gone"):
        said = fails(
            "train-captioner", "--run=other", "--data=runs/demo/catalogue", *SMALL,
            f"--set=captioner.checkpoint={model}", cwd=home,
        )  # fmt: skip
        assert str(model) in said
    for window in ("recommend.test_days=9999", "recommend.split.cutoff=2035-01-01"):
        said = fails("recommend", "--model=mostpop", f"--set={window}", *SMALL, cwd=home)
        assert "2018-" in said  # names the span of the purchases
    assert "has no captions" in fails(
        "score-captions", "--run=third", "--data=runs/demo/catalogue", *SMALL, cwd=home
    )


def test_a_second_process_on_the_run_is_refused(finished: tuple[Path, str]) -> None:
    home = finished[0]
    code = (
        "import time; from pathlib import Path; from pipelines.workspace import Workspace\n"
        "with Workspace.open('demo', Path('runs')).lock():\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=home, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
    ) as holder:  # fmt: skip
        assert holder.stdout is not None
        holder.stdout.readline()
        assert f"pid {holder.pid}" in fails("report", *SMALL, cwd=home)
        holder.kill()


def test_scaled_tables_are_drawn_for_benchmarks(tmp_path: Path) -> None:
    assert "go together" in fails("demo", "--scale=0.001", cwd=tmp_path)
    done = fcr("demo", "--scale=0.001", "--out=tables", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert pl.read_csv(tmp_path / "tables/transactions_train.csv").height == 31_788
    said = fcr("recommend", "--data=tables", "--model=mostpop", "--model=itemknn", cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert (tmp_path / "runs/tables/recommend/metrics.csv").is_file()


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from pipelines.cli import main\n"
        "assert CliRunner().invoke(main, ['--help']).exit_code == 0\n"
        "heavy = {'torch', 'polars', 'numpy', 'pydantic', 'faiss', 'numba', 'transformers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
