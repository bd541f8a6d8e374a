"""LightReasoner (arXiv 2510.07962) as a Ray application.

For notebooks and scripts; the command line is `lr-ray`:

    import lr_ray

    config = lr_ray.make_config("demo", device="cpu", sampling={"kl_threshold": 0.3})
    run = lr_ray.run_pipeline(config, "runs/demo")
    run.summary["accuracy"]["demo"]["models"]
    run.supervision().to_pandas()

`import lr_ray` loads nothing; each name is imported where it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lr_ray.api import StoredRun, load_run, make_config, run_pipeline
    from lr_ray.config import Config
    from lr_ray.errors import StageError, UserError

__all__ = [
    "Config",
    "StageError",
    "StoredRun",
    "UserError",
    "load_run",
    "make_config",
    "run_pipeline",
]
_ELSEWHERE = {
    "Config": "lr_ray.config",
    "StageError": "lr_ray.errors",
    "UserError": "lr_ray.errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lr_ray' has no attribute {name!r}")
    return getattr(import_module(_ELSEWHERE.get(name, "lr_ray.api")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
