"""What variants of the problems do whose right answer stays."""

from typing import Any

from lr_ray.report.page.source import Source

TITLE = "Perturbed problems"


def section(source: Source) -> dict[str, Any] | None:
    found = source.summary.get("perturbations")
    return {"tasks": found, "first": _first(found)} if found else None


def _first(tasks: dict[str, Any]) -> str:
    """The model that the others are held against."""
    kinds = [kind for found in tasks.values() for kind in found.values() if kind["models"]]
    return next(iter(kinds[0]["models"])) if kinds else "the expert"
