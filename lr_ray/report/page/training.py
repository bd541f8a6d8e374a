"""How training went: curves over the optimizer steps, and where it was resumed."""

from typing import Any

import numpy as np

from lr_ray.report.page.charts import BASE, GREY, NEW, WARM, chart, thinned
from lr_ray.report.page.source import Source
from lr_ray.run.store import shaped

TITLE = "Training"
_MEAN_OF = 20  # optimizer steps that the loss is averaged over
_METRICS = "metrics.jsonl"
# Of each of its lines: field, what the axis says.
_CURVES = (
    ("support_probability", "probability on the labels' tokens"),
    ("grad_norm", "gradient norm, before clipping"),
    ("learning_rate", "learning rate"),
    ("throughput", "tokens a second"),
)


def section(source: Source) -> dict[str, Any] | None:
    part = source.part("training", "optimizer_steps", "distinct_steps", "trained_steps", "seconds")
    if part is None:
        return None
    with shaped(source.run.location, _METRICS):
        drawn = _drawn(source.run.read_lines(_METRICS), part.get("resumed_at", 0))
    return {"training": part, "config": source.config.get("training", {}), **drawn}


def _drawn(rows: list[dict[str, Any]], last: int) -> dict[str, Any]:
    """What is shown of the metrics, a row for each optimizer step; `last`: where training last went on."""
    if not rows:
        return {"charts": [], "resumed": [], "loss": None, "mean_of": 0}
    columns = {name: np.array([row[name] for row in rows], float) for name in rows[0]}
    columns["throughput"] = columns["tokens"] / np.maximum(columns["seconds"], 1e-6)
    resumed = sorted({last, *(int(row["resumed_at"]) for row in rows)} - {0})
    drawn = [_loss(columns, resumed)]
    drawn += [_curve(columns[n], resumed, n, said) for n, said in _CURVES if n in columns]
    ends = (slice(None, _MEAN_OF), slice(-_MEAN_OF, None))
    return {
        "charts": drawn,
        "resumed": resumed,
        "loss": [_mean(columns, at) for at in ends],
        "mean_of": min(_MEAN_OF, len(rows)),
    }


def _mean(columns: dict[str, Any], at: slice) -> float:
    """The batches' losses, each weighted by its kept steps."""
    return float(np.average(columns["loss"][at], weights=columns["kept_steps"][at]))


def _loss(columns: dict[str, Any], resumed: list[int]) -> str:
    loss, width = columns["loss"], min(_MEAN_OF, len(columns["loss"]))
    mean, least = (_running(columns[name], width) for name in ("loss", "label_entropy"))
    said = f"Loss by optimizer step: mean of {width} from {mean[width - 1]:.3f} to {mean[-1]:.3f}."
    with chart("loss", said) as c:
        c.axes.plot(*thinned(loss), color=BASE, alpha=0.6, linewidth=0.8, label="each batch")
        c.axes.plot(*thinned(mean), color=NEW, linewidth=1.8, label=f"mean of {width}")
        c.axes.plot(
            *thinned(least), color=WARM, linestyle=":", linewidth=1.8, label="least possible"
        )
        _finish(c.axes, "loss", resumed)
        c.axes.legend(fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.99))
    return c.svg


def _running(values: Any, width: int) -> Any:
    """The mean of each value and those before it, at most `width`."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(0, ends - width)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _curve(values: Any, resumed: list[int], name: str, said: str) -> str:
    with chart(name, f"{said} by optimizer step: from {values[0]:.3g} to {values[-1]:.3g}.") as c:
        c.axes.plot(*thinned(values), color=NEW, linewidth=1.4)
        _finish(c.axes, said, resumed)
    return c.svg


def _finish(axes: Any, said: str, resumed: list[int]) -> None:
    for step in resumed:
        axes.axvline(step + 0.5, color=GREY, linestyle="--", linewidth=1)
    axes.set_title(said, loc="left", fontsize=10, color=GREY)
    axes.set_xlabel("optimizer step")
