"""The report's section about the experiment: what the words were worth, and how sure that is."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from pipelines import plots
from pipelines.answers import (
    CURVE,
    DIFFERENCES,
    METRICS,
    QUESTIONS,
    SLICES,
    contrast,
    shown,
)
from pipelines.attribution import QUALITIES
from pipelines.augment import SETTINGS
from pipelines.cells import ALL, COLD_ALONE
from pipelines.conclusions import p_value
from pipelines.page import Page, clip, sentence_case
from pipelines.published import METRICS as PUBLISHED_METRICS
from pipelines.published import THESIS, is_thesis, published, ranking_differing
from pipelines.ranking import NO_TEXT
from pipelines.report_recommend import better
from pipelines.results import label
from pipelines.tables import Column, Estimate, Missing, Table, Value
from pipelines.workspace import Workspace, file_sha256

STAGE = "experiment"
SERIES = 6
"""Rows that fit into one figure: as many as there are colours."""
BY_SLICE = (("caption", "none"), ("caption", "original"), ("fill", "original"))
"""Comparisons that are drawn slice by slice."""
SIDES = ("published", "corrected")
"""Names of the experiments that stand side by side where a run has both."""


@dataclass(frozen=True)
class _Found:
    """What one experiment left."""

    name: str
    manifest: Mapping[str, Any]
    metrics: pl.DataFrame
    differences: pl.DataFrame
    curve: pl.DataFrame
    attribution: pl.DataFrame
    settings: pl.DataFrame
    extremes: Mapping[str, Any]
    leaks: Mapping[str, Any]
    split: Mapping[str, Any]

    @property
    def record(self) -> Mapping[str, Any]:
        record: Mapping[str, Any] = self.manifest["record"]
        return record

    @property
    def note(self) -> str:
        """What stands under every table: how sure it can be, and a leak where there is one."""
        stamp = f"{self.record['stamp']}. " if self.record["stamp"] else ""
        return f"{stamp}{self.record['power']}. {_readable(self.record['protocol'])}."

    def key(self, name: str) -> str:
        """A table's or figure's file name, apart from those of the run's other experiments."""
        return f"{STAGE}-{self.name}-{name}" if self.name else f"{STAGE}-{name}"


def experiment_stages(workspace: Workspace) -> list[str]:
    """Names of the run's finished experiments."""
    folders = sorted(workspace.folder.glob(f"{STAGE}*"))
    names = [f.name for f in folders if f.name == STAGE or f.name.startswith(f"{STAGE}-")]
    return [name for name in names if workspace.manifest(name) is not None]


def experiment_hashes(workspace: Workspace) -> dict[str, str]:
    """Stage -> sha256 of its manifest, for the report's key."""
    return {
        name: file_sha256(workspace.folder / name / "manifest.json")
        for name in experiment_stages(workspace)
    }


def experiments(page: Page) -> dict[str, Any] | None:
    """Everything the template needs of the run's experiments; None where there is none."""
    found = [_read(page.run.workspace, name) for name in experiment_stages(page.run.workspace)]
    if not found:
        return None
    return {
        "parts": [_part(page, one) for one in found],
        "sides": _side_by_side(page, {one.name: one for one in found}),
    }


def _part(page: Page, found: _Found) -> dict[str, Any]:
    record = found.record
    return {
        "name": found.name,
        "stamp": record["stamp"],
        "power": record["power"],
        "sentences": record["sentences"],
        "slice_names": SLICES,
        "notes": record["notes"],
        "split": found.split,
        "settings": page.table(_settings(found)),
        "value_table": page.table(_values(found)),
        "forests": list(_forests(page, found)),
        "differences": page.table(_differences(found, QUESTIONS, (ALL, COLD_ALONE), "differences")),
        "every": page.table(_every(found)),
        "slices": list(_slices(page, found)),
        "slice_table": page.table(_differences(found, BY_SLICE, list(record["slices"]), "slices")),
        "curves": list(_curves(page, found)),
        "attribution": page.table(_attribution(found)) if found.attribution.height else None,
        "extremes": _extremes(page, found),
        "leaks": page.table(_leaks(found)),
        "thesis": page.table(_thesis(page, found)) if is_thesis(found.manifest) else None,
    }


def _settings(found: _Found) -> Table:
    return Table(
        found.key("settings"),
        "The texts that were compared",
        (
            Column("setting", "Text"),
            Column("meaning", "What an article’s text is"),
            Column("with_text", "Articles with a text"),
            Column("distinct", "Different texts"),
            Column("changed", "Other than the original"),
        ),
        [
            [r["setting"], r["meaning"], r["with_text"], r["distinct"], r["changed"]]
            for r in found.settings.iter_rows(named=True)
        ],
        f"{found.settings['articles'][0]:,} articles. Nothing but the text differs.",
    )


def _values(found: _Found) -> Table:
    metrics = found.metrics["metric"].unique(maintain_order=True).to_list()
    parts = [p for p in (ALL, COLD_ALONE) if p in found.metrics["slice"]]
    columns = [(part, metric) for part in parts for metric in metrics]
    cells = {
        (r["row"], r["setting"], r["slice"], r["metric"]): _estimate(r)
        for r in found.metrics.iter_rows(named=True)
    }
    lines = found.metrics.select("row", "setting").unique(maintain_order=True).rows()
    new = "new articles: "
    return Table(
        found.key("values"),
        "Every row under every text",
        (
            Column("row", "Row"),
            Column("setting", "Text"),
            *(
                Column(
                    f"{metric} {part}",
                    f"{new if part == COLD_ALONE else ''}{label(metric)}",
                    decimals=4,
                    better=better(metric),
                )
                for part, metric in columns
            ),
        ),
        [
            [row, _setting(setting), *(cells.get((row, setting, *c)) for c in columns)]
            for row, setting in lines
        ],
        f"95 % intervals over customers, and over seeds where something is drawn. New articles: "
        f"those nobody bought before, ranked among themselves, for {found.record['cold_users']:,} "
        f"customers who bought one. {found.note}",
    )


def _differences(
    found: _Found, pairs: Sequence[Sequence[str]], parts: Sequence[str], name: str
) -> Table:
    rows = [
        row
        for with_, against, *_ in pairs
        for part in parts
        for row in contrast(found.differences.filter(slice=part), with_, against)
    ]
    titles = {"differences": "Two texts compared, customer by customer"}
    return Table(
        found.key(name),
        titles.get(name, "The same, slice by slice"),
        _DIFFERENCE_COLUMNS,
        [_difference(row) for row in rows],
        f"{_HOW} {found.note}",
    )


def _every(found: _Found) -> Table:
    rows = found.differences.filter(slice=ALL)
    return Table(
        found.key("every-pair"),
        "Every pair of texts, all articles",
        _DIFFERENCE_COLUMNS,
        [_difference(row) for row in rows.iter_rows(named=True)],
        f"{_HOW} {found.note}",
    )


_HOW = (
    "Paired bootstrap over customers, with the variance between seeds added where something is "
    "drawn; p-values are corrected by Holm over all rows and all pairs of a slice and metric. "
    "Detectable: the change that this many customers would show, after that correction, four times "
    "out of five."
)
_DIFFERENCE_COLUMNS = (
    Column("row", "Row"),
    Column("texts", "Texts"),
    Column("slice", "Slice"),
    Column("metric", "Metric"),
    Column("difference", "Difference", decimals=4, signed=True),
    Column("p_holm", "Adjusted p"),
    Column("shown", "Effect"),
    Column("detectable", "Detectable", decimals=4),
    Column("n_changed", "Customers it changed"),
    Column("n_users", "Customers"),
    Column("seed_sd", "SD of seeds", decimals=4),
)


def _difference(row: Mapping[str, Any]) -> list[Value]:
    known = row["difference"] is not None
    return [
        row["row"],
        f"{row['setting']} − {row['against']}",
        SLICES.get(row["slice"], row["slice"]),
        label(row["metric"]),
        Estimate(row["difference"], row["low"], row["high"]) if known else Missing("no customer"),
        p_value(row["p_holm"]),
        "shown" if shown(row) else "no effect shown",
        row["detectable"],
        int(row["n_changed"]),
        int(row["n_users"]),
        row["seed_sd"],
    ]


def _forests(page: Page, found: _Found) -> Iterator[dict[str, str]]:
    """The compared pairs with their intervals: one line a pair, one marker a row of the table."""
    metric = found.record["metric"]
    for part in (ALL, COLD_ALONE):
        of_part = found.differences.filter(slice=part, metric=metric)
        for n, rows in enumerate(_chunks(of_part)):
            values: dict[str, dict[str, Estimate]] = {row: {} for row in rows}
            detectable: dict[str, float] = {}
            for with_, against, *_ in QUESTIONS:
                pair = f"{with_} − {against}"
                for found_row in contrast(of_part, with_, against):
                    if found_row["row"] not in values or found_row["difference"] is None:
                        continue
                    values[found_row["row"]][pair] = _difference_estimate(found_row)
                    size = found_row["detectable"] or 0.0
                    detectable[pair] = max(detectable.get(pair, 0.0), size)
            names = [p for w, a, *_ in QUESTIONS if (p := f"{w} − {a}") in detectable]
            if not names:
                continue
            yield page.figure(
                found.key(f"forest-{part.replace(' ', '-')}-{n}"),
                plots.intervals(
                    values, names, f"change of {label(metric)}", zero=True, detectable=detectable
                ),
                f"Change of {label(metric)}, {SLICES[part]}, with 95 % intervals; within the grey "
                "band these customers can’t reliably tell a change from none.",
            )


def _slices(page: Page, found: _Found) -> Iterator[dict[str, str]]:
    metric, known = found.record["metric"], found.record["slices"]
    for with_, against in BY_SLICE:
        rows = contrast(found.differences.filter(metric=metric), with_, against)
        lines = list(dict.fromkeys(row["row"] for row in rows))[:SERIES]
        values: dict[str, dict[str, Estimate]] = {line: {} for line in lines}
        for row in rows:
            if row["row"] in values and row["difference"] is not None and row["n_users"] > 1:
                values[row["row"]][row["slice"]] = _difference_estimate(row)
        names = [part for part in known if any(part in by for by in values.values())]
        if names:
            yield page.figure(
                found.key(f"slices-{with_}-{against}"),
                plots.intervals(values, names, f"change of {label(metric)}", zero=True),
                f"{with_} − {against}: change of {label(metric)} by slice, with 95 % intervals.",
            )


def _curves(page: Page, found: _Found) -> Iterator[dict[str, str]]:
    metric = label(found.record["metric"])
    for (row, part), points in found.curve.group_by(["row", "slice"], maintain_order=True):
        series = {}
        for filled, name in ((False, "masked"), (True, "masked, then captions in their place")):
            own = points.filter(filled=filled).sort("percent")
            if own.height > 1:
                rows = own.iter_rows(named=True)
                points_ = [(r["percent"], v) for r in rows if (v := _estimate(r)) is not None]
                series[name] = ([x for x, _ in points_], [v for _, v in points_])
        if series:
            yield page.figure(
                found.key(f"curve-{row}-{part}".replace(" ", "-").replace("/", "-")),
                plots.curves(series, "% of the human descriptions taken away", f"{metric}, {row}"),
                f"{row}, {SLICES[str(part)]}: {metric} as human descriptions are taken away.",
            )


def _attribution(found: _Found) -> Table:
    rows: list[list[Value]] = [
        [
            row["row"],
            f"{row['setting']} − {row['against']}",
            row["measure"],
            Missing("too few articles, or all alike")
            if row["slope"] is None
            else Estimate(row["slope"], row["low"], row["high"]),
            p_value(row["p_holm"]),
            int(row["n"]),
        ]
        for row in found.attribution.iter_rows(named=True)
    ]
    meaning = "; ".join(f"{name}: {said}" for name, said in QUALITIES.items())
    return Table(
        found.key("attribution"),
        "Does the caption’s quality predict what an article gained?",
        (
            Column("row", "Row"),
            Column("texts", "Texts"),
            Column("measure", "Measure of the caption"),
            Column("slope", "Gain per standard deviation", decimals=4, signed=True),
            Column("p_holm", "Adjusted p"),
            Column("n", "Articles"),
        ),
        rows,
        "Least squares over articles bought in the test, training purchases (log) beside; HC3 "
        "standard errors, Holm over the table. An article’s gain is the mean over its purchases of "
        f"1/log2(1 + rank). {meaning}. {found.note}",
    )


def _extremes(page: Page, found: _Found) -> dict[str, Any] | None:
    extremes = found.extremes
    if not extremes["articles"]:
        return None
    cards = [
        {
            **page.article(item["article_id"], 120),
            "side": item["side"],
            "change": f"{item['change']:+.3f}".replace("-", "−"),
            "moves": ", ".join(
                f"{_rank(before)} → {_rank(after)}" for before, after in item["moves"]
            ),
            "human": clip(item["human"] or ""),
            "caption": sentence_case(clip(item["caption"] or "")),
            "train_purchases": item["train_purchases"],
        }
        for item in extremes["articles"]
    ]
    return {
        "sides": [(side, [c for c in cards if c["side"] == side]) for side in ("helped", "hurt")],
        **{key: extremes[key] for key in ("row", "setting", "against", "depth")},
        **{key: extremes[key] for key in ("helped", "hurt", "bought")},
        "meaning": SETTINGS,
    }


def _leaks(found: _Found) -> Table:
    return Table(
        found.key("leaks"),
        "Leak audit",
        (
            Column("question", "Question"),
            Column("answer", "Answer"),
            Column("found", "What was found"),
        ),
        [[c["question"], "LEAK" if c["leak"] else "no", c["found"]] for c in found.leaks["checks"]],
    )


def _thesis(page: Page, found: _Found) -> Table:
    """The published figures beside ours, where the data is the same; else that it is not."""
    config = found.manifest["config"]
    purchases = found.manifest["record"].get("purchases", 0)
    different = ranking_differing(THESIS, config, page.catalog.articles.height, purchases)
    same = not different
    rows: list[list[Value]] = []
    for row, setting in found.metrics.select("row", "setting").unique(maintain_order=True).rows():
        own = found.metrics.filter(row=row, setting=setting, slice=ALL)
        ours = {r["metric"]: _estimate(r) for r in own.iter_rows(named=True)}
        line: list[Value] = [row, _setting(setting)]
        for metric in PUBLISHED_METRICS:
            theirs = published(row, setting, metric)
            other = None if theirs is None else Missing("another protocol")
            line += [ours.get(metric), theirs if same else other]
        rows.append(line)
    return Table(
        found.key("thesis"),
        "The thesis, as published and run here",
        (
            Column("row", "Row"),
            Column("setting", "Text"),
            *(
                Column(f"{metric} {who}", f"{label(metric)}, {who}", decimals=5)
                for metric in PUBLISHED_METRICS
                for who in ("here", "published")
            ),
        ),
        rows,
        ("" if same else f"Not as published ({'; '.join(different)}): the published figures don’t "
         "compare and are left out. ") + found.note,
    )  # fmt: skip


def _side_by_side(page: Page, found: Mapping[str, _Found]) -> Table | None:
    if not set(SIDES) <= set(found):
        return None
    one, other = (found[name] for name in SIDES)
    lines = one.metrics.select("row", "setting").unique(maintain_order=True).rows()
    rows: list[list[Value]] = []
    for row, setting in lines:
        line: list[Value] = [row, _setting(setting)]
        for which, metric in ((one, "ndcg@12"), (one, "map_elliot@12"), (other, "ndcg@12"),
                              (other, "map@12")):  # fmt: skip
            own = which.metrics.filter(row=row, setting=setting, slice=ALL, metric=metric)
            line.append(_estimate(own.row(0, named=True)) if own.height else None)
        new = other.metrics.filter(row=row, setting=setting, slice=COLD_ALONE, metric="ndcg@12")
        line.append(_estimate(new.row(0, named=True)) if new.height else None)
        rows.append(line)
    stamp = f"As published: {one.record['stamp']}. " if one.record["stamp"] else ""
    return page.table(
        Table(
            f"{STAGE}-sides",
            "The thesis’ protocol and the corrected one",
            (
                Column("row", "Row"),
                Column("setting", "Text"),
                Column("ndcg published", "As published: NDCG@12", decimals=4),
                Column("map published", "As published: Elliot’s MAP@12", decimals=4),
                Column("ndcg corrected", "Corrected: NDCG@12", decimals=4),
                Column("map corrected", "Corrected: MAP@12", decimals=4),
                Column("ndcg new", "Corrected: NDCG@12 of new articles", decimals=4),
            ),
            rows,
            f"{stamp}The columns follow different protocols and don’t compare with each other. "
            f"Published: {_readable(one.record['protocol'])}. Corrected: "
            f"{_readable(other.record['protocol'])}.",
        )
    )


def _chunks(rows: pl.DataFrame) -> Iterator[list[str]]:
    names = rows["row"].unique(maintain_order=True).to_list()
    for start in range(0, len(names), SERIES):
        yield names[start : start + SERIES]


def _read(workspace: Workspace, stage: str) -> _Found:
    manifest = workspace.manifest(stage)
    assert manifest is not None

    def table(name: str, schema: Mapping[str, Any] | None = None) -> pl.DataFrame:
        path = workspace.stage_file(stage, name)
        assert path is not None
        return pl.read_csv(path, schema_overrides=schema)

    def values(name: str) -> dict[str, Any]:
        path = workspace.stage_file(stage, name)
        assert path is not None
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found

    return _Found(
        stage.removeprefix(STAGE).removeprefix("-"),
        manifest,
        table("metrics.csv", METRICS),
        table("differences.csv", DIFFERENCES),
        table("curve.csv", CURVE),
        table(
            "attribution.csv", dict.fromkeys(("slope", "low", "high", "p", "p_holm"), pl.Float64)
        ),
        table("settings.csv"),
        values("extremes.json"),
        values("leaks.json"),
        values("split.json"),
    )


def _estimate(row: Mapping[str, Any]) -> Estimate | None:
    if row["value"] is None:
        return None
    return Estimate(row["value"], row["low"], row["high"])


def _difference_estimate(row: Mapping[str, Any]) -> Estimate:
    return Estimate(row["difference"], row["low"], row["high"])


def _rank(rank: int | None) -> str:
    return "beyond" if rank is None else str(rank)


def _setting(setting: str) -> str:
    return "reads no text" if setting == NO_TEXT else setting


def _readable(protocol: str) -> str:
    return "; ".join(part.replace(":", ": ", 1) for part in protocol.split("|"))
