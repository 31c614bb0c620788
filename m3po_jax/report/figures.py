"""Pictures: small panels, drawn once as SVG for the page and together as PNG."""

import dataclasses
import io
import pathlib
import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator

from m3po_jax.report.curves import Series

# Okabe and Ito's colours, which people with any form of colour blindness tell apart; the page puts
# variables in their place, so that dark mode can brighten them. Lines differ in dashes and markers
# as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES: tuple[Any, ...] = (
    "-",
    (0, (5, 2)),
    (0, (1.5, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (3, 1)),
    (0, (8, 2, 1, 2, 1, 2)),
)
_THIN = (0, (1, 1.5))
MARKERS = ("o", "s", "^", "D", "v", "P")
INK, MUTED, GRID = "#1f2329", "#5d6773", "#d5d9de"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid"} | {
    colour: f"--series-{index}" for index, colour in enumerate(COLOURS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.titlesize": 10,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.labelcolor": INK,
    "text.color": INK,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
}
ENV_STEPS = "env steps"
_SIZE = (4.3, 3.0)  # inches of one panel: its text can be read on a phone as wide as that
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"


@dataclasses.dataclass(frozen=True)
class Line:
    """A series and how it is drawn.

    Attributes:
        series: What is drawn.
        style: Index of colour, dashes and marker.
        thin: Drawn dotted and without markers, as what is compared with.
    """

    series: Series
    style: int
    thin: bool = False


@dataclasses.dataclass(frozen=True)
class Panel:
    """One picture.

    Attributes:
        title: Its heading.
        lines: What is drawn.
        xlabel: What lies on the horizontal axis.
        ylabel: What lies on the vertical axis, with the unit.
        levels: Horizontal reference lines by name.
        include: Values that the vertical axis must reach.
        log: Whether the vertical axis is logarithmic.
        names: Names of the positions 0, 1, ... of a dot plot, whose values lie on the horizontal
            axis; empty for curves.
    """

    title: str
    lines: tuple[Line, ...]
    xlabel: str = ENV_STEPS
    ylabel: str = ""
    levels: tuple[tuple[str, float], ...] = ()
    include: tuple[float, ...] = ()
    log: bool = False
    names: tuple[str, ...] = ()

    @property
    def description(self) -> str:
        """What a reader who sees no picture is told."""
        parts = []
        for line in self.lines:
            rows = line.series.rows
            if rows and self.names:
                values = (f"{self.names[int(x)]} {mean:.4g}" for x, mean, *_ in rows)
                parts.append(f"{line.series.label}: {', '.join(values)}")
            elif rows:
                (x0, first, *_), (x1, last, *_) = rows[0], rows[-1]
                parts.append(
                    f"{line.series.label}: from {first:.4g} at {x0:,.0f} to {last:.4g} at {x1:,.0f}"
                )
        parts += [f"{name}: {value:.4g}" for name, value in self.levels]
        return f"{self.ylabel or self.xlabel} of {self.title}. " + "; ".join(parts) + "."


def svg(panel: Panel, identity: str) -> str:
    """The panel as an SVG element for an HTML page; its ids begin with `identity`."""
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": identity}):
        figure, (axes,) = _canvas(1, 1)
        _draw(panel, axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True)
    return _for_page(text.getvalue(), panel, identity)


def png(panels: Sequence[Panel], path: pathlib.Path) -> None:
    """Writes panels as one picture of up to three columns, on white."""
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    with matplotlib.rc_context(_STYLE):
        figure, all_axes = _canvas(rows, columns)
        for axes, panel in zip(all_axes, panels, strict=False):
            _draw(panel, axes)
        for axes in all_axes[len(panels) :]:
            axes.set_axis_off()
        figure.savefig(path, dpi=150, facecolor="white")


def legend_mark(style: int) -> str:
    """A small SVG of a line as `Line` draws it, for legends in HTML."""
    _, dashes, _ = _look(style)
    pattern = "" if dashes == "-" else ",".join(str(1.6 * length) for length in dashes[1])
    return (
        '<svg class="mark" viewBox="0 0 30 10" aria-hidden="true">'
        f'<line x1="0" y1="5" x2="30" y2="5" stroke-width="2" '
        f'stroke="var(--series-{style % len(COLOURS)})" stroke-dasharray="{pattern}"/></svg>'
    )


def _look(style: int) -> tuple[str, Any, str]:
    """Colour, dashes and marker; a colour that comes again has other dashes and another marker."""
    shifted = style + style // len(COLOURS)
    return (
        COLOURS[style % len(COLOURS)],
        DASHES[shifted % len(DASHES)],
        MARKERS[shifted % len(MARKERS)],
    )


def _canvas(rows: int, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(columns * _SIZE[0], rows * _SIZE[1]), layout="constrained")
    return figure, list(np.ravel(figure.subplots(rows, columns, squeeze=False)))


def _draw(panel: Panel, axes: Axes) -> None:
    for name, value in panel.levels:
        axes.axhline(value, color=MUTED, linewidth=0.9, linestyle=(0, (2, 2)))
        axes.annotate(
            name,
            (1.0, value),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="right",
            fontsize=7.5,
            color=MUTED,
        )
    for line in panel.lines:
        if panel.names:
            _draw_dots(line, axes, len(panel.lines))
        else:
            _draw_curve(line, axes)
    axes.set_title(panel.title)
    axes.set_xlabel(panel.xlabel)
    if panel.names:
        axes.set_yticks(range(len(panel.names)), panel.names)
        axes.set_ylim(len(panel.names) - 0.5, -0.5)
        axes.grid(axis="y", visible=False)
    else:
        axes.set_ylabel(panel.ylabel)
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.margins(x=0.03)
        if panel.xlabel == ENV_STEPS:
            axes.set_xlim(left=0.0)  # learning begins there, whenever the first value was measured
        _set_height(panel, axes)
    if len(panel.lines) > 1:
        axes.legend(loc="upper left", bbox_to_anchor=(0.0, -0.2), ncols=2, borderaxespad=0.0)


def _set_height(panel: Panel, axes: Axes) -> None:
    """Leaves space around curves, reference lines and `include`, also around a constant."""
    if panel.log:
        axes.set_yscale("log")
        return
    axes.yaxis.set_major_locator(MaxNLocator(5))
    ends = [axes.dataLim.y0, axes.dataLim.y1, *panel.include, *(y for _, y in panel.levels)]
    low, high = min(ends), max(ends)
    margin = 0.07 * (high - low) or 0.1 * abs(high) or 0.1
    axes.set_ylim(low - margin, high + margin)


def _draw_curve(line: Line, axes: Axes) -> None:
    series = line.series
    colour, dashes, marker = _look(line.style)
    few = len(series.x) <= 20
    axes.plot(
        series.x,
        series.mean,
        color=colour,
        linestyle=_THIN if line.thin else dashes,
        linewidth=1.4 if line.thin else 1.8,
        marker=marker if few and not line.thin else "",
        markersize=4,
        label=series.label,
    )
    if np.any(np.isfinite(series.low)):
        axes.fill_between(series.x, series.low, series.high, color=colour, alpha=0.18, linewidth=0)


def _draw_dots(line: Line, axes: Axes, num_lines: int) -> None:
    series = line.series
    colour, _, marker = _look(line.style)
    y = series.x + 0.16 * (line.style - (num_lines - 1) / 2)
    axes.hlines(y, series.low, series.high, color=colour, linewidth=1.5)
    axes.plot(series.mean, y, color=colour, linestyle="", marker=marker, label=series.label)


def _for_page(text: str, panel: Panel, identity: str) -> str:
    """Makes matplotlib's file an element: own ids, colours by variable, a title, no metadata."""
    ElementTree.register_namespace("", "http://www.w3.org/2000/svg")
    root = ElementTree.fromstring(text)
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    for element in root.iter():
        for key, value in list(element.attrib.items()):
            value = re.sub(r"url\(#", f"url(#{identity}-", value)
            if key == "id":
                value = f"{identity}-{value}"
            elif key == _LINK:
                element.attrib.pop(key)
                key, value = "href", f"#{identity}-{value[1:]}"
            element.set(key, _with_variables(value))
    root.attrib.pop("width"), root.attrib.pop("height")
    root.set("role", "img")
    root.set("aria-labelledby", f"{identity}-title {identity}-desc")
    for position, (tag, content) in enumerate(
        (("title", panel.title), ("desc", panel.description))
    ):
        child = ElementTree.Element(f"{_SVG}{tag}", {"id": f"{identity}-{tag}"})
        child.text = content
        root.insert(position, child)
    return ElementTree.tostring(root, encoding="unicode")


def _with_variables(style: str) -> str:
    for colour, name in _VARIABLES.items():
        style = style.replace(colour, f"var({name})")
    return style
