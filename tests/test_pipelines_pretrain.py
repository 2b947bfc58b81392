"""The shipped tiny models, and the function that rebuilds them."""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines import InputError, pretrain, probe, vocabulary

DEMO = Path(__file__).parents[1] / "data" / "demo"
HELD_OUT = 2002  # neither the demo's seed nor one the models were trained on


@pytest.fixture(scope="module")
def corpus() -> pretrain.Corpus:
    return pretrain.draw_corpus(160, HELD_OUT, workers=1)


@pytest.fixture(scope="module")
def chance(corpus: pretrain.Corpus) -> float:
    """Probability that two articles drawn at random are of one type."""
    types = corpus.labels["garment_type"]
    return float(np.square(np.bincount(types) / len(types)).sum())


def test_shipped_models_load_as_their_real_classes_in_float32() -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from transformers import (
        AutoImageProcessor,
        AutoModel,
        AutoProcessor,
        BlipForConditionalGeneration,
        BlipProcessor,
        CLIPModel,
        CLIPProcessor,
        ResNetModel,
    )

    blip = BlipForConditionalGeneration.from_pretrained(DEMO / "blip")
    clip = CLIPModel.from_pretrained(DEMO / "clip")
    resnet = AutoModel.from_pretrained(DEMO / "resnet")
    assert isinstance(resnet, ResNetModel)
    for model in (blip, clip, resnet):
        assert model.dtype == torch.float32
        assert all(bool(p.isfinite().all()) for p in model.parameters())
    assert clip.config.text_config.eos_token_id != 2, "CLIP would pool at the largest token id"
    assert isinstance(AutoProcessor.from_pretrained(DEMO / "blip"), BlipProcessor)
    assert isinstance(AutoProcessor.from_pretrained(DEMO / "clip"), CLIPProcessor)
    assert AutoImageProcessor.from_pretrained(DEMO / "resnet").size["height"] == pretrain.SIDE
    vector = SentenceTransformer(str(DEMO / "sbert"), device="cpu").encode("a red dress")
    assert vector.dtype == np.float32
    assert vector.shape == (96,)


def test_shipped_weights_are_float16_and_8_mb_together() -> None:
    from safetensors import safe_open

    for name in pretrain.MODELS:
        with safe_open(DEMO / name / "model.safetensors", "np") as weights:
            kinds = {weights.get_slice(key).get_dtype() for key in weights.keys()}  # noqa: SIM118
        assert "F16" in kinds
        assert kinds <= {"F16", "I64"}, f"{name} holds {kinds}"
    assert sum(f.stat().st_size for f in DEMO.rglob("*") if f.is_file()) <= 8_000_000


def test_blip_names_type_and_colour_of_unseen_photos(
    corpus: pretrain.Corpus, chance: float
) -> None:
    pixels, traits = corpus.pixels[:64], corpus.traits[:64]
    captions = probe.caption_photos(DEMO / "blip", pixels)
    types = [
        probe.type_named(c) == t["garment_type"] for c, t in zip(captions, traits, strict=True)
    ]
    colours = [probe.colour_named(c) == t["colour"] for c, t in zip(captions, traits, strict=True)]
    assert np.mean(types) > 5 * chance
    assert np.mean(colours) > 0.4  # of 18 colours, the commonest on about one article in seven


def test_clip_finds_the_photo_of_a_caption(corpus: pretrain.Corpus) -> None:
    captions = [wordings[0] for wordings in corpus.captions]
    photos, texts = probe.clip_vectors(DEMO / "clip", corpus.pixels, captions)
    assert probe.recall_at(texts, photos, 10) > 5 * 10 / len(captions)


def test_resnet_neighbours_share_the_type(corpus: pretrain.Corpus, chance: float) -> None:
    vectors = probe.resnet_vectors(DEMO / "resnet", corpus.pixels)
    assert probe.same_label_at(vectors, corpus.labels["garment_type"], 5) > 3 * chance


def test_sbert_puts_two_wordings_of_one_product_nearer_than_two_products(
    corpus: pretrain.Corpus,
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(str(DEMO / "sbert"), device="cpu")
    products = {t["product_code"]: i for i, t in enumerate(corpus.traits)}
    one, other = (
        encoder.encode(
            [corpus.descriptions[i][v] for i in products.values()], normalize_embeddings=True
        )
        for v in (0, 1)
    )
    cosine = one @ other.T
    nearer = np.diag(cosine)[:, None] > cosine
    assert nearer.sum() / (cosine.size - len(cosine)) > 0.9
    assert probe.recall_at(one, other, 10) > 5 * 10 / len(products)


def test_training_sees_what_the_saved_processors_produce(corpus: pretrain.Corpus) -> None:
    from PIL import Image
    from transformers import AutoImageProcessor

    from pipelines import drawing

    photos = []
    for row in corpus.traits[:3]:
        stored = io.BytesIO()
        drawing.draw_photo(row, HELD_OUT).save(stored, "JPEG", quality=drawing.JPEG_QUALITY)
        photos.append(Image.open(stored))
    for name in ("blip", "clip", "resnet"):
        processor = AutoImageProcessor.from_pretrained(DEMO / name)
        served = processor(photos, return_tensors="pt")["pixel_values"]
        trained = pretrain.normalise(corpus.pixels[:3], processor.image_mean, processor.image_std)
        np.testing.assert_allclose(served.numpy(), trained.numpy(), atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(DEMO / "blip")


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=90))
def test_tokenizer_never_meets_an_unknown_in_ascii(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.unk_token_id not in ids or "[UNK]" in text
    if not any(mark in text for mark in vocabulary.SPECIAL):
        kept = "".join(p.removeprefix("##") for p in tokenizer.convert_ids_to_tokens(ids))
        assert kept.replace("##", "") == text.lower().replace(" ", "").replace("##", "")


def test_tokenizer_is_shared_and_knows_common_words_whole(tokenizer: Any) -> None:
    from transformers import AutoTokenizer

    vocab = tokenizer.get_vocab()
    assert 2000 < len(vocab) < 3500
    assert [tokenizer.tokenize(word) for word in vocabulary.LEXICON.split()] == [
        [word] for word in vocabulary.LEXICON.split()
    ]
    for name in ("clip", "sbert"):
        assert AutoTokenizer.from_pretrained(DEMO / name).get_vocab() == vocab
    assert (tokenizer.pad_token_id, tokenizer.sep_token_id) == (vocabulary.PAD, vocabulary.SEP)
    assert tokenizer.bos_token_id == vocabulary.DEC


def _bytes(folder: Path) -> dict[str, str]:
    return {
        str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(folder.rglob("*"))
        if f.is_file()
    }


def test_rebuild_runs_to_the_end_and_repeats_itself(tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []

    def build(name: str, seed: int, only: tuple[str, ...] = pretrain.MODELS) -> dict[str, str]:
        trained = pretrain.rebuild(
            tmp_path / name,
            only=only,
            photos=16,
            batch=4,
            steps=dict.fromkeys(pretrain.MODELS, 2),
            seed=seed,
            workers=1,
            progress=lambda what, step, steps, loss: seen.append((what, step, steps)),
        )
        assert list(trained) == list(only)
        for model, cost in trained.items():
            assert cost.steps == 2
            assert np.isfinite(cost.loss)
            files = (tmp_path / name / model).rglob("*")
            assert cost.size == sum(f.stat().st_size for f in files if f.is_file())
        return _bytes(tmp_path / name)

    first = build("first", 1001)
    assert {Path(f).parts[0] for f in first} == set(pretrain.MODELS), "a working file was left"
    assert [s for s in seen if s[0] == "blip"] == [("blip", 1, 2), ("blip", 2, 2)]
    # a model does not depend on which others are trained beside it
    again = build("again", 1001, only=("sbert", "blip"))
    assert again == {f: digest for f, digest in first.items() if f.startswith(("sbert", "blip"))}
    other = build("first", 1002, only=("resnet",))
    weights = str(Path("resnet", "model.safetensors"))
    assert other[weights] != first[weights]
    assert other.keys() == first.keys()  # the three others stay


def test_rebuild_says_what_is_wrong_with_its_arguments(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"'gpt'.*blip, clip, resnet, sbert"):
        pretrain.rebuild(tmp_path, only=("gpt",))
    with pytest.raises(InputError, match="'clip' with None steps"):
        pretrain.rebuild(tmp_path, only=("clip",), steps={"blip": 3})
    with pytest.raises(InputError, match="photos: 8 is less than a batch of 64"):
        pretrain.rebuild(tmp_path, photos=8)
    assert not any(tmp_path.iterdir())


def test_measures_by_hand() -> None:
    queries = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    items = np.array([[2, 0], [1, 1], [0, 3]], np.float32)
    # row 0: own item first; row 1: own item second, after row 2's; row 2: own item tied for second
    assert probe.recall_at(queries, items, 1) == pytest.approx(1 / 3)
    assert probe.recall_at(queries, items, 2) == pytest.approx(1)
    vectors = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)
    assert probe.same_label_at(vectors, np.array([0, 0, 1, 1]), 1) == 1
    assert probe.same_label_at(vectors, np.array([0, 0, 1, 2]), 1) == 0.5
    assert probe.same_label_at(vectors, np.array([0, 0, 1, 1]), 3) == pytest.approx(1 / 3)


def test_words_of_a_caption_are_read_longest_first() -> None:
    assert probe.type_named("a photo of a navy blue suit jacket laid flat") == "Blazer"
    assert probe.type_named("product photo: light grey t - shirt in a studio") == "T-shirt"
    assert probe.type_named("a picture of nothing") == ""
    assert probe.colour_named("a dark blue striped dress") == "Dark Blue"
    assert probe.colour_named("striped blue dress, stock image") == "Blue"
