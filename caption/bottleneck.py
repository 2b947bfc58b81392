"""Adapters that stay attached, because no weight can take them in: bottlenecks, prompts, prefixes.

peft has no bottleneck adapter, and its prompts and prefixes wrap a whole network's forward, which
fails for BLIP-2 and encoder-decoders; here they are tensors that every captioner's session knows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from caption.adapt import AdaptConfig
    from caption.captioners import Captioner


class Bottleneck(nn.Module):
    """A linear layer and a residual bottleneck behind it (arXiv 1902.00751): y + up(gelu(down(y))).

    `up` starts at zero, so that a new adapter changes nothing.
    """

    def __init__(self, base: nn.Module, width: int, size: int, dtype: torch.dtype) -> None:
        super().__init__()
        down, up = nn.Linear(width, size, dtype=dtype), nn.Linear(size, width, dtype=dtype)
        nn.init.normal_(down.weight, std=0.02)
        for zero in (down.bias, up.weight, up.bias):
            nn.init.zeros_(zero)
        self.base = base
        self.bottleneck = nn.Sequential(down, nn.GELU(), up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.base(x)
        out: torch.Tensor = y + self.bottleneck(y)
        return out


class VirtualTokens(nn.Module):
    """A learned prompt (P, D) or a learned prefix (layers, 2, heads, P, D / heads)."""

    def __init__(
        self, *, prompt: torch.Tensor | None = None, prefix: torch.Tensor | None = None
    ) -> None:
        super().__init__()
        self.prompt = None if prompt is None else nn.Parameter(prompt.float())
        self.prefix = None if prefix is None else nn.Parameter(prefix.float())


class Attached:
    """Adapters of one captioner kept beside its weights; the counterpart of a PeftModel."""

    def __init__(self, model: Any, config: "AdaptConfig", extra: Sequence[str]) -> None:
        """extra: names of modules of the network that learn in full beside the adapters."""
        self.model, self.config, self.extra = model, config, tuple(extra)

    def weights(self) -> dict[str, torch.Tensor]:
        """The adapters' own tensors (and those of `extra`) by name."""
        return {
            name: p
            for name, p in self.model.named_parameters()
            if is_attached(name) or name.startswith(tuple(f"{x}." for x in self.extra))
        }

    def save_pretrained(self, folder: Path) -> None:
        """Write `adapter_model.safetensors` and `adapter_config.json` into `folder`."""
        from safetensors.torch import save_file

        tensors = {n: p.detach().cpu().contiguous() for n, p in self.weights().items()}
        save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(asdict(self.config), indent=1))

    def load_weights(self, folder: Path) -> None:
        """Fill the adapters from a folder; raises ValueError when the tensors are others."""
        from safetensors.torch import load_file

        own, stored = self.weights(), load_file(folder / "adapter_model.safetensors")
        if {n: p.shape for n, p in own.items()} != {n: p.shape for n, p in stored.items()}:
            raise ValueError("its tensors have other names or shapes")
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(stored[name])


def is_attached(name: str) -> bool:
    """Whether a parameter of this name belongs to an adapter that is not merged."""
    marks = ("virtual_tokens.", "lora_", "ia3_", "bottleneck.")
    return any(mark in name for mark in marks)


def add_bottlenecks(model: Any, names: Sequence[str], size: int) -> None:
    """Put a bottleneck behind each of these linear layers."""
    for name in names:
        parent, _, leaf = name.rpartition(".")
        base = model.get_submodule(name)
        width = base.out_features if hasattr(base, "out_features") else base.nf  # GPT-2's Conv1D
        dtype = base.weight.dtype if base.weight.is_floating_point() else torch.float32
        bottleneck = Bottleneck(base, int(width), size, dtype).to(base.weight.device)
        setattr(model.get_submodule(parent), leaf, bottleneck)


def add_prompt(captioner: "Captioner", tokens: int, seed: int) -> None:
    """Virtual tokens that start as the embeddings of words drawn from the vocabulary."""
    drawn = _drawn(captioner, tokens, seed)
    embed = _language(captioner).get_input_embeddings()
    with torch.no_grad():
        captioner.model.virtual_tokens = VirtualTokens(prompt=embed(drawn)[0])
    captioner.room -= tokens


def add_prefix(captioner: "Captioner", tokens: int, seed: int) -> None:
    """Keys and values that start as what the decoder computes for words drawn from the vocabulary.

    arXiv 2101.00190 found such a start better than a random one.
    """
    from PIL import Image

    blank = captioner.preprocess(Image.new("RGB", captioner.image_size[::-1], "white"))
    drawn = _drawn(captioner, tokens, seed)
    captioner.model.eval()
    with torch.no_grad():
        features = captioner.encode_images(torch.from_numpy(blank)[None].to(captioner.device))
        session: Any = captioner.open_session(features, tokens + 1)
        session.feed(torch.cat([drawn[:, :1], drawn], 1))  # the first may stand for a context
        cache = getattr(session, "cache", None)
        if cache is None:
            pairs = [(k[:, :, 1 : tokens + 1], v[:, :, 1 : tokens + 1]) for k, v in session.written]
        else:
            own = getattr(cache, "self_attention_cache", cache)
            pairs = [(x.keys[:, :, -tokens:], x.values[:, :, -tokens:]) for x in own.layers]
        prefix = torch.stack([torch.stack([k[0], v[0]]) for k, v in pairs])
    captioner.model.virtual_tokens = VirtualTokens(prefix=prefix)
    captioner.room -= tokens


def _drawn(captioner: "Captioner", tokens: int, seed: int) -> torch.Tensor:
    special = set(captioner.tokenizer.all_special_ids)
    words = torch.tensor([i for i in range(len(captioner.tokenizer)) if i not in special])
    generator = torch.Generator().manual_seed(seed)
    chosen = words[torch.randint(len(words), (1, tokens), generator=generator)]
    return chosen.to(captioner.device)


def _language(captioner: "Captioner") -> Any:
    return getattr(captioner.model, "text_decoder", captioner.model)  # BLIP names no embeddings
