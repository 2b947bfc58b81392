"""Tiny untrained checkpoints of the real classes, and drawn photos that differ by colour."""

from pathlib import Path

import torch
from PIL import Image

COLOURS = ("red", "green", "blue", "white", "black", "yellow", "pink", "grey")
WORDS = (*COLOURS, "a", "shirt", "dress", "with", "long", "sleeves", "short", "t")


def make_blip(folder: Path, *, seed: int = 0) -> Path:
    """A BLIP of 60,000 parameters for photos of 32 x 16 pixels, as `save_pretrained` writes it."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipProcessor,
    )
    from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

    letters = "abcdefghijklmnopqrstuvwxyz"
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    pieces = [*special, *letters, *(f"##{c}" for c in letters), *",.-/0123456789"]
    pieces += [w for w in WORDS if w not in pieces]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    tokenizer = BertTokenizerFast(vocab=vocabulary, bos_token="[DEC]")  # noqa: S106
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    shape |= {"num_hidden_layers": 2, "initializer_range": 0.05, "projection_dim": 16}
    config = BlipConfig(
        text_config={
            **shape,
            "vocab_size": len(pieces),
            "encoder_hidden_size": 32,
            "max_position_embeddings": 40,
            "bos_token_id": vocabulary["[DEC]"],
            "eos_token_id": vocabulary["[SEP]"],
            "sep_token_id": vocabulary["[SEP]"],
            "pad_token_id": 0,
        },
        vision_config={**shape, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
    model.save_pretrained(folder)
    images = BlipImageProcessorPil(size={"height": 32, "width": 16})
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return folder


def draw_photos(folder: Path) -> list[tuple[str, Path, str]]:
    """Eight JPEGs, one a colour: (id, path, description)."""
    folder.mkdir(parents=True, exist_ok=True)
    photos = []
    for number, colour in enumerate(COLOURS):
        path = folder / f"{number:010d}.jpg"
        picture = Image.new("RGB", (24, 48), "white" if colour != "white" else "navy")
        picture.paste(Image.new("RGB", (16, 24), colour), (4, 4 + 2 * number))
        picture.save(path, quality=95)
        garment = "t-shirt" if number % 2 else "dress"
        sleeves = "long" if number % 3 else "short"
        photos.append((path.stem, path, f"a {colour} {garment} with {sleeves} sleeves"))
    return photos
