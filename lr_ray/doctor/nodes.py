"""The facts of a cluster's nodes, each gathered by a task on it.

pytest tests/integration/test_placement.py -k doctor
"""

from dataclasses import replace
from typing import Any

from lr_ray.doctor.facts import Facts, gather

_PROBE_S = 60.0


def gather_nodes(run: str | None) -> dict[str, Facts | str]:
    """Facts of the connected cluster's nodes by address, or a line on why a node gave none.

    A node that went away meanwhile is left out.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probes = {}
    for node in _alive():
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        probe = ray.remote(gather).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        probes[node["NodeID"]] = probe.remote(run)
    answers: dict[str, Facts | str] = {}
    for node_id, probe in probes.items():
        try:
            answers[node_id] = ray.get(probe, timeout=_PROBE_S)
        except Exception as error:  # of the task too: its Python may lack this package
            lines = [line for line in str(error).splitlines() if line.strip()]
            answers[node_id] = lines[-1].strip() if lines else type(error).__name__
    found: dict[str, Facts | str] = {}
    for node in _alive():
        if node["NodeID"] not in answers:
            continue
        answer, name = answers[node["NodeID"]], node["NodeManagerAddress"]
        name = f"{name} {node['NodeID'][:8]}" if name in found else name
        found[name] = answer if isinstance(answer, str) else replace(answer, joins=name)
    return found


def _alive() -> list[dict[str, Any]]:
    import ray

    return [node for node in ray.nodes() if node["Alive"]]
