"""What variants of the problems do whose right answer stays."""

from typing import Any

from lr_ray.report.page.source import Source

TITLE = "Perturbed problems"


def section(source: Source) -> dict[str, Any] | None:
    found = source.summary.get("perturbations")
    if not found:
        return None
    models = [m for kinds in found.values() for kind in kinds.values() for m in kind["models"]]
    return {"tasks": found, "first": models[0] if models else "the expert"}
