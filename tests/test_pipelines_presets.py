"""Every preset of the published systems trains a tiny checkpoint of its class."""

from dataclasses import asdict, replace
from pathlib import Path

import polars as pl
import pytest

from caption.captioners import CAPTIONERS
from caption.flickr import read_flickr
from caption.records import CaptionExample, CaptionSet
from pipelines import InputError
from pipelines.caption_data import lay_out
from pipelines.caption_items import caption_items
from pipelines.config import CaptionerConfig, Config, load_config
from pipelines.report import report
from pipelines.run import open_run
from pipelines.score_captions import score_captions
from pipelines.train_captioner import fine_tuned, train_captioner
from pipelines.workspace import packaged
from tests.tiny import clipcap_parts, draw_photos, tiny_captioner

PRESETS = sorted(
    path.stem for path in packaged("configs").glob("r[1-5]*.yaml") if path.stem != "r3-grid"
)
CLASSES = {
    "blip-": "blip",
    "blip2-opt": "blip-2-opt",
    "blip2-flan": "blip-2-t5",
    "llava": "llava",
    "vit-gpt2": "vision-encoder-decoder",
}
"""Beginning of a checkpoint's short name -> tiny checkpoint of its class."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    photos = draw_photos(folder / "photos")
    parts = ("train",) * 4 + ("validation",) * 2 + ("test",) * 2
    examples = (
        CaptionExample(i, photo, (text,), split=part)
        for (i, photo, text), part in zip(photos, parts, strict=True)
    )
    CaptionSet("drawn", tuple(examples)).save(folder / "captions.json")
    lay_out(folder / "captions.json", folder / "data")
    return folder / "data"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tiny")
    folders = {name: tiny_captioner(name, root / name) for name in CLASSES.values()}
    folders["clip"], folders["gpt2"] = clipcap_parts(root / "parts")
    return folders


def shrunk(name: str, tiny: dict[str, Path]) -> Config:
    """The preset on a tiny checkpoint for two updates, all else as it says."""
    config = load_config(name)
    own = config.captioner
    if own.compose == "clipcap":
        small = replace(
            own,
            encoder=str(tiny["clip"]),
            decoder=str(tiny["gpt2"]),
            mapper_heads=2,
            mapper_layers=2,
        )
    elif own.checkpoint in CAPTIONERS:
        kind = next(CLASSES[start] for start in CLASSES if own.checkpoint.startswith(start))
        small = replace(own, checkpoint=str(tiny[kind]))
    else:
        assert name == "r3", f"{name} names no checkpoint"
        small = replace(own, checkpoint=str(tiny["blip-2-opt"]))
    layers = min(config.train.adapt.encoder_layers, 1)
    train = replace(
        config.train,
        steps=2,
        epochs=0.0,
        batch_size=2 * config.train.accumulate,
        generate=min(config.train.generate, 2),
        max_tokens=30,
        adapt=replace(config.train.adapt, encoder_layers=layers),
    )
    return replace(config, captioner=small, train=train)


def test_every_published_system_has_its_presets() -> None:
    models = [n for n in CAPTIONERS if n.startswith(("blip2", "llava"))]
    thesis = {f"r3-{d}-{m}{p}" for d in ("hm", "facad") for m in models for p in ("", "-published")}
    assert len(models) == 6
    assert set(PRESETS) == thesis | {
        "r3", "r5-blip-flickr30k", "r2-clipcap-mlp", "r2-clipcap-transformer",
        *(f"r1-facad-blip-{n}" for n in range(1, 5)),
        *(f"r4-{method}" for method in ("lora16", "lora8", "adapter", "prompt")),
    }  # fmt: skip


def test_every_preset_trains_and_is_loaded_again(
    data: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    """Presets that differ in the size of the checkpoint alone run once."""
    done: set[str] = set()
    for name in PRESETS:
        config = shrunk(name, tiny)
        settings = repr((asdict(config.captioner), asdict(config.train)))
        if settings in done:
            continue
        done.add(settings)
        said: list[str] = []
        with open_run(run=name, data=data, config=config, runs=tmp_path, say=said.append) as run:
            saved = train_captioner(run)
            captioner = fine_tuned(run)
            assert captioner is not None
            record = run.workspace.manifest("train-captioner")["record"]  # type: ignore[index]
        assert record["steps"] == 2, name
        assert record["stopped"] is None, name
        assert record["saved"] == saved.name
        assert any("weights learn" in line for line in said), name
        assert 0 < record["trainable"] <= record["total"]
    assert len(done) >= 14


@pytest.mark.parametrize("name", ["r2-clipcap-mlp", "r2-clipcap-transformer", "r5-blip-flickr30k"])
def test_presets_of_flickr_go_from_real_photos_to_the_report(
    name: str, shared: Path, tiny: dict[str, Path], tmp_path: Path
) -> None:
    found = read_flickr(shared / "flickr8k-sample").captions
    examples = tuple(e for e in found.examples if e.image is not None)[:12]
    cut = CaptionSet("flickr8k", examples).with_splits(
        ["train"] * 6 + ["validation"] * 2 + ["test"] * 4
    )
    cut.save(tmp_path / "captions.json")
    lay_out(tmp_path / "captions.json", tmp_path / "data")
    config = shrunk(name, tiny)
    score = replace(  # without METEOR: Java would take most of the time
        config.score, metrics=("bleu", "rouge-l", "cider-d"), encoder="hog", bootstrap=50
    )
    with open_run(
        run=name, data=tmp_path / "data", config=replace(config, score=score), runs=tmp_path,
        say=lambda _: None,
    ) as run:  # fmt: skip
        train_captioner(run)
        written = pl.read_parquet(caption_items(run))
        scores = pl.read_csv(score_captions(run))
        page = report(run).read_text(encoding="utf-8")
    assert 0 < written.height <= 12
    assert scores.filter(pl.col("metric") == "cider-d")["value"].is_not_null().all()
    assert set(scores["captioner"]) == {
        "fine-tuned", "pretrained", "most-frequent", "copy-nearest", "consensus"
    }  # fmt: skip
    assert "Learning curve" in page
    assert "Caption metrics on validation photos" in page


def test_a_published_rate_climbs_again_and_a_corrected_one_does_not() -> None:
    published = load_config("r3-facad-llava-1.5-13b-published")
    corrected = load_config("r3-facad-llava-1.5-13b")
    assert (published.train.schedule, published.train.learning_rate) == ("published", 5e-4)
    assert (corrected.train.schedule, corrected.train.learning_rate) == ("annealing", 1e-4)
    assert published.captioner == corrected.captioner == CaptionerConfig(
        "llava-1.5-13b", dtype="bfloat16"
    )  # fmt: skip
    assert published.train.max_tokens == corrected.train.max_tokens == 50


def test_a_preset_over_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(f"like: {tmp_path / 'b.yaml'}\n")
    (tmp_path / "b.yaml").write_text(f"like: {tmp_path / 'a.yaml'}\n")
    with pytest.raises(InputError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml")
