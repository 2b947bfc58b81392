"""CLIPScore and RefCLIPScore (Hessel et al., 2021): does a caption fit the photo, says CLIP.

CLIPScore = 2.5 max(cos(photo, caption), 0), where CLIP reads "A photo depicts " before each text.
RefCLIPScore = harmonic mean of that and max(0, the best cosine of the caption with a reference).
Photos are resized and cropped as the checkpoint was trained, and never decoded at a lower size.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.images import UnreadableImage, prepared_images
from caption.metrics import Corpus, Score, Unavailable
from caption.trust import checked

PUBLISHED = "openai/clip-vit-base-patch32"
PREFIX = "A photo depicts "
WEIGHT = 2.5

Vectors = NDArray[np.float32]


def clipscore(
    corpus: Corpus,
    *,
    checkpoint: str | Path | None = None,
    batch_size: int = 64,
    device: str = "auto",
) -> list[Score | Unavailable]:
    """Scores clipscore and refclipscore of raw captions with `corpus.images`.

    `checkpoint`: a folder or hub name of a CLIP or SigLIP model (default: FCR_CLIP, else the
    published ViT-B/32). Values of different checkpoints don't compare; the signature names it, and
    counts the photos that could be read: items without one are NaN, and left out of the mean.
    Embeddings are kept per checkpoint, so a second captioner on the same photos embeds texts only.

    `Unavailable` without images or checkpoint. Raises `InputError` on a folder that holds no model.
    """
    names = ("clipscore", "refclipscore")
    if not corpus.images:
        return [Unavailable(name, "needs the photos: give --images") for name in names]
    chosen = str(checkpoint or os.environ.get("FCR_CLIP") or PUBLISHED)
    try:
        clip = load_clip(chosen, device)
    except OSError as error:
        said = str(error).splitlines()[0]
        reason = f"cannot load {chosen} ({said}): set FCR_CLIP to the folder of a CLIP checkpoint"
        return [Unavailable(name, reason) for name in names]

    photos = clip.images([corpus.images.get(item) for item in corpus.ids], batch_size)
    seen = ~np.isnan(photos[:, 0])
    if not seen.any():
        reason = f"none of the {len(seen)} photos could be read"
        return [Unavailable(name, reason) for name in names]
    captions = clip.texts([PREFIX + text for text in corpus.hypotheses], batch_size)
    scores = WEIGHT * np.maximum(_cosines(photos, captions), 0)

    n_refs = [len(refs) for refs in corpus.references]
    flat = clip.texts([PREFIX + ref for refs in corpus.references for ref in refs], batch_size)
    cosines = _cosines(np.repeat(captions, n_refs, axis=0), flat)
    best = np.maximum(np.maximum.reduceat(cosines, np.cumsum([0, *n_refs[:-1]])), 0)
    total = scores + best
    ref_scores = np.divide(2 * scores * best, total, out=np.zeros_like(total), where=total != 0)
    ref_scores[~seen] = np.nan
    return [
        Score(
            name,
            float(np.nanmean(values)),
            values,
            corpus.signature(
                *(name, f"w:{WEIGHT}", f"prefix:{PREFIX.strip()}", f"clip:{clip.name}"),
                f"images:{int(seen.sum())}/{len(seen)}",
                tokenizer=False,
            ),
        )
        for name, values in zip(names, (scores, ref_scores), strict=True)
    ]


class Clip:
    """A CLIP checkpoint that remembers what it embedded; load it with `load_clip`."""

    def __init__(self, checkpoint: str, device: str = "auto") -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModel, AutoTokenizer
        from transformers.utils import logging

        folder = Path(checkpoint)
        if folder.exists() and not (folder / "config.json").is_file():
            raise InputError(f"{folder} is no model folder: it has no config.json")
        checked(folder)
        logging.disable_progress_bar()  # of loading weights: it would tear up the caller's table
        self.model: Any = AutoModel.from_pretrained(
            checkpoint, dtype=torch.float32, trust_remote_code=False
        )
        if not hasattr(self.model, "get_image_features"):
            kind = type(self.model).__name__
            raise InputError(f"{checkpoint} holds a {kind}: expected a CLIP or SigLIP model")
        automatic = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = automatic if device == "auto" else device
        self.model.eval().to(self.device)
        self.processor: Any = AutoImageProcessor.from_pretrained(
            checkpoint, backend="pil", trust_remote_code=False
        )
        self.tokenizer: Any = AutoTokenizer.from_pretrained(checkpoint, trust_remote_code=False)
        digest = hashlib.sha256()
        for _, tensor in sorted(self.model.state_dict().items()):
            digest.update(tensor.detach().cpu().numpy().tobytes())
        self.name = f"{folder.name}-{digest.hexdigest()[:8]}"
        self._known: dict[object, Vectors] = {}

    def texts(
        self, texts: Sequence[str], batch_size: int = 64, *, remember: bool = True
    ) -> Vectors:
        """float32 (n, dim) unit vectors; texts longer than the model's context are cut.

        Without `remember` they depend on these texts alone, bit for bit: what was asked before
        changes which texts share a batch, and with it the last digits.
        """
        known = self._known if remember else {}
        new = [text for text in dict.fromkeys(texts) if text not in known]
        new.sort(key=len)
        for start in range(0, len(new), batch_size):
            batch = new[start : start + batch_size]
            known.update(zip(batch, self._read(batch), strict=True))
        return np.stack([known[text] for text in texts])

    def images(self, paths: Sequence[Path | None], batch_size: int = 64) -> Vectors:
        """float32 (n, dim) unit vectors; NaN where there is no photo or it cannot be read."""
        keys = [_key(path) for path in paths]
        new = {key: path for key, path in zip(keys, paths, strict=True) if key and path}
        wanted = [(key, path) for key, path in new.items() if key not in self._known]
        pixels: list[NDArray[np.float32]] = []
        waiting: list[object] = []
        pictures = prepared_images([path for _, path in wanted], self._prepare)
        for i, picture in enumerate(pictures):
            if not isinstance(picture, UnreadableImage):
                pixels.append(picture)
                waiting.append(wanted[i][0])
            if pixels and (len(pixels) == batch_size or i == len(wanted) - 1):
                self._known.update(zip(waiting, self._see(pixels), strict=True))
                pixels, waiting = [], []
        nothing = np.full(self._dim, np.nan, np.float32)
        return np.stack([self._known.get(key, nothing) if key else nothing for key in keys])

    @property
    def _dim(self) -> int:
        config = self.model.config
        return int(getattr(config, "projection_dim", 0) or config.vision_config.hidden_size)

    def _prepare(self, image: Any) -> NDArray[np.float32]:
        return np.asarray(self.processor(image, return_tensors="np")["pixel_values"][0], np.float32)

    def _see(self, pixels: list[NDArray[np.float32]]) -> Vectors:
        import torch

        with torch.inference_mode():
            batch = torch.from_numpy(np.stack(pixels)).to(self.device)  # (B, 3, H, W)
            return _unit(self.model.get_image_features(pixel_values=batch).pooler_output)

    def _read(self, texts: list[str]) -> Vectors:
        import torch

        config = self.model.config
        siglip = config.model_type.startswith("siglip")  # reads off the last of a fixed length
        tokens = self.tokenizer(
            texts,
            padding="max_length" if siglip else True,
            truncation=True,
            max_length=config.text_config.max_position_embeddings,
            return_tensors="pt",
        ).to(self.device)
        inputs = {k: v for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            return _unit(self.model.get_text_features(**inputs).pooler_output)


@lru_cache(maxsize=1)
def load_clip(checkpoint: str, device: str = "auto") -> Clip:
    """A `Clip` that stays loaded. Raises OSError where the checkpoint cannot be had."""
    return Clip(checkpoint, device)


def _key(path: Path | None) -> object:
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return (str(path), stat.st_size, stat.st_mtime_ns) if stat else None


def _unit(features: Any) -> Vectors:
    vectors: Vectors = (features / features.norm(dim=-1, keepdim=True)).float().cpu().numpy()
    return vectors


def _cosines(a: Vectors, b: Vectors) -> NDArray[np.float64]:
    cosines: NDArray[np.float64] = np.einsum("nd,nd->n", a, b, dtype=np.float64)
    return cosines
