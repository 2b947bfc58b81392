"""`fcr reinforce-captioner`: the run's fine-tuned captioner goes on, paid for what it says.

Beside it a control goes on from the same weights for as many steps by maximum likelihood alone, so
that what the reward did stands apart from what more training does.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from pipelines import InputError
from pipelines.catalog import fingerprints
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.train_captioner import fine_tuned, known_parts
from pipelines.workspace import file_sha256, read_json, write_json, write_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caption.captioners import Captioner
    from caption.records import CaptionExample, CaptionSet
    from caption.reinforce import ReinforceConfig, ReinforceResult

STAGE = "reinforce-captioner"
START, CONTROL, REINFORCED = "fine-tuned", "mle-control", "reinforced"
"""The captioner it starts from, the one that goes on without a reward, and the result."""
FINISHED = "finished.json"
"""In the control's folder: what it was trained for, and the digests of its files."""


def reinforce_captioner(run: Run) -> Path:
    """Fine-tune the run's captioner on `reinforce.rewards`, and a control without them.

    Returns:
        folder of the reinforced captioner (`model/`); beside it `history.csv`, the control's in
        `control/`, `captions.parquet` (article_id, caption, captioner: of the test part, by the
        start, the control and the result) and `comparison.json` (what they are worth, and paired
        bootstrap intervals of the differences).

    Raises:
        InputError: no fine-tuned captioner, a setting that cannot work.
    """
    from caption.captioners import load_captioner
    from caption.reinforce import reinforce
    from caption.train import PHOTOS

    trained = run.workspace.manifest(TRAIN)
    if trained is None:
        raise InputError(
            f"run {run.folder.name} has no fine-tuned captioner to go on from: call `fcr "
            f"train-captioner --run {run.folder.name}` first"
        )
    config = replace(run.config.reinforce, seed=run.config.seed)
    clip = checkpoint(run.config.encoders.clip, "clip")
    settings = {
        "reinforce": asdict(config),
        "generate": asdict(run.config.generate),
        "bootstrap": run.config.score.bootstrap,
    }
    inputs = {
        **fingerprints(run.data, purchases=False),
        "captioner": trained["key"],
        "clip": checkpoint_hash(clip),
    }
    with run.stage(STAGE, config=settings, inputs=inputs) as stage:
        if stage.reused:
            for line in stage.record["lines"]:
                run.say(line)
            return stage.path("model")
        watching = _clip(run, clip, config)
        catalog = run.catalog(purchases=False)
        parts = known_parts(run, catalog)
        train, validation, test = (parts.by_split(p) for p in ("train", "validation", "test"))
        paid = " + ".join(f"{weight:g} {name}" for name, weight in config.rewards.items())
        run.say(
            f"reinforcing on {len(train):,} articles: {config.steps} steps of {config.batch_size} "
            f"photos, {config.samples} captions each, reward {paid}"
        )

        photos = stage.path(PHOTOS)  # read once for both

        def go_on(folder: Path, config: ReinforceConfig) -> ReinforceResult:
            with run.progress() as progress:
                return reinforce(
                    _start(run),
                    train,
                    validation,
                    folder,
                    config,
                    articles=catalog.articles,
                    clip=watching,
                    photos=photos,
                    progress=progress,
                )

        control = stage.path("control")
        # A call killed later on finds the control finished, and whole.
        if read_json(control / FINISHED) != {"key": stage.key, "files": _digests(control)}:
            go_on(control, replace(config, policy_weight=0.0, mle_weight=1.0))
            write_json(control / FINISHED, {"key": stage.key, "files": _digests(control)})
        result = go_on(stage.folder, config)
        shutil.rmtree(photos, ignore_errors=True)
        if result.resumed_from:
            run.say(f"went on from step {result.resumed_from} of an interrupted run")
        loading = trained["record"].get("loading", {})
        _describe(run, _start(run), START, test, stage.folder)
        for name, folder in ((CONTROL, control), (REINFORCED, stage.folder)):
            captioner = load_captioner(folder / "model", **loading)
            _describe(run, captioner, name, test, stage.folder)
        said = _gather(stage.folder)
        write_table(stage.path("captions.parquet"), said)
        comparison = _compare(run, said, train, test, catalog.articles, watching, config)
        write_json(stage.path("comparison.json"), comparison)
        lines = [
            *(f"warning: the monitor says: {said}" for said in result.alarms),
            *([f"warning: stopped early: {result.stopped}"] if result.stopped else []),
            *_findings(comparison),
        ]
        stage.record.update(
            lines=lines,
            loading=loading,
            trainable=result.trainable,
            total=result.total,
            steps=result.steps,
            best_step=result.best_step,
            first_reward=result.first_reward,
            best_reward=result.best_reward,
            stopped=result.stopped,
            alarms=list(result.alarms),
            test=comparison["n"],
        )
        run.say(
            f"validation reward {result.first_reward:.3f} -> {result.best_reward:.3f} "
            f"(step {result.best_step} of {result.steps})"
        )
        for line in lines:
            run.say(line)
        return result.saved


def reinforced(run: Run) -> Captioner | None:
    """The run's reinforced captioner, its files checked; None where there is none."""
    from caption.captioners import load_captioner

    manifest = run.workspace.manifest(STAGE)
    if manifest is None:
        return None
    for name in manifest["files"]:
        if name.startswith("model/"):
            run.workspace.stage_file(STAGE, name)
    loading = manifest["record"].get("loading", {})
    return load_captioner(run.folder / STAGE / "model", **loading)


def _clip(run: Run, name: str, config: ReinforceConfig) -> str | None:
    """The CLIP that watches; None, and said so, where it can't be had and no reward asks it."""
    from caption.metrics.clipscore import load_clip

    try:
        load_clip(name)
    except OSError as error:
        said = str(error).splitlines()[0]
        if "clipscore" in config.rewards:
            raise InputError(f"reward clipscore: CLIP {name} can't be loaded ({said})") from error
        run.say(f"note: the monitor does without CLIPScore: {name} can't be loaded ({said})")
        return None
    return name


def _start(run: Run) -> Captioner:
    captioner = fine_tuned(run)
    assert captioner is not None
    return captioner


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): file_sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != FINISHED
    }


def _describe(run: Run, captioner: Captioner, name: str, test: CaptionSet, folder: Path) -> None:
    """Captions of the test part, written as the run's catalogue is."""
    from caption.generate import caption_catalogue

    settings = run.config.generate
    with run.progress() as progress:
        caption_catalogue(
            captioner,
            [(e.id, e.image) for e in test.examples if e.image is not None],
            folder / "captions" / name,
            label=name,
            beams=settings.beams,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            shard_size=settings.shard_size,
            progress=progress,
        )


def _gather(folder: Path) -> pl.DataFrame:
    """One table of all captions; the folders they were written into are no longer needed."""
    frames = [
        pl.read_parquet(folder / "captions" / name / "captions.parquet").select(
            "article_id", "caption", "captioner"
        )
        for name in (START, CONTROL, REINFORCED)
    ]
    shutil.rmtree(folder / "captions")
    return pl.concat(frames)


def _compare(
    run: Run,
    said: pl.DataFrame,
    train: CaptionSet,
    test: CaptionSet,
    articles: pl.DataFrame,
    clip: str | None,
    config: ReinforceConfig,
) -> dict[str, Any]:
    """Every measure of every captioner, and its differences, article by article."""
    from recsys.significance import bootstrap_mean, holm, paired_bootstrap

    texts: dict[str, dict[str, str]] = {name: {} for name in (START, CONTROL, REINFORCED)}
    for article_id, caption, name in said.iter_rows():
        texts[name][article_id] = caption
    examples = [e for e in test.examples if any(e.id in own for own in texts.values())]
    measured = {
        name: _measures([own.get(e.id, "") for e in examples], examples, train, articles, clip,
                        config)
        for name, own in texts.items()
    }  # fmt: skip
    settings: dict[str, Any] = {
        "seed": run.config.seed,
        "n_resamples": run.config.score.bootstrap,
    }
    values: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for name, own in measured.items():
        for measure, per_item in own.items():
            found = bootstrap_mean(per_item, **settings)
            values.append(
                {"captioner": name, "measure": measure, "value": found.estimate}
                | {"low": found.low, "high": found.high}
            )
    for name, against in ((REINFORCED, START), (REINFORCED, CONTROL), (CONTROL, START)):
        for measure, per_item in measured[name].items():
            pair = paired_bootstrap(per_item, measured[against][measure], **settings)
            differences.append(
                {"captioner": name, "against": against, "measure": measure}
                | {"difference": pair.estimate, "low": pair.low, "high": pair.high}
                | {"p": pair.p_value}
            )
    adjusted = holm([d["p"] for d in differences])
    for each, p in zip(differences, adjusted, strict=True):
        each["p_adjusted"] = float(p)
    return {"n": len(examples), "values": values, "differences": differences}


def _measures(
    captions: Sequence[str],
    examples: Sequence[CaptionExample],
    train: CaptionSet,
    articles: pl.DataFrame,
    clip: str | None,
    config: ReinforceConfig,
) -> dict[str, NDArray[np.float64]]:
    """Measure -> float64 (n,): the reward and its parts, what it left out, the audit's verdicts."""
    from caption.audit import audit_captions
    from caption.rewards import build_rewards, weighted_sum
    from caption.vocabulary import FIELDS

    names = dict.fromkeys((*config.rewards, "cider-d", *(["clipscore"] if clip else [])))
    rewards = build_rewards(
        list(names), examples, train.examples, articles=articles, clip=clip,
        min_count=config.min_count,
    )  # fmt: skip
    rows = range(len(examples))
    parts = {name: reward(captions, rows) for name, reward in rewards.items()}
    found = {"reward": weighted_sum(parts, config.rewards), **parts}
    found["words"] = np.array([float(len(text.split())) for text in captions])
    if not {c for field in FIELDS.values() for c in field.columns} <= set(articles.columns):
        return found  # a table without the fields that are audited
    ids = [e.id for e in examples]
    audit = audit_captions(pl.DataFrame({"article_id": ids, "caption": captions}), articles)
    shares = pl.DataFrame({"article_id": ids}).join(
        audit.per_item.group_by("article_id").agg(
            (pl.col("verdict") == verdict).mean().alias(verdict)
            for verdict in ("right", "contradicting")
        ),
        on="article_id",
        how="left",
        maintain_order="left",
    )
    found["audit right"] = shares["right"].to_numpy()
    found["audit contradicting"] = shares["contradicting"].to_numpy()
    # Nothing can be said of what no article claims.
    return {name: values for name, values in found.items() if not np.isnan(values).all()}


def _findings(comparison: Mapping[str, Any]) -> list[str]:
    lines: list[str] = []
    for measure in ("reward", "audit right", "audit contradicting"):
        for against in (START, CONTROL):
            lines += [
                f"{measure}, {REINFORCED} - {against}: {d['difference']:+.3f} "
                f"[{d['low']:+.3f}, {d['high']:+.3f}] over {comparison['n']:,} articles"
                for d in comparison["differences"]
                if (d["captioner"], d["against"], d["measure"]) == (REINFORCED, against, measure)
            ]
    return lines
