"""Pretrains the four tiny models that travel with the demo, from nothing.

`rebuild` draws catalogues of its own seeds (never the demo's), trains one shared WordPiece
vocabulary on their texts and a list of common words, then trains in turn

- ``blip``, a `BlipForConditionalGeneration` that captions a photo in the manner of web alt texts,
- ``clip``, a `CLIPModel` that puts photos and texts into one space,
- ``resnet``, a `ResNetModel` whose pooled output tells garments apart,
- ``sbert``, a `SentenceTransformer` that puts wordings of one product side by side,

and saves each with its processor as a Hugging Face folder of float16 safetensors. The budget is
counted in steps, so a busy machine changes the time and not the weights.
"""

from __future__ import annotations

import copy
import io
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipelines import InputError
from pipelines.vocabulary import DEC, PAD, SEP, train_tokenizer

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import BertTokenizer, PreTrainedModel

Progress = Callable[[str, int, int, float], None]
"""Called as progress(name, step, steps, loss); the drawing of photos reports as name "draw"."""

MODELS = ("blip", "clip", "resnet", "sbert")
STEPS: Mapping[str, int] = {"blip": 3200, "clip": 1000, "resnet": 600, "sbert": 800}
SIDE = 96
"""Photos are squeezed to SIDE x SIDE pixels: BLIP and CLIP know only square images."""

PATCH = 24
"""Pixels of a patch's side. Patches of 12 see finer detail, but after 400 steps an encoder of them
named half as many types and took three times as long."""

VISIBLE = ("garment_type", "colour", "pattern", "length", "neckline", "sleeve")
"""The traits a photo can show; the other traits have to come from the text."""

METADATA = (
    "prod_name",
    "product_type_name",
    "colour_group_name",
    "graphical_appearance_name",
    "garment_group_name",
)
"""The columns of `articles.csv` that make the metadata line."""

WORDINGS = 4
"""Web captions and descriptions per article, so that no model learns one wording by heart."""

RESNET_MEAN, RESNET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


@dataclass(frozen=True)
class Trained:
    """What one training run cost: parameters, bytes on disk, steps, seconds, mean last losses."""

    parameters: int
    size: int
    steps: int
    seconds: float
    loss: float


@dataclass(frozen=True)
class Corpus:
    """A drawn catalogue in memory; every sequence has one entry per article."""

    pixels: npt.NDArray[np.uint8]
    """(n, SIDE, SIDE, 3), RGB; (0, ...) when drawn without photos."""
    traits: list[dict[str, Any]]
    captions: list[list[str]]
    """WORDINGS web captions each."""
    descriptions: list[list[str]]
    """WORDINGS descriptions each."""
    metadata: list[str]
    """The article's own columns as one line, as a shop's database would give them."""
    labels: dict[str, npt.NDArray[np.int64]] = field(default_factory=dict)
    """Class number of every trait of VISIBLE, numbered in the order of the sorted names."""
    details: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    """(n, number of details): 1 where the article has the detail (pockets, a belt, ...)."""


def rebuild(
    out: Path,
    *,
    only: Sequence[str] = MODELS,
    photos: int = 6000,
    steps: Mapping[str, int] = STEPS,
    batch: int = 64,
    seed: int = 1001,
    workers: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Trained]:
    """Train the models named in `only` from nothing and save each under `out`/<name>.

    The result depends on the arguments and on the number of torch threads, nothing else.
    `steps` gives optimiser steps per model (default STEPS), `photos` the number of articles drawn
    to learn from, `workers` the drawing processes (default: one per core; a script that asks for
    more than one has to call this under ``if __name__ == "__main__":``).

    Raises InputError for an unknown name, a missing step count, or fewer photos than a batch.
    """
    for name in only:
        if name not in MODELS or steps.get(name, 0) < 1:
            raise InputError(
                f"only: {name!r} with {steps.get(name)} steps; expected names of "
                f"{', '.join(MODELS)} and at least 1 step each; correct `only` or `steps`"
            )
    if photos < batch:
        raise InputError(f"photos: {photos} is less than a batch of {batch}; draw more")
    import torch
    from transformers.utils import logging

    train = {
        "blip": _train_blip,
        "clip": _train_clip,
        "resnet": _train_resnet,
        "sbert": _train_sbert,
    }
    corpus = draw_corpus(photos, seed, workers=workers, progress=progress)
    tokenizer = train_tokenizer(
        text
        for texts in (*corpus.captions, *corpus.descriptions, corpus.metadata)
        for text in texts
    )
    out.mkdir(parents=True, exist_ok=True)
    logging.disable_progress_bar()
    trained = {}
    for name in only:
        begun = time.perf_counter()
        folder, final = out / f".{name}.part", out / name
        shutil.rmtree(folder, ignore_errors=True)
        losses: list[float] = []

        def tick(step: int, loss: float, name: str = name, losses: list[float] = losses) -> None:
            losses.append(loss)
            if progress:
                progress(name, step, steps[name], loss)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rng = np.random.default_rng([seed, MODELS.index(name)])
            parameters = train[name](
                corpus, copy.deepcopy(tokenizer), folder, steps[name], batch, rng, tick
            )
        shutil.rmtree(final, ignore_errors=True)
        os.replace(folder, final)
        trained[name] = Trained(
            parameters=parameters,
            size=sum(f.stat().st_size for f in final.rglob("*") if f.is_file()),
            steps=steps[name],
            seconds=time.perf_counter() - begun,
            loss=float(np.mean(losses[-100:])),
        )
    return trained


def draw_corpus(
    n: int,
    seed: int,
    *,
    photos: bool = True,
    workers: int | None = None,
    progress: Progress | None = None,
) -> Corpus:
    """Draw `n` articles with texts and, unless `photos` is false, photos (seeded, order fixed)."""
    from pipelines import drawing

    drawn = drawing.draw_articles(n, seed)
    traits = drawn.traits.to_dicts()
    rng = np.random.default_rng([seed, 7])

    def describe(trait_row: Mapping[str, Any]) -> str:
        return drawing.describe(trait_row, rng, mention_colour=bool(rng.random() < 0.2))

    labels = {}
    for trait in VISIBLE:
        names = sorted({str(row[trait]) for row in traits})
        labels[trait] = np.array([names.index(str(row[trait])) for row in traits])
    worn = [set(str(row["details"]).split(", ")) - {""} for row in traits]
    known = sorted(set().union(*worn))
    return Corpus(
        pixels=_draw_photos(
            traits if photos else [], seed, workers or os.cpu_count() or 1, progress
        ),
        traits=traits,
        captions=[[drawing.web_caption(t, rng) for _ in range(WORDINGS)] for t in traits],
        descriptions=[[describe(t) for _ in range(WORDINGS)] for t in traits],
        metadata=[" ".join(row) for row in drawn.articles.select(METADATA).rows()],
        labels=labels,
        details=np.array([[d in has for d in known] for has in worn], np.float32),
    )


def _draw_photos(
    traits: list[dict[str, Any]], seed: int, workers: int, progress: Progress | None
) -> npt.NDArray[np.uint8]:
    chunks = [traits[i : i + 128] for i in range(0, len(traits), 128)]
    pixels = np.empty((len(traits), SIDE, SIDE, 3), np.uint8)
    done = 0

    def store(drawn: Iterator[npt.NDArray[np.uint8]]) -> None:
        nonlocal done
        for photos in drawn:
            pixels[done : done + len(photos)] = photos
            done += len(photos)
            if progress:
                progress("draw", done, len(traits), 0.0)

    if workers == 1 or len(chunks) < 4:
        store(_draw_chunk(chunk, seed) for chunk in chunks)
    else:  # spawned, because a fork would copy the threads' locks of polars and torch
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            store(pool.map(_draw_chunk, chunks, [seed] * len(chunks)))
    return pixels


def _draw_chunk(traits: list[dict[str, Any]], seed: int) -> npt.NDArray[np.uint8]:
    from PIL import Image

    from pipelines import drawing

    pixels = np.empty((len(traits), SIDE, SIDE, 3), np.uint8)
    for i, trait_row in enumerate(traits):
        stored = io.BytesIO()  # as JPEG and back: the models meet photos with its noise only
        drawing.draw_photo(trait_row, seed).save(stored, "JPEG", quality=drawing.JPEG_QUALITY)
        with Image.open(stored) as photo:
            small = photo.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        pixels[i] = np.asarray(small)
    return pixels


# ---- the four models, each read top to bottom ----


def _train_blip(
    corpus: Corpus,
    tokenizer: BertTokenizer,
    folder: Path,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    tick: Callable[[int, float], None],
) -> int:
    import torch
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessorPil,
        BlipProcessor,
    )

    vocabulary, width = len(tokenizer), 128
    model = BlipForConditionalGeneration(
        BlipConfig(
            vision_config={
                "hidden_size": width,
                "intermediate_size": 3 * width,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": SIDE,
                "patch_size": PATCH,
                "initializer_range": 0.05,  # the default of 1e-10 is for finished weights only
            },
            text_config={
                "vocab_size": vocabulary,
                "hidden_size": width,
                "intermediate_size": 3 * width,
                "num_hidden_layers": 3,
                "num_attention_heads": 4,
                "max_position_embeddings": 96,
                "pad_token_id": PAD,
                "bos_token_id": DEC,
                "eos_token_id": SEP,
                "sep_token_id": SEP,
                "initializer_range": 0.05,
            },
            projection_dim=width,
            image_text_hidden_size=width,
        )
    )
    images = BlipImageProcessorPil(size={"height": SIDE, "width": SIDE})
    captions = _encode(tokenizer, corpus.captions)
    descriptions = _encode(tokenizer, corpus.descriptions)
    for ids in (captions, descriptions):
        ids[..., 0] = DEC
    heads = _TraitHeads(corpus, width)
    nothing = torch.zeros(batch, 1, width)

    def loss_of(step: int) -> torch.Tensor:
        rows = rng.integers(len(corpus.traits), size=batch)
        if step % 4 == 3:
            # Reading without a photo: BERT, from which the real BLIP's decoder starts, had read
            # product texts too. It gives the words a place; how they go with photos is not told.
            ids, mask = _pick(descriptions, rows, rng)
            labels = ids.masked_fill(mask == 0, -100)
            read = model.text_decoder(
                ids, mask, encoder_hidden_states=nothing, labels=labels, reduction="mean"
            )
            return read.loss  # type: ignore[no-any-return]
        ids, mask = _pick(captions, rows, rng)
        labels = ids.masked_fill(mask == 0, -100)
        seen = model(
            pixel_values=_photos(corpus, rows, images.image_mean, images.image_std, rng),
            input_ids=ids,
            attention_mask=mask,
            labels=labels,
        )
        patches = seen.last_hidden_state[:, 1:].mean(1)  # (B, D)
        return seen.loss + heads.loss(patches, rows)  # type: ignore[no-any-return]

    _fit([model, heads.module], loss_of, steps, 1e-3, tick)
    _save(model, folder)
    BlipProcessor(images, tokenizer).save_pretrained(folder)
    return model.num_parameters()  # type: ignore[no-any-return]


def _train_clip(
    corpus: Corpus,
    tokenizer: BertTokenizer,
    folder: Path,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    tick: Callable[[int, float], None],
) -> int:
    from torch import arange
    from torch.nn.functional import cross_entropy
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

    batch = min(2 * batch, len(corpus.traits))  # more candidates to tell apart
    width = 96
    shape = {"hidden_size": width, "intermediate_size": 3 * width, "num_attention_heads": 3}
    model = CLIPModel(
        CLIPConfig(
            vision_config={
                **shape,
                "num_hidden_layers": 3,
                "image_size": SIDE,
                "patch_size": PATCH,
            },
            text_config={
                **shape,
                "num_hidden_layers": 2,
                "vocab_size": len(tokenizer),
                "max_position_embeddings": 96,
                "pad_token_id": PAD,
                "bos_token_id": 2,
                "eos_token_id": SEP,
            },
            projection_dim=width,
        )
    )
    size = {"height": SIDE, "width": SIDE}
    images = CLIPImageProcessorPil(size=size, do_center_crop=False, crop_size=size)
    model.set_attn_implementation("eager")  # trains twice as fast as sdpa in bfloat16 on a CPU
    captions = _encode(tokenizer, corpus.captions)
    descriptions = _encode(tokenizer, corpus.descriptions)
    heads = _TraitHeads(corpus, width)

    def loss_of(step: int) -> torch.Tensor:
        rows = rng.choice(len(corpus.traits), size=batch, replace=False)
        ids, mask = _pick(descriptions if step % 3 == 2 else captions, rows, rng)
        pixels = _photos(corpus, rows, images.image_mean, images.image_std, rng)
        both = model(input_ids=ids, attention_mask=mask, pixel_values=pixels)
        truth = arange(batch)
        contrast = cross_entropy(both.logits_per_image, truth) / 2
        contrast = contrast + cross_entropy(both.logits_per_text, truth) / 2
        patches = both.vision_model_output.last_hidden_state[:, 1:].mean(1)
        return contrast + heads.loss(patches, rows)  # type: ignore[no-any-return]

    _fit([model, heads.module], loss_of, steps, 1e-3, tick)
    _save(model, folder)
    CLIPProcessor(images, tokenizer).save_pretrained(folder)
    return model.num_parameters()  # type: ignore[no-any-return]


def _train_resnet(
    corpus: Corpus,
    tokenizer: BertTokenizer,
    folder: Path,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    tick: Callable[[int, float], None],
) -> int:
    from PIL import Image
    from torch.nn.functional import normalize
    from transformers import ResNetConfig, ResNetModel, ViTImageProcessorPil

    widths = [24, 48, 80, 128]
    model = ResNetModel(
        ResNetConfig(
            embedding_size=24, hidden_sizes=widths, depths=[1, 1, 1, 1], layer_type="basic"
        )
    )
    # ConvNext's own processor, which real ResNets use, would crop hems and necklines away
    images = ViTImageProcessorPil(
        size={"height": SIDE, "width": SIDE},
        resample=Image.Resampling.BICUBIC,  # as the corpus is; ViT's own default is bilinear
        image_mean=RESNET_MEAN,
        image_std=RESNET_STD,
    )
    heads = _TraitHeads(corpus, widths[-1], ("garment_type", "colour", "pattern"))

    def loss_of(step: int) -> torch.Tensor:
        rows = rng.integers(len(corpus.traits), size=batch)
        pooled = model(_photos(corpus, rows, RESNET_MEAN, RESNET_STD, rng)).pooler_output
        # vectors of one length, because they are compared by cosine afterwards
        return heads.loss(16 * normalize(pooled.flatten(1), dim=1), rows)

    _fit([model, heads.module], loss_of, steps, 3e-3, tick)
    _save(model, folder)
    images.save_pretrained(folder)
    return model.num_parameters()  # type: ignore[no-any-return]


def _train_sbert(
    corpus: Corpus,
    tokenizer: BertTokenizer,
    folder: Path,
    steps: int,
    batch: int,
    rng: np.random.Generator,
    tick: Callable[[int, float], None],
) -> int:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from torch.nn.functional import cross_entropy, normalize
    from transformers import BertConfig, BertModel

    batch, width = min(2 * batch, len(corpus.traits)), 96
    model = BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=3 * width,
            num_hidden_layers=2,
            num_attention_heads=3,
            max_position_embeddings=192,
            pad_token_id=PAD,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.05,
        )
    )
    model.set_attn_implementation("eager")
    captions = _encode(tokenizer, corpus.captions)
    descriptions = _encode(tokenizer, corpus.descriptions)
    metadata = _encode(tokenizer, [[line] for line in corpus.metadata])
    pairs = ((descriptions, descriptions), (descriptions, metadata), (captions, metadata))

    def vectors(texts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> torch.Tensor:
        ids, mask = _pick(texts, rows, rng)
        states = model(ids, mask).last_hidden_state * mask[..., None]  # (B, T, D)
        return normalize((states.sum(1) / mask.sum(1, keepdim=True)).float(), dim=-1)

    def loss_of(step: int) -> torch.Tensor:
        rows = rng.choice(len(corpus.traits), size=batch, replace=False)
        left, right = pairs[step % len(pairs)]
        similarity = vectors(left, rows) @ vectors(right, rows).T / 0.05  # (B, B)
        truth = torch.arange(batch)
        return (cross_entropy(similarity, truth) + cross_entropy(similarity.T, truth)) / 2

    _fit([model], loss_of, steps, 1e-3, tick)
    plain = folder.with_suffix(".bert")
    _save(model, plain)
    tokenizer.save_pretrained(plain)
    transformer = Transformer(str(plain), max_seq_length=128)
    SentenceTransformer(
        modules=[transformer, Pooling(width, "mean")], device="cpu"
    ).save_pretrained(str(folder), create_model_card=False)
    shutil.rmtree(plain)
    _save(model, folder)  # the library writes float32
    return model.num_parameters()  # type: ignore[no-any-return]


# ---- what the four share ----


def _fit(
    modules: Sequence[nn.Module],
    loss_of: Callable[[int], torch.Tensor],
    steps: int,
    rate: float,
    tick: Callable[[int, float], None],
) -> None:
    """AdamW with a linear warm-up over 5 % of the steps and a cosine decay to 2 % of `rate`."""
    import torch

    # embeddings are spared the decay: it would shrink words that the drawn texts never use
    named = [pair for module in modules for pair in module.named_parameters()]
    decayed = [p for name, p in named if p.dim() > 1 and "embedding" not in name]
    spared = [p for name, p in named if p.dim() <= 1 or "embedding" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": spared, "weight_decay": 0.0}],
        lr=rate,
        betas=(0.9, 0.98),
    )
    warm = max(1, steps // 20)
    for module in modules:
        module.train()
    for step in range(steps):
        cosine = 0.51 + 0.49 * np.cos(np.pi * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / warm) * cosine
        with torch.autocast("cpu", torch.bfloat16, enabled=_bf16_pays()):
            loss = loss_of(step)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        optimizer.step()
        tick(step + 1, loss.item())
    for module in modules:
        module.eval()


class _TraitHeads:
    """One linear classifier per visible trait on an image vector; thrown away after training.

    They stand in for the scale of real pretraining: a few thousand captions alone would leave a
    small encoder blind to necklines and sleeves.
    """

    def __init__(self, corpus: Corpus, width: int, traits: Sequence[str] = VISIBLE) -> None:
        import torch

        self.labels = {t: torch.from_numpy(corpus.labels[t]) for t in traits}
        self.details = torch.from_numpy(corpus.details)
        self.heads = torch.nn.ModuleDict(
            {t: torch.nn.Linear(width, int(self.labels[t].max()) + 1) for t in traits}
        )
        self.worn = torch.nn.Linear(width, self.details.shape[1]) if traits == VISIBLE else None
        self.module = torch.nn.ModuleList([m for m in (self.heads, self.worn) if m is not None])

    def loss(self, vectors: torch.Tensor, rows: npt.NDArray[np.int64]) -> torch.Tensor:
        """Mean cross entropy over the traits; vectors (B, D), rows (B,)."""
        import torch
        from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

        losses = [
            cross_entropy(head(vectors), self.labels[t][rows]) for t, head in self.heads.items()
        ]
        if self.worn is not None:
            logits = self.worn(vectors)
            # about one detail in twenty is worn: times 5 brings the loss to the others' level
            losses.append(5 * binary_cross_entropy_with_logits(logits, self.details[rows]))
        return torch.stack(losses).mean()


def _bf16_pays() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware; emulated, it is slower than float32."""
    import torch

    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return bool(supported())


def _encode(tokenizer: BertTokenizer, texts: Sequence[Sequence[str]]) -> npt.NDArray[np.int64]:
    """Token ids of n x V wordings as int64 (n, V, T), padded with PAD."""
    tokenizer = copy.deepcopy(tokenizer)  # padding would be saved with the original
    flat = [text for wordings in texts for text in wordings]
    ids = tokenizer(flat, padding=True, truncation=True, max_length=96, return_tensors="np")
    return ids["input_ids"].reshape(len(texts), -1, ids["input_ids"].shape[1])  # type: ignore[no-any-return]


def _pick(
    texts: npt.NDArray[np.int64], rows: npt.NDArray[np.int64], rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A random wording of each row: ids and mask, int64 (B, T), T the longest of the batch."""
    import torch

    ids = texts[rows, rng.integers(texts.shape[1], size=len(rows))]
    longest = int((ids != PAD).sum(1).max())
    picked = torch.from_numpy(ids[:, :longest])
    return picked, (picked != PAD).long()


def _photos(
    corpus: Corpus,
    rows: npt.NDArray[np.int64],
    mean: Sequence[float],
    std: Sequence[float],
    rng: np.random.Generator,
) -> torch.Tensor:
    """Normalised photos float32 (B, 3, SIDE, SIDE), each mirrored or not, all shifted alike."""

    pixels = corpus.pixels[rows]
    mirrored = rng.random(len(rows)) < 0.5
    pixels[mirrored] = pixels[mirrored, :, ::-1]
    margin = 4
    padded = np.pad(pixels, ((0, 0), (margin, margin), (margin, margin), (0, 0)), "edge")
    top, left = rng.integers(2 * margin + 1, size=2)
    return normalise(padded[:, top : top + SIDE, left : left + SIDE], mean, std)


def normalise(
    pixels: npt.NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]
) -> torch.Tensor:
    """Photos uint8 (B, H, W, 3) as float32 (B, 3, H, W), what the saved processors make of them."""
    import torch

    unit = torch.from_numpy(np.ascontiguousarray(pixels)).float().div_(255)
    return unit.sub_(torch.tensor(mean)).div_(torch.tensor(std)).permute(0, 3, 1, 2).contiguous()


def _save(model: PreTrainedModel, folder: Path) -> None:
    """Weights as float16 while config.json says float32: half the bytes, loaded at full speed."""
    import torch

    halves: dict[int, torch.Tensor] = {}  # by address, so that tied weights stay one tensor
    state = {}
    for name, value in model.state_dict().items():
        if value.dtype == torch.float32:
            value = halves.setdefault(value.data_ptr(), value.half())
        state[name] = value
    model.save_pretrained(folder, state_dict=state)
