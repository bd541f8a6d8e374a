"""Variants of a comparison: a table, differences with intervals, and accuracy against what it cost."""

from typing import Any

from markupsafe import Markup

from lr_ray.errors import counted
from lr_ray.report.page.charts import GREY, NEW, chart, intervals, percents, plain
from lr_ray.report.page.source import Source

TITLE = "Variants"
# Of a variant's cost: what an axis says.
_COSTS = (("trained_steps", "tokens trained on"), ("seconds", "seconds of sampling and training"))


def section(source: Source) -> dict[str, Any] | None:
    content = source.found
    if "variants" not in content:
        return None
    rows = {n: {**row, "seconds": _seconds(row["cost"])} for n, row in content["variants"].items()}
    done = {n: row for n, row in rows.items() if row["accuracy"]}
    beside = any("minus_first" in row for row in rows.values())
    minus = ["expert", *([next(iter(done))] if beside else [])]
    each = has_several_seeds(content)
    several = len(content["expert"]) > 1
    return {
        "benchmarks": [
            {
                "name": b,
                "columns": [
                    f"accuracy, {b}" if several else "accuracy",
                    *(["each seed"] if each else []),
                    *(f"minus {name}, points [95 %]" for name in minus),
                ],
                **expert,
                "forest": _forest(b, done),
                "costs": list(filter(None, (_cost(b, expert, rows, *cost) for cost in _COSTS))),
                "sweep": content.get("sweeps", {}).get(b),
            }
            for b, expert in content["expert"].items()
        ],
        "rows": rows,
        "beside": beside,
        "each": each,
        "pages": [
            page
            for row in rows.values()
            for run in row["runs"]
            if source.run.exists(page := f"{run['folder']}/report.html")
        ],
        "grid": content["grid"],
        "seeds": seeds(content),
        "failed": content["failed"],
        "seconds_total": content.get("seconds_total"),
    }


def has_several_seeds(content: dict[str, Any]) -> bool:
    """Whether a variant has; else each seed's accuracy is the mean again."""
    return any(len(row["runs"]) > 1 for row in content["variants"].values())


def seeds(content: dict[str, Any]) -> str:
    """Those of the trained variants: `2 seeds (0, 1)`, and `; 1 seed (4) of wide` where one has its own."""
    rows = content["variants"]
    trained = {name: row for name, row in rows.items() if not row["untrained"]} or rows
    of: dict[str, list[str]] = {}
    for name, row in trained.items():
        of.setdefault(_listed([run["seed"] for run in row["runs"]]), []).append(name)
    grid = _listed(content["grid"]["seeds"])
    said = [t if t == grid or len(of) == 1 else f"{t} of {', '.join(of[t])}" for t in of]
    return "; ".join(sorted(said, key=lambda text: text != grid))


def _listed(numbers: list[int]) -> str:
    return f"{counted(len(numbers), 'seed')} ({', '.join(map(str, numbers))})"


def _seconds(cost: dict[str, Any]) -> float | None:
    seconds = cost["training_seconds"], cost["sampling_seconds"]
    return None if None in seconds else float(sum(seconds))


def _forest(benchmark: str, rows: dict[str, Any]) -> Markup:
    drawn = [
        (name, NEW, found["difference"], found["difference_ci95"])
        for name, row in rows.items()
        for found in [row["accuracy"][benchmark]]
    ]
    said = "; ".join(f"{n} {d:+.1%}, {lo:+.1%} to {hi:+.1%}" for n, _, d, (lo, hi) in drawn)
    title = f"Difference to the untouched expert on {benchmark}, with its 95 % interval. {said}"
    return intervals(f"forest-{benchmark}", title, drawn, 0.0)


def _cost(
    benchmark: str, expert: dict[str, Any], rows: dict[str, Any], name: str, said: str
) -> Markup | None:
    """Accuracy of each trained variant against what it took."""
    points = {}  # by the variant's number in the table
    for number, row in enumerate(rows.values(), start=1):
        x = row["seconds"] if name == "seconds" else row["cost"][name]
        if x and row["accuracy"]:
            points[number] = (x, row["accuracy"][benchmark]["accuracy"])
    if not points:
        return None
    names = list(rows)
    listed = "; ".join(f"{names[n - 1]} {x:,.0f}, {y:.1%}" for n, (x, y) in points.items())
    with chart(f"{name}-{benchmark}", f"Accuracy on {benchmark} against {said}: {listed}") as c:
        c.axes.axhline(expert["accuracy"], color=GREY, linestyle="--", linewidth=1)
        for number, (x, y) in points.items():
            c.axes.plot([x], [y], marker=f"${number}$", color=NEW, markersize=9)
        if max(x for x, _ in points.values()) > 8 * min(x for x, _ in points.values()):
            c.axes.set_xscale("log")
        else:
            c.axes.locator_params("x", nbins=5)
        c.axes.set(xlabel=said, ylabel=f"accuracy on {plain(benchmark)}")
        c.axes.margins(x=0.1, y=0.15)
        percents(c.axes.yaxis)
    return c.svg
