"""`fcr train-captioner` on any caption set, on two processes, and over a grid."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from click.testing import CliRunner

from caption import training_data
from caption.adapt import AdaptConfig
from caption.flickr import read_flickr
from caption.records import CaptionExample, CaptionSet
from caption.train import TrainConfig
from pipelines import InputError
from pipelines.caption_data import given_parts, lay_out, with_captions
from pipelines.caption_items import caption_items
from pipelines.catalog import read_catalog
from pipelines.cli import main
from pipelines.config import CaptionerConfig, Config, GenerateConfig, ScoreConfig
from pipelines.grid import best_row, cell_name, read_grid, train_grid
from pipelines.report import report
from pipelines.run import Run, open_run
from pipelines.score_captions import score_captions
from pipelines.train_captioner import base_checkpoint, fine_tuned, train_captioner
from tests.tiny import clipcap_parts, draw_photos, tiny_captioner

PARTS = ("train",) * 4 + ("validation",) * 2 + ("test",) * 2


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_captioner("blip", tmp_path_factory.mktemp("blip"))


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    photos = draw_photos(folder / "photos")
    examples = tuple(
        CaptionExample(str(i), photo, (text, f"{text} again"), category=text.split()[-1], split=p)
        for i, ((_, photo, text), p) in enumerate(zip(photos, PARTS, strict=True))
    )
    CaptionSet("drawn", examples).save(folder / "captions.json")
    return folder / "captions.json"


@pytest.fixture
def small(blip: Path) -> Config:
    train = TrainConfig(AdaptConfig("decoder"), steps=4, batch_size=4, evaluate_every=2)
    return Config(
        captioner=CaptionerConfig(str(blip)),
        train=train,
        generate=GenerateConfig(max_new_tokens=12),
        score=ScoreConfig(metrics=("bleu", "cider-d", "category"), encoder="hog", bootstrap=50),
    )


def opened(
    file: Path, config: Config, runs: Path, say: Callable[[str], None] = lambda _: None
) -> AbstractContextManager[Run]:
    lay_out(file, runs / "drawn" / "captions")
    return open_run(
        run="drawn", data=runs / "drawn" / "captions", config=config, runs=runs, say=say
    )


def test_a_caption_set_becomes_a_data_folder(drawn: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    lay_out(drawn, folder)
    catalog = read_catalog(folder, purchases=False)
    parts = given_parts(folder)
    assert parts is not None
    ids = catalog.articles["article_id"].to_list()
    assert ids == [e.id for e in parts.examples] == [f"{i:010d}" for i in range(8)]
    assert [str(f) for f in catalog.findings] == []
    photos = catalog.photos()
    for example, photo in zip(parts.examples, photos, strict=True):
        assert photo is not None
        assert example.image is not None
        assert photo.read_bytes() == example.image.read_bytes()
    before = (folder / "articles.csv").stat().st_mtime_ns
    lay_out(drawn, folder)
    assert (folder / "articles.csv").stat().st_mtime_ns == before, "nothing changed"
    assert given_parts(drawn.parent) is None


def test_what_a_shop_knows_of_its_articles_is_kept(drawn: Path, tmp_path: Path) -> None:
    captions = CaptionSet.load(drawn)
    folder = tmp_path / "shop"
    examples = tuple(replace(e, id=f"{i:010d}") for i, e in enumerate(captions.examples))
    CaptionSet("shop", examples).save(folder / "captions.json")
    columns = {
        "article_id": [e.id for e in examples], "product_code": ["7"] * 8, "prod_name": ["x"] * 8,
        "product_type_name": ["Dress"] * 8, "graphical_appearance_name": ["Solid"] * 8,
        "colour_group_name": ["Red"] * 8, "detail_desc": ["a dress"] * 8,
    }  # fmt: skip
    pl.DataFrame(columns).write_csv(folder / "articles.csv")
    lay_out(folder / "captions.json", tmp_path / "data")
    assert set(read_catalog(tmp_path / "data", purchases=False).articles["colour_group_name"]) == {
        "Red"
    }


def test_caption_sets_that_cannot_be_learned_from(drawn: Path, tmp_path: Path) -> None:
    captions = CaptionSet.load(drawn)
    uncut = tmp_path / "uncut.json"
    captions.with_splits([""] * 8).save(uncut)
    with pytest.raises(InputError, match="expected train, validation and test"):
        lay_out(uncut, tmp_path / "data")
    odd = tmp_path / "odd.json"
    first = replace(captions.examples[0], id="../up")
    CaptionSet("odd", (first, *captions.examples[1:])).save(odd)
    with pytest.raises(InputError, match="can't be file names"):
        lay_out(odd, tmp_path / "data")
    options = {"run": None, "runs": tmp_path, "data": tmp_path}
    with pytest.raises(InputError, match="--captions and --data"):
        with_captions(options, drawn)
    found = with_captions({**options, "data": None}, drawn)
    assert (found["run"], found["data"]) == (
        drawn.parent.name,
        tmp_path / drawn.parent.name / "captions",
    )


def test_a_composed_captioner_learns_and_is_loaded_again(
    drawn: Path, small: Config, tmp_path: Path
) -> None:
    clip, gpt2 = clipcap_parts(tmp_path / "parts")
    composed = CaptionerConfig(
        compose="clipcap", encoder=str(clip), decoder=str(gpt2), mapper="transformer",
        prefix_length=3, mapper_layers=1, mapper_heads=2,
    )  # fmt: skip
    train = replace(small.train, adapt=AdaptConfig("lora", rank=2))
    with opened(drawn, replace(small, captioner=composed, train=train), tmp_path) as run:
        saved = train_captioner(run)
        assert saved.name == "adapter"
        first = base_checkpoint(run)
        captioner = fine_tuned(run)
        assert captioner is not None
        assert captioner.family == "clipcap"
        assert captioner.model.config.prefix_length == 3
        assert base_checkpoint(run) == first
    bad = replace(composed, decoder="")
    with (
        opened(drawn, replace(small, captioner=bad), tmp_path) as run,
        pytest.raises(InputError, match=r"needs captioner\.encoder and captioner\.decoder"),
    ):
        train_captioner(run)


def test_flickr_photos_from_training_to_report(shared: Path, small: Config, tmp_path: Path) -> None:
    """Real photos with five captions each, on which nothing of a shop is known."""
    found = read_flickr(shared / "flickr8k-sample").captions
    examples = [e for e in found.examples if e.image is not None][:24]
    parts = ["train"] * 16 + ["validation"] * 4 + ["test"] * 4
    file = tmp_path / "flickr" / "captions.json"
    CaptionSet("flickr8k", tuple(examples)).with_splits(parts).save(file)
    said: list[str] = []
    train = replace(small.train, generate=2, max_tokens=12)
    with opened(file, replace(small, train=train), tmp_path, said.append) as run:
        train_captioner(run)
        written = pl.read_parquet(caption_items(run))
        assert sorted(written["article_id"]) == sorted(e.id for e in examples)
        scores = pl.read_csv(score_captions(run))
        page = report(run).read_text(encoding="utf-8")
    assert set(scores["captioner"]) >= {"fine-tuned", "pretrained", "consensus"}
    reasons = scores.filter(pl.col("metric") == "category")["unavailable"]
    assert set(reasons) == {"the training part names less than two types"}
    assert not [line for line in said if "nan" in line.split()]
    assert "Learning curve" in page
    assert "Caption metrics on validation photos" in page
    assert any("descriptions are longer than 12 tokens" in line for line in said)


def test_clipscore_of_a_run_is_of_its_own_photos_by_its_own_clip(
    drawn: Path, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's `encoders.clip` looks, whatever FCR_CLIP says."""
    monkeypatch.setenv("FCR_CLIP", str(tmp_path / "no-model"))
    score = replace(small.score, metrics=("bleu", "clipscore"), baselines=("most-frequent",))
    with opened(drawn, replace(small, score=score), tmp_path) as run:
        train_captioner(run)
        caption_items(run)
        scores = pl.read_csv(score_captions(run)).filter(pl.col("metric") == "clipscore")
    assert scores["captioner"].to_list() == ["fine-tuned", "pretrained", "most-frequent"]
    assert scores["unavailable"].is_null().all()
    assert "clip:clip-" in scores["signature"][0]
    assert "images:2/2" in scores["signature"][0]
    assert scores["low"].is_not_null().all()


def test_what_comes_after_scores_of_a_caption_set_is_no_benchmark(
    drawn: Path, small: Config, tmp_path: Path
) -> None:
    """Without purchases there is nothing to recommend."""
    with opened(drawn, small, tmp_path) as run:
        train_captioner(run)
        caption_items(run)
    settings = [f"captioner.checkpoint={small.captioner.checkpoint}", "score.metrics=[bleu]",
                "score.baselines=[]"]  # fmt: skip
    called = ["score-captions", "--run=drawn", f"--runs={tmp_path}"]
    result = CliRunner().invoke(main, [*called, *(f"--set={each}" for each in settings)])
    assert result.exit_code == 0, result.output
    assert result.output.endswith("next: fcr report --run drawn\n")


KILLED = """
import os, signal
from caption.trainer import CaptionTrainer
from pipelines.cli import main

save = CaptionTrainer._save_checkpoint

def save_and_die(trainer, *args):
    assert type(trainer.learned[0]).__name__ == "DTensor", "whole weights on every process"
    save(trainer, *args)
    if trainer.state.global_step == 4 and trainer.is_world_process_zero():
        os.kill(os.getpid(), signal.SIGKILL)

CaptionTrainer._save_checkpoint = save_and_die
main()
"""


def on_two_processes(*command: str) -> int:
    """What torchrun with two processes says at its end."""
    environment = {
        **os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    launch = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return subprocess.run(
        [sys.executable, *launch, *command], env=environment, timeout=240, capture_output=True
    ).returncode


@pytest.mark.parametrize(
    ("fsdp", "method"),
    [(False, "decoder"), (True, "full"), (True, "lora")],
)
def test_two_processes_learn_along_the_curve_of_one(
    drawn: Path, small: Config, tmp_path: Path, fsdp: bool, method: str
) -> None:
    """torchrun over gloo: the same batches, shared; only process 0 writes."""
    generate = 0 if method == "lora" else 2  # what follows an evaluation depends on it
    changes = {"steps": 6, "batch_size": 5, "generate": generate, "precision": "float32"}
    learning = replace(
        small.train, learning_rate=0.01, adapt=AdaptConfig(method=method, dropout=0), **changes
    )  # type: ignore[arg-type]
    config = replace(small, train=learning)
    settings = {
        **{f"train.{key}": value for key, value in changes.items()},
        "captioner.checkpoint": config.captioner.checkpoint, "train.adapt.method": method,
        "train.adapt.dropout": 0, "train.evaluate_every": 2, "train.learning_rate": 0.01,
        "train.fsdp": fsdp,
    }  # fmt: skip
    with opened(drawn, config, tmp_path / "one") as run:
        train_captioner(run)
    command = ["train-captioner", f"--captions={drawn}", "--run=drawn"]
    command += [f"--runs={tmp_path / 'two'}", *(f"--set={k}={v}" for k, v in settings.items())]
    if method == "full":
        (tmp_path / "killed.py").write_text(KILLED)
        assert on_two_processes("--", str(tmp_path / "killed.py"), *command) != 0
        kept = tmp_path / "two" / "drawn" / "train-captioner" / "checkpoints"
        assert (kept / "checkpoint-4" / "whole.json").is_file()
    assert on_two_processes("-m", "--", "pipelines", *command) == 0
    stages = [tmp_path / name / "drawn" / "train-captioner" for name in ("one", "two")]
    curves = [("history.csv", "loss"), *([("metrics.csv", "value")] if generate else [])]
    for file, column in curves:
        one, two = (pl.read_csv(stage / file) for stage in stages)
        assert one.drop(column).equals(two.drop(column))
        np.testing.assert_allclose(one[column], two[column], rtol=1e-5)
    assert one.height > 0
    losses = pl.read_csv(stages[0] / "history.csv")["loss"]
    assert losses[-1] < losses[0]
    names = [{p.name for p in stage.iterdir()} for stage in stages]
    assert names[0] == names[1]


def test_a_grid_trains_every_cell_and_keeps_the_best(
    drawn: Path, small: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text(
        "train.learning_rate: [1.0e-2, 1.0e-5]\ntrain.adapt: {method: [decoder, ia3]}\n"
    )
    said: list[str] = []
    encode, encoded = training_data.encoded, []
    monkeypatch.setattr(
        training_data, "encoded", lambda c, pixels: encoded.append(len(pixels)) or encode(c, pixels)
    )
    with opened(drawn, small, tmp_path, said.append) as run:
        saved = train_grid(run, grid)
        assert sum(encoded) == PARTS.count("train") + PARTS.count("validation"), (
            "four cells read the photos once"
        )
        assert not (run.folder / "grid" / "photos").exists()
        table = pl.read_csv(tmp_path / "drawn" / "grid" / "results.csv")
        assert table["train.learning_rate"].to_list() == [0.01, 0.01, 1e-5, 1e-5]
        assert table["train.adapt.method"].to_list() == ["decoder", "ia3"] * 2
        best = table.filter("best")
        assert best["best_loss"].to_list() == [table["best_loss"].min()]
        assert best.select("train.learning_rate", "train.adapt.method").row(0) == (0.01, "decoder")
        assert saved == run.folder / "train-captioner" / "model"
        assert said[-1].startswith("the run's captioner is the best cell's: --set train.learning")
        said.clear()
        train_grid(run, grid)
        assert sum("nothing changed, reused" in line for line in said) == 4
    chosen = replace(small, train=replace(small.train, learning_rate=1e-2))
    said.clear()
    with opened(drawn, chosen, tmp_path, said.append) as run:
        train_captioner(run)
    assert any("nothing changed, reused" in line for line in said), "the cell is the run's own"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train.learning_rat: [1]", "unknown key"),
        ("train.learning_rate: 0.1", "expected a list of values"),
        ("recommend.k: [[5]]", "does not change a training"),
        ("train.steps: [many]", "train.steps is 'many'"),
        ("", "a grid names settings"),
    ],
)
def test_grids_that_cannot_be_run(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "grid.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_grid(tmp_path / "grid.yaml")


def test_the_published_grid_has_sixteen_cells_with_names_of_their_own() -> None:
    cells = read_grid("r3-grid")
    assert len(cells) == 16
    assert len({cell_name(cell) for cell in cells}) == 16
    assert cells[1] == (
        ("train.learning_rate", 1e-5), ("train.batch_size", 16),
        ("train.adapt.targets", "attention-qv"),
    )  # fmt: skip
    rows = [{"best_loss": 2.0, "cider-d": 0.5}, {"best_loss": 1.0, "cider-d": 0.4}]
    assert (best_row(rows, "loss"), best_row(rows, "cider-d")) == (1, 0)
