"""What a checkpoint may do: run code where the user said so, and read no file but its own."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from recsys import InputError

TRUST = "FCR_TRUST_REMOTE_CODE"
"""Environment variable that `--trust-remote-code` sets, for every process of the call."""
SAFE_TORCH = (2, 10)
"""Before it, a pickled state dict can run code even as plain tensors (CVE-2026-24747)."""


def trusted_code() -> bool:
    """Whether the user said that code of checkpoints may run."""
    return os.environ.get(TRUST) == "1"


def checked(checkpoint: str | Path) -> Path:
    """A checkpoint's folder, when its files keep to it; a name of the hub as it is.

    The loaders of transformers and accelerate open whatever an index names (CVE-2026-69112).

    Raises InputError: an index names files elsewhere, or there are pickled weights and this torch
    can't read them safely.
    """
    folder = Path(checkpoint)
    for index in sorted(folder.rglob("*.index.json")):
        found = None
        with suppress(OSError, ValueError, RecursionError):  # no index at all: the loader says so
            found = json.loads(index.read_bytes())
        parts = found.get("weight_map") if isinstance(found, dict) else None
        for name in parts.values() if isinstance(parts, dict) else ():
            if Path(str(name)).name != name:
                raise InputError(
                    f"{index} names {str(name)[:100]!r}: expected names of files beside it; get "
                    "the checkpoint from somebody you trust"
                )
    torch = version("torch")
    if tuple(map(int, torch.split(".")[:2])) < SAFE_TORCH and not trusted_code():
        for path in sorted(folder.rglob("*")):
            if path.suffix not in (".bin", ".pt", ".pth", ".ckpt"):
                continue
            if not any(path.parent.glob("*.safetensors")):
                raise InputError(
                    f"{path} holds pickled weights, which torch {torch} can't read without risk: "
                    "install torch 2.10 or newer, or convert them to safetensors"
                )
    return folder


def runs_code(folder: Path) -> bool:
    """Whether to load a checkpoint with the Python code it brings; says so where it does.

    Raises InputError: as `checked`; or it can't be loaded without its code, and nobody said to
    trust that.
    """
    checked(folder)
    named, needed = _brought(folder)
    if not trusted_code():
        if needed:
            raise InputError(
                f"{folder} wants its own Python code to be run ({needed}): read that code, then "
                "allow it with --trust-remote-code"
            )
        return False
    if named:
        print(
            f"warning: running Python code that the checkpoint {folder} brings; trust it only as a "
            "copy that you have read: a folder, or a name@hub pinned to one revision (`hf download "
            "NAME --revision COMMIT --local-dir FOLDER`)",
            file=sys.stderr,
        )
    return named


def _brought(folder: Path) -> tuple[bool, str]:
    """(a checkpoint names code of its own, what of it can't be done without)."""
    found = {}
    for name in ("config", "tokenizer_config", "processor_config", "preprocessor_config"):
        with suppress(OSError, ValueError, RecursionError):
            found[name] = json.loads((folder / f"{name}.json").read_bytes())
    modules = []
    with suppress(OSError, ValueError, RecursionError):
        modules = json.loads((folder / "modules.json").read_bytes())
    kinds = [str(m.get("type")) for m in modules if isinstance(m, dict)] if modules else []
    foreign = [kind for kind in kinds if not kind.startswith("sentence_transformers.")]
    maps = [
        name for name, value in found.items() if isinstance(value, dict) and "auto_map" in value
    ]
    needed = f"modules.json names {foreign[0]}" if foreign else ""
    if "config" in maps:
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        kind = found["config"].get("model_type")
        if kind not in CONFIG_MAPPING_NAMES:
            needed = f"config.json names {kind!r}, which transformers does not know"
    return bool(maps or foreign), needed
