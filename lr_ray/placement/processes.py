"""Processes of a stage that are all alike, and how many GPUs they have to have at once.

GB are 1e9 bytes, bytes are of each GPU of a process. Of its share of a GPU an engine takes 0.9 at most,
as vLLM does by default. Exercised by `pytest tests/unit/placement`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lr_ray.config import Place

USABLE = 0.9  # of an engine's share of a GPU
SEQUENCES = 256  # at once in an engine on a GPU, for which a cache has room where it can
_FEWEST = 16  # sequences that have room where they can
_BLOCK_TOKENS = 16  # of vLLM's caches
PROMPT_TOKENS = 512  # of a prompt, where memory is estimated: system turn, problem and template
CONTEXT_BYTES = 0.8e9  # CUDA's context, cuBLAS and NCCL buffers


@dataclass(frozen=True)
class Processes:
    """Processes of a stage that are all alike."""

    role: str  # their section of `resources`
    place: Place
    least: int
    most: int
    dtype: str
    weights: float | None  # None when the architecture is not known
    overhead: float = 0  # all but weights, state and cache: activations, logits, captured graphs
    state: float = 0  # of the optimizer
    token: float = 0  # keys and values of a token
    sequence: int = 0  # tokens of the longest sequence, which must have room
    usual: int = 0  # tokens of a usual one
    models: int = 1  # that each have an equal part of them

    def room(self, gpu: float) -> float:
        """Bytes of 0.9 of its share of each of its GPUs of `gpu` bytes."""
        return USABLE * min(1.0, self.place.gpus) * gpu

    @property
    def longest(self) -> float:
        """Bytes of one longest sequence, in vLLM's blocks."""
        return self.token * math.ceil(self.sequence / _BLOCK_TOKENS) * _BLOCK_TOKENS

    @property
    def fewest(self) -> float:
        """Bytes of the smallest cache to aim at: one longest sequence, or 16 usual ones."""
        return max(self.longest, self.token * _FEWEST * self.usual)

    @property
    def wanted(self) -> float:
        """Bytes of a cache of 256 usual sequences."""
        return max(self.fewest, self.token * SEQUENCES * self.usual)

    @property
    def fixed(self) -> float:
        """Bytes of everything but the cache."""
        return (self.weights or 0) + self.overhead + self.state

    @property
    def needed(self) -> float:
        """Bytes of a GPU that it cannot run without: with the stated cache, else one longest sequence."""
        return self.fixed + (1e9 * (self.place.cache_gb or 0) or self.longest)

    def fits(self, gpu: float, tight: bool = False) -> bool:
        """Whether its share of a GPU of `gpu` bytes has room; True on CPU and where nothing is known.

        `tight`: for one longest sequence at least, else for 16 usual ones too.
        """
        if self.weights is None or not self.place.gpus:
            return True
        usual = 0 if tight or self.place.cache_gb else self.fixed + self.fewest
        return max(self.needed, usual) <= self.room(gpu)


def at_once(stage: Sequence[Processes], together: bool, most: bool = False) -> int:
    """GPUs that a stage has to have at once for its fewest (or most) processes; shares fill GPUs up.

    Not `together`, its kinds of processes follow one another.
    """
    if not together:
        return max((at_once([kind], True, most) for kind in kinds(stage)), default=0)
    wanted = [p.place.gpus for p in stage for _ in range(p.most if most else p.least)]
    shared: list[float] = []
    for share in sorted((gpus for gpus in wanted if 0 < gpus < 1), reverse=True):
        index = next((i for i, used in enumerate(shared) if used + share <= 1.00001), None)
        if index is None:
            shared.append(share)
        else:
            shared[index] += share
    return len(shared) + sum(int(gpus) for gpus in wanted if gpus >= 1)


def kinds(stage: Sequence[Processes]) -> list[Processes]:
    """The groups that run one after another: each role, and each of the served models."""
    return [
        replace(p, least=p.least // 2, most=p.most // 2) if p.role == "server" else p for p in stage
    ]


def bytes_of(dtype: str) -> int:
    """Of a number."""
    return 4 if dtype == "float32" else 2
