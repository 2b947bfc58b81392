"""The report's sections about reinforcement and about what the networks see in the photos."""

from __future__ import annotations

import base64
from typing import Any

import polars as pl

from pipelines import plots
from pipelines.conclusions import p_value
from pipelines.page import Page, clip, sentence_case
from pipelines.reinforce import CONTROL, REINFORCED
from pipelines.reinforce import STAGE as REINFORCE
from pipelines.results import label
from pipelines.seeing import ATTENTION, ZERO_SHOT
from pipelines.tables import Column, Estimate, Table
from pipelines.workspace import read_json

WHY = {
    "best": "Highest CLIPScore",
    "worst": "Lowest CLIPScore",
}
FIELDS = {
    "product_type_name": "Type",
    "colour_group_name": "Colour",
    "graphical_appearance_name": "Pattern",
}


def reinforcement(page: Page) -> dict[str, Any] | None:
    """Reward curves, and what the reward changed on the test part beside more training."""
    comparison = _json(page, REINFORCE, "comparison.json")
    if comparison is None:
        return None
    curves = {}
    for name, file in ((REINFORCED, "history.csv"), (CONTROL, "control/history.csv")):
        path = page.run.workspace.stage_file(REINFORCE, file)
        if path is not None:
            rows = pl.read_csv(path).filter(pl.col("split") == "validation")
            curves[name] = (rows["step"].to_list(), rows["reward"].to_list())
    record = page.results.record(REINFORCE)
    measures = list(dict.fromkeys(v["measure"] for v in comparison["values"]))
    names = list(dict.fromkeys(v["captioner"] for v in comparison["values"]))
    values = {(v["captioner"], v["measure"]): v for v in comparison["values"]}
    table = Table(
        "reinforcement",
        "Captions of the test part, before and after",
        (Column("captioner", "Captioner"), *(Column(m, _named(m)) for m in measures)),
        [
            [name, *(_estimate(values[name, measure], "value") for measure in measures)]
            for name in names
        ],
        f"95 % bootstrap intervals over {comparison['n']:,} articles. {CONTROL} made as many steps "
        "by maximum likelihood alone. Audit: shares of the article's fields that a caption is "
        "right about or contradicts.",
    )
    pairs = Table(
        "reinforcement-differences",
        "What the reward changed, article by article",
        (
            Column("pair", "Captioners"),
            Column("measure", "Measure"),
            Column("difference", "Difference", signed=True),
            Column("p_holm", "Adjusted p"),
        ),
        [
            [
                f"{d['captioner']} − {d['against']}",
                _named(d["measure"]),
                _estimate(d, "difference"),
                p_value(d["p_adjusted"]),
            ]
            for d in comparison["differences"]
        ],
        "Paired bootstrap over articles; p-values of this table are corrected by Holm.",
    )
    return {
        "record": record,
        "lines": [clip(str(line)) for line in record.get("lines", ())],
        "table": page.table(table),
        "pairs": page.table(pairs),
        "figure": page.figure(
            "reward-curve",
            plots.learning_curve(curves, record.get("best_step"), "reward of greedy captions"),
            "Reward of greedy captions of validation photos, with and without being paid for it; "
            "the line marks the kept checkpoint.",
        ),
    }


def seeing(page: Page) -> dict[str, Any] | None:
    """Attention maps word by word, and zero-shot accuracies; None where neither was made."""
    maps = _json(page, ATTENTION, "maps.json")
    found = _json(page, ZERO_SHOT, "accuracies.json")
    if maps is None and found is None:
        return None
    return {
        "groups": [] if maps is None else _groups(page, maps),
        "captioner": None if maps is None else maps["captioner"],
        "zero_shot": None if found is None else _accuracies(page, found),
    }


def word_maps(page: Page) -> dict[str, list[dict[str, Any]]]:
    """Article drawn at random -> the words of its caption, each with its map; {} without maps."""
    maps = _json(page, ATTENTION, "maps.json")
    items = [] if maps is None else maps["items"]
    return {item["article_id"]: _words(page, item) for item in items if item["why"] == "drawn"}


def _groups(page: Page, maps: dict[str, Any]) -> list[dict[str, Any]]:
    groups = []
    for why, heading in WHY.items():
        cards = [
            {
                **page.article(item["article_id"], 96),
                "caption": sentence_case(clip(item["caption"])),
                "clipscore": item["clipscore"],
                "words": _words(page, item),
            }
            for item in maps["items"]
            if item["why"] == why
        ]
        if cards:
            groups.append({"heading": heading, "cards": cards})
    return groups


def _words(page: Page, item: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"word": clip(w["word"], 40), "image": _tile(page, w["file"])} for w in item["words"]]


def _tile(page: Page, name: str) -> str | None:
    """An overlay as a data URI, its checksum checked like every file of a stage."""
    path = page.run.workspace.stage_file(ATTENTION, name)
    if path is None:
        return None
    text = base64.b64encode(path.read_bytes()).decode("ascii")
    return page.photos.spend(f"data:image/jpeg;base64,{text}")


def _accuracies(page: Page, found: dict[str, Any]) -> Table:
    rows = []
    for column, field in found["fields"].items():
        for each in (*field["templates"], field["commonest"]):
            rows.append(
                [
                    FIELDS.get(column, column),
                    each["template"],
                    Estimate(*(100 * each[k] for k in ("value", "low", "high"))),
                    field["classes"],
                    each["n"],
                ]
            )
    return page.table(
        Table(
            "zero-shot",
            "CLIP names type, colour and pattern without being trained to",
            (
                Column("field", "Field"),
                Column("template", "Prompt"),
                Column("accuracy", "Accuracy, %", decimals=1),
                Column("classes", "Classes"),
                Column("n", "Photos"),
            ),
            rows,
            f"Checkpoint {found['clip']}; 95 % Wilson intervals. The class with the sentence "
            "nearest to the photo ({} stands for the class); “all of them” averages the sentences "
            "of a class.",
        )
    )


def _json(page: Page, stage: str, name: str) -> dict[str, Any] | None:
    path = page.run.workspace.stage_file(stage, name)
    return None if path is None else read_json(path)


def _estimate(entry: dict[str, Any], key: str) -> Estimate:
    return Estimate(entry[key], entry["low"], entry["high"])


def _named(measure: str) -> str:
    return {"als": "ALS", "sls": "SLS"}.get(measure, label(measure))
