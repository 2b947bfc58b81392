"""`fcr recommend`: split purchases by time, fit every row, rank the catalogue, measure per user.

Rows that read no text run once (setting "-"); rows that do run once for each text setting, with
everything else unchanged, so that the difference between two settings is what the words did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import InputError
from pipelines.augment import article_texts
from pipelines.catalog import Catalog, fingerprints
from pipelines.config import ROWS, RecommendConfig
from pipelines.run import Run, checkpoint, checkpoint_hash
from pipelines.workspace import write_json, write_table

if TYPE_CHECKING:
    from recsys.encoders import Embeddings
    from recsys.interactions import Interactions
    from recsys.recommenders.base import Recommender
    from recsys.splits import Split

TEXT_ROWS = ("tfidf", "sbert", "resbert", "clip")
ENCODED_BY = {
    "sbert": ("sbert",),
    "resnet": ("resnet",),
    "resbert": ("resnet", "sbert"),
    "clip": ("clip",),
    "hog": (),
}
"""Row -> the encoders of the configuration that it needs."""
NO_TEXT = "-"
METRICS = ("ndcg", "map")
USERS_A_BLOCK = 4096
DIFFERENCES = {
    **dict.fromkeys(("recommender", "setting", "against", "metric"), pl.String),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "detectable"), pl.Float64),
    "n_users": pl.Int64,
}
"""Columns of differences.csv."""


@dataclass(frozen=True)
class _Row:
    """One line of the table: a recommender under a text setting."""

    name: str
    setting: str
    recommender: Recommender
    note: str = ""


def recommend(
    run: Run,
    *,
    models: Sequence[str] = (),
    text: Sequence[str] = (),
    exclude_seen: bool | None = None,
) -> Path:
    """Benchmark the rows `models` on the run's purchases.

    Args:
        run: an open run.
        models: rows; empty takes the configuration's, `all` every one.
        text: settings of the article text; empty takes the configuration's.
        exclude_seen: leave bought articles out of the lists; None takes the configuration's.

    Returns:
        path of `metrics.csv` (recommender, setting, metric, k, value, low, high, n_users,
        signature); beside it `recommendations.parquet`, `user_metrics.parquet`,
        `differences.csv` and `split.json`.

    Raises:
        InputError: bad tables, an empty test window, a checkpoint that can't be loaded.
    """
    config = run.config.recommend
    if models:
        config = replace(config, models=ROWS if "all" in models else tuple(models))  # type: ignore[arg-type]
    if text:
        config = replace(config, text=tuple(text))  # type: ignore[arg-type]
    if exclude_seen is not None:
        config = replace(config, exclude_seen=exclude_seen)
    if config.list_length < max(config.k):
        raise InputError(
            f"recommend.list_length is {config.list_length} and recommend.k asks for "
            f"{max(config.k)}: lists have to be at least as long"
        )
    captions_file = run.workspace.stage_file("caption-items", "captions.parquet")
    if captions_file is None and any(s != "original" for s in config.text):
        if set(config.models) & set(TEXT_ROWS):
            run.say(
                "note: this run has no captions yet, so articles keep their original text; "
                "write some with `fcr train-captioner` and `fcr caption-items`"
            )
        config = replace(config, text=("original",))
    inputs = fingerprints(run.data)
    if captions_file is not None:
        manifest = run.workspace.manifest("caption-items")
        assert manifest is not None
        inputs["captions.parquet"] = manifest["files"]["captions.parquet"]
    names = asdict(run.config.encoders)
    for family in sorted({f for name in config.models for f in ENCODED_BY.get(name, ())}):
        inputs[f"encoder {family}"] = checkpoint_hash(checkpoint(names[family], family))
    settings = {"recommend": asdict(config), "encoders": names}
    with run.workspace.stage(
        "recommend", config=settings, inputs=inputs, seed=run.config.seed, say=run.say
    ) as stage:
        result = stage.path("metrics.csv")
        if not stage.reused:
            _benchmark(run, config, captions_file, stage.folder, stage.record)
        _print_table(pl.read_csv(result), stage.record)
    return result


def _benchmark(
    run: Run,
    config: RecommendConfig,
    captions_file: Path | None,
    folder: Path,
    record: dict[str, Any],
) -> None:
    catalog = run.catalog()
    split = _split(catalog, config)
    for line in split.report.lines():
        run.say(line)
    users = np.flatnonzero(np.diff(split.test.indptr)).astype(np.int32)
    seen = "excluded" if config.exclude_seen else "kept"
    protocol = (
        f"split:{split.report.method}|candidates:{split.train.n_items} articles, cold kept"
        f"|seen:{seen}|seed:{run.config.seed}"
    )
    record.update(protocol=protocol, findings=[str(f) for f in catalog.findings])
    write_json(folder / "split.json", split.report.as_dict())
    metrics: list[dict[str, Any]] = []
    per_user: list[pl.DataFrame] = []
    lists: list[pl.DataFrame] = []
    notes: list[str] = []
    for row in _rows(run, config, catalog, captions_file):
        run.say(_label(row.name, row.setting))
        row.recommender.fit(split.train)
        with run.progress() as progress:
            ranked = _rank(row.recommender, users, config, partial(progress, row.name))
        found, frame = _measure(row, ranked, split, users, config, run.config.seed, protocol)
        metrics += found
        per_user.append(frame)
        lists.append(_as_frame(row, ranked, split.train, users))
        if row.note:
            notes.append(row.note)
            run.say(f"note: {row.note}")
    record["notes"] = notes
    user_metrics = pl.concat(per_user)
    write_table(folder / "recommendations.parquet", pl.concat(lists))
    write_table(folder / "user_metrics.parquet", user_metrics)
    write_table(folder / "differences.csv", _differences(user_metrics, config, run.config.seed))
    write_table(folder / "metrics.csv", pl.DataFrame(metrics))


def _split(catalog: Catalog, config: RecommendConfig) -> Split:
    from recsys.interactions import Interactions
    from recsys.splits import split_global_time

    interactions = Interactions.from_frame(
        catalog.purchases,
        user="customer_id",
        item="article_id",
        time="t_dat",
        item_ids=catalog.articles["article_id"],
    )
    return split_global_time(interactions, last_days=config.test_days)


def _rows(
    run: Run, config: RecommendConfig, catalog: Catalog, captions_file: Path | None
) -> Iterator[_Row]:
    """Rows in the table's order; vectors are encoded here, cached by content."""
    from recsys.recommenders import RECOMMENDERS

    captions: dict[str, str] = {}
    if captions_file is not None:
        frame = pl.read_parquet(captions_file)
        captions = dict(zip(frame["article_id"], frame["caption"], strict=True))
    own = {
        "random": {"seed": run.config.seed},
        "userknn": {"k": config.userknn_neighbours},
        "itemknn": {"k": config.itemknn_neighbours},
    }
    described = catalog.articles["detail_desc"].to_list()
    ids = catalog.articles["article_id"].to_list()
    photos = catalog.photos()
    for name in config.models:
        if name in RECOMMENDERS:
            yield _Row(name, NO_TEXT, RECOMMENDERS[name](**own.get(name, {})))
            continue
        for setting in config.text if name in TEXT_ROWS else (NO_TEXT,):
            texts = None if setting == NO_TEXT else article_texts(ids, described, captions, setting)
            yield _content_row(run, name, setting, texts, photos)


def _content_row(
    run: Run,
    name: str,
    setting: str,
    texts: list[str | None] | None,
    photos: list[Path | None],
) -> _Row:
    from recsys.recommenders.content import ContentRecommender, tfidf_vectors

    if name == "tfidf":
        assert texts is not None
        vectors, valid = tfidf_vectors(texts)
        signature = "tfidf"
        details = ""
    else:
        found = embed(run, name, texts, None if name == "sbert" else photos)
        vectors, valid, signature = found.vectors, found.valid, found.signature
        unreadable = found.counts["unreadable_image"]
        details = f"; {unreadable:,} photos can't be read" if unreadable else ""
    row = ContentRecommender(vectors, valid, encoder=signature)
    missing = row.n_without_vector
    note = (
        f"{_label(name, setting)}: {missing:,} of {len(photos):,} articles have no vector and are "
        f"never recommended by this row{details}"
        if missing
        else ""
    )
    return _Row(name, setting, row, note)


def _label(name: str, setting: str) -> str:
    return name if setting == NO_TEXT else f"{name} ({setting})"


def embed(
    run: Run,
    encoder: str,
    texts: list[str | None] | None,
    photos: list[Path | None] | None,
) -> Embeddings:
    """Vectors of texts and photos by the run's checkpoint of `encoder`, from its cache."""
    from recsys.encoders import encode

    names = run.config.encoders
    # A demo checkpoint has to be asked for: the encoders' own defaults are names on the hub.
    checkpoints = {
        family: checkpoint(getattr(names, family), family)
        for family in ENCODED_BY.get(encoder, (encoder.partition("-")[0],))
    }
    with run.progress() as progress:
        return encode(
            encoder,
            texts,
            photos,
            checkpoints=checkpoints,
            cache=run.workspace.cache / "embeddings",
            batch_size=names.batch_size,
            progress=lambda what, done, total: progress(f"embedding {what}", done, total),
        )


def _rank(
    recommender: Recommender,
    users: NDArray[np.int32],
    config: RecommendConfig,
    progress: Callable[[int, int], None],
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    blocks = []
    for start in range(0, len(users), USERS_A_BLOCK):
        block = users[start : start + USERS_A_BLOCK]
        blocks.append(
            recommender.recommend(block, config.list_length, exclude_seen=config.exclude_seen)
        )
        progress(start + len(block), len(users))
    return np.concatenate([b[0] for b in blocks]), np.concatenate([b[1] for b in blocks])


def _measure(
    row: _Row,
    ranked: tuple[NDArray[np.int32], NDArray[np.float32]],
    split: Split,
    users: NDArray[np.int32],
    config: RecommendConfig,
    seed: int,
    protocol: str,
) -> tuple[list[dict[str, Any]], pl.DataFrame]:
    from recsys.metrics import score_lists
    from recsys.significance import bootstrap_mean

    scores = score_lists(ranked[0], split.test.matrix[users], METRICS, config.k)
    table = []
    for score in scores.values():
        assert score.per_user is not None
        interval = bootstrap_mean(score.per_user, seed=seed, n_resamples=config.bootstrap)
        table.append(
            {
                "recommender": row.name,
                "setting": row.setting,
                "metric": score.name,
                "k": score.k,
                "value": score.value,
                "low": interval.low,
                "high": interval.high,
                "n_users": score.n_users,
                "signature": f"{score.signature}|{row.recommender.signature}|{protocol}",
            }
        )
    frame = pl.DataFrame(
        {
            "user_id": split.train.user_ids.gather(users),
            "recommender": [row.name] * len(users),
            "setting": [row.setting] * len(users),
            **{name: score.per_user for name, score in scores.items()},
        }
    )
    return table, frame


def _as_frame(
    row: _Row,
    ranked: tuple[NDArray[np.int32], NDArray[np.float32]],
    train: Interactions,
    users: NDArray[np.int32],
) -> pl.DataFrame:
    items, scores = ranked
    at = np.nonzero(items >= 0)
    return pl.DataFrame(
        {
            "user_id": train.user_ids.gather(users[at[0]]),
            "rank": (at[1] + 1).astype(np.int32),
            "article_id": train.item_ids.gather(items[at]),
            "score": scores[at],
        }
    ).with_columns(pl.lit(row.name).alias("recommender"), pl.lit(row.setting).alias("setting"))


def _differences(user_metrics: pl.DataFrame, config: RecommendConfig, seed: int) -> pl.DataFrame:
    """Every later text setting against the first, per row and metric, with Holm's correction."""
    from recsys.significance import holm, paired_bootstrap

    found: list[dict[str, Any]] = []
    names = [f"{metric}@{k}" for metric in METRICS for k in config.k]
    for (name,), rows in user_metrics.group_by(["recommender"], maintain_order=True):
        parts = dict(rows.partition_by("setting", as_dict=True, maintain_order=True))
        (first,), *others = parts
        for (other,) in others:
            for metric in names:
                difference = paired_bootstrap(
                    parts[(other,)][metric],
                    parts[(first,)][metric],
                    seed=seed,
                    n_resamples=config.bootstrap,
                )
                found.append(
                    {
                        "recommender": name,
                        "setting": other,
                        "against": first,
                        "metric": metric,
                        "difference": difference.estimate,
                        "low": difference.low,
                        "high": difference.high,
                        "p": difference.p_value,
                        "detectable": difference.detectable,
                        "n_users": difference.n,
                    }
                )
    if not found:
        return pl.DataFrame(schema=DIFFERENCES)
    frame = pl.DataFrame(found)
    return frame.with_columns(pl.Series("p_holm", holm(frame["p"].to_numpy()))).select(*DIFFERENCES)


def _print_table(metrics: pl.DataFrame, record: dict[str, Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(zip(metrics["metric"], metrics["k"], strict=True)))
    table = Table("row", "text", *(f"{m.upper()}@{k}" for m, k in names), box=box.SIMPLE_HEAD)
    for (name, setting), rows in metrics.group_by(["recommender", "setting"], maintain_order=True):
        cells = {(r["metric"], r["k"]): r for r in rows.iter_rows(named=True)}
        table.add_row(str(name), str(setting), *(_cell(**cells[n]) for n in names))
    console = Console()
    console.print(table)
    console.print(
        f"{record['protocol']}; ± is half the 95 % bootstrap interval over users", style="dim"
    )


def _cell(*, value: float, low: float, high: float, **_: object) -> str:
    """A value and half its interval in eleven characters, so that the table fits a terminal."""
    return "±".join(f"{x:.4f}".removeprefix("0") for x in (value, (high - low) / 2))
