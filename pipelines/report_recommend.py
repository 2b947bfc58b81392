"""The report's sections about recommendation: the table, what the words did, customers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any, Literal

import numpy as np
import polars as pl

from pipelines import plots
from pipelines.conclusions import p_value, significant
from pipelines.page import Page
from pipelines.results import Results, label
from pipelines.tables import Column, Estimate, Table, Value

SHOWN_ITEMS = 6
"""Articles shown of a list or a history."""


def ranking(page: Page) -> dict[str, Any] | None:
    results, metric = page.results, page.results.ranking_metric()
    if results.metrics is None or metric is None:
        return None
    names = results.metrics["metric"].unique(maintain_order=True).to_list()
    cells = {
        (r["recommender"], r["setting"], r["metric"]): Estimate(r["value"], r["low"], r["high"])
        for r in results.metrics.iter_rows(named=True)
    }
    lines = list(dict.fromkeys((name, setting) for name, setting, _ in cells))
    users = int(results.metrics["n_users"].max())  # type: ignore[arg-type]
    record = results.record("recommend")
    config = results.manifests["recommend"]["config"].get("recommend", {})
    seen = (
        "Articles a customer bought before are left out of the lists."
        if config.get("exclude_seen")
        else "Articles a customer bought before stay in the lists, because people re-buy clothes."
    )
    table = Table(
        "recommendations",
        "Recommenders on the next purchases",
        (
            Column("recommender", "Recommender"),
            Column("text", "Article text"),
            *(Column(m, label(m), decimals=4, better=better(m)) for m in names),
        ),
        [[n, _setting(s), *(cells.get((n, s, m)) for m in names)] for n, s in lines],
        f"{seen} {users:,} customers; 95 % bootstrap intervals over customers. "
        f"{_readable(results.protocol())}.",
    )
    series: dict[str, dict[str, Estimate]] = {}
    for (name, setting), value in results.estimates(metric).items():
        series.setdefault(_setting(setting), {})[name] = value
    wanted = {_setting(s): None for s in ("-", *results.settings())}
    figure = page.figure(
        "recommendations",
        plots.intervals(
            {s: series[s] for s in wanted if s in series},
            list(dict.fromkeys(name for name, _ in results.estimates(metric))),
            label(metric),
        ),
        f"{label(metric)} of every recommender with its 95 % interval, best on top.",
    )
    signatures = Table(
        "recommendation-signatures",
        "How each number of the recommendation table was computed",
        (
            Column("recommender", "Recommender"),
            Column("text", "Article text"),
            Column("metric", "Metric"),
            Column("signature", "Signature"),
        ),
        [
            [r["recommender"], _setting(r["setting"]), label(r["metric"]), r["signature"]]
            for r in results.metrics.iter_rows(named=True)
        ],
    )
    return {
        "table": page.table(table),
        "signatures": page.table(signatures),
        "figure": figure,
        "seen": seen,
        "protocol": results.protocol(),
        "notes": record.get("notes", []),
        "split": results.split,
    }


def better(metric: str) -> Literal["high", ""]:
    """Hits have a better end; spread, novelty and popularity are what a shop wants them to be."""
    from recsys.metrics import RELEVANCE_METRICS

    return "high" if metric.partition("@")[0] in RELEVANCE_METRICS else ""


def texts(page: Page) -> dict[str, Any] | None:
    results, metric = page.results, page.results.ranking_metric()
    if results.differences is None or metric is None:
        return None
    rows: list[list[Value]] = []
    values: dict[str, dict[str, Estimate]] = {}
    detectable: dict[str, float] = {}
    known = {m: results.estimates(m) for m in results.differences["metric"].unique()}
    first = results.differences.with_columns(first=pl.col("metric") == metric).sort(
        "first", descending=True, maintain_order=True
    )
    for row in first.iter_rows(named=True):
        difference = Estimate(row["difference"], row["low"], row["high"])
        rows.append(
            [
                row["recommender"],
                f"{row['setting']} − {row['against']}",
                label(row["metric"]),
                known[row["metric"]].get((row["recommender"], row["against"])),
                known[row["metric"]].get((row["recommender"], row["setting"])),
                difference,
                p_value(row["p_holm"]),
                "yes" if significant(row) else "no",
                row["detectable"],
                int(row["n_users"]),
            ]
        )
        if row["metric"] == metric:
            by_name = values.setdefault(f"{row['setting']} − {row['against']}", {})
            by_name[row["recommender"]] = difference
            name = row["recommender"]
            detectable[name] = max(detectable.get(name, 0.0), row["detectable"] or 0.0)
    table = Table(
        "text-settings",
        "What the text changed, customer by customer",
        (
            Column("recommender", "Recommender"),
            Column("settings", "Texts"),
            Column("metric", "Metric"),
            Column("before", "Before", decimals=4),
            Column("after", "After", decimals=4),
            Column("difference", "Difference", decimals=4, signed=True),
            Column("p_holm", "Adjusted p"),
            Column("shown", "Shown"),
            Column("detectable", "Detectable", decimals=4),
            Column("n_users", "Customers"),
        ),
        rows,
        "“fill − original”: after is the value under “fill”, before under “original”. "
        "Paired bootstrap over customers; p-values of this table are corrected by Holm. "
        "Shown: beyond chance. Detectable: the size of a change that this many "
        "customers would show four times out of five.",
    )
    names = list(dict.fromkeys(name for by in values.values() for name in by))
    figure = page.figure(
        "text-settings",
        plots.intervals(
            values, names, f"change of {label(metric)}", zero=True, detectable=detectable
        ),
        f"Change of {label(metric)} with its 95 % interval; within the grey band these customers "
        "can't reliably tell a change from none.",
    )
    return {"table": page.table(table), "figure": figure}


def reach(page: Page) -> dict[str, tuple[int, int]]:
    """Text setting -> articles whose text differs from the first setting's, of all articles."""
    from pipelines.augment import article_texts

    settings, written = page.results.settings(), page.results.written
    if len(settings) < 2 or written is None:
        return {}
    captions = dict(written.select("article_id", "caption").iter_rows())
    ids = page.catalog.articles["article_id"].to_list()
    human = page.catalog.articles["detail_desc"].to_list()
    first, *others = (article_texts(ids, human, captions, setting) for setting in settings)
    return {
        setting: (sum(a != b for a, b in zip(first, other, strict=True)), len(ids))
        for setting, other in zip(settings[1:], others, strict=True)
    }


def customers(page: Page) -> dict[str, Any] | None:
    """Customers with a history: half with a hit among the lists shown, half drawn from the rest."""
    results, wanted = page.results, page.run.config.report.customers
    lists, metric = results.recommendations, results.ranking_metric()
    cutoff = results.split.get("cutoff")
    if lists is None or metric is None or not wanted or cutoff is None:
        return None  # without one moment for everybody, a history has no before and after
    first = date.fromisoformat(cutoff)
    bought = page.catalog.purchases
    purchases = bought.select(
        pl.col("customer_id").alias("user_id"),
        "article_id",
        (pl.col("t_dat") >= first).alias("next"),
    )
    rows = _shown_rows(results, metric)
    others = [key for key in results.estimates(metric) if key not in rows]
    wanted_rows = pl.LazyFrame(rows, ["recommender", "setting"], orient="row")
    every = lists.filter(pl.col("rank") <= SHOWN_ITEMS).select(
        "user_id", "rank", "article_id", "recommender", "setting"
    )
    shown = every.join(wanted_rows, on=["recommender", "setting"], how="semi").collect()
    after = purchases.filter("next").select("user_id", "article_id").unique()
    hit = set(shown.join(after, on=["user_id", "article_id"])["user_id"])
    known = set(purchases.filter(~pl.col("next"))["user_id"])
    tested = [user for user in shown["user_id"].unique().sort() if user in known]
    rng = np.random.default_rng(page.run.config.seed)
    shuffled = [tested[i] for i in rng.permutation(len(tested))]
    lucky = [u for u in shuffled if u in hit][: (wanted + 1) // 2]
    chosen = lucky + [u for u in shuffled if u not in hit][: wanted - len(lucky)]
    theirs = every.filter(pl.col("user_id").is_in(chosen)).collect()

    def strip(user: str, name: str, setting: str, later: Sequence[str]) -> dict[str, Any]:
        listed = theirs.filter(
            (pl.col("user_id") == user)
            & (pl.col("recommender") == name)
            & (pl.col("setting") == setting)
        ).sort("rank")["article_id"]
        title = name if setting == "-" else f"{name} ({setting})"
        return _strip(page, f"{title} shows", listed.to_list(), later)

    cards = []
    for user in chosen:
        own = purchases.filter(pl.col("user_id") == user)
        before = own.filter(~pl.col("next"))["article_id"].reverse().unique(maintain_order=True)
        later = own.filter("next")["article_id"].unique(maintain_order=True).to_list()
        strips = [
            _strip(page, "Bought before", before.head(SHOWN_ITEMS).to_list(), (), len(before))
        ]
        strips += [strip(user, *key, later) for key in rows]
        strips.append(_strip(page, "Bought next", later[:SHOWN_ITEMS], (), len(later)))
        cards.append(
            {
                "id": user,
                "hit": user in hit,
                "strips": strips,
                "others": [strip(user, *key, later) for key in others],
            }
        )
    share = len(hit & set(tested)) / max(1, len(tested))
    return {"cards": cards, "share": share, "tested": len(tested), "length": SHOWN_ITEMS}


def _readable(protocol: str) -> str:
    """`split:global time|seen:kept` as it is read in a sentence."""
    return "; ".join(part.replace(":", ": ", 1) for part in protocol.split("|"))


def _setting(setting: str) -> str:
    return "reads no text" if setting == "-" else setting


def _shown_rows(results: Results, metric: str) -> list[tuple[str, str]]:
    """The best recommender, the best reader under its first and last text, the best-sellers."""
    ranked = list(results.estimates(metric))
    rows = ranked[:1]
    readers = [key for key in ranked if key[1] != "-"]
    if readers:
        name = readers[0][0]
        settings = [s for s in results.settings() if (name, s) in ranked]
        rows += [(name, settings[0]), (name, settings[-1])]
    rows += [key for key in ranked if key[0] == "mostpop"]
    return list(dict.fromkeys(rows))


def _strip(
    page: Page, title: str, ids: Sequence[str], bought: Sequence[str], total: int = 0
) -> dict[str, Any]:
    items = [{**page.article(i, 96), "hit": i in bought} for i in ids]
    return {"title": title, "items": items, "more": max(0, total - len(items))}
