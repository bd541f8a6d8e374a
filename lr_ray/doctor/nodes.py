"""The facts of a cluster's nodes, each gathered by a task on it.

pytest tests/integration/test_doctor_nodes.py
"""

from dataclasses import replace

from lr_ray.doctor.facts import Facts, gather

_PROBE_S = 60.0


def gather_nodes(run: str | None) -> dict[str, Facts | str]:
    """Facts of each living node of the connected cluster by its address, or a line on why there are none."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    probes = {}
    for node in (node for node in ray.nodes() if node["Alive"]):
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        probe = ray.remote(gather).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        name = node["NodeManagerAddress"]
        probes[f"{name} {node['NodeID'][:8]}" if name in probes else name] = probe.remote(run)
    found: dict[str, Facts | str] = {}
    for name, probe in probes.items():
        try:
            found[name] = replace(ray.get(probe, timeout=_PROBE_S), joins=name)
        except Exception as error:  # of the task too: its Python may lack this package
            lines = [line for line in str(error).splitlines() if line.strip()]
            found[name] = lines[-1].strip() if lines else type(error).__name__
    return found
