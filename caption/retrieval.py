"""A captioner without a language model: it chooses among the texts people wrote for other photos.

Small networks over image vectors (any encoder's) learn how probable each training text is for a
photo. Their target is no single text but all texts as far as CIDEr-D finds them alike, so that a
photo teaches the kin of its text too. The text that is written is the one with the highest expected
CIDEr-D under those probabilities (minimum Bayes risk: Kumar and Byrne, 2004; over neighbours'
texts: Devlin et al., 2015).
"""

from __future__ import annotations

import json
from collections import Counter
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

Progress = Callable[[str, int, int], None]
Count = Annotated[int, Ge(1)]
Rate = Annotated[float, Gt(0)]

_BATCH = 256
"""Photos a step, and photos described at once."""


@dataclass(frozen=True)
class RetrievalConfig:
    """How a retrieval captioner learns and chooses."""

    members: Count = 3
    """Networks that learn from different starts; their logits are averaged."""
    epochs: Count = 12
    """Passes of each network over the training part."""
    components: Count = 600
    """Principal components of the vectors that are kept."""
    hidden: Count = 768
    """Width of a network."""
    dim: Count = 192
    """Dimensions in which photos and texts meet."""
    dropout: Annotated[float, Ge(0), Le(0.9)] = 0.3
    """Share of activations left out while learning."""
    learning_rate: Rate = 1e-3
    """Highest learning rate (AdamW, one cycle)."""
    sharpness: Rate = 3.0
    """The share of a text in the target is its likeness to the true text to this power."""
    kin: Count = 200
    """Most alike texts in a target."""
    support: Count = 150
    """Most probable texts among which, and against which, a caption is chosen."""
    category_weight: Annotated[float, Ge(0)] = 0.3
    """Expected CIDEr-D counts times the probability of the text's category to this power: above 0
    some CIDEr-D is given for the right type of garment."""
    bfloat16: bool = False
    """Learn in bfloat16, faster where the processor multiplies it; inference is in float32."""
    seed: int = 0
    """Of weights, order and dropout."""


@dataclass(frozen=True)
class Chosen:
    """A text chosen for a photo."""

    text: str
    logprob: float
    """Natural log of the text's probability among all texts that were allowed."""


class Retriever:
    """Texts, and networks that say how probable each is for a photo."""

    def __init__(
        self,
        texts: Sequence[str],
        categories: Sequence[str],
        config: RetrievalConfig,
        networks: Any,
    ):
        """`categories`: one a text. `networks`: a ModuleList from vectors to logits over texts,
        with a buffer `counts`: photos of each text."""
        self.texts = tuple(texts)
        self.categories = tuple(categories)
        self.config = config
        self.networks = networks

    @classmethod
    def fit(
        cls,
        vectors: ArrayLike,
        texts: Sequence[str],
        config: RetrievalConfig,
        *,
        categories: Sequence[str] | None = None,
        progress: Progress | None = None,
    ) -> Retriever:
        """Learn from n photos with one text each.

        Args:
            vectors: float (n, dim) image embeddings.
            texts: n texts; equal ones are one candidate.
            config: how to learn.
            categories: what each photo shows, such as its product type; a text stands for the
                commonest of its photos. None: all of one.
            progress: called with (what, done, total).

        Raises:
            InputError: lengths that differ, less than two distinct texts, values that are not
                finite.
        """
        import torch

        given = _vectors(vectors)
        shown = [""] * len(texts) if categories is None else categories
        if not len(given) == len(texts) == len(shown):
            raise InputError(
                f"{len(given)} vectors, {len(texts)} texts, {len(shown)} categories: expected as "
                "many of each"
            )
        if len(set(texts)) < 2:
            raise InputError(
                f"{len(set(texts))} distinct texts: expected at least 2 to choose among"
            )
        found: dict[str, Counter[str]] = {}
        for text, category in zip(texts, shown, strict=True):
            found.setdefault(text, Counter())[category] += 1
        distinct = list(found)
        number = {text: i for i, text in enumerate(distinct)}
        labels = np.array([number[text] for text in texts])
        counts = np.bincount(labels)
        bank = TextBank.of(distinct, counts)
        targets = bank.targets(config.kin, config.sharpness)
        start = bank.reduced(config.dim, config.seed)
        networks = torch.nn.ModuleList()
        networks.register_buffer("counts", torch.from_numpy(counts))
        with torch.random.fork_rng(devices=[]):
            project = _projection(given, config)
            inside = project(torch.from_numpy(given))
            for member in range(config.members):
                torch.manual_seed(config.seed + member)
                rng = np.random.default_rng(config.seed + member)
                network = _network(config, start)
                what = f"learning, network {member + 1} of {config.members}"
                _learn(network, inside, labels, targets, config, rng, progress, what)
                networks.append(torch.nn.Sequential(project, network))
        common = [own.most_common(1)[0][0] for own in found.values()]
        learned = cls(distinct, common, config, networks.eval())
        learned.__dict__["bank"] = bank
        return learned

    def choose(
        self,
        vectors: ArrayLike,
        barred: Sequence[Sequence[int]] | None = None,
        *,
        progress: Progress | None = None,
    ) -> list[Chosen]:
        """One text a photo: of the highest expected CIDEr-D against the probable texts.

        A text never vouches for itself: the true text of a new photo is none of those known.

        Args:
            vectors: float (n, dim) as for `fit`.
            barred: for each photo the numbers (places in `texts`) of texts it may neither be given
                nor compared with.
            progress: called with (what, done, total).

        Raises:
            InputError: lengths that differ, vectors of another width, or every text is barred.
        """
        import torch

        given = _vectors(vectors)
        if barred is not None and len(barred) != len(given):
            raise InputError(f"{len(barred)} lists of barred texts for {len(given)} vectors")
        width = self.networks[0][0].in_features
        if given.shape[1] != width:
            raise InputError(
                f"vectors have {given.shape[1]} dimensions, this captioner learned from {width}: "
                "embed with the same encoder"
            )
        chosen: list[Chosen] = []
        for start in range(0, len(given), _BATCH):
            part = torch.from_numpy(given[start : start + _BATCH])
            with torch.inference_mode():
                logits = torch.stack([network(part) for network in self.networks]).mean(0)
            for row in logits.double().numpy():
                chosen.append(self._best(row, barred[len(chosen)] if barred is not None else ()))
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

        about = {
            "config": asdict(self.config),
            "texts": self.texts,
            "categories": self.categories,
        }
        first = "0.0."  # every network begins with the same projection
        tensors = {
            name: tensor.contiguous()
            for name, tensor in self.networks.state_dict().items()
            if name.startswith(first) or not name.split(".", 1)[-1].startswith("0.")
        }

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
            start = np.zeros((len(about["texts"]), config.dim), np.float32)
            project = torch.nn.Linear(tensors["0.0.weight"].shape[1], config.components)
            networks = torch.nn.ModuleList(
                torch.nn.Sequential(project, _network(config, start)) for _ in range(config.members)
            )
            networks.register_buffer("counts", torch.zeros(len(start), dtype=torch.int64))
            for member in range(1, config.members):
                for name in ("weight", "bias"):
                    tensors[f"{member}.0.{name}"] = tensors[f"0.0.{name}"]
            networks.load_state_dict(tensors)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise InputError(
                f"{folder} is no retrieval captioner ({error}): expected retriever.json and "
                "weights.safetensors as Retriever.save writes them"
            ) from error
        return cls(about["texts"], about["categories"], config, networks.eval())

    def _best(self, logits: NDArray[np.float64], barred: Sequence[int]) -> Chosen:
        logits[list(barred)] = -np.inf
        if np.isneginf(logits.max()):
            raise InputError("every text is barred for a photo: learn from more texts")
        probable = np.exp(logits - logits.max())
        probable /= probable.sum()
        top = min(self.config.support, len(self.texts))
        places = np.sort(np.argpartition(-probable, top - 1)[:top])
        alike = self.bank.alike(places)
        np.fill_diagonal(alike, 0)
        category = np.bincount(self._category, probable)[self._category[places]]
        expected = alike @ probable[places] * category**self.config.category_weight
        # Of equal texts, and where nothing is alike, the more probable one.
        order = np.lexsort((-probable[places], -np.round(expected, 12)))
        place = next(p for p in places[order] if probable[p] > 0)
        return Chosen(self.texts[place], float(np.log(probable[place])))

    @cached_property
    def _category(self) -> NDArray[np.int64]:
        return np.unique(self.categories, return_inverse=True)[1]


def _projection(vectors: NDArray[np.float32], config: RetrievalConfig) -> Any:
    """A frozen layer: principal components, of mean variance 1."""
    import torch
    from sklearn.utils.extmath import randomized_svd  # type: ignore[import-untyped, unused-ignore]

    mean = vectors.mean(0)
    most = min(config.components, *vectors.shape)
    _, s, rows = randomized_svd(vectors - mean, most, n_iter=2, random_state=config.seed)
    scale = np.sqrt((s**2).mean() / len(vectors)) or 1.0
    layer = torch.nn.Linear(vectors.shape[1], config.components).requires_grad_(False)
    layer.weight.zero_()[:most] = torch.from_numpy((rows / scale).astype(np.float32))
    layer.bias.zero_()[:most] = torch.from_numpy((-(rows @ mean) / scale).astype(np.float32))
    return layer


def _network(config: RetrievalConfig, start: NDArray[np.float32]) -> Any:
    """The last layer has a place for each text, at first where its n-grams put it."""
    import torch
    from torch import nn

    texts = nn.Linear(config.dim, len(start), bias=False)
    with torch.no_grad():
        texts.weight.copy_(torch.from_numpy(start) * 4)
    return nn.Sequential(
        nn.Linear(config.components, config.hidden),
        nn.LayerNorm(config.hidden),
        nn.GELU(),
        nn.Dropout(config.dropout),
        nn.Linear(config.hidden, config.dim),
        texts,
    )


def _learn(
    network: Any,
    inside: torch.Tensor,
    labels: NDArray[np.int64],
    targets: tuple[NDArray[np.int64], NDArray[np.float32]],
    config: RetrievalConfig,
    rng: np.random.Generator,
    progress: Progress | None,
    what: str,
) -> None:
    """Cross-entropy between each photo's target over texts and the network's softmax."""
    import torch

    batch = min(_BATCH, max(2, len(labels) // 8))  # a small set gets some steps a pass too
    steps = config.epochs * (len(labels) // batch)
    rate = config.learning_rate
    optimiser = torch.optim.AdamW(network.parameters(), rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, rate, total_steps=max(2, steps), pct_start=0.15
    )
    network.train()
    done = 0
    for _ in range(config.epochs):
        order = rng.permutation(len(labels))
        for start in range(0, len(order) - batch + 1, batch):
            rows = order[start : start + batch]
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=config.bfloat16):
                logits = network(inside[rows])
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


def _vectors(vectors: ArrayLike) -> NDArray[np.float32]:
    found = np.ascontiguousarray(vectors, np.float32)
    if found.ndim != 2 or not np.isfinite(found).all():
        raise InputError(
            f"vectors of shape {found.shape}: expected (n, dim), all finite; leave out photos "
            "without an embedding"
        )
    return found
