"""Captioners that answer a question about the photo: LLaVA, and any other chat checkpoint."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caption.captioners import Checkpoint, working_dtype
from caption.decoding import CachedSession, Session
from caption.families import (
    TextLike,
    check_tokenizer,
    end_tokens,
    first_token,
    new_cache,
    prompt_of,
)
from caption.preprocess import picture_size, pixels_of

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

ASK = "Describe the clothing item in this photo."
LLAVA_TEMPLATE = "USER: <image>\n{prompt} ASSISTANT:"
"""What LLaVA-1.5 was trained with, for folders without a chat template."""


class LlavaCaptioner(TextLike):
    """LLaVA-1.5: CLIP's patches, projected to tokens of a LLaMA (arXiv 2310.03744).

    Features are CLIP's patch states (n, patches, D) before the projection, which belongs to the
    text side.
    """

    family = "llava"
    default_prompt = ASK

    def __init__(self, name: str, model: Any, processor: Any, prompt: str) -> None:
        self.name, self.model, self.processor, self.prompt = name, model, processor, prompt
        self.tokenizer = processor.tokenizer
        self.image_size = picture_size(processor.image_processor)
        text = model.config.text_config
        self.ends = end_tokens(
            model.generation_config, text.eos_token_id, self.tokenizer.eos_token_id
        )
        self.pad = first_token(self.tokenizer.pad_token_id, text.pad_token_id, self.ends[0])
        self.asked = rendered(processor, prompt) or LLAVA_TEMPLATE.format(prompt=prompt)
        ids = prompt_ids(self.tokenizer, self.asked, self.ends)
        image = int(model.config.image_token_index)
        if ids.count(image) != 1:
            raise ValueError(f"its chat template places {ids.count(image)} images; expected one")
        place = ids.index(image)
        self.before, self.after, self.start = ids[:place], ids[place + 1 : -1], ids[-1:]
        patches = (
            model.config.vision_config.image_size // model.config.vision_config.patch_size
        ) ** 2
        self.room = text.max_position_embeddings - patches - len(ids)

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "LlavaCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaProcessor

        model = checkpoint.weights(LlavaForConditionalGeneration, unused=r".*post_layernorm.*")
        processor = AutoProcessor.from_pretrained(
            checkpoint.folder, backend="pil", trust_remote_code=checkpoint.trusted
        )
        if not isinstance(processor, LlavaProcessor):
            raise ValueError(f"its processor is a {type(processor).__name__}, not LLaVA's")
        check_tokenizer(processor.tokenizer, model.get_input_embeddings().num_embeddings)
        return cls(checkpoint.name, model, processor, prompt_of(cls, checkpoint))

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return pixels_of(image, self.processor.image_processor)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        import torch

        config, tower = self.model.config, self.model.model.vision_tower
        layers = config.vision_feature_layer
        states = tower(pixels.to(tower.dtype), output_hidden_states=True).hidden_states
        chosen = [states[layer] for layer in ([layers] if isinstance(layers, int) else layers)]
        if config.vision_feature_select_strategy == "default":  # without the class token
            chosen = [x[:, 1:] for x in chosen]
        return torch.cat(chosen, -1)

    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        import torch

        inner = self.model.model
        embed = inner.get_input_embeddings()
        n = len(features)
        bridge = inner.multi_modal_projector
        seen = bridge(features.to(working_dtype(bridge)))
        before, after = (
            embed(torch.tensor(ids, dtype=torch.int64, device=features.device)).expand(n, -1, -1)
            for ids in (self.before, self.after)
        )
        context = torch.cat([before, seen.to(before.dtype), after], 1)

        def write(x: Any, cache: Any, last: int, _: Any) -> Any:
            hidden = inner.language_model(
                inputs_embeds=x, past_key_values=cache, use_cache=cache is not None
            ).last_hidden_state
            return self.model.lm_head(hidden[:, -last:])

        cache = new_cache(self.model, n, keep=keep)
        return CachedSession(write, embed, cache, context=self._in_front(context, n))

    @property
    def _lead(self) -> str:
        return self.asked

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class ChatCaptioner(TextLike):
    """Any AutoModelForImageTextToText whose processor has a chat template.

    Photos are laid on a white square of one size, so that all of them become equally many image
    tokens, and what accompanies the pixels (grids, masks, positions) is known beforehand. The
    network takes pixels and text together: nothing is cached.
    """

    family = "chat"
    default_prompt = ASK
    cacheable = False

    def __init__(self, name: str, model: Any, processor: Any, prompt: str, side: int) -> None:
        import torch
        from PIL import Image

        self.name, self.model, self.processor, self.prompt = name, model, processor, prompt
        self.tokenizer = processor.tokenizer
        self.image_size = (side, side)
        self.ends = end_tokens(
            model.generation_config, model.config.get_text_config(), self.tokenizer
        )
        self.pad = first_token(self.tokenizer.pad_token_id, self.ends[0])
        asked = rendered(processor, prompt)
        if asked is None:
            raise ValueError("its processor has no chat template")
        self.asked = asked
        blank = Image.new("RGB", (side, side), "white")
        inputs = dict(processor(text=[asked], images=[blank], return_tensors="pt"))
        self.shape = tuple(inputs.pop("pixel_values").shape)
        ids = inputs.pop("input_ids")
        while len(ids[0]) > 1 and int(ids[0, -1]) in self.ends:
            ids = ids[:, :-1]  # a tokenizer that ends every text
        inputs.pop("attention_mask", None)
        kinds = inputs.pop("mm_token_type_ids", None)
        self.types = inputs.pop("token_type_ids", None)
        self.beside: dict[str, torch.Tensor] = {
            k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)
        }
        self.asked_ids, self.start = ids, [int(ids[0, -1])]
        self.positions = None
        if hasattr(model.model, "get_rope_index"):  # positions in three axes, the same for all
            self.positions, _ = model.model.get_rope_index(
                ids, mm_token_type_ids=kinds[:, : ids.shape[1]], **self.beside
            )
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 4096
        self.room = int(longest) - ids.shape[1]
        taken = inspect.signature(model.forward).parameters
        self.keeps = "logits_to_keep" in taken

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "ChatCaptioner":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        from transformers import AutoModelForImageTextToText, AutoProcessor

        model = checkpoint.weights(AutoModelForImageTextToText)
        try:
            try:
                processor = AutoProcessor.from_pretrained(
                    checkpoint.folder, backend="pil", trust_remote_code=checkpoint.trusted
                )
            except (ImportError, AttributeError):  # readers of films have no Pillow backend
                processor = AutoProcessor.from_pretrained(
                    checkpoint.folder, trust_remote_code=checkpoint.trusted
                )
        except (ImportError, AttributeError) as error:
            raise ValueError(
                "its processor needs a package that is not installed, mostly torchvision "
                f"(`pip install torchvision`): {error}"
            ) from error
        if getattr(processor, "image_processor", None) is None:
            raise ValueError("it has no image processor and tokenizer in one processor")
        check_tokenizer(processor.tokenizer, model.get_input_embeddings().num_embeddings)
        side = square_side(model, processor.image_processor)
        return cls(checkpoint.name, model, processor, prompt_of(cls, checkpoint), side)

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        from PIL import ImageOps

        square = ImageOps.pad(image.convert("RGB"), self.image_size, color="white")
        pixels = self.processor.image_processor(square, return_tensors="pt")["pixel_values"]
        return np.ascontiguousarray(pixels.numpy(), dtype=np.float32).reshape(self.shape)

    def encode_images(self, pixels: "torch.Tensor") -> "torch.Tensor":
        return pixels

    def open_session(self, features: "torch.Tensor", room: int, *, keep: bool = True) -> Session:
        return _ChatSession(self, features, new_cache(self.model, len(features), keep=keep))

    @property
    def _lead(self) -> str:
        return self.asked

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.processor.save_pretrained(folder)


class _ChatSession:
    """A whole vision-language network of transformers, fed with tokens."""

    def __init__(self, captioner: ChatCaptioner, pixels: "torch.Tensor", cache: Any) -> None:
        self.captioner, self.cache = captioner, cache
        self.pixels: torch.Tensor | None = pixels
        self.length = 0

    def feed(self, ids: "torch.Tensor") -> "torch.Tensor":
        import torch

        own = self.captioner
        n, t = ids.shape
        more: dict[str, Any] = {}
        if self.pixels is not None:  # behind the question, whose last token starts the answer
            asked = own.asked_ids[:, :-1].to(ids.device).expand(n, -1)
            ids = torch.cat([asked, ids], 1)
            pixels = self.pixels.flatten(0, 1).to(own.model.dtype)
            more = {
                k: v.to(ids.device).repeat(n, *[1] * (v.ndim - 1)) for k, v in own.beside.items()
            }
            more["pixel_values"] = pixels
            self.pixels = None
        a, b = self.length, self.length + ids.shape[1]
        self.length = b
        if own.positions is not None:
            asked = own.positions.to(ids.device)  # (3, 1, P)
            behind = torch.arange(b - asked.shape[2], device=ids.device) + asked.max() + 1
            places = torch.cat([asked, behind.expand(3, 1, -1)], 2)[..., a:b]
            more["position_ids"] = places.expand(-1, n, -1)
        if own.types is not None:  # answers are the second kind of text
            kinds = torch.nn.functional.pad(own.types.to(ids.device), (0, b), value=1)
            more["token_type_ids"] = kinds[:, a:b].expand(n, -1)
        if own.keeps:
            more["logits_to_keep"] = t
        logits: torch.Tensor = own.model(
            input_ids=ids,
            past_key_values=self.cache,
            use_cache=self.cache is not None,
            **more,
        ).logits
        return logits[:, -t:].float()

    def select(self, rows: "torch.Tensor") -> None:
        self.cache.reorder_cache(rows)


def rendered(processor: Any, prompt: str) -> str | None:
    """The question about a photo as the checkpoint's chat template writes it; None without one."""
    if not getattr(processor, "chat_template", None):
        return None
    content = [{"type": "image"}, {"type": "text", "text": prompt}]
    message = [{"role": "user", "content": content}]
    return str(processor.apply_chat_template(message, add_generation_prompt=True, tokenize=False))


def prompt_ids(tokenizer: Any, text: str, ends: Sequence[int]) -> list[int]:
    """Tokens of the question, with the start but without an end that the tokenizer may add."""
    ids = list(tokenizer(text).input_ids)
    while len(ids) > 1 and ids[-1] in ends:
        ids.pop()
    return ids


def square_side(model: Any, processor: Any) -> int:
    """Pixels of the white square that photos are laid on.

    The processor's own size where it has one, else the vision encoder's, else 448; never more than
    the processor allows.
    """
    size = dict(processor.size)
    crop = dict(getattr(processor, "crop_size", None) or {})
    for known in (size.get("height"), crop.get("height")):
        if known:
            return int(known)
    vision = getattr(model.config, "vision_config", None)
    side = getattr(vision, "image_size", None)
    if isinstance(side, int):
        return side
    most = getattr(processor, "max_pixels", None) or size.get("longest_edge") or 448**2
    return min(448, int(most**0.5))
