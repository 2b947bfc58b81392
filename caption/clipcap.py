"""ClipCap: a CLIP embedding, mapped to a prefix of tokens that GPT-2 continues (arXiv 2111.09734).

transformers has no such class; this one saves and loads as its own do (config.json with
`model_type` "clipcap", safetensors). The original's `ignore_index=0` also left out every "!",
GPT-2's token 0; here only pads and the place of the prefix are left out.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    CLIPConfig,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedConfig,
    PreTrainedModel,
)

from caption import InputError
from caption.captioners import Checkpoint, quiet
from caption.decoding import CachedSession, Session
from caption.families import TextLike, check_tokenizer, end_tokens, new_cache, prompt_of
from caption.preprocess import load_image_processor, picture_size, pixels_of
from caption.trust import checked

if TYPE_CHECKING:
    from PIL.Image import Image


class ClipCapConfig(PreTrainedConfig):  # type: ignore[misc,unused-ignore]
    """Shape of a ClipCap network."""

    model_type = "clipcap"
    sub_configs = {"vision_config": CLIPVisionConfig, "text_config": GPT2Config}  # noqa: RUF012

    def __init__(
        self,
        vision_config: Any = None,
        text_config: Any = None,
        mapper: Literal["mlp", "transformer"] = "mlp",
        prefix_length: int = 10,
        clip_length: int = 10,
        mapper_layers: int = 8,
        mapper_heads: int = 8,
        normalize: bool = False,
        **more: Any,
    ) -> None:
        """mapper: "mlp" (d -> 768 L / 2 -> tanh -> 768 L) or "transformer" (learned constants).

        prefix_length: tokens GPT-2 sees. clip_length: tokens the Transformer mapper makes of the
        embedding. normalize: the embedding has length 1.
        """
        self.vision_config = _config(vision_config, CLIPVisionConfig)
        self.text_config = _config(text_config, GPT2Config)
        self.mapper, self.normalize = mapper, normalize
        self.prefix_length, self.clip_length = prefix_length, clip_length
        self.mapper_layers, self.mapper_heads = mapper_layers, mapper_heads
        more.setdefault("tie_word_embeddings", True)
        super().__init__(**more)


class TransformerMapper(nn.Module):
    """Learned constants look at the embedding; what becomes of them is the prefix.

    Layers are pre-norm, ReLU, twice as wide inside, without dropout.
    """

    def __init__(self, config: ClipCapConfig, inputs: int, width: int) -> None:
        super().__init__()
        self.length = config.clip_length
        self.spread = nn.Linear(inputs, config.clip_length * width)
        self.constants = nn.Parameter(torch.randn(config.prefix_length, width))
        layer = nn.TransformerEncoderLayer(
            width,
            config.mapper_heads,
            dim_feedforward=2 * width,
            dropout=0.0,
            batch_first=True,
            norm_first=True,
        )
        self.layers = nn.TransformerEncoder(layer, config.mapper_layers, enable_nested_tensor=False)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(n, d) -> (n, prefix_length, D)."""
        n = len(embeddings)
        x = self.spread(embeddings).view(n, self.length, -1)
        x = torch.cat([x, self.constants.expand(n, -1, -1)], 1)
        prefix: torch.Tensor = self.layers(x)[:, self.length :]
        return prefix


class MlpMapper(nn.Module):
    """Two linear layers with a tanh between them."""

    def __init__(self, config: ClipCapConfig, inputs: int, width: int) -> None:
        super().__init__()
        outputs = config.prefix_length * width
        self.length = config.prefix_length
        self.inner = nn.Linear(inputs, outputs // 2)
        self.outer = nn.Linear(outputs // 2, outputs)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(n, d) -> (n, prefix_length, D)."""
        prefix: torch.Tensor = self.outer(self.inner(embeddings).tanh())
        return prefix.view(len(embeddings), self.length, -1)


MAPPERS: dict[str, Any] = {"mlp": MlpMapper, "transformer": TransformerMapper}
"""Name of a mapper -> its module."""


class ClipCapModel(PreTrainedModel):  # type: ignore[misc,unused-ignore]
    """CLIP's image half, the mapper, and GPT-2 with its head."""

    config_class = ClipCapConfig
    base_model_prefix = "clipcap"
    supports_gradient_checkpointing = True
    main_input_name = "pixel_values"
    _supports_sdpa = True

    def __init__(self, config: ClipCapConfig) -> None:
        super().__init__(config)
        self.clip = CLIPVisionModelWithProjection(config.vision_config)
        self.language_model = GPT2LMHeadModel(config.text_config)
        self.mapper = MAPPERS[config.mapper](
            config, config.vision_config.projection_dim, config.text_config.n_embd
        )
        self.post_init()

    def get_input_embeddings(self) -> Any:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> Any:
        return self.language_model.get_output_embeddings()

    def _init_weights(self, module: Any) -> None:
        pass  # the mapper's layers draw their own; both halves theirs


class ClipCap(TextLike):
    """Features are CLIP's projected image embeddings (n, 1, d): a few hundred numbers a photo."""

    family = "clipcap"

    def __init__(self, name: str, model: Any, images: Any, tokenizer: Any, prompt: str) -> None:
        self.name, self.model, self.images, self.tokenizer = name, model, images, tokenizer
        self.prompt = prompt
        self.image_size = picture_size(images)
        self.ends = end_tokens(model.config.text_config.eos_token_id, tokenizer.eos_token_id)
        self.pad = self.ends[0]
        # The first token only marks the place of the prefix, which predicts the caption's first.
        self.start = [self.ends[0], *self._tokens(prompt)]
        self.room = model.config.text_config.n_positions - model.config.prefix_length

    @classmethod
    def load(cls, checkpoint: Checkpoint) -> "ClipCap":
        """Read a folder of a checkpoint; raises OSError or ValueError as transformers does."""
        model = checkpoint.weights(ClipCapModel)
        images = load_image_processor(checkpoint.folder)
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
        check_tokenizer(tokenizer, model.config.text_config.vocab_size)
        return cls(checkpoint.name, model, images, tokenizer, prompt_of(cls, checkpoint))

    @classmethod
    def from_parts(
        cls,
        clip: str | Path,
        gpt2: str | Path,
        *,
        mapper: Literal["mlp", "transformer"] = "mlp",
        prefix_length: int = 10,
        clip_length: int | None = None,
        mapper_layers: int = 8,
        mapper_heads: int = 8,
        normalize: bool = False,
        seed: int = 0,
    ) -> "ClipCap":
        """Join a pretrained CLIP and a pretrained GPT-2 by a new mapper, drawn from `seed`.

        clip, gpt2: folders or names of the hub. clip_length: default `prefix_length`. Other
        arguments: see ClipCapConfig. The mapper has to be learned: method "bridge" (GPT-2 frozen)
        or "decoder" (GPT-2 tuned). Raises InputError on a setting that cannot work.
        """
        if mapper not in MAPPERS or prefix_length < 1:
            raise InputError(
                f"mapper={mapper!r}, prefix_length={prefix_length}: expected one of "
                f"{sorted(MAPPERS)} and at least 1 token"
            )
        for part in (clip, gpt2):
            checked(part)
        try:
            with quiet():
                eyes = CLIPVisionModelWithProjection.from_pretrained(
                    clip, config=_eyes(clip), dtype="float32"
                )
                language = GPT2LMHeadModel.from_pretrained(gpt2, dtype="float32")
            tokenizer = AutoTokenizer.from_pretrained(gpt2, trust_remote_code=False)
            images = load_image_processor(Path(clip))
        except (OSError, ValueError) as error:
            raise InputError(f"ClipCap from {clip} and {gpt2}: {error}") from error
        if mapper == "transformer" and language.config.n_embd % mapper_heads:
            raise InputError(
                f"mapper_heads={mapper_heads} does not divide GPT-2's width "
                f"{language.config.n_embd}"
            )
        config = ClipCapConfig(
            eyes.config,
            language.config,
            mapper,
            prefix_length,
            clip_length or prefix_length,
            mapper_layers,
            mapper_heads,
            normalize,
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = ClipCapModel(config)
        model.clip.load_state_dict(eyes.state_dict())
        model.language_model.load_state_dict(language.state_dict())
        return cls(f"{clip}+{gpt2}", model.eval(), images, tokenizer, "")

    def preprocess(self, image: "Image") -> NDArray[np.float32]:
        return pixels_of(image, self.images)

    def encode_images(self, pixels: torch.Tensor) -> torch.Tensor:
        seen = self.model.clip(pixel_values=pixels.to(self.model.dtype)).image_embeds
        features: torch.Tensor = seen[:, None]
        return features

    def open_session(self, features: torch.Tensor, room: int, *, keep: bool = True) -> Session:
        model = self.model
        embeddings = features[:, 0].to(model.dtype)
        if model.config.normalize:
            embeddings = nn.functional.normalize(embeddings, dim=-1)
        n = len(features)

        def write(x: Any, cache: Any, last: int, _: Any) -> Any:
            return model.language_model(
                inputs_embeds=x,
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=last,
            ).logits

        return CachedSession(
            write,
            model.get_input_embeddings(),
            new_cache(model, n, keep=keep),
            context=self._in_front(model.mapper(embeddings), n),
            start_stands_for_context=True,
        )

    def _save(self, folder: Path) -> None:
        self.model.save_pretrained(folder)
        self.images.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _config(given: Any, kind: Any) -> Any:
    if given is None:
        return kind()
    return kind(**given) if isinstance(given, dict) else given


def _eyes(clip: str | Path) -> CLIPVisionConfig:
    """Configuration of a CLIP's vision half, as wide as its projection really is.

    A whole CLIP states that width beside its halves; in the half's own there may be a default.
    """
    config = AutoConfig.from_pretrained(clip, trust_remote_code=False)
    if isinstance(config, CLIPConfig):
        vision: CLIPVisionConfig = config.vision_config
        vision.projection_dim = config.projection_dim
        return vision
    if not isinstance(config, CLIPVisionConfig):
        raise InputError(f"the encoder is of type {config.model_type}: expected a CLIP")
    return config
