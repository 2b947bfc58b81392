"""One table, four dresses: cells for HTML, CSV, Markdown and LaTeX (booktabs) from the same values.

Texts may come from a shop's tables, so each writer escapes for its own reader: a spreadsheet that
runs `=...`, a Markdown renderer, TeX. HTML is escaped by the template.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

FORMULA = ("=", "+", "-", "@", "\t")
UNSEEN = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
PAGE_ROWS, LONG_CELL, PARAGRAPH = 45, 40, "12em"
"""Of LaTeX: rows that fit a page, characters beyond which a cell breaks its lines, and how wide."""
TURNS = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""Marks that turn the direction of text, which TeX does not know."""
TEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "|": r"\textbar{}",
        "→": r"$\to$",
        "≥": r"$\ge$",
        "≤": r"$\le$",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    }
)


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval, where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Missing:
    """A number that could not be had, and why."""

    reason: str


Value = str | int | float | Estimate | Missing | None


@dataclass(frozen=True)
class Column:
    """What stands in a column and how it is written."""

    key: str
    """Name in the CSV file."""
    label: str
    """Heading for people."""
    decimals: int = 3
    """Digits after the point of fractions."""
    better: Literal["high", "low", ""] = ""
    """Which end is the best one; "" where none is."""
    signed: bool = False
    """Write the plus sign too (differences)."""
    help: str = ""
    """What the heading means, for those who don't know."""


@dataclass(frozen=True)
class Shown:
    """A cell as it is read in HTML."""

    text: str
    detail: str = ""
    """The interval, or why there is no number."""
    sort: str = ""
    """What sorting compares: a number where the cell has one."""
    numeric: bool = False
    best: bool = False
    missing: bool = False


@dataclass(frozen=True)
class Table:
    """A named table; the first column names the row."""

    name: str
    """File name without ending, and the element's id."""
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    """What holds for all of it: the protocol, what intervals mean."""

    def shown(self) -> list[list[Shown]]:
        """Cells for HTML, unescaped."""
        best = [self._best(i) for i in range(len(self.columns))]
        return [
            [
                _shown(cell, column, _number(cell) is not None and _number(cell) == top)
                for cell, column, top in zip(row, self.columns, best, strict=True)
            ]
            for row in self.rows
        ]

    def numeric(self) -> set[str]:
        """Keys of the columns that hold numbers."""
        return {
            column.key
            for i, column in enumerate(self.columns)
            if any(_number(row[i]) is not None or isinstance(row[i], Missing) for row in self.rows)
        }

    def csv(self) -> str:
        """Full precision; intervals and reasons in columns of their own, only where there are any.

        Texts that a spreadsheet would run as a formula get a leading apostrophe.
        """
        parts = [self._parts(i) for i in range(len(self.columns))]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([name for names in parts for name in names])
        for row in self.rows:
            writer.writerow(
                [
                    cell
                    for value, names in zip(row, parts, strict=True)
                    for cell in _spread(value, list(names.values()))
                ]
            )
        return out.getvalue()

    def markdown(self) -> str:
        """A GitHub-style table under its title; the best of a column in bold."""
        lines = [f"### {_markdown(self.title)}", ""]
        lines.append(_pipes(_markdown(c.label) for c in self.columns))
        numeric = self.numeric()
        lines.append(_pipes("--:" if c.key in numeric else "---" for c in self.columns))
        for row in self.shown():
            texts = (_markdown(f"{c.text} {c.detail}".strip()) for c in row)
            lines.append(
                _pipes(f"**{t}**" if c.best else t for t, c in zip(texts, row, strict=True))
            )
        return "\n".join([*lines, *(["", _markdown(self.note)] if self.note else [])]) + "\n"

    def latex(self) -> str:
        """A `table` with booktabs rules, made to fit the page's width; the best of a column in
        bold. Tables that no page holds become a `longtable`. Columns of long texts break lines.
        """
        numeric, cells = self.numeric(), self.shown()
        align = "".join(
            "r"
            if c.key in numeric
            else f"p{{{PARAGRAPH}}}"
            if max((len(row[i].text) for row in cells), default=0) > LONG_CELL
            else "l"
            for i, c in enumerate(self.columns)
        )
        long = len(self.rows) > PAGE_ROWS
        caption = [
            f"\\caption{{{_tex(self.title)}.{' ' + _tex(self.note) if self.note else ''}}}",
            f"\\label{{tab:{self.name}}}",
        ]
        head = ["\\toprule", " & ".join(_tex(c.label) for c in self.columns) + " \\\\", "\\midrule"]
        if long:
            lines = [
                "% needs \\usepackage{booktabs,longtable}",
                "{\\scriptsize",
                f"\\begin{{longtable}}{{{align}}}",
                *caption[:1],
                caption[1] + " \\\\",
                *head,
                "\\endhead",
            ]
            end = ["\\bottomrule", "\\end{longtable}", "}", ""]
        else:
            lines = [
                "% needs \\usepackage{booktabs,adjustbox}",
                "\\begin{table}",
                "\\centering",
                *caption,
                "\\begin{adjustbox}{max width=\\textwidth}",
                f"\\begin{{tabular}}{{{align}}}",
                *head,
            ]
            end = ["\\bottomrule", "\\end{tabular}", "\\end{adjustbox}", "\\end{table}", ""]
        for row in cells:
            texts = (
                (f"\\textbf{{{_tex(c.text)}}}" if c.best else _tex(c.text))
                + (f" {{\\scriptsize {_tex(c.detail)}}}" if c.detail and not c.missing else "")
                for c in row
            )
            line = " & ".join(texts)
            # After the end of a row, TeX takes these for an argument of it.
            lines.append(("{}" if line.startswith(("[", "*")) else "") + line + " \\\\")
        return "\n".join([*lines, *end])

    def _best(self, index: int) -> float | None:
        better = self.columns[index].better
        numbers = [n for row in self.rows if (n := _number(row[index])) is not None]
        if not better or len(numbers) < 2:
            return None
        return max(numbers) if better == "high" else min(numbers)

    def _parts(self, index: int) -> dict[str, str]:
        """CSV columns that this column becomes: name -> which part of the value."""
        key = self.columns[index].key
        cells = [row[index] for row in self.rows]
        parts = {key: "value"}
        if any(isinstance(c, Estimate) and c.low is not None for c in cells):
            parts |= {f"{key}_low": "low", f"{key}_high": "high"}
        if any(isinstance(c, Missing) for c in cells):
            parts[f"{key}_unavailable"] = "reason"
        return parts


def number(value: float, decimals: int, *, signed: bool = False) -> str:
    """A fraction with fixed digits and a real minus sign."""
    text = f"{value:{'+' if signed else ''},.{decimals}f}"
    if not text.strip("+-0.,"):
        text = text.lstrip("+-")  # no signed zero
    return text.replace("-", "−")


def interval(estimate: Estimate, decimals: int, *, signed: bool = False) -> str:
    """`[low, high]`, or nothing where there is no interval."""
    if estimate.low is None or estimate.high is None:
        return ""
    ends = (number(end, decimals, signed=signed) for end in (estimate.low, estimate.high))
    return f"[{', '.join(ends)}]"


def _number(cell: Value) -> float | None:
    value = cell.value if isinstance(cell, Estimate) else cell
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return None
    return float(value)


def _shown(cell: Value, column: Column, best: bool) -> Shown:
    if isinstance(cell, Missing):
        return Shown("unavailable", cell.reason, missing=True)
    value = _number(cell)
    if value is None:
        text = cell if isinstance(cell, str) else "–"
        return Shown(text, sort=text)
    if isinstance(cell, int):
        text, detail = f"{cell:,}", ""
    else:
        estimate = cell if isinstance(cell, Estimate) else Estimate(value)
        text = number(value, column.decimals, signed=column.signed)
        detail = interval(estimate, column.decimals, signed=column.signed)
    return Shown(text, detail, sort=repr(value), numeric=True, best=best)


def _spread(cell: Value, parts: Sequence[str]) -> Iterator[str]:
    for part in parts:
        if part == "reason":
            yield plain_cell(cell.reason) if isinstance(cell, Missing) else ""
        elif isinstance(cell, str):
            yield plain_cell(cell) if part == "value" else ""
        elif part == "value":
            value = _number(cell)
            yield "" if value is None else repr(cell if isinstance(cell, int) else value)
        else:
            end = getattr(cell, part, None)
            yield "" if end is None else repr(end)


def plain_cell(text: str) -> str:
    """A text that neither ends a CSV row nor runs as a formula in a spreadsheet."""
    # A lone carriage return would end the row for some readers.
    text = UNSEEN.sub(" ", text.replace("\r\n", "\n").replace("\r", "\n"))
    # Blanks before the sign don't stop every spreadsheet from running it.
    return f"'{text}" if text.startswith(FORMULA) or text.lstrip().startswith(FORMULA) else text


def _pipes(cells: Iterable[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _markdown(text: str) -> str:
    text = " ".join(UNSEEN.sub(" ", text).split())
    text = re.sub(r"([\\`*_\[\]|#~])", r"\\\1", text)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _tex(text: str) -> str:
    text = " ".join(TURNS.sub("", UNSEEN.sub(" ", text)).split())
    return text.translate(TEX).replace("−", "--")
