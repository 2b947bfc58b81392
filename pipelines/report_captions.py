"""The report's sections about captions: scores, training, audit, gallery."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from pipelines import plots
from pipelines.conclusions import p_value, significant
from pipelines.page import Page, clip, sentence_case
from pipelines.report_seeing import word_maps
from pipelines.results import CATALOGUE, METRICS, Results, drawn, label
from pipelines.tables import Column, Estimate, Table, Value

WORST = 12
WORD = re.compile(r"[^\W\d_]+(?:[-'’/][^\W\d_]+)*")
VERDICTS = ("right", "silent", "contradicting")
STOPWORDS = frozenset(
    (
        *(
            "a",
            "an",
            "and",
            "are",
            "as",
            "at",
            "be",
            "by",
            "for",
            "from",
            "has",
            "have",
            "in",
            "is",
        ),
        *("it", "its", "of", "on", "one", "or", "over", "that", "the", "this", "to", "two", "with"),
    )
)


def captions(page: Page) -> dict[str, Any] | None:
    results = page.results
    if not results.scores or results.captions is None or results.references is None:
        return None
    metrics = list(dict.fromkeys(m for by in results.scores.values() for m in by))
    headline = results.headline()
    table = Table(
        "captions",
        "Captioners on articles kept from training",
        (
            Column("captioner", "Captioner"),
            *(Column(m, label(m), better="high" if m in METRICS else "") for m in metrics),
        ),
        [[name, *(by.get(m) for m in metrics)] for name, by in results.scores.items()],
        "95 % bootstrap intervals over articles, where the metric is a mean over articles. "
        "Retrieval, consensus, copy-nearest and most-frequent write no words of their own: they "
        "choose among the training descriptions.",
    )
    signatures = Table(
        "caption-signatures",
        "How each caption metric was computed",
        (Column("metric", "Metric"), Column("signature", "Signature")),
        [[label(m), s] for m, s in results.signatures.items()],
    )
    figures = []
    if headline is not None:
        values = {
            n: v for n, by in results.scores.items() if isinstance(v := by[headline], Estimate)
        }
        figures.append(
            page.figure(
                "caption-scores",
                plots.intervals({label(headline): values}, list(values), label(headline)),
                f"{label(headline)} of every captioner with its 95 % interval.",
            )
        )
    texts = _texts_by_writer(results)
    counts = {name: np.array([len(text.split()) for text in own]) for name, own in texts.items()}
    figures.append(
        page.figure(
            "caption-lengths",
            plots.lengths(counts),
            "How many words the texts have: median (dot), middle half (thick), middle 90 % (thin).",
        )
    )
    figures.append(_word_chart(page, texts))
    return {
        "table": page.table(table),
        "signatures": page.table(signatures),
        "comparisons": page.table(_comparisons(results)) if results.comparisons else None,
        "variety": page.table(_variety(texts)),
        "figures": figures,
    }


def training(page: Page) -> dict[str, Any] | None:
    history, record = page.results.history, page.results.record("train-captioner")
    if history is None:
        return None
    losses = {
        str(part): (rows["step"].to_list(), rows["loss"].to_list())
        for (part,), rows in history.group_by(["split"], maintain_order=True)
    }
    table = Table(
        "learning-curve",
        "Learning curve",
        (
            Column("step", "Step"),
            Column("epoch", "Epoch", decimals=2),
            Column("split", "Part"),
            Column("loss", "Loss", decimals=4),
        ),
        [list(row) for row in history.select("step", "epoch", "split", "loss").iter_rows()],
        "Loss in nats a token.",
    )
    return {
        "table": page.table(table),
        "figures": [
            page.figure(
                "learning-curve",
                plots.learning_curve(losses, record.get("best_step")),
                "Loss on training and validation articles while the captioner learned; the line "
                "marks the kept checkpoint.",
            ),
            *_metric_curves(page),
        ],
        "record": record,
    }


def _metric_curves(page: Page) -> list[dict[str, str]]:
    """Caption metrics of every evaluation; nothing where no captions were generated."""
    path = page.run.workspace.stage_file("train-captioner", "metrics.csv")
    if path is None:
        return []
    curves = {
        label(str(metric)): (rows["step"].to_list(), rows["value"].to_list())
        for (metric,), rows in pl.read_csv(path).group_by(["metric"], maintain_order=True)
    }
    best = page.results.record("train-captioner").get("best_step")
    drawn = plots.learning_curve(curves, best, "score")
    said = "Caption metrics on validation photos while the captioner learned."
    return [page.figure("metric-curves", drawn, said)]


def audit(page: Page) -> dict[str, Any] | None:
    results = page.results
    if not results.audit:
        return None
    order = [CATALOGUE, *(n for n in results.scores if n in results.audit)]
    names = {CATALOGUE: f"whole catalogue ({results.captioner})"}
    rows: list[list[Value]] = []
    bars: dict[str, dict[str, float]] = {verdict: {} for verdict in VERDICTS}
    for captioner in order:
        for part, rates in results.audit.get(captioner, {}).items():
            values = [_percent(rates[verdict]) for verdict in VERDICTS]
            shown = names.get(captioner, captioner)
            rows.append([shown, part, *values, int(rates["right"]["n"])])
            if captioner in (CATALOGUE, "pretrained", "consensus"):
                short = {CATALOGUE: "catalogue"}.get(captioner, captioner)
                for verdict in VERDICTS:
                    bars[verdict][f"{part}, {short}"] = rates[verdict]["value"] or 0.0
    bars = {
        v: dict(sorted(by.items(), key=lambda e: e[0].split(", ")[0])) for v, by in bars.items()
    }
    table = Table(
        "audit",
        "Captions against what the shop knows of the article",
        (
            Column("captions", "Captions"),
            Column("field", "Field"),
            Column("right", "Right, %", decimals=1),
            Column("silent", "Silent, %", decimals=1),
            Column("contradicting", "Contradicting, %", decimals=1),
            Column("n", "Captions audited"),
        ),
        rows,
        "95 % Wilson intervals. Silent: the caption names no value of the field.",
    )
    return {
        "table": page.table(table),
        "figure": page.figure(
            "audit",
            plots.shares(bars, list(bars["right"]), (2, 5, 1)),
            "Shares of captions that are right, silent or contradict the article, field by field.",
        ),
        "worst": _worst(page),
    }


def gallery(page: Page) -> dict[str, Any] | None:
    """Photos of the test part, drawn at random: no choice by how good the captions are."""
    results = page.results
    if results.captions is None or results.references is None:
        return None
    references: dict[str, list[str]] = {}
    for article_id, text in results.references.iter_rows():
        references.setdefault(article_id, []).append(text)
    maps = word_maps(page)
    wanted, seed = page.run.config.report.gallery, page.run.config.seed
    # Those whose maps were drawn come first; they were drawn at random too.
    chosen = [i for i in maps if i in references]
    chosen = (chosen + drawn(references.keys() - maps.keys(), wanted, seed))[:wanted]
    said: dict[tuple[str, str], str] = {
        (row["captioner"], row["article_id"]): row["caption"]
        for row in results.captions.filter(pl.col("article_id").is_in(chosen)).iter_rows(named=True)
    }
    metric = results.headline()
    score = {
        (name, row[0]): row[1]
        for name, frame in results.item_scores.items()
        if metric in frame.columns
        for row in frame.select("article_id", metric).iter_rows()
    }
    verdicts: dict[tuple[str, str], list[dict[str, str]]] = {}
    if results.audit_items is not None:
        of = results.audit_items.filter(pl.col("article_id").is_in(chosen))
        for row in of.iter_rows(named=True):
            verdicts.setdefault((row["captioner"], row["article_id"]), []).append(row)
    cards = []
    for article_id in chosen:
        texts = [
            {
                "captioner": name,
                "text": sentence_case(clip(said[name, article_id])),
                "score": score.get((name, article_id)),
                "verdicts": verdicts.get((name, article_id), []),
            }
            for name in results.scores
            if (name, article_id) in said
        ]
        cards.append(
            {
                **page.article(article_id, 240),
                "references": [clip(text) for text in references[article_id]],
                "texts": texts[:2],
                "baselines": texts[2:],
                "words": maps.get(article_id, []),
            }
        )
    page.table(
        Table(
            "gallery",
            "Test articles of the gallery",
            (
                Column("article_id", "Article"),
                Column("reference", "Human description"),
                *(Column(name, name) for name in results.scores),
            ),
            [
                [i, clip(references[i][0]), *(clip(said.get((n, i), "")) for n in results.scores)]
                for i in chosen
            ],
        )
    )
    return {
        "cards": cards,
        "total": len(references),
        "metric": label(metric) if metric else "",
        "maps": sum(bool(card["words"]) for card in cards),
        "captioner": results.captioner,
    }


def _comparisons(results: Results) -> Table:
    rows: list[list[Value]] = [
        [
            f"{pair['captioner']} − {pair['against']}",
            label(pair["metric"]),
            Estimate(pair["difference"], pair["low"], pair["high"]),
            p_value(pair["p_adjusted"]),
            "yes" if significant(pair) else "no",
            int(pair["n"]),
        ]
        for pair in results.comparisons
    ]
    return Table(
        "caption-comparisons",
        "Differences between captioners, article by article",
        (
            Column("pair", "Captioners"),
            Column("metric", "Metric"),
            Column("difference", "Difference", signed=True),
            Column("p_holm", "Adjusted p"),
            Column("shown", "Shown"),
            Column("n", "Articles"),
        ),
        rows,
        "Paired bootstrap over articles; p-values of this table are corrected by Holm. "
        "Shown: beyond chance.",
    )


def _texts_by_writer(results: Results) -> dict[str, list[str]]:
    assert results.captions is not None
    assert results.references is not None
    texts = {"reference": results.references["reference"].to_list()}
    for name in results.scores:
        own = results.captions.filter(pl.col("captioner") == name)["caption"].to_list()
        if own:
            texts[name] = own
    return texts


def _variety(texts: Mapping[str, Sequence[str]]) -> Table:
    rows: list[list[Value]] = []
    for name, own in texts.items():
        lengths = np.array([len(text.split()) for text in own])
        low, middle, high = (int(x) for x in np.quantile(lengths, [0.1, 0.5, 0.9]))
        vocabulary = {word for text in own for word in _words_of(text)}
        rows.append([name, len(own), len(set(own)), middle, f"{low}–{high}", len(vocabulary)])
    return Table(
        "caption-variety",
        "Length and variety",
        (
            Column("writer", "Written by"),
            Column("texts", "Texts"),
            Column("distinct", "Distinct"),
            Column("median_words", "Words, median"),
            Column("words_80", "Words, middle 80 %"),
            Column("vocabulary", "Different words"),
        ),
        rows,
    )


def _words_of(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _word_chart(page: Page, texts: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The commonest words of the references, and how often each captioner uses them."""
    shown = [n for n in ("reference", page.results.captioner, "pretrained") if n in texts]
    used: dict[str, dict[str, float]] = {}
    for name in dict.fromkeys(shown):
        counts: dict[str, float] = {}
        for text in texts[str(name)]:
            for word in sorted(set(_words_of(text)) - STOPWORDS):
                counts[word] = counts.get(word, 0.0) + 1 / len(texts[str(name)])
        used[str(name)] = counts
    reference = used["reference"]
    words = sorted(reference, key=lambda word: (-reference[word], word))[:14]
    shares = {name: [counts.get(w, 0.0) for w in words] for name, counts in used.items()}
    return page.figure(
        "caption-words",
        plots.words(shares, [word[:24] for word in words]),
        "The commonest words of the human descriptions, and how often the captions use them.",
    )


def _percent(rate: Mapping[str, float | None]) -> Estimate | None:
    value, low, high = rate["value"], rate["low"], rate["high"]
    if value is None or low is None or high is None:
        return None
    return Estimate(100 * value, 100 * low, 100 * high)


def _worst(page: Page) -> list[dict[str, Any]]:
    """Captions of the catalogue that contradict most fields; ties in the order of ids."""
    items, written = page.results.audit_items, page.results.written
    if items is None or written is None:
        return []
    wrong = items.filter(
        (pl.col("captioner") == CATALOGUE) & (pl.col("verdict") == "contradicting")
    )
    order = (
        wrong.group_by("article_id")
        .len()
        .sort(["len", "article_id"], descending=[True, False])
        .head(WORST)["article_id"]
        .to_list()
    )
    said = dict(written.select("article_id", "caption").iter_rows())
    faults: dict[str, list[dict[str, str]]] = {}
    for row in wrong.filter(pl.col("article_id").is_in(order)).iter_rows(named=True):
        faults.setdefault(row["article_id"], []).append(
            {k: clip(str(row[k])) for k in ("field", "expected", "found")}
        )
    cases = [
        {
            **page.article(article_id, 160),
            "caption": sentence_case(clip(said.get(article_id, ""))),
            "faults": faults[article_id],
        }
        for article_id in order
    ]
    page.table(
        Table(
            "audit-worst",
            "Captions that contradict most fields of their article",
            (
                Column("article_id", "Article"),
                Column("name", "Name"),
                Column("caption", "Caption"),
                Column("faults", "Contradictions"),
            ),
            [
                [
                    case["id"],
                    case["name"],
                    case["caption"],
                    "; ".join(
                        "{field}: {expected}, not {found}".format(**f) for f in case["faults"]
                    ),
                ]
                for case in cases
            ],
        )
    )
    return cases
