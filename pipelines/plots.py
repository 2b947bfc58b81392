"""Every figure of the project: one style, one palette, bytes that depend on the data alone.

A figure is SVG with the palette's colours in it, fit for a file of its own, or a PNG on
white. `themed` turns it into markup for inside a page, where the colours become CSS variables that
follow light and dark.
The palette keeps its hues apart for readers with any of the common colour vision deficiencies, and
no figure relies on hue alone: series differ in marker and dash too, and stand in a table beside it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.tables import Estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PALETTE = ("#0072b2", "#c24e00", "#00795a", "#9c4a8a", "#7a6400", "#5b6770")
"""Blue, vermilion, green, purple, ochre, grey: at least 4.5:1 on white."""
INK, RULE = "#1d2328", "#d5d9dd"
MARKERS = ("o", "s", "D", "^", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.6)), (0, (6, 2, 1, 2)), "-", "-")
WIDTH = 5.2
ROW = 0.3
"""Inches: of a figure, and of one line in a chart of rows."""
_STYLE = {
    "svg.hashsalt": "fcr",
    "svg.fonttype": "none",
    "text.parse_math": False,  # a "$" in a shop's text is a dollar
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


DOTS = 200
"""Of a PNG, an inch."""


class Drawing(str):
    """The SVG of a figure, which can be drawn as pixels too."""

    figure: Figure

    def png(self) -> bytes:
        """The figure on white, as PNG: for slides and for whoever reads no SVG."""
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        out = io.BytesIO()
        with mpl.rc_context(_STYLE):
            FigureCanvasAgg(self.figure)
            self.figure.patch.set_alpha(1)
            self.figure.savefig(
                out, format="png", dpi=DOTS, facecolor="white", metadata={"Software": None}
            )
        return out.getvalue()


def learning_curve(
    losses: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    chosen: float | None,
    ylabel: str = "loss, nats a token",
) -> Drawing:
    """Loss or reward over steps, one line a part; `chosen` marks the kept checkpoint."""
    with _figure(3.1) as (axes, out):
        for i, (name, (steps, loss)) in enumerate(losses.items()):
            axes.plot(steps, loss, label=name, marker=MARKERS[i], markersize=4.5, **_line(i))
        if chosen is not None:
            axes.axvline(chosen, color=PALETTE[5], linewidth=1, linestyle=DASHES[2])
            axes.annotate(
                "kept", (chosen, 1), xycoords=("data", "axes fraction"), xytext=(-4, -10),
                textcoords="offset points", ha="right", color=PALETTE[5],
            )  # fmt: skip
        axes.set(xlabel="step", ylabel=ylabel)
        axes.legend()
    return out[0]


def lengths(words: Mapping[str, NDArray[np.int64]]) -> Drawing:
    """Words a text has, one line a writer: median, middle half (thick), middle 90 % (thin)."""
    with _figure(0.75 + ROW * max(2, len(words))) as (axes, out):
        for row, counts in enumerate(words.values()):
            low, left, middle, right, high = np.quantile(counts, [0.05, 0.25, 0.5, 0.75, 0.95])
            colour = PALETTE[5 if row == 0 else 0]
            axes.plot([low, high], [row, row], color=colour, linewidth=1.4)
            axes.plot([left, right], [row, row], color=colour, linewidth=7, alpha=0.45)
            axes.plot(middle, row, color=colour, marker="o", markersize=7)
        _rows(axes, list(words))
        axes.set(xlabel="words", xlim=(0, None))
    return out[0]


def words(shares: Mapping[str, Sequence[float]], names: Sequence[str]) -> Drawing:
    """Share of texts that contain each word, one dot a writer; names from top to bottom."""
    with _figure(0.9 + ROW * len(names)) as (axes, out):
        rows = np.arange(len(names))
        for i, (name, share) in enumerate(shares.items()):
            axes.plot(np.asarray(share) * 100, rows, label=name, **_dot(i))
        _rows(axes, names)
        axes.set(xlabel="% of texts that contain the word")
        _legend_above(axes, len(shares))
    return out[0]


def intervals(
    values: Mapping[str, Mapping[str, Estimate]],
    names: Sequence[str],
    xlabel: str,
    *,
    zero: bool = False,
    detectable: Mapping[str, float] | None = None,
) -> Drawing:
    """Values with their 95 % intervals, one line a name, one marker a series.

    Args:
        values: series -> name -> value; names may be absent.
        names: lines from top to bottom.
        xlabel: the axis.
        zero: draw the line of no difference.
        detectable: name -> size below which the data can't reliably tell an effect from none, drawn
            as a band around zero.
    """
    from matplotlib.ticker import MaxNLocator

    many = len(values) > 1
    with _figure(0.75 + (ROW + 0.1 * many) * max(2, len(names)) + 0.25 * many) as (axes, out):
        for name, width in (detectable or {}).items():
            axes.barh(names.index(name), 2 * width, 0.7, left=-width, color=RULE, zorder=0.5)
        for i, (series, by_name) in enumerate(values.items()):
            places = [name for name in names if name in by_name]
            rows = [_place(names.index(name), name, series, values) for name in places]
            for row, name in zip(rows, places, strict=True):
                low, high = by_name[name].low, by_name[name].high
                if low is not None and high is not None:
                    axes.plot([low, high], [row, row], color=PALETTE[i], linewidth=2, alpha=0.55)
            axes.plot([by_name[name].value for name in places], rows, label=series, **_dot(i))
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        _rows(axes, names)
        if zero:
            axes.axvline(0, color=INK, linewidth=1)
        else:
            axes.set_xlim(left=min(0.0, axes.get_xlim()[0]))
        axes.set_xlabel(xlabel)
        if many:
            # Beside long names of lines there is room for two series only.
            wide = max(map(len, names)) > 16 and len(values) > 3
            _legend_above(axes, 2 if wide else len(values))
    return out[0]


def curves(
    series: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]], xlabel: str, ylabel: str
) -> Drawing:
    """Values with their intervals as bands over a number: series -> (places, values)."""
    with _figure(3.1) as (axes, out):
        for i, (name, (places, values)) in enumerate(series.items()):
            low = [np.nan if v.low is None else v.low for v in values]
            high = [np.nan if v.high is None else v.high for v in values]
            axes.fill_between(places, low, high, color=PALETTE[i], alpha=0.14, linewidth=0)
            level = [v.value for v in values]
            axes.plot(places, level, label=name, marker=MARKERS[i], markersize=5, **_line(i))
        axes.set(xlabel=xlabel, ylabel=ylabel)
        axes.set_ylim(bottom=0)
        _legend_above(axes, len(series))
    return out[0]


def shares(
    parts: Mapping[str, Mapping[str, float]], names: Sequence[str], colours: Sequence[int]
) -> Drawing:
    """Stacked shares of 100 %, one bar a name: part -> name -> share of one."""
    with _figure(0.9 + ROW * max(2, len(names))) as (axes, out):
        left = np.zeros(len(names))
        for (part, by_name), colour in zip(parts.items(), colours, strict=True):
            width = np.array([by_name.get(n, 0.0) for n in names]) * 100
            axes.barh(range(len(names)), width, 0.62, left=left, label=part, color=PALETTE[colour])
            for row, (w, start) in enumerate(zip(width, left, strict=True)):
                if w >= 9:
                    axes.text(
                        start + w / 2, row, f"{w:.0f}", ha="center", va="center", color="white"
                    )
            left += width
        _rows(axes, names)
        axes.set(xlabel="% of captions", xlim=(0, 100))
        _legend_above(axes, len(parts))
    return out[0]


def themed(svg: str, name: str, description: str) -> str:
    """Markup of a figure for inside an HTML page.

    Args:
        svg: what a function above returned.
        name: unique on the page; keeps the ids of figures apart.
        description: what it shows, for readers who can't see it.
    """
    from html import escape

    body = svg[svg.index("<svg") :]
    body = re.sub(r' xmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href", "href")
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\g<1>{name}-", body)
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    view = re.search(r'viewBox="[^"]*"', body)
    label = escape(description, quote=True)
    opening = f'<svg {view[0] if view else ""} role="img" aria-label="{label}">'
    body = re.sub(r"<svg[^>]*>", lambda _: opening, body, count=1)
    for i, colour in enumerate(PALETTE):
        body = body.replace(colour, f"var(--c{i + 1})")
    body = body.replace("#ffffff", "var(--on-colour)")
    return body.replace(INK, "var(--ink)").replace(RULE, "var(--rule)").strip()


@contextmanager
def _figure(height: float) -> Iterator[tuple[Axes, list[Drawing]]]:
    """Axes to draw on, and a list that holds the figure afterwards."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    out: list[Drawing] = []
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        yield axes, out
        text = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", metadata=nothing)
        drawing = Drawing(text.getvalue())
        drawing.figure = figure
        out.append(drawing)


def _place(row: int, name: str, series: str, values: Mapping[str, Mapping[str, Estimate]]) -> float:
    """Height of a marker: the series that have a line share it evenly around its middle."""
    present = [other for other, by_name in values.items() if name in by_name]
    return row + 0.2 * (present.index(series) - (len(present) - 1) / 2)


def _line(i: int) -> dict[str, Any]:
    return {"color": PALETTE[i], "linestyle": DASHES[i], "linewidth": 1.8}


def _dot(i: int) -> dict[str, Any]:
    return {"color": PALETTE[i], "linestyle": "", "marker": MARKERS[i], "markersize": 6}


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def _legend_above(axes: Axes, columns: int) -> None:
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1), ncols=min(columns, 4), borderaxespad=0.2,
        handletextpad=0.4, columnspacing=1.2,
    )  # fmt: skip
