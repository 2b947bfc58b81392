"""Stages after fine-tuning: a reward beside a control, attention maps, zero-shot accuracies."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from caption.adapt import AdaptConfig
from caption.audit import wilson
from caption.metrics.clipscore import load_clip
from caption.monitor import MonitorConfig
from caption.reinforce import ReinforceConfig
from caption.train import TrainConfig
from caption.zeroshot import zero_shot
from pipelines import InputError
from pipelines.caption_items import caption_items
from pipelines.config import (
    CaptionSplitConfig,
    Config,
    GenerateConfig,
    ScoreConfig,
    SeeingConfig,
    load_config,
)
from pipelines.reinforce import reinforce_captioner
from pipelines.report import report
from pipelines.run import Run, open_run
from pipelines.score_captions import score_captions
from pipelines.seeing import attention
from pipelines.seeing import zero_shot as classify
from pipelines.train_captioner import train_captioner
from pipelines.workspace import packaged

CONFIG = Config(
    captions=CaptionSplitConfig(validation=10, test=20),
    train=TrainConfig(AdaptConfig("lora"), steps=4, batch_size=8, evaluate_every=4),
    reinforce=ReinforceConfig(
        steps=2,
        batch_size=4,
        samples=2,
        max_tokens=20,
        min_count=3,
        evaluate_on=8,
        rewards={"als": 1.0, "truth": 0.5},
        monitor=MonitorConfig(action="warn"),
    ),
    generate=GenerateConfig(max_new_tokens=20),
    score=ScoreConfig(metrics=("rouge-l", "cider-d"), baselines=(), bootstrap=100),
    seeing=SeeingConfig(shown=2, extremes=1, zero_shot=60),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from pipelines.drawing import write_catalogue

    folder = tmp_path_factory.mktemp("shop")
    write_catalogue(folder, 90, 3, workers=1)
    return folder


@pytest.fixture(scope="module")
def run(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    said: list[str] = []
    with open_run(
        run="r", data=shop, config=CONFIG, runs=tmp_path_factory.mktemp("runs"), say=said.append
    ) as opened:
        for call in (reinforce_captioner, attention):
            with pytest.raises(InputError, match="call `fcr"):
                call(opened)
        train_captioner(opened)
        with pytest.raises(InputError, match="no reinforced captioner"):
            caption_items(opened, captioner="reinforced")
        yield opened


def test_a_reward_stands_beside_a_control(run: Run) -> None:
    model = reinforce_captioner(run)
    stage = model.parent
    assert (model / "model.safetensors").is_file()
    assert not {"captions", "photos"} & {p.name for p in stage.iterdir()}
    said = pl.read_parquet(stage / "captions.parquet")
    names = ["fine-tuned", "mle-control", "reinforced"]
    assert said["captioner"].unique(maintain_order=True).to_list() == names
    written = said.group_by("captioner").len()["len"].unique().to_list()
    found = json.loads((stage / "comparison.json").read_text())
    values = {(v["captioner"], v["measure"]): v["value"] for v in found["values"]}
    assert written == [found["n"]]
    assert 15 < found["n"] <= 20  # a photo of the drawn shop can't be read
    for name in names:
        parts = values[name, "als"] + 0.5 * values[name, "truth"]
        assert values[name, "reward"] == pytest.approx(parts)
        own = said.filter(pl.col("captioner") == name)["caption"]
        assert values[name, "words"] == pytest.approx(np.mean([len(t.split()) for t in own]))
        assert values[name, "truth"] == pytest.approx(
            values[name, "audit right"] - values[name, "audit contradicting"]
        )
    for d in found["differences"]:
        wanted = values[d["captioner"], d["measure"]] - values[d["against"], d["measure"]]
        assert d["difference"] == pytest.approx(wanted, abs=1e-9)
        assert d["low"] <= d["difference"] <= d["high"]
        assert d["p_adjusted"] >= d["p"]
    drawn = {s: (stage / s).read_text().count("train") for s in ("history.csv",)}
    assert drawn["history.csv"] == 2
    assert "train" not in (stage / "control/history.csv").read_text()  # it draws no captions
    reused: list[str] = []
    reinforce_captioner(replace(run, say=reused.append))
    assert "nothing changed, reused" in reused[0]


def test_the_reinforced_captioner_writes_and_is_scored_beside_the_others(run: Run) -> None:
    reinforce_captioner(run)
    captions = pl.read_parquet(caption_items(run, captioner="reinforced"))
    assert captions["captioner"].unique().to_list() == ["reinforced"]
    scores = pl.read_csv(score_captions(run))
    assert set(scores["captioner"]) == {"reinforced", "mle-control", "fine-tuned", "pretrained"}
    of_test = pl.read_parquet(run.folder / "reinforce-captioner/captions.parquet")
    both = captions.join(of_test.filter(pl.col("captioner") == "reinforced"), on="article_id")
    assert both.height > 15
    assert both["caption"].to_list() == both["caption_right"].to_list()


def test_attention_maps_are_drawn_for_random_best_and_worst(run: Run) -> None:
    caption_items(run, captioner="fine-tuned")
    path = attention(run)
    found = json.loads(path.read_text())
    assert found["captioner"] == "fine-tuned"
    assert [item["why"] for item in found["items"]] == ["drawn", "drawn", "best", "worst"]
    best, worst = (item["clipscore"] for item in found["items"][2:])
    assert all(worst <= item["clipscore"] <= best for item in found["items"])
    for item in found["items"]:
        assert [w["word"] for w in item["words"]] == item["caption"].split()
        for word in item["words"]:
            assert np.sum(word["map"]) == pytest.approx(1, abs=0.01)
            with Image.open(path.parent / word["file"]) as tile:
                assert tile.format == "JPEG"
                assert max(tile.size) <= 144
    assert path.read_bytes() == attention(run).read_bytes()


def test_zero_shot_accuracies_of_the_catalogue(run: Run) -> None:
    found = json.loads(classify(run).read_text())["fields"]
    assert set(found) == {
        "product_type_name", "colour_group_name", "graphical_appearance_name",
    }  # fmt: skip
    for field in found.values():
        for each in field["templates"]:
            assert 0 <= each["low"] <= each["value"] <= each["high"] <= 1
            assert each["value"] == each["right"] / each["n"]
    colours = found["colour_group_name"]
    assert colours["templates"][-1]["template"] == "all of them"
    assert max(t["value"] for t in colours["templates"]) > 2 * colours["commonest"]["value"]


def test_the_report_shows_them(run: Run) -> None:
    reinforce_captioner(run)
    caption_items(run)
    attention(run)
    classify(run)
    page = report(run).read_text()
    for text in ("Where it looked, word by word", "Highest CLIPScore", "Lowest CLIPScore",
                 "Zero-shot classification", "a photo of a {}", "mle-control"):  # fmt: skip
        assert text in page
    words = json.loads((run.folder / "attention/maps.json").read_text())["items"][0]["words"]
    assert page.count("Attention map of the word") >= len(words)
    assert len(page) < 3_000_000
    for name in ("reinforcement", "reinforcement-differences", "zero-shot"):
        assert (run.folder / f"report/tables/{name}.csv").is_file()
    assert (run.folder / "report/figures/reward-curve.svg").is_file()


def test_a_class_is_named_by_its_nearest_sentence() -> None:
    clip = load_clip(str(packaged("data", "demo", "clip")), "cpu")
    labels = ["Dress", "Skirt", "Trousers", "Dress"]
    photos = clip.texts([f"a photo of a {name.lower()}" for name in labels])
    found = zero_shot(clip, photos, labels, ["a photo of a {}"])
    assert found.classes == ("Dress", "Skirt", "Trousers")
    assert [a.value for a in found.accuracies] == [1.0, 1.0]
    assert (found.accuracies[0].low, found.accuracies[0].high) == wilson(4, 4)
    assert (found.commonest.template, found.commonest.right) == ("always Dress", 2)
    shifted = zero_shot(clip, photos, ["Skirt", "Trousers", "Dress", "Skirt"], ["a photo of a {}"])
    assert shifted.accuracies[0].value == 0
    with pytest.raises(Exception, match=r"expected sentences with one \{\}"):
        zero_shot(clip, photos, labels, ["a dress"])
    with pytest.raises(Exception, match="nothing to tell apart"):
        zero_shot(clip, photos[:1], ["Dress"], ["{}"])


def test_presets_of_the_reinforced_trials_differ_from_the_others_in_that_alone() -> None:
    for trial, paid in ((1, 2), (3, 4)):
        plain, reinforced = (load_config(f"r1-facad-blip-{n}") for n in (trial, paid))
        assert replace(reinforced, reinforce=plain.reinforce) == plain
        own = reinforced.reinforce
        assert dict(own.rewards) == {"als": 1.0, "sls": 1.0}
        assert (own.baseline, own.mle_weight) == ("mean", 1.0)
        assert own.adapt == plain.train.adapt
