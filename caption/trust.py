"""Code that a checkpoint brings: it runs only where the user said so."""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

from caption import InputError

TRUST = "FCR_TRUST_REMOTE_CODE"
"""Environment variable that `--trust-remote-code` sets, for every process of the call."""


def trusted_code() -> bool:
    """Whether the user said that code of checkpoints may run."""
    return os.environ.get(TRUST) == "1"


def runs_code(folder: Path) -> bool:
    """Whether to load a checkpoint with the Python code it brings; says so where it does.

    Raises InputError: it can't be loaded without its code, and nobody said to trust that.
    """
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
        with suppress(OSError, ValueError):
            found[name] = json.loads((folder / f"{name}.json").read_bytes())
    modules = []
    with suppress(OSError, ValueError):
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
