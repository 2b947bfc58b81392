"""Fine-tuning a captioner on a reward: REINFORCE with a baseline, mixed with maximum likelihood.

The gradient of the mean reward is that of log p(caption) times the caption's advantage, its reward
less a baseline that does not depend on it (Williams 1992; Rennie et al. 2017, arXiv 1612.00563).
A reward is never all that is wanted of a caption, so `monitor` watches what it does not measure.
"""

import hashlib
import json
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from caption import InputError
from caption.adapt import AdaptConfig, adapt, merge
from caption.captioners import IGNORED, Captioner, Sampled
from caption.monitor import MonitorConfig, Point, alarm, looks, mean_point, write_history
from caption.records import CaptionSet, write_atomically
from caption.rewards import Reward, build_rewards, weighted_sum

if TYPE_CHECKING:
    import polars as pl
    import torch

Baseline = Literal["mean", "leave-one-out", "greedy"]
Progress = Callable[[str, int, int], None]
LOOKED_AT_ONCE = 64
WHOLE = ("full", "decoder", "bridge", "lora", "ia3")
"""Methods whose result is a whole captioner."""


@dataclass(frozen=True)
class ReinforceConfig:
    """How to learn from a reward. Rates suit captioners of a few million parameters."""

    steps: int = 150
    """Updates of the weights."""
    rewards: Mapping[str, float] = field(default_factory=lambda: {"als": 1.0, "sls": 1.0})
    """Reward -> its weight in the sum: als, sls, cider-d, clipscore, truth."""
    baseline: Baseline = "leave-one-out"
    """"mean" of a photo's samples (itself included, as published), the mean of its other samples
    ("leave-one-out"), or the reward of the "greedy" caption (self-critical)."""
    samples: int = 5
    """Captions drawn of each photo."""
    temperature: float = 1.0
    """Of the drawing; above 1 tries more."""
    policy_weight: float = 1.0
    """Weight of the policy gradient; 0 goes on by maximum likelihood alone."""
    mle_weight: float = 0.2
    """Weight of the cross-entropy on human captions."""
    batch_size: int = 16
    """Photos an update."""
    accumulate: int = 1
    """Parts that an update is computed in, to save memory; the update is the same."""
    learning_rate: float = 1e-3
    """Peak of the schedule: linear warm-up, then a cosine to 0."""
    warmup: float = 0.1
    """Share of the steps during which the rate climbs from 0."""
    weight_decay: float = 0.05
    """AdamW's decoupled decay of matrices."""
    clip: float = 1.0
    """Largest gradient norm."""
    max_tokens: int = 60
    """Longest caption, drawn or human."""
    min_count: int = 10
    """Training texts that a word stands in before rewards take it for an attribute or a type."""
    evaluate_every: int = 0
    """Steps between looks at the validation photos, each also a checkpoint; 0: ten times in all."""
    evaluate_on: int = 150
    """Validation photos looked at."""
    adapt: AdaptConfig = field(default_factory=AdaptConfig)
    """Which weights learn."""
    monitor: MonitorConfig = field(default_factory=MonitorConfig)
    """When to stop."""
    cache_gb: float = 4.0
    """Encoder outputs are kept up to this size, as in maximum-likelihood training."""
    workers: int = 2
    """Threads that decode photos."""
    seed: int = 0
    """Of order, samples, dropout and new weights."""


@dataclass(frozen=True)
class ReinforceResult:
    """What a run did; the captioner passed in now carries the kept weights, merged."""

    saved: Path
    """`out/model`."""
    history: tuple[Point, ...]
    best_step: int
    """Point with the highest validation reward among those within the monitor's bounds."""
    best_reward: float
    first_reward: float
    """Validation reward before the first step."""
    steps: int
    trainable: int
    total: int
    skipped: tuple[tuple[str, str], ...]
    resumed_from: int
    alarms: tuple[str, ...]
    """What the monitor said."""
    stopped: str | None
    """Why the run ended early."""


def reinforce(
    captioner: Captioner,
    train_set: CaptionSet,
    validation_set: CaptionSet,
    out: Path,
    config: ReinforceConfig = ReinforceConfig(),
    *,
    articles: "pl.DataFrame | None" = None,
    clip: str | Path | None = None,
    photos: Path | None = None,
    progress: Progress | None = None,
) -> ReinforceResult:
    """Go on from `captioner` (in place) towards a reward; write `out/model` and `out/history.csv`.

    The loss of an update is policy_weight times `policy_loss` plus mle_weight times cross-entropy
    on a human caption of each photo. Captions are drawn and weighed without dropout, so that the
    gradient is that of the policy that drew them. Greedy captions of validation photos are looked
    at before the first step, every `evaluate_every` steps and at the end: the weights with the
    highest reward are kept, of points within the monitor's bounds. Each point is a checkpoint
    (`out/checkpoint.safetensors`) from which a killed call with the same arguments goes on.

    articles: table that the reward `truth` audits against. clip: CLIP checkpoint, for the reward
    `clipscore` and for the monitor; None leaves the monitor without. photos: as in `train`.
    Raises InputError: a setting that cannot work, a reward without what it needs, no photo read.
    """
    from caption.train import PHOTOS
    from caption.training_data import TrainingData, UpdateOrder

    report = progress or (lambda what, done, total: None)
    _check(config, captioner)
    key = _key(captioner, train_set, validation_set, config)
    network = captioner.fingerprint()
    adaptation = adapt(captioner, config.adapt, seed=config.seed)
    shown = CaptionSet(validation_set.name, validation_set.examples[: config.evaluate_on])
    reading: dict[str, Any] = {
        "folder": photos or out / PHOTOS,
        "network": network,
        "encode": adaptation.encoder_frozen and captioner.cacheable,
        "limit": config.cache_gb * 1e9 / 2,
        "max_tokens": config.max_tokens,
        "workers": config.workers,
        "seed": config.seed,
        "augmentation": None,
        "progress": report,
    }
    learning = TrainingData(captioner, train_set, **reading)
    held_out = TrainingData(captioner, shown, **reading)
    judge = _Judge(config, train_set, shown, learning.ids, held_out.ids, articles, clip)
    run = _Run(captioner, config, learning, held_out, judge, out / "checkpoint.safetensors", key)
    resumed_from = run.resume()
    order = UpdateOrder(
        len(learning.ids), steps=config.steps, batch_size=config.batch_size, seed=config.seed
    )
    every = config.evaluate_every or max(1, config.steps // 10)
    if not run.history:
        run.look()
    while run.step < config.steps and run.stopped is None:
        chosen = order.rows(run.step).tolist()
        loss = run.update(chosen)
        if not math.isfinite(loss):
            ids = ", ".join(learning.ids[i] for i in chosen[:4])
            run.stopped = f"the loss became {loss} in step {run.step + 1} (photos {ids} ...)"
            break
        run.step += 1
        doing = f"reinforcing, reward {run.reward:.3f}" if config.policy_weight else "control"
        report(f"{doing}, loss {loss:.3f}", run.step, config.steps)
        if run.step % every == 0 or run.step == config.steps:
            run.look()
            write_history(out / "history.csv", run.history)
    run.restore_best()
    merge(captioner, adaptation)
    captioner.model.eval()
    captioner.save(out / "model")
    write_history(out / "history.csv", run.history)
    run.path.unlink(missing_ok=True)
    if photos is None:
        shutil.rmtree(out / PHOTOS, ignore_errors=True)
    return ReinforceResult(
        saved=out / "model",
        history=tuple(run.history),
        best_step=run.best_step,
        best_reward=run.best_reward,
        first_reward=run.history[0].reward,
        steps=run.step,
        trainable=adaptation.trainable,
        total=adaptation.total,
        skipped=(*learning.skipped, *held_out.skipped),
        resumed_from=resumed_from,
        alarms=tuple(run.alarms),
        stopped=run.stopped,
    )


def advantages(
    rewards: NDArray[np.float64],
    baseline: Baseline,
    greedy: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rewards (n photos, k samples) -> (advantages, baselines), both (n, k).

    greedy: (n,) rewards of the greedy captions, for that baseline.
    Raises InputError: fewer than two samples where samples are compared with each other.
    """
    k = rewards.shape[1]
    if baseline == "greedy":
        assert greedy is not None
        base = np.repeat(greedy[:, None], k, axis=1)
    elif k < 2:
        raise InputError(
            f"samples={k} with baseline {baseline!r}: a caption alone has nothing to be compared "
            "with; draw at least 2, or take baseline 'greedy'"
        )
    else:
        total = rewards.sum(1, keepdims=True)
        mean = total / k if baseline == "mean" else (total - rewards) / (k - 1)
        base = np.broadcast_to(mean, rewards.shape).copy()
    return rewards - base, base


def policy_loss(
    logits: "torch.Tensor",
    labels: "torch.Tensor",
    advantages: "torch.Tensor",
    *,
    tokens: int | None = None,
) -> "torch.Tensor":
    """-sum over captions of advantage times log p(caption), over the number of counted tokens.

    logits: (n, T, V), position t predicting labels[:, t]; already divided by the temperature that
    the captions were drawn with. labels: (n, T), IGNORED beyond each caption's end. advantages:
    (n,). tokens: divide by this instead (a part of a larger batch). Its gradient is the policy
    gradient's negative, up to that divisor, which makes it a loss per token as cross-entropy is.
    """
    counted = labels != IGNORED
    chosen = logits.gather(-1, labels.clamp(min=0)[..., None])[..., 0] - logits.logsumexp(-1)
    logp = (chosen * counted).sum(1)
    loss: torch.Tensor = -(advantages * logp).sum() / (tokens or int(counted.sum()))
    return loss


class _Judge:
    """Rewards of captions, and what the monitor looks at; rows are training, then validation."""

    def __init__(
        self,
        config: ReinforceConfig,
        train_set: CaptionSet,
        shown: CaptionSet,
        learning: Sequence[str],
        held_out: Sequence[str],
        articles: "pl.DataFrame | None",
        clip: str | Path | None,
    ) -> None:
        by_id = {e.id: e for s in (train_set, shown) for e in s.examples}
        examples = [by_id[i] for i in (*learning, *held_out)]
        self.weights = dict(config.rewards)
        self.first_shown = len(learning)
        names = list(self.weights)
        own: dict[str, Reward] = build_rewards(
            names,
            examples,
            train_set.examples,
            articles=articles,
            clip=clip,
            min_count=config.min_count,
        )
        self.parts = own
        self.watched = dict(own)
        if clip is not None and "clipscore" not in own:
            photos = examples[self.first_shown :]
            score = build_rewards(["clipscore"], photos, train_set.examples, clip=clip)["clipscore"]
            first = self.first_shown
            self.watched["clipscore"] = lambda texts, rows: score(texts, [r - first for r in rows])

    def __call__(
        self, texts: Sequence[str], rows: Sequence[int]
    ) -> tuple[NDArray[np.float64], dict[str, NDArray[np.float64]]]:
        """Weighted sums (n,), and each reward by itself."""
        parts = {name: reward(texts, rows) for name, reward in self.parts.items()}
        return weighted_sum(parts, self.weights), parts

    def look(self, texts: Sequence[str], step: int) -> Point:
        """Greedy captions of the validation photos, in order."""
        rows = range(self.first_shown, self.first_shown + len(texts))
        parts = {name: reward(texts, rows) for name, reward in self.watched.items()}
        total = weighted_sum(parts, self.weights)
        means = {name: float(values.mean()) for name, values in parts.items()}
        return Point(step, "validation", float(total.mean()), None, None, means, *looks(texts))


class _Run:
    """Weights, optimizer and history of a run, and their checkpoint: one safetensors file."""

    def __init__(
        self,
        captioner: Captioner,
        config: ReinforceConfig,
        learning: Any,
        held_out: Any,
        judge: _Judge,
        path: Path,
        key: str,
    ) -> None:
        import torch

        self.captioner, self.config, self.judge = captioner, config, judge
        self.learning, self.held_out = learning, held_out
        self.path, self.key = path, key
        self.human: dict[int, list[int]] = {}
        for row, (photo, _) in enumerate(learning.rows):
            self.human.setdefault(photo, []).append(row)
        self.weights = {n: p for n, p in captioner.model.named_parameters() if p.requires_grad}
        matrices = [p for p in self.weights.values() if p.ndim >= 2]
        vectors = [p for p in self.weights.values() if p.ndim < 2]
        groups: list[dict[str, Any]] = [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW([g for g in groups if g["params"]], fused=True)
        self.step = 0
        self.history: list[Point] = []
        self.best: dict[str, torch.Tensor] = {}
        self.best_step, self.best_reward = 0, -math.inf
        self.alarms: list[str] = []
        self.stopped: str | None = None
        self.reward = math.nan
        self._since: list[Point] = []

    def update(self, photos: Sequence[int]) -> float:
        """One AdamW update on these photos; returns its loss. Nothing is changed by a NaN."""
        import torch

        from caption.schedules import learning_rate

        config, model = self.config, self.captioner.model
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(
                self.step,
                schedule="cosine",
                steps=config.steps,
                peak=config.learning_rate,
                floor=0.0,
                warmup=config.warmup,
                period=1,
            )
        parts = [p for p in np.array_split(np.asarray(photos), config.accumulate) if len(p)]
        drawn: list[list[Sampled]] = []
        gains = np.zeros((0, config.samples))
        if config.policy_weight:
            drawn, gains = self._draw([part.tolist() for part in parts])
        counted = sum(_counted(s.row.labels) for own in drawn for s in own)
        rng = np.random.default_rng([self.config.seed, 2, self.step])
        total, human_loss, done = 0.0, 0.0, 0
        device = self.captioner.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(config.seed * 1_000_003 + self.step)
            for part in parts:
                own = part.tolist()
                share = len(own) / len(photos)
                features = self._features(self.learning, own)
                loss = torch.zeros((), device=device)
                if config.policy_weight:
                    rows = [s.row for each in drawn[done : done + len(own)] for s in each]
                    batch = self.captioner.text_batch(rows)
                    model.eval()
                    logits = self.captioner.logits(
                        features.repeat_interleave(config.samples, 0), batch
                    )
                    gain = torch.tensor(gains[done : done + len(own)].ravel(), dtype=torch.float32)
                    loss = config.policy_weight * policy_loss(
                        logits / config.temperature, batch.labels, gain.to(device), tokens=counted
                    )
                if config.mle_weight:
                    model.train()
                    chosen = [self.human[i][int(rng.integers(len(self.human[i])))] for i in own]
                    texts = self.captioner.text_batch([self.learning.rows[r][1] for r in chosen])
                    human = self.captioner.loss(features, texts)
                    human_loss += float(human.detach()) * share
                    loss = loss + config.mle_weight * human * share
                loss.backward()  # type: ignore[no-untyped-call,unused-ignore]
                total += float(loss.detach())
                done += len(own)
        if math.isfinite(total):
            torch.nn.utils.clip_grad_norm_(list(self.weights.values()), config.clip)
            self.optimizer.step()
            if self._since and config.mle_weight:
                self._since[-1] = self._since[-1]._replace(loss=human_loss)
        self.optimizer.zero_grad(set_to_none=True)
        return total

    def look(self) -> None:
        """Note a point of the curves, heed the monitor, keep the weights when they are the best."""
        import torch

        if self._since:
            self.history.append(mean_point(self._since, self.step))
            self._since.clear()
        self.captioner.model.eval()
        texts: list[str] = []
        with torch.no_grad():
            for start in range(0, len(self.held_out.ids), LOOKED_AT_ONCE):
                end = min(start + LOOKED_AT_ONCE, len(self.held_out.ids))
                features = self._features(self.held_out, list(range(start, end)))
                texts += self._greedy(features)
        point = self.judge.look(texts, self.step)
        self.history.append(point)
        first = next(p for p in self.history if p.split == "validation")
        said = alarm(point, first, self.config.monitor)
        if said is not None:
            said = f"step {self.step}: {said}"
            self.alarms.append(said)
            if self.config.monitor.action == "stop":
                self.stopped = said
        elif point.reward > self.best_reward or not self.best:
            self.best_reward, self.best_step = point.reward, self.step
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
            if state.pop("digest", "") != _digest(state, held):
                return 0  # changed since it was written
        except (SafetensorError, OSError, ValueError, AttributeError):
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
        self.best_reward, self.stopped = state["best_reward"], state["stopped"]
        self.alarms = state["alarms"]
        self.history = [Point(*row) for row in state["history"]]
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
            "best_reward": self.best_reward,
            "stopped": self.stopped,
            "alarms": self.alarms,
            "history": self.history,
        }
        state["digest"] = _digest(state, tensors)
        write_atomically(self.path, save(tensors, {"state": json.dumps(state)}))

    def _draw(self, parts: Sequence[list[int]]) -> tuple[list[list[Sampled]], NDArray[np.float64]]:
        """Captions of photos (k each) and their advantages (n, k); noted for the curves."""
        import torch

        config = self.config
        drawn: list[list[Sampled]] = []
        greedy: list[str] = []
        self.captioner.model.eval()
        for number, part in enumerate(parts):
            with torch.no_grad():
                features = self._features(self.learning, part)
                drawn += self.captioner.sample(
                    features,
                    n_samples=config.samples,
                    max_new_tokens=config.max_tokens,
                    temperature=config.temperature,
                    seed=(config.seed * 1_000_003 + self.step) * 1009 + number,
                )
                if config.baseline == "greedy":
                    greedy += self._greedy(features)
        photos = [i for part in parts for i in part]
        texts = [s.text for own in drawn for s in own]
        total, each = self.judge(texts, np.repeat(photos, config.samples).tolist())
        bar = self.judge(greedy, photos)[0] if greedy else None
        gains, base = advantages(total.reshape(len(photos), -1), config.baseline, bar)
        self.reward = float(total.mean())
        means = {name: float(values.mean()) for name, values in each.items()}
        self._since.append(
            Point(self.step, "train", self.reward, float(base.mean()), None, means, *looks(texts))
        )
        return drawn, gains

    def _features(self, data: Any, photos: list[int]) -> "torch.Tensor":
        held: dict[str, torch.Tensor] = data.images(photos)
        if "features" in held:
            return held["features"]
        self.captioner.model.eval()
        return self.captioner.encode_images(held["pixels"])

    def _greedy(self, features: "torch.Tensor") -> list[str]:
        limit = self.config.max_tokens
        found = self.captioner.decode(features, beams=1, max_new_tokens=limit)
        return [caption.text for caption in found]


def _counted(labels: Sequence[int]) -> int:
    return sum(label != IGNORED for label in labels)


def _check(config: ReinforceConfig, captioner: Captioner) -> None:
    from caption.bottleneck import is_attached

    method = config.adapt.method
    attached = any(is_attached(name) for name, _ in captioner.model.named_parameters())
    if method not in WHOLE or captioner.quantize is not None or attached:
        had = (
            f"adapt.method is {method!r}" if method not in WHOLE else "this captioner carries some"
        )
        raise InputError(
            "reinforcement saves whole captioners, which bottlenecks, prompts, prefixes and 4-bit "
            f"weights cannot be folded into ({had}): start from one fine-tuned by lora, decoder "
            f"or full, and reinforce by one of {', '.join(WHOLE)}"
        )
    for name in ("steps", "batch_size", "accumulate", "max_tokens", "samples", "evaluate_on"):
        if getattr(config, name) < 1:
            raise InputError(f"{name}={getattr(config, name)}: expected at least 1")
    if not config.rewards:
        raise InputError("rewards: none given; expected e.g. {als: 1, sls: 1}")
    if not config.temperature > 0 or config.learning_rate <= 0:
        raise InputError(
            f"temperature={config.temperature}, learning_rate={config.learning_rate}: expected "
            "positive numbers"
        )
    if not config.policy_weight and not config.mle_weight:
        raise InputError("policy_weight and mle_weight are both 0: there is nothing to learn from")
    if config.baseline != "greedy":
        advantages(np.zeros((1, config.samples)), config.baseline)


def _digest(state: Mapping[str, Any], tensors: Mapping[str, "torch.Tensor"]) -> str:
    """Of all that a checkpoint holds: safetensors does not notice a number that changed."""
    import torch

    digest = hashlib.sha256(json.dumps(state).encode())
    for name in sorted(tensors):
        plain = tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(name.encode())
        digest.update(plain.numpy().data)
    return digest.hexdigest()


def _key(
    captioner: Captioner, train_set: CaptionSet, held_out: CaptionSet, config: ReinforceConfig
) -> str:
    """What a checkpoint has to share with a run to be continued by it."""
    sets = [[(e.id, e.captions) for e in s.examples] for s in (train_set, held_out)]
    text = json.dumps([asdict(config), captioner.fingerprint(), sets])
    return hashlib.sha256(text.encode()).hexdigest()
