"""Which weights learn: all, the decoder, or low-rank adapters; plus last layers of the encoder.

Targets are named by meaning and resolved per family, so that one setting fits every captioner.
"""

import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from caption import InputError
from caption.captioners import Captioner, replace_folder

Method = Literal["full", "decoder", "lora"]
Targets = Literal["attention-qv", "attention", "attention+mlp"]

TARGETS: dict[str, dict[Targets, str]] = {
    "blip": {
        "attention-qv": r"text_decoder\..*\.(query|value)",
        "attention": r"text_decoder\..*(\.(query|key|value)|attention\.output\.dense)",
        "attention+mlp": r"text_decoder\..*\.(query|key|value|dense)",
    }
}
"""Family -> meaning -> pattern that the whole name of an adapted linear layer matches."""

DECODERS: dict[str, str] = {"blip": "text_decoder"}
"""Family -> name of the sub-module that writes the text."""

ENCODER_LAYERS: dict[str, str] = {"blip": "vision_model.encoder.layers"}
"""Family -> name of the vision encoder's list of layers."""

ENCODER_TARGETS: dict[str, str] = {"blip": r"self_attn\.(qkv|projection)|mlp\.(fc1|fc2)"}
"""Family -> pattern of a linear layer's name inside an encoder layer."""


@dataclass(frozen=True)
class AdaptConfig:
    """What learns during fine-tuning."""

    method: Method = "lora"
    """"full": every weight; "decoder": the text decoder; "lora": low-rank adapters on it."""
    encoder_layers: int = 0
    """The vision encoder's last n layers learn too (by LoRA under "lora")."""
    targets: Targets = "attention+mlp"
    """LoRA: which of the decoder's linear layers are adapted."""
    rank: int = 16
    """LoRA: rank of each update."""
    alpha: float = 32.0
    """LoRA: updates are scaled by alpha / rank (by alpha / sqrt(rank) under rslora)."""
    dropout: float = 0.1
    """LoRA: dropout on the adapters' inputs."""
    rslora: bool = False
    """Rank-stabilised LoRA (arXiv 2312.03732)."""


@dataclass(frozen=True)
class Adaptation:
    """An adapted captioner: how many weights learn, and how the result is kept."""

    trainable: int
    total: int
    encoder_frozen: bool
    """Encoder outputs do not change while training: they can be computed once."""
    adapters: Any = None
    """The PeftModel around `captioner.model`; None when weights themselves learn."""

    def __str__(self) -> str:
        return f"{self.trainable:,} of {self.total:,} weights learn ({self.share:.1%})"

    @property
    def share(self) -> float:
        """Trainable part of all parameters, 0..1."""
        return self.trainable / self.total


def adapt(captioner: Captioner, config: AdaptConfig, *, seed: int = 0) -> Adaptation:
    """Freeze and adapt `captioner.model` in place.

    seed: of the adapters' initial weights. Raises InputError on a setting the family cannot have.
    """
    model, family = captioner.model, captioner.family
    layers = model.get_submodule(ENCODER_LAYERS[family])
    n = config.encoder_layers
    if not 0 <= n <= len(layers):
        raise InputError(
            f"encoder_layers={n}: the {family} captioner {captioner.name!r} has {len(layers)} "
            f"encoder layers; expected 0..{len(layers)}"
        )
    adapters = None
    if config.method == "lora":
        adapters = _add_lora(captioner, config, len(layers), seed)
    elif config.method in ("decoder", "full"):
        model.requires_grad_(config.method == "full")
        model.get_submodule(DECODERS[family]).requires_grad_(True)
        for layer in layers[len(layers) - n :]:
            layer.requires_grad_(True)
    else:
        raise InputError(f"method={config.method!r}: expected 'full', 'decoder' or 'lora'")
    parameters = list(model.parameters())
    return Adaptation(
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        total=sum(p.numel() for p in parameters),
        encoder_frozen=n == 0 and config.method != "full",
        adapters=adapters,
    )


def merge(captioner: Captioner, adaptation: Adaptation) -> None:
    """Fold adapters into the weights they adapt; nothing to do when weights learned themselves."""
    if adaptation.adapters is not None:
        captioner.model = adaptation.adapters.merge_and_unload()


def save_adapter(captioner: Captioner, adaptation: Adaptation, folder: Path, base: str) -> None:
    """Write the adapter (peft's format) with `base.json`: name and fingerprint of its base.

    base: the captioner's fingerprint before it was adapted. An older adapter is replaced whole.
    """

    def write(new: Path) -> None:
        adaptation.adapters.save_pretrained(new)
        (new / "base.json").write_text(
            json.dumps({"name": captioner.name, "fingerprint": base}, indent=1)
        )

    replace_folder(folder, write)


def load_adapter(captioner: Captioner, adapter: Path) -> None:
    """Put a saved adapter on the captioner it was trained on; merged where that is possible.

    Raises InputError: no adapter, one of another base, broken files.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter} is not an adapter: it has no adapter_config.json")
    base = adapter / "base.json"
    if base.is_file():
        trained_on = json.loads(base.read_text())
        if trained_on["fingerprint"] != captioner.fingerprint():
            raise InputError(
                f"adapter {adapter} was trained on {trained_on['name']!r}, whose weights differ "
                f"from those of {captioner.name!r}; load it on the captioner it was trained on"
            )
    try:
        with warnings.catch_warnings():
            # peft asks transformers for a property that transformers renamed.
            warnings.simplefilter("ignore", FutureWarning)
            merged = PeftModel.from_pretrained(captioner.model, str(adapter)).merge_and_unload()
    except (RuntimeError, ValueError, OSError, SafetensorError) as error:
        raise InputError(
            f"adapter {adapter} does not fit captioner {captioner.name!r}: {error}"
        ) from error
    captioner.model = merged


def _add_lora(captioner: Captioner, config: AdaptConfig, layers: int, seed: int) -> Any:
    import torch
    from peft import LoraConfig, get_peft_model

    family = captioner.family
    if config.rank < 1:
        raise InputError(f"rank={config.rank}: a LoRA update has a rank of at least 1")
    if config.targets not in TARGETS[family]:
        raise InputError(
            f"targets={config.targets!r}: a {family} captioner has {sorted(TARGETS[family])}"
        )
    pattern = TARGETS[family][config.targets]
    if config.encoder_layers:
        last = "|".join(str(i) for i in range(layers - config.encoder_layers, layers))
        where = re.escape(ENCODER_LAYERS[family])
        pattern = f"({pattern}|{where}\\.({last})\\.({ENCODER_TARGETS[family]}))"
    # No task_type: peft's CAUSAL_LM wrapper does not know how to call an image captioner.
    lora = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type,unused-ignore]
        lora_dropout=config.dropout,
        bias="none",
        use_rslora=config.rslora,
        target_modules=pattern,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers for a property that transformers renamed.
        warnings.simplefilter("ignore", FutureWarning)
        torch.manual_seed(seed)
        return get_peft_model(captioner.model, lora)
