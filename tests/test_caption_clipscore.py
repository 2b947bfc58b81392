"""CLIPScore against its formula on a tiny CLIP of the real class, and photos that are not there."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caption import InputError
from caption.metrics import Corpus, Score, Unavailable
from caption.metrics.clipscore import PREFIX, clipscore, load_clip

SPECIAL = ["[PAD]", "[UNK]", "[BOS]", "[EOS]"]
WORDS = [*SPECIAL, "a", "photo", "depicts", "red", "blue", "dress", "hat", "shirt"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("clip") / "tiny-clip"
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token=SPECIAL[1]))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[BOS] $A [EOS]", special_tokens=[("[BOS]", 2), ("[EOS]", 3)]
    )
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token=SPECIAL[0]).save_pretrained(folder)
    torch.manual_seed(5)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    small |= {"intermediate_size": 32}
    text = {**small, "vocab_size": len(WORDS), "max_position_embeddings": 12}
    text |= {"eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**small, "image_size": 32, "patch_size": 16}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    ).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    rng = np.random.default_rng(1)
    paths = {}
    for i in range(5):
        pixels = rng.integers(0, 256, (90 - 10 * i, 60, 3), dtype=np.uint8)
        paths[str(i)] = tmp_path / f"{i}.png"
        Image.fromarray(pixels).save(paths[str(i)])
    return paths


def corpus_of(photos: dict[str, Path] | None, n: int = 5) -> Corpus:
    texts = ["red dress", "a hat", "", "blue shirt", "photo " * 100]
    refs = [["a red dress", "a dress"], ["a hat"], ["hat"], ["red hat", "hat", "dress"], ["shirt"]]
    return Corpus(tuple("01234"[:n]), texts[:n], refs[:n], images=photos)


def test_equals_the_published_formula(checkpoint: Path, photos: dict[str, Path]) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    corpus = corpus_of(photos)
    by_clip, by_refs = clipscore(corpus, checkpoint=checkpoint, batch_size=2)
    assert isinstance(by_clip, Score)
    assert isinstance(by_refs, Score)
    assert by_clip.per_item is not None
    assert by_refs.per_item is not None

    model = CLIPModel.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    processor = AutoImageProcessor.from_pretrained(checkpoint, backend="pil")

    def read(text: str) -> np.ndarray:
        tokens = tokenizer(PREFIX + text, truncation=True, max_length=12, return_tensors="pt")
        ids = {"input_ids": tokens["input_ids"], "attention_mask": tokens["attention_mask"]}
        vector = model.get_text_features(**ids).pooler_output[0].double().numpy()
        return vector / np.linalg.norm(vector)

    with torch.inference_mode():
        for i, item in enumerate(corpus.ids):
            with Image.open(photos[item]) as image:
                # As published: shorter side to the model's size, centre crop.
                width, height = image.size
                scale = 32 / min(width, height)
                size = (int(scale * width), int(scale * height))
                resized = np.asarray(image.resize(size, Image.Resampling.BICUBIC))
                top, left = ((side - 32) // 2 for side in resized.shape[:2])
                cropped = resized[top : top + 32, left : left + 32] / 255
                pixels = (cropped - processor.image_mean) / processor.image_std
            batch = torch.tensor(pixels.transpose(2, 0, 1)[None], dtype=torch.float32)
            seen = model.get_image_features(pixel_values=batch).pooler_output[0].double().numpy()
            seen /= np.linalg.norm(seen)
            caption = read(corpus.hypotheses[i])
            expected = 2.5 * max(seen @ caption, 0)
            best = max(0, *(read(ref) @ caption for ref in corpus.references[i]))
            mean = 2 * expected * best / (expected + best) if expected + best else 0
            assert by_clip.per_item[i] == pytest.approx(expected, abs=1e-4)
            assert by_refs.per_item[i] == pytest.approx(mean, abs=1e-4)
    assert by_clip.value == pytest.approx(by_clip.per_item.mean())
    assert (by_clip.per_item > 0).any()
    assert "|w:2.5|prefix:A photo depicts|clip:tiny-clip-" in by_clip.signature
    assert "|images:5/5|" in by_clip.signature


def test_missing_and_broken_photos_are_counted(checkpoint: Path, photos: dict[str, Path]) -> None:
    whole = clipscore(corpus_of(photos), checkpoint=checkpoint)[0]
    photos["1"].write_bytes(b"not a picture")
    photos["3"].unlink()
    del photos["4"]
    for score in clipscore(corpus_of(photos), checkpoint=checkpoint, batch_size=1):
        assert isinstance(score, Score)
        assert score.per_item is not None
        assert np.isnan(score.per_item).tolist() == [False, True, False, True, True]
        assert score.value == pytest.approx(np.nanmean(score.per_item))
        assert "|images:2/5|" in score.signature
        if score.name == "clipscore":
            assert isinstance(whole, Score)
            assert whole.per_item is not None
            assert score.per_item[[0, 2]] == pytest.approx(whole.per_item[[0, 2]], abs=1e-5)


def test_a_second_captioner_embeds_no_photo(
    checkpoint: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    load_clip.cache_clear()
    first = clipscore(corpus_of(photos), checkpoint=checkpoint)
    clip = load_clip(str(checkpoint))
    monkeypatch.setattr(clip, "_see", lambda pixels: pytest.fail("embedded a photo again"))
    second = clipscore(corpus_of(photos), checkpoint=checkpoint)
    assert isinstance(first[0], Score)
    assert isinstance(second[0], Score)
    np.testing.assert_array_equal(first[0].per_item, second[0].per_item)


def test_unavailable_and_wrong_input(
    checkpoint: Path, photos: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answer in clipscore(corpus_of(None)):
        assert isinstance(answer, Unavailable)
        assert "--images" in answer.reason
    nowhere = dict.fromkeys(photos, tmp_path / "nowhere.jpg")
    (answer, _) = clipscore(corpus_of(nowhere), checkpoint=checkpoint)
    assert isinstance(answer, Unavailable)
    assert "none of the 5 photos" in answer.reason
    monkeypatch.setenv("FCR_CLIP", str(tmp_path / "gone"))
    (answer, _) = clipscore(corpus_of(photos))
    assert isinstance(answer, Unavailable)
    assert "set FCR_CLIP" in answer.reason
    with pytest.raises(InputError, match=r"no model folder.*config\.json"):
        clipscore(corpus_of(photos), checkpoint=tmp_path)


def test_a_model_that_is_not_clip(photos: dict[str, Path], tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    BertModel(BertConfig(vocab_size=9, intermediate_size=8, **small)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="holds a BertModel: expected a CLIP"):
        clipscore(corpus_of(photos), checkpoint=tmp_path)
