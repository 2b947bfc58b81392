"""`fcr caption-items`: a description for every article with a photo."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from pipelines import InputError
from pipelines.catalog import Catalog, fingerprints
from pipelines.interrupts import patiently
from pipelines.neighbours import NEIGHBOURS, RETRIEVAL, identity, retriever, write
from pipelines.reinforce import REINFORCED, reinforced
from pipelines.reinforce import STAGE as REINFORCE
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.train_captioner import base_checkpoint, fine_tuned, known_parts, pretrained
from pipelines.workspace import Stage, write_table

if TYPE_CHECKING:
    from caption.captioners import Captioner
    from caption.generate import Elsewhere

STAGE = "caption-items"


def caption_items(run: Run, *, captioner: str | None = None) -> Path:
    """Describe the run's catalogue; a killed call goes on from its last finished shard.

    Args:
        run: an open run.
        captioner: `fine-tuned` or `reinforced` (the run's), `pretrained` (the configured
            checkpoint), `copy-nearest`, `consensus` or `retrieval` (texts of the training part), or
            a checkpoint's name or folder; None takes the fine-tuned one where there is one.

    Returns:
        path of `captions.parquet` (article_id, caption, captioner, logprob); beside it
        `skipped.parquet` (article_id, reason).

    Raises:
        InputError: bad tables, no photos, a captioner that can't be loaded.
    """
    from caption.generate import caption_catalogue

    trained = run.workspace.manifest(TRAIN)
    label = captioner or ("fine-tuned" if trained is not None else "pretrained")
    if label in NEIGHBOURS:
        return _from_neighbours(run, label)
    if captioner is None and trained is None:
        run.say(
            "note: this run has no fine-tuned captioner, so the pretrained one writes; "
            "train one with `fcr train-captioner`"
        )
    if label == "fine-tuned":
        if trained is None:
            raise InputError(
                f"run {run.folder.name} has no fine-tuned captioner: call `fcr train-captioner "
                f"--run {run.folder.name}` first, or choose another with --captioner"
            )
        identity = trained["key"]
    elif label == REINFORCED:
        paid = run.workspace.manifest(REINFORCE)
        if paid is None:
            raise InputError(
                f"run {run.folder.name} has no reinforced captioner: call `fcr "
                f"reinforce-captioner --run {run.folder.name}` first"
            )
        identity = paid["key"]
    else:
        identity = checkpoint_hash(_checkpoint(run, label))
    settings = run.config.generate
    inputs = {**fingerprints(run.data, purchases=False), "captioner": identity}
    with run.stage(STAGE, config={**asdict(settings), "captioner": label}, inputs=inputs) as stage:
        if stage.reused:
            return stage.path("captions.parquet")
        catalog = run.catalog(purchases=False)
        items = _items(run, catalog)
        writer = _writer(run, label)
        with run.progress() as progress, patiently("shard") as stop:
            result = caption_catalogue(
                writer,
                items,
                stage.folder,
                label=label,
                beams=settings.beams,
                max_new_tokens=settings.max_new_tokens,
                batch_size=settings.batch_size,
                shard_size=settings.shard_size,
                progress=progress,
                stop=stop,
            )
        if result.n_reused:
            run.say(f"{result.n_reused:,} captions were there from an interrupted call")
        _conclude(run, stage, label, catalog.articles.height - len(items))
        return result.captions


def _from_neighbours(run: Run, label: str) -> Path:
    """`caption_items` by a captioner that chooses among the training part's texts."""
    catalog = run.catalog(purchases=False)
    parts = known_parts(run, catalog)
    if label == RETRIEVAL:
        retriever(run, parts)
    inputs = fingerprints(run.data, purchases=False)
    with run.stage(
        STAGE, config={**identity(run, label, parts), "captioner": label}, inputs=inputs
    ) as stage:
        captions, skipped = stage.path("captions.parquet"), stage.path("skipped.parquet")
        if stage.reused:
            return captions
        items = _items(run, catalog)
        written = write(run, label, items, parts, catalog)
        if not written.captions:
            raise InputError(f"no photo of {run.data} can be read, so {label} wrote nothing")
        said = [(id, *written.captions[id]) for id, _ in items if id in written.captions]
        schema = {"article_id": pl.String, "caption": pl.String, "logprob": pl.Float64}
        frame = pl.DataFrame(said, schema, orient="row").with_columns(captioner=pl.lit(label))
        write_table(captions, frame.select("article_id", "caption", "captioner", "logprob"))
        why = [(id, written.skipped[id]) for id, _ in items if id in written.skipped]
        reasons = {"article_id": pl.String, "reason": pl.String}
        write_table(skipped, pl.DataFrame(why, reasons, orient="row"))
        _conclude(run, stage, label, catalog.articles.height - len(items))
        return captions


def _items(run: Run, catalog: Catalog) -> list[tuple[str, Path]]:
    """(article_id, photo) of every article with one, by id."""
    photos = zip(catalog.articles["article_id"], catalog.photos(), strict=True)
    items = sorted((article_id, photo) for article_id, photo in photos if photo is not None)
    if not items:
        raise InputError(
            f"no article has a photo: expected {run.data}/images/<first 3 digits of the id>/"
            "<article_id>.jpg"
        )
    without = catalog.articles.height - len(items)
    if without:
        run.say(f"note: {without:,} articles have no photo and get no caption")
    return items


def _conclude(run: Run, stage: Stage, label: str, without: int) -> None:
    """Say and record what was written."""
    captions = pl.read_parquet(stage.path("captions.parquet"))
    skipped = pl.read_parquet(stage.path("skipped.parquet"))
    if skipped.height:
        first = skipped.row(0, named=True)
        run.say(
            f"note: {skipped.height:,} photos got no caption, e.g. {first['article_id']}: "
            f"{first['reason']} (all in {stage.path('skipped.parquet')})"
        )
    distinct = captions["caption"].n_unique()
    run.say(f"{captions.height:,} captions, {distinct:,} of them distinct")
    stage.record.update(
        captioner=label,
        captions=captions.height,
        distinct=distinct,
        skipped=skipped.height,
        without_photo=without,
    )


def _writer(run: Run, label: str) -> Captioner | Elsewhere:
    """The captioner, in this process or in the engine's."""
    if run.engine is None:
        return load(run, label)
    return run.engine.captioner(partial(load, replace(run, say=_quiet, engine=None), label))


def _quiet(line: str) -> None:
    """What a worker says is said by the process that asks."""


def load(run: Run, label: str) -> Captioner:
    """The captioner called `label` in this run: its own ones, `pretrained`, or a checkpoint."""
    from caption.captioners import load_captioner

    if label == "pretrained":
        return pretrained(run)
    if label not in ("fine-tuned", REINFORCED):
        return load_captioner(_checkpoint(run, label))
    captioner = reinforced(run) if label == REINFORCED else fine_tuned(run)
    assert captioner is not None
    return captioner


def _checkpoint(run: Run, label: str) -> str:
    return base_checkpoint(run) if label == "pretrained" else checkpoint(label, "blip")
