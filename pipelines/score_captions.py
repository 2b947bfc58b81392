"""`fcr score-captions`: captioners side by side on articles kept from training, and the audit."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from pipelines import InputError
from pipelines.caption_items import STAGE as CAPTIONS
from pipelines.caption_items import load
from pipelines.catalog import Catalog, fingerprints
from pipelines.config import ScoreConfig
from pipelines.neighbours import NEIGHBOURS, write
from pipelines.reinforce import STAGE as REINFORCE
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.train_captioner import base_checkpoint, known_parts
from pipelines.workspace import read_json, write_json, write_table

if TYPE_CHECKING:
    from caption.audit import Audit
    from caption.categories import LinearProbe
    from caption.metrics import Backend, Score, Unavailable
    from caption.records import CaptionSet

STAGE = "score-captions"
PRETRAINED = "pretrained"
CATALOGUE = "catalogue"
FILE_METRICS = ("bleu", "rouge-l", "cider-d", "meteor")
"""Metrics that need nothing but captions and references."""
SCORES = {
    **dict.fromkeys(("captioner", "metric"), pl.String),
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    **dict.fromkeys(("signature", "unavailable"), pl.String),
}
"""Columns of scores.csv."""
NO_MEANS = ("bleu", "meteor", "distinct")
"""Metrics whose corpus value is no mean of items: an interval of the items' mean is not theirs."""
CATEGORY = "category"
"""Category accuracy: it takes the articles' own types and a classifier of the training texts."""
CLIPSCORE = "clipscore"
NOT_COMPARED = ("bleu-1", "bleu-2", "bleu-3", "length", "distinct", "verbatim")
"""What says no more than BLEU-4 does, or describes captions without saying which are better: every
further comparison costs all of them power."""


def score_captions(run: Run, *, metrics: Sequence[str] | None = None) -> Path:
    """Score the run's captions, the pretrained captioner's and the baselines' on the test part.

    Args:
        run: an open run with captions (`caption_items`).
        metrics: names of caption metrics; None takes the configuration's.

    Returns:
        path of `scores.csv` (captioner, metric, value, low, high, signature, or the reason why it
        is unavailable); beside it per captioner `scores.json` and `caption_scores.parquet`, the
        `captions.parquet` and `references.parquet` they were computed from, `comparisons.json`
        (paired bootstrap of the run's captioner against each other one), `audit.json` and
        `audit.parquet`.

    Raises:
        InputError: no captions yet, unknown metric.
    """
    names = tuple(metrics or run.config.score.metrics)
    written = run.workspace.stage_file(CAPTIONS, "captions.parquet")
    manifest = run.workspace.manifest(CAPTIONS)
    if written is None or manifest is None:
        raise InputError(
            f"run {run.folder.name} has no captions: call `fcr caption-items --run "
            f"{run.folder.name}` first, or score files with --hypotheses and --references"
        )
    settings = {
        "score": {**asdict(run.config.score), "metrics": names},
        "captions": asdict(run.config.captions),
        "generate": asdict(run.config.generate),
    }
    inputs = {
        **fingerprints(run.data, purchases=False),
        "captions": manifest["files"]["captions.parquet"],
        "pretrained": checkpoint_hash(base_checkpoint(run)),
        "java": _java(),
    }
    if CLIPSCORE in names:
        inputs["clip"] = checkpoint_hash(checkpoint(run.config.encoders.clip, "clip"))
    paid = run.workspace.manifest(REINFORCE)
    if paid is not None:
        inputs["reinforced"] = paid["files"]["captions.parquet"]
    trained = run.workspace.manifest(TRAIN)
    if trained is not None:
        inputs["parts"] = trained["files"]["captions.json"]
        del settings["captions"]  # the parts are those of the training
    with run.stage(STAGE, config=settings, inputs=inputs) as stage:
        if not stage.reused:
            _score(run, names, written, stage.folder, stage.record)
        result = stage.path("scores.csv")
        _print_scores(pl.read_csv(result, schema=SCORES))
        for line in stage.record["lines"]:
            run.say(line)
    return result


def score_files(
    hypotheses: Path,
    references: Path,
    *,
    out: Path,
    metrics: Sequence[str] | None = None,
    images: Path | None = None,
    training: Path | None = None,
    backend: Backend = "fcr",
    say: Callable[[str], None] = print,
) -> Path:
    """Score any captions: no run, nothing else of fcr needed.

    Args:
        hypotheses: COCO results JSON (`[{"image_id", "caption"}]`), or CSV/Parquet with an id and
            a text column.
        references: COCO annotations JSON, or CSV/Parquet with an id and a text column.
        out: folder for `scores.json` ({metric: {value, low, high, signature}} or {metric:
            {unavailable: reason}}) and `caption_scores.parquet` (one row an item).
        metrics: names; None takes the defaults.
        images: folder with one photo per id, for metrics that look at it.
        training: file of the texts the captioner learned from, for `verbatim` and `attributes`.
        backend: `pycocoevalcap` runs the original BLEU, ROUGE-L, CIDEr-D and METEOR instead.
        say: receives lines for the user.

    Raises:
        InputError: files that can't be read or don't belong together, unknown metric.
    """
    from caption.metrics import score_captions as measure
    from caption.metrics.files import read_pair, read_references

    pair = read_pair(hypotheses, references, subset=True)
    if pair.excluded:
        some = next(iter(pair.excluded))
        say(f"note: {len(pair.excluded):,} items are left out, e.g. {some}: {pair.excluded[some]}")
    config = ScoreConfig()
    photos = None
    if images is not None:
        if not images.is_dir():
            raise InputError(f"--images {images} is no folder: expected one photo an id in it")
        found = {path.stem: path for path in sorted(images.rglob("*")) if path.is_file()}
        photos = {item: found[item] for item in pair.hypotheses if item in found}
        without = [item for item in pair.hypotheses if item not in photos]
        if without:
            say(
                f"note: {len(without):,} of {len(pair.hypotheses):,} items have no photo in "
                f"{images}, e.g. {without[0]}: metrics that look at it leave them out"
            )
    texts: list[str] = []
    if training is not None:
        texts = [text for own in read_references(training)[0].values() for text in own]
    scores = measure(
        pair.hypotheses,
        pair.references,
        tuple(metrics or FILE_METRICS),
        images=photos,
        training=texts,
        backend=backend,
    )
    _write_scores(out, list(pair.hypotheses), scores, config.bootstrap, seed=0)
    frame = _table({hypotheses.stem: scores}, out.parent, {hypotheses.stem: out})
    _print_scores(frame)
    return out / "scores.json"


def _score(
    run: Run, metrics: Sequence[str], written: Path, folder: Path, record: dict[str, Any]
) -> None:
    from caption.metrics import score_captions as measure

    config, seed = run.config.score, run.config.seed
    catalog = run.catalog(purchases=False)
    parts = known_parts(run, catalog)
    train, test = parts.by_split("train"), parts.by_split("test")
    captions = pl.read_parquet(written)
    label = str(captions["captioner"][0])
    found = {label: _by_id(captions)}
    if label != PRETRAINED:
        found[PRETRAINED] = _by_id(_pretrained(run, test, folder))
    found |= {name: texts for name, texts in _reinforced(run).items() if name not in found}
    ids = [e.id for e in test.examples if any(e.id in texts for texts in found.values())]
    found |= _baselines(run, parts, catalog, ids, label)
    # Silence where a photo could be read is an empty caption, which every metric may punish.
    hypotheses = {name: {i: texts.get(i, "") for i in ids} for name, texts in found.items()}
    by_id = {e.id: list(e.captions) for e in test.examples}
    references = {i: by_id[i] for i in ids}
    training = [text for e in train.examples for text in e.captions]
    photos = {e.id: e.image for e in test.examples if e.image is not None}
    clip = checkpoint(run.config.encoders.clip, "clip")
    scores: dict[str, dict[str, Score | Unavailable]] = {}
    probe = _probe(train) if CATEGORY in metrics else None
    own_metrics = [metric for metric in metrics if metric != CATEGORY]
    for name, texts in hypotheses.items():
        scores[name] = measure(
            texts, references, own_metrics, images=photos, clip=clip, training=training
        )
        if CATEGORY in metrics:
            scores[name] |= _category(texts, references, test, probe)
        _write_scores(folder / name, ids, scores[name], config.bootstrap, seed)
    _write_texts(folder, hypotheses, references)
    write_json(
        folder / "comparisons.json", {"pairs": _compare(label, scores, config.bootstrap, seed)}
    )
    audits = _audit(folder, catalog.articles, captions, hypotheses)
    lines = [
        f"{len(test) - len(ids):,} test articles have no caption from any captioner (their photos "
        "can't be read) and are left out"
    ] * (len(ids) < len(test))
    collapsed = _collapsed(hypotheses)
    record.update(
        captioner=label,
        train=len(train),
        test=len(ids),
        lines=[*lines, *_findings(collapsed, audits)],
        collapsed=collapsed,
    )
    write_table(folder / "scores.csv", _table(scores, folder))


def _category(
    texts: Mapping[str, str],
    references: Mapping[str, Sequence[str]],
    test: CaptionSet,
    probe: LinearProbe | None,
) -> dict[str, Score | Unavailable]:
    """Share of captions from which the classifier reads the article's own type."""
    from caption.metrics import Corpus, Unavailable
    from caption.metrics.attributes import category_accuracy

    if probe is None:
        return {CATEGORY: Unavailable(CATEGORY, "the training part names less than two types")}
    corpus = Corpus(tuple(texts), list(texts.values()), [list(references[i]) for i in texts])
    types = {e.id: e.category for e in test.examples}
    found = category_accuracy(corpus, [types[i] for i in texts], probe)
    return {score.name: score for score in found}


def _probe(train: CaptionSet) -> LinearProbe | None:
    """A classifier of garment types, trained on the human texts of the training part."""
    from caption.categories import LinearProbe

    if len({e.category for e in train.examples}) < 2:
        return None
    return LinearProbe.fit(
        [e.captions[0] for e in train.examples], [e.category for e in train.examples]
    )


def _by_id(captions: pl.DataFrame) -> dict[str, str]:
    return dict(zip(captions["article_id"], captions["caption"], strict=True))


def _pretrained(run: Run, test: CaptionSet, folder: Path) -> pl.DataFrame:
    from caption.generate import caption_catalogue

    settings = run.config.generate
    with run.progress() as progress:
        result = caption_catalogue(
            load(run, PRETRAINED),
            [(e.id, e.image) for e in test.examples if e.image is not None],
            folder / PRETRAINED,
            label=PRETRAINED,
            beams=settings.beams,
            max_new_tokens=settings.max_new_tokens,
            batch_size=settings.batch_size,
            shard_size=settings.shard_size,
            progress=progress,
        )
    return pl.read_parquet(result.captions)


def _reinforced(run: Run) -> dict[str, dict[str, str]]:
    """The test part by the reinforced captioner, its control and what both started from."""
    path = run.workspace.stage_file(REINFORCE, "captions.parquet")
    if path is None:
        return {}
    said = pl.read_parquet(path).partition_by("captioner", as_dict=True, maintain_order=True)
    return {str(name): _by_id(own) for (name,), own in said.items()}


def _baselines(
    run: Run, parts: CaptionSet, catalog: Catalog, ids: Sequence[str], own: str
) -> dict[str, dict[str, str]]:
    """Captioners without a language model: on small data they are the bar to beat."""
    from caption.baselines import most_frequent

    train, test = parts.by_split("train"), parts.by_split("test")
    wanted = run.config.score.baselines
    found: dict[str, dict[str, str]] = {}
    texts = [e.captions[0] for e in train.examples]
    if "most-frequent" in wanted:
        found["most-frequent"] = most_frequent(texts, ids)
    photos = {e.id: e.image for e in test.examples}
    items = [(i, photo) for i in ids if (photo := photos[i]) is not None]
    for name in NEIGHBOURS:
        if name in wanted and name != own:
            written = write(run, name, items, parts, catalog)
            found[name] = {i: text for i, (text, _) in written.captions.items()}
    return found


def _write_scores(
    folder: Path,
    ids: Sequence[str],
    scores: Mapping[str, Score | Unavailable],
    resamples: int,
    seed: int,
) -> None:
    """`scores.json` and `caption_scores.parquet`; intervals for metrics that are item means."""
    from caption.metrics import Unavailable
    from recsys.significance import bootstrap_mean

    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, Any]] = {}
    columns: dict[str, Any] = {"article_id": list(ids)}
    for name, score in scores.items():
        if isinstance(score, Unavailable):
            found[name] = {"unavailable": score.reason}
            continue
        entry: dict[str, Any] = {"value": score.value, "signature": score.signature}
        if score.per_item is not None:
            columns[name] = score.per_item
            if not name.startswith(NO_MEANS):
                interval = bootstrap_mean(score.per_item, seed=seed, n_resamples=resamples)
                entry |= {"low": interval.low, "high": interval.high}
        found[name] = {"low": None, "high": None, **entry}
    write_json(folder / "scores.json", found)
    write_table(folder / "caption_scores.parquet", pl.DataFrame(columns))


def _table(
    scores: Mapping[str, Mapping[str, Score | Unavailable]],
    folder: Path,
    folders: Mapping[str, Path] | None = None,
) -> pl.DataFrame:
    """The rows of scores.csv, read back from what was written."""
    rows: list[dict[str, Any]] = []
    for captioner in scores:
        place = (folders or {}).get(captioner, folder / captioner)
        written = read_json(place / "scores.json") or {}
        for metric in scores[captioner]:
            rows.append({"captioner": captioner, "metric": metric, **written[metric]})
    return pl.DataFrame(rows, schema=SCORES)


def _write_texts(
    folder: Path,
    hypotheses: Mapping[str, Mapping[str, str]],
    references: Mapping[str, Sequence[str]],
) -> None:
    said = [(i, text, name) for name, texts in hypotheses.items() for i, text in texts.items()]
    columns = ["article_id", "caption", "captioner"]
    write_table(folder / "captions.parquet", pl.DataFrame(said, columns, orient="row"))
    meant = [(i, text) for i, texts in references.items() for text in texts]
    write_table(
        folder / "references.parquet",
        pl.DataFrame(meant, ["article_id", "reference"], orient="row"),
    )


def _compare(
    label: str,
    scores: Mapping[str, Mapping[str, Score | Unavailable]],
    resamples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """The run's captioner against each other one, item by item; all p-values corrected together."""
    from caption.metrics.compare import adjust, compare_captioners

    own = {m: score for m, score in scores[label].items() if not m.startswith(NOT_COMPARED)}
    pairs: list[dict[str, Any]] = []
    for other in scores:
        if other == label:
            continue
        for found in compare_captioners(
            own, scores[other], seed=seed, n_resamples=resamples, correction="none"
        ):
            pairs.append(
                {
                    "captioner": label,
                    "against": other,
                    "metric": found.metric,
                    "difference": found.difference,
                    "low": found.low,
                    "high": found.high,
                    "p": found.p_value,
                    "n": found.n,
                }
            )
    adjusted = adjust([pair["p"] for pair in pairs], "holm")
    return [{**pair, "p_adjusted": float(p)} for pair, p in zip(pairs, adjusted, strict=True)]


def _audit(
    folder: Path,
    articles: pl.DataFrame,
    captions: pl.DataFrame,
    hypotheses: Mapping[str, Mapping[str, str]],
) -> dict[str, Audit]:
    """Every captioner on the test part, and the run's captions of the whole catalogue."""
    from caption.audit import audit_captions

    audits = {}
    for name, texts in hypotheses.items():
        own = pl.DataFrame({"article_id": list(texts), "caption": list(texts.values())})
        audits[name] = audit_captions(own, articles)
    audits[CATALOGUE] = audit_captions(captions.select("article_id", "caption"), articles)
    write_json(folder / "audit.json", {name: _rates(audit) for name, audit in audits.items()})
    frames = [
        audit.per_item.with_columns(pl.lit(name).alias("captioner"))
        for name, audit in audits.items()
    ]
    write_table(folder / "audit.parquet", pl.concat(frames))
    return audits


def _rates(audit: Audit) -> dict[str, dict[str, dict[str, float | None]]]:
    """The audit's rates for JSON, which has no NaN: a share of nothing is null."""
    return {
        field: {
            verdict: {key: None if math.isnan(x) else x for key, x in rate.items()}
            for verdict, rate in rates.items()
        }
        for field, rates in audit.rates.items()
    }


def _collapsed(hypotheses: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Captioners that say the same few things whatever they are shown, and how few."""
    from caption.audit import collapse

    found = {name: collapse(texts.values()) for name, texts in hypotheses.items()}
    # The most frequent text is one by definition.
    return {n: str(c) for n, c in found.items() if c.collapsed and n != "most-frequent"}


def _findings(collapsed: Mapping[str, str], audits: Mapping[str, Audit]) -> Iterable[str]:
    for name, varied in collapsed.items():
        yield f"warning: {name} is {varied}"
    for field, rates in audits[CATALOGUE].rates.items():
        wrong = rates["contradicting"]
        if not wrong["n"]:
            continue
        yield (
            f"audit of {int(wrong['n']):,} captions, {field}: {rates['right']['value']:.1%} right, "
            f"{rates['silent']['value']:.1%} silent, {wrong['value']:.1%} contradicting "
            f"[{wrong['low']:.1%}, {wrong['high']:.1%}]"
        )


def _print_scores(scores: pl.DataFrame) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    captioners = list(dict.fromkeys(scores["captioner"]))
    table = Table("metric", *captioners, box=box.SIMPLE_HEAD)
    for (metric,), rows in scores.group_by(["metric"], maintain_order=True):
        cells = {row["captioner"]: row["value"] for row in rows.iter_rows(named=True)}
        values = (cells[name] for name in captioners)
        table.add_row(str(metric), *("n/a" if v is None else f"{v:.3f}" for v in values))
    console = Console()
    console.print(table)
    for metric, reason in (
        scores.filter(pl.col("unavailable").is_not_null())
        .select("metric", "unavailable")
        .unique(maintain_order=True)
        .iter_rows()
    ):
        console.print(f"{metric} is unavailable: {reason}", style="dim")


def _java() -> str:
    """Part of the key: with Java there are more metrics, and the tokenizer is another one."""
    import shutil

    return str(shutil.which("java") is not None)
