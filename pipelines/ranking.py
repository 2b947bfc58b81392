"""What every benchmark does with its rows: fit, rank the catalogue, measure per user, write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import InputError
from pipelines.config import RecommendConfig
from pipelines.run import Run
from pipelines.workspace import write_json, write_table

if TYPE_CHECKING:
    from recsys.interactions import Interactions
    from recsys.metrics import Score
    from recsys.recommenders.base import Recommender
    from recsys.splits import Split

Ranked = tuple[NDArray[np.int32], NDArray[np.float32]]

NO_TEXT = "-"
"""Setting of a row that reads no text."""
USERS_A_BLOCK = 4096
WORTH_WORKERS = 10.0
"""Seconds that this process would still compute, from which an engine's workers are started."""
METRICS = {
    **dict.fromkeys(("recommender", "setting", "metric"), pl.String),
    "k": pl.Int64,
    **dict.fromkeys(("value", "low", "high"), pl.Float64),
    "n_users": pl.Int64,
    "signature": pl.String,
}
"""Columns of metrics.csv."""
SLICES = {
    **dict.fromkeys(("recommender", "setting", "slice", "metric"), pl.String),
    "k": pl.Int64,
    **dict.fromkeys(("value", "standard_error"), pl.Float64),
    "n_users": pl.Int64,
    "signature": pl.String,
}
"""Columns of slices.csv."""
DIFFERENCES = {
    **dict.fromkeys(("recommender", "setting", "against", "metric"), pl.String),
    **dict.fromkeys(("difference", "low", "high", "p", "p_holm", "detectable"), pl.Float64),
    "n_users": pl.Int64,
}
"""Columns of differences.csv."""


@dataclass(frozen=True)
class Row:
    """One line of the table: a recommender under a text setting."""

    name: str
    setting: str
    recommender: Recommender
    note: str = ""

    @property
    def label(self) -> str:
        return self.name if self.setting == NO_TEXT else f"{self.name} ({self.setting})"


def benchmark(
    run: Run,
    config: RecommendConfig,
    split: Split,
    rows: Iterable[Row],
    *,
    folder: Path,
    record: dict[str, Any],
    items: str = "articles",
    vectors: NDArray[np.float32] | None = None,
) -> None:
    """Fit and measure every row; write the artefacts of `fcr recommend` into `folder`.

    Args:
        run: for its seed, its progress bars and `say`.
        config: metrics, cut-offs, list length, bootstrap.
        split: what to learn from and what to predict.
        rows: drawn one at a time, so that one row's vectors are held at a time.
        folder: gets split.json, recommendations.parquet, user_metrics.parquet, slices.csv,
            differences.csv and metrics.csv.
        record: gets "protocol" and "notes".
        items: what an item is called.
        vectors: (n_items, dim) float32, where `diversity` is measured.
    """
    users = split.test_users
    dropped, how = config.split.drop_cold, config.split
    filters = {"core": how.core, "min_user": how.min_user, "min_item": how.min_item}
    kept = ",".join(f"{name}={n}" for name, n in filters.items() if n > 1 or (name == "core" and n))
    protocol = (
        f"split:{split.report.method}|candidates:{split.train.n_items} {items}, cold kept"
        f"|seen:{'excluded' if config.exclude_seen else 'kept'}|seed:{run.config.seed}"
        + (f"|cold test {'users and items' if dropped == 'both' else dropped} left out")
        * (dropped != "no")
        + f"|kept:{kept}" * bool(kept)
        + f"|dates:{how.first or ''}..{how.last or ''}" * bool(how.first or how.last)
    )
    record["protocol"] = protocol
    cutoff = None if split.cutoff is None else split.cutoff.isoformat()
    write_json(folder / "split.json", {**split.report.as_dict(), "cutoff": cutoff})
    per_user: list[pl.DataFrame] = []
    lists: list[pl.DataFrame] = []
    metrics: list[dict[str, Any]] = []
    slices: list[dict[str, Any]] = []
    notes: list[str] = []
    for row in rows:
        run.say(row.label)
        row.recommender.fit(split.train)
        with run.progress() as progress:
            ranked = _rank(run, row.recommender, users, config, partial(progress, row.name))
        scores = _scores(ranked[0], split, users, config, vectors)
        about = {"recommender": row.name, "setting": row.setting}
        end = f"|{row.recommender.signature}|{protocol}"
        for score in scores.values():
            measured = measured_row(score, seed=run.config.seed, resamples=config.bootstrap)
            signature = measured["signature"] + end
            metrics.append({**about, **measured, "signature": signature})
        slices += [{**about, **found} for found in _slices(ranked[0], split, users, config, end)]
        ids = split.train.user_ids.gather(users).alias("user_id").to_frame()
        own = (pl.Series(n, s.per_user) for n, s in scores.items() if s.per_user is not None)
        per_user.append(ids.with_columns(**_constants(about)).with_columns(*own))
        lists.append(_as_frame(about, ranked, split.train, users))
        for note in (row.note, _recall(row)):
            if note:
                notes.append(note)
                run.say(f"note: {note}")
    record["notes"] = notes
    user_metrics = pl.concat(per_user)
    write_table(folder / "recommendations.parquet", pl.concat(lists))
    write_table(folder / "user_metrics.parquet", user_metrics)
    write_table(folder / "slices.csv", pl.DataFrame(slices, schema=SLICES))
    write_table(folder / "differences.csv", _differences(user_metrics, config, run.config.seed))
    write_table(folder / "metrics.csv", pl.DataFrame(metrics, schema=METRICS))


def _recall(row: Row) -> str:
    """What an approximate search of the row found of the exact lists; "" of an exact one."""
    index = getattr(row.recommender, "index", None)
    found = "; ".join(
        f"{method} found {share:.1%} of the exact lists of a sample of customers"
        for method, share in getattr(index, "recall", {}).items()
    )
    return found and f"{row.label}: the search is approximate: {found}"


def measured_part(split: Split, config: RecommendConfig) -> Split:
    """The split as it is measured: cold ones dropped, or the validation part as the test."""
    from recsys.splits import drop_cold, make_split

    dropped = config.split.drop_cold
    if dropped != "no":
        users, items = dropped in ("users", "both"), dropped in ("items", "both")
        split = drop_cold(split, users=users, items=items)
    if config.split.measure == "test":
        return split
    if split.validation is None:
        raise InputError(
            "recommend.split.measure is validation, and this split keeps none: set "
            "recommend.split.validation_days or recommend.split.validation, or give --validation"
        )
    method = f"{split.report.method}, measured on validation"
    return make_split(split.train, split.validation, method=method)


def measured_row(score: Score, *, seed: int, resamples: int) -> dict[str, Any]:
    """A score as the columns of metrics.csv after recommender and setting.

    A measure of the whole catalogue (coverage, gini) has no interval and no number of users.
    """
    from recsys.significance import bootstrap_mean

    found: dict[str, Any] = {"metric": score.name, "k": score.k, "value": _finite(score.value)}
    if score.per_user is None:
        found |= {"low": None, "high": None, "n_users": 0}
    else:
        interval = bootstrap_mean(score.per_user, seed=seed, n_resamples=resamples)
        found |= {"low": _finite(interval.low), "high": _finite(interval.high)}
        found["n_users"] = score.n_users
    return found | {"signature": score.signature}


def check_metrics(names: Sequence[str], *, vectors: bool) -> None:
    """Refuse a metric nobody knows before anything is computed.

    Raises:
        InputError: unknown name, or `diversity` where items have no `vectors`.
    """
    from recsys.metrics import LIST_METRICS, RELEVANCE_METRICS

    for name in names:
        if name not in RELEVANCE_METRICS and name not in LIST_METRICS:
            known = ", ".join((*RELEVANCE_METRICS, *LIST_METRICS))
            raise InputError(f"recommend.metrics: unknown metric {name!r}; expected any of {known}")
        if name == "diversity" and not vectors:
            raise InputError(
                "recommend.metrics: diversity needs photos of the items, and a table of "
                "interactions has none: leave it out"
            )


def print_table(metrics: pl.DataFrame, protocol: str) -> None:
    """The table on the terminal: a line a row, a column a metric, as many as its width holds."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    names = list(dict.fromkeys(zip(metrics["metric"], metrics["k"], strict=True)))
    longest = max(len(f"{metric}@{k}") for metric, k in names)
    wide = max(1, (console.width - 26) // (max(11, longest) + 2))
    for start in range(0, len(names), wide):
        shown = names[start : start + wide]
        heads = [f"{metric.upper()}@{k}" for metric, k in shown]
        table = Table("row", "text", *heads, box=box.SIMPLE_HEAD)
        for (name, setting), rows in metrics.group_by(
            ["recommender", "setting"], maintain_order=True
        ):
            cells = {(r["metric"], r["k"]): r for r in rows.iter_rows(named=True)}
            table.add_row(str(name), str(setting), *(_cell(**cells[n]) for n in shown))
        console.print(table)
    console.print(f"{protocol}; ± is half the 95 % bootstrap interval over users", style="dim")


def _cell(
    *, value: float | None, low: float | None = None, high: float | None = None, **_: object
) -> str:
    """A value and half its interval in eleven characters, so that the table fits a terminal."""
    if value is None:
        return "-"
    places = 4 if value < 10 else 1
    numbers = [value] if low is None or high is None else [value, (high - low) / 2]
    return "±".join(f"{x:.{places}f}".removeprefix("0") for x in numbers)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _constants(about: dict[str, str]) -> dict[str, pl.Expr]:
    return {name: pl.lit(value) for name, value in about.items()}


def _rank(
    run: Run,
    recommender: Recommender,
    users: NDArray[np.int32],
    config: RecommendConfig,
    progress: Callable[[int, int], None],
) -> Ranked:
    k, exclude_seen = config.list_length, config.exclude_seen
    blocks = [users[lo : lo + USERS_A_BLOCK] for lo in range(0, len(users), USERS_A_BLOCK)]
    found: dict[int, Ranked] = {}

    def keep(number: int, ranked: Ranked) -> None:
        found[number] = ranked
        progress(sum(len(items) for items, _ in found.values()), len(users))

    # With an engine, this process ranks the first block all the same: an index is built, and its
    # recall measured, at the first search, and the others then get it ready. The blocks after it
    # tell whether the rest is worth the start of workers.
    began = time.perf_counter()
    for number, block in enumerate(blocks):
        ahead = (time.perf_counter() - began) / max(1, number - 1) * (len(blocks) - number)
        if run.engine is not None and number > 1 and ahead > WORTH_WORKERS:
            ranked = run.engine.rank(recommender, blocks[number:], k, exclude_seen=exclude_seen)
            for later, items, scores in ranked:
                keep(number + later, (items, scores))
            break
        keep(number, recommender.recommend(block, k, exclude_seen=exclude_seen))
        if number == 0:
            began = time.perf_counter()
    lists = [found[number] for number in range(len(blocks))]
    return np.concatenate([b[0] for b in lists]), np.concatenate([b[1] for b in lists])


def _scores(
    item_idx: NDArray[np.int32],
    split: Split,
    users: NDArray[np.int32],
    config: RecommendConfig,
    vectors: NDArray[np.float32] | None,
) -> dict[str, Score]:
    """Every metric at every k, metric by metric in the order asked for."""
    from recsys.metrics import LIST_METRICS, score_catalogue, score_lists

    of_lists = [name for name in config.metrics if name in LIST_METRICS]
    relevance = [name for name in config.metrics if name not in LIST_METRICS]
    found = score_lists(item_idx, split.test.matrix[users], relevance, config.k)
    train = split.train
    found |= score_catalogue(
        item_idx, of_lists, config.k, n_items=train.n_items, train=train.matrix, vectors=vectors
    )
    return {key: found[key] for name in config.metrics for k in config.k if (key := f"{name}@{k}")}


def _slices(
    item_idx: NDArray[np.int32],
    split: Split,
    users: NDArray[np.int32],
    config: RecommendConfig,
    end: str,
) -> list[dict[str, Any]]:
    """Where a row is good: by popularity of the item and by length of the user's history."""
    from recsys.metrics import RELEVANCE_METRICS, history_bands, popularity_bands, score_slices

    scores = score_slices(
        item_idx,
        split.test.matrix[users],
        [name for name in config.metrics if name in RELEVANCE_METRICS],
        config.k,
        items=popularity_bands(split.train.item_counts),
        users=history_bands(np.diff(split.train.indptr)[users]),
    )
    found = []
    for part, by_name in scores.items():
        for score in by_name.values():
            assert score.per_user is not None
            own = score.per_user[np.isfinite(score.per_user)]
            error = own.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else float("nan")
            found.append(
                {
                    "slice": part,
                    "metric": score.name,
                    "k": score.k,
                    "value": _finite(score.value),
                    "standard_error": _finite(error),
                    "n_users": len(own),
                    "signature": score.signature + end,
                }
            )
    return found


def _as_frame(
    about: dict[str, str], ranked: Ranked, train: Interactions, users: NDArray[np.int32]
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
    ).with_columns(**_constants(about))


def _differences(user_metrics: pl.DataFrame, config: RecommendConfig, seed: int) -> pl.DataFrame:
    """Every later text setting against the first, per row and metric, with Holm's correction."""
    from recsys.metrics import RELEVANCE_METRICS
    from recsys.significance import holm, paired_bootstrap

    found: list[dict[str, Any]] = []
    relevance = [name for name in config.metrics if name in RELEVANCE_METRICS]
    names = [f"{metric}@{k}" for metric in relevance for k in config.k]
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
