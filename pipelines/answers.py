"""What an experiment's cells answer: values, paired differences, curve, attribution, sentences.

| file | a row |
|---|---|
| metrics.csv | a row of the table under a text setting, on a slice: mean over customers and seeds |
| differences.csv | two settings of a row on a slice: paired difference, interval, corrected p |
| curve.csv | a row at a share of masked descriptions, with and without captions in their place |
| attribution.csv | a row, two settings, a measure of the caption: slope of an article's change |
| settings.csv | a text setting: how many articles have a text, and another one than the original |
| extremes.json | the articles helped and hurt most, with rank moves |
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from pipelines import InputError, attribution
from pipelines.augment import SETTINGS
from pipelines.catalog import Catalog
from pipelines.cells import ALL, COLD_ALONE, Ranks
from pipelines.ranking import NO_TEXT
from pipelines.results import label
from pipelines.rows import embed
from pipelines.tables import Estimate, interval, number
from pipelines.workspace import Stage, write_json, write_table

if TYPE_CHECKING:
    from pipelines.experiment import Cell, Line, Trial
    from recsys.significance import Resampled

SIGNIFICANT = 0.05
NO_HUMAN, UNLEARNED = "no human text", "not learned from"
SLICES = {
    ALL: "all articles",
    COLD_ALONE: "new articles, ranked among themselves",
    "cold": "new articles (never bought before), ranked among all",
    "warm": "articles bought before",
    "head": "best sellers (a third of all purchases)",
    "middle": "middle third",
    "tail": "slow sellers (a third of all purchases)",
    NO_HUMAN: "articles without a human text",
    UNLEARNED: "articles the captioner did not learn from",
}
"""Slice -> what it is; those of customers are called `history 1-4` and so on."""
QUESTIONS = (
    ("caption", "none", "Captions against no text"),
    ("shuffled", "none", "The placebo (captions of other articles) against no text"),
    ("caption", "shuffled", "Captions against the placebo"),
    ("fill", "original", "Captions where the description is missing"),
    ("shuffled-fill", "original", "Another article's caption where the description is missing"),
    ("fill", "shuffled-fill", "Captions, not another article's, where the description is missing"),
    ("both", "original", "Captions added to the descriptions"),
    ("caption", "original", "Captions instead of the descriptions"),
    ("caption", "metadata", "Captions against colour, type and pattern by template"),
    ("caption", "copy", "Captions against the nearest training photo's description"),
)  # fmt: skip
"""Comparisons that are put into words: with, against, how it is said."""
_TEXT = dict.fromkeys(("row", "recommender", "encoder"), pl.String)
METRICS = {
    **_TEXT,
    **dict.fromkeys(("setting", "slice", "metric"), pl.String),
    **dict.fromkeys(("value", "low", "high", "seed_sd"), pl.Float64),
    **dict.fromkeys(("n_seeds", "n_users"), pl.Int64),
    "signature": pl.String,
}
DIFFERENCES = {
    **_TEXT,
    **dict.fromkeys(("setting", "against", "slice", "metric"), pl.String),
    **dict.fromkeys(
        ("difference", "low", "high", "p", "p_holm", "detectable", "seed_sd"), pl.Float64
    ),
    **dict.fromkeys(("n_seeds", "n_users", "n_changed", "tests"), pl.Int64),
}
CURVE = {
    "row": pl.String,
    "percent": pl.Int64,
    "filled": pl.Boolean,
    **dict.fromkeys(("slice", "metric"), pl.String),
    **dict.fromkeys(("value", "low", "high", "seed_sd"), pl.Float64),
    **dict.fromkeys(("gain", "gain_low", "gain_high", "p", "p_holm"), pl.Float64),
    "n_seeds": pl.Int64,
}
ATTRIBUTION = {
    **dict.fromkeys(("row", "setting", "against", "measure"), pl.String),
    **dict.fromkeys(("slope", "low", "high", "p", "p_holm", "sd"), pl.Float64),
    "n": pl.Int64,
}


@dataclass
class _Columns:
    """Per-user values of one line, a column a (setting, seed, slice, metric), and their means."""

    resampled: Resampled
    at: dict[tuple[str, int, str, str], int]
    trial: Trial
    line: Line

    def of(self, setting: str, part: str, metric: str) -> list[int] | None:
        """Columns of a setting, one a seed; None where the slice was not measured."""
        seeds = self.trial.seeds(self.line, setting)
        found = [self.at.get((setting, seed, part, metric), -1) for seed in seeds]
        return None if -1 in found else found


def write_answers(
    trial: Trial,
    found: Mapping[Cell, Ranks],
    catalog: Catalog,
    stage: Stage,
    *,
    learned: set[str],
) -> None:
    """Compute and write everything the cells answer into the stage's folder.

    Args:
        trial: what was measured with.
        found: its cells.
        catalog: articles, for the audit of captions.
        stage: gets the files of the module's table and `split.json`; its record gets "protocol",
            "metric", "slices", "sentences", "notes" and "power".
        learned: articles the captions' writer learned from.
    """
    from recsys.metrics import history_bands

    items = _item_slices(trial, learned)
    users = history_bands(np.diff(trial.split.train.indptr)[trial.bench.users])
    headline = f"{trial.config.metrics[0]}@{max(trial.config.k)}"
    rows: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    curve: list[dict[str, Any]] = []
    tests = sum(_n_pairs(trial.settings(line)) for line in trial.lines if line.reads_text)
    for line in trial.lines:
        columns = _columns(trial, found, line, items, users)
        rows += _values(columns)
        if line.reads_text:
            pairs += _pairs(columns, tests)
            curve += _curve(columns, headline)
    differences = _corrected(pairs, DIFFERENCES, ("slice", "metric"))
    write_table(stage.path("metrics.csv"), pl.DataFrame(rows, schema=METRICS))
    write_table(stage.path("differences.csv"), differences)
    write_table(stage.path("curve.csv"), _corrected(curve, CURVE, ("slice",)))
    write_table(stage.path("settings.csv"), _settings(trial))
    split = trial.split
    cutoff = None if split.cutoff is None else split.cutoff.isoformat()
    write_json(stage.path("split.json"), {**split.report.as_dict(), "cutoff": cutoff})
    notes = _attribute(trial, found, catalog, stage, learned, pl.DataFrame(rows, schema=METRICS))
    sentences = list(_sentences(differences, headline))
    stage.record.update(
        protocol=_protocol(trial),
        metric=headline,
        slices=[ALL, COLD_ALONE, *items, *users],
        sentences=sentences,
        notes=notes,
        power=_power(trial, differences, headline),
        cold_users=len(trial.bench.cold_users),
    )


def contrast(differences: pl.DataFrame, setting: str, against: str) -> list[dict[str, Any]]:
    """Rows of differences.csv about `setting` minus `against`, turned round where they stand so."""
    rows = differences.filter(setting=setting, against=against).to_dicts()
    for row in differences.filter(setting=against, against=setting).iter_rows(named=True):
        turned = {"difference": -row["difference"], "setting": setting, "against": against}
        ends = {"low": None, "high": None}
        if row["low"] is not None:
            ends = {"low": -row["high"], "high": -row["low"]}
        rows.append({**row, **turned, **ends})
    return rows


def shown(row: Mapping[str, Any]) -> bool:
    """Whether a difference is beyond chance: adjusted p-value and interval agree."""
    if row["p_holm"] is None or row["low"] is None:
        return False
    return bool(row["p_holm"] < SIGNIFICANT and (row["low"] > 0 or row["high"] < 0))


def _item_slices(trial: Trial, learned: set[str]) -> dict[str, NDArray[np.bool_]]:
    from recsys.metrics import popularity_bands

    slices = popularity_bands(trial.split.train.item_counts)
    missing = np.array([not text for text in trial.source.human])
    if missing.any() and not missing.all():
        slices[NO_HUMAN] = missing
    if learned:
        slices[UNLEARNED] = np.array([a not in learned for a in trial.source.article_ids])
    return slices


def _columns(
    trial: Trial,
    found: Mapping[Cell, Ranks],
    line: Line,
    items: Mapping[str, NDArray[np.bool_]],
    users: Mapping[str, NDArray[np.bool_]],
) -> _Columns:
    from recsys.significance import Resampled

    config = trial.config
    compared = trial.settings(line)
    columns: list[NDArray[np.float64]] = []
    at: dict[tuple[str, int, str, str], int] = {}
    for cell, ranks in found.items():
        if cell.line != line:
            continue
        # Points of the curve are looked at as a whole and on new articles, not slice by slice.
        whole = cell.setting in compared
        values = trial.bench.values(
            ranks,
            config.metrics,
            config.k,
            items=items if whole else {},
            users=users if whole else {},
        )
        for (part, metric), column in values.items():
            at[cell.setting, cell.seed, part, metric] = len(columns)
            columns.append(column)
    resampled = Resampled(
        np.column_stack(columns), seed=trial.run.config.seed, n_resamples=config.bootstrap
    )
    return _Columns(resampled, at, trial, line)


def _about(line: Line) -> dict[str, str]:
    return {"row": line.label, "recommender": line.recommender, "encoder": line.encoder or "-"}


def _values(columns: _Columns) -> Iterator[dict[str, Any]]:
    trial, line = columns.trial, columns.line
    protocol = _protocol(trial)
    for setting in trial.settings(line):
        parts = dict.fromkeys((p, m) for s, _, p, m in columns.at if s == setting)
        for part, metric in parts:
            own = columns.of(setting, part, metric)
            if own is None:
                continue
            mean = columns.resampled.difference(own, None)
            yield {
                **_about(line),
                "setting": setting,
                "slice": part,
                "metric": metric,
                **_finite({"value": mean.estimate, "low": mean.low, "high": mean.high}),
                **_finite({"seed_sd": mean.seed_sd}),
                "n_seeds": mean.n_seeds,
                "n_users": mean.n,
                "signature": f"{_definition(metric)}|slice:{part}|{protocol}",
            }


def _pairs(columns: _Columns, tests: int) -> Iterator[dict[str, Any]]:
    trial, line = columns.trial, columns.line
    metrics = [f"{name}@{max(trial.config.k)}" for name in trial.config.metrics]
    parts = dict.fromkeys(part for _, _, part, _ in columns.at)
    for against, setting in itertools.combinations(trial.settings(line), 2):
        for part, metric in itertools.product(parts, metrics):
            treatment = columns.of(setting, part, metric)
            control = columns.of(against, part, metric)
            if treatment is None or control is None:
                continue
            placebo = {setting, against} in ({"caption", "shuffled"}, {"fill", "shuffled-fill"})
            found = columns.resampled.difference(
                treatment, control, tests=tests, exchangeable=placebo
            )
            yield {
                **_about(line),
                "setting": setting,
                "against": against,
                "slice": part,
                "metric": metric,
                **_finite(
                    {
                        "difference": found.estimate,
                        "low": found.low,
                        "high": found.high,
                        "p": found.p_value,
                        "detectable": found.detectable,
                        "seed_sd": found.seed_sd,
                    }
                ),
                "n_seeds": found.n_seeds,
                "n_users": found.n,
                "n_changed": found.n_changed,
                "tests": tests,
            }


def _curve(columns: _Columns, metric: str) -> Iterator[dict[str, Any]]:
    trial, line = columns.trial, columns.line
    points = trial.curve(line)
    plain = {percent: setting for percent, filled, setting in points if not filled}
    for part, (percent, filled, setting) in itertools.product((ALL, COLD_ALONE), points):
        own, bare = columns.of(setting, part, metric), columns.of(plain[percent], part, metric)
        if own is None or bare is None:
            continue
        mean = columns.resampled.difference(own, None)
        row: dict[str, Any] = {
            "row": line.label,
            "percent": percent,
            "filled": filled,
            "slice": part,
            "metric": metric,
            **_finite({"value": mean.estimate, "low": mean.low, "high": mean.high}),
            **_finite({"seed_sd": mean.seed_sd}),
            "n_seeds": mean.n_seeds,
            **dict.fromkeys(("gain", "gain_low", "gain_high", "p")),
        }
        if filled:
            gain = columns.resampled.difference(own, bare)
            row |= _finite(
                {
                    "gain": gain.estimate,
                    "gain_low": gain.low,
                    "gain_high": gain.high,
                    "p": gain.p_value,
                }
            )
        yield row


def _settings(trial: Trial) -> pl.DataFrame:
    from pipelines.experiment import Cell, Line

    original = trial.source.under("original")
    line = Line("content", "", reads_text=True)
    rows = []
    for setting in trial.config.settings:
        texts = trial.texts(Cell(line, setting, trial.seeds(line, setting)[0]))
        rows.append(
            {
                "setting": setting,
                "meaning": SETTINGS[setting],
                "with_text": sum(text is not None for text in texts),
                "distinct": len({text for text in texts if text}),
                "changed": sum(a != b for a, b in zip(texts, original, strict=True)),
                "articles": len(texts),
            }
        )
    return pl.DataFrame(rows)


def _attribute(
    trial: Trial,
    found: Mapping[Cell, Ranks],
    catalog: Catalog,
    stage: Stage,
    learned: set[str],
    metrics: pl.DataFrame,
) -> list[str]:
    """Write attribution.csv and extremes.json; returns notes."""
    ids = list(trial.source.article_ids)
    bought = np.unique(trial.bench.pair_items)
    lines = [line for line in trial.lines if line.reads_text]
    empty: dict[str, Any] = {"articles": [], "row": None, "setting": None, "against": None}
    usable = [
        (line, with_, against)
        for with_, against in trial.config.contrasts
        for line in lines
        if {with_, against} <= set(trial.settings(line))
    ]
    notes: list[str] = []
    qualities: dict[str, NDArray[np.float64]] = {}
    if trial.source.captions and usable:
        qualities, notes = _qualities(trial, catalog, [ids[i] for i in bought], learned)
    popularity = trial.split.train.item_counts.astype(np.float64)
    rows = []
    for line, with_, against in usable:
        change = _change(trial, found, line, with_, against)
        # Articles whose text is the same under both can change through others only.
        same = _same_text(trial, line, with_, against)
        for measure, values in qualities.items():
            slope = attribution.regress(np.where(same, np.nan, change), values, popularity)
            rows.append(
                {
                    "row": line.label,
                    "setting": with_,
                    "against": against,
                    "measure": measure,
                    **_finite(
                        {
                            "slope": slope.slope,
                            "low": slope.low,
                            "high": slope.high,
                            "p": slope.p_value,
                            "sd": slope.sd,
                        }
                    ),
                    "n": slope.n,
                }
            )
    write_table(stage.path("attribution.csv"), _corrected(rows, ATTRIBUTION, ()))
    write_json(stage.path("extremes.json"), empty)
    if not usable or not trial.config.extremes:
        return notes
    contrast_ = usable[0][1:]
    of_first = [line for line, *pair in usable if tuple(pair) == contrast_]
    level = {
        row["row"]: row["value"] or 0.0
        for row in metrics.filter(slice=ALL, setting=contrast_[0]).iter_rows(named=True)
    }
    line = max(of_first, key=lambda line: level.get(line.label, 0.0))
    write_json(stage.path("extremes.json"), _extremes(trial, found, line, *contrast_))
    return notes


def _change(
    trial: Trial, found: Mapping[Cell, Ranks], line: Line, with_: str, against: str
) -> NDArray[np.float64]:
    sides = (_of(trial, found, line, setting) for setting in (with_, against))
    after, before = (attribution.gains(trial.bench, ranks) for ranks in sides)
    return after - before


def _of(trial: Trial, found: Mapping[Cell, Ranks], line: Line, setting: str) -> list[Ranks]:
    from pipelines.experiment import Cell

    return [found[Cell(line, setting, seed)] for seed in trial.seeds(line, setting)]


def _same_text(trial: Trial, line: Line, with_: str, against: str) -> NDArray[np.bool_]:
    one, other = (_texts(trial, line, setting) for setting in (with_, against))
    return np.array([a == b for a, b in zip(one, other, strict=True)])


def _texts(trial: Trial, line: Line, setting: str) -> list[str | None]:
    from pipelines.experiment import Cell

    return trial.texts(Cell(line, setting, trial.seeds(line, setting)[0]))


def _qualities(
    trial: Trial, catalog: Catalog, ids: Sequence[str], learned: set[str]
) -> tuple[dict[str, NDArray[np.float64]], list[str]]:
    everything = list(trial.source.article_ids)
    found, judged = attribution.caption_qualities(
        trial.source.captions, catalog.articles, ids, learned
    )
    notes = [
        f"CIDEr-D is judged on {len(judged):,} articles bought in the test whose description the "
        "captioner did not learn from"
    ]
    try:
        clip = _clipscore(trial, set(ids))
    except InputError as error:
        notes.append(f"CLIPScore is unavailable: {error}")
    else:
        found["clipscore"] = {everything[i]: float(x) for i, x in clip.items()}
    arrays = {name: attribution.as_array(values, everything) for name, values in found.items()}
    return {name: arrays[name] for name in attribution.QUALITIES if name in arrays}, notes


def _clipscore(trial: Trial, ids: set[str]) -> dict[int, float]:
    from caption.metrics.clipscore import PREFIX, WEIGHT

    source = trial.source
    wanted = [i for i, a in enumerate(source.article_ids) if a in ids and source.captions.get(a)]
    if not wanted:
        return {}
    texts: list[str | None] = [PREFIX + source.captions[source.article_ids[i]] for i in wanted]
    said = embed(trial.run, "clip-text", texts, None)
    seen = embed(trial.run, "clip-image", None, [trial.photos[i] for i in wanted])
    trial.encoded += said.counts["encoded"] + seen.counts["encoded"]
    cosine = (said.vectors * seen.vectors).sum(axis=1)
    good = said.valid & seen.valid
    return {i: WEIGHT * max(0.0, float(cosine[n])) for n, i in enumerate(wanted) if good[n]}


def _extremes(
    trial: Trial, found: Mapping[Cell, Ranks], line: Line, with_: str, against: str
) -> dict[str, Any]:
    change = _change(trial, found, line, with_, against)
    helped, hurt = attribution.extremes(change, trial.config.extremes)
    after, before = (_of(trial, found, line, setting) for setting in (with_, against))
    moves = attribution.moves(trial.bench, after, before, [*helped, *hurt])
    source = trial.source
    captions = source.captions
    articles = [
        {
            "article_id": (article_id := source.article_ids[i]),
            "side": side,
            "change": float(change[i]),
            "moves": moves[i],
            "human": source.human[i],
            "caption": captions.get(article_id),
            "train_purchases": int(trial.split.train.item_counts[i]),
        }
        for side, rows in (("helped", helped), ("hurt", hurt))
        for i in rows
    ]
    return {
        "row": line.label,
        "setting": with_,
        "against": against,
        "depth": trial.bench.depth,
        "articles": articles,
        "helped": int((np.nan_to_num(change) > 0).sum()),
        "hurt": int((np.nan_to_num(change) < 0).sum()),
        "bought": int(np.isfinite(change).sum()),
    }


def _corrected(
    rows: Iterable[dict[str, Any]], schema: Mapping[str, Any], within: Sequence[str]
) -> pl.DataFrame:
    """Rows with `p_holm`: corrected over all rows that agree in the columns `within`."""
    from recsys.significance import holm

    frame = pl.DataFrame(list(rows), schema={k: v for k, v in schema.items() if k != "p_holm"})
    p = frame["p"].cast(pl.Float64).fill_null(float("nan")).to_numpy()
    keys = [json.dumps(key) for key in frame.select(within).rows()] if within else [""] * len(frame)
    adjusted = np.full(len(frame), np.nan)
    for key in dict.fromkeys(keys):
        own = np.array([k == key for k in keys])
        adjusted[own] = holm(p[own])
    column = pl.Series("p_holm", adjusted, dtype=pl.Float64).fill_nan(None)
    return frame.with_columns(column).select(*schema)


def _sentences(differences: pl.DataFrame, metric: str) -> Iterator[dict[str, str]]:
    """The comparisons of `QUESTIONS` in words: over all articles, among new ones, and for those
    that fill missing texts where these were missing."""
    for part in (ALL, COLD_ALONE, NO_HUMAN):
        of_part = differences.filter(slice=part, metric=metric)
        for setting, against, doing in QUESTIONS:
            if part == NO_HUMAN and not setting.endswith("fill"):
                continue
            rows = [r for r in contrast(of_part, setting, against) if r["difference"] is not None]
            if not rows:
                continue
            certain = [row for row in rows if shown(row)]
            said = [_shown(row, metric) for row in certain]
            if setting.startswith("shuffled") and any(row["difference"] > 0 for row in certain):
                # A row that reads only texts cannot recommend an article without one.
                said.append("any text makes an article findable that had none")
            unsure = [row for row in rows if not shown(row)]
            if unsure:
                said.append(_unsure(unsure, metric))
            yield {
                "setting": setting,
                "against": against,
                "slice": part,
                "verdict": "shown" if certain else "no effect shown",
                "text": f"{doing}, {SLICES[part]}: {'; '.join(said)}",
            }


def _shown(row: Mapping[str, Any], metric: str) -> str:
    rose = "rose" if row["difference"] > 0 else "fell"
    size = number(abs(row["difference"]), 4)
    return f"{label(metric)} {rose} for {row['row']} by {size}, {_ends(row)}"


def _unsure(rows: Sequence[Mapping[str, Any]], metric: str) -> str:
    """No effect for these rows, the largest change among them, and what would have been seen."""
    names = [str(row["row"]) for row in rows]
    listed = " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    largest = max(rows, key=lambda row: abs(row["difference"]))
    sizes = sorted(row["detectable"] for row in rows if row["detectable"]) or [0.0]
    users = f"{largest['n_users']:,} customers"
    if not sizes[-1]:
        return f"no effect on {label(metric)} is shown for {listed} (the same for all {users})"
    seen = dict.fromkeys(number(size, 4) for size in (sizes[0], sizes[-1]))
    return (
        f"no effect on {label(metric)} is shown for {listed} (largest change "
        f"{number(largest['difference'], 4, signed=True)} {_ends(largest)} for {largest['row']}; "
        f"{users} would show ±{' to ±'.join(seen)})"
    )


def _ends(row: Mapping[str, Any]) -> str:
    return interval(Estimate(row["difference"], row["low"], row["high"]), 4, signed=True)


def _power(trial: Trial, differences: pl.DataFrame, metric: str) -> str:
    """How much the data can show, for every table."""
    rows = differences.filter(slice=ALL, metric=metric)
    sizes = rows["detectable"].drop_nulls().to_list()
    users, pairs = len(trial.bench.users), len(trial.bench.pair_items)
    said = f"{users:,} test customers with {pairs:,} purchases"
    if sizes:
        said += (
            f"; after correction a change of {label(metric)} below {number(min(sizes), 4)} to "
            f"{number(max(sizes), 4)} (by comparison) is more likely missed than one time in five"
        )
    return said


def _protocol(trial: Trial) -> str:
    ranking, bench = trial.ranking, trial.bench
    return (
        f"split:{trial.split.report.method}|candidates:{bench.n_items} articles, cold kept"
        f"|seen:{'excluded' if ranking.exclude_seen else 'kept'}"
        f"|seeds:{','.join(map(str, trial.config.seeds))}|bootstrap:{trial.config.bootstrap}"
    )


def _definition(metric: str) -> str:
    from recsys.metrics import RELEVANCE_METRICS

    return f"{metric}|{RELEVANCE_METRICS[metric.partition('@')[0]]}"


def _n_pairs(settings: Sequence[str]) -> int:
    return len(settings) * (len(settings) - 1) // 2 if NO_TEXT not in settings else 0


def _finite(values: Mapping[str, float]) -> dict[str, float | None]:
    return {key: float(x) if np.isfinite(x) else None for key, x in values.items()}
