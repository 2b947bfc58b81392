"""The page of `fcr data describe`, drawn from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipelines import plots
from pipelines.page import clip
from pipelines.tables import Column, Table, Value

TEMPLATES = Path(__file__).with_name("templates")
CURVE = 101
"""Points of the popularity curve: 0 %, 1 % ... 100 % of the articles."""


def page(facts: Mapping[str, Any]) -> str:
    """The description as one HTML page without scripts or network."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    return environment.get_template("describe.html.j2").render(
        name=facts["name"],
        holds=facts["holds"],
        findings=facts["findings"],
        sections=[
            _caption_section(facts),
            _photo_section(facts),
            _category_section(facts),
            _purchase_section(facts),
        ],
        style=(TEMPLATES / "report.css").read_text(encoding="utf-8"),
    )


def _caption_section(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = facts["captions"]
    summary = [
        ("examples", found["examples"]), ("captions", found["captions"]),
        ("examples without text", found["missing"]), ("different texts", found["distinct"]),
        ("captions whose text others have too", found["repeated"]),
        ("different words", found["vocabulary"]), ("words that stand once", found["once"]),
        *((f"examples in {part}", n) for part, n in facts["parts"].items()),
        *((f"examples with {n} caption{'s' * (n != '1')}", k) for n, k in found["a_photo"].items()),
    ]  # fmt: skip
    lengths = {key: found[key] for key in ("words", "characters")}
    figures = []
    if found["of_words"]:
        drawn = _bars(found["of_words"], "words of a caption", "captions")
        figures.append(_shown("caption-words", drawn, "How long captions are"))
    return {
        "title": "Captions",
        "tables": [
            _counts("captions", "Captions", summary),
            _spreads("lengths", "Length of a caption", lengths),
            _listed("common-words", "Most common words, function words left out", found["common"]),
        ],
        "figures": figures,
    }


def _photo_section(facts: Mapping[str, Any]) -> dict[str, Any]:
    found = facts.get("photos")
    if not found:
        return {"title": "Photos", "tables": [], "figures": []}
    summary = [
        ("readable photos", found["photos"]), ("examples without photo", found["missing"]),
        ("photos that can't be read", found["unreadable"]),
        ("photos that are another's, byte for byte", found["repeated"]),
    ]  # fmt: skip
    sizes = {
        "width, pixels": found["width"],
        "height, pixels": found["height"],
        "width / height": found["ratio"],
        "megapixels": found["megapixels"],
    }
    return {
        "title": "Photos",
        "tables": [
            _counts("photos", "Photos", summary),
            _spreads("sizes", "Size of a photo", sizes),
            _listed("common-sizes", "Most common sizes", found["sizes"]),
        ],
        "figures": [],
    }


def _category_section(facts: Mapping[str, Any]) -> dict[str, Any]:
    tables = facts.get("tables", {})
    types = tables.get("product_type_name")
    listed = {
        "Categories": facts["categories"] if facts["categories"] != types else None,
        "Attributes": facts["attributes"],
        "Garment types of all articles": types,
        "Colours of all articles": tables.get("colour_group_name"),
        "Patterns of all articles": tables.get("graphical_appearance_name"),
    }
    return {
        "title": "Categories, colours, attributes",
        "tables": [
            _listed(f"list-{i}", title, found)
            for i, (title, found) in enumerate(listed.items())
            if found and found["top"]
        ],
        "figures": [],
    }


def _purchase_section(facts: Mapping[str, Any]) -> dict[str, Any]:
    found, tables = facts.get("purchases"), facts.get("tables")
    shown: list[Table] = []
    figures: list[dict[str, str]] = []
    if tables:
        rows = [
            ("articles", tables["articles"]), ("products", tables["products"]),
            ("articles without text", tables["without_text"]),
            ("articles without photo", tables["without_photo"]),
        ]  # fmt: skip
        shown.append(_counts("articles", "Articles", rows))
    if found:
        rows = [
            ("purchases", found["purchases"]), ("customers who bought", found["customers"]),
            ("customers who did not", found["customers_without"]),
            ("articles bought", found["articles"]),
            ("articles never bought", found["articles_without"]),
        ]  # fmt: skip
        note = (
            f"From {found['first']} to {found['last']}. Gini coefficient of the purchases of "
            f"articles that were bought: {found['gini']:.3f}."
        )
        shown.append(_counts("purchases", "Purchases", rows, note))
        both = {"of a customer": found["history"], "of an article": found["of_article"]}
        shown.append(_spreads("histories", "Purchases", both))
        weeks = [n for _, n in found["by_week"]]
        over_time = _curve(
            range(len(weeks)), weeks, f"weeks since {found['by_week'][0][0]}", "purchases a week"
        )
        percent = [100 * share for share in found["popularity"]]
        popular = _curve(
            range(CURVE), percent, "% of the articles, most bought first", "% of purchases"
        )
        histories = _bars(
            found["of_history"], "purchases of a customer (200: or more)", "customers"
        )
        figures = [
            _shown("purchases-by-week", over_time, "Purchases over time"),
            _shown(
                "popularity", popular, "How much of all purchases the most bought articles take"
            ),
            _shown("history-lengths", histories, "How long the customers' histories are"),
        ]
    return {"title": "Articles and purchases", "tables": shown, "figures": figures}


def _counts(name: str, title: str, rows: Sequence[tuple[str, int]], note: str = "") -> Table:
    return Table(name, title, [Column("what", ""), Column("n", "number")], rows, note)


def _spreads(name: str, title: str, found: Mapping[str, Mapping[str, float] | None]) -> Table:
    keys = ("min", "p5", "median", "mean", "p95", "max")
    rows: list[list[Value]] = [
        [what, *(_whole(numbers[key]) for key in keys)]
        for what, numbers in found.items()
        if numbers
    ]
    columns = [Column("what", ""), *(Column(key, key, decimals=2) for key in keys)]
    return Table(name, title, columns, rows)


def _listed(name: str, title: str, found: Mapping[str, Any]) -> Table:
    rows = [(clip(str(what)), n, 100 * n / found["total"]) for what, n in found["top"]]
    columns = [Column("what", ""), Column("n", "number"), Column("share", "% of all", decimals=1)]
    note = f"{len(rows):,} of {found['different']:,}" if found["different"] > len(rows) else ""
    return Table(name, title, columns, rows, note)


def _whole(number: float) -> int | float:
    return int(number) if number == int(number) else number


def _shown(name: str, svg: str, caption: str) -> dict[str, str]:
    return {"svg": plots.themed(svg, name, caption), "caption": caption}


def _curve(x: Sequence[float], y: Sequence[float], xlabel: str, ylabel: str) -> str:
    with plots._figure(2.9) as (axes, out):
        axes.plot(x, y, **plots._line(0))
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None), xlim=(0, None))
    return out[0]


def _bars(counts: Sequence[int], xlabel: str, ylabel: str) -> str:
    """Counts of 0, 1, 2 ... as steps, cut where only one in a thousand is left."""
    total = np.cumsum(counts)
    end = int(np.searchsorted(total, 0.999 * total[-1])) + 1
    with plots._figure(2.9) as (axes, out):
        axes.stairs(counts[:end], np.arange(end + 1) - 0.5, fill=True, color=plots.PALETTE[0])
        axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, None))
    return out[0]
