"""FACAD's preprocessed files, written small (or large and sparse) after their description."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

WORDS = ["dress", "red", "cotton", "shirt", "blue", "silk", "with", "a", "collar", "boot"]
WORDMAP = {
    "<pad>": 0,
    **{word: i for i, word in enumerate(WORDS, 1)},
    "nah": 900,
    "<unk>": 901,
    "<start>": 902,
    "<end>": 903,
}


def caption(row: int) -> list[str]:
    """Five words that spell the row's number, so that no two rows share theirs."""
    return [WORDS[(row // 10**i) % 10] for i in range(5)]


def encode(words: Sequence[str], length: int = 12) -> list[int]:
    numbers = [902, *(WORDMAP[w] for w in words), 903]
    return numbers + [0] * (length - len(numbers))


def write_part(
    folder: Path,
    part: str,
    n: int,
    *,
    pixels: Mapping[int, NDArray[np.uint8]] | None = None,
    first: int = 0,
    **files: Any,
) -> None:
    """One part of `n` rows; rows without `pixels` stay blank (and take no room on the disk).

    first: number of its first row among all, which decides its caption.
    files: other contents for CAPTIONS, CAPLENS, ATTRS, CATES.
    """
    import h5py

    folder.mkdir(parents=True, exist_ok=True)
    with h5py.File(folder / f"{part}_IMAGES_5.hdf5", "w") as file:
        images = file.create_dataset("images", (n, 3, 256, 256), dtype="uint8")
        for row, picture in sorted((pixels or {}).items()):
            images[row] = picture
    rows = range(first, first + n)
    contents: dict[str, Any] = {
        "CAPTIONS": [encode(caption(row)) for row in rows],
        "CAPLENS": [[7] for _ in rows],
        "ATTRS": [[WORDMAP[caption(row)[2]], 900, 0] for row in rows],
        "CATES": [[row % 3] for row in rows],
        **files,
    }
    for side, content in contents.items():
        (folder / f"{part}_{side}_5.json").write_text(json.dumps(content))
    (folder / "WORDMAP_5.json").write_text(json.dumps(WORDMAP))


def picture(seed: int) -> NDArray[np.uint8]:
    """A photo unlike any other."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (3, 8, 8), dtype=np.uint8)
    return coarse.repeat(32, axis=1).repeat(32, axis=2)
