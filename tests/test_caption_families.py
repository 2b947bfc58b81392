"""What every captioner family promises, each shown with a tiny checkpoint of the real classes."""

import importlib.util
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from caption import InputError
from caption.adapt import AdaptConfig, adapt, merge, save_adapter
from caption.captioners import IGNORED, Captioner, TextBatch, load_captioner
from caption.chat import ASK
from caption.clipcap import ClipCap
from caption.families import EncoderDecoderCaptioner
from caption.generate import caption_catalogue
from caption.images import open_image
from tests.tiny import FAMILIES, clipcap_parts, draw_photos, tiny_captioner

MOST = 30
"""New tokens a caption may have here."""


@dataclass(frozen=True)
class Case:
    """A family's checkpoint that has learned eight photos by heart."""

    family: str
    folder: Path
    pixels: NDArray[np.float32]
    texts: list[str]
    logprobs: list[float]
    """Of its captions, cut after 12 tokens."""

    def load(self, **options: Any) -> Captioner:
        return load_captioner(self.folder, device="cpu", **options)

    def written(self, captioner: Captioner, beams: int = 1) -> list[str]:
        new = captioner.generate(self.pixels, beams=beams, max_new_tokens=MOST)
        return [g.text for g in new]

    def features(self, captioner: Captioner, n: int = 8) -> torch.Tensor:
        captioner.model.eval()
        with torch.no_grad():
            return captioner.encode_images(torch.from_numpy(self.pixels[:n]))


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    root = tmp_path_factory.mktemp("family")
    photos = draw_photos(root / "photos")
    captioner = load_captioner(tiny_captioner(request.param, root / "tiny"), device="cpu")
    pixels = np.stack([captioner.preprocess(open_image(path)) for _, path, _ in photos])
    texts = [text for *_, text in photos]
    _learn_by_heart(captioner, torch.from_numpy(pixels), texts)
    captioner.save(root / "learned")
    logprobs = [g.logprob for g in captioner.generate(pixels, max_new_tokens=12)]
    return Case(request.param, root / "learned", pixels, texts, logprobs)


def _learn_by_heart(captioner: Captioner, pixels: torch.Tensor, texts: list[str]) -> None:
    batch = captioner.text_batch(captioner.text_rows(texts, 50))
    parameters = list(captioner.model.parameters())
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.98))
    captioner.model.train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for step in range(300):
            for group in optimizer.param_groups:
                group["lr"] = 4e-3 * min(1.0, (step + 1) / 10)
            loss = captioner.loss(captioner.encode_images(pixels), batch)
            if loss.item() < 0.008:
                break
            optimizer.zero_grad()
            _backward(loss)
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()


def _backward(loss: torch.Tensor) -> None:
    loss.backward()  # type: ignore[no-untyped-call,unused-ignore]


@pytest.mark.parametrize("beams", [1, 3])
def test_eight_photos_are_learned_to_exact_text(case: Case, beams: int) -> None:
    """Also: the prompt is not part of it, and saving and loading changes nothing."""
    assert case.written(case.load(), beams) == case.texts


@pytest.mark.parametrize("beams", [1, 3])
def test_a_caption_does_not_depend_on_its_batch(case: Case, beams: int) -> None:
    captioner = case.load()
    # Pixels the network was not trained on, so that captions differ in length and certainty.
    noise = np.random.default_rng(3).normal(size=case.pixels.shape) * 1.5
    pixels = case.pixels + noise.astype(np.float32)
    together = captioner.generate(pixels, beams=beams, max_new_tokens=MOST)
    alone = [captioner.generate(p[None], beams=beams, max_new_tokens=MOST)[0] for p in pixels]
    assert [g.text for g in together] == [g.text for g in alone]
    np.testing.assert_allclose([g.logprob for g in together], [g.logprob for g in alone], atol=1e-3)
    assert together == captioner.generate(pixels, beams=beams, max_new_tokens=MOST)


def test_pads_do_not_count_and_rows_do_not_see_each_other(case: Case) -> None:
    captioner = case.load()
    rows = captioner.text_rows(["a red dress with short sleeves", "a dress"], 50)
    batch = captioner.text_batch(rows)
    features = case.features(captioner, 2)
    logits = captioner.logits(features, batch)
    assert logits.dtype == torch.float32
    assert logits.shape[:2] == batch.input_ids.shape == batch.labels.shape
    loss = captioner.loss(features, batch)
    padded = torch.zeros_like(batch.input_ids, dtype=torch.bool)
    for i, row in enumerate(rows):
        padded[i, len(row.ids) :] = True
        counted = [label for label in row.labels if label != IGNORED]
        assert counted[-1] == captioner.ends[0]
        assert captioner.text_of(counted[:-1]) == ["a red dress with short sleeves", "a dress"][i]
        assert batch.labels[i][batch.labels[i] != IGNORED].tolist() == counted
    assert padded[1].any()
    assert (batch.labels[padded] == IGNORED).all()
    changed = batch.input_ids.clone()
    changed[padded] = captioner.start[0] + 1
    assert torch.equal(captioner.loss(features, TextBatch(changed, batch.labels)), loss)
    changed = batch.input_ids.clone()
    changed[0, len(captioner.start)] += 1
    assert not torch.equal(captioner.loss(features, TextBatch(changed, batch.labels)), loss)
    alone = [captioner.logits(features[i : i + 1], captioner.text_batch([rows[i]])) for i in (0, 1)]
    for i, own in enumerate(alone):
        torch.testing.assert_close(own[0], logits[i, : own.shape[1]], atol=1e-4, rtol=1e-4)


def test_log_probabilities_are_those_of_the_logits(case: Case) -> None:
    captioner = case.load()
    features = case.features(captioner) + 0.2
    drawn = captioner.sample(features, n_samples=3, max_new_tokens=MOST, temperature=1.3, seed=5)
    assert [len(x) for x in drawn] == [3] * 8
    again = captioner.sample(features, n_samples=3, max_new_tokens=MOST, temperature=1.3, seed=5)
    assert again == drawn
    other = captioner.sample(features, n_samples=3, max_new_tokens=MOST, temperature=1.3, seed=6)
    assert other != drawn
    rows = [s.row for x in drawn for s in x]
    for sampled, row in zip((s for x in drawn for s in x), rows, strict=True):
        counted = [label for label in row.labels if label != IGNORED]
        assert row.ids[: len(captioner.start)] == captioner.start
        assert row.cut == (counted[-1] not in captioner.ends)
        assert captioner.text_of([t for t in counted if t not in captioner.ends]) == sampled.text
    # Greedy sentences: the sum of the gathered log-probabilities is what `decode` reports.
    new = captioner.decode(features, beams=1, max_new_tokens=MOST)
    cold = captioner.sample(features, n_samples=1, max_new_tokens=MOST, temperature=1e-4, seed=0)
    assert [x[0].text for x in cold] == [g.text for g in new]
    batch = captioner.text_batch([x[0].row for x in cold])
    logprobs = captioner.logits(features, batch).log_softmax(-1)
    chosen = logprobs.gather(-1, batch.labels.clamp(min=0)[..., None])[..., 0]
    sums = (chosen * (batch.labels != IGNORED)).sum(1)
    torch.testing.assert_close(sums, torch.tensor([g.logprob for g in new]), atol=2e-3, rtol=1e-4)


def _reference(captioner: Captioner, pixels: torch.Tensor) -> dict[str, Any]:
    """What the checkpoint's own processor makes of prompt and photo, for `model.generate`."""
    if captioner.family == "blip":
        return {"pixel_values": pixels}
    if captioner.family == "vision-encoder-decoder":
        return {"pixel_values": pixels}
    processor: Any = captioner.processor  # type: ignore[attr-defined]
    if captioner.family == "blip-2":
        ids = torch.tensor(processor.tokenizer(captioner.prompt).input_ids, dtype=torch.int64)
        image = captioner.model.config.image_token_index
        ids = torch.cat([torch.full((4,), image), ids]).expand(len(pixels), -1)
        return {"pixel_values": pixels, "input_ids": ids}
    message = [
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": captioner.prompt}]}
    ]
    text = processor.apply_chat_template(message, add_generation_prompt=True)
    from PIL import Image

    blank = [Image.new("RGB", (32, 32))] * len(pixels)
    inputs = dict(processor(text=[text] * len(pixels), images=blank, return_tensors="pt"))
    inputs["pixel_values"] = pixels.reshape(inputs["pixel_values"].shape)
    return inputs


@pytest.mark.parametrize("beams", [1, 3])
def test_captions_are_those_of_transformers_generate(case: Case, beams: int) -> None:
    captioner = case.load()
    if captioner.family == "clipcap":
        pytest.skip("transformers has no ClipCap; see the test of its prefix")
    noise = np.random.default_rng(4).normal(size=case.pixels.shape)
    pixels = (case.pixels + noise).astype(np.float32)
    inputs = _reference(captioner, torch.from_numpy(pixels))
    if captioner.family != "blip":  # which brings its own
        inputs |= {"eos_token_id": list(captioner.ends), "pad_token_id": captioner.pad}
    sequences = captioner.model.generate(
        **inputs, num_beams=beams, max_new_tokens=MOST, do_sample=False
    )
    if captioner.family in ("llava", "chat", "blip-2") and not getattr(captioner, "seq2seq", False):
        sequences = sequences[:, inputs["input_ids"].shape[1] :]
    theirs = [captioner.text_of(ids.tolist()) for ids in sequences]
    ours = captioner.generate(pixels, beams=beams, max_new_tokens=MOST)
    assert [g.text for g in ours] == theirs
    assert len(set(theirs)) > 2


def test_the_loss_is_transformers_own_with_all_but_the_caption_masked(case: Case) -> None:
    """Prompt, image tokens and pads are in the sequence of the reference, masked in its labels."""
    captioner = case.load()
    if captioner.family == "clipcap":
        pytest.skip("transformers has no ClipCap; see the test of its prefix")
    pixels = torch.from_numpy(case.pixels[:2])
    rows = captioner.text_rows(["a blue dress", "a white t-shirt with long sleeves"], 50)
    inputs = _reference(captioner, pixels)
    captions = [[t for t in row.labels if t != IGNORED] for row in rows]
    longest = max(map(len, captions))
    labels = torch.tensor([c + [IGNORED] * (longest - len(c)) for c in captions])
    if captioner.family in ("llava", "chat") or (
        captioner.family == "blip-2" and not captioner.seq2seq  # type: ignore[attr-defined]
    ):
        asked = inputs["input_ids"]
        behind = labels.where(labels != IGNORED, torch.tensor(captioner.pad))
        inputs["input_ids"] = torch.cat([asked, behind], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        labels = torch.cat([torch.full_like(asked, IGNORED), labels], 1)
    elif captioner.family == "blip":
        start = torch.tensor(captioner.start).expand(2, -1)
        inputs = {
            "input_ids": torch.cat([start, labels.where(labels != IGNORED, torch.tensor(0))], 1),
            "encoder_hidden_states": captioner.encode_images(pixels),
        }
        labels = torch.cat([torch.full_like(start, IGNORED), labels], 1)
        theirs = captioner.model.text_decoder(**inputs, labels=labels).loss
    if captioner.family == "vision-encoder-decoder":
        captioner.model.config.pad_token_id = captioner.pad
        captioner.model.config.decoder_start_token_id = captioner.start[0]
    if captioner.family != "blip":
        theirs = captioner.model(**inputs, labels=labels).loss
    features = captioner.encode_images(pixels)
    ours = captioner.loss(features, captioner.text_batch(rows))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_caption_never_echoes_the_prompt(case: Case) -> None:
    """A prompt it was not trained with, and that its answers could repeat."""
    captioner = case.load(prompt="Describe the clothing item in this photo.")
    assert captioner.prompt == ASK
    for text in (*case.written(captioner), *case.written(captioner, 3)):
        assert "Describe" not in text
        assert "ASSISTANT" not in text
        assert "<" not in text
    row = captioner.text_rows(["a red dress"], 50)[0]
    counted = [label for label in row.labels if label != IGNORED]
    assert captioner.text_of(counted) == "a red dress"


def test_preprocessing_is_the_checkpoints_own(case: Case) -> None:
    captioner: Any = case.load()
    rng = np.random.default_rng(0)
    from PIL import Image, ImageOps

    picture = Image.fromarray(rng.integers(0, 256, (50, 41, 3), dtype=np.uint8))
    processor = getattr(captioner, "images", None) or captioner.processor.image_processor
    given = picture
    if captioner.family == "chat":
        given = ImageOps.pad(picture, (32, 32), color="white")
    theirs = processor(given, return_tensors="np")["pixel_values"]
    ours = captioner.preprocess(picture)
    assert ours.dtype == np.float32
    assert ours.shape == case.pixels.shape[1:]
    # The resized picture is rounded to whole steps of colour, at most one apart.
    np.testing.assert_allclose(ours, theirs.reshape(ours.shape), atol=0.02)


METHODS: dict[str, AdaptConfig] = {
    "full": AdaptConfig("full"),
    "decoder+1": AdaptConfig("decoder", encoder_layers=1),
    "bridge": AdaptConfig("bridge"),
    "lora+1": AdaptConfig(targets="attention+mlp", rank=4, encoder_layers=1),
    "lora-all-linear": AdaptConfig(targets="all-linear", rank=4),
    "dora-bridge": AdaptConfig(targets="attention-qv", rank=4, dora=True, bridge=True),
    "ia3": AdaptConfig("ia3"),
    "adapter+1": AdaptConfig("adapter", bottleneck=8, encoder_layers=1),
    "prompt": AdaptConfig("prompt", virtual_tokens=3),
    "prefix": AdaptConfig("prefix", virtual_tokens=3),
    # Parts of the above; one family of each kind of decoder shows them.
    "decoder": AdaptConfig("decoder"),
    "rslora": AdaptConfig(targets="attention", rank=4, rslora=True),
    "dora": AdaptConfig(targets="attention-qv", rank=4, dora=True),
    "adapter": AdaptConfig("adapter", bottleneck=8),
}
NOT_YET_NOTHING = ("prompt", "prefix")
"""A new one changes captions; every other new adapter changes nothing."""


def _impossible(family: str, method: str) -> str | None:
    """Words of the reason, where a family can't have a method."""
    if family == "blip" and "bridge" in method:
        return "no bridge"
    if family == "vision-encoder-decoder" and "bridge" in method:
        return "no bridge"  # both halves are equally wide here
    if family == "idefics3" and method in ("prompt", "prefix"):
        return "general path"
    return None


@pytest.mark.parametrize("method", METHODS)
def test_every_way_of_adapting(case: Case, method: str, tmp_path: Path) -> None:
    if case.family == "clipcap-transformer" and method != "lora-all-linear":
        pytest.skip("shown by clipcap-mlp: only the mapper differs")
    if list(METHODS).index(method) >= 10 and case.family not in ("blip", "llava"):
        pytest.skip("shown by blip and llava")
    captioner, config = case.load(), METHODS[method]
    reason = _impossible(case.family, method)
    if reason is not None:
        with pytest.raises(InputError, match=reason):
            adapt(captioner, config)
        return
    base, before = captioner.fingerprint(), case.features(captioner)
    adaptation = adapt(captioner, config, seed=3)
    whole = config.method in ("full", "decoder", "bridge")
    assert (adaptation.adapters is None) == whole
    assert 0 < adaptation.trainable <= adaptation.total
    assert (adaptation.trainable == adaptation.total) == (method == "full")
    if not whole and config.method not in NOT_YET_NOTHING:
        assert case.written(captioner) == case.texts
    # One step of what learns: photos are seen anew exactly when the encoder is not frozen.
    rows = captioner.text_rows(case.texts, 50)
    learned = [p for p in captioner.model.parameters() if p.requires_grad]
    captioner.model.train()
    pixels = torch.from_numpy(case.pixels)
    _backward(captioner.loss(captioner.encode_images(pixels), captioner.text_batch(rows)))
    assert all(p.grad is None for p in captioner.model.parameters() if not p.requires_grad)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in learned:
            p += torch.randn(p.shape, generator=generator) * (0.5 if method == "ia3" else 0.05)
    if captioner.cacheable:
        after = case.features(captioner)
        assert torch.equal(before, after) == adaptation.encoder_frozen
    changed = captioner.generate(case.pixels, max_new_tokens=12)
    if whole:
        captioner.save(tmp_path / "model")
        loaded = load_captioner(tmp_path / "model", device="cpu")
        again = loaded.generate(case.pixels, max_new_tokens=12)
        assert [g.text for g in again] == [g.text for g in changed]
        assert loaded.fingerprint() == captioner.fingerprint()
        return
    save_adapter(captioner, adaptation, tmp_path / "adapter", base)
    with pytest.raises(InputError, match="save_adapter"):
        captioner.save(tmp_path / "model")
    merge(captioner, adaptation)
    loaded = case.load(adapter=tmp_path / "adapter")
    logprobs = [g.logprob for g in changed]
    for c in (captioner, loaded):
        again = c.generate(case.pixels, max_new_tokens=12)
        np.testing.assert_allclose([g.logprob for g in again], logprobs, rtol=1e-3, atol=1e-2)
        assert [g.text for g in again] == [g.text for g in changed]
    assert np.abs(np.subtract(logprobs, case.logprobs)).max() > 1e-3


def test_an_adapter_of_another_base_is_one_clear_error(case: Case, tmp_path: Path) -> None:
    captioner = case.load()
    base = captioner.fingerprint()
    adaptation = adapt(captioner, AdaptConfig("adapter", bottleneck=4))
    save_adapter(captioner, adaptation, tmp_path / "adapter", base)
    other = tiny_captioner(case.family, tmp_path / "other", seed=9)
    with pytest.raises(InputError, match="weights differ"):
        load_captioner(other, adapter=tmp_path / "adapter", device="cpu")
    # The same checkpoint in another precision is the same base.
    half = case.load(adapter=tmp_path / "adapter", dtype="bfloat16")
    assert half.generate(case.pixels[:2], max_new_tokens=4)


def test_gradient_checkpointing_computes_the_same(case: Case) -> None:
    captioner = case.load()
    pixels = torch.from_numpy(case.pixels[:2])
    batch = captioner.text_batch(captioner.text_rows(["a red dress", "a shirt"], 50))
    gradients = []
    for on in (False, True):
        captioner.set_gradient_checkpointing(on)
        captioner.model.train()
        captioner.model.zero_grad()
        _backward(captioner.loss(captioner.encode_images(pixels), batch))
        gradients.append(
            [p.grad.clone() for p in captioner.model.parameters() if p.grad is not None]
        )
    captioner.set_gradient_checkpointing(False)
    assert len(gradients[0]) == len(gradients[1]) > 10
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_a_folder_that_lacks_something_is_one_clear_error(case: Case, tmp_path: Path) -> None:
    lacking = Path(shutil.copytree(case.folder, tmp_path / "lacking"))
    for file in lacking.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(InputError, match=r"(?i)tokenizer|cannot be loaded"):
        load_captioner(lacking, device="cpu")
    other = Path(shutil.copytree(case.folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "model_type": "clip"}))
    with pytest.raises(InputError, match="'clip' network"):
        load_captioner(other, device="cpu")


def test_four_bits_need_their_package(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: name != "bitsandbytes" and real(name, *a)
    )
    with pytest.raises(InputError, match="pip install bitsandbytes"):
        case.load(quantize="4bit")
    with pytest.raises(InputError, match="'lora' learns the same"):
        adapt(case.load(), AdaptConfig("qlora"))


def test_qlora_learns_beside_frozen_four_bit_weights(case: Case, tmp_path: Path) -> None:
    linear = pytest.importorskip("bitsandbytes").nn.Linear4bit
    captioner = case.load(quantize="4bit")
    with pytest.raises(InputError, match="can't learn themselves"):
        adapt(captioner, AdaptConfig("full"))
    layers = [m for m in captioner.model.modules() if isinstance(m, linear)]
    assert len(layers) > 10
    held = [layer.weight.detach().clone() for layer in layers]
    base = captioner.fingerprint()
    adaptation = adapt(captioner, AdaptConfig("qlora", rank=4, alpha=8, dropout=0.0), seed=3)
    texts = case.texts[::-1]  # what the photos do not show yet
    batch = captioner.text_batch(captioner.text_rows(texts, 50))
    pixels = torch.from_numpy(case.pixels)
    learned = [p for p in captioner.model.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=0.01)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        loss = captioner.loss(captioner.encode_images(pixels), batch)
        _backward(loss)
        losses.append(float(loss.detach()))
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(a, b.weight) for a, b in zip(held, layers, strict=True))
    captioner.model.eval()
    expected = captioner.generate(case.pixels, max_new_tokens=12)
    save_adapter(captioner, adaptation, tmp_path / "adapter", base)
    loaded = case.load(quantize="4bit", adapter=tmp_path / "adapter")
    again = loaded.generate(case.pixels, max_new_tokens=12)
    assert [g.text for g in again] == [g.text for g in expected]
    np.testing.assert_allclose(
        [g.logprob for g in again], [g.logprob for g in expected], rtol=1e-2, atol=1e-2
    )


def test_new_words_only_where_the_vocabulary_can_grow(case: Case) -> None:
    captioner = case.load()
    if case.family == "blip":
        captioner.add_words(["linen"])
    else:
        with pytest.raises(InputError, match="extend_vocabulary"):
            captioner.add_words(["linen"])


def test_an_empty_caption_is_not_kept(case: Case, tmp_path: Path) -> None:
    captioner = case.load()
    captioner.ends = tuple(range(len(captioner.tokenizer) + 1))  # whatever it writes ends it
    assert case.written(captioner) == [""] * 8
    items = [(id, path) for id, path, _ in draw_photos(tmp_path / "photos")]
    result = caption_catalogue(captioner, items, tmp_path / "out")
    assert (result.n_captions, result.n_skipped) == (0, 8)


@pytest.mark.parametrize("mapper", ["mlp", "transformer"])
def test_clipcap_continues_its_prefix(tmp_path: Path, mapper: Any) -> None:
    """By hand: GPT-2 fed with the mapped embedding and the caption; "!" (token 0) counts too."""
    clip, gpt2 = clipcap_parts(tmp_path)
    captioner = ClipCap.from_parts(
        clip, gpt2, mapper=mapper, prefix_length=5, clip_length=3, mapper_layers=1, mapper_heads=2
    )
    same = ClipCap.from_parts(
        clip, gpt2, mapper=mapper, prefix_length=5, clip_length=3, mapper_layers=1, mapper_heads=2
    )
    assert captioner.fingerprint() == same.fingerprint()
    network = captioner.model
    row = captioner.text_rows(["a red dress!"], 50)[0]
    tokens = row.ids[1:]
    captioner_end = captioner.ends[0]
    assert tokens[-1] == captioner_end
    exclamation = captioner.tokenizer("!", add_special_tokens=False).input_ids[-1]
    assert exclamation in [label for label in row.labels if label != IGNORED]
    features = captioner.encode_images(torch.randn(1, 3, 32, 32, generator=torch.manual_seed(1)))
    assert features.shape == (1, 1, 16)
    prefix = network.mapper(features[:, 0])
    assert prefix.shape == (1, 5, 32)
    words = network.language_model.transformer.wte(torch.tensor([tokens]))
    logits = network.language_model(inputs_embeds=torch.cat([prefix, words], 1)).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[4:-1], torch.tensor(tokens))
    loss = captioner.loss(features, captioner.text_batch([row]))
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(InputError, match="mlp"):
        ClipCap.from_parts(clip, gpt2, mapper="tree")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="nowhere"):
        ClipCap.from_parts(tmp_path / "nowhere", gpt2)


def test_clipcap_from_a_whole_clip_sees_what_the_clip_sees(tmp_path: Path) -> None:
    """Its vision half states another width than the projection in the file has."""
    from transformers import CLIPModel

    folder = Path(__file__).parents[1] / "data/demo/clip"
    _, gpt2 = clipcap_parts(tmp_path)
    captioner = ClipCap.from_parts(folder, gpt2)
    whole = CLIPModel.from_pretrained(folder, dtype=torch.float32).eval()
    assert whole.config.vision_config.projection_dim != whole.config.projection_dim
    size = whole.config.vision_config.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.manual_seed(1))
    with torch.inference_mode():
        expected = whole.get_image_features(pixel_values=pixels).pooler_output
        torch.testing.assert_close(captioner.encode_images(pixels)[:, 0], expected)
    with pytest.raises(InputError, match="type gpt2: expected a CLIP"):
        ClipCap.from_parts(gpt2, gpt2)


def test_an_encoder_decoder_from_parts(tmp_path: Path) -> None:
    """A CLIP's eyes and a GPT-2: joined the same way every time, saved, loaded, and learning."""
    clip, gpt2 = clipcap_parts(tmp_path)
    captioner = EncoderDecoderCaptioner.from_parts(clip, gpt2, seed=4)
    again = EncoderDecoderCaptioner.from_parts(clip, gpt2, seed=4)
    assert captioner.fingerprint() == again.fingerprint()
    captioner.save(tmp_path / "joined")
    loaded = load_captioner(tmp_path / "joined", device="cpu")
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    assert loaded.generate(pixels, max_new_tokens=5) == captioner.generate(pixels, max_new_tokens=5)
    adaptation = adapt(loaded, AdaptConfig("decoder"))
    assert adaptation.encoder_frozen
    rows = loaded.text_rows(["a red dress", "a blue dress"], 50)
    features = loaded.encode_images(torch.from_numpy(pixels))
    _backward(loaded.loss(features, loaded.text_batch(rows)))
    crossed = [
        p
        for n, p in loaded.model.named_parameters()
        if "crossattention" in n and p.grad is not None
    ]
    assert crossed
    assert any(p.grad.abs().sum() > 0 for p in crossed)  # type: ignore[union-attr]
