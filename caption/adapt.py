"""Which weights learn: all, the decoder, or adapters on it; plus last layers of the encoder.

Parts and targets are named by meaning and resolved per family, so that one setting fits every
captioner; a combination that can't work says why, and what can.
"""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from caption import InputError
from caption.captioners import Captioner, replace_folder
from caption.trust import checked

# peft loads bitsandbytes where it is installed, which warns of a kernel that nobody asked for.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)

Method = Literal["full", "decoder", "bridge", "lora", "qlora", "ia3", "adapter", "prompt", "prefix"]
Targets = Literal["attention-qv", "attention", "attention+mlp", "all-linear"]


@dataclass(frozen=True)
class Parts:
    """Names of a network's sub-modules."""

    encoder: str
    """The vision encoder: the largest list of layers in it is counted by `encoder_layers`."""
    sees: tuple[str, ...]
    """Everything that `encode_images` computes with."""
    bridge: tuple[str, ...]
    """What stands between the vision encoder and the language model."""
    text: tuple[str, ...]
    """The language model with its head."""


PARTS: dict[str, Parts] = {
    "blip": Parts("vision_model", ("vision_model",), (), ("text_decoder",)),
    "blip-2": Parts(
        "vision_model",
        ("vision_model", "qformer", "query_tokens"),
        ("qformer", "query_tokens", "language_projection"),
        ("language_model",),
    ),
    "llava": Parts(
        "model.vision_tower",
        ("model.vision_tower",),
        ("model.multi_modal_projector",),
        ("model.language_model", "lm_head"),
    ),
    "vision-encoder-decoder": Parts("encoder", ("encoder",), ("enc_to_dec_proj",), ("decoder",)),
    "clipcap": Parts("clip", ("clip",), ("mapper",), ("language_model",)),
}
"""Family -> parts; those of the general path ("chat") are found in the network."""

ROLES: dict[str, str] = {
    "query": r"(query|q_proj|q|q_attn|wq)",
    "key": r"(key|k_proj|k|wk)",
    "value": r"(value|v_proj|v|wv)",
    "fused": r"(qkv|qkv_proj|c_attn|query_key_value)",
    "output": r"(\w*attention\.output\.dense|\w*attn\w*\.(projection|proj|c_proj)|out_proj|o_proj"
    r"|o|crossattention\.c_proj|\w*attention\.projection)",
    "mlp-out": r"(fc2|down_proj|wo|mlp\.c_proj|output\.dense)",
    "mlp": r"(fc1|gate_proj|up_proj|gate_up_proj|c_fc|wi|wi_0|wi_1|intermediate\.dense"
    r"|transform\.dense)",
}
"""What a linear layer does -> how its name ends; the first that fits counts."""

TARGETS: dict[Targets, frozenset[str]] = {
    "attention-qv": frozenset({"query", "value", "fused"}),
    "attention": frozenset({"query", "key", "value", "fused", "output"}),
    "attention+mlp": frozenset(ROLES),
    "all-linear": frozenset(ROLES),
}
"""Meaning -> roles. A fused layer holds queries, keys and values in one. "all-linear" reaches the
vision encoder and the bridge too; the head, mostly tied to the embeddings, stays out of all."""


@dataclass(frozen=True)
class AdaptConfig:
    """What learns during fine-tuning."""

    method: Method = "lora"
    """"full": every weight; "decoder": the language model and the projection into it; "bridge":
    only what stands between eyes and language model (ClipCap's mapper, BLIP-2's Q-Former ...);
    "lora": low-rank updates (arXiv 2106.09685); "qlora": the same on 4-bit weights; "ia3": scaled
    keys, values and feed-forward (2205.05638); "adapter": bottlenecks after self- and
    cross-attention (1902.00751); "prompt": virtual tokens (2104.08691); "prefix": virtual keys and
    values in every layer (2101.00190)."""
    encoder_layers: int = 0
    """The vision encoder's last n layers learn too (by the same kind of adapter under one)."""
    targets: Targets = "attention+mlp"
    """LoRA: which linear layers are adapted; all but "all-linear" mean the language model's."""
    rank: int = 16
    """LoRA: rank of each update."""
    alpha: float = 32.0
    """LoRA: updates are scaled by alpha / rank (by alpha / sqrt(rank) under rslora)."""
    dropout: float = 0.1
    """LoRA: dropout on the adapters' inputs."""
    rslora: bool = False
    """Rank-stabilised LoRA (arXiv 2312.03732)."""
    dora: bool = False
    """LoRA: learn magnitude and direction apart (DoRA, arXiv 2402.09353)."""
    bridge: bool = False
    """Under an adapter: the projection into the language model (or mapper) learns in full too."""
    bottleneck: int = 64
    """"adapter": width of the bottleneck."""
    virtual_tokens: int = 10
    """"prompt" and "prefix": how many."""


@dataclass(frozen=True)
class Adaptation:
    """An adapted captioner: how many weights learn, and how the result is kept."""

    trainable: int
    total: int
    encoder_frozen: bool
    """Encoder outputs do not change while training: they can be computed once (which is worth it
    where `captioner.cacheable`)."""
    adapters: Any = None
    """What `save_adapter` writes (peft's PeftModel, or Attached); None when weights themselves
    learn."""

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
    parts = _parts(captioner)
    _check(captioner, config, parts)
    model = captioner.model
    text_bridge = [n for n in parts.bridge if n not in parts.sees]
    adapters = None
    if config.method in ("full", "decoder", "bridge"):
        model.requires_grad_(config.method == "full")
        if config.method == "decoder":
            _learn(model, (*parts.text, *text_bridge))
        elif config.method == "bridge":
            _learn(model, parts.bridge)
        for name in _last_layers(captioner, parts, config.encoder_layers):
            model.get_submodule(name).requires_grad_(True)
        captioner.source = None
    elif config.method in ("lora", "qlora", "ia3"):
        adapters = _add_peft(captioner, config, parts, seed, text_bridge)
    else:
        adapters = _attach(captioner, config, parts, seed, text_bridge)
    parameters = list(model.named_parameters())
    sees = tuple(f"{name}." for name in parts.sees) + parts.sees
    return Adaptation(
        trainable=sum(p.numel() for _, p in parameters if p.requires_grad),
        total=sum(p.numel() for _, p in parameters),
        encoder_frozen=not any(p.requires_grad and n.startswith(sees) for n, p in parameters),
        adapters=adapters,
    )


def merge(captioner: Captioner, adaptation: Adaptation) -> None:
    """Fold low-rank adapters into the weights they adapt.

    Nothing to do where weights learned themselves; bottlenecks, prompts, prefixes, and adapters on
    4-bit weights stay attached.
    """
    adapters = adaptation.adapters
    if hasattr(adapters, "merge_and_unload") and captioner.quantize is None:
        captioner.model = adapters.merge_and_unload()
        captioner.source = None


def save_adapter(captioner: Captioner, adaptation: Adaptation, folder: Path, base: str) -> None:
    """Write the adapter with `base.json`: name, fingerprint and prompt of its base.

    base: the captioner's fingerprint before it was adapted. An older adapter is replaced whole.
    """

    def write(new: Path) -> None:
        adaptation.adapters.save_pretrained(new)
        about = {"name": captioner.name, "fingerprint": base, "prompt": captioner.prompt}
        if captioner.source is not None:
            about["source"] = _checkpoint_hash(captioner.source)
        (new / "base.json").write_text(json.dumps(about, indent=1))

    replace_folder(folder, write)


def load_adapter(captioner: Captioner, adapter: Path) -> None:
    """Put a saved adapter on the captioner it was trained on; merged where that is possible.

    Raises InputError: no adapter, one of another base, broken files.
    """
    from peft import PeftModel
    from safetensors import SafetensorError

    if not (adapter / "adapter_config.json").is_file():
        raise InputError(f"{adapter} is not an adapter: it has no adapter_config.json")
    checked(adapter)
    _check_base(captioner, adapter)
    try:
        stored = json.loads((adapter / "adapter_config.json").read_text())
        if "peft_type" not in stored:
            config = AdaptConfig(**{f.name: stored[f.name] for f in fields(AdaptConfig)})
            parts = _parts(captioner)
            text_bridge = [n for n in parts.bridge if n not in parts.sees]
            attached = _attach(captioner, config, parts, 0, text_bridge)
            attached.load_weights(adapter)
            captioner.model.requires_grad_(True)
        else:
            with _quiet_peft():
                wrapped = PeftModel.from_pretrained(captioner.model, str(adapter))
                if captioner.quantize is None:
                    captioner.model = wrapped.merge_and_unload()
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, SafetensorError) as error:
        raise InputError(
            f"adapter {adapter} does not fit captioner {captioner.name!r}: {error}"
        ) from error
    captioner.source = None


def adapter_prompt(adapter: Path) -> str | None:
    """The prompt an adapter was trained with, where it says so."""
    try:
        prompt = json.loads((adapter / "base.json").read_text()).get("prompt")
    except (OSError, ValueError, AttributeError):
        return None
    return prompt if isinstance(prompt, str) else None


def _check_base(captioner: Captioner, adapter: Path) -> None:
    """The fingerprint has to be the base's; or else the files, read in another precision."""
    base = adapter / "base.json"
    if not base.is_file():
        return
    trained_on = json.loads(base.read_text())
    if trained_on["fingerprint"] == captioner.fingerprint():
        return
    source = trained_on.get("source")
    if source is None or captioner.source is None or source != _checkpoint_hash(captioner.source):
        raise InputError(
            f"adapter {adapter} was trained on {trained_on['name']!r}, whose weights differ "
            f"from those of {captioner.name!r}; load it on the captioner it was trained on"
        )


def _checkpoint_hash(folder: Path) -> str:
    """SHA-256 over the weight and tokenizer files of a checkpoint."""
    digest = hashlib.sha256()
    files = sorted(p for p in folder.iterdir() if p.suffix in (".safetensors", ".bin", ".model"))
    for path in [*files, folder / "tokenizer.json"]:
        if path.is_file():
            with path.open("rb") as file:
                digest.update(
                    f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}".encode()
                )
    return digest.hexdigest()


def _parts(captioner: Captioner) -> Parts:
    if captioner.family in PARTS:
        parts, model = PARTS[captioner.family], captioner.model
        there = tuple(n for n in parts.bridge if hasattr(model, n.split(".")[0]))
        return Parts(parts.encoder, parts.sees, there, parts.text)
    names = {id(module): name for name, module in captioner.model.named_modules()}
    model = captioner.model
    encoder, text = model.get_encoder(modality="image"), model.get_decoder()
    head = model.get_output_embeddings()
    if not names[id(encoder)] or not names[id(text)]:
        raise InputError(
            f"{captioner.name}: a {type(model).__name__} doesn't say which part of it sees and "
            "which writes; method 'full' needs neither, use that"
        )
    writes = (names[id(text)], *([names[id(head)]] if head is not None else []))
    # Both sit in a common root; what is in it beside them stands between them.
    root = names[id(encoder)].rpartition(".")[0]
    holder = model.get_submodule(root) if root else model
    beside = [f"{root}.{name}" if root else name for name, _ in holder.named_children()]
    bridge = tuple(n for n in beside if n != names[id(encoder)] and n not in writes)
    return Parts(names[id(encoder)], (names[id(encoder)],), bridge, writes)


def _check(captioner: Captioner, config: AdaptConfig, parts: Parts) -> None:
    family, method = captioner.family, config.method
    if method not in Method.__args__:  # type: ignore[attr-defined]
        raise InputError(f"method={method!r}: expected one of {Method.__args__}")  # type: ignore[attr-defined]
    if config.targets not in TARGETS:
        raise InputError(f"targets={config.targets!r}: expected one of {sorted(TARGETS)}")
    layers = len(_layers(captioner, parts))
    if not 0 <= config.encoder_layers <= layers:
        raise InputError(
            f"encoder_layers={config.encoder_layers}: the {family} captioner {captioner.name!r} "
            f"has {layers} encoder layers; expected 0..{layers}"
        )
    for name, of in (
        ("rank", "a LoRA update"),
        ("bottleneck", "an adapter"),
        ("virtual_tokens", "a prompt"),
    ):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: {of} has a {name} of at least 1")
    if method == "qlora" and captioner.quantize is None:
        raise InputError(
            "method='qlora' needs weights in 4 bits: load the captioner with quantize='4bit' "
            "(package bitsandbytes); 'lora' learns the same updates on whole weights"
        )
    if captioner.quantize is not None and method in ("full", "decoder", "bridge"):
        raise InputError(
            f"method={method!r}: weights in 4 bits can't learn themselves; use 'qlora', 'ia3', "
            "'adapter', 'prompt' or 'prefix', or load without quantize"
        )
    if not parts.bridge and (method == "bridge" or config.bridge):
        raise InputError(
            f"a {family} captioner has no bridge: its decoder looks at the encoder's states "
            "directly; use method 'decoder', or an adapter with bridge=False"
        )
    if method in ("prompt", "prefix"):
        if not captioner.cacheable:
            raise InputError(
                f"method={method!r}: {captioner.name!r} takes the general path, where the network "
                "mixes photo and text itself and has no place for virtual tokens; use 'lora', "
                "'ia3', 'adapter', 'decoder' or 'full'"
            )
        if config.encoder_layers:
            raise InputError(
                f"encoder_layers={config.encoder_layers}: virtual tokens reach the language model "
                "only; use 'lora', 'ia3' or 'adapter' to adapt the encoder too"
            )
        if captioner.room - config.virtual_tokens < len(captioner.start) + 8:
            raise InputError(
                f"virtual_tokens={config.virtual_tokens}: the decoder has {captioner.room} "
                "positions, which leaves no room for captions; use fewer"
            )


def _learn(model: Any, names: Iterable[str]) -> None:
    for name in names:
        part = model
        for piece in name.split("."):
            part = getattr(part, piece)  # a module, or a parameter such as BLIP-2's queries
        part.requires_grad_(True)


def _layers(captioner: Captioner, parts: Parts) -> list[str]:
    """Names of the vision encoder's layers, first to last."""
    from torch.nn import ModuleList

    encoder = captioner.model.get_submodule(parts.encoder)
    lists = [(n, m) for n, m in encoder.named_modules() if isinstance(m, ModuleList)]
    if not lists:
        return []
    name, longest = max(lists, key=lambda x: len(x[1]))
    count = len(longest)
    read = getattr(captioner.model.config, "vision_feature_layer", None)
    if read is not None:  # LLaVA reads an inner layer: those behind it would learn nothing
        count = max(
            x + count + 1 if x < 0 else x for x in ([read] if isinstance(read, int) else read)
        )
    return [f"{parts.encoder}.{name}.{i}" for i in range(count)]


def _last_layers(captioner: Captioner, parts: Parts, n: int) -> list[str]:
    layers = _layers(captioner, parts)
    return layers[len(layers) - n :]


def _linear(captioner: Captioner) -> dict[str, str]:
    """Name of every linear layer but heads -> its role ("" where it has none)."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    heads = {id(captioner.model.get_output_embeddings())}
    found: dict[str, str] = {}
    closed: list[str] = []  # computes with its layers' weights, not with the layers
    for name, module in captioner.model.named_modules():
        if isinstance(module, (nn.MultiheadAttention, nn.TransformerEncoder)):
            closed.append(f"{name}.")
        if not isinstance(module, (nn.Linear, Conv1D)) or id(module) in heads:
            continue
        if name.endswith(("lm_head", "predictions.decoder")) or name.startswith(tuple(closed)):
            continue
        fits = (r for r, end in ROLES.items() if re.search(rf"(^|\.){end}$", name))
        found[name] = next(fits, "")
    return found


def _targets(
    captioner: Captioner, config: AdaptConfig, parts: Parts, roles: frozenset[str]
) -> list[str]:
    """Linear layers with these roles in the language model and the encoder's last layers."""
    linear = _linear(captioner)
    if config.targets == "all-linear" and config.method in ("lora", "qlora"):
        return list(linear)
    where = (*parts.text, *_last_layers(captioner, parts, config.encoder_layers))
    within = tuple(f"{name}." for name in where)
    # In the encoder's layers, few and chosen by number, all roles are adapted under LoRA.
    chosen = []
    for name, role in linear.items():
        if name.startswith(within):
            text = name.startswith(tuple(f"{part}." for part in parts.text))
            everything = config.method in ("lora", "qlora") and not text
            if role in roles or (everything and role):
                chosen.append(name)
    if not chosen:
        raise InputError(
            f"targets={config.targets!r}: no linear layer of {captioner.name!r} is known to be "
            "one; use targets='all-linear', or method 'decoder'"
        )
    return chosen


def _add_peft(
    captioner: Captioner, config: AdaptConfig, parts: Parts, seed: int, text_bridge: list[str]
) -> Any:
    import torch
    from peft import IA3Config, LoraConfig, get_peft_model, prepare_model_for_kbit_training
    from transformers.pytorch_utils import Conv1D

    # No task_type: peft's CAUSAL_LM wrapper does not know how to call an image captioner.
    saved = text_bridge if config.bridge else None
    conv = any(isinstance(m, Conv1D) for m in captioner.model.modules())  # stored transposed
    settings: Any
    if config.method == "ia3":
        scaled = frozenset({"key", "value", "fused", "mlp-out"})
        names = _targets(captioner, config, parts, scaled)
        roles = _linear(captioner)
        settings = IA3Config(
            target_modules=_pattern(names),
            feedforward_modules=_pattern([n for n in names if roles[n] == "mlp-out"]),
            modules_to_save=saved,
            fan_in_fan_out=conv,
        )
    else:
        settings = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type,unused-ignore]
            lora_dropout=config.dropout,
            bias="none",
            use_rslora=config.rslora,
            use_dora=config.dora,
            target_modules=_pattern(_targets(captioner, config, parts, TARGETS[config.targets])),
            modules_to_save=saved,
            fan_in_fan_out=conv,
        )
    with torch.random.fork_rng(), _quiet_peft():
        torch.manual_seed(seed)
        if captioner.quantize is not None:
            captioner.model = prepare_model_for_kbit_training(
                captioner.model, use_gradient_checkpointing=False
            )
        return get_peft_model(captioner.model, settings)


def _attach(
    captioner: Captioner, config: AdaptConfig, parts: Parts, seed: int, text_bridge: list[str]
) -> Any:
    import torch

    from caption.bottleneck import Attached, add_bottlenecks, add_prefix, add_prompt, is_attached

    model = captioner.model
    extra = text_bridge if config.bridge else []
    if config.method == "adapter":
        names = _targets(captioner, config, parts, frozenset({"output"}))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            add_bottlenecks(model, names, config.bottleneck)
    elif config.method == "prompt":
        add_prompt(captioner, config.virtual_tokens, seed)
    else:
        add_prefix(captioner, config.virtual_tokens, seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(is_attached(name))
    _learn(model, extra)
    return Attached(model, config, extra)


def _pattern(names: list[str]) -> str:
    """A regular expression that exactly these names match, layer numbers put together."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for name in names:
        numbered = re.fullmatch(r"(.*?)\.(\d+)\.(.*)", name)
        start, number, end = numbered.groups() if numbered else (name, "", "")
        grouped.setdefault((start, end), []).append(number)
    parts = []
    for (start, end), numbers in grouped.items():
        if numbers == [""]:
            parts.append(re.escape(start))
        else:
            parts.append(rf"{re.escape(start)}\.({'|'.join(numbers)})\.{re.escape(end)}")
    return f"({'|'.join(parts)})"


class _quiet_peft(warnings.catch_warnings):
    """peft warns of a renamed property of transformers, and of Conv1D beside Linear."""

    def __enter__(self) -> Any:
        entered = super().__enter__()
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", message=".*fan_in_fan_out.*")
        return entered
