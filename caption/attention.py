"""One attention map per word of a caption: where in the photo the captioner looked to write it.

    >>> for word, seen in attention_maps(captioner, image):
    ...     overlay(image, seen).save(f"{word}.jpg")

What "looked" means depends on how a family hands photos to words; `MAPS` has one way per family.
Attention says where information was read, not why a word was chosen (arXiv 1902.10186).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.captioners import IGNORED, Captioner, TextBatch

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Map = NDArray[np.float32]

RAMP = ((0.0, (20, 11, 52)), (0.35, (120, 28, 109)), (0.65, (229, 92, 48)), (1.0, (252, 236, 140)))
"""Share of the highest attention -> colour: darkest is least, readable without telling hues."""


class WordMap(NamedTuple):
    """A word of the caption, as it stands there, and where it was read."""

    word: str
    map: Map
    """float32 (h, w), one cell a patch of the encoder, not negative, sum 1."""


def attention_maps(
    captioner: Captioner,
    image: "Image",
    *,
    text: str | None = None,
    beams: int = 1,
    max_new_tokens: int = 50,
) -> list[WordMap]:
    """A map for every white-space separated word of the caption; [] for an empty one.

    text: the caption to look at; None generates it as `captioner.generate` does, so that the words
        joined by spaces are that caption. Maps are those of the attention that predicted a word's
        tokens, averaged over layers, heads and the word's tokens; cells that are no place in the
        photo (the class token) are left out.

    Raises InputError: the family has no map, or the encoder's cells are no grid over the photo.
    """
    import torch

    if captioner.family not in MAPS:
        raise InputError(
            f"there are no attention maps for a {captioner.family} captioner; there are for "
            f"{sorted(MAPS)}"
        )
    pixels = captioner.preprocess(image)[None]
    if text is None:
        text = captioner.generate(pixels, beams=beams, max_new_tokens=max_new_tokens)[0].text
    words = text.split()
    if not words:
        return []
    # Far above any caption: nothing is cut before the network's own limit.
    rows = captioner.text_rows([" ".join(words)], 100_000)
    captioner.model.eval()
    with _eager(captioner.model), torch.no_grad():
        batch = captioner.text_batch(rows)
        seen = MAPS[captioner.family](
            captioner, torch.from_numpy(pixels).to(captioner.device), batch
        )
    counted = [label for label in rows[0].labels if label != IGNORED]
    owners = _owners(captioner.tokenizer, counted[: len(seen)], words)
    grid = _grid(seen.shape[1], captioner.image_size)
    places = seen[:, seen.shape[1] - grid[0] * grid[1] :]
    maps = []
    for number, word in enumerate(words):
        own = [i for i, owner in enumerate(owners) if owner == number]
        # A word beyond the network's longest caption was never predicted from the photo.
        cells = places[own].mean(0) if own else np.ones(grid[0] * grid[1])
        total = float(cells.sum())
        cells = cells / total if total > 0 else np.full_like(cells, 1 / len(cells))
        maps.append(WordMap(word, cells.reshape(grid).astype(np.float32)))
    return maps


def seen_part(captioner: Captioner, image: "Image") -> "Image":
    """What of a picture a map covers: the middle where the encoder crops, all of it elsewhere.

    For captioners that lay photos on a white square, that square.
    """
    if captioner.family == "chat":
        from PIL import ImageOps

        return ImageOps.pad(image.convert("RGB"), captioner.image_size, color="white")
    processor = getattr(captioner, "images", None) or captioner.processor.image_processor  # type: ignore[attr-defined]
    if not getattr(processor, "do_center_crop", None):
        return image
    height, width = captioner.image_size
    edge = int(dict(processor.size).get("shortest_edge") or min(captioner.image_size))
    scale = min(image.size) / edge
    across, down = min(image.width, width * scale), min(image.height, height * scale)
    left, top = (image.width - across) / 2, (image.height - down) / 2
    return image.crop((round(left), round(top), round(left + across), round(top + down)))


def overlay(image: "Image", seen: Map, *, strength: float = 0.65) -> "Image":
    """The photo in grey under a heat map, as an RGB picture of the same size.

    The map's highest cell gets the brightest colour whatever its value. strength: 0 shows the photo
    alone, 1 the map alone.
    """
    from PIL import Image as Images

    heat = Images.fromarray(np.asarray(seen / max(float(seen.max()), 1e-12), np.float32))
    spread = np.clip(np.asarray(heat.resize(image.size, Images.Resampling.BICUBIC)), 0, 1)
    stops = [at for at, _ in RAMP]
    colours = [np.interp(spread, stops, [colour[c] for _, colour in RAMP]) for c in range(3)]
    grey = np.asarray(image.convert("L"), np.float32)[..., None]
    mixed = (1 - strength) * grey + strength * np.stack(colours, -1)
    return Images.fromarray(mixed.round().astype(np.uint8))


def _cross(captioner: Captioner, pixels: "torch.Tensor", batch: TextBatch) -> NDArray[np.float64]:
    """Decoders that read the encoder's outputs through cross-attention (BLIP, ViT + GPT-2)."""
    features = captioner.encode_images(pixels)
    with _recorded(captioner.model) as found:
        captioner.logits(features, batch)
    crossed = [a for name, a in found if "cross" in name.lower() or "encdec" in name.lower()]
    return _counted(_mean(crossed), batch)


def _through_queries(
    captioner: Captioner, pixels: "torch.Tensor", batch: TextBatch
) -> NDArray[np.float64]:
    """BLIP-2: what a word read of the queries, times what the queries read of the photo."""
    model: Any = captioner.model
    with _recorded(model.qformer) as found:
        features = captioner.encode_images(pixels)
    queries = _mean([a for name, a in found if "cross" in name.lower()])  # (Q, cells)
    read = _context(captioner, features, batch)
    if not model.config.use_decoder_only_language_model:
        return read[:, : len(queries)] @ queries  # T5 reads queries, then the prompt
    return read[:, read.shape[1] - len(queries) :] @ queries


def _through_embedding(
    captioner: Captioner, pixels: "torch.Tensor", batch: TextBatch
) -> NDArray[np.float64]:
    """ClipCap: all words read one embedding, so attention alone has one map for all of them.

    CLIP's last attention, from the class token to the patches, weighed by how much each place
    raises the word's log-probability (gradient times attention, arXiv 2103.15679).
    """
    import torch

    model: Any = captioner.model
    with torch.enable_grad():
        with _recorded(model.clip) as found:
            features = captioner.encode_images(pixels.requires_grad_())
        seen = found[-1][1]  # (1, heads, cells, cells)
        logp = captioner.logits(features, batch)[0].log_softmax(-1)
        labels = batch.labels[0].tolist()
        rows = []
        for t, label in enumerate(labels):
            if label == IGNORED:
                continue
            (raised,) = torch.autograd.grad(logp[t, label], seen, retain_graph=True)
            gained = (raised * seen).clamp(min=0)[0, :, 0, 1:].mean(0)
            plain = seen[0, :, 0, 1:].mean(0)  # no place raises it: where CLIP looks at all
            rows.append((gained if bool(gained.any()) else plain).detach().double().tolist())
    return np.array(rows)


def _image_tokens(
    captioner: Captioner, pixels: "torch.Tensor", batch: TextBatch
) -> NDArray[np.float64]:
    """LLaVA and other chat captioners: what a word read of the photo's tokens in the question."""
    own: Any = captioner
    features = captioner.encode_images(pixels)
    read = _context(captioner, features, batch)
    if captioner.family == "llava":
        end = read.shape[1] - len(own.after)
        return read[:, end - features.shape[1] : end]
    asked = own.asked_ids[0, :-1]
    config = own.model.config
    token = getattr(config, "image_token_id", None) or config.image_token_index
    places = (asked == token).nonzero()[:, 0].numpy() + read.shape[1] - len(asked)
    return read[:, places]


def _context(
    captioner: Captioner, features: "torch.Tensor", batch: TextBatch
) -> NDArray[np.float64]:
    """What each counted token read of what stands before the text: (tokens, places before it)."""
    with _recorded(captioner.model) as found:
        captioner.logits(features, batch)
    crossed = [a for name, a in found if "encdec" in name.lower()]  # T5 reads it by its decoder
    if crossed:
        return _counted(_mean(crossed), batch)
    # A chat captioner looks at the photo in the same call.
    written = [a for name, a in found if "vision" not in name and "visual" not in name]
    length = batch.labels.shape[1]
    own = _mean([a[:, :, -length:] for a in written])
    return _counted(own[:, : own.shape[1] - length], batch)


MAPS: dict[str, Callable[[Captioner, "torch.Tensor", TextBatch], NDArray[np.float64]]] = {
    "blip": _cross,
    "vision-encoder-decoder": _cross,
    "blip-2": _through_queries,
    "clipcap": _through_embedding,
    "llava": _image_tokens,
    "chat": _image_tokens,
}
"""Family -> pixels (1, 3, H, W), one row of text -> (counted tokens, cells of the encoder)."""


def _mean(attentions: Sequence["torch.Tensor"]) -> NDArray[np.float64]:
    """(1, heads, T, S) of every layer -> float64 (T, S), over layers and heads."""
    if not attentions:
        raise InputError("the captioner's network gave no attention weights to draw")
    layers = [a[0].double().mean(0).cpu().numpy() for a in attentions]
    mean: NDArray[np.float64] = np.mean(layers, axis=0)
    return mean


def _counted(attention: NDArray[np.float64], batch: TextBatch) -> NDArray[np.float64]:
    """Rows (of the last dimensions but one) that predict tokens of the caption."""
    labels = batch.labels[0].tolist()
    rows = [t for t, label in enumerate(labels) if label != IGNORED]
    return attention[rows]


def _grid(cells: int, size: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of square patches over a picture (H, W); some cells may be no patches."""
    height, width = size
    for extra in range(min(cells, 9)):  # a class token and up to eight registers
        patch = (height * width / (cells - extra)) ** 0.5
        rows, columns = round(height / patch), round(width / patch)
        if rows * columns == cells - extra and rows * width == columns * height:
            return rows, columns
    raise InputError(
        f"the encoder sees a picture of {height} x {width} pixels as {cells} cells, which are no "
        "grid of square patches: there is no map to draw"
    )


def _owners(tokenizer: Any, tokens: Sequence[int], words: Sequence[str]) -> list[int]:
    """Which word each token belongs to; -1 for tokens that write nothing (the end).

    Counted in characters that are not white space, the one thing that tokenizers keep.
    """
    ends = np.cumsum([len(word) for word in words])
    owners, before = [], 0
    for count in range(1, len(tokens) + 1):
        text = tokenizer.decode(tokens[:count], skip_special_tokens=True)
        after = len("".join(text.split()))
        # An unfinished character of several bytes is decoded as one mark, the whole one too.
        first = min(before, int(ends[-1]) - 1)
        owners.append(int(np.searchsorted(ends, first, side="right")) if after > before else -1)
        before = max(before, after)
    return owners


@contextmanager
def _eager(model: Any) -> Iterator[None]:
    """Attention that keeps its weights, for a moment: the fast kinds never compute them."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    own = [c for c in configs.values() if hasattr(c, "_attn_implementation_internal")]
    before = [c._attn_implementation_internal for c in own]
    for config in own:
        config._attn_implementation_internal = "eager"
    try:
        yield
    finally:
        for config, kind in zip(own, before, strict=True):
            config._attn_implementation_internal = kind


@contextmanager
def _recorded(model: Any) -> Iterator[list[tuple[str, "torch.Tensor"]]]:
    """Attention weights (n, heads, T, S) by module name, in the order in which they are computed.

    Hooks, because every architecture returns its attentions under another name, if at all.
    """
    import torch

    found: list[tuple[str, torch.Tensor]] = []

    def note(name: str) -> Callable[[Any, Any, Any], None]:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            weights = output[-1] if isinstance(output, tuple) else None
            # Wrappers pass on what the module inside them returned.
            if not isinstance(weights, torch.Tensor) or weights.ndim != 4:
                return
            if all(weights is not known for _, known in found):
                found.append((name, weights))

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in model.named_modules()
        if "attention" in type(module).__name__.lower()
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
