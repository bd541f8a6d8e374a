"""The GPUs that there are: of this machine, of the connected cluster, or as a plan assumes them.

Exercised by `pytest tests/unit/placement tests/integration/test_pretended_gpus.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from lr_ray.config import Place
from lr_ray.errors import counted
from lr_ray.placement.nvidia import Capability, gpus
from lr_ray.runtime.cluster import ask_nodes, joins, nodes

_PROBE_S = 30.0
# Bytes of a GPU where no driver says how large it is: the first on which a stage fits.
ASSUMED = (24e9, 48e9, 80e9, 141e9, 288e9)


class Kind(NamedTuple):
    """The GPUs of a node."""

    names: frozenset[str]  # of the node's resources
    memory: float  # bytes of its smallest
    capability: Capability  # of its oldest


@dataclass(frozen=True)
class Cards:
    """GPUs by node."""

    nodes: tuple[int, ...]  # how many each has
    memory: float  # bytes of the smallest
    fixed: bool = True  # no other nodes will come
    measured: bool = True  # the memory is what the driver reported
    kinds: tuple[Kind, ...] = ()  # of each node
    oldest: Capability | None = None  # None where no driver tells

    def memory_for(self, place: Place) -> float:
        """Bytes of the smallest GPU of the nodes that have the accelerator and the custom resources named.

        Infinite where such nodes are yet to come.
        """
        sizes = [kind.memory for kind in self._kinds_for(place)]
        to_come = self.kinds and not self.fixed
        return min(sizes, default=math.inf if to_come else self.memory)

    def oldest_for(self, place: Place) -> Capability | None:
        """The same of the oldest GPU's capability; None where no driver tells."""
        found = [kind.capability for kind in self._kinds_for(place)]
        return min(found, default=None if self.kinds else self.oldest)

    def _kinds_for(self, place: Place) -> list[Kind]:
        named = place.bundle().keys() - {"CPU", "GPU", "memory"}
        return [kind for kind in self.kinds if named <= kind.names]

    @property
    def known(self) -> bool:
        """Whether the GPUs are there now, rather than expected from an autoscaler."""
        return self.measured or self.fixed

    @property
    def count(self) -> int:
        return sum(self.nodes)

    @property
    def largest_node(self) -> int:
        return max(self.nodes, default=0)

    def __str__(self) -> str:
        size = f"{self.memory / 1e9:.3g} GB" + ("" if self.measured else " (assumed)")
        if not self.count:
            return "no GPU"
        return f"{counted(self.count, 'GPU')} of {size}"


NONE = Cards((), 0)


def local() -> Cards:
    """Those of this machine that CUDA_VISIBLE_DEVICES leaves."""
    found = gpus()
    least = min((g.memory_bytes for g in found), default=0)
    oldest = min((g.capability for g in found), default=None)
    return Cards((len(found),) if found else (), least, oldest=oldest)


def of_cluster() -> Cards:
    """Those of the connected cluster's nodes; it may get others, unless the job started it."""
    there = [node for node in nodes() if node["Resources"].get("GPU")]
    counts = tuple(sorted((int(node["Resources"]["GPU"]) for node in there), reverse=True))
    kinds = _measured(there)
    fixed = joins() is None
    least = min((kind.memory for kind in kinds), default=ASSUMED[0])
    return Cards(counts, least, fixed, bool(kinds), kinds)


def _measured(there: Sequence[dict[str, Any]]) -> tuple[Kind, ...]:
    """`Cards.kinds` of the nodes, by their drivers; nothing where a driver is silent."""
    found = ask_nodes(there, gpus, within_s=_PROBE_S)
    if any(isinstance(of_node, Exception) for of_node in found.values()):
        return ()  # a node went away, or is slow
    return tuple(
        Kind(
            frozenset(node["Resources"]),
            min(gpu.memory_bytes for gpu in of_node),
            min(gpu.capability for gpu in of_node),
        )
        for node in there
        if (of_node := found.get(node["NodeID"]))
    )


def pretended(count: int, memory: float, per_node: int = 8) -> Cards:
    """`count` GPUs in nodes of up to `per_node`, as a plan is told."""
    full, rest = divmod(count, per_node)
    return Cards((per_node,) * full + (rest,) * (rest > 0), memory)
