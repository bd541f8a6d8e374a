"""A run's figures by stage, kept steps, changed answers and page, to the trackers of its training.

pytest tests/unit/test_trackers.py
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lr_ray.config import Config
from lr_ray.evaluation.results import changed
from lr_ray.report.page import PAGE
from lr_ray.run.paths import temporary
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.outcome import Outcome
from lr_ray.training.trackers import tell


def tell_trackers(run: Run, config: Config, summary: dict[str, Any]) -> None:
    """Tells the trackers that training.trackers names what the run has come to; nothing before training.

    A tracker that cannot be told is warned of: the run has it all anyway.
    """
    if not config.training.trackers or "training" not in summary:
        return
    rows = [
        {"task": task} | row
        for task, part in summary.get("accuracy", {}).items()
        for row in changed(run.answers(task), list(part["models"]))
    ]
    kl = kept_kl(run) if config.sampling.method == "contrast" else np.zeros(0, np.float32)
    steps, page = summary["training"]["optimizer_steps"], None
    with temporary() as scratch:
        if "accuracy" in summary and run.exists(PAGE):
            page = run.path(PAGE) if run.is_local else str(Path(scratch, PAGE))
            if not run.is_local:
                run.fs.get_file(run.path(PAGE), page)
        tell(run, config, Outcome(steps, dict(_metrics(summary)), kl, rows, page))


def _metrics(summary: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for stage in ("sampling", "training", "serving", "evaluation"):
        for name, value in summary.get(stage, {}).items():
            if isinstance(value, int | float):
                yield f"{stage}/{name}", value
    sampling = summary.get("sampling", {})
    if sampling.get("steps_scored") and "imported" not in sampling:
        yield "sampling/kept_share", sampling["steps_kept"] / sampling["steps_scored"]
    for task, part in summary.get("accuracy", {}).items():
        for label, model in part["models"].items():
            yield from _with_interval(f"accuracy/{task}/{label}", "accuracy", model)
        for label, found in part["differences"].items():
            yield from _with_interval(f"difference/{task}/{label}", "difference", found)


def _with_interval(name: str, figure: str, found: dict[str, Any]) -> Iterator[tuple[str, float]]:
    low, high = found[f"{figure}_ci95"]
    yield from ((name, found[figure]), (f"{name}_low", low), (f"{name}_high", high))


def kept_kl(run: Run) -> npt.NDArray[np.float32]:
    """KL of all kept steps of a run's supervision, float32 [N], in nats; without those not known."""
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    kl, steps = (table[name].combine_chunks() for name in ("kl", "steps"))
    lengths = pc.list_value_length(kl).to_numpy()
    first = np.cumsum(lengths) - lengths
    position = pc.struct_field(pc.list_flatten(steps), "position").to_numpy()
    kept = pc.list_flatten(kl).to_numpy()[first[pc.list_parent_indices(steps)] + position]
    return np.asarray(kept[np.isfinite(kept)], np.float32)
