"""Maximum-likelihood fine-tuning of a captioner on a `CaptionSet`."""

import contextlib
import hashlib
import json
import math
import random
import re
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from caption import InputError
from caption.adapt import Adaptation, AdaptConfig, adapt, merge, save_adapter
from caption.captioners import Captioner
from caption.records import CaptionSet
from caption.schedules import Schedule

if TYPE_CHECKING:
    from caption.trainer import CaptionTrainer
    from caption.training_data import TrainingData

Progress = Callable[[str, int, int], None]
"""Called as progress(what, done, total)."""
PHOTOS = "photos"
"""Folder of what the network saw of the photos, until the training is done."""


@dataclass(frozen=True)
class TrainConfig:
    """How long and how fast to learn. Defaults suit captioners of a few million parameters."""

    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """Which weights learn."""
    steps: int = 200
    """Updates of the weights: the whole budget."""
    epochs: float = 0.0
    """Passes over the training captions; above 0 they are the budget instead of `steps`."""
    batch_size: int = 32
    """Captions an update, over all parts and processes."""
    accumulate: int = 1
    """Parts that a batch is computed in, to save memory; the update is the same."""
    learning_rate: float = 1e-3
    """Peak of the schedule (2e-5 to 1e-4 for checkpoints of BLIP-base size)."""
    schedule: Schedule = "cosine"
    """"cosine" and "linear" fall to the floor at the end; "annealing" within `period` updates, and
    stays there; "published" climbs again after `period`, as torch's CosineAnnealingLR does;
    "constant" stays at the peak."""
    period: int = 500
    """Updates of "annealing" and "published" from peak to floor (`T_max`)."""
    min_learning_rate: float = 0.0
    """Floor of the schedule."""
    warmup: float = 0.1
    """Share of the steps during which the rate climbs from 0; above 1 a number of steps."""
    weight_decay: float = 0.05
    """AdamW's decoupled decay of matrices; vectors (biases, norms) are not decayed."""
    clip: float = 1.0
    """Largest gradient norm."""
    max_tokens: int = 50
    """Longer captions are cut, and counted."""
    flip: float = 0.0
    """Probability that a training photo is mirrored. Changed photos cannot be cached."""
    colour_jitter: float = 0.0
    """Brightness, contrast and saturation of training photos vary by up to this share."""
    evaluate_every: int = 0
    """Steps between evaluations on the validation part, each of which is also a checkpoint; 0:
    after every epoch where `epochs` is given, else ten times in all."""
    generate: int = 0
    """Validation photos that every evaluation captions (greedily) for BLEU-4, CIDEr-D, ROUGE-L."""
    keep: Literal["loss", "bleu-4", "cider-d", "rouge-l"] = "loss"
    """Whose best evaluation gives the weights that are kept; a caption metric needs `generate`."""
    patience: int = 0
    """Stop after this many evaluations without a better one; 0: never."""
    extend_vocabulary: int = 0
    """Add at most this many frequent whole words that the tokenizer splits ("full", "decoder")."""
    extend_min_count: int = 5
    """... which stand at least this often in the training text."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto": bfloat16 where the hardware computes in it and the network is wide enough to gain."""
    gradient_checkpointing: bool = False
    """Compute activations twice instead of keeping them: less memory, a third more time."""
    fsdp: bool = False
    """Several processes keep a part of the weights, gradients and moments each (FSDP), for
    captioners whose training one GPU does not hold."""
    cache_gb: float = 4.0
    """Encoder outputs (or pixels, when the encoder learns) are kept up to this size while training,
    in files mapped into memory, in float32 or else float16; beyond it photos are decoded anew at
    every step."""
    workers: int = 2
    """Threads that decode photos."""
    tensorboard: bool = False
    """Write TensorBoard's event files too (package tensorboard)."""
    country: str = ""
    """Three-letter ISO code of the grid: measure energy and CO2 (package codecarbon)."""
    seed: int = 0
    """Of the order, dropout, augmentation and new weights."""


class HistoryRow(NamedTuple):
    """One point of the loss curves (nats a token; "train" is the mean since the last point)."""

    step: int
    epoch: float
    split: str
    loss: float


class MetricRow(NamedTuple):
    """One point of the curves of caption metrics."""

    step: int
    epoch: float
    split: str
    metric: str
    value: float


@dataclass(frozen=True)
class TrainResult:
    """What a training run did; the captioner passed in now carries the best weights, merged."""

    saved: Path
    """`out/adapter` (adapters) or `out/model` (everything else)."""
    history: tuple[HistoryRow, ...]
    metrics: tuple[MetricRow, ...]
    best_step: int
    best_loss: float
    """Validation loss of the evaluation whose weights are the ones saved."""
    steps: int
    """Updates made: fewer than asked when the loss diverged or nothing got better."""
    trainable: int
    total: int
    skipped: tuple[tuple[str, str], ...]
    """(id, reason) of examples whose photo cannot be read."""
    cut: int
    """Captions longer than the cap."""
    words_added: tuple[str, ...]
    cached_mb: float
    """Size of the cached encoder outputs or pixels; 0 when nothing was cached."""
    precision: str
    resumed_from: int
    """Step of the checkpoint the run went on from; 0 for a fresh one."""
    stopped: str | None
    """Why the run ended early: a loss that is not a number, and in which step."""
    energy_kwh: float | None
    co2_kg: float | None
    """Of this call, by codecarbon; None where not measured."""


def train(
    captioner: Captioner,
    train_set: CaptionSet,
    validation_set: CaptionSet,
    out: Path,
    config: TrainConfig = TrainConfig(),
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
    *,
    photos: Path | None = None,
) -> TrainResult:
    """Fine-tune `captioner` in place and write the best weights and `history.csv` under `out`.

    Validation loss (and, with `generate`, caption metrics: `metrics.csv`) is taken before the first
    step, every `evaluate_every` steps and at the end; the best weights are kept. Each of these
    points is a checkpoint (`out/checkpoints/`): a killed run called again with the same arguments
    goes on from there along the same curve; with other arguments it starts over.

    Under `torchrun` or `accelerate launch` every process calls this with the same arguments; they
    share each batch and the first reading of the photos, and process 0 writes the rest. `photos`: a
    folder where several trainings share what they read of the same photos; the caller removes it.
    Without one it is `out/photos`, gone at the end.

    Raises InputError on a setting that cannot work, when no photo of a set can be read, or when
    memory does not suffice for half a batch either.
    """

    from caption.trainer import world

    report = progress or (lambda what, done, total: None)
    tell = say if say is not None and world()[0] == 0 else lambda line: None
    _check(config, world()[1])
    if config.fsdp and captioner.quantize is not None:
        raise InputError(
            f"fsdp=true: weights in {captioner.quantize} are small already and aren't split; train "
            "without fsdp, or without captioner.quantize"
        )
    if config.fsdp and world()[1] == 1:
        tell("note: fsdp does nothing with one process; start several with torchrun")
    with _kept_generators(), _energy(config, tell) as energy:
        key = _key(captioner, train_set, validation_set, config)
        base = captioner.fingerprint()
        _to_own_device(captioner)
        words: tuple[str, ...] = ()
        if config.extend_vocabulary:
            texts = [c for e in train_set.examples for c in e.captions]
            words = split_words(captioner, texts, config.extend_vocabulary, config.extend_min_count)
            captioner.add_words(words)
        adaptation = adapt(captioner, config.adapt, seed=config.seed)
        tell(str(adaptation))
        if config.gradient_checkpointing:
            captioner.set_gradient_checkpointing(True)
        read = partial(_read, captioner, config, adaptation, photos or out / PHOTOS, base, report)
        learning = read(train_set, augmented=True)
        held_out = read(validation_set)
        if learning.augmentation is not None and adaptation.encoder_frozen:
            tell("augmented photos: encoder outputs of the training part are not cached")
        settled = _with_steps(config, len(learning))
        bf16 = _use_bfloat16(captioner, config)

        def start(parts: int) -> "CaptionTrainer":
            from caption.trainer import CaptionTrainer

            return CaptionTrainer(
                captioner,
                adaptation,
                learning,
                held_out,
                settled,
                out=out,
                key=key,
                parts=parts,
                bf16=bf16,
                progress=report,
            )

        run, resumed_from, stopped = _fit(start, settled, tell)
        steps = run.state.global_step or resumed_from
        run.restore_best()
        run.make_whole()
        if config.gradient_checkpointing:
            captioner.set_gradient_checkpointing(False)
        saved = _save(captioner, adaptation, out, base, writes=world()[0] == 0)
        if world()[0] == 0:
            run.curves.write(out)
        run.clean()
        if photos is None and world()[0] == 0:
            shutil.rmtree(out / PHOTOS, ignore_errors=True)
    best_step, best_loss = run.curves.best()
    return TrainResult(
        saved=saved,
        history=tuple(run.curves.history),
        metrics=tuple(run.curves.metrics),
        best_step=best_step,
        best_loss=best_loss,
        steps=steps,
        trainable=adaptation.trainable,
        total=adaptation.total,
        skipped=(*learning.skipped, *held_out.skipped),
        cut=learning.cut,
        words_added=words,
        cached_mb=learning.cached_mb + held_out.cached_mb,
        precision="bfloat16" if bf16 else "float32",
        resumed_from=resumed_from,
        stopped=stopped,
        energy_kwh=energy.get("kwh"),
        co2_kg=energy.get("co2"),
    )


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


def _fit(
    start: Callable[[int], "CaptionTrainer"],
    config: TrainConfig,
    tell: Callable[[str], None],
) -> tuple["CaptionTrainer", int, str | None]:
    """Run to the end; where memory is short, once more with the batch in twice as many parts.

    Returns the trainer, the step it first went on from, and why it ended early.
    """
    from caption.trainer import Diverged, world
    from caption.training_data import out_of_memory

    parts, resumed_from = config.accumulate, None
    while True:
        run = start(parts)
        try:
            found = run.run()
            return run, found if resumed_from is None else resumed_from, None
        except Diverged as error:
            return run, run.resumed_from if resumed_from is None else resumed_from, str(error)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if resumed_from is None:
                resumed_from = run.resumed_from
            size = -(-config.batch_size // parts)
            short = f"out of memory with {size} captions at once"
            if parts > config.accumulate or size == 1 or world()[1] > 1:
                fits = None if world()[1] > 1 else run.fitting(size // 2)
                raise InputError(_advice(short, fits, config)) from error
        del run  # with its gradients and moments
        _free_memory()
        parts *= 2
        tell(f"{short}: going on with the same batch in {parts} parts")


def _advice(short: str, fits: int | None, config: TrainConfig) -> str:
    if fits:
        parts = -(-config.batch_size // fits)
        return f"{short}; {fits} would fit: set train.accumulate={parts} (the update is the same)"
    return (
        f"{short}, and fewer do not help: set train.gradient_checkpointing=true, adapt fewer "
        "weights (train.adapt.method=lora), raise train.accumulate, or take a smaller checkpoint"
    )


def _free_memory() -> None:
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _read(
    captioner: Captioner,
    config: TrainConfig,
    adaptation: Adaptation,
    photos: Path,
    network: str,
    report: Progress,
    captions: CaptionSet,
    *,
    augmented: bool = False,
) -> "TrainingData":
    from caption.trainer import world
    from caption.training_data import Augmentation, TrainingData

    changed = augmented and (config.flip > 0 or config.colour_jitter > 0)
    return TrainingData(
        captioner,
        captions,
        folder=photos,
        network=network,
        share=world(),
        encode=adaptation.encoder_frozen and captioner.cacheable,
        limit=config.cache_gb * 1e9 / 2,  # the training and the validation set share it evenly
        max_tokens=config.max_tokens,
        workers=config.workers,
        seed=config.seed,
        augmentation=Augmentation(config.flip, config.colour_jitter) if changed else None,
        progress=report,
    )


def _with_steps(config: TrainConfig, rows: int) -> TrainConfig:
    """Budget and distance of evaluations in updates."""
    steps = config.steps
    if config.epochs:
        steps = max(1, math.ceil(config.epochs * rows / config.batch_size))
    an_epoch = max(1, round(rows / config.batch_size))
    usual = an_epoch if config.epochs else max(1, steps // 10)
    return replace(config, steps=steps, evaluate_every=config.evaluate_every or usual)


def _to_own_device(captioner: Captioner) -> None:
    """With several processes, each has its own GPU."""
    import os

    local = os.environ.get("LOCAL_RANK")
    if local is not None and captioner.device.type == "cuda":
        captioner.model.to(f"cuda:{local}")


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    """The Trainer seeds every generator there is; the caller's come back as they were."""
    import torch

    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


@contextlib.contextmanager
def _energy(config: TrainConfig, tell: Callable[[str], None]) -> Iterator[dict[str, float]]:
    """Energy (kWh) and CO2 (kg) of what runs inside, without asking the network for anything."""
    found: dict[str, float] = {}
    if not config.country:
        yield found
        return
    try:
        import logging

        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        tell("note: energy is not measured: pip install codecarbon")
        yield found
        return
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)  # it tells of itself before it obeys
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # save_to_file: a newer name is new
        tracker = OfflineEmissionsTracker(
            country_iso_code=config.country,
            save_to_file=False,
            log_level="critical",
            allow_multiple_runs=True,
        )
        tracker.start()
    try:
        yield found
    finally:
        emissions = tracker.stop()
        if emissions is not None:
            found["co2"] = float(emissions)
            found["kwh"] = float(tracker.final_emissions_data.energy_consumed)


def _use_bfloat16(captioner: Captioner, config: TrainConfig) -> bool:
    import torch

    if config.precision != "auto":
        return config.precision == "bfloat16"
    if captioner.model.dtype == torch.bfloat16:
        return True
    if captioner.device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    # Very narrow layers gain nothing from the casts (128 wide: a third less time a step). A rule,
    # not a timing, so that the same machine always computes the same.
    wide = max(p.shape[-1] for p in captioner.model.parameters() if p.ndim == 2) >= 128
    return bool(wide and torch.cpu._is_avx512_bf16_supported())


def _check(config: TrainConfig, processes: int) -> None:
    for name in ("steps", "batch_size", "accumulate", "max_tokens", "workers", "period"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: expected at least 1")
    for name in ("epochs", "evaluate_every", "generate", "patience", "cache_gb", "warmup"):
        if getattr(config, name) < 0:
            raise InputError(f"{name}={getattr(config, name)}: expected at least 0")
    for name in ("flip", "colour_jitter"):
        if not 0 <= getattr(config, name) <= 1:
            raise InputError(f"{name}={getattr(config, name)}: expected a share in 0..1")
    if not 0 <= config.min_learning_rate <= config.learning_rate or config.learning_rate == 0:
        raise InputError(
            f"learning_rate={config.learning_rate}, min_learning_rate={config.min_learning_rate}: "
            "expected a positive rate and a floor of at most as much"
        )
    if config.accumulate * processes > config.batch_size:
        raise InputError(
            f"batch_size={config.batch_size} captions do not give accumulate={config.accumulate} "
            f"parts on {processes} processes one each: raise batch_size"
        )
    if config.keep != "loss" and not config.generate:
        raise InputError(
            f"keep={config.keep!r} needs captions of the validation part: set generate to a number "
            "of photos, such as 200"
        )
    if config.extend_vocabulary and config.adapt.method not in ("full", "decoder"):
        raise InputError(
            f"extend_vocabulary needs adapt.method 'decoder' or 'full': {config.adapt.method!r} "
            "leaves the embeddings frozen, so new words could not be learned"
        )


def _key(captioner: Captioner, train: CaptionSet, held_out: CaptionSet, config: TrainConfig) -> str:
    """What a checkpoint has to share with a run to be continued by it."""
    sets = [[(e.id, e.captions) for e in s.examples] for s in (train, held_out)]
    without = ("accumulate", "workers", "tensorboard", "country")  # the update is the same
    settings = {name: value for name, value in asdict(config).items() if name not in without}
    text = json.dumps([settings, captioner.fingerprint(), sets])
    return hashlib.sha256(text.encode()).hexdigest()


def _save(
    captioner: Captioner, adaptation: Adaptation, out: Path, base: str, *, writes: bool
) -> Path:
    captioner.model.eval()
    if adaptation.adapters is None:
        if writes:
            captioner.save(out / "model")
        return out / "model"
    if writes:
        save_adapter(captioner, adaptation, out / "adapter", base)
    merge(captioner, adaptation)
    return out / "adapter"
