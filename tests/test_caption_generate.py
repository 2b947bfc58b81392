"""Captions for a catalogue: complete, in order, resumable to the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from caption import InputError
from caption.captioners import Captioner, load_captioner
from caption.generate import GenerateResult, Item, caption_catalogue
from caption.images import open_image
from tests.tiny_blip import draw_photos, make_blip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A captioner whose captions depend on the photo and end at different lengths."""
    folder = make_blip(tmp_path_factory.mktemp("blip") / "tiny")
    captioner = load_captioner(folder, device="cpu")
    generator = torch.Generator().manual_seed(1)
    decoder = captioner.model.text_decoder
    with torch.no_grad():
        decoder.bert.embeddings.word_embeddings.weight *= 4
        decoder.bert.embeddings.position_embeddings.weight *= 4
        for layer in decoder.bert.encoder.layer:
            for part in (layer.crossattention.self.value, layer.crossattention.output.dense):
                part.weight += torch.randn(part.weight.shape, generator=generator)
    captioner.save(folder)
    return folder


@pytest.fixture
def captioner(folder: Path) -> Captioner:
    return load_captioner(folder, device="cpu")


@pytest.fixture(scope="module")
def items(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    drawn = draw_photos(tmp_path_factory.mktemp("photos"))
    return [(f"{n:03d}{id}", path) for n in range(3) for id, path, _ in drawn]


def run(captioner: Captioner, items: list[Item], out: Path, **more: object) -> GenerateResult:
    settings = {"batch_size": 4, "shard_size": 8, "max_new_tokens": 10, **more}
    return caption_catalogue(captioner, items, out, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("beams", [1, 2])
def test_every_item_gets_its_own_caption_in_order(
    captioner: Captioner, items: list[Item], tmp_path: Path, beams: int
) -> None:
    seen: list[int] = []
    result = run(
        captioner,
        items,
        tmp_path,
        beams=beams,
        label="mine",
        progress=lambda what, done, total: seen.append(done),
    )
    rows = pl.read_parquet(result.captions)
    assert rows.schema == {
        "article_id": pl.String, "caption": pl.String, "captioner": pl.String,
        "logprob": pl.Float64,
    }  # fmt: skip
    assert rows["article_id"].to_list() == [id for id, _ in items]
    assert rows["captioner"].unique().to_list() == ["mine"]
    for (_, photo), row in zip(items[:8], rows.iter_rows(named=True), strict=False):
        pixels = captioner.preprocess(open_image(photo))
        (alone,) = captioner.generate(pixels[None], beams=beams, max_new_tokens=10)
        assert row["caption"] == alone.text
        assert row["logprob"] == pytest.approx(alone.logprob, abs=1e-3)
    assert rows["caption"].n_unique() > 2
    assert (result.n_captions, result.n_skipped, result.n_reused) == (24, 0, 0)
    assert seen == list(range(4, 25, 4))


def test_workers_shards_and_a_second_call_change_no_byte(
    captioner: Captioner, items: list[Item], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    first = run(captioner, items, tmp_path / "a")
    assert torch.get_num_threads() == threads
    content = first.captions.read_bytes()
    for name, more in (("b", {"workers": 1}), ("c", {"shard_size": 5}), ("d", {"workers": 5})):
        assert run(captioner, items, tmp_path / name, **more).captions.read_bytes() == content
    again = run(captioner, items, tmp_path / "a")
    assert again.n_reused == 24
    assert again.captions.read_bytes() == content


KILLED = """
import sys, time
from pathlib import Path
from caption.captioners import load_captioner
from caption.generate import caption_catalogue
folder, out, *photos = sys.argv[1:]
items = [tuple(p.split("=", 1)) for p in photos]
caption_catalogue(load_captioner(folder, device="cpu"), [(i, Path(p)) for i, p in items], Path(out),
    batch_size=4, shard_size=8, max_new_tokens=10, label="x",
    progress=lambda what, done, total: time.sleep(0.3))
"""


def test_a_killed_run_ends_in_the_same_bytes(
    captioner: Captioner, folder: Path, items: list[Item], tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 half")
    items = [*items[:10], ("broken", tmp_path / "broken.jpg"), *items[10:]]
    whole = run(captioner, items, tmp_path / "whole", label="x")
    out = tmp_path / "killed"
    root = Path(__file__).resolve().parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(folder), str(out), *(f"{i}={p}" for i, p in items)],
        env={**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        deadline = time.monotonic() + 120
        while not list((out / "shards").glob("*.parquet")):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (out / "captions.parquet").exists()
    result = run(captioner, items, out, label="x")
    assert 0 < result.n_reused < len(items)
    assert result.captions.read_bytes() == whole.captions.read_bytes()
    assert result.skipped.read_bytes() == whole.skipped.read_bytes()
    assert pl.read_parquet(result.skipped)["article_id"].to_list() == ["broken"]
    assert not [p.name for p in out.rglob("*.tmp")]


def test_changed_inputs_are_not_answered_from_old_shards(
    captioner: Captioner, items: list[Item], tmp_path: Path
) -> None:
    first = run(captioner, items, tmp_path)
    old = {p.name for p in (tmp_path / "shards").iterdir()}
    assert run(captioner, items, tmp_path, beams=2).n_reused == 0
    assert not old & {p.name for p in (tmp_path / "shards").glob("*.parquet")}
    assert run(captioner, items, tmp_path, max_new_tokens=3).n_reused == 0
    run(captioner, items, tmp_path)
    # One more item at the end: only the last shard is new. Another order: all are.
    assert run(captioner, [*items, ("new", items[0][1])], tmp_path).n_reused == 24
    assert run(captioner, items[::-1], tmp_path).n_reused == 0
    run(captioner, items, tmp_path)
    os.utime(items[0][1], ns=(1, 1))  # a photo was replaced: it lies in every third of the list
    assert run(captioner, items, tmp_path).n_reused == 0
    # A shard cut short by a full disk is made again.
    shard = sorted((tmp_path / "shards").glob("*.parquet"))[1]
    shard.write_bytes(shard.read_bytes()[:100])
    again = run(captioner, items, tmp_path)
    assert again.n_reused == 16
    assert again.captions.read_bytes() == first.captions.read_bytes()
    with torch.no_grad():
        captioner.model.text_decoder.cls.predictions.bias[9] += 0.5
    assert run(captioner, items, tmp_path).n_reused == 0
    manifest = json.loads((tmp_path / "shards" / "manifest.json").read_text())
    assert manifest["captioner"] == captioner.fingerprint()


def test_unreadable_photos_and_empty_captions_are_skipped_with_a_reason(
    captioner: Captioner, items: list[Item], tmp_path: Path
) -> None:
    (tmp_path / "text.jpg").write_text("not a photo")
    mixed = [("gone", tmp_path / "gone.jpg"), *items[:6], ("text", tmp_path / "text.jpg")]
    result = run(captioner, mixed, tmp_path / "out")
    skipped = pl.read_parquet(result.skipped)
    assert skipped["article_id"].to_list() == ["gone", "text"]
    assert skipped["reason"][0] == "no such file"
    assert "cannot identify" in skipped["reason"][1]
    assert (result.n_captions, result.n_skipped) == (6, 2)
    text = captioner.model.config.text_config
    with torch.no_grad():
        captioner.model.text_decoder.cls.predictions.bias[text.sep_token_id] += 1e4
    silent = run(captioner, items, tmp_path / "silent")
    assert silent.n_captions == 0
    assert pl.read_parquet(silent.captions).columns == [
        "article_id", "caption", "captioner", "logprob",
    ]  # fmt: skip
    reasons = pl.read_parquet(silent.skipped)["reason"].unique().to_list()
    assert reasons == ["the captioner wrote nothing"]


def test_wrong_arguments_are_refused(
    captioner: Captioner, items: list[Item], tmp_path: Path
) -> None:
    for wrong, more in (
        (items, {"batch_size": 0}),
        (items, {"beams": 0}),
        ([], {}),
        ([items[0], items[0]], {}),
    ):
        with pytest.raises(InputError):
            run(captioner, wrong, tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


def test_a_failure_in_the_middle_keeps_what_was_finished(
    captioner: Captioner, items: list[Item], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(captioner, items, tmp_path / "whole")
    real = captioner.generate
    calls = iter(range(100))

    def generate(pixels: np.ndarray, **more: int) -> object:
        if next(calls) == 3:
            raise MemoryError("no room")
        return real(pixels, **more)

    monkeypatch.setattr(captioner, "generate", generate)
    with pytest.raises(MemoryError):
        run(captioner, items, tmp_path / "out", workers=1)
    monkeypatch.undo()
    result = run(captioner, items, tmp_path / "out")
    assert result.n_reused == 8
    assert result.captions.read_bytes() == whole.captions.read_bytes()
