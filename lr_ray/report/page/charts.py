"""Charts by matplotlib as SVG within a page, whose style gives the colours, dark and light.

Exercised by `pytest tests/unit/page`.
"""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from markupsafe import Markup, escape

INK, GREY, PALE, PAPER = "#000000", "#6b6b6b", "#e4e4e4", "#ffffff"
BASE, NEW, WARM = "#6f7a8a", "#1f5fa8", "#c2611f"  # before, after, and what is marked
_VARIABLES = {
    INK: "--ink", GREY: "--muted", PALE: "--line", PAPER: "--paper",
    BASE: "--base", NEW: "--new", WARM: "--warm",
}  # fmt: skip
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 11, "axes.edgecolor": GREY,
    "axes.labelcolor": GREY, "xtick.color": GREY, "ytick.color": GREY, "axes.spines.top": False,
    "axes.spines.right": False, "legend.frameon": False, "figure.facecolor": "none",
    "axes.facecolor": "none", "savefig.facecolor": "none", "path.simplify_threshold": 0.5,
}  # fmt: skip
_DIGITS = re.compile(r"(\d\.\d{2})\d+")  # of a path; more are finer than a screen
_NAME = 28  # characters of a name beside a plot, at most
_POINTS = 400  # of a curve; a longer one is drawn by the means of its parts


class Chart:
    """What is drawn in a block of `chart`; `svg` is empty until the block has ended."""

    def __init__(self, axes: Any) -> None:
        self.axes = axes
        self.svg = Markup()


@contextmanager
def chart(name: str, said: str, size: tuple[float, float] = (4.7, 2.6)) -> Iterator[Chart]:
    """A figure of one pair of axes, to draw on within the block.

    `name` is its own on the page; `said` is what a screen reader says in its place; inches.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=size, layout="constrained")
        drawn = Chart(figure.add_subplot())
        yield drawn
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    drawn.svg = embed(stream.getvalue(), name, said)


def embed(svg: bytes, name: str, said: str) -> Markup:
    """An SVG file of matplotlib's as an element of a page: colours by variables, ids of its own."""
    text = svg.decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r'\bd="[^"]*"', lambda path: _DIGITS.sub(r"\1", path.group()), text)
    head = f'<svg class="chart" role="img" aria-label="{escape(said)}" '
    head += re.search(r'viewBox="[^"]*"', text).group()  # type: ignore[union-attr]
    return Markup(head + ">" + text[text.index(">") + 1 :])


def thinned(values: Any) -> tuple[Any, Any]:
    """Places (from 1) and values of a curve, at most _POINTS of them, each the mean of as many."""
    values = np.asarray(values, float)
    parts = np.array_split(np.arange(len(values)), min(_POINTS, len(values)))
    return [1 + p.mean() for p in parts], [values[p].mean() for p in parts]


def percents(axis: Any) -> None:
    """Few ticks of an axis whose values are fractions, with no digit that says nothing."""
    axis.get_major_locator().set_params(nbins=6, steps=[1, 2, 5, 10])
    axis.set_major_formatter(lambda share, _: f"{round(100 * share, 6) + 0:g}%")  # + 0: no -0


def plain(text: str) -> str:
    """A user's text as it is written: $ begins no formula of matplotlib's."""
    return text.replace("$", r"\$")


def _fitting(name: str) -> str:
    """A name that leaves room for a plot: one that is too long without its middle."""
    short = name if len(name) <= _NAME else f"{name[: _NAME // 2]}\u2026{name[1 - _NAME // 2 :]}"
    return plain(short)


def intervals(
    name: str,
    said: str,
    rows: list[tuple[str, str, float, Sequence[float]]],
    line: float | None = None,
) -> Markup:
    """A forest plot: a row for each (label, colour, value, interval), `line` where nothing differs."""
    with chart(name, said, (4.8, 0.7 + 0.32 * len(rows))) as drawn:
        axes = drawn.axes
        for place, (_, colour, value, (low, high)) in enumerate(rows):
            axes.plot([low, high], [place, place], color=colour, linewidth=2)
            axes.plot([value], [place], "o" if colour != BASE else "s", color=colour, markersize=6)
        if line is not None:
            axes.axvline(line, color=GREY, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rows)), [_fitting(row[0]) for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.grid(axis="x", color=PALE, linewidth=0.7)
        percents(axes.xaxis)
    return drawn.svg
