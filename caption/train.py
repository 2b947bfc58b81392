"""Maximum-likelihood fine-tuning of a captioner on a `CaptionSet`.

A plain loop: transformers' Trainer, fed with the same cached encoder outputs, took 18 % longer a
step on captioners of 1.5 M parameters, and its checkpoints are pickles.
"""

import csv
import hashlib
import io
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from caption import InputError
from caption.adapt import Adaptation, AdaptConfig, adapt, merge, save_adapter
from caption.captioners import IGNORED, Captioner, TextRow
from caption.images import UnreadableImage, prepared_images
from caption.records import CaptionSet, write_atomically

if TYPE_CHECKING:
    import torch

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn. Defaults suit captioners of a few million parameters."""

    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """Which weights learn."""
    steps: int = 200
    """Updates of the weights: the whole budget."""
    batch_size: int = 32
    """Captions an update."""
    accumulate: int = 1
    """Parts that a batch is computed in, to save memory; the update is the same."""
    learning_rate: float = 1e-3
    """Peak of the schedule (2e-5 to 1e-4 for checkpoints of BLIP-base size)."""
    min_learning_rate: float = 0.0
    """Where the cosine ends."""
    warmup: float = 0.1
    """Share of the steps during which the rate climbs from 0."""
    weight_decay: float = 0.05
    """AdamW's decoupled decay of matrices; vectors (biases, norms) are not decayed."""
    clip: float = 1.0
    """Largest gradient norm."""
    max_tokens: int = 50
    """Longer captions are cut, and counted."""
    evaluate_every: int = 0
    """Steps between validation losses, each of which is also a checkpoint; 0: ten times in all."""
    extend_vocabulary: int = 0
    """Add at most this many frequent whole words that the tokenizer splits ("full", "decoder")."""
    extend_min_count: int = 5
    """... which stand at least this often in the training text."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto": bfloat16 where the hardware computes in it and the network is wide enough to gain."""
    cache_gb: float = 4.0
    """Encoder outputs (or pixels, when the encoder learns) are held in memory up to this size, in
    float32 or else float16; beyond it photos are decoded anew at every step."""
    workers: int = 2
    """Threads that decode photos."""
    seed: int = 0
    """Of the order, dropout and new weights."""


class HistoryRow(NamedTuple):
    """One point of the loss curves (nats a token; "train" is the mean since the last point)."""

    step: int
    epoch: float
    split: str
    loss: float


@dataclass(frozen=True)
class TrainResult:
    """What a training run did; the captioner passed in now carries the best weights, merged."""

    saved: Path
    """`out/adapter` (LoRA) or `out/model` (everything else)."""
    history: tuple[HistoryRow, ...]
    best_step: int
    best_loss: float
    """Lowest validation loss; its weights are the ones saved."""
    steps: int
    """Updates made: fewer than asked when the loss diverged."""
    trainable: int
    total: int
    skipped: tuple[tuple[str, str], ...]
    """(id, reason) of examples whose photo cannot be read."""
    cut: int
    """Captions longer than the cap."""
    words_added: tuple[str, ...]
    cached_mb: float
    """Memory of the cached encoder outputs or pixels; 0 when nothing was cached."""
    precision: str
    resumed_from: int
    """Step of the checkpoint the run went on from; 0 for a fresh one."""
    stopped: str | None
    """Why the run ended early: a loss that is not a number, and in which step."""


def train(
    captioner: Captioner,
    train_set: CaptionSet,
    validation_set: CaptionSet,
    out: Path,
    config: TrainConfig = TrainConfig(),
    progress: Progress | None = None,
) -> TrainResult:
    """Fine-tune `captioner` in place and write the best weights and `history.csv` under `out`.

    Validation loss is taken before the first step, every `evaluate_every` steps and at the end; the
    weights with the lowest one are kept. Each of these points is a checkpoint
    (`out/checkpoint.safetensors`): a killed run called again with the same arguments goes on from
    there along the same loss curve; with other arguments it starts over.

    Raises InputError on a setting that cannot work, or when no photo of a set can be read.
    """

    report = progress or (lambda what, done, total: None)
    _check(config)
    key = _key(captioner, train_set, validation_set, config)
    base = captioner.fingerprint()
    words: tuple[str, ...] = ()
    if config.extend_vocabulary:
        texts = [c for e in train_set.examples for c in e.captions]
        words = split_words(captioner, texts, config.extend_vocabulary, config.extend_min_count)
        captioner.add_words(words)
    adaptation = adapt(captioner, config.adapt, seed=config.seed)
    learning = _Data(captioner, train_set, config, adaptation.encoder_frozen, report)
    held_out = _Data(captioner, validation_set, config, adaptation.encoder_frozen, report)
    run = _Run(captioner, config, out / "checkpoint.safetensors", key)
    resumed_from = run.resume()
    every = config.evaluate_every or max(1, config.steps // 10)
    stopped = None
    if not run.history:
        run.evaluated(0.0, None, _mean_loss(captioner, held_out, config, run.autocast))
    while run.step < config.steps:
        rows = _batch_rows(len(learning.rows), run.step, config)
        loss = run.update(learning, rows)
        if not math.isfinite(loss):
            ids = ", ".join(learning.ids[learning.rows[r][0]] for r in rows[:4].tolist())
            stopped = f"the loss became {loss} in step {run.step + 1} (photos {ids} ...)"
            break
        run.step += 1
        report(f"training, loss {loss:.3f}", run.step, config.steps)
        if run.step % every == 0 or run.step == config.steps:
            epoch = run.step * config.batch_size / len(learning.rows)
            validation = _mean_loss(captioner, held_out, config, run.autocast)
            run.evaluated(epoch, run.take_mean(), validation)
            _write_history(out / "history.csv", run.history)
    run.restore_best()
    saved = _save(captioner, adaptation, out, base)
    _write_history(out / "history.csv", run.history)
    run.path.unlink(missing_ok=True)
    return TrainResult(
        saved=saved,
        history=tuple(run.history),
        best_step=run.best_step,
        best_loss=run.best_loss,
        steps=run.step,
        trainable=adaptation.trainable,
        total=adaptation.total,
        skipped=(*learning.skipped, *held_out.skipped),
        cut=learning.cut,
        words_added=words,
        cached_mb=learning.cached_mb + held_out.cached_mb,
        precision="bfloat16" if run.bf16 else "float32",
        resumed_from=resumed_from,
        stopped=stopped,
    )


def learning_rate(step: int, config: TrainConfig) -> float:
    """Rate of update `step` (0-based): linear warm-up, then a cosine that ends at the floor."""
    warm = round(config.warmup * config.steps)
    if step < warm:
        return config.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, config.steps - warm)
    span = config.learning_rate - config.min_learning_rate
    return config.min_learning_rate + span * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def split_words(
    captioner: Captioner, texts: Sequence[str], most: int, min_count: int
) -> tuple[str, ...]:
    """The most frequent words of `texts` that the tokenizer has no single token for.

    Words are runs of at least three letters as the tokenizer normalises them (lower-cased for
    BERT); ties are broken alphabetically.
    """
    normalizer = captioner.tokenizer.backend_tokenizer.normalizer
    counts: Counter[str] = Counter()
    for text in texts:
        plain = normalizer.normalize_str(text) if normalizer is not None else text
        counts.update(re.findall(r"[^\W\d_]{3,}", plain))
    frequent = sorted((-n, w) for w, n in counts.items() if n >= min_count)
    chosen: list[str] = []
    for _, word in frequent:
        if len(chosen) == most:
            break
        if len(captioner.tokenizer(word, add_special_tokens=False).input_ids) > 1:
            chosen.append(word)
    return tuple(chosen)


class _Data:
    """The readable photos of a set as the network's inputs, and their captions as tokens."""

    def __init__(
        self,
        captioner: Captioner,
        captions: CaptionSet,
        config: TrainConfig,
        encoder_frozen: bool,
        report: Progress,
    ) -> None:
        self.captioner = captioner
        self.encode = encoder_frozen
        self.workers = config.workers
        self.skipped: list[tuple[str, str]] = []
        self.paths: list[Path] = []
        self.ids: list[str] = []
        self.stored: torch.Tensor | None = None
        examples = [e for e in captions.examples if e.image is not None]
        texts = self._read(examples, captions.name, config, report)
        rows = captioner.text_rows([t for _, t in texts], config.max_tokens)
        self.rows = [(image, row) for (image, _), row in zip(texts, rows, strict=True)]
        self.cut = sum(row.cut for row in rows)

    @property
    def cached_mb(self) -> float:
        return 0.0 if self.stored is None else self.stored.nbytes / 1e6

    def features(self, images: list[int]) -> "torch.Tensor":
        """Encoder outputs (n, L, D) of photos by number; differentiable when the encoder learns."""
        import torch

        device = self.captioner.device
        if self.stored is not None:
            held = self.stored[torch.tensor(images)].to(device, torch.float32)
        else:
            held = self._pixels([self.paths[i] for i in images])
        if self.encode and self.stored is not None:
            return held
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.encode):
            return self.captioner.encode_images(held)

    def _read(
        self, examples: Sequence[Any], name: str, config: TrainConfig, report: Progress
    ) -> list[tuple[int, str]]:
        """Open every photo once: fill the cache, and note those that cannot be read."""
        import torch

        texts: list[tuple[int, str]] = []
        chunk: list[Any] = []
        self.captioner.model.eval()
        limit = config.cache_gb * 1e9 / 2  # the training and the validation set share it evenly

        def store() -> None:
            if not chunk or limit == 0:
                return
            batch = torch.from_numpy(np.stack(chunk)).to(self.captioner.device)
            chunk.clear()
            with torch.no_grad():
                batch = self.captioner.encode_images(batch) if self.encode else batch
            if self.stored is None:
                if len(self.ids) > 64:
                    return  # too large, found at the first chunk
                size = batch[0].nbytes * len(examples)
                dtype = torch.float32 if size <= limit else torch.float16
                if size > limit * 2:
                    return
                self.stored = torch.empty((len(examples), *batch.shape[1:]), dtype=dtype)
            end = len(self.ids)
            self.stored[end - len(batch) : end] = batch.cpu()

        paths = [e.image for e in examples]
        size = self.captioner.image_size
        opened = prepared_images(
            paths, self.captioner.preprocess, at_least=size, workers=config.workers
        )
        for done, (example, pixels) in enumerate(zip(examples, opened, strict=True), start=1):
            if isinstance(pixels, UnreadableImage):
                self.skipped.append((example.id, pixels.reason))
            else:
                texts.extend((len(self.ids), caption) for caption in example.captions)
                self.ids.append(example.id)
                self.paths.append(example.image)
                chunk.append(pixels)
            if len(chunk) == 64:
                store()
                chunk.clear()
                report("reading photos", done, len(examples))
        store()
        if not texts:
            raise InputError(
                f"caption set {name!r}: none of its photos can be read ({len(self.skipped)} tried"
                f"{', e.g. ' + ': '.join(self.skipped[0]) if self.skipped else ''})"
            )
        if self.stored is not None:
            self.stored = self.stored[: len(self.ids)]
        return texts

    def _pixels(self, paths: list[Path]) -> "torch.Tensor":
        import torch

        opened = list(
            prepared_images(
                paths,
                self.captioner.preprocess,
                at_least=self.captioner.image_size,
                workers=self.workers,
            )
        )
        for pixels in opened:
            if isinstance(pixels, UnreadableImage):
                raise pixels
        return torch.from_numpy(np.stack(opened)).to(self.captioner.device)  # type: ignore[arg-type]


class _Run:
    """Weights, optimizer and loss curve of a run, and their checkpoint: one safetensors file."""

    def __init__(self, captioner: Captioner, config: TrainConfig, path: Path, key: str) -> None:
        import torch

        self.captioner, self.config, self.path, self.key = captioner, config, path, key
        self.weights = {n: p for n, p in captioner.model.named_parameters() if p.requires_grad}
        groups = [
            {
                "params": [p for p in self.weights.values() if p.ndim >= 2],
                "weight_decay": config.weight_decay,
            },
            {"params": [p for p in self.weights.values() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], fused=True)
        self.bf16 = _use_bfloat16(captioner, config)
        self.step = 0
        self.history: list[HistoryRow] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_step = 0
        self.best_loss = math.inf
        self.losses: list[float] = []

    def autocast(self) -> AbstractContextManager[Any]:
        import torch

        if not self.bf16:
            return nullcontext()
        return torch.autocast(self.captioner.device.type, dtype=torch.bfloat16)

    def update(self, data: _Data, rows: np.ndarray[Any, Any]) -> float:
        """One AdamW update on these rows; returns their mean loss before it (nats a token)."""
        import torch

        chosen = [data.rows[r] for r in rows.tolist()]
        tokens = sum(_counted(row) for _, row in chosen)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.captioner.model.train()
        total = 0.0
        with _seeded(self.captioner, self.config.seed, self.step):
            for part in np.array_split(np.arange(len(chosen)), self.config.accumulate):
                own = [chosen[i] for i in part.tolist()]
                if not own:
                    continue
                with self.autocast():
                    features = data.features([image for image, _ in own])
                    batch = self.captioner.text_batch([row for _, row in own])
                    mean = self.captioner.loss(features, batch)
                # Weighted by tokens, so that parts add up to the loss of the whole batch.
                loss = mean * (sum(_counted(row) for _, row in own) / tokens)
                loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
                total += float(loss.detach())
        if math.isfinite(total):
            torch.nn.utils.clip_grad_norm_(list(self.weights.values()), self.config.clip)
            self.optimizer.step()
            self.losses.append(total)
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def take_mean(self) -> float:
        mean = sum(self.losses) / len(self.losses)
        self.losses.clear()
        return mean

    def evaluated(self, epoch: float, training: float | None, validation: float) -> None:
        """Note a point of the curves, keep the weights when they are the best, write it all."""
        if training is not None:
            self.history.append(HistoryRow(self.step, epoch, "train", training))
        self.history.append(HistoryRow(self.step, epoch, "validation", validation))
        if validation < self.best_loss or not self.best:
            self.best_loss, self.best_step = validation, self.step
            self.best = {n: p.detach().clone() for n, p in self.weights.items()}
        self._write()

    def restore_best(self) -> None:
        import torch

        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(self.best[name])

    def resume(self) -> int:
        """Load the checkpoint if it is of this run; returns its step (0: there is none)."""
        import torch
        from safetensors import SafetensorError, safe_open

        if not self.path.is_file():
            return 0
        try:
            with safe_open(self.path, framework="pt") as file:
                state = json.loads((file.metadata() or {}).get("state", "{}"))
                if state.get("key") != self.key:
                    return 0
                held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError):
            return 0
        device = self.captioner.device
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(held[f"now/{name}"])
                self.best[name] = held[f"best/{name}"].to(device)
                if f"mean/{name}" in held:
                    self.optimizer.state[weight] = {
                        "step": torch.tensor(float(state["step"]), device=device),
                        "exp_avg": held[f"mean/{name}"].to(device),
                        "exp_avg_sq": held[f"square/{name}"].to(device),
                    }
        self.step, self.best_step = state["step"], state["best_step"]
        self.best_loss = state["best_loss"]
        self.history = [HistoryRow(*row) for row in state["history"]]
        return self.step

    def _write(self) -> None:
        from safetensors.torch import save

        tensors: dict[str, torch.Tensor] = {}
        for name, weight in self.weights.items():
            tensors[f"now/{name}"] = weight.detach().contiguous()
            tensors[f"best/{name}"] = self.best[name].contiguous()
            moments = self.optimizer.state.get(weight)
            if moments:
                tensors[f"mean/{name}"] = moments["exp_avg"].contiguous()
                tensors[f"square/{name}"] = moments["exp_avg_sq"].contiguous()
        state = {
            "key": self.key,
            "step": self.step,
            "best_step": self.best_step,
            "best_loss": self.best_loss,
            "history": self.history,
        }
        write_atomically(self.path, save(tensors, {"state": json.dumps(state)}))


def _mean_loss(
    captioner: Captioner,
    data: _Data,
    config: TrainConfig,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> float:
    """Cross-entropy in nats, averaged over all counted tokens of the set."""
    import torch

    captioner.model.eval()
    total, tokens = 0.0, 0
    with torch.no_grad():
        for start in range(0, len(data.rows), config.batch_size):
            rows = data.rows[start : start + config.batch_size]
            counted = sum(_counted(row) for _, row in rows)
            with autocast():
                features = data.features([image for image, _ in rows])
                batch = captioner.text_batch([row for _, row in rows])
                total += float(captioner.loss(features, batch)) * counted
            tokens += counted
    return total / tokens


def _batch_rows(n: int, step: int, config: TrainConfig) -> np.ndarray[Any, Any]:
    """Row numbers of one update: a fresh permutation every epoch, found from the step alone."""
    first = step * config.batch_size
    epochs = range(first // n, (first + config.batch_size - 1) // n + 1)
    order = np.concatenate([np.random.default_rng([config.seed, e]).permutation(n) for e in epochs])
    start = first - epochs.start * n
    return order[start : start + config.batch_size]


@contextmanager
def _seeded(captioner: Captioner, seed: int, step: int) -> Iterator[None]:
    """Dropout that depends on seed and step alone, and leaves the caller's generator as it was."""
    import torch

    device = captioner.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + step)
        yield


def _counted(row: TextRow) -> int:
    return sum(label != IGNORED for label in row.labels[1:])


def _use_bfloat16(captioner: Captioner, config: TrainConfig) -> bool:
    import torch

    if config.precision != "auto":
        return config.precision == "bfloat16"
    if captioner.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Very narrow layers gain nothing from the casts (128 wide: a third less time a step). A rule,
    # not a timing, so that the same machine always computes the same.
    wide = max(p.shape[-1] for p in captioner.model.parameters() if p.ndim == 2) >= 128
    return bool(wide and torch.cpu._is_avx512_bf16_supported())


def _check(config: TrainConfig) -> None:
    for name in ("steps", "batch_size", "accumulate", "max_tokens", "workers"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: expected at least 1")
    if not 0 <= config.warmup <= 1 or config.learning_rate <= 0:
        raise InputError(
            f"warmup={config.warmup}, learning_rate={config.learning_rate}: expected a share in "
            "0..1 and a positive rate"
        )
    if config.extend_vocabulary and config.adapt.method == "lora":
        raise InputError(
            "extend_vocabulary needs adapt.method 'decoder' or 'full': LoRA leaves the embeddings "
            "frozen, so new words could not be learned"
        )


def _key(captioner: Captioner, train: CaptionSet, held_out: CaptionSet, config: TrainConfig) -> str:
    """What a checkpoint has to share with a run to be continued by it."""
    sets = [[(e.id, e.captions) for e in s.examples] for s in (train, held_out)]
    text = json.dumps([asdict(config), captioner.fingerprint(), sets])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(captioner: Captioner, adaptation: Adaptation, out: Path, base: str) -> Path:
    captioner.model.eval()
    if adaptation.adapters is None:
        captioner.save(out / "model")
        return out / "model"
    save_adapter(captioner, adaptation, out / "adapter", base)
    merge(captioner, adaptation)
    return out / "adapter"


def _write_history(path: Path, history: Sequence[HistoryRow]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HistoryRow._fields)
    writer.writerows(history)
    write_atomically(path, text.getvalue().encode())
