"""What a captioner learns from, as its network reads it, and in which order.

Everything random here is drawn from (seed, update, place in the update), never from a generator
that moves: a run that goes on after a kill, or on more processes, sees the same photos.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from PIL.Image import Transpose
from torch.utils.data import Dataset

from caption import InputError
from caption.captioners import Captioner, TextRow
from caption.images import UnreadableImage, prepared_images
from caption.records import CaptionExample, CaptionSet

CHUNK = 64
"""Photos encoded at once while the cache is filled."""


class Pick(NamedTuple):
    """One caption of one update."""

    step: int
    place: int
    """Place within the update."""
    row: int


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training photos."""

    flip: float
    """Probability of a mirror image."""
    jitter: float
    """Brightness, contrast and saturation are each multiplied by 1 - jitter ... 1 + jitter."""

    def __call__(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        """A changed copy."""
        if rng.random() < self.flip:
            image = image.transpose(Transpose.FLIP_LEFT_RIGHT)
        if self.jitter:
            for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
                factor = 1 + self.jitter * rng.uniform(-1, 1)
                image = change(image).enhance(factor)
        return image


class TrainingData(Dataset[Any]):
    """The readable photos of a set as the network's inputs, and their captions as tokens.

    Photos are opened once: as encoder outputs where the encoder is frozen, else as pixels, they are
    held in memory up to `limit` bytes in float32 or else float16. Beyond it, and where they are
    augmented, they are decoded anew at every step.
    """

    def __init__(
        self,
        captioner: Captioner,
        captions: CaptionSet,
        *,
        encode: bool,
        limit: float,
        max_tokens: int,
        workers: int,
        seed: int,
        augmentation: Augmentation | None,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.captioner = captioner
        self.encode = encode
        self.workers = workers
        self.seed = seed
        self.augmentation = augmentation
        self.skipped: list[tuple[str, str]] = []
        self.paths: list[Path] = []
        self.ids: list[str] = []
        self.captions: list[tuple[str, ...]] = []
        self.stored: torch.Tensor | None = None
        examples = [e for e in captions.examples if e.image is not None]
        texts = self._read(examples, captions.name, limit, progress)
        rows = captioner.text_rows([t for _, t in texts], max_tokens)
        self.rows: list[tuple[int, TextRow]] = [
            (image, row) for (image, _), row in zip(texts, rows, strict=True)
        ]
        self.cut = sum(row.cut for row in rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, picks: Sequence[Pick]) -> dict[str, torch.Tensor]:
        """The inputs of `Network.forward` for these picks (torch's name for a batched lookup)."""
        return self.batch([pick.row for pick in picks], picks)

    @property
    def cached_mb(self) -> float:
        """Memory of the cache; 0 where nothing is cached."""
        return 0.0 if self.stored is None else self.stored.nbytes / 1e6

    def batch(self, rows: Sequence[int], picks: Sequence[Pick] = ()) -> dict[str, torch.Tensor]:
        """`features` or `pixels`, `input_ids` and `labels` of rows; augmented where `picks` say."""
        chosen = [self.rows[row] for row in rows]
        text = self.captioner.text_batch([row for _, row in chosen])
        images = self.images([image for image, _ in chosen], picks)
        return {**images, "input_ids": text.input_ids, "labels": text.labels}

    def images(self, numbers: Sequence[int], picks: Sequence[Pick] = ()) -> dict[str, torch.Tensor]:
        """{"features": (n, L, D)} where encoder outputs are cached, else {"pixels": (n, ...)}."""
        if self.stored is None:
            return {"pixels": self._pixels([self.paths[i] for i in numbers], picks)}
        held = self.stored[torch.tensor(numbers)].to(self.captioner.device, torch.float32)
        return {"features" if self.encode else "pixels": held}

    def _read(
        self,
        examples: Sequence[CaptionExample],
        name: str,
        limit: float,
        progress: Callable[[str, int, int], None],
    ) -> list[tuple[int, str]]:
        """Open every photo once: fill the cache, and note those that cannot be read."""
        texts: list[tuple[int, str]] = []
        chunk: list[NDArray[np.float32]] = []
        self.captioner.model.eval()
        keep = limit > 0 and self.augmentation is None

        def store() -> None:
            nonlocal keep
            if not chunk or not keep:
                return
            batch = torch.from_numpy(np.stack(chunk))
            if self.encode:
                batch = encoded(self.captioner, batch)
            if self.stored is None:
                size = batch[0].nbytes * len(examples)
                keep = size <= limit * 2
                if not keep:
                    return
                dtype = torch.float32 if size <= limit else torch.float16
                self.stored = torch.empty((len(examples), *batch.shape[1:]), dtype=dtype)
            end = len(self.ids)
            self.stored[end - len(batch) : end] = batch

        paths = [e.image for e in examples if e.image is not None]
        for done, (example, pixels) in enumerate(
            zip(examples, self._opened(paths, self.captioner.preprocess), strict=True), start=1
        ):
            if isinstance(pixels, UnreadableImage):
                self.skipped.append((example.id, pixels.reason))
            else:
                texts.extend((len(self.ids), caption) for caption in example.captions)
                self.ids.append(example.id)
                self.paths.append(paths[done - 1])
                self.captions.append(example.captions)
                chunk.append(pixels)
            if len(chunk) == CHUNK:
                store()
                chunk.clear()
                progress("reading photos", done, len(examples))
        store()
        if not texts:
            raise InputError(
                f"caption set {name!r}: none of its photos can be read ({len(self.skipped)} tried"
                f"{', e.g. ' + ': '.join(self.skipped[0]) if self.skipped else ''})"
            )
        if self.stored is not None:
            self.stored = self.stored[: len(self.ids)]
        return texts

    def _pixels(self, paths: Sequence[Path], picks: Sequence[Pick]) -> torch.Tensor:
        change, preprocess = self.augmentation, self.captioner.preprocess
        if change is None or not picks:
            opened = list(self._opened(paths, preprocess))
        else:
            pictures = self._opened(paths, lambda image: image)
            opened = [
                picture
                if isinstance(picture, UnreadableImage)
                else preprocess(
                    change(picture, np.random.default_rng([self.seed, 1, pick.step, pick.place]))
                )
                for picture, pick in zip(pictures, picks, strict=True)
            ]
        for pixels in opened:
            if isinstance(pixels, UnreadableImage):
                raise pixels
        return torch.from_numpy(np.stack(opened)).to(self.captioner.device)  # type: ignore[arg-type]

    def _opened(
        self, paths: Sequence[Path], prepare: Callable[[Image.Image], Any]
    ) -> Iterator[Any]:
        size = self.captioner.image_size
        return prepared_images(paths, prepare, at_least=size, workers=self.workers)


class UpdateOrder:
    """Which rows each part of each update reads: a batch sampler over all updates of a run.

    An update is `batch_size` captions however many parts and processes compute it. Every epoch is a
    fresh permutation, found from the update's number alone; updates run across its end.
    """

    def __init__(
        self,
        n: int,
        *,
        steps: int,
        batch_size: int,
        seed: int,
        parts: int = 1,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        self.n, self.steps, self.batch_size, self.seed = n, steps, batch_size, seed
        self.parts, self.rank, self.processes = parts, rank, processes

    def __len__(self) -> int:
        return self.steps * self.parts

    def __iter__(self) -> Iterator[list[Pick]]:
        places = np.array_split(np.arange(self.batch_size), self.parts * self.processes)
        own = [p.tolist() for p in places[self.rank :: self.processes]]
        for step in range(self.steps):
            rows = self.rows(step).tolist()
            for part in own:
                yield [Pick(step, place, rows[place]) for place in part]

    def rows(self, step: int) -> NDArray[np.int64]:
        """Row numbers of one update, int64 (batch_size,)."""
        first = step * self.batch_size
        epochs = range(first // self.n, (first + self.batch_size - 1) // self.n + 1)
        order = np.concatenate([_permutation(self.seed, e, self.n) for e in epochs])
        start = first - epochs.start * self.n
        return order[start : start + self.batch_size]


def encoded(captioner: Captioner, pixels: torch.Tensor) -> torch.Tensor:
    """Encoder outputs on the CPU, halving the batch as often as memory asks for it."""
    try:
        with torch.no_grad():
            return captioner.encode_images(pixels.to(captioner.device)).float().cpu()
    except (RuntimeError, MemoryError) as error:
        if len(pixels) == 1 or not out_of_memory(error):
            raise
    half = len(pixels) // 2
    return torch.cat([encoded(captioner, pixels[:half]), encoded(captioner, pixels[half:])])


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device or the machine has no memory left."""
    return isinstance(error, MemoryError) or should_reduce_batch_size(error)


@lru_cache(maxsize=4)
def _permutation(seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(n)
