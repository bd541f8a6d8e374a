"""What changed beside the accuracy, and what it took: lengths, answers that were cut, seconds, tokens."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.compute as pc

from lr_ray.report.page.charts import BASE, GREY, NEW, WARM, chart
from lr_ray.report.page.source import Source
from lr_ray.report.rates import asked_for, timed

TITLE = "Lengths and cost"
_STAGES = ("sampling", "training", "serving", "evaluation")
_SAID = {"serving": "starting the endpoint", "evaluation": "answering and grading"}


def section(source: Source) -> dict[str, Any] | None:
    seconds = [
        (_SAID.get(stage, stage), source.summary[stage]["seconds"])
        for stage in _STAGES
        if "seconds" in source.summary.get(stage, {})
    ]
    if not seconds and not source.tables:
        return None
    sampling = source.part("sampling", "problems", "steps_scored", "rejected", "seconds")
    evaluation = source.part("evaluation", "answers", "seconds")
    return {
        "total": source.summary.get("seconds_total"),
        "chart": _bar(seconds, source.summary.get("seconds_total")) if seconds else None,
        "lengths": [row for name in source.tables for row in _lengths(source, name)],
        "sampling": sampling,
        # A rate is known where the seconds are of all that was counted; of solutions, right ones alone are.
        "whole": sampling
        and timed(sampling) == sampling["problems"]
        and not sampling.get("samples_drawn"),
        "cut": _cut(source),
        "training": source.part("training", "tokens_forward", "trained_steps"),
        "evaluation": evaluation,
        "asked_for": evaluation and asked_for(evaluation),
        "memory": list(_memory(source.summary)),
    }


def _memory(summary: dict[str, Any]) -> Iterator[tuple[str, int, str, str]]:
    """Kinds of processes: how many there were, and the most host and GPU memory that one held."""
    engines = summary.get("sampling", {}).get("engines", {})
    for role in sorted(engines, reverse=True):  # the expert first
        found = engines[role]
        yield (f"{role}'s engine, sampling", found["most"], *map(_size, _held(found)))
    training = summary.get("training", {})
    if "memory" in training:
        yield ("training worker", training["workers"], *map(_size, _held(training["memory"])))


def _held(found: dict[str, int]) -> tuple[int | None, int | None]:
    return found.get("host_bytes"), found.get("gpu_bytes")


def _size(held: int | None) -> str:
    return "-" if held is None else f"{held / 1e9:.1f} GB"


def _cut(source: Source) -> tuple[float, float] | None:
    """Median tokens of the trajectories, and the share that the limit cut."""
    if source.scored is None:
        return None
    cut = pc.mean(pc.equal(source.scored.scores["finish_reason"], "length")).as_py()
    return float(np.median(source.scored.steps.lengths)), cut


def _lengths(source: Source, task: str) -> list[dict[str, Any]]:
    """Quartiles of the answers' lengths, characters, and how the answers ended."""
    rows = []
    for label, model in source.summary["accuracy"][task]["models"].items():
        said = source.tables[task][f"{label}_completion"]
        lengths = pc.fill_null(pc.utf8_length(said), 0).to_numpy()
        low, middle, high = np.percentile(lengths, [25, 50, 75]).astype(int).tolist()
        rows.append({"task": task, "label": label, "quartiles": (low, middle, high), **model})
    return rows


def _bar(seconds: list[tuple[str, float]], total: float | None) -> str:
    parts = list(seconds)
    rest = (total or 0) - sum(value for _, value in parts)
    if rest > 0.5:
        parts.append(("checks, Ray and files", rest))
    said = ", ".join(f"{name} {value:.0f}" for name, value in parts)
    with chart("seconds", f"Seconds by stage: {said}.", (4.8, 1.7)) as c:
        left, colours = 0.0, (NEW, WARM, GREY, BASE, "#b9c2cf")
        hatches = ("", "//", "..", "\\\\", "")
        for (name, value), colour, hatch in zip(parts, colours, hatches, strict=False):
            style = {"color": colour, "hatch": hatch, "label": f"{name} {value:.0f} s"}
            c.axes.barh([0], [value], left=left, **style)
            left += value
        c.axes.set_yticks([])
        c.axes.spines["left"].set_visible(False)
        c.axes.set(xlabel="seconds")
        c.axes.legend(ncols=2, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return c.svg
