"""The report's tables of published figures: beside ours where the protocol is the same, marked
with what differs where it is not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.caption_data import FOLDER, MARKER, PARTS
from pipelines.page import Page
from pipelines.published import (
    ANCHORS,
    ARTICLES,
    FIGURES,
    METRICS,
    NAMES,
    THESIS,
    TRIALS,
    Protocol,
    differing,
    ranking_differing,
)
from pipelines.reinforce import STAGE as REINFORCE
from pipelines.results import label
from pipelines.tables import Column, Estimate, Table, Value
from pipelines.train_captioner import STAGE as TRAIN
from pipelines.workspace import read_json

SAME = "same, as far as published"
OURS = "this run"
ELSEWHERE = ("category-accuracy", "attribute-map", "attribute-mar")
SHOWN = ("cider-d", "meteor", "bleu-4", "rouge-l", "spice", "clipscore", *ELSEWHERE)


def published_captions(page: Page) -> dict[str, Any] | None:
    """Every published line of caption scores; ours stand above those they may be compared with."""
    results = page.results
    if not results.scores:
        return None
    ours = _protocol(page)
    compared: dict[str, list[list[Value]]] = {}
    others: list[list[Value]] = []
    for trial in TRIALS:
        different = differing(trial, ours)
        line: list[Value] = [
            f"{trial.system}: {trial.line}",
            NAMES[trial.dataset],
            _said(different),
            *(trial.figures.get(metric) for metric in SHOWN),
        ]
        (others if different else compared.setdefault(trial.captioner, [])).append(line)
    rows: list[list[Value]] = []
    for captioner in ("pretrained", "fine-tuned", "reinforced"):
        own = results.scores.get(captioner)
        if own and (captioner in compared or (captioner != "reinforced" and not compared)):
            values = [own.get(metric) for metric in SHOWN]
            rows.append(
                [f"{OURS}: {captioner}", NAMES.get(ours.dataset, ours.dataset), "–", *values]
            )
        rows += compared.get(captioner, [])
    same = sum(len(lines) for lines in compared.values())
    table = Table(
        "published-captions",
        "Captions: figures published by others",
        (
            Column("line", "System"),
            Column("data", "Data"),
            Column("protocol", "Same protocol as this run?"),
            *(Column(m, f"{label(m)}{' *' * (m in ELSEWHERE)}") for m in SHOWN),
        ),
        rows + others,
        "R1 to R5 are the systems that fcr’s presets repeat. A line is compared with what this run "
        "recorded of its data, parts, checkpoint and settings. Published without intervals. "
        "* Attributes were tagged by Stanza and categories told by a BERT classifier there: these "
        "columns never compare. Scores on R3’s H&M are those of a test part of which more "
        "than half stands word for word in the training part.",
    )
    return {"table": page.table(table), "same": same, "lines": len(TRIALS)}


def published_ranking(page: Page) -> dict[str, Any] | None:
    """The thesis' table and other benchmarks on H&M, beside the rows of this run's comparison."""
    results = page.results
    if results.metrics is None:
        return None
    config = results.manifests["recommend"]["config"]
    purchases = 0 if page.catalog.purchases is None else page.catalog.purchases.height
    articles = page.catalog.articles.height
    metrics = (*METRICS, "map@12")
    ours: dict[tuple[str, str], dict[str, Estimate]] = {}
    for metric in metrics:
        for key, estimate in results.estimates(metric).items():
            ours.setdefault(key, {})[metric] = estimate
    rows: list[list[Value]] = []
    same = 0
    different = {
        preset: ranking_differing(preset, config, articles, purchases)
        for preset in (THESIS, *(preset for _, preset, *_ in ANCHORS))
    }
    for row, sides in FIGURES.items():
        for setting, values in zip(("original", "fill"), sides, strict=True):
            text = "404 descriptions added" if setting == "fill" else "original"
            figures = dict(zip(METRICS, values, strict=True))
            own = ours.get((row, setting), ours.get((row, "-")))
            if not different[THESIS] and own is not None:
                same += 1
                rows.append([f"{OURS}: {row}", setting, "–", *_padded(own, metrics)])
            rows.append([f"R3: {row}", text, _said(different[THESIS]), *_padded(figures, metrics)])
    for name, preset, metric, value in ANCHORS:
        same += not different[preset]
        rows.append([name, "–", _said(different[preset]), *_padded({metric: value}, metrics)])
    if not same:
        own_rows: list[list[Value]] = [
            [
                f"{OURS}: {name}",
                "reads no text" if setting == "-" else setting,
                "–",
                *_padded(own, metrics),
            ]
            for (name, setting), own in ours.items()
        ]
        rows = own_rows + rows
    table = Table(
        "published-recommendations",
        "Recommendation: figures published by others",
        (
            Column("row", "Row"),
            Column("text", "Article text"),
            Column("protocol", "Same protocol as this run?"),
            *(Column(metric, label(metric), decimals=5) for metric in metrics),
        ),
        rows,
        "R3 predicts each customer’s own last fifth, so others’ future is known, and its MAP is "
        "Elliot’s, the mean of the precision at 1..k; its content rows are VBPR. “404 descriptions "
        f"added” changes 0.4 % of {ARTICLES:,} articles. Kaggle’s and RelBench’s MAP is that of a "
        "week. Published without intervals.",
    )
    return {"table": page.table(table), "same": same, "lines": 2 * len(FIGURES) + len(ANCHORS)}


def _protocol(page: Page) -> Protocol:
    """What the run recorded of how its captions were made and scored."""
    results, run = page.results, page.run
    dataset, split = _data(page)
    trained = results.manifests.get(TRAIN, {})
    sizes = trained.get("record", {}).get("sizes")
    config: dict[str, Any] = {**trained.get("config", {})}
    config.pop("captions", None)
    score = results.manifests.get("score-captions", {}).get("config", {})
    config["generate"] = score.get("generate", {})
    if REINFORCE in results.manifests:
        config["reinforce"] = results.manifests[REINFORCE]["config"].get("reinforce", {})
    if "captioner" not in config:
        config["captioner"] = {"checkpoint": run.config.captioner.checkpoint}
    found = re.search(r"tok:([\w.-]+)", " ".join(results.signatures.values()))
    parts = tuple(sizes[part] for part in ("train", "validation", "test")) if sizes else None
    return Protocol(dataset, split, parts, config, found[1] if found else "")  # type: ignore[arg-type]


def _data(page: Page) -> tuple[str, str]:
    """Name of the data as `fcr data prepare` calls it, and the policy of its split."""
    run = page.run
    if run.is_demo:
        return "demo", "leak-free"
    source = read_json(run.data / MARKER)
    if source is None:  # a shop's tables, which are always cut without leaks
        return ("hm" if page.catalog.articles.height == ARTICLES else run.data.name), "leak-free"
    prepared: Mapping[str, Any] = read_json(Path(source["folder"]) / "manifest.json") or {}
    split = prepared.get("record", {}).get("protocol", {}).get("split", "as given")
    name = prepared.get("config", {}).get("dataset")
    if name is None:
        parts = read_json(run.data / PARTS) or {}
        name = str(parts.get("info", {}).get("description", FOLDER))
    return name, split


def _padded(values: Mapping[str, Any], metrics: tuple[str, ...]) -> list[Value]:
    return [values.get(metric) for metric in metrics]


def _said(different: list[str]) -> str:
    return f"no: {'; '.join(different)}" if different else SAME
