"""Scoring files that nothing else of fcr made."""

import json
from pathlib import Path

import polars as pl
import pytest
from PIL import Image

from caption import InputError as CaptionError
from pipelines import InputError
from pipelines.score_captions import score_files
from pipelines.workspace import packaged

HYPOTHESES = [
    {"image_id": 1, "caption": "a red dress with long sleeves"},
    {"image_id": 2, "caption": "slim blue jeans"},
    {"image_id": 3, "caption": ""},
]
TEXTS = {1: "A red dress, long sleeves.", 2: "Slim blue jeans", 3: "A hat", 4: "unused"}


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    hypotheses, references = tmp_path / "results.json", tmp_path / "annotations.json"
    hypotheses.write_text(json.dumps(HYPOTHESES))
    annotations = [{"id": i, "image_id": i, "caption": text} for i, text in TEXTS.items()]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in TEXTS]
    references.write_text(json.dumps({"images": images, "annotations": annotations}))
    return hypotheses, references


def test_coco_files_give_scores_items_and_reasons(files: tuple[Path, Path], tmp_path: Path) -> None:
    said: list[str] = []
    out = score_files(
        *files,
        out=tmp_path / "out",
        metrics=("bleu", "rouge-l", "cider-d", "verbatim", "spice"),
        say=said.append,
    )
    scores = json.loads(out.read_text())
    assert scores["rouge-l"]["value"] == pytest.approx((1 + scores_of(out, "rouge-l")[0] + 0) / 3)
    assert scores["rouge-l"]["low"] <= scores["rouge-l"]["value"] <= scores["rouge-l"]["high"]
    assert scores["bleu-4"]["low"] is None  # corpus BLEU is no mean of items
    assert "tok:" in scores["cider-d"]["signature"]
    assert "unavailable" in scores["verbatim"]
    assert "value" not in scores["verbatim"]
    assert any("1 items are left out" in line for line in said)
    frame = pl.read_parquet(tmp_path / "out/caption_scores.parquet")
    assert frame["article_id"].to_list() == ["1", "2", "3"]


def scores_of(out: Path, metric: str) -> list[float]:
    return pl.read_parquet(out.parent / "caption_scores.parquet")[metric].to_list()


def test_the_original_backend_says_the_same(files: tuple[Path, Path], tmp_path: Path) -> None:
    values = {}
    for backend in ("fcr", "pycocoevalcap"):
        out = score_files(
            *files,
            out=tmp_path / backend,
            metrics=("bleu", "rouge-l", "cider-d"),
            backend=backend,  # type: ignore[arg-type]
            say=lambda _: None,
        )
        values[backend] = {k: v["value"] for k, v in json.loads(out.read_text()).items()}
        assert backend in out.read_text()
    assert values["fcr"] == pytest.approx(values["pycocoevalcap"], abs=1e-9)


def test_photos_that_are_missing_are_counted(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FCR_CLIP", str(packaged("data", "demo", "clip")))
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("1", "2"):
        Image.new("RGB", (128, 192), "red").save(photos / f"{name}.jpg")
    said: list[str] = []
    out = score_files(
        *files, out=tmp_path / "out", metrics=("clipscore",), images=photos, say=said.append
    )
    assert any("1 of 3 items have no photo" in line and "e.g. 3" in line for line in said)
    assert json.loads(out.read_text())["clipscore"]["value"] > 0
    with pytest.raises(InputError, match="is no folder"):
        score_files(*files, out=tmp_path / "out", images=tmp_path / "nowhere")


def test_unknown_ids_and_metrics_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    files[0].write_text(json.dumps([*HYPOTHESES, {"image_id": 9, "caption": "a bag"}]))
    with pytest.raises(CaptionError, match="'9'"):
        score_files(*files, out=tmp_path / "out")
    files[0].write_text(json.dumps(HYPOTHESES))
    with pytest.raises(CaptionError, match="unknown metric 'blue'"):
        score_files(*files, out=tmp_path / "out", metrics=("blue",))
    assert not (tmp_path / "out").exists()
