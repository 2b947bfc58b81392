"""Fine-tuning: exact overfitting, cached encoder outputs, resume after a kill, diverging losses."""

import csv
import errno
import itertools
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from caption import InputError, training_data
from caption.adapt import AdaptConfig
from caption.captioners import Captioner, TextBatch, load_captioner
from caption.images import open_image
from caption.metrics import Score, score_captions
from caption.records import CaptionExample, CaptionSet
from caption.schedules import Schedule, learning_rate
from caption.sharding import shard
from caption.train import TrainConfig, split_words, train
from caption.training_data import Augmentation, TrainingData, UpdateOrder
from tests.tiny_blip import draw_photos, make_blip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("blip") / "tiny")


@pytest.fixture(scope="module")
def captions(tmp_path_factory: pytest.TempPathFactory) -> CaptionSet:
    drawn = draw_photos(tmp_path_factory.mktemp("photos"))
    return CaptionSet("drawn", tuple(CaptionExample(i, p, (t,)) for i, p, t in drawn))


@pytest.fixture
def captioner(folder: Path) -> Captioner:
    return load_captioner(folder, device="cpu")


def written(captioner: Captioner, captions: CaptionSet) -> list[str]:
    photos = [captioner.preprocess(open_image(e.image)) for e in captions.examples if e.image]
    return [g.text for g in captioner.generate(np.stack(photos), max_new_tokens=30)]


QUICK = TrainConfig(AdaptConfig("decoder"), steps=12, batch_size=4, evaluate_every=4, seed=1)


def test_a_tiny_captioner_learns_eight_photos_by_heart(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    config = TrainConfig(AdaptConfig("full"), steps=220, batch_size=8, learning_rate=4e-3)
    before = written(captioner, captions)
    result = train(captioner, captions, captions, tmp_path, config)
    texts = [e.captions[0] for e in captions.examples]
    assert before != texts
    assert written(captioner, captions) == texts
    assert written(load_captioner(result.saved, device="cpu"), captions) == texts
    assert result.best_loss < 0.05
    assert result.trainable == result.total
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "split", "loss"]
    assert [(int(r["step"]), r["split"], float(r["loss"])) for r in rows] == [
        (h.step, h.split, h.loss) for h in result.history
    ]
    assert rows[-1]["epoch"] == "220.0"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["history.csv", "model"]


def test_lora_trains_the_adapter_alone_and_merges(
    captioner: Captioner, folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    config = TrainConfig(AdaptConfig("lora"), steps=30, batch_size=8, learning_rate=1e-2)
    result = train(captioner, captions, captions, tmp_path, config)
    assert result.saved == tmp_path / "adapter"
    assert result.trainable < result.total / 2
    assert result.best_loss < result.history[0].loss - 0.5
    again = load_captioner(folder, adapter=result.saved, device="cpu")
    assert again.fingerprint() == captioner.fingerprint()
    start = load_captioner(folder, device="cpu").model.state_dict()
    now = captioner.model.state_dict()
    changed = {n.split(".")[0] for n in start if not torch.equal(start[n], now[n])}
    assert changed == {"text_decoder"}


def test_the_same_call_gives_the_same_bytes_cached_or_not(
    folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    """Encoder outputs computed once, or at every step: the same training."""
    torch.manual_seed(0)
    outs = []
    for name, cache in (("a", 1.0), ("b", 1.0), ("c", 0.0)):
        captioner = load_captioner(folder, device="cpu")
        state = torch.random.get_rng_state()
        config = replace(QUICK, cache_gb=cache, adapt=AdaptConfig("lora"))
        result = train(captioner, captions, captions, tmp_path / name, config)
        assert torch.equal(torch.random.get_rng_state(), state), "the caller's generator moved"
        assert (result.cached_mb > 0) == (cache > 0)
        outs.append((captioner.fingerprint(), result))
        torch.rand(3)
    assert outs[0][0] == outs[1][0]
    assert outs[0][1].history == outs[1][1].history
    np.testing.assert_allclose(
        [h.loss for h in outs[0][1].history], [h.loss for h in outs[2][1].history], rtol=1e-4
    )


def test_parts_of_a_batch_add_up(folder: Path, captions: CaptionSet, tmp_path: Path) -> None:
    losses = []
    for parts in (1, 3):
        captioner = load_captioner(folder, device="cpu")
        config = replace(QUICK, accumulate=parts)
        losses.append(
            [h.loss for h in train(captioner, captions, captions, tmp_path, config).history]
        )
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-3)


def test_encoder_layers_learn_with_the_decoder(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    before = {n: p.clone() for n, p in captioner.model.vision_model.named_parameters()}
    config = replace(QUICK, adapt=AdaptConfig("decoder", encoder_layers=1))
    train(captioner, captions, captions, tmp_path, config)
    moved = [
        n for n, p in captioner.model.vision_model.named_parameters()
        if not torch.equal(p, before[n])
    ]  # fmt: skip
    assert moved
    assert all(n.startswith("encoder.layers.1.") for n in moved)


KILLED = """
import sys
from pathlib import Path
from caption.captioners import load_captioner
from caption.records import CaptionSet
from caption.train import TrainConfig, train
from caption.adapt import AdaptConfig
import time
folder, data, out = map(Path, sys.argv[1:])
captions = CaptionSet.load(data)
def slow(what, done, total):
    if what.startswith("training"):
        time.sleep(0.05)
config = TrainConfig(AdaptConfig("lora"), steps=40, batch_size=4, evaluate_every=4, seed=1)
train(load_captioner(folder, device="cpu"), captions, captions, out, config, slow)
"""


def test_a_killed_run_goes_on_along_the_same_curve(
    folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    config = TrainConfig(AdaptConfig("lora"), steps=40, batch_size=4, evaluate_every=4, seed=1)
    whole = load_captioner(folder, device="cpu")
    expected = train(whole, captions, captions, tmp_path / "whole", config)
    captions.save(tmp_path / "set.json")
    out = tmp_path / "killed"
    root = Path(__file__).resolve().parents[1]
    command = [sys.executable, "-c", KILLED, str(folder), str(tmp_path / "set.json"), str(out)]
    environment = {**os.environ, "PYTHONPATH": str(root), "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(command, env=environment)
    history = out / "history.csv"
    try:
        deadline = time.monotonic() + 120
        while not (history.is_file() and len(history.read_text().splitlines()) >= 6):
            assert process.poll() is None, "the run ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    captioner = load_captioner(folder, device="cpu")
    result = train(captioner, captions, captions, out, config)
    assert 0 < result.resumed_from < 40
    assert result.history == expected.history
    assert captioner.fingerprint() == whole.fingerprint()
    assert history.read_bytes() == (tmp_path / "whole" / "history.csv").read_bytes()


def test_a_checkpoint_of_other_settings_is_not_continued(
    folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(load_captioner(folder, device="cpu"), captions, captions, tmp_path, QUICK, stop)
    for config, start in ((replace(QUICK, learning_rate=1e-4), 0), (QUICK, 0)):
        captioner = load_captioner(folder, device="cpu")
        assert train(captioner, captions, captions, tmp_path, config).resumed_from == start
    with pytest.raises(KeyboardInterrupt):
        train(load_captioner(folder, device="cpu"), captions, captions, tmp_path, QUICK, stop)
    captioner = load_captioner(folder, device="cpu")
    assert train(captioner, captions, captions, tmp_path, QUICK).resumed_from == 8
    with pytest.raises(KeyboardInterrupt):
        train(load_captioner(folder, device="cpu"), captions, captions, tmp_path, QUICK, stop)
    weights = tmp_path / "checkpoints" / "checkpoint-8" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    captioner = load_captioner(folder, device="cpu")
    assert train(captioner, captions, captions, tmp_path, QUICK).resumed_from == 0
    assert not (tmp_path / "checkpoints").exists()


def test_a_checkpoint_holds_what_learns_and_nothing_that_runs_code(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(captioner, captions, captions, tmp_path, QUICK, stop)
    folder = tmp_path / "checkpoints" / "checkpoint-8"
    assert {p.name for p in folder.iterdir()} == {
        "model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json", "whole.json"
    }  # fmt: skip
    for name in ("optimizer.pt", "scheduler.pt"):
        torch.load(folder / name, weights_only=True)
    held = load_file(folder / "model.safetensors")
    decoder = captioner.model.text_decoder
    assert sum(t.numel() for t in held.values()) == sum(p.numel() for p in decoder.parameters())


def test_a_diverging_loss_stops_and_keeps_the_best_weights(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = captioner.loss
    calls = {"training": 0}

    def loss(features: torch.Tensor, batch: object) -> torch.Tensor:
        value: torch.Tensor = real(features, batch)  # type: ignore[arg-type]
        if captioner.model.training:
            calls["training"] += 1
            if calls["training"] == 7:
                return value * math.nan
        return value

    monkeypatch.setattr(captioner, "loss", loss)
    result = train(captioner, captions, captions, tmp_path, QUICK)
    assert result.stopped is not None
    assert "nan in step 7" in result.stopped
    assert result.steps == 6
    assert result.best_step == 4
    assert all(torch.isfinite(p).all() for p in captioner.model.parameters())
    again = load_captioner(result.saved, device="cpu")
    assert again.fingerprint() == captioner.fingerprint()


def test_captions_are_scored_while_training_and_the_best_are_kept(
    folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    """The kept weights are those of the highest CIDEr-D, and stand still afterwards."""
    config = TrainConfig(
        AdaptConfig("full"), steps=160, batch_size=8, learning_rate=4e-3, evaluate_every=40,
        generate=8, keep="cider-d", patience=2,
    )  # fmt: skip
    captioner = load_captioner(folder, device="cpu")
    result = train(captioner, captions, captions, tmp_path, config)
    by_step = {m.step: m.value for m in result.metrics if m.metric == "cider-d"}
    assert {m.metric for m in result.metrics} == {"bleu-4", "cider-d", "rouge-l"}
    assert result.best_step == max(by_step, key=lambda step: by_step[step])
    assert by_step[result.best_step] > by_step[0] + 1
    now = written(captioner, captions)
    references = {e.id: list(e.captions) for e in captions.examples}
    scores = score_captions(
        dict(zip(references, now, strict=True)), references, ("cider-d",), tokenizer="python"
    )
    assert isinstance(scores["cider-d"], Score)
    assert scores["cider-d"].value == pytest.approx(by_step[result.best_step])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "epoch", "split", "metric", "value"]
    assert len(rows) == len(result.metrics)


def test_patience_ends_a_run_that_gets_no_better(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    """A rate far too high only harms: two evaluations after the first, the run ends."""
    config = replace(QUICK, steps=40, learning_rate=3.0, warmup=0.0, clip=1e9, patience=2)
    before = captioner.fingerprint()
    result = train(captioner, captions, captions, tmp_path, config)
    losses = [h.loss for h in result.history if h.split == "validation"]
    assert result.best_loss == min(losses)
    assert result.steps == result.best_step + 2 * 4 < 40
    assert (captioner.fingerprint() == before) == (result.best_step == 0)


def test_augmented_photos_differ_each_step_and_the_same_after_a_restart(
    folder: Path, captions: CaptionSet, tmp_path: Path
) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if what.startswith("training") and done == 7:
            raise KeyboardInterrupt

    config = replace(QUICK, flip=0.5, colour_jitter=0.4)
    said: list[str] = []
    first = load_captioner(folder, device="cpu")
    whole = train(first, captions, captions, tmp_path / "whole", config, None, said.append)
    assert said[0].startswith(f"{whole.trainable:,} of {whole.total:,} weights learn")
    assert any("not cached" in line for line in said)
    plain = train(
        load_captioner(folder, device="cpu"), captions, captions, tmp_path / "plain", QUICK
    )
    assert [h.loss for h in plain.history[1:]] != [h.loss for h in whole.history[1:]]
    with pytest.raises(KeyboardInterrupt):
        killed = load_captioner(folder, device="cpu")
        train(killed, captions, captions, tmp_path / "killed", config, stop)
    second = load_captioner(folder, device="cpu")
    resumed = train(second, captions, captions, tmp_path / "killed", config)
    assert resumed.resumed_from == 4
    assert resumed.history == whole.history
    assert second.fingerprint() == first.fingerprint()


def test_an_augmented_photo_is_mirrored_or_recoloured() -> None:
    drawn = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    image = Image.fromarray(drawn)
    rng = np.random.default_rng(1)
    assert (np.asarray(Augmentation(1.0, 0.0)(image, rng)) == drawn[:, ::-1]).all()
    assert (np.asarray(Augmentation(0.0, 0.0)(image, rng)) == drawn).all()
    recoloured = np.asarray(Augmentation(0.0, 0.5)(image, rng))
    assert recoloured.shape == drawn.shape
    assert (recoloured != drawn).mean() > 0.5


def short_of_memory(captioner: Captioner, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the device take at most `most` captions at once while training."""
    real = captioner.loss

    def loss(features: torch.Tensor, batch: TextBatch) -> torch.Tensor:
        if captioner.model.training and len(batch.labels) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return real(features, batch)

    monkeypatch.setattr(captioner, "loss", loss)


def test_short_of_memory_the_batch_is_halved_once(
    folder: Path, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(
        load_captioner(folder, device="cpu"), captions, captions, tmp_path / "all", QUICK
    )
    captioner, said = load_captioner(folder, device="cpu"), []
    short_of_memory(captioner, 2, monkeypatch)
    result = train(captioner, captions, captions, tmp_path / "half", QUICK, None, said.append)
    assert "out of memory with 4 captions at once: going on" in " ".join(said)
    np.testing.assert_allclose(
        [h.loss for h in result.history], [h.loss for h in expected.history], rtol=1e-3
    )
    short_of_memory(captioner := load_captioner(folder, device="cpu"), 1, monkeypatch)
    with pytest.raises(InputError, match=r"1 would fit: set train.accumulate=4"):
        train(captioner, captions, captions, tmp_path / "quarter", QUICK)
    short_of_memory(captioner := load_captioner(folder, device="cpu"), 0, monkeypatch)
    with pytest.raises(InputError, match="fewer do not help"):
        train(captioner, captions, captions, tmp_path / "none", QUICK)


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sqrt has an infinite slope at 0: the loss is finite, its gradient is not."""
    real = captioner.loss

    def loss(features: torch.Tensor, batch: TextBatch) -> torch.Tensor:
        value: torch.Tensor = real(features, batch)
        return value + torch.sqrt(value - value) if captioner.model.training else value

    monkeypatch.setattr(captioner, "loss", loss)
    before = captioner.fingerprint()
    result = train(captioner, captions, captions, tmp_path, QUICK)
    assert result.stopped is not None
    assert "the gradient became nan in step 1 (photos" in result.stopped
    assert captioner.fingerprint() == before


def test_epochs_are_a_budget_and_each_is_evaluated(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    config = replace(QUICK, epochs=2.0, evaluate_every=0)
    result = train(captioner, captions, captions, tmp_path, config)
    assert result.steps == 4
    points = [(h.step, h.epoch) for h in result.history if h.split == "validation"]
    assert points == [(0, 0.0), (2, 1.0), (4, 2.0)]


def test_tensorboard_and_energy_on_request(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard", reason="package tensorboard")
    pytest.importorskip("codecarbon", reason="package codecarbon")
    config = replace(QUICK, tensorboard=True, country="NOR")
    result = train(captioner, captions, captions, tmp_path, config)
    assert next((tmp_path / "tensorboard").iterdir()).stat().st_size > 0
    assert result.energy_kwh is not None
    assert result.energy_kwh > 0
    assert result.co2_kg is not None


def test_unreadable_photos_are_left_out_and_reported(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    broken = CaptionExample("broken", tmp_path / "broken.jpg", ("a shirt",))
    with_broken = CaptionSet("x", (broken, *captions.examples))
    result = train(captioner, with_broken, captions, tmp_path / "out", QUICK)
    assert [id for id, _ in result.skipped] == ["broken"]
    with pytest.raises(InputError, match="none of its photos"):
        train(captioner, CaptionSet("y", (broken,)), captions, tmp_path / "out", QUICK)


class Seen:
    """How many photos each captioner's encoder was shown."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.photos: Counter[int] = Counter()
        encode = training_data.encoded

        def counted(captioner: Captioner, pixels: torch.Tensor) -> torch.Tensor:
            self.photos[id(captioner)] += len(pixels)
            return encode(captioner, pixels)

        monkeypatch.setattr(training_data, "encoded", counted)
        monkeypatch.setattr(training_data, "CHUNK", 3)


def reading(
    captioner: Captioner, captions: CaptionSet, folder: Path, **changes: Any
) -> TrainingData:
    settings: dict[str, Any] = {
        "folder": folder, "network": captioner.fingerprint(), "encode": True, "limit": 1e9,
        "max_tokens": 20, "workers": 1, "seed": 0, "augmentation": None,
        "progress": lambda *_: None, **changes,
    }  # fmt: skip
    return TrainingData(captioner, captions, **settings)


def test_processes_read_a_part_of_the_photos_each(
    folder: Path, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """... and hold the same as one that reads them all; one whose peer is silent goes on alone."""
    seen = Seen(monkeypatch)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    broken = CaptionExample("broken", tmp_path / "broken.jpg", ("a shirt",))
    captions = CaptionSet("x", (*captions.examples[:4], broken, *captions.examples[4:]))
    two = [load_captioner(folder, device="cpu") for _ in range(3)]
    alone = reading(two[2], captions, tmp_path / "alone")
    with ThreadPoolExecutor(2) as pool:
        shared = list(
            pool.map(
                lambda rank: reading(two[rank], captions, tmp_path / "two", share=(rank, 2)), (0, 1)
            )
        )
    assert [seen.photos[id(c)] for c in two] == [6, 2, 8]
    for data in shared:
        assert data.ids == alone.ids
        assert data.skipped == alone.skipped == [("broken", data.skipped[0][1])]
        rows = range(len(data))
        for name, values in data.batch(rows).items():
            assert torch.equal(values, alone.batch(rows)[name])
    monkeypatch.setattr(training_data, "PATIENCE", 0.3)
    deserted = reading(two[0], captions, tmp_path / "deserted", share=(0, 2))
    assert seen.photos[id(two[0])] == 6 + 8
    assert torch.equal(deserted.batch([7])["features"], alone.batch([7])["features"])


def test_photos_read_before_a_kill_are_not_read_again(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)

    def stop(what: str, done: int, total: int) -> None:
        assert (what, total) == ("reading photos", 8)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        reading(captioner, captions, tmp_path / "photos", progress=stop)
    assert seen.photos.total() == 6
    whole = reading(captioner, captions, tmp_path / "photos")
    assert seen.photos.total() == 8
    before = whole.batch(range(8))["features"]
    damaged = sorted((tmp_path / "photos").iterdir())[0]
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)
    again = reading(captioner, captions, tmp_path / "photos")
    assert 8 < seen.photos.total() <= 11, "the damaged piece alone is made again"
    assert torch.equal(again.batch(range(8))["features"], before)
    changed = captions.examples[0].image
    assert changed is not None
    os.utime(changed, (1, 1))
    reading(captioner, captions, tmp_path / "photos")
    assert 8 + 2 + 2 <= seen.photos.total() <= 8 + 3 + 3, "and one of another photo"
    half = reading(captioner, captions, tmp_path / "photos", limit=before.nbytes * 0.75)
    assert half.cached_mb == before.nbytes / 2e6
    np.testing.assert_allclose(half.batch(range(8))["features"], before, atol=2e-3)
    count = seen.photos.total()
    none = reading(captioner, captions, tmp_path / "photos", limit=before.nbytes * 0.25)
    assert none.stored is None
    assert seen.photos.total() == count + 3, "what will not fit is not encoded to the end"


def test_a_photo_that_goes_while_it_is_read_is_not_remembered_as_unreadable(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Seen(monkeypatch)
    moved = tuple(
        replace(e, image=Path(shutil.copy2(e.image, tmp_path)))
        for e in captions.examples
        if e.image
    )
    captions = CaptionSet("moved", moved)
    victim = moved[4].image
    assert victim is not None
    usual = training_data.prepared_images

    def vanishing(*arguments: Any, **options: Any) -> Any:
        victim.rename(tmp_path / "away")
        return usual(*arguments, **options)

    monkeypatch.setattr(training_data, "prepared_images", vanishing)
    without = reading(captioner, captions, tmp_path / "photos")
    assert [id for id, _ in without.skipped] == [moved[4].id]
    assert without.batch(range(7))["features"].shape[0] == 7
    monkeypatch.setattr(training_data, "prepared_images", usual)
    (tmp_path / "away").rename(victim)
    assert reading(captioner, captions, tmp_path / "photos").skipped == []


def test_a_full_disk_costs_memory_and_not_the_training(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Seen(monkeypatch)
    whole = reading(captioner, captions, tmp_path / "photos")
    write, written = training_data.write_atomically, []

    def full(path: Path, content: bytes) -> None:
        if len(written) == 1:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        written.append(path)
        write(path, content)

    monkeypatch.setattr(training_data, "write_atomically", full)
    short = reading(captioner, captions, tmp_path / "short")
    assert len(list((tmp_path / "short").iterdir())) == 1
    assert seen.photos.total() == 16
    assert torch.equal(short.batch(range(8))["features"], whole.batch(range(8))["features"])


def test_new_words_are_learned_and_saved(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path
) -> None:
    more = tuple(
        replace(e, captions=(f"{e.captions[0]} in corduroy" + " and tulle" * (i < 2),))
        for i, e in enumerate(captions.examples)
    )
    more_set = CaptionSet("words", more)
    texts = [e.captions[0] for e in more]
    assert split_words(captioner, texts, 5, 2) == ("corduroy", "and", "tulle")
    assert split_words(captioner, texts, 1, 2) == ("corduroy",)
    config = replace(QUICK, extend_vocabulary=5, extend_min_count=3)
    result = train(captioner, more_set, more_set, tmp_path, config)
    assert result.words_added == ("corduroy",)
    again = load_captioner(result.saved, device="cpu")
    assert again.tokenizer.tokenize("in corduroy")[-1] == "corduroy"
    assert again.fingerprint() == captioner.fingerprint()
    with pytest.raises(InputError, match="leaves the embeddings"):
        train(captioner, more_set, more_set, tmp_path, replace(config, adapt=AdaptConfig("lora")))


def rates(schedule: Schedule, steps: int = 100, warmup: float = 0.1) -> list[float]:
    return [
        learning_rate(
            s, schedule=schedule, steps=steps, peak=2.0, floor=0.5, warmup=warmup, period=40
        )
        for s in range(steps + 1)
    ]


def test_the_rate_climbs_then_falls_along_a_cosine() -> None:
    found = rates("cosine")
    assert found[0] == pytest.approx(0.2)
    assert found[9] == found[10] == pytest.approx(2.0)
    assert found[55] == pytest.approx(1.25)  # half of the cosine
    assert all(a >= b for a, b in itertools.pairwise(found[10:]))
    assert found[100] == pytest.approx(0.5)


def test_annealing_stays_at_its_floor_and_the_published_one_climbs_again() -> None:
    """The published one against torch's CosineAnnealingLR, whose formula it is."""
    annealed, published = rates("annealing", warmup=0), rates("published", warmup=0)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40, eta_min=0.5)
    expected = []
    for _ in range(101):
        expected.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(published, expected, rtol=1e-6)
    assert annealed[:41] == published[:41]
    assert set(annealed[40:]) == {0.5}
    assert published[80] == pytest.approx(2.0)


def test_linear_and_constant_rates_and_a_warm_up_in_steps() -> None:
    assert rates("linear", warmup=0)[50] == pytest.approx(1.25)
    assert set(rates("constant", warmup=5)[5:]) == {2.0}
    assert rates("constant", warmup=5)[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])


def test_every_epoch_sees_every_row_once() -> None:
    order = UpdateOrder(10, steps=5, batch_size=4, seed=0)
    seen = np.concatenate([order.rows(step) for step in range(5)])
    assert sorted(seen[:10].tolist()) == sorted(seen[10:].tolist()) == list(range(10))
    assert seen[:10].tolist() != seen[10:].tolist()


def test_parts_and_processes_share_one_update() -> None:
    """The same captions however many parts and processes compute an update."""
    whole = list(UpdateOrder(10, steps=3, batch_size=7, seed=3))
    for parts, processes in ((3, 1), (1, 2), (2, 3)):
        shares = [
            list(
                UpdateOrder(
                    10, steps=3, batch_size=7, seed=3, parts=parts, rank=r, processes=processes
                )
            )
            for r in range(processes)
        ]
        assert all(len(share) == 3 * parts for share in shares)
        for step, expected in enumerate(whole):
            own = [p for s in shares for part in s[step * parts : (step + 1) * parts] for p in part]
            assert sorted(own) == expected


def test_what_cannot_be_kept_in_parts(
    folder: Path, captions: CaptionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InputError, match="names no layers"):
        shard(torch.nn.Linear(2, 2), torch.device("cpu"))
    captioner = load_captioner(str(folder))
    monkeypatch.setattr(captioner, "quantize", "4bit")
    with pytest.raises(InputError, match="small already"):
        train(captioner, captions, captions, tmp_path, TrainConfig(fsdp=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch_size": 0},
        {"warmup": -0.5},
        {"learning_rate": 0.0},
        {"flip": 2.0},
        {"min_learning_rate": 1.0},
        {"accumulate": 5},
        {"keep": "cider-d"},
    ],
)
def test_settings_that_cannot_work(
    captioner: Captioner, captions: CaptionSet, tmp_path: Path, wrong: dict[str, float]
) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        train(captioner, captions, captions, tmp_path, replace(QUICK, **wrong))  # type: ignore[arg-type]
