"""A captioner without a language model: it chooses among the texts people wrote for other photos.

Two small networks learn, from the training photos alone, how probable each training text is for a
photo: one reads image vectors (any encoder's), one the photo itself. Their target is no single text
but all texts as far as CIDEr-D finds them alike, so that a photo teaches the kin of its text too.
The text that is written is the one with the highest expected CIDEr-D under those probabilities
(minimum Bayes risk: Kumar and Byrne, 2004; over neighbours' texts: Devlin et al., 2015).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import ArrayLike, NDArray

from caption import InputError
from caption.textbank import TextBank

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

Progress = Callable[[str, int, int], None]
Count = Annotated[int, Ge(1)]
Rate = Annotated[float, Gt(0)]

HEIGHT, WIDTH = 96, 64
"""Size in pixels at which photos are looked at; they are stretched to it."""
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Weights of the photo network that are tried on the validation part."""
_INFERENCE = 64


@dataclass(frozen=True)
class RetrievalConfig:
    """How a retrieval captioner learns."""

    vector_epochs: Annotated[int, Ge(0)] = 12
    """Passes of the network over image vectors; 0 leaves it out."""
    photo_epochs: Annotated[int, Ge(0)] = 10
    """Passes of the network over the photos themselves; 0 leaves it out."""
    components: Count = 600
    """Principal components of the vectors that are kept."""
    hidden: Count = 768
    """Width of the network over vectors."""
    channels: Count = 24
    """Width of the network over photos: channels after its first layer."""
    dim: Count = 192
    """Dimensions in which photos and texts meet."""
    dropout: Annotated[float, Ge(0), Le(0.9)] = 0.3
    """Share of activations left out while learning."""
    vector_rate: Rate = 1e-3
    """Highest learning rate of the network over vectors (AdamW, one cycle)."""
    photo_rate: Rate = 3e-3
    """Highest learning rate of the network over photos."""
    sharpness: Rate = 3.0
    """The share of a text in the target is its likeness to the true text to this power."""
    kin: Count = 200
    """Most alike texts in a target."""
    support: Count = 150
    """Most probable texts among which, and against which, a caption is chosen."""
    bfloat16: bool = False
    """Learn in bfloat16 where that is faster; inference is in float32."""
    seed: int = 0
    """Of weights, order, dropout and mirrored photos."""


@dataclass(frozen=True)
class Chosen:
    """A text chosen for a photo."""

    text: str
    logprob: float
    """Natural log of the text's probability among all texts that were allowed."""


def prepare(image: Image) -> NDArray[np.uint8]:
    """An RGB picture -> uint8 (HEIGHT, WIDTH, 3)."""
    from PIL.Image import Resampling

    return np.asarray(image.resize((WIDTH, HEIGHT), Resampling.BOX))


class Retriever:
    """Texts, and networks that say how probable each is for a photo."""

    def __init__(self, texts: Sequence[str], config: RetrievalConfig, networks: Any, share: float):
        """`networks`: ModuleDict of `vectors` and `photos`, either of which may be missing."""
        self.texts = tuple(texts)
        self.config = config
        self.networks = networks
        self.share = share
        """Weight of the network over photos in the mean of both networks' logits."""

    @classmethod
    def fit(
        cls,
        vectors: ArrayLike,
        photos: NDArray[np.uint8],
        texts: Sequence[str],
        config: RetrievalConfig,
        *,
        validation: tuple[ArrayLike, NDArray[np.uint8], Sequence[str]] | None = None,
        progress: Progress | None = None,
    ) -> Retriever:
        """Learn from n photos with one text each.

        Args:
            vectors: float (n, dim) image embeddings.
            photos: uint8 (n, HEIGHT, WIDTH, 3), by `prepare`: 18 kB a photo in memory.
            texts: n texts; equal ones are one candidate.
            config: how to learn.
            validation: the same three of other photos; choose how both networks are mixed. None
                mixes them equally.
            progress: called with (what, done, total).

        Raises:
            InputError: lengths that differ, less than two distinct texts, values that are not
                finite, no network to learn.
        """
        import torch

        given = _vectors(vectors)
        _check(given, photos, texts, config)
        distinct = list(dict.fromkeys(texts))
        number = {text: i for i, text in enumerate(distinct)}
        labels = np.array([number[text] for text in texts])
        bank = TextBank.of(distinct, np.bincount(labels))
        targets = bank.targets(config.kin, config.sharpness)
        start = bank.reduced(config.dim, config.seed)
        networks = torch.nn.ModuleDict()
        networks.register_buffer("counts", torch.from_numpy(np.bincount(labels)))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            if config.vector_epochs:
                network = _vector_network(given, config, start)
                inside = network[0](torch.from_numpy(given)).detach()
                _learn(
                    network[1:], lambda rows, _: inside[rows], labels, targets,
                    epochs=config.vector_epochs, batch=256, rate=config.vector_rate,
                    config=config, progress=progress, what="learning from vectors",
                )  # fmt: skip
                networks["vectors"] = network
            if config.photo_epochs:
                network = _photo_network(config, start)
                _learn(
                    network, lambda rows, rng: _augmented(photos[rows], rng), labels, targets,
                    epochs=config.photo_epochs, batch=128, rate=config.photo_rate,
                    config=config, progress=progress, what="learning from photos",
                )  # fmt: skip
                networks["photos"] = network
        found = cls(distinct, config, networks.eval(), 0.5)
        found.__dict__["bank"] = bank
        if validation is not None and len(networks) == 2:
            found._mix(_vectors(validation[0]), validation[1], validation[2])
        return found

    def choose(
        self,
        vectors: ArrayLike,
        photos: NDArray[np.uint8],
        barred: Sequence[Sequence[int]] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Chosen]:
        """One text a photo: of the highest expected CIDEr-D against the probable texts.

        A text never vouches for itself: the true text of a new photo is none of those known.

        Args:
            vectors: float (n, dim) as for `fit`.
            photos: uint8 (n, HEIGHT, WIDTH, 3), by `prepare`.
            barred: for each photo the numbers (places in `texts`) of texts it may neither be given
                nor compared with.
            progress: called with (what, done, total).

        Raises:
            InputError: lengths that differ, vectors of another width, or every text is barred.
        """
        given = _vectors(vectors)
        if len(given) != len(photos) or (barred is not None and len(barred) != len(given)):
            raise InputError(
                f"{len(given)} vectors, {len(photos)} photos"
                + ("" if barred is None else f", {len(barred)} lists of barred texts")
                + ": expected as many of each"
            )
        chosen: list[Chosen] = []
        for start in range(0, len(given), _INFERENCE):
            part = slice(start, start + _INFERENCE)
            logits = self._mixed(self._logits(given[part], photos[part]), self.share)
            chosen += self._best(logits, None if barred is None else barred[part])
            if progress is not None:
                progress("choosing texts", len(chosen), len(given))
        return chosen

    @cached_property
    def bank(self) -> TextBank:
        """The texts' n-grams."""
        return TextBank.of(self.texts, np.asarray(self.networks.get_buffer("counts")))

    def save(self, folder: Path) -> None:
        """Write `retriever.json` and `weights.safetensors` into a new or older folder."""
        from safetensors.torch import save_file

        from caption.captioners import replace_folder

        about = {"share": self.share, "config": asdict(self.config), "texts": self.texts}
        tensors = {k: v.contiguous() for k, v in self.networks.state_dict().items()}

        def write(new: Path) -> None:
            text = json.dumps(about, ensure_ascii=False, indent=0)
            (new / "retriever.json").write_text(text, encoding="utf-8")
            save_file(tensors, new / "weights.safetensors")

        replace_folder(Path(folder), write)

    @classmethod
    def load(cls, folder: Path) -> Retriever:
        """Read what `save` wrote. Raises InputError where it is no such folder."""
        import torch
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = Path(folder)
        try:
            about = json.loads((folder / "retriever.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "weights.safetensors")
            config = RetrievalConfig(**about["config"])
            networks = torch.nn.ModuleDict()
            start = np.zeros((len(about["texts"]), config.dim), np.float32)
            if "vectors.0.weight" in tensors:
                width = tensors["vectors.0.weight"].shape[1]
                networks["vectors"] = _vector_layers(width, config, start)
            if "photos.0.weight" in tensors:
                networks["photos"] = _photo_network(config, start)
            networks.register_buffer("counts", torch.zeros(len(start), dtype=torch.int64))
            networks.load_state_dict(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder} is no retrieval captioner ({error}): expected retriever.json and "
                "weights.safetensors as Retriever.save writes them"
            ) from error
        return cls(about["texts"], config, networks.eval(), float(about["share"]))

    def _logits(
        self, vectors: NDArray[np.float32], photos: NDArray[np.uint8]
    ) -> dict[str, torch.Tensor]:
        import torch

        found = {}
        with torch.inference_mode():
            for name, network in self.networks.items():
                inputs = torch.from_numpy(vectors) if name == "vectors" else _pixels(photos)
                width = network[0].in_features if name == "vectors" else inputs.shape[1]
                if inputs.shape[1] != width:
                    raise InputError(
                        f"vectors have {inputs.shape[1]} dimensions, this captioner learned from "
                        f"{width}: embed with the same encoder"
                    )
                found[name] = network(inputs)
        return found

    def _mixed(self, logits: dict[str, torch.Tensor], share: float) -> NDArray[np.float32]:
        if len(logits) == 1:
            (mixed,) = logits.values()
        else:
            mixed = share * logits["photos"] + (1 - share) * logits["vectors"]
        return mixed.numpy()

    def _best(
        self, logits: NDArray[np.float32], barred: Sequence[Sequence[int]] | None
    ) -> list[Chosen]:
        chosen = []
        top = min(self.config.support, len(self.texts))
        for i, row in enumerate(logits.astype(np.float64)):
            if barred is not None:
                row[list(barred[i])] = -np.inf
            if np.isneginf(row.max()):
                raise InputError(f"photo {i}: every text is barred; learn from more texts")
            row -= row.max()
            probable = np.exp(row)
            probable /= probable.sum()
            places = np.sort(np.argpartition(-probable, top - 1)[:top])
            alike = self.bank.alike(places)
            np.fill_diagonal(alike, 0)
            expected = np.round(alike @ probable[places], 12)
            # Of equal texts, and where nothing is alike, the more probable one.
            order = np.lexsort((-probable[places], -expected))
            place = next(p for p in places[order] if probable[p] > 0)
            chosen.append(Chosen(self.texts[place], float(np.log(probable[place]))))
        return chosen

    def _mix(
        self, vectors: NDArray[np.float32], photos: NDArray[np.uint8], texts: Sequence[str]
    ) -> None:
        """Weigh the networks so that captions of the validation photos score best."""
        import torch

        from caption.metrics.cider import CiderReward
        from caption.metrics.tokenizer import tokenize

        _check(vectors, photos, texts, self.config)
        parts = [
            self._logits(vectors[start : start + _INFERENCE], photos[start : start + _INFERENCE])
            for start in range(0, len(vectors), _INFERENCE)
        ]
        logits = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        written = [
            [c.text for c in self._best(self._mixed(logits, share), None)] for share in SHARES
        ]
        tokens, _ = tokenize([*texts, *(text for own in written for text in own)], "auto")
        n = len(texts)
        reward = CiderReward([[text] for text in tokens[:n]])
        scores = [
            float(reward(tokens[n * (i + 1) : n * (i + 2)], range(n)).mean())
            for i in range(len(SHARES))
        ]
        self.share = SHARES[int(np.argmax(np.round(scores, 9)))]


def _vector_network(
    vectors: NDArray[np.float32], config: RetrievalConfig, start: NDArray[np.float32]
) -> Any:
    """`_vector_layers` whose first one is frozen: principal components of mean variance 1."""
    import torch
    from sklearn.utils.extmath import randomized_svd  # type: ignore[import-untyped, unused-ignore]

    mean = vectors.mean(0)
    most = min(config.components, *vectors.shape)
    _, s, rows = randomized_svd(vectors - mean, most, n_iter=2, random_state=config.seed)
    scale = np.sqrt((s**2).mean() / len(vectors)) or 1.0
    layers = _vector_layers(vectors.shape[1], config, start)
    with torch.no_grad():
        layers[0].weight.zero_()[:most] = torch.from_numpy((rows / scale).astype(np.float32))
        layers[0].bias.zero_()[:most] = torch.from_numpy(-(rows @ mean) / scale)
    layers[0].requires_grad_(False)
    return layers


def _vector_layers(width: int, config: RetrievalConfig, start: NDArray[np.float32]) -> Any:
    from torch import nn

    return nn.Sequential(
        nn.Linear(width, config.components),
        nn.Linear(config.components, config.hidden),
        nn.LayerNorm(config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.dim),
        _texts(start),
    )


def _photo_network(config: RetrievalConfig, start: NDArray[np.float32]) -> Any:
    """Convolutions with stride, pooled to 3 x 2 places: hems are low, collars are high."""
    import torch
    from torch import nn

    c, layers = config.channels, []
    sizes = [(3, c, 2), (c, 2 * c, 2), (2 * c, 2 * c, 1), (2 * c, 4 * c, 2), (4 * c, 4 * c, 1),
             (4 * c, 8 * c, 2), (8 * c, 8 * c, 1)]  # fmt: skip
    for before, after, stride in sizes:
        layers += [
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
        ]
    layers += [
        nn.AdaptiveAvgPool2d((3, 2)),
        nn.Flatten(),
        nn.Dropout(config.dropout),
        nn.Linear(8 * c * 6, config.dim),
        _texts(start),
    ]
    network: Any = nn.Sequential(*layers)
    return network.to(memory_format=torch.channels_last)


def _texts(start: NDArray[np.float32]) -> Any:
    """The last layer: a place for each text, at first where its n-grams put it."""
    import torch

    layer = torch.nn.Linear(start.shape[1], len(start), bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(start) * 4)
    return layer


def _learn(
    network: Any,
    inputs: Callable[[NDArray[np.int64], np.random.Generator], torch.Tensor],
    labels: NDArray[np.int64],
    targets: tuple[NDArray[np.int64], NDArray[np.float32]],
    *,
    epochs: int,
    batch: int,
    rate: float,
    config: RetrievalConfig,
    progress: Progress | None,
    what: str,
) -> None:
    """Cross-entropy between each photo's target over texts and the network's softmax."""
    import torch

    rng = np.random.default_rng(config.seed)
    batch = min(batch, max(2, len(labels) // 8))  # a small set gets some steps a pass too
    steps = epochs * (len(labels) // batch)
    own, places = list(network[:-1].parameters()), list(network[-1].parameters())
    rates = [rate, min(rate, 1e-3)]
    optimiser = torch.optim.AdamW([{"params": own}, {"params": places}], rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rates, total_steps=max(2, steps), pct_start=0.15
    )
    network.train()
    done = 0
    for _ in range(epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            x = inputs(rows, rng)
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bfloat16):
                logits = network(x)
            kin = torch.from_numpy(targets[0][labels[rows]])
            shares = torch.from_numpy(targets[1][labels[rows]])
            logits = logits.float()
            said = (shares * logits.gather(1, kin)).sum(1)
            loss = (logits.logsumexp(1) - said).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress(what, done, steps)


def _augmented(photos: NDArray[np.uint8], rng: np.random.Generator) -> torch.Tensor:
    """Every second photo mirrored, all shifted by up to 4 pixels."""
    photos = photos.copy()
    mirrored = rng.random(len(photos)) < 0.5
    photos[mirrored] = photos[mirrored, :, ::-1]
    down, right = rng.integers(-4, 5, 2)
    return _pixels(np.roll(photos, (down, right), (1, 2)))


def _pixels(photos: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 (n, H, W, 3) -> float32 (n, 3, H, W), 0 where white: backgrounds are light."""
    import torch

    return ((255 - torch.from_numpy(photos).float()) / 128).permute(0, 3, 1, 2)


def _vectors(vectors: ArrayLike) -> NDArray[np.float32]:
    found = np.ascontiguousarray(vectors, np.float32)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InputError(
            f"vectors of shape {found.shape}: expected (n, dim), all finite; leave out photos "
            "without an embedding"
        )
    return found


def _check(
    vectors: NDArray[np.float32],
    photos: NDArray[np.uint8],
    texts: Sequence[str],
    config: RetrievalConfig,
) -> None:
    if not len(vectors) == len(photos) == len(texts):
        raise InputError(
            f"{len(vectors)} vectors, {len(photos)} photos, {len(texts)} texts: expected as many "
            "of each"
        )
    if len(set(texts)) < 2:
        raise InputError(f"{len(set(texts))} distinct texts: expected at least 2 to choose among")
    if not (config.vector_epochs or config.photo_epochs):
        raise InputError("vector_epochs and photo_epochs are both 0: nothing would learn")
