"""What trackers are told of a whole run, beside training's own rows: one function for each library.

Told again, as after another evaluation, each shows the last.
Exercised by `pytest tests/unit/test_trackers.py`.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

_SHOWN = 50  # changed answers in TensorBoard, which has no tables
_HISTOGRAM, _CHANGED = "sampling/kl_of_kept_steps", "evaluation/changed_answers"


@dataclass(frozen=True)
class Outcome:
    """`kl`: of the kept steps, float32 [N], in nats. `changed`: rows of `evaluation.results.changed`."""

    step: int  # the last optimizer step
    metrics: dict[str, float]  # by stage: sampling/steps_kept
    kl: npt.NDArray[np.float32]
    changed: list[dict[str, Any]]
    page: str | None  # report.html as a local file


def to_tensorboard(writer: Any, outcome: Outcome, settings: dict[str, Any]) -> None:
    """Scalars and a histogram; tables as text. A page it cannot hold: its text says where that is."""
    for name, value in outcome.metrics.items():
        writer.add_scalar(name, value, outcome.step)
    if len(outcome.kl):
        writer.add_histogram(_HISTOGRAM, outcome.kl, outcome.step, bins="auto")
    writer.add_text("config", _table([("setting", "value"), *settings.items()]), outcome.step)
    if outcome.changed:
        rows = [row.values() for row in outcome.changed[:_SHOWN]]
        writer.add_text(_CHANGED, _table([list(outcome.changed[0]), *rows]), outcome.step)
    if outcome.page:
        writer.add_text("report", f"`{outcome.page}`", outcome.step)


def to_mlflow(mlflow: Any, outcome: Outcome) -> None:
    """Into the active run: metrics, and as artifacts kl.svg, changed.json and report.html."""
    mlflow.log_metrics(outcome.metrics, step=outcome.step)
    if len(outcome.kl):
        mlflow.log_figure(_figure(outcome.kl), "kl.svg")
    if outcome.changed:
        data = [list(row.values()) for row in outcome.changed]
        mlflow.log_dict({"columns": list(outcome.changed[0]), "data": data}, "changed.json")
    if outcome.page:
        mlflow.log_artifact(outcome.page)


def to_wandb(wandb: Any, run: Any, outcome: Outcome) -> None:
    """Metrics into the summary; histogram, table and page as such; the page as an artifact too."""
    run.summary.update(outcome.metrics)
    shown: dict[str, Any] = {}
    if len(outcome.kl):
        shown[_HISTOGRAM] = wandb.Histogram(outcome.kl)
    if outcome.changed:
        data = [list(map(_cell, row.values())) for row in outcome.changed]
        shown[_CHANGED] = wandb.Table(columns=list(outcome.changed[0]), data=data)
    if outcome.page:
        shown["report"] = wandb.Html(outcome.page)
        artifact = wandb.Artifact(f"report-{run.id}", type="report")
        artifact.add_file(outcome.page)
        run.log_artifact(artifact)
    if shown:  # after training's rows, which an offline run that is resumed knows nothing of
        run.log(shown, step=max(run.step, outcome.step + 1))


def _figure(kl: npt.NDArray[np.float32]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axes = figure.subplots()
    axes.hist(kl, bins=50)
    axes.set(xlabel="KL of a kept step, nats", ylabel="kept steps", yscale="log")
    return figure


def _table(rows: list[Any]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(map(_cell, row)) + " |" for row in rows]
    return "\n".join([lines[0], "| --- " * len(list(rows[0])) + "|", *lines[1:]])


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
