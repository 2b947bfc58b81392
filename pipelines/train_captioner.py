"""`fcr train-captioner`: described articles -> leak-free parts -> a fine-tuned captioner."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import InputError
from pipelines.catalog import Catalog, fingerprints
from pipelines.run import Run, checkpoint, checkpoint_hash

if TYPE_CHECKING:
    from caption.captioners import Captioner
    from caption.records import CaptionSet

STAGE = "train-captioner"
PARTS = ("train", "validation", "test")


def train_captioner(run: Run) -> Path:
    """Fine-tune the configured checkpoint on the run's described articles.

    Returns:
        folder of the LoRA adapter (`adapter/`) or of the whole model (`model/`); beside it
        `captions.json` (the parts) and `history.csv` (step, epoch, split, loss in nats a token).

    Raises:
        InputError: bad tables, too few described photos, a checkpoint that can't be loaded.
    """
    from caption.captioners import load_captioner
    from caption.train import train

    base = checkpoint(run.config.captioner.checkpoint, "blip")
    config = replace(run.config.train, seed=run.config.seed)
    settings = {"train": asdict(config), "captions": asdict(run.config.captions)}
    inputs = {**fingerprints(run.data, purchases=False), "checkpoint": checkpoint_hash(base)}
    with run.workspace.stage(
        STAGE, config=settings, inputs=inputs, seed=run.config.seed, say=run.say
    ) as stage:
        if stage.reused:
            return stage.path(stage.record["saved"])
        parts = caption_parts(run, run.catalog(purchases=False))
        parts.save(stage.path("captions.json"))
        sizes = {name: len(parts.by_split(name)) for name in PARTS}
        run.say(
            f"fine-tuning {base} on {sizes['train']:,} articles; {sizes['validation']:,} choose "
            f"the checkpoint, {sizes['test']:,} are kept for the test; no product_code and no "
            "description stands on two sides"
        )
        captioner = load_captioner(base)
        with run.progress() as progress:
            result = train(
                captioner,
                parts.by_split("train"),
                parts.by_split("validation"),
                stage.folder,
                config,
                progress,
            )
        if result.resumed_from:
            run.say(f"went on from step {result.resumed_from} of an interrupted run")
        run.say(
            f"{result.trainable:,} of {result.total:,} weights learned; validation loss "
            f"{result.history[0].loss:.3f} -> {result.best_loss:.3f} nats a token "
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
        stage.record.update(
            saved=result.saved.name,
            checkpoint=base,
            sizes=sizes,
            trainable=result.trainable,
            total=result.total,
            best_step=result.best_step,
            best_loss=result.best_loss,
            first_loss=result.history[0].loss,
            precision=result.precision,
            cut=result.cut,
            skipped=len(result.skipped),
            words_added=len(result.words_added),
            stopped=result.stopped,
        )
        return result.saved


def known_parts(run: Run, catalog: Catalog) -> CaptionSet:
    """The parts the run's captioner was trained with; without one, those it would be.

    Drawing them anew under another configuration could test a captioner on its own training part.
    """
    from caption.records import CaptionSet

    trained = run.workspace.stage_file(STAGE, "captions.json")
    return caption_parts(run, catalog) if trained is None else CaptionSet.load(trained)


def caption_parts(run: Run, catalog: Catalog) -> CaptionSet:
    """The described articles with a photo, split so that nothing leaks (deterministic)."""
    from caption.sources import hm_captions, split_hm

    sizes = run.config.captions
    described = hm_captions(catalog.articles, run.data / "images", name=run.folder.name)
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
    if record["saved"] == "adapter":
        return load_captioner(record["checkpoint"], adapter=saved)
    return load_captioner(saved)
