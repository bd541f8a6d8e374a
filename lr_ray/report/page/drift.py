"""Is the gain more than a style: how far the model moved, and what more tries leave of the gain."""

from typing import Any

from lr_ray.evaluation.results import gains
from lr_ray.report.page.source import Source

TITLE = "Is it only a style?"


def section(source: Source) -> dict[str, Any] | None:
    drift = source.summary.get("drift")
    rows = [
        (task, label, measure, gain)
        for task, part in source.summary.get("accuracy", {}).items()
        for label, found in part["differences"].items()
        for measure, gain in gains(found).items()
    ]
    authors = (
        [f"perplexity of {label}'s right answers" for label in drift["models"]] if drift else []
    )
    return {"drift": drift, "gains": rows, "authors": authors} if drift or rows else None
