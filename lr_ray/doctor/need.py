"""What a config would need of disks, by its models' sizes."""

from typing import Any

from lr_ray import plan
from lr_ray.config import Config
from lr_ray.doctor.finding import Need
from lr_ray.doctor.machine import dtypes, uses_gpus

_STAGES = ("sampling", "training", "evaluation")
_CHECKPOINTS = 3  # two are kept while the next is written
_HUB_BYTES = 2  # a weight's, of the presets' models


def asked(config: Config) -> Need:
    """The whole pipeline's need. Models that are not known count nothing; nothing is fetched."""
    models = {
        role: found
        for role in ("expert", "amateur")
        if isinstance(found := _model(config, role), plan.Model)
    }
    expert, written = models.get("expert"), 0.0
    if expert is not None:
        size = 4 if config.training.dtype == "float32" else 2
        written = expert.parameters * size  # the merged model
        written += _CHECKPOINTS * 12 * plan.trained(config, expert)  # weight and moments, float32
    return Need(
        gpu=uses_gpus(config, _STAGES),
        dtypes=frozenset(dtypes(config, _STAGES)),
        run_bytes=written,
        hub_bytes=sum(
            _HUB_BYTES * model.parameters
            for role, model in models.items()
            if _to_fetch(getattr(config.models, role))
        ),
    )


def _model(config: Config, role: str) -> Any:
    if role == "amateur" and config.sampling.method != "contrast":
        return None
    return plan.find_model(getattr(config.models, role), f"models.{role}")


def _to_fetch(reference: str) -> bool:
    """Whether it is a hub's model that its cache lacks."""
    from pathlib import Path

    from huggingface_hub import try_to_load_from_cache

    if reference.startswith("embedded:") or Path(reference).expanduser().is_dir():
        return False
    return not isinstance(try_to_load_from_cache(reference, "config.json"), str)
