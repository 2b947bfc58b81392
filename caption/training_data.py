"""What a captioner learns from, as its network reads it, and in which order.

Everything random here is drawn from (seed, update, place in the update), never from a generator
that moves: a run that goes on after a kill, or on more processes, sees the same photos.
"""

import errno
import hashlib
import json
import time
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
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch.utils.data import Dataset

from caption import InputError
from caption.captioners import Captioner, TextRow
from caption.images import UnreadableImage, prepared_images
from caption.records import CaptionSet, write_atomically

CHUNK = 64
"""Photos encoded at once and kept in one file."""
PATIENCE = 60.0
"""Seconds without a piece of another process after which one makes the rest itself, at least."""


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
    kept up to `limit` bytes in float32 or else float16. Beyond it, and where they are augmented,
    they are decoded anew at every step.

    What is kept lies in files of `folder`, mapped into memory: a killed call finds what it had,
    processes that train together read a part each and share the pages, and so may trainings of
    the same photos by the same encoder (`network`: the fingerprint of the captioner as loaded).
    """

    def __init__(
        self,
        captioner: Captioner,
        captions: CaptionSet,
        *,
        folder: Path,
        network: str,
        share: tuple[int, int] = (0, 1),
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
        self.stored: list[torch.Tensor] | None = []
        """(n, L, D) or (n, 3, H, W) of the readable photos, piece by piece: mapped files."""
        limit = 0.0 if augmentation is not None else limit
        examples = [(e, e.image) for e in captions.examples if e.image is not None]
        photos = _Photos([p for _, p in examples], self, folder, network, limit)
        texts: list[tuple[int, str]] = []
        for first, (held, reasons) in photos.read(share, progress):
            own = examples[first : first + CHUNK]
            kept = [pair for i, pair in enumerate(own) if i not in reasons]
            self.skipped.extend((own[i][0].id, reason) for i, reason in sorted(reasons.items()))
            for number, (example, path) in enumerate(kept, start=len(self.ids)):
                texts.extend((number, caption) for caption in example.captions)
                self.ids.append(example.id)
                self.paths.append(path)
                self.captions.append(example.captions)
            if kept and held is None:
                self.stored = None
            elif held is not None and self.stored is not None:
                self.stored.append(held)
        if not texts:
            raise InputError(
                f"caption set {captions.name!r}: none of its photos can be read "
                f"({len(self.skipped)} tried"
                f"{', e.g. ' + ': '.join(self.skipped[0]) if self.skipped else ''})"
            )
        self._ends = np.cumsum([len(held) for held in self.stored or ()])
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
        """Size of the cache; 0 where nothing is cached."""
        return sum(held.nbytes for held in self.stored or ()) / 1e6

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
        pieces = np.searchsorted(self._ends, numbers, side="right").tolist()
        held = torch.stack(
            [self.stored[k][i - self._ends[k]] for i, k in zip(numbers, pieces, strict=True)]
        ).to(self.captioner.device, torch.float32)
        return {"features" if self.encode else "pixels": held}

    def _pixels(self, paths: Sequence[Path], picks: Sequence[Pick]) -> torch.Tensor:
        change, preprocess = self.augmentation, self.captioner.preprocess
        if change is None or not picks:
            opened = list(self.opened(paths, preprocess))
        else:
            pictures = self.opened(paths, lambda image: image)
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

    def opened(self, paths: Sequence[Path], prepare: Callable[[Image.Image], Any]) -> Iterator[Any]:
        """`prepare` of each photo, in order, or why it cannot be read; decoded ahead by threads."""
        size = self.captioner.image_size
        return prepared_images(paths, prepare, at_least=size, workers=self.workers)


Piece = tuple[torch.Tensor | None, dict[int, str]]
"""Of up to CHUNK photos: what is kept of the readable ones, and why which are not (by place)."""


class _Photos:
    """Photos as encoder outputs or pixels, in files that say what they were made from."""

    def __init__(
        self, paths: Sequence[Path], data: TrainingData, folder: Path, network: str, limit: float
    ) -> None:
        self.paths, self.data, self.limit = paths, data, limit
        self.unwritten: dict[int, Piece] = {}
        grey = Image.linear_gradient("L").convert("RGB")
        seen = hashlib.sha256(data.captioner.preprocess(grey).tobytes()).hexdigest()
        self.made_by = json.dumps([network, seen, data.encode, limit, len(paths)])
        self.files = {n: folder / self._name(n) for n in range(0, len(paths), CHUNK)}

    def read(
        self, share: tuple[int, int], progress: Callable[[str, int, int], None]
    ) -> Iterator[tuple[int, Piece]]:
        """(number of its first photo, piece) in order; pieces that are not there yet are made.

        share: (rank, processes): each makes every so many pieces, then waits for the others'.
        """
        self.data.captioner.model.eval()
        starts = list(self.files)
        rank, processes = share
        own = starts[rank::processes]
        wanted = [first for first in own if self._load(first) is None]
        total, began = len(self.paths), time.monotonic()
        for made, _ in enumerate(self._make(wanted), start=1):
            left = (len(wanted) - made) * CHUNK * processes  # the others are about as far
            progress("reading photos", max(0, total - left), total)
        heard = time.monotonic()
        patience = max(PATIENCE, 4 * (heard - began)) if processes > 1 else 0.0
        alone = False
        for first in starts:
            while (piece := self._load(first)) is None:
                if time.monotonic() - heard >= patience:
                    alone, piece = True, next(self._make([first]))
                    break
                time.sleep(0.05)
            if first not in own and not alone:
                heard = time.monotonic()
            yield first, piece

    def _make(self, starts: Sequence[int]) -> Iterator[Piece]:
        """Write the pieces that begin at `starts`; photos of the next are decoded meanwhile."""
        captioner, paths = self.data.captioner, self.paths
        wanted = [path for first in starts for path in paths[first : first + CHUNK]]
        opened = self.data.opened(wanted, captioner.preprocess)
        for first in starts:
            pixels: list[NDArray[np.float32]] = []
            reasons: dict[int, str] = {}
            for place in range(len(paths[first : first + CHUNK])):
                found = next(opened)
                if isinstance(found, UnreadableImage):
                    reasons[place] = found.reason
                else:
                    pixels.append(found)
            held = None
            if pixels and self.limit > 0:
                held = torch.from_numpy(np.stack(pixels))
                held = encoded(captioner, held) if self.data.encode else held
                size = held[0].nbytes * len(paths)
                if size > self.limit * 2:
                    held, self.limit = None, 0.0
                elif size > self.limit:
                    held = held.half()
            try:
                if self._name(first) == self.files[first].name:
                    write_atomically(self.files[first], _packed(held, reasons))
                else:  # a photo went or changed while it was read: nobody else is to have this
                    self.unwritten[first] = held, reasons
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                self.unwritten[first] = held, reasons  # memory has to do
            yield held, reasons

    def _name(self, first: int) -> str:
        """Of a piece's file, by what it is made from."""
        name = hashlib.sha256(self.made_by.encode())
        for path in self.paths[first : first + CHUNK]:
            try:
                stat = path.stat()
                name.update(f"{path} {stat.st_size} {stat.st_mtime_ns}\n".encode())
            except OSError:
                name.update(f"{path} is gone\n".encode())
        return f"{name.hexdigest()}.safetensors"

    def _load(self, first: int) -> Piece | None:
        """A piece whose file is whole, or that could not be written; else None."""
        if first in self.unwritten:
            return self.unwritten[first]
        file = self.files[first]
        try:
            with safe_open(file, framework="pt") as opened:
                about = opened.metadata() or {}
                names = opened.keys()
                held = opened.get_tensor("held") if "held" in names else None
            file.touch()  # in use: what shares the folder may remove the rest
        except (SafetensorError, OSError):
            return None
        reasons = about.get("reasons", "")
        if about.get("digest") != _digest(held, reasons):
            return None
        return held, {int(place): reason for place, reason in json.loads(reasons).items()}


def _packed(held: torch.Tensor | None, reasons: dict[int, str]) -> bytes:
    text = json.dumps(reasons)
    tensors = {} if held is None else {"held": held.contiguous()}
    packed: bytes = save(tensors, {"reasons": text, "digest": _digest(held, text)})
    return packed


def _digest(held: torch.Tensor | None, reasons: str) -> str:
    """safetensors does not notice a number that changed."""
    digest = hashlib.sha256(reasons.encode())
    if held is not None:
        digest.update(f"{held.dtype} {tuple(held.shape)}".encode())
        digest.update(held.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
