"""What every captioner promises: batches, save and load, adapters, masked losses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from caption import InputError
from caption.adapt import AdaptConfig, adapt, merge, save_adapter
from caption.captioners import IGNORED, Captioner, TextBatch, load_captioner, tidy
from tests.tiny_blip import make_blip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_blip(tmp_path_factory.mktemp("blip") / "tiny")


@pytest.fixture
def captioner(folder: Path) -> Captioner:
    return load_captioner(folder, device="cpu")


def pixels(n: int = 9) -> np.ndarray:
    return np.random.default_rng(5).normal(size=(n, 3, 32, 16)).astype(np.float32)


def uneven(captioner: Captioner) -> None:
    """Make an untrained captioner look at the photo, and end captions at different lengths."""
    text = captioner.model.config.text_config
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        decoder = captioner.model.text_decoder
        decoder.cls.predictions.bias[text.sep_token_id] += 1
        decoder.bert.embeddings.word_embeddings.weight *= 4
        decoder.bert.embeddings.position_embeddings.weight *= 4
        for layer in decoder.bert.encoder.layer:
            for part in (layer.crossattention.self.value, layer.crossattention.output.dense):
                part.weight += torch.randn(part.weight.shape, generator=generator) * 0.4


def test_preprocessing_is_the_checkpoints_own(captioner: Captioner) -> None:
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (50, 41, 3), dtype=np.uint8))
    ours = captioner.preprocess(picture)
    theirs = captioner.processor.image_processor(picture, return_tensors="np")["pixel_values"][0]  # type: ignore[attr-defined]
    assert ours.shape == (3, 32, 16)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs, atol=2e-6)


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_transformers_generate(captioner: Captioner, beams: int) -> None:
    uneven(captioner)
    ours = captioner.generate(pixels(), beams=beams, max_new_tokens=12)
    sequences = captioner.model.generate(
        pixel_values=torch.from_numpy(pixels()), num_beams=beams, max_new_tokens=12, do_sample=False
    )
    theirs = captioner.tokenizer.batch_decode(sequences, skip_special_tokens=True)
    assert [g.text for g in ours] == [tidy(t) for t in theirs]
    lengths = {len(t) for t in theirs}
    assert len(lengths) > 2, "the case has to hold captions of different lengths"


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_does_not_depend_on_its_batch(captioner: Captioner, beams: int) -> None:
    uneven(captioner)
    together = captioner.generate(pixels(), beams=beams, max_new_tokens=12)
    alone = [captioner.generate(p[None], beams=beams, max_new_tokens=12)[0] for p in pixels()]
    assert [g.text for g in together] == [g.text for g in alone]
    np.testing.assert_allclose([g.logprob for g in together], [g.logprob for g in alone], atol=1e-4)
    assert together == captioner.generate(pixels(), beams=beams, max_new_tokens=12)


@pytest.mark.parametrize("beams", [1, 3])
def test_logprob_is_that_of_the_sentence(captioner: Captioner, beams: int) -> None:
    """Against the training loss of the same tokens: -log p = mean cross-entropy x tokens."""
    uneven(captioner)
    text = captioner.model.config.text_config
    with torch.inference_mode():
        for p in pixels(4):
            features = captioner.encode_images(torch.from_numpy(p[None]))
            (new,) = captioner.decode(features, beams=beams, max_new_tokens=12)
            sequence = captioner.model.generate(
                pixel_values=torch.from_numpy(p[None]), num_beams=beams, max_new_tokens=12
            )
            if sequence[0, -1] != text.sep_token_id:
                continue
            ended = torch.full((1, 1), IGNORED)
            batch = TextBatch(sequence, torch.cat([sequence[:, 1:], ended], 1))
            loss = captioner.loss(features, batch)
            assert new.logprob == pytest.approx(-float(loss) * (sequence.shape[1] - 1), abs=1e-3)


def test_pads_do_not_count_in_the_loss(captioner: Captioner) -> None:
    features = captioner.encode_images(torch.from_numpy(pixels(2)))
    rows = captioner.text_rows(["a red t-shirt with long sleeves", "a dress"], 40)
    batch = captioner.text_batch(rows)
    text = captioner.model.config.text_config
    padded = batch.input_ids == text.pad_token_id
    assert padded[1].any()
    assert (batch.labels[padded] == IGNORED).all()
    assert (batch.input_ids[:, 0] == text.bos_token_id).all()
    changed = batch.input_ids.clone()
    changed[padded] = 77
    loss = captioner.loss(features, batch)
    assert torch.equal(captioner.loss(features, TextBatch(changed, batch.labels)), loss)
    changed[0, 1] = 77
    assert not torch.equal(captioner.loss(features, TextBatch(changed, batch.labels)), loss)
    # Unpadded, one by one, weighted by their tokens, the loss is the same.
    loss = loss.detach()
    alone = [
        captioner.loss(features[i : i + 1], captioner.text_batch([rows[i]])).detach()
        for i in (0, 1)
    ]
    tokens = [len(r.ids) - 1 for r in rows]
    mean = sum(float(a) * t for a, t in zip(alone, tokens, strict=True)) / sum(tokens)
    assert float(loss) == pytest.approx(mean, abs=1e-5)


def test_a_cut_caption_is_not_taught_to_end(captioner: Captioner) -> None:
    long, short = captioner.text_rows(["a red dress with long sleeves", "a dress"], 5)
    sep = captioner.model.config.text_config.sep_token_id
    assert long.cut
    assert len(long.ids) == 5
    assert sep not in long.ids
    assert not short.cut
    assert short.ids[-1] == short.labels[-1] == sep


def test_save_and_load_change_nothing(captioner: Captioner, tmp_path: Path) -> None:
    uneven(captioner)
    captioner.save(tmp_path / "saved")
    again = load_captioner(tmp_path / "saved", device="cpu")
    assert again.fingerprint() == captioner.fingerprint()
    for beams in (1, 3):
        assert again.generate(pixels(), beams=beams) == captioner.generate(pixels(), beams=beams)
    captioner.save(tmp_path / "saved")  # replaces
    assert sorted(p.name for p in tmp_path.iterdir()) == ["saved"]


def test_new_words_start_as_the_mean_of_their_pieces_and_are_saved(
    captioner: Captioner, tmp_path: Path
) -> None:
    assert len(captioner.tokenizer.tokenize("linen")) == 5
    pieces = captioner.tokenizer("linen", add_special_tokens=False).input_ids
    before = captioner.model.text_decoder.get_input_embeddings().weight[pieces].mean(0).detach()
    captioner.add_words(["linen", "knit"])
    captioner.save(tmp_path / "more")
    again = load_captioner(tmp_path / "more", device="cpu")
    for c in (captioner, again):
        assert c.tokenizer.tokenize("A Linen knit, linens")[:4] == ["a", "linen", "knit", ","]
        ids = c.tokenizer("a linen shirt, knit", add_special_tokens=False).input_ids
        assert tidy(c.tokenizer.decode(ids)) == "a linen shirt, knit"
        (new,) = c.tokenizer("linen", add_special_tokens=False).input_ids
        torch.testing.assert_close(c.model.text_decoder.get_input_embeddings().weight[new], before)
        head = c.model.text_decoder.cls.predictions.decoder.weight
        assert head.data_ptr() == c.model.text_decoder.get_input_embeddings().weight.data_ptr()
    assert again.fingerprint() == captioner.fingerprint()


@pytest.mark.parametrize(
    ("config", "learns", "frozen"),
    [
        (AdaptConfig("full"), {"vision_model", "text_decoder"}, False),
        (AdaptConfig("decoder"), {"text_decoder"}, True),
        (AdaptConfig("decoder", encoder_layers=1), {"vision_model", "text_decoder"}, False),
        (AdaptConfig("lora"), {"text_decoder"}, True),
        (AdaptConfig("lora", encoder_layers=1), {"vision_model", "text_decoder"}, False),
    ],
)
def test_what_learns(
    captioner: Captioner, config: AdaptConfig, learns: set[str], frozen: bool
) -> None:
    adaptation = adapt(captioner, config)
    names = [n for n, p in captioner.model.named_parameters() if p.requires_grad]
    assert {n.split(".")[0] for n in names} == learns
    assert adaptation.encoder_frozen == frozen
    assert not [n for n in names if "encoder.layers.0" in n and config.method != "full"]
    if config.method == "lora":
        assert all("lora_" in n for n in names)
        # rank x (inputs + outputs) of every adapted layer, of which each has an A and a B
        assert adaptation.trainable == sum(
            p.numel() for n, p in captioner.model.named_parameters() if "lora_" in n
        )
    assert 0 < adaptation.trainable <= adaptation.total


def test_lora_targets_by_meaning(folder: Path) -> None:
    """Two decoder layers, self- and cross-attention: 2 x 2 modules of each kind."""
    counts = {}
    for targets in ("attention-qv", "attention", "attention+mlp"):
        captioner = load_captioner(folder, device="cpu")
        adapt(captioner, AdaptConfig(targets=targets))
        names = [n for n, _ in captioner.model.named_parameters() if "lora_A" in n]
        assert not [n for n in names if "vision_model" in n or "predictions.decoder" in n]
        counts[targets] = len(names)
    # + per layer intermediate and output dense, + the head's transform
    assert counts == {"attention-qv": 8, "attention": 16, "attention+mlp": 16 + 4 + 1}


@pytest.mark.parametrize("rslora", [False, True])
def test_merged_adapters_write_the_same(
    captioner: Captioner, folder: Path, tmp_path: Path, rslora: bool
) -> None:
    before = captioner.generate(pixels(), max_new_tokens=12)
    base = captioner.fingerprint()
    adaptation = adapt(captioner, AdaptConfig(rslora=rslora, encoder_layers=1), seed=3)
    assert captioner.generate(pixels(), max_new_tokens=12) == before
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in captioner.model.named_parameters():
            if "lora_B" in name:
                weight += torch.randn(weight.shape, generator=generator) * 0.3
    adapted = captioner.generate(pixels(), max_new_tokens=12)
    assert [g.text for g in adapted] != [g.text for g in before]
    save_adapter(captioner, adaptation, tmp_path / "adapter", base)
    merge(captioner, adaptation)
    loaded = load_captioner(folder, adapter=tmp_path / "adapter", device="cpu")
    for c in (captioner, loaded):
        merged = c.generate(pixels(), max_new_tokens=12)
        assert [g.text for g in merged] == [g.text for g in adapted]
    assert loaded.fingerprint() == captioner.fingerprint()
    other = make_blip(tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="weights differ"):
        load_captioner(other, adapter=tmp_path / "adapter", device="cpu")


def test_adapters_need_a_fitting_setting(captioner: Captioner) -> None:
    for config, words in (
        (AdaptConfig(encoder_layers=3), "0..2"),
        (AdaptConfig(rank=0), "at least 1"),
        (AdaptConfig(targets="mlp"), "attention-qv"),  # type: ignore[arg-type]
        (AdaptConfig(method="magic"), "'lora'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(InputError, match=words):
            adapt(captioner, config)


def test_what_is_not_a_captioner_is_one_clear_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(folder, tmp_path / name))

    no_tokenizer = broken("a")
    for file in no_tokenizer.glob("tokenizer*"):
        file.unlink()
    other_class = broken("b")
    config = json.loads((other_class / "config.json").read_text())
    (other_class / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    half = broken("c")
    (half / "model.safetensors").write_bytes((half / "model.safetensors").read_bytes()[:5000])
    lacking = broken("d")
    from safetensors.torch import load_file, save_file

    tensors = load_file(lacking / "model.safetensors")
    kept = {n: t for n, t in tensors.items() if "crossattention" not in n}
    save_file(kept, lacking / "model.safetensors", {"format": "pt"})
    for bad, words in (
        (tmp_path / "none", "blip-base"),
        (tmp_path, "not a captioner"),
        (no_tokenizer, "tokenizer"),
        (other_class, "'clip' network"),
        (half, "cannot be loaded"),
        (lacking, "another class"),
    ):
        with pytest.raises(InputError, match=words):
            load_captioner(bad, device="cpu")
    # Nothing listens here: the hub is out of reach.
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    with pytest.raises(InputError, match=r"hf download Salesforce/blip-image-captioning-base"):
        load_captioner("blip-base")


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ("a t - shirt , 3 / 4 sleeves .", "a t-shirt, 3/4 sleeves."),
        ("100 % cotton ( soft ) ; men ' s", "100% cotton (soft); men's"),
        ("length 5 . 5 cm , width 30 cm .", "length 5.5 cm, width 30 cm."),
        ("", ""),
    ],
)
def test_wordpiece_spacing_is_undone(pieces: str, text: str) -> None:
    assert tidy(pieces) == text
