"""`fcr report RUN RUN ...`: runs side by side, what differs in them, and what the difference shows.

Differences are taken on what the runs share: the same test articles under the same metric, the
same test customers under the same protocol. Where these differ, the numbers stand beside each
other, marked, and no difference is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from pipelines import InputError
from pipelines.report import render, template_hashes, write_tables
from pipelines.results import Results, label, manifest_hashes, read_results
from pipelines.tables import Column, Estimate, Missing, Table, Value
from pipelines.workspace import Workspace, write_text

STAGE = "report"
RESAMPLES = 2000


def compare_runs(
    workspaces: Sequence[Workspace], out: str, *, say: Callable[[str], None] = print
) -> Path:
    """Draw a page that compares runs; the first one is the control of every difference.

    Args:
        workspaces: two or more runs with at least one finished stage each.
        out: name of the run beside the first one that receives `report/`.
        say: receives lines for the user.

    Returns:
        path of `report.html`; beside it `tables/` (CSV, Markdown, LaTeX).

    Raises:
        InputError: fewer than two runs, a run twice or without results, a damaged artefact.
    """
    names = [w.folder.name for w in workspaces]
    if len(set(names)) < max(2, len(names)):
        raise InputError(f"runs to compare: {', '.join(names)}: give two or more, each once")
    results = dict(zip(names, map(read_results, workspaces), strict=True))
    for found in results.values():
        if not found.manifests:
            raise InputError(f"run {found.folder} holds no finished stage: nothing to compare")
    inputs = {
        f"{w.folder.name} {stage}": digest
        for w in workspaces
        for stage, digest in manifest_hashes(w).items()
    }
    inputs |= template_hashes()
    target = Workspace.open(out, workspaces[0].folder.parent)
    with (
        target.lock(),
        target.stage(STAGE, config={"runs": names}, inputs=inputs, seed=0, say=say) as stage,
    ):
        path = stage.path("report.html")
        if stage.reused:
            return path
        tables = {
            "differs": _differs(results),
            "captions": _captions(results),
            "caption_gains": _gains(results, "caption-differences", _caption_pairs(results)),
            "ranking": _ranking(results),
            "ranking_gains": _gains(results, "ranking-differences", _ranking_pairs(results)),
            "costs": _costs(results),
        }
        html = render("compare.html.j2", runs=names, **tables)
        write_tables(stage.path("tables"), [t for t in tables.values() if t is not None])
        write_text(path, html)
        stage.record.update(runs=names)
    return path


def _differs(results: Mapping[str, Results]) -> Table:
    """Every setting, input and version that is not the same in all runs."""
    facts = {name: dict(_facts(found)) for name, found in results.items()}
    keys = sorted({key for by in facts.values() for key in by})
    rows: list[list[Value]] = []
    for key in keys:
        values = [facts[name].get(key, "–") for name in results]
        if len(set(values)) > 1:
            rows.append([key, *values])
    same = len(keys) - len(rows)
    return Table(
        "differences",
        "What differs in the runs",
        (Column("what", "What"), *(Column(name, name) for name in results)),
        rows,
        f"{same:,} other settings, inputs and versions are the same. A hash stands for the "
        "contents of a file; – where a run has no such thing.",
    )


def _facts(found: Results) -> Iterator[tuple[str, str]]:
    for stage, manifest in found.manifests.items():
        yield from _flat(manifest["config"], stage)
        for name, digest in manifest["inputs"].items():
            yield f"{stage}: input {name}", digest[:12] if len(digest) == 64 else digest
        for name, version in manifest["packages"].items():
            yield f"version of {name}", version
        yield "version of python", manifest["python"]
        yield f"{stage}: seed", str(manifest["seed"])


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, below in value.items():
            yield from _flat(below, f"{path}.{key}")
    else:
        yield path, json.dumps(value, ensure_ascii=False)


def _captions(results: Mapping[str, Results]) -> Table | None:
    metrics = list(
        dict.fromkeys(m for r in results.values() for by in r.scores.values() for m in by)
    )
    if not metrics:
        return None
    rows: list[list[Value]] = []
    for run, found in results.items():
        for captioner, by in found.scores.items():
            n = 0 if found.references is None else found.references["article_id"].n_unique()
            rows.append([f"{run}: {captioner}", n, *(by.get(m) for m in metrics)])
    mixed = [
        m for m in metrics if len({r.signatures.get(m) for r in results.values()} - {None}) > 1
    ]
    note = "95 % bootstrap intervals over articles."
    if mixed:
        note += (
            f" {', '.join(map(label, mixed))} were not computed in the same way in all runs (their "
            "signatures differ): do not compare these columns."
        )
    columns = (Column("row", "Run: captioner"), Column("n", "Articles"))
    scores = (Column(m, label(m)) for m in metrics)
    return Table("captions", "Captions", (*columns, *scores), rows, note)


def _ranking(results: Mapping[str, Results]) -> Table | None:
    with_metrics = {n: r for n, r in results.items() if r.metrics is not None}
    metrics = list(
        dict.fromkeys(
            m for r in with_metrics.values() if r.metrics is not None for m in r.metrics["metric"]
        )
    )
    if not metrics:
        return None
    cells: dict[tuple[str, str, str], dict[str, Estimate]] = {}
    for run, found in with_metrics.items():
        for metric in metrics:
            for (row, setting), estimate in found.estimates(metric).items():
                cells.setdefault((row, setting, run), {})[metric] = estimate
    rows: list[list[Value]] = [
        [f"{row} · {setting}" if setting != "-" else row, run, *(by.get(m) for m in metrics)]
        for (row, setting, run), by in sorted(
            cells.items(), key=lambda item: (item[0][0], item[0][1], [*results].index(item[0][2]))
        )
    ]
    protocols = {found.protocol() for found in with_metrics.values()}
    note = next(iter(protocols)) if len(protocols) == 1 else (
        "The runs follow different protocols: do not compare their numbers. "
        + " ".join(f"{name}: {found.protocol()}" for name, found in with_metrics.items())
    )  # fmt: skip
    columns = (Column("row", "Recommender · text"), Column("run", "Run"))
    scores = (Column(m, label(m), decimals=4) for m in metrics)
    return Table("ranking", "Recommendation", (*columns, *scores), rows, note)


Pair = tuple[str, str, str, pl.DataFrame]
"""(row, run, metric, one row a unit with the columns `control` and `treatment`)."""


def _caption_pairs(results: Mapping[str, Results]) -> Iterator[Pair]:
    control, *others = results
    for run in others:
        for captioner, frame in results[run].item_scores.items():
            base = results[control].item_scores.get(captioner)
            if base is None:
                continue
            for metric in (c for c in frame.columns if c != "article_id" and c in base.columns):
                same = results[run].signatures.get(metric) == results[control].signatures.get(
                    metric
                )
                mean = results[run].scores.get(captioner, {}).get(metric)
                if not same or not isinstance(mean, Estimate) or mean.low is None:
                    continue  # corpus values are no means of their items
                yield (
                    captioner,
                    run,
                    metric,
                    base.select("article_id", control=metric).join(
                        frame.select("article_id", treatment=metric), on="article_id"
                    ),
                )


def _ranking_pairs(results: Mapping[str, Results]) -> Iterator[Pair]:
    control, *others = results
    base = _per_user(results[control])
    for run in others:
        frame = _per_user(results[run])
        same = results[run].protocol() == results[control].protocol()
        if base is None or frame is None or not same:
            continue
        metrics = [c for c in frame.columns if "@" in c and c in base.columns]
        joined = base.join(frame, on=["user_id", "recommender", "setting"], suffix=" of run")
        for (row, setting), own in joined.group_by(["recommender", "setting"], maintain_order=True):
            for metric in metrics:
                name = f"{row} · {setting}" if setting != "-" else str(row)
                yield name, run, metric, own.select(control=metric, treatment=f"{metric} of run")


def _gains(results: Mapping[str, Results], name: str, pairs: Iterator[Pair]) -> Table | None:
    """Mean difference of every pair with its interval, corrected over all of them."""
    from recsys.significance import holm, paired_bootstrap

    tested = []
    for row, run, metric, frame in pairs:
        if frame.height:
            found = paired_bootstrap(
                frame["treatment"], frame["control"], n_resamples=RESAMPLES, seed=0
            )
            tested.append((row, run, metric, found))
    if not tested:
        return None
    adjusted = holm([found.p_value for *_, found in tested])
    rows: list[list[Value]] = []
    for (row, run, metric, found), p in zip(tested, adjusted, strict=True):
        shown = "higher" if found.estimate > 0 else "lower"
        verdict = shown if p < 0.05 else f"no difference shown (found: {found.detectable:.3g})"
        if not found.detectable:
            verdict = "the same for every unit"
        difference = Estimate(found.estimate, found.low, found.high)
        rows.append([row, run, label(metric), found.n, difference, float(p), verdict])
    control = next(iter(results))
    return Table(
        name,
        f"Difference from {control}, unit by unit",
        (
            Column("row", "Row"),
            Column("run", "Run"),
            Column("metric", "Metric"),
            Column("n", "Units"),
            Column("difference", "Difference", decimals=4, signed=True),
            Column("p", "p, corrected"),
            Column("verdict", "Verdict"),
        ),
        rows,
        "Articles (captions) or customers (recommendation) that both runs have. 95 % intervals of "
        "the mean paired difference by bootstrap, p-values after Holm's correction over this "
        "table; in brackets the smallest difference that would probably have been found.",
    )


def _per_user(found: Results) -> pl.DataFrame | None:
    path = Workspace(found.folder).stage_file("recommend", "user_metrics.parquet")
    return None if path is None else pl.read_parquet(path)


def _costs(results: Mapping[str, Results]) -> Table:
    stages = list(dict.fromkeys(stage for found in results.values() for stage in found.manifests))
    rows: list[list[Value]] = []
    for stage in stages:
        cells: list[Value] = []
        for found in results.values():
            manifest = found.manifests.get(stage)
            cells.append(Missing("not run") if manifest is None else float(manifest["seconds"]))
        rows.append([stage, *cells])
    return Table(
        "costs",
        "Seconds of each stage",
        (Column("stage", "Stage"), *(Column(name, name, decimals=1) for name in results)),
        rows,
    )
