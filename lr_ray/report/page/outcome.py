"""What came out: accuracies of the models, differences, how the answers ended, other graders."""

from typing import Any

from lr_ray.evaluation.results import MEANS, checks_of, disagreements, judge_of
from lr_ray.report.page.charts import BASE, NEW, intervals
from lr_ray.report.page.source import Source

TITLE = "Outcome"
_MOST = 20  # answers on which graders disagree that are shown
_NEAR_ZERO = 0.02


def section(source: Source) -> dict[str, Any] | None:
    if "accuracy" not in source.summary:
        return None
    tasks = []
    for name, part in source.summary["accuracy"].items():
        labels, table = list(part["models"]), source.tables[name]
        task = {"name": name, **part, "labels": labels, "judge": judge_of(part)}
        task["checks"] = checks_of(table, labels[0])
        task["disagree"] = disagreements(table, labels) if task["checks"] else []
        tasks.append(task)
    means = {part: source.summary[part] for part in MEANS if part in source.summary}
    best = max(model["accuracy"] for task in tasks for model in task["models"].values())
    return {
        "tasks": tasks,
        "means": means,
        "chart": _chart(tasks),
        "prompt_alone": source.summary.get("prompt_alone", {}),
        "near_zero": best <= _NEAR_ZERO,
        "sampled": source.summary.get("evaluation", {}).get("sampled_rows", {}),
        "most": _MOST,
    }


def _chart(tasks: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{task['name']}: {label}" if len(tasks) > 1 else label,
            BASE if label == task["labels"][0] else NEW,
            task["models"][label]["accuracy"],
            task["models"][label]["accuracy_ci95"],
        )
        for task in tasks
        for label in task["labels"]
    ]
    said = "; ".join(
        f"{name} {value:.1%}, {lo:.1%} to {hi:.1%}" for name, _, value, (lo, hi) in rows
    )
    return intervals("outcome", f"Accuracy with its 95 % interval. {said}", rows)
