"""Published figures: what they are, and that a run's stand beside them under one protocol only."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from caption.records import CaptionExample, CaptionSet
from pipelines.config import load_config
from pipelines.page import Page
from pipelines.published import (
    ANCHORS,
    ARTICLES,
    PURCHASES,
    THESIS,
    TRIALS,
    Protocol,
    Trial,
    differing,
    ranking_differing,
)
from pipelines.report_published import SAME, published_captions, published_ranking
from pipelines.results import read_results
from pipelines.run import open_run
from pipelines.workspace import write_json


def trial(system: str, **wanted: str) -> Trial:
    (found,) = (
        t
        for t in TRIALS
        if t.system == system and all(getattr(t, k) == v for k, v in wanted.items())
    )
    return found


def followed(one: Trial) -> Protocol:
    """What a run would record that did all of it."""
    config = asdict(load_config(one.preset))
    sections = {k: config[k] for k in ("captioner", "train", "generate", "reinforce")}
    return Protocol(one.dataset, one.split, one.sizes, sections, "ptb-jar-3.4.1")


def test_the_figures_are_the_published_ones() -> None:
    assert len({(t.system, t.line, t.dataset) for t in TRIALS}) == len(TRIALS) == 37
    assert trial("R1", preset="r1-facad-blip-3").figures["cider-d"] == 0.2592
    assert trial("R2", preset="r2-clipcap-mlp").figures == {"cider-d": 1.3029, "spice": 0.3134}
    llava = trial("R3", line="llava-1.5-7b, fine-tuned", dataset="hm").figures
    assert llava["attribute-mar"] == pytest.approx(0.713)
    blip = trial("R3", line="blip2-opt-2.7b, fine-tuned", dataset="hm").figures
    assert blip["cider-d"] == pytest.approx(2.752)
    assert trial("R3", line="SRFC").figures["category-accuracy"] == pytest.approx(0.182)
    assert trial("R4", preset="r4-lora8").figures["clipscore"] == 0.727
    assert trial("R5").sizes == (10_170, 1_271, 1_272)
    for each in TRIALS:
        assert all(0 <= v <= 3 for v in each.figures.values()), each
        if each.preset:
            load_config(each.preset)


@pytest.mark.parametrize(
    ("preset", "captioner"),
    [
        ("r1-facad-blip-1", "fine-tuned"),
        ("r1-facad-blip-4", "reinforced"),
        ("r3-hm-blip2-opt-2.7b-published", "pretrained"),
        ("r3-hm-llava-1.5-7b-published", "fine-tuned"),
        ("r5-blip-flickr30k", "fine-tuned"),
    ],
)
def test_a_run_that_did_the_same_compares(preset: str, captioner: str) -> None:
    one = next(t for t in TRIALS if (t.preset, t.captioner) == (preset, captioner))
    ours = followed(one)
    assert differing(one, ours) == []
    assert differing(one, replace(ours, dataset="demo"))[0].endswith("the drawn demo catalogue")
    (said,) = differing(one, replace(ours, split="leak-free"))
    assert said == f"split {one.split}, not leak-free"
    if one.sizes is not None:
        (said,) = differing(one, replace(ours, sizes=(1, 2, 3)))
        assert said.endswith("not 1/2/3")
    (said,) = differing(one, replace(ours, tokenizer="words"))
    assert "PTB" in said
    shorter = {**ours.config, "generate": {**ours.config["generate"], "max_new_tokens": 5}}
    (said,) = differing(one, replace(ours, config=shorter))
    assert said == "other generate.max_new_tokens"
    other = {**ours.config, "captioner": {**ours.config["captioner"], "checkpoint": "demo"}}
    (said,) = differing(one, replace(ours, config=other))
    assert said.endswith(", not demo")


def test_what_was_not_published_is_never_called_the_same() -> None:
    clipcap = trial("R2", preset="r2-clipcap-mlp")
    assert differing(clipcap, replace(followed(clipcap), split="random")) == ["split not published"]
    cnn = trial("R3", line="CNN-C")
    settings = followed(trial("R1", preset="r1-facad-blip-1"))
    assert "settings that no preset repeats" in differing(cnn, settings)
    plain = trial("R1", preset="r1-facad-blip-4")
    known = followed(plain)
    unpaid = {k: v for k, v in known.config.items() if k != "reinforce"}
    assert differing(plain, replace(known, config=unpaid)) == ["no reinforced captioner here"]


@pytest.mark.parametrize("preset", [THESIS, *dict.fromkeys(p for _, p, *_ in ANCHORS)])
def test_benchmarks_compare_with_the_runs_of_their_presets_alone(preset: str) -> None:
    config = asdict(load_config(preset))
    ours = {"recommend": config["recommend"], "experiment": config["experiment"]}
    assert ranking_differing(preset, ours, ARTICLES, PURCHASES) == []
    assert "whole tables" in ranking_differing(preset, ours, ARTICLES, PURCHASES - 1)[0]
    usual = {"recommend": asdict(load_config(None))["recommend"]}
    assert ranking_differing(preset, usual, ARTICLES, PURCHASES)
    others = {THESIS, "kaggle-hm", "relbench-rel-hm"} - {preset}
    for other in others:
        assert ranking_differing(other, ours, ARTICLES, PURCHASES)


def laid_out(folder: Path, sizes: tuple[int, int, int]) -> Path:
    """A prepared caption set with photos, as `fcr data prepare flickr30k --as-published` cuts."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    examples = []
    for part, n in zip(("train", "validation", "test"), sizes, strict=True):
        for i in range(n):
            photo = folder / f"{part}{i}.jpg"
            Image.fromarray(rng.integers(0, 255, (32, 24, 3), np.uint8)).save(photo)
            text = f"a {part} dog number {i}"
            examples.append(CaptionExample(f"{part}{i}", photo, (text,), split=part))
    CaptionSet("flickr30k", tuple(examples)).save(folder / "captions.json")
    write_json(
        folder / "manifest.json",
        {"config": {"dataset": "flickr30k"}, "record": {"protocol": {"split": "random"}}},
    )
    return folder / "captions.json"


def test_ours_stand_above_the_published_line_they_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run records what R5 did; only its line is called the same."""
    from pipelines.caption_data import with_captions

    config = load_config("r5-blip-flickr30k")
    file = laid_out(tmp_path / "set", (2, 1, 1))
    options = {"run": None, "data": None, "runs": tmp_path / "runs"}
    placed = with_captions(options, file)
    with open_run(
        run=placed["run"],
        data=placed["data"],
        runs=placed["runs"],
        config=config,
        say=lambda _: None,
    ) as run:
        parts = {"train": 10_170, "validation": 1_271, "test": 1_272}
        plain = asdict(config)
        trained = {k: plain[k] for k in ("captioner", "train")}
        with run.workspace.stage(
            "train-captioner", config=trained, inputs={}, seed=0, say=lambda _: None
        ) as stage:
            stage.record.update(sizes=parts, saved="model")
        scored = {"generate": plain["generate"]}
        with run.workspace.stage(
            "score-captions", config=scored, inputs={}, seed=0, say=lambda _: None
        ) as stage:
            (stage.folder / "fine-tuned").mkdir()
            score = {
                "value": 0.9,
                "low": 0.8,
                "high": 1.0,
                "signature": "cider-d|tok:ptb-jar-3.4.1",
            }
            write_json(stage.path("fine-tuned/scores.json"), {"cider-d": score})
            stage.record["captioner"] = "fine-tuned"
        page = Page(read_results(run.workspace), run.catalog(purchases=False), run)
        found = published_captions(page)
        assert found is not None
        assert found["same"] == 1
        rows = found["table"].rows
        assert rows[0][0] == "this run: fine-tuned"
        assert rows[0][3].value == 0.9
        assert rows[1][:3] == ["R5: BLIP-base", "Flickr30k", SAME]
        assert rows[1][3] == 1.17
        assert all(str(row[2]).startswith("no: ") for row in rows[2:])
        assert published_ranking(page) is None


def test_a_shop_of_h_and_m_s_size_stands_beside_the_thesis(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whole tables are not at hand: their size is said to be that of a drawn shop's."""
    from pipelines import published
    from pipelines.drawing import write_catalogue
    from pipelines.purchases import write_purchases
    from pipelines.recommend import recommend

    drawn = write_catalogue(tmp_path / "shop", 60, 3, workers=1)
    write_purchases(tmp_path / "shop", drawn.traits, n_customers=40, n_purchases=900, seed=3)
    config = load_config("kaggle-hm", ["recommend.bootstrap=50"])
    with open_run(
        run="k", data=tmp_path / "shop", runs=tmp_path / "runs", config=config, say=lambda _: None
    ) as run:
        recommend(run, models=["mostpop", "itemknn"])
        page = Page(read_results(run.workspace), run.catalog(), run)
        found = published_ranking(page)
        assert found is not None
        assert found["same"] == 0
        assert len(found["table"].rows) == 2 + found["lines"] == 2 + 25
        height = page.catalog.purchases.height
        monkeypatch.setattr(published, "ARTICLES", page.catalog.articles.height)
        monkeypatch.setattr(published, "PURCHASES", height)
        assert isinstance(page.catalog.purchases, pl.DataFrame)
        found = published_ranking(page)
        assert found is not None
        verdicts = {str(row[0]): str(row[2]) for row in found["table"].rows}
        assert verdicts["Kaggle H&M, winners (.036 to .038)"] == SAME
        assert verdicts["RelBench rel-hm, LightGBM"].startswith("no: first day of the test")
        assert found["same"] == 1
