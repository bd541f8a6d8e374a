"""Engines of sampling; `score` stands alone: log-probabilities at chosen token ids."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lr_ray.engines.scoring import score


def __getattr__(name: str) -> Any:
    if name != "score":
        raise AttributeError(f"module 'lr_ray.engines' has no attribute {name!r}")
    # At first use: vLLM's processes import this package for the plugin alone.
    from lr_ray.engines.scoring import score

    return score
