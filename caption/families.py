"""Captioners with a language model made for one photo: BLIP, BLIP-2, vision encoder-decoders."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.captioners import Captioner, Checkpoint, TextBatch, tidy
from caption.decoding import BlipSession, Session

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image


class BlipCaptioner(Captioner):
    """BLIP: a vision transformer and a BERT decoder with cross-attention (arXiv 2201.12086)."""

    family = "blip"

    def __init__(self, name: str, model: Any, processor: Any, prompt: str) -> None:
        self.name = name
        self.model = model
        self.processor = processor
        self.tokenizer = processor.tokenizer
        size = processor.image_processor.size
        self.image_size = (int(size["height"]), int(size["width"]))
        text = model.config.text_config
        self.prompt = prompt
        self.start = [
            text.bos_token_id,
            *self.tokenizer(prompt, add_special_tokens=False).input_ids,
        ]
        self.ends = (text.sep_token_id,)
        self.pad = text.pad_token_id
        self.room = text.max_position_embeddings

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "BlipCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import BertTokenizerFast, BlipForConditionalGeneration, BlipProcessor
        from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

        model = checkpoint.weights(BlipForConditionalGeneration)
        images = BlipImageProcessorPil.from_pretrained(checkpoint.folder)
        tokenizer = BertTokenizerFast.from_pretrained(checkpoint.folder)
        check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        processor = BlipProcessor(images, tokenizer)
        return cls(checkpoint.name, model, processor, checkpoint.prompt or cls.default_prompt)

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return stretched(image, self.image_size, self.processor.image_processor)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        features: torch.Tensor = self.model.vision_model(pixel_values=pixels).last_hidden_state
        return features

    def open_session(self, features: "torch.Tensor", room: int) -> Session:
        return BlipSession(self.model.text_decoder, features, room)

    def logits(self, features: "torch.Tensor", batch: TextBatch) -> "torch.Tensor":
        # The network's own forward: it knows dropout of attention and gradient checkpointing.
        logits: torch.Tensor = self.model.text_decoder(
            input_ids=batch.input_ids, encoder_hidden_states=features, use_cache=False
        ).logits
        return logits.float()

    def text_of(self, tokens: Sequence[int]) -> str:
        return tidy(self.tokenizer.decode(list(tokens), skip_special_tokens=True))

    def add_words(self, words: Sequence[str]) -> None:
        import torch
        from transformers import AddedToken

        pieces = [self.tokenizer(w, add_special_tokens=False).input_ids for w in words]
        first = self.model.config.text_config.vocab_size
        # Tokens may not fill the whole embedding: new ones are appended to the tokenizer's end.
        start = len(self.tokenizer)
        self.tokenizer.add_tokens([AddedToken(w, single_word=True, normalized=True) for w in words])
        if len(self.tokenizer) != start + len(words):
            raise InputError("add_words: some of the words are tokens already, or stand twice")
        self.source = None
        decoder = self.model.text_decoder
        size = max(first, len(self.tokenizer))
        decoder.resize_token_embeddings(size, mean_resizing=False)
        self.model.config.text_config.vocab_size = size
        embeddings = decoder.get_input_embeddings().weight
        bias = decoder.cls.predictions.bias
        with torch.no_grad():
            for row, own in enumerate(pieces, start=start):
                embeddings[row] = embeddings[own].mean(0)
                bias[row] = bias[own].mean()
        self.model.tie_weights()

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


def check_tokenizer(tokenizer: Any, vocabulary: int) -> None:
    """Raise ValueError when a tokenizer cannot be the one of a network with so many tokens."""
    if len(tokenizer) > vocabulary or len(tokenizer) < 10:
        raise ValueError(
            f"its tokenizer has {len(tokenizer)} tokens, its network {vocabulary}: the tokenizer "
            "is missing or another one"
        )


def stretched(image: "Image", size: tuple[int, int], processor: Any) -> NDArray[np.float32]:
    """Resize to (height, width) and normalise as the image processor does; (3, H, W).

    What a processor of Pillow pictures computes, without its overhead a call.
    """
    from PIL.Image import Resampling

    height, width = size
    resized = image.convert("RGB").resize((width, height), Resampling(processor.resample))
    return normalised(resized, processor)


def normalised(image: "Image", processor: Any) -> NDArray[np.float32]:
    """Pixels of an RGB picture, scaled as the image processor does; (3, H, W)."""
    mean = np.asarray(processor.image_mean, dtype=np.float32)
    std = np.asarray(processor.image_std, dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32) * (np.float32(processor.rescale_factor) / std)
    pixels -= mean / std
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))
