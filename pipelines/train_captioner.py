"""`fcr train-captioner`: described articles -> leak-free parts -> a fine-tuned captioner."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines import InputError
from pipelines.caption_data import PARTS as PARTS_FILE
from pipelines.caption_data import given_parts
from pipelines.catalog import Catalog, fingerprints
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.workspace import Stage, file_sha256

if TYPE_CHECKING:
    from caption.captioners import Captioner
    from caption.records import CaptionSet
    from caption.train import TrainConfig
    from pipelines.config import CaptionerConfig

STAGE = "train-captioner"
PARTS = ("train", "validation", "test")
LOADING = ("dtype", "quantize", "prompt")
"""Settings that say how the checkpoint's weights are loaded."""


def train_captioner(run: Run, *, photos: Path | None = None) -> Path:
    """Fine-tune the configured checkpoint on the run's described articles.

    photos: a folder where several trainings share what they read of the photos; the caller's.

    Returns:
        folder of the adapter (`adapter/`) or of the whole model (`model/`); beside it
        `captions.json` (the parts), `history.csv` (step, epoch, split, loss in nats a token) and,
        where captions were generated, `metrics.csv` (step, epoch, split, metric, value).

    Raises:
        InputError: bad tables, too few described photos, a checkpoint that can't be loaded.
    """
    base = base_checkpoint(run)
    config = replace(run.config.train, seed=run.config.seed)
    settings = {
        "train": asdict(config),
        "captions": asdict(run.config.captions),
        "captioner": asdict(run.config.captioner),
    }
    inputs = {**fingerprints(run.data, purchases=False), "checkpoint": checkpoint_hash(base)}
    if (run.data / PARTS_FILE).is_file() and given_parts(run.data) is not None:
        inputs["parts"] = file_sha256(run.data / PARTS_FILE)
        del settings["captions"]
    with run.stage(STAGE, config=settings, inputs=inputs) as stage:
        if not stage.reused:
            _train(run, stage, base, config, photos)
        return stage.path(stage.record["saved"])


def base_checkpoint(run: Run) -> str:
    """What is fine-tuned: the configured checkpoint, or one composed of encoder and decoder.

    Raises:
        InputError: parts that can't be loaded or joined.
    """
    config = run.config.captioner
    if config.compose == "no":
        return checkpoint(config.checkpoint, "blip")
    settings = {k: v for k, v in asdict(config).items() if k not in ("checkpoint", *LOADING)}
    inputs = {part: checkpoint_hash(getattr(config, part)) for part in ("encoder", "decoder")}
    with run.workspace.stage(
        "base", config=settings, inputs=inputs, seed=run.config.seed, say=lambda _: None
    ) as stage:
        if not stage.reused:
            _compose(config, run.config.seed).save(stage.path("model"))
    return str(stage.path("model"))


def follow() -> None:
    """What every process but the first does under `torchrun`: train along, write nothing."""
    from pydantic import TypeAdapter

    from caption.captioners import load_captioner
    from caption.records import CaptionSet
    from caption.train import TrainConfig, train

    while (job := _shared(None)) is not None:
        parts = CaptionSet.load(Path(job["captions"]))
        train(
            load_captioner(job["checkpoint"], **job["loading"]),
            parts.by_split("train"),
            parts.by_split("validation"),
            Path(job["out"]),
            TypeAdapter(TrainConfig).validate_python(job["train"]),
            photos=None if job["photos"] is None else Path(job["photos"]),
        )


def processes() -> tuple[int, int]:
    """(rank, how many) under `torchrun` or `accelerate launch`; (0, 1) alone."""
    many = int(os.environ.get("WORLD_SIZE", "1"))
    return (int(os.environ.get("RANK", "0")), many) if many > 1 else (0, 1)


def release() -> None:
    """Tell the processes that follow that there is nothing more to train."""
    if processes()[1] > 1:
        _shared(None)


def known_parts(run: Run, catalog: Catalog) -> CaptionSet:
    """The parts the run's captioner was trained with; without one, those it would be.

    Drawing them anew under another configuration could test a captioner on its own training part.
    """
    from caption.records import CaptionSet

    trained = run.workspace.stage_file(STAGE, "captions.json")
    if trained is not None:
        return CaptionSet.load(trained)
    return given_parts(run.data) or caption_parts(run, catalog)


def caption_parts(run: Run, catalog: Catalog) -> CaptionSet:
    """The described articles with a photo, split so that nothing leaks (deterministic)."""
    from caption.sources import hm_captions, split_hm
    from pipelines.stores import images

    sizes = run.config.captions
    described = hm_captions(catalog.articles, images(run.data), name=run.folder.name)
    wanted = {"test": sizes.test, "validation": sizes.validation, "train": sizes.train}
    if sizes.test + sizes.validation + max(1, sizes.train) > len(described):
        raise InputError(
            f"{len(described):,} articles have a description and a photo, too few for "
            f"captions.test={sizes.test}, captions.validation={sizes.validation} and "
            f"captions.train={sizes.train}: ask for fewer, e.g. --set captions.test="
            f"{max(1, len(described) // 10)} --set captions.validation="
            f"{max(1, len(described) // 20)}"
        )
    return split_hm(described, catalog.articles, wanted, run.config.seed)


def fine_tuned(run: Run) -> Captioner | None:
    """The run's fine-tuned captioner, its files checked; None where none was trained."""
    from caption.captioners import load_captioner

    manifest = run.workspace.manifest(STAGE)
    if manifest is None:
        return None
    record = manifest["record"]
    for name in manifest["files"]:
        if name.startswith(f"{record['saved']}/"):
            run.workspace.stage_file(STAGE, name)
    saved = run.folder / STAGE / record["saved"]
    loading = record.get("loading", {})
    if record["saved"] == "adapter":
        return load_captioner(record["checkpoint"], adapter=saved, **loading)
    return load_captioner(saved, **loading)


def pretrained(run: Run) -> Captioner:
    """The configured checkpoint as it is before training."""
    from caption.captioners import load_captioner

    return load_captioner(base_checkpoint(run), **_loading(run.config.captioner))


def _train(run: Run, stage: Stage, base: str, config: TrainConfig, photos: Path | None) -> None:
    from caption.captioners import load_captioner
    from caption.train import train

    parts = given_parts(run.data) or caption_parts(run, run.catalog(purchases=False))
    parts.save(stage.path("captions.json"))
    sizes = {name: len(parts.by_split(name)) for name in PARTS}
    run.say(
        f"fine-tuning {base} on {sizes['train']:,} articles; {sizes['validation']:,} choose "
        f"the checkpoint, {sizes['test']:,} are kept for the test"
        + ("" if given_parts(run.data) else "; no product_code and no description on two sides")
    )
    loading = _loading(run.config.captioner)
    _shared(
        {
            "checkpoint": base,
            "loading": loading,
            "captions": str(stage.path("captions.json")),
            "out": str(stage.folder),
            "train": asdict(config),
            "photos": None if photos is None else str(photos),
        }
    )
    captioner = load_captioner(base, **loading)
    with run.progress() as progress:
        result = train(
            captioner,
            parts.by_split("train"),
            parts.by_split("validation"),
            stage.folder,
            config,
            progress,
            run.say,
            photos=photos,
        )
    if result.resumed_from:
        run.say(f"went on from step {result.resumed_from} of an interrupted run")
    run.say(
        f"validation loss {result.history[0].loss:.3f} -> {result.best_loss:.3f} nats a token "
        f"(step {result.best_step} of {result.steps})"
    )
    if result.stopped:
        run.say(f"warning: training ended early: {result.stopped}; the best weights are kept")
    if result.skipped:
        run.say(
            f"note: {len(result.skipped):,} photos can't be read and were left out, e.g. "
            f"{result.skipped[0][0]}: {result.skipped[0][1]}"
        )
    if result.cut:
        run.say(
            f"note: {result.cut:,} descriptions are longer than {config.max_tokens} tokens "
            "and were cut"
        )
    if result.energy_kwh is not None:
        run.say(
            f"{result.energy_kwh:.3g} kWh, {result.co2_kg:.3g} kg CO2 by codecarbon, grid of "
            f"{config.country}"
        )
    stage.record.update(
        saved=result.saved.name,
        checkpoint=base,
        loading=loading,
        sizes=sizes,
        trainable=result.trainable,
        total=result.total,
        best_step=result.best_step,
        best_loss=result.best_loss,
        best_metrics={m.metric: m.value for m in result.metrics if m.step == result.best_step},
        first_loss=result.history[0].loss,
        steps=result.steps,
        precision=result.precision,
        cut=result.cut,
        skipped=len(result.skipped),
        words_added=len(result.words_added),
        stopped=result.stopped,
        energy_kwh=result.energy_kwh,
        co2_kg=result.co2_kg,
    )


def _loading(config: CaptionerConfig) -> dict[str, Any]:
    """Arguments of `load_captioner` that differ from its own defaults."""
    chosen = {name: getattr(config, name) for name in LOADING}
    return {name: value for name, value in chosen.items() if value}


def _compose(config: CaptionerConfig, seed: int) -> Captioner:
    if not config.encoder or not config.decoder:
        raise InputError(
            f"captioner.compose={config.compose} needs captioner.encoder and captioner.decoder: "
            "folders or names of the hub, such as openai/clip-vit-base-patch32 and gpt2"
        )
    if config.compose == "encoder-decoder":
        from caption.families import EncoderDecoderCaptioner

        try:
            return EncoderDecoderCaptioner.from_parts(config.encoder, config.decoder, seed=seed)
        except (OSError, ValueError) as error:
            raise InputError(f"{config.encoder} and {config.decoder}: {error}") from error
    from caption.clipcap import ClipCap

    return ClipCap.from_parts(
        config.encoder,
        config.decoder,
        mapper=config.mapper,
        prefix_length=config.prefix_length,
        mapper_layers=config.mapper_layers,
        mapper_heads=config.mapper_heads,
        seed=seed,
    )


def _shared(job: dict[str, Any] | None) -> dict[str, Any] | None:
    """What process 0 says, on every process; alone, nothing happens."""
    if processes()[1] == 1:
        return job
    import torch
    import torch.distributed as dist
    from accelerate import PartialState  # type: ignore[import-untyped]

    PartialState(cpu=not torch.cuda.is_available())
    box = [json.dumps(job)]
    dist.broadcast_object_list(box, src=0)
    said: dict[str, Any] | None = json.loads(box[0])
    return said
