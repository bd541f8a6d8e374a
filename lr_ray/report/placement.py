"""Who runs where, in a line.

pytest tests/unit/placement/test_line.py
"""

from collections.abc import Sequence

from lr_ray.config import Config, uses_gpus
from lr_ray.placement import needs
from lr_ray.placement.arrange import changes
from lr_ray.placement.cards import Cards
from lr_ray.placement.processes import Processes
from lr_ray.placement.sizes import Models

_NOUNS = {"expert": "expert", "amateur": "amateur", "trainer": "training worker"}


def placement_line(
    asked: Config, arranged: Config, models: Models, cards: Cards, stages: Sequence[str]
) -> str:
    """What was arranged for the stages of a config, and how to choose otherwise."""
    if not uses_gpus(asked, stages):
        return "on the CPUs, as resources.*.gpus is 0"
    parts = [_stage(asked, arranged, models, stage) for stage in stages]
    where = str(cards) if cards.count else "GPU nodes to come"
    return f"{where}: {'; '.join(parts)} (resources.* and --device cpu choose otherwise)"


def _stage(asked: Config, arranged: Config, models: Models, stage: str) -> str:
    processes = needs.processes(arranged, models, stage)
    ways = {True: " together", False: ", one after the other"}
    several = len(processes) > 1 or stage == "evaluation"
    way = ways[needs.together(arranged, stage)] if several else ""
    tighter = "".join(
        f", {name.partition('.')[2]} {value}"
        for name, value in changes(asked, arranged, stage).items()
        if stage == "training" and not name.endswith(("gpus", "num_workers"))
    )
    return " and ".join(_process(p) for p in processes) + way + tighter


def _process(p: Processes) -> str:
    """2 experts on 4 GPUs each (weights 36.4 GB, cache 9.4 GB of each GPU)."""
    most, gpus = p.most // p.models, p.place.gpus
    of_each = " each" * (p.models > 1)
    if p.role == "server":
        count = f"both models, {most} replicas{of_each}" if most > 1 else "both models"
    else:
        count = f"{most} {_NOUNS[p.role]}s" if most > 1 else _NOUNS[p.role]
    memory = []
    if p.weights is not None and gpus:
        memory.append(f"weights {p.weights / 1e9:.3g} GB")
    if p.place.cache_gb and gpus:
        memory.append(f"cache {p.place.cache_gb:.3g} GB")
    each = " each" if most > 1 else of_each
    where = f"{gpus:g} GPU{'s' * (gpus > 1)}" if gpus else "CPUs"
    return f"{count} on {where}{each}" + (f" ({', '.join(memory)})" if memory else "")
