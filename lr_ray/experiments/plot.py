"""A sweep as a picture: accuracy with its interval against the swept field, and the share of steps kept.

Exercised by `pytest tests/unit/test_comparison.py -k sweep`.
"""

import io
from dataclasses import dataclass
from typing import Any

from lr_ray.report.page.charts import GREY, NEW, PALE, WARM, percents, plain

_LOG_FROM = 8.0  # largest through smallest value


@dataclass(frozen=True)
class Axis:
    """Where each variant lies, and what the axis says."""

    places: list[float]
    label: str
    ticks: list[str] | None  # None: the places are numbers that the axis finds its own ticks for
    log: bool = False

    @property
    def line(self) -> str:
        """How neighbours are joined: names side by side have no values between them."""
        return "none" if self.ticks and not self.log else "-"


def drawable(content: dict[str, Any]) -> dict[str, Any]:
    """The trained variants that have accuracies; without one there is nothing to draw."""
    return {n: r for n, r in content["variants"].items() if r["accuracy"] and not r["untrained"]}


def draw(content: dict[str, Any], benchmark: str) -> dict[str, bytes]:
    """The picture as svg and png; `content`: of comparison.json, of a grid with x, some of it `drawable`."""
    import matplotlib
    from matplotlib.figure import Figure

    rows = drawable(content)
    x = axis_of(content["grid"]["x"], rows)
    pictures = {}
    with matplotlib.rc_context({"svg.hashsalt": "lr_ray", "font.size": 10}):
        figure = Figure(figsize=(7.5, 4.6), layout="constrained")
        left = figure.add_subplot()
        _accuracies(left, x, [row["accuracy"][benchmark] for row in rows.values()], benchmark)
        _shares(left.twinx(), x, [row["cost"]["steps_kept_share"] or 0.0 for row in rows.values()])
        _ticks(left, x, [plain(name) for name in rows])
        for kind, options in (("svg", {"metadata": {"Date": None}}), ("png", {"dpi": 150})):
            stream = io.BytesIO()
            figure.savefig(stream, format=kind, **options)
            pictures[kind] = stream.getvalue()
    return pictures


def axis_of(x: str, rows: dict[str, Any]) -> Axis:
    """Numbers lie at their value, amateurs at the accuracy that they lack, others side by side."""
    gaps = [row.get("amateur_gap") for row in rows.values()]
    if x == "models.amateur" and None not in gaps:
        return Axis(gaps, "accuracy of the expert minus the amateur's", None)
    values = [row["value"] for row in rows.values()]
    if not all(isinstance(value, int | float) for value in values):
        return Axis([float(i) for i in range(len(rows))], x, [plain(name) for name in rows])
    if min(values) > 0 and max(values) >= _LOG_FROM * min(values):
        return Axis(values, x, [f"{value:g}" for value in values], log=True)
    return Axis(values, x, None)


def _accuracies(axis: Any, x: Axis, pooled: list[dict[str, Any]], benchmark: str) -> None:
    expert = pooled[0]["expert"]
    axis.axhline(expert, color=GREY, linestyle="--", linewidth=1)
    at = {"xy": (0.01, expert), "xycoords": ("axes fraction", "data")}
    axis.annotate("expert", **at, va="bottom", color=GREY, fontsize=9)
    order = sorted(range(len(pooled)), key=lambda i: x.places[i])
    places, drawn = [x.places[i] for i in order], [pooled[i] for i in order]
    middle = [p["accuracy"] for p in drawn]
    below = [max(0.0, p["difference"] - p["difference_ci95"][0]) for p in drawn]
    above = [max(0.0, p["difference_ci95"][1] - p["difference"]) for p in drawn]
    style = {"color": NEW, "marker": "o", "capsize": 3, "linestyle": x.line}
    axis.errorbar(places, middle, yerr=[below, above], **style)
    for place, p in zip(places, drawn, strict=True):
        seeds = p["accuracy_of_seeds"]
        axis.plot([place] * len(seeds), seeds, ".", color=NEW, alpha=0.4)
    axis.set(xlabel=x.label, ylim=(0, 1))
    axis.set_ylabel(f"accuracy on {plain(benchmark)}", color=NEW)
    axis.set_title(
        "Mean of the seeds (dots: each); bars: 95 % interval of the difference to the expert",
        fontsize=9,
        loc="left",
        color=GREY,
    )
    percents(axis.yaxis)
    axis.grid(axis="y", color=PALE, linewidth=0.7)
    axis.spines["top"].set_visible(False)


def _shares(axis: Any, x: Axis, shares: list[float]) -> None:
    points, line = sorted(zip(x.places, shares, strict=True)), ":" if x.line == "-" else "none"
    axis.plot(*zip(*points, strict=True), color=WARM, marker="s", markersize=4, linestyle=line)
    axis.set_ylabel("share of steps kept", color=WARM)
    axis.set_ylim(0, max(0.01, 1.15 * max(shares)))
    percents(axis.yaxis)
    axis.tick_params(axis="y", labelcolor=WARM)
    axis.spines["top"].set_visible(False)


def _ticks(axis: Any, x: Axis, names: list[str]) -> None:
    if x.log:
        axis.set_xscale("log")
    if x.ticks:
        turned = {"rotation": 30, "ha": "right"} if x.ticks == names else {}
        axis.set_xticks(x.places, x.ticks, **turned)
        axis.minorticks_off()
    elif x.label.startswith("accuracy"):
        for place, name in zip(x.places, names, strict=True):
            at = {"xy": (place, 0.02), "xycoords": ("data", "axes fraction")}
            axis.annotate(name, **at, rotation=90, ha="right", va="bottom", fontsize=7, color=GREY)
