"""Sizes, time budgets and needs of the rungs."""

from dataclasses import dataclass
from pathlib import Path

TORCH = ("torch", "transformers", "peft", "numpy")
ENGINES = ("vllm", "pyarrow", "pydantic")
# What each rung cannot do without; scoring also uses an engine where there is one.
NEEDS = {
    "training": TORCH,
    "scoring": TORCH,
    "precision": TORCH,
    "starts": (*TORCH, *ENGINES),
    "sampling": (*TORCH, *ENGINES),
    "pipeline": (*TORCH, *ENGINES, "ray", "deepspeed"),
}
RUNGS = tuple(NEEDS)
# Seconds of a quarter of an hour; the rest is for starting and ending the processes.
SHARES = {
    "training": 75,
    "scoring": 95,
    "precision": 45,
    "starts": 150,
    "sampling": 145,
    "pipeline": 220,
}

# Of expert and amateur; names of `SIZES` in benchmarks/training.py.
SHAPES = {
    "tiny": ("tiny", "tiny"),
    "1.5b": ("qwen2.5-math-1.5b", "qwen2.5-0.5b"),
    "7b": ("qwen2.5-math-7b", "qwen2.5-0.5b"),
}
HUB = {
    "1.5b": ("Qwen/Qwen2.5-Math-1.5B", "Qwen/Qwen2.5-0.5B"),
    "7b": ("Qwen/Qwen2.5-Math-7B", "Qwen/Qwen2.5-0.5B"),
}
TOP_K = 256
NEW_TOKENS = 128


@dataclass(frozen=True)
class Options:
    """What every rung is told."""

    size: str  # of SHAPES
    device: str  # cuda or cpu
    pair: tuple[Path, Path] | None  # expert's and amateur's directories
    data_dir: str | None
    peak_tflops: float | None

    @property
    def dtype(self) -> str:
        """As the presets have it on a GPU; CPUs are measured in float32."""
        return "bfloat16" if self.device == "cuda" else "float32"

    @property
    def tiny(self) -> bool:
        return self.size == "tiny"
