"""Attention maps: every family, word by word; one that has to look in the right place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caption import InputError
from caption.adapt import AdaptConfig
from caption.attention import MAPS, attention_maps, overlay, seen_part
from caption.captioners import Captioner, load_captioner
from caption.images import open_image
from caption.records import CaptionExample, CaptionSet
from caption.train import TrainConfig, train
from tests.tiny import FAMILIES, tiny_captioner
from tests.tiny_blip import make_blip

TEXT = "a pink t-shirt with long sleeves, 3/4."


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def captioner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Captioner:
    folder = tmp_path_factory.mktemp(request.param)
    found = load_captioner(tiny_captioner(request.param, folder), device="cpu")
    assert found.family in MAPS
    return found


def noise(size: tuple[int, int] = (40, 60), seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)
    return Image.fromarray(pixels)


def test_every_word_has_a_map(captioner: Captioner) -> None:
    before = captioner.fingerprint()
    maps = attention_maps(captioner, noise(), text=TEXT)
    assert [m.word for m in maps] == TEXT.split()
    for _, seen in maps:
        assert seen.dtype == np.float32
        assert seen.ndim == 2
        assert seen.size > 1
        assert (seen >= 0).all()
        assert seen.sum() == pytest.approx(1, abs=1e-5)
    assert len({m.map.tobytes() for m in maps}) > 1, "words differ in where they were read"
    assert captioner.fingerprint() == before


def test_maps_repeat_and_depend_on_the_photo(captioner: Captioner) -> None:
    first, again, other = (attention_maps(captioner, noise(seed=s), text=TEXT) for s in (0, 0, 1))
    assert [m.map.tobytes() for m in first] == [m.map.tobytes() for m in again]
    assert any((a.map != b.map).any() for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("beams", [1, 2])
def test_words_are_those_of_the_ordinary_caption(captioner: Captioner, beams: int) -> None:
    pixels = captioner.preprocess(noise())[None]
    kinds = [getattr(m.config, "_attn_implementation", None) for m in _configured(captioner)]
    maps = attention_maps(captioner, noise(), beams=beams, max_new_tokens=8)
    plain = captioner.generate(pixels, beams=beams, max_new_tokens=8)[0].text
    assert [m.word for m in maps] == plain.split()
    after = [getattr(m.config, "_attn_implementation", None) for m in _configured(captioner)]
    assert after == kinds


def _configured(captioner: Captioner) -> list:  # type: ignore[type-arg]
    return [m for m in captioner.model.modules() if hasattr(m, "config")]


def test_no_caption_no_maps(captioner: Captioner) -> None:
    assert attention_maps(captioner, noise(), text="  ") == []


def test_blip_attention_is_that_of_transformers(tmp_path: Path) -> None:
    import torch

    captioner = load_captioner(make_blip(tmp_path))
    (seen,) = (m.map for m in attention_maps(captioner, noise(), text="dress"))
    pixels = torch.from_numpy(captioner.preprocess(noise())[None])
    ids = torch.tensor([[captioner.start[0], captioner.tokenizer.convert_tokens_to_ids("dress")]])
    with torch.no_grad():
        out = captioner.model.text_decoder(
            input_ids=ids,
            encoder_hidden_states=captioner.encode_images(pixels),
            output_attentions=True,
        )
    # The start token predicts the word: row 0, without the class token, 4 x 2 patches.
    wanted = torch.stack(out.cross_attentions).mean((0, 1, 2))[0, 1:]
    assert seen.shape == (4, 2)
    assert np.allclose(seen.ravel(), (wanted / wanted.sum()).numpy(), atol=1e-6)


def test_llava_attention_is_that_of_transformers(tmp_path: Path) -> None:
    import torch

    captioner: Any = load_captioner(tiny_captioner("llava", tmp_path), device="cpu")
    seen = attention_maps(captioner, noise(), text=TEXT)[0].map  # "a": one token, 2 x 2 patches
    row = captioner.text_rows([TEXT], 100)[0]
    image = captioner.model.config.image_token_index
    before = [*captioner.before, *[image] * 4, *captioner.after]
    captioner.model.set_attn_implementation("eager")
    with torch.no_grad():
        out = captioner.model(
            input_ids=torch.tensor([[*before, *row.ids]]),
            pixel_values=torch.from_numpy(captioner.preprocess(noise())[None]),
            output_attentions=True,
        )
    first = len(captioner.before)
    read = torch.stack(out.attentions).mean((0, 1, 2))  # (T, T)
    wanted = read[len(before) + len(captioner.start) - 1, first : first + 4]
    assert seen.shape == (2, 2)
    assert np.allclose(seen.ravel(), (wanted / wanted.sum()).numpy(), atol=1e-5)


def test_a_captioner_that_has_to_look_at_one_patch_does(tmp_path: Path) -> None:
    """The colour of one patch of eight is the only thing that tells photos apart."""
    colours = {"red": (220, 30, 30), "blue": (30, 30, 220), "yellow": (230, 220, 40)}
    rng = np.random.default_rng(0)
    examples, places = [], {}
    for number in range(48):
        name = sorted(colours)[number % 3]
        row, column = divmod(number // 3 % 8, 2)
        picture = Image.fromarray(rng.integers(110, 140, (32, 16, 3), np.uint8))
        picture.paste(colours[name], (8 * column, 8 * row, 8 * column + 8, 8 * row + 8))
        path = tmp_path / f"{number}.png"
        picture.save(path)
        examples.append(CaptionExample(str(number), path, (f"a {name} dress",)))
        places[str(number)] = (row, column)
    captions = CaptionSet("patches", tuple(examples))
    captioner = load_captioner(make_blip(tmp_path / "blip"), device="cpu")
    config = TrainConfig(AdaptConfig("full"), steps=150, batch_size=24, learning_rate=4e-3)
    train(captioner, captions, captions, tmp_path / "out", config)
    found = []
    for e in examples:
        assert e.image is not None
        maps = attention_maps(captioner, open_image(e.image))
        assert " ".join(m.word for m in maps) == e.captions[0]
        found.append(maps[1].map[places[e.id]])  # of the colour's name
    assert np.mean(found) > 2 / 8, "twice what a blind look gives"


def test_sub_words_are_joined(tmp_path: Path) -> None:
    captioner = load_captioner(make_blip(tmp_path))
    # Letter by letter but for whole words of the vocabulary.
    maps = attention_maps(captioner, noise(), text="a jeans-dress, blue")
    assert [m.word for m in maps] == ["a", "jeans-dress,", "blue"]


def test_overlay_is_bright_where_the_map_is_high() -> None:
    grey = Image.new("RGB", (60, 90), (128, 128, 128))
    seen = np.full((3, 2), 0.05, np.float32)
    seen[2, 1] = 0.75
    drawn = overlay(grey, seen)
    assert (drawn.size, drawn.mode) == ((60, 90), "RGB")
    light = np.asarray(drawn.convert("L"), np.float32)
    assert light[75, 45] > light[15, 15] + 50
    assert overlay(grey, seen, strength=0).tobytes() == grey.tobytes()


def test_the_part_that_a_cropping_encoder_sees(tmp_path: Path) -> None:
    cropping = load_captioner(tiny_captioner("clipcap-mlp", tmp_path / "clipcap"))
    assert seen_part(cropping, noise((40, 60))).size == (40, 40)
    stretching = load_captioner(make_blip(tmp_path / "blip"))
    assert seen_part(stretching, noise((40, 60))).size == (40, 60)


def test_settings_are_untouched_by_an_error(tmp_path: Path) -> None:
    captioner = load_captioner(make_blip(tmp_path))
    captioner.image_size = (31, 17)  # no grid of square patches has eight cells here
    with pytest.raises(InputError, match="no grid of square patches"):
        attention_maps(captioner, noise().resize((17, 31)), text=TEXT)
    assert not any(m._forward_hooks for m in captioner.model.modules())
