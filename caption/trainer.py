"""transformers' Trainer on a captioner: its features and token rows, its curves, its checkpoints.

The Trainer brings what people know of it (`torchrun`, mixed precision, gradient accumulation,
TensorBoard). What is different here: an update is the same captions and the same dropout however
often the run was killed; a loss that is no number ends it before the weights are touched; a
checkpoint holds only the weights that learn, and counts as one only when it is whole.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import math
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from caption import InputError
from caption.adapt import Adaptation
from caption.captioners import IGNORED, Captioner, TextBatch
from caption.records import write_atomically
from caption.schedules import learning_rate
from caption.sharding import (
    load_optimizer_state,
    optimizer_state,
    outside_layers,
    part_of,
    restore,
    shard,
    whole,
)
from caption.training_data import TrainingData, UpdateOrder, out_of_memory

if TYPE_CHECKING:
    from caption.train import HistoryRow, MetricRow, TrainConfig

WEIGHTS = "model.safetensors"
MARKER = "whole.json"
"""Written last into a checkpoint: what it belongs to, the curves so far, digests of all files."""
METRICS = ("bleu-4", "cider-d", "rouge-l")
"""Caption metrics of every evaluation, where captions are generated."""


class Diverged(Exception):
    """The loss or the gradient became something that is not a number."""


@dataclass
class Curves:
    """What was measured so far, and which evaluation is the best one."""

    keep: str
    """"loss", or the caption metric whose highest value is kept."""
    history: list[HistoryRow] = field(default_factory=list)
    metrics: list[MetricRow] = field(default_factory=list)

    def points(self) -> list[tuple[int, float]]:
        """(step, how good) of every evaluation; higher is better."""
        if self.keep == "loss":
            return [(h.step, -h.loss) for h in self.history if h.split == "validation"]
        return [(m.step, m.value) for m in self.metrics if m.metric == self.keep]

    def best(self) -> tuple[int, float]:
        """Step of the best evaluation (the first of equals) and its validation loss."""
        step = max(self.points(), key=lambda point: point[1])[0]
        return step, next(
            h.loss for h in self.history if h.step == step and h.split == "validation"
        )

    def exhausted(self, patience: int) -> bool:
        """The last `patience` evaluations brought nothing better."""
        points = self.points()
        if not patience or not points:
            return False
        best = self.best()[0]
        return sum(step > best for step, _ in points) >= patience

    def write(self, out: Path) -> None:
        """`history.csv` and, where captions were generated, `metrics.csv`."""
        for name, rows in (("history.csv", self.history), ("metrics.csv", self.metrics)):
            if rows:
                text = io.StringIO()
                writer = csv.writer(text, lineterminator="\n")
                writer.writerow(rows[0]._fields)
                writer.writerows(rows)
                write_atomically(out / name, text.getvalue().encode())


class Network(torch.nn.Module):
    """A captioner as a module whose forward is its training loss, so that it can be wrapped."""

    mode: bool | None = None
    accepts_loss_kwargs = True  # the Trainer then hands over the tokens of the whole update

    def __init__(
        self,
        captioner: Captioner,
        adaptation: Adaptation,
        *,
        in_parts: bool = False,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        self.weights = captioner.model
        known = set(map(id, captioner.model.parameters()))
        adapters = adaptation.adapters
        if isinstance(adapters, torch.nn.Module) and any(
            id(p) not in known for p in adapters.parameters()
        ):
            self.adapters = adapters  # prompts live beside the model, not in it
        self.captioner = captioner
        self.encoder_frozen = adaptation.encoder_frozen
        # accelerate, which wraps whole networks for this, doesn't touch one in parts.
        self.own_bf16 = in_parts and bf16
        if in_parts:
            shard(self, captioner.device)
        self._learned = list(self.learned().values())

    def forward(
        self,
        input_ids: torch.Tensor,
        labels: torch.Tensor,
        features: torch.Tensor | None = None,
        pixels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> dict[str, torch.Tensor]:
        """{"loss"}: mean over the counted tokens, or their sum over `num_items_in_batch`."""
        half = torch.autocast(input_ids.device.type, torch.bfloat16)
        with half if self.own_bf16 else contextlib.nullcontext():
            if features is None:
                assert pixels is not None
                features = self._encode(pixels)
            loss = self.captioner.loss(features, TextBatch(input_ids, labels))
        if num_items_in_batch is not None:
            loss = loss * (labels.ne(IGNORED).sum() / num_items_in_batch)
        return {"loss": loss}

    def _encode(self, pixels: torch.Tensor) -> torch.Tensor:
        if not self.encoder_frozen:
            return self.captioner.encode_images(pixels)
        # A frozen encoder reads without dropout, as it does when its outputs are cached.
        training = self.training
        self.eval()
        with torch.no_grad():
            features = self.captioner.encode_images(pixels)
        self.train(training)
        return features

    def train(self, mode: bool = True) -> Network:
        """Walks through the network only where something changes: it is called at every step."""
        if self.mode != mode:
            self.mode = mode
            super().train(mode)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Of what learns: nothing else has a gradient."""
        for weight in self._learned:
            weight.grad = None

    def learned(self) -> dict[str, torch.nn.Parameter]:
        """Weights that learn, by name."""
        return {n: p for n, p in self.named_parameters() if p.requires_grad}


class CaptionTrainer(Trainer):  # type: ignore[misc]
    """One training run, from its last whole checkpoint to its end."""

    def __init__(
        self,
        captioner: Captioner,
        adaptation: Adaptation,
        learning: TrainingData,
        held_out: TrainingData,
        config: TrainConfig,
        *,
        out: Path,
        key: str,
        parts: int,
        bf16: bool,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self.captioner, self.config, self.out, self.key = captioner, config, out, key
        self.learning, self.held_out, self.report = learning, held_out, progress
        self.curves = Curves(config.keep)
        self.parts = parts
        self.control: Any
        self.resumed_from = 0
        self.losses: list[float] = []
        self._update: list[torch.Tensor] = []
        self.in_parts = config.fsdp and world()[1] > 1
        network = Network(captioner, adaptation, in_parts=self.in_parts, bf16=bf16)
        self.learned = list(network.learned().values())
        optimizer = _optimizer(self.learned, config)
        scheduler = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: learning_rate(
                step,
                schedule=config.schedule,
                steps=config.steps,
                peak=1.0,
                floor=config.min_learning_rate / config.learning_rate,
                warmup=config.warmup,
                period=config.period,
            ),
        )
        arguments = TrainingArguments(
            output_dir=str(out / "checkpoints"),
            max_steps=config.steps,
            per_device_train_batch_size=math.ceil(config.batch_size / (parts * world()[1])),
            gradient_accumulation_steps=parts,
            max_grad_norm=config.clip,
            seed=config.seed,
            bf16=bf16,
            use_cpu=captioner.device.type == "cpu",
            eval_strategy="no",  # _Steps says when
            save_strategy="no",
            logging_strategy="steps" if config.tensorboard else "no",
            logging_steps=max(1, config.steps // 100),
            logging_nan_inf_filter=False,
            report_to="none",
            disable_tqdm=True,
            log_level="error",
            dataloader_pin_memory=False,
            remove_unused_columns=False,
            ddp_find_unused_parameters=not config.gradient_checkpointing,
        )
        arguments._n_gpu = min(
            1, arguments.n_gpu
        )  # several GPUs are torchrun's, not DataParallel's
        super().__init__(
            model=network,
            args=arguments,
            train_dataset=learning,
            eval_dataset=held_out,
            optimizers=(optimizer, scheduler),
            callbacks=[_Steps(self), *_tensorboard(config, out)],
        )
        self.remove_callback(PrinterCallback)

    def run(self) -> int:
        """Train to the end; returns the step of the checkpoint it went on from (0: none).

        Raises Diverged (the weights are those before the bad update), or what memory raises.
        """
        folder = self._resume()
        self.resumed_from = 0 if folder is None else _step(folder)
        if not self.curves.exhausted(self.config.patience):
            self.args.eval_on_start = not self.curves.history
            self.train(resume_from_checkpoint=None if folder is None else str(folder))
        return self.resumed_from

    def fitting(self, most: int) -> int | None:
        """Captions whose loss and gradient fit in memory: `most`, or half as often as needed."""
        while most:
            try:
                self.model.zero_grad()
                self.model.train()
                self.model(**self.learning.batch(range(min(most, len(self.learning)))))[
                    "loss"
                ].backward()
                return most
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                most //= 2
        return None

    def restore_best(self) -> None:
        """Load the weights of the best evaluation."""
        self._load_from_checkpoint(str(self._folder(self.curves.best()[0])))

    def make_whole(self) -> None:
        """End of training in parts: process 0 has the whole network again, in its memory."""
        if self.in_parts:
            restore(self.model, keep=self.is_world_process_zero())

    def clean(self) -> None:
        """Remove the checkpoints of a finished run."""
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            shutil.rmtree(self.args.output_dir, ignore_errors=True)

    # ---- what the Trainer calls ----

    def get_train_dataloader(self) -> DataLoader[Any]:
        rank, processes = world()
        self.order = UpdateOrder(
            len(self.learning),
            steps=self.config.steps,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            parts=self.parts,
            rank=rank,
            processes=processes,
        )
        # Not through accelerate.prepare: the order knows its processes, and its wrapper costs time.
        return DataLoader(self.learning, batch_sampler=self.order, collate_fn=_same)  # type: ignore[arg-type]

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor | Any],
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        if not self._update:
            step = self.config.seed * 1_000_003 + self.state.global_step
            torch.manual_seed(step + (world()[0] << 40))
        self._update.append(super().training_step(model, inputs, num_items_in_batch))
        loss = self._update[-1]
        if len(self._update) == self.current_gradient_accumulation_steps:
            # Processes weigh their tokens against those of all, times the number of processes.
            total = torch.stack(self._update).sum()
            self._update.clear()
            if world()[1] > 1:
                total = self.accelerator.reduce(total, "mean")
            self._note(float(total), "loss")
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> Any:
        norm = whole(torch.nn.utils.clip_grad_norm_(self.learned, self.config.clip))
        if not math.isfinite(norm):
            self._note(float(norm), "gradient")
        return norm

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Note a point of the curves; decide whether the run goes on."""
        from caption.train import HistoryRow, MetricRow

        step = self.state.global_step
        epoch = step * self.config.batch_size / len(self.learning)
        if self.losses:
            mean = sum(self.losses) / len(self.losses)
            self.losses.clear()
            self.curves.history.append(HistoryRow(step, epoch, "train", mean))
        loss = self._validation_loss()
        self.curves.history.append(HistoryRow(step, epoch, "validation", loss))
        found = {"eval_loss": loss}
        for name, value in self._generated().items():
            self.curves.metrics.append(MetricRow(step, epoch, "validation", name, value))
            found[f"eval_{name}"] = value
        if self.config.tensorboard:
            self.log(found)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        if self.curves.exhausted(self.config.patience):
            self.control.should_training_stop = True
        if step == 0:
            self._save_checkpoint(self.model, None)  # what is kept where nothing gets better
        return found

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if not self.is_world_process_zero():
            return
        folder = self._folder(self.state.global_step)
        best = self._folder(self.curves.best()[0])
        state = {
            "key": self.key,
            "history": self.curves.history,
            "metrics": self.curves.metrics,
            "files": {p.name: _sha256(p) for p in sorted(folder.iterdir()) if p.name != MARKER},
        }
        state["seal"] = _seal(state)
        write_atomically(folder / MARKER, json.dumps(state).encode())
        self.curves.write(self.out)
        for other in Path(self.args.output_dir).iterdir():
            if other not in (folder, best):
                shutil.rmtree(other, ignore_errors=True)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """What learns, by process 0; those in parts are put together by all."""
        tensors = {}
        for name, weight in self.model.learned().items():
            values = whole(weight.detach())
            if self.args.should_save:
                tensors[name] = (values.cpu() if self.in_parts else values).contiguous()
        if output_dir is not None and self.args.should_save:
            os.makedirs(output_dir, exist_ok=True)
            save_file(tensors, Path(output_dir) / WEIGHTS)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.in_parts:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = optimizer_state(self.model, self.optimizer.optimizer)
        if self.args.should_save:
            both = {"optimizer": state, "scheduler": self.lr_scheduler.state_dict()}
            torch.save(both, Path(output_dir) / "optimizer.pt")

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if not self.in_parts:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            held = torch.load(
                Path(checkpoint) / "optimizer.pt", map_location="cpu", weights_only=True
            )
            load_optimizer_state(self.model, self.optimizer.optimizer, held["optimizer"])
            self.lr_scheduler.load_state_dict(held["scheduler"])

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: torch.nn.Module | None = None
    ) -> None:
        held = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        with torch.no_grad():
            for name, weight in self.model.learned().items():
                weight.copy_(part_of(held[name], weight))

    def _save_rng_state(self, output_dir: str) -> None:
        """Nothing to keep: every update is seeded by its number."""

    # ---- helpers ----

    def _note(self, value: float, what: str) -> None:
        step = self.state.global_step
        if not math.isfinite(value):
            rows = self.order.rows(step)[:4].tolist()
            ids = ", ".join(self.learning.ids[self.learning.rows[row][0]] for row in rows)
            raise Diverged(f"the {what} became {value} in step {step + 1} (photos {ids} ...)")
        self.losses.append(value)
        self.report(f"training, loss {value:.3f}", step + 1, self.config.steps)

    def _folder(self, step: int) -> Path:
        return Path(self.args.output_dir) / f"checkpoint-{step}"

    def _resume(self) -> Path | None:
        """The newest whole checkpoint of this very run, its curves loaded; others are removed."""
        found, state = None, {}
        folders = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=_step, reverse=True)
        for folder in folders:
            if state := _whole(folder, self.key):
                found = folder
                break
        if found is None:
            self.clean()
            return None
        from caption.train import HistoryRow, MetricRow

        self.curves.history = [HistoryRow(*row) for row in state["history"]]
        self.curves.metrics = [MetricRow(*row) for row in state["metrics"]]
        if not _whole(self._folder(self.curves.best()[0]), self.key):
            self.curves = Curves(self.config.keep)
            self.clean()
            return None
        return found

    def _validation_loss(self) -> float:
        """Cross-entropy in nats over all counted tokens; every process reads its share."""
        self.model.eval()
        rank, processes = world()
        data, size = self.held_out, max(1, self.config.batch_size // self.parts)
        sums = torch.zeros(2, dtype=torch.float64)
        with torch.no_grad():
            for first in range(0, len(data), processes * size):
                start = first + rank * size
                mine = range(start, min(start + size, len(data)))
                if not mine and not self.in_parts:
                    break
                # In parts, all compute as often as one does: those without a share any batch.
                inputs = data.batch(mine or range(min(size, len(data))))
                counted = int(inputs["labels"].ne(IGNORED).sum()) if mine else 0
                loss = float(self.model(**inputs)["loss"])
                sums += torch.tensor([loss * counted, counted], dtype=torch.float64)
        if processes > 1:
            sums = self.accelerator.reduce(sums.to(self.args.device), "sum").cpu()
        return float(sums[0] / sums[1])

    def _generated(self) -> dict[str, float]:
        """Caption metrics over the first photos of the validation part; rank 0 counts for all."""
        n = min(self.config.generate, len(self.held_out.ids))
        if not n:
            return {}
        values = torch.zeros(len(METRICS), dtype=torch.float64)
        if self.is_world_process_zero():
            values = torch.tensor(self._score(n), dtype=torch.float64)
        elif self.in_parts:
            self._score(n)  # its layers are needed
        if world()[1] > 1:
            values = self.accelerator.reduce(values.to(self.args.device), "sum").cpu()
        return dict(zip(METRICS, values.tolist(), strict=True))

    def _score(self, n: int) -> list[float]:
        from caption.metrics import Score, score_captions

        data, size = self.held_out, max(1, self.config.batch_size // self.parts)
        self.model.eval()
        texts: list[str] = []
        with torch.no_grad(), outside_layers(self.model):
            for start in range(0, n, size):
                images = data.images(range(start, min(start + size, n)))
                features = images.get("features")
                if features is None:
                    features = self.captioner.encode_images(images["pixels"])
                room = self.config.max_tokens
                written = self.captioner.decode(features, beams=1, max_new_tokens=room)
                texts += [w.text for w in written]
        found = score_captions(
            dict(zip(data.ids[:n], texts, strict=True)),
            dict(zip(data.ids[:n], map(list, data.captions[:n]), strict=True)),
            ("bleu", "cider-d", "rouge-l"),
            tokenizer="python",  # the same on every machine, and no Java start an evaluation
        )
        scores = [found[name] for name in METRICS]
        return [s.value if isinstance(s, Score) else math.nan for s in scores]


class _Steps(TrainerCallback):  # type: ignore[misc]
    """Evaluates, and keeps a checkpoint, every so many updates and at the end."""

    def __init__(self, trainer: CaptionTrainer) -> None:
        self.every = trainer.config.evaluate_every
        self.steps = trainer.config.steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        due = state.global_step % self.every == 0 or state.global_step == self.steps
        control.should_evaluate = control.should_save = due


def world() -> tuple[int, int]:
    """(rank, processes) of this process among those `torchrun` or `accelerate launch` started."""
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), processes) if processes > 1 else (0, 1)


def _optimizer(weights: Sequence[torch.nn.Parameter], config: TrainConfig) -> torch.optim.AdamW:
    groups: Sequence[Mapping[str, Any]] = [
        {"params": [p for p in weights if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in weights if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [dict(g) for g in groups if g["params"]], lr=config.learning_rate, fused=True
    )


def _tensorboard(config: TrainConfig, out: Path) -> list[Any]:
    if not config.tensorboard or world()[0]:
        return []
    try:
        from torch.utils.tensorboard import SummaryWriter
        from transformers.integrations import TensorBoardCallback
    except ImportError as error:
        raise InputError(
            "tensorboard=true needs the package tensorboard: pip install tensorboard"
        ) from error
    return [TensorBoardCallback(SummaryWriter(str(out / "tensorboard")))]


def _whole(folder: Path, key: str) -> dict[str, Any]:
    """What a checkpoint's marker says; empty where it is of another run, or not whole."""
    try:
        state: dict[str, Any] = json.loads((folder / MARKER).read_bytes())
        if state["key"] != key or state["seal"] != _seal(state):
            return {}
        files = {name: _sha256(folder / name) for name in state["files"]}
        return state if files == state["files"] else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _seal(state: Mapping[str, Any]) -> str:
    """What a marker that has not changed since it was written says of itself."""
    rest = {name: value for name, value in state.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _step(folder: Path) -> int:
    number = folder.name.rpartition("-")[2]
    return int(number) if number.isdigit() else -1


def _same(batch: Any) -> Any:
    return batch
