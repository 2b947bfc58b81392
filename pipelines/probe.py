"""What the shipped models can do, measured on a drawn catalogue that none of them has seen.

`measure` computes the figures that data/README.md quotes; the functions it calls load one shipped
folder each with its real class and processor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipelines.pretrain import Corpus, draw_corpus


def measure(folder: Path, *, articles: int = 600, seed: int = 2001) -> dict[str, float]:
    """Figures of the four models under `folder` on a catalogue none of them has seen, as shares.

    - ``blip/type``, ``blip/colour``: greedy captions that name the article's type, its colour;
      ``blip/distinct``: distinct captions.
    - ``clip/recall@k``: web captions whose own photo is among the k nearest of all photos.
    - ``resnet/<trait>``: right answers of a ridge classifier on the pooled vector, fitted on one
      half and tested on the other.
    - ``<model>/same-type@5``: the 5 nearest photos that show the same type.
    - ``sbert/wording recall@k``, ``sbert/metadata recall@k``: descriptions whose second wording,
      or whose metadata line, is among the k nearest; one article per product.
    """
    from sentence_transformers import SentenceTransformer

    corpus = draw_corpus(articles, seed)
    types = corpus.labels["garment_type"]
    captions = caption_photos(folder / "blip", corpus.pixels)
    figures = {
        "blip/type": np.mean(
            [type_named(c) == t["garment_type"] for c, t in _zip(captions, corpus)]
        ),
        "blip/colour": np.mean([colour_named(c) == t["colour"] for c, t in _zip(captions, corpus)]),
        "blip/distinct": len(set(captions)) / articles,
    }
    photos, texts = clip_vectors(
        folder / "clip", corpus.pixels, [wordings[0] for wordings in corpus.captions]
    )
    pooled = resnet_vectors(folder / "resnet", corpus.pixels)
    for k in (1, 10):
        figures[f"clip/recall@{k}"] = recall_at(texts, photos, k)
    for trait in ("garment_type", "colour", "pattern"):
        figures[f"resnet/{trait}"] = _probe(pooled, corpus.labels[trait])
    figures["clip/same-type@5"] = same_label_at(photos, types, 5)
    figures["resnet/same-type@5"] = same_label_at(pooled, types, 5)
    figures["chance/same-type@5"] = float(np.square(np.bincount(types) / articles).sum())
    encoder = SentenceTransformer(str(folder / "sbert"), device="cpu")
    one = sorted({t["product_code"]: i for i, t in enumerate(corpus.traits)}.values())
    first, second = (
        encoder.encode([corpus.descriptions[i][v] for i in one], show_progress_bar=False)
        for v in (0, 1)
    )
    lines = encoder.encode([corpus.metadata[i] for i in one], show_progress_bar=False)
    for k in (1, 10):
        figures[f"sbert/wording recall@{k}"] = recall_at(first, second, k)
        figures[f"sbert/metadata recall@{k}"] = recall_at(first, lines, k)
    return {name: round(float(value), 3) for name, value in figures.items()}


def caption_photos(folder: Path, pixels: npt.NDArray[np.uint8], batch: int = 128) -> list[str]:
    """Greedy captions of photos uint8 (n, H, W, 3) by the BLIP under `folder`."""
    import torch
    from transformers import BlipForConditionalGeneration, BlipProcessor

    model = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processor = BlipProcessor.from_pretrained(folder)
    captions: list[str] = []
    for start in range(0, len(pixels), batch):
        inputs = processor(images=list(pixels[start : start + batch]), return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        captions += processor.batch_decode(ids, skip_special_tokens=True)
    return captions


def clip_vectors(
    folder: Path, pixels: npt.NDArray[np.uint8], texts: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Photo vectors (n, D) and text vectors (m, D), float32, by the CLIP under `folder`."""
    import torch
    from transformers import CLIPModel, CLIPProcessor

    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder)
    images = processor(images=list(pixels), return_tensors="pt")
    words = processor(text=list(texts), padding=True, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        return (
            model.get_image_features(images["pixel_values"]).pooler_output.numpy(),
            model.get_text_features(
                words["input_ids"], words["attention_mask"]
            ).pooler_output.numpy(),
        )


def resnet_vectors(folder: Path, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Pooled photo vectors float32 (n, D) by the ResNet under `folder`."""
    import torch
    from transformers import AutoImageProcessor, ResNetModel

    model = ResNetModel.from_pretrained(folder).eval()
    images = AutoImageProcessor.from_pretrained(folder)(list(pixels), return_tensors="pt")
    with torch.inference_mode():
        return model(images["pixel_values"]).pooler_output.flatten(1).numpy()  # type: ignore[no-any-return]


def type_named(caption: str) -> str:
    """The garment type a web caption names, by its longest type word; "" for none."""
    from pipelines.wording import GARMENTS

    return _longest({word: name for name, g in GARMENTS.items() for word in g.alt}, caption)


def colour_named(caption: str) -> str:
    """The colour a web caption names, by its longest colour word; "" for none."""
    from pipelines.wording import COLOURS

    return _longest({word: name for name, colour in COLOURS.items() for word in colour[6]}, caption)


def recall_at(queries: npt.NDArray[np.float32], items: npt.NDArray[np.float32], k: int) -> float:
    """Share of queries (n, D) whose own row of `items` (n, D) is among the k nearest by cosine."""
    scores = _unit(queries) @ _unit(items).T  # (n, n)
    return float(np.mean((scores > np.diag(scores)[:, None]).sum(1) < k))


def same_label_at(vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64], k: int) -> float:
    """Share of the k most cosine-near other rows that carry the row's own label."""
    scores = _unit(vectors) @ _unit(vectors).T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return float(np.mean(labels[nearest] == labels[:, None]))


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(norms, 1e-9), np.float32)


def _zip(captions: Sequence[str], corpus: Corpus) -> Iterator[tuple[str, dict[str, Any]]]:
    return zip(captions, corpus.traits, strict=True)


def _longest(words: Mapping[str, str], caption: str) -> str:
    spaced = f" {caption.replace(' - ', '-').replace(' / ', '/')} ".replace(" ' ", "'")
    found = [word for word in words if f" {word} " in spaced.replace(",", " ").replace(":", " ")]
    return words[max(found, key=len)] if found else ""


def _probe(vectors: npt.NDArray[np.float32], labels: npt.NDArray[np.int64]) -> float:
    """Accuracy of a ridge classifier fitted on the even rows, on the odd rows."""
    x = np.hstack([_unit(vectors - vectors[::2].mean(0)), np.ones((len(vectors), 1))])
    y = np.eye(int(labels.max()) + 1)[labels]
    train, test = slice(0, None, 2), slice(1, None, 2)
    weights = np.linalg.solve(
        x[train].T @ x[train] + 0.1 * np.eye(x.shape[1]), x[train].T @ y[train]
    )
    return float(np.mean((x[test] @ weights).argmax(1) == labels[test]))
