"""What a config would need of disks, by its models' sizes."""

from pathlib import Path

from lr_ray.config import STAGES, Config, uses_gpus
from lr_ray.doctor.finding import Need
from lr_ray.doctor.machine import dtypes
from lr_ray.placement import find_models, needs

_HUB_BYTES = 2  # a weight's, of the presets' models


def asked(config: Config) -> Need:
    """The whole pipeline's need. Models that are not known count nothing; nothing is fetched."""
    models, _ = find_models(config)
    return Need(
        gpu=uses_gpus(config),
        dtypes=frozenset(dtypes(config, STAGES)),
        run_bytes=sum(needs.disk(config, models, config.sampling.max_problems).values()),
        hub_bytes=sum(
            _HUB_BYTES * model.parameters
            for role, model in models.items()
            if model and _to_fetch(getattr(config.models, role))
        ),
    )


def _to_fetch(reference: str) -> bool:
    """Whether it is a hub's model that its cache lacks."""
    from huggingface_hub import try_to_load_from_cache

    if reference.startswith("embedded:") or Path(reference).expanduser().is_dir():
        return False
    return not isinstance(try_to_load_from_cache(reference, "config.json"), str)
