"""What a run holds, read and checked once: the one reader behind report and comparisons of runs.

Every part may be absent, because a run may be reported at any moment; absent parts are empty.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from pipelines.tables import Estimate, Missing
from pipelines.workspace import Workspace, file_sha256, read_json

STAGES = ("catalogue", "train-captioner", "caption-items", "score-captions", "recommend")
"""Stages in the order in which a run makes them."""
OPTIONAL = ("reinforce-captioner", "attention", "zero-shot")
"""Stages whose absence nobody has to be told of."""
WRITTEN_BY_MODELS = ("reinforced", "mle-control", "fine-tuned", "pretrained")
BASELINES = ("retrieval", "consensus", "copy-nearest", "most-frequent")
CATALOGUE = "catalogue"
"""Key of the audit over everything written for the catalogue."""
METRICS = (
    *("cider-d", "cider", "meteor", "bleu-4", "rouge-l", "spice", "clipscore", "refclipscore"),
    *("category-accuracy", "attribute-f1", "attribute-map", "attribute-mar"),
    *(f"bleu-{n}" for n in range(1, 4)),
)
"""Caption metrics of quality, those that say most first."""


@dataclass(frozen=True)
class Results:
    """The artefacts of a run's finished stages."""

    folder: Path
    manifests: Mapping[str, dict[str, Any]]
    """Stage -> manifest, in the order of `STAGES`, then of `OPTIONAL`."""
    history: pl.DataFrame | None
    """step, epoch, split, loss."""
    written: pl.DataFrame | None
    """Captions of the whole catalogue: article_id, caption, captioner, logprob."""
    captions: pl.DataFrame | None
    """The compared captioners on the test part: article_id, caption, captioner."""
    references: pl.DataFrame | None
    """article_id, reference."""
    scores: Mapping[str, Mapping[str, Estimate | Missing]]
    """captioner -> metric -> value; captioners and metrics in reading order."""
    signatures: Mapping[str, str]
    """metric -> how it was computed."""
    item_scores: Mapping[str, pl.DataFrame]
    """captioner -> article_id and one column a metric."""
    comparisons: tuple[dict[str, Any], ...]
    audit: Mapping[str, dict[str, dict[str, dict[str, float]]]]
    """captioner -> field -> right, silent, contradicting -> value, low, high, count, n."""
    audit_items: pl.DataFrame | None
    """captioner, article_id, field, verdict, expected, found."""
    metrics: pl.DataFrame | None
    """recommender, setting, metric ("ndcg@12"), value, low, high, n_users, signature."""
    differences: pl.DataFrame | None
    recommendations: pl.LazyFrame | None
    """Not read until it is asked: a full catalogue has tens of millions of rows."""
    split: Mapping[str, Any]

    @property
    def captioner(self) -> str | None:
        """Name of the captioner that wrote the run's captions."""
        for stage in ("score-captions", "caption-items"):
            if stage in self.manifests:
                return str(self.manifests[stage]["record"]["captioner"])
        return None

    def record(self, stage: str) -> dict[str, Any]:
        """What the stage noted about itself; empty where it is absent."""
        record: dict[str, Any] = self.manifests.get(stage, {}).get("record", {})
        return record

    def stale(self) -> list[str]:
        """Stages whose numbers rest on other captions than the run holds now."""
        files = self.manifests.get("caption-items", {}).get("files", {})
        now = files.get("captions.parquet")
        inputs = {stage: manifest["inputs"] for stage, manifest in self.manifests.items()}
        used = {
            "score-captions": inputs.get("score-captions", {}).get("captions", now),
            # Lists made before there were captions name none.
            "recommend": inputs["recommend"].get("captions.parquet")
            if "recommend" in inputs
            else now,
        }
        return [stage for stage, digest in used.items() if digest != now]

    def protocol(self) -> str:
        """How the recommenders were compared, in one line."""
        return str(self.record("recommend").get("protocol", ""))

    def headline(self) -> str | None:
        """The caption metric that stands for the others: CIDEr where it is there."""
        names = {m for by in self.scores.values() for m, v in by.items() if isinstance(v, Estimate)}
        wanted = ("cider-d", "cider", "meteor", "rouge-l", *sorted(names))
        return next((name for name in wanted if name in names), None)

    def ranking_metric(self) -> str | None:
        """The ranking metric that stands for the others: NDCG at the largest k."""
        if self.metrics is None:
            return None
        names = self.metrics["metric"].unique(maintain_order=True).to_list()
        ndcg = [name for name in names if name.startswith("ndcg@")]
        return str(max(ndcg, key=lambda name: int(name.partition("@")[2])) if ndcg else names[0])

    def estimates(self, metric: str) -> dict[tuple[str, str], Estimate]:
        """(recommender, setting) -> value of `metric`, best first."""
        if self.metrics is None:
            return {}
        rows = self.metrics.filter(pl.col("metric") == metric).sort(
            "value", descending=True, maintain_order=True
        )
        return {
            (row["recommender"], row["setting"]): Estimate(row["value"], row["low"], row["high"])
            for row in rows.iter_rows(named=True)
        }

    def settings(self) -> list[str]:
        """Text settings in the order in which they were asked for; the first is the control."""
        if self.metrics is None:
            return []
        names = self.metrics["setting"].unique(maintain_order=True).to_list()
        return [name for name in names if name != "-"]


def read_results(workspace: Workspace) -> Results:
    """Read every finished stage of a run.

    Raises:
        InputError: a file is not what its manifest says (names the command that mends it).
    """
    manifests = {s: m for s in (*STAGES, *OPTIONAL) if (m := workspace.manifest(s)) is not None}

    def table(stage: str, name: str) -> pl.DataFrame | None:
        path = workspace.stage_file(stage, name)
        if path is None:
            return None
        return pl.read_parquet(path) if path.suffix == ".parquet" else pl.read_csv(path)

    def json_of(stage: str, name: str) -> dict[str, Any]:
        path = workspace.stage_file(stage, name)
        return {} if path is None else read_json(path) or {}

    score = "score-captions"
    names = [
        name.removesuffix("/scores.json")
        for name in manifests.get(score, {}).get("files", {})
        if name.endswith("/scores.json")
    ]
    names = sorted(names, key=lambda n: (_place(n, (*WRITTEN_BY_MODELS, *BASELINES), first=-1), n))
    raw = {name: json_of(score, f"{name}/scores.json") for name in names}
    metrics = sorted({m for by in raw.values() for m in by}, key=lambda m: (_place(m, METRICS), m))
    items = {name: table(score, f"{name}/caption_scores.parquet") for name in names}
    found = table("recommend", "metrics.csv")
    if found is not None:
        found = found.with_columns(pl.format("{}@{}", "metric", "k").alias("metric"))
    differences = table("recommend", "differences.csv")
    lists = workspace.stage_file("recommend", "recommendations.parquet")
    return Results(
        folder=workspace.folder,
        manifests=manifests,
        history=table("train-captioner", "history.csv"),
        written=table("caption-items", "captions.parquet"),
        captions=table(score, "captions.parquet"),
        references=table(score, "references.parquet"),
        scores={name: {m: _score(by[m]) for m in metrics if m in by} for name, by in raw.items()},
        signatures={
            m: by[m]["signature"]
            for by in reversed(raw.values())
            for m in metrics
            if "signature" in by.get(m, {})
        },
        item_scores={name: frame for name, frame in items.items() if frame is not None},
        comparisons=tuple(json_of(score, "comparisons.json").get("pairs", ())),
        audit=json_of(score, "audit.json"),
        audit_items=table(score, "audit.parquet"),
        metrics=found,
        differences=differences if differences is not None and differences.height else None,
        recommendations=None if lists is None else pl.scan_parquet(lists),
        split=json_of("recommend", "split.json"),
    )


def manifest_hashes(workspace: Workspace) -> dict[str, str]:
    """Stage -> sha256 of its manifest: what a reader of the run depends on."""
    paths = {stage: workspace.folder / stage / "manifest.json" for stage in (*STAGES, *OPTIONAL)}
    return {stage: file_sha256(path) for stage, path in paths.items() if path.is_file()}


def drawn(ids: Iterable[str], n: int, seed: int) -> list[str]:
    """The first n of `ids` in an order that depends on each id and the seed alone: whoever draws
    from a part of them draws the same ones, as far as they are there."""

    def place(item: str) -> bytes:
        return hashlib.sha256(f"{seed}\0{item}".encode()).digest()

    return sorted(set(ids), key=place)[:n]


def label(metric: str) -> str:
    """A metric's name as it is written in papers."""
    name, at, k = metric.partition("@")
    special = {"cider-d": "CIDEr-D", "cider": "CIDEr", "clipscore": "CLIPScore"}
    special |= {"refclipscore": "RefCLIPScore", "attribute-f1": "Attribute F1"}
    special |= {"map_elliot": f"Elliot’s MAP{at}{k}"}
    special |= {"attribute-map": "Attribute MAP", "attribute-mar": "Attribute MAR"}
    if name in special:
        return special[name]
    if re.fullmatch(r"(bleu|rouge|meteor|spice|ndcg|map)(-\w+)?", name):
        return f"{name.upper()}{at}{k}"
    plain = name.replace("-", " ").replace("_", " ")
    return f"{plain[:1].upper()}{plain[1:]}{at}{k}"


def _place(name: str, order: tuple[str, ...], first: int | None = None) -> int:
    return order.index(name) if name in order else len(order) if first is None else first


def _score(entry: Mapping[str, Any]) -> Estimate | Missing:
    if "unavailable" in entry:
        return Missing(str(entry["unavailable"]))
    return Estimate(entry["value"], entry.get("low"), entry.get("high"))
