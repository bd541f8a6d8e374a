"""The facts of a cluster's nodes, each gathered by a task on it.

pytest tests/integration/test_placement.py -k doctor
"""

from dataclasses import replace

from lr_ray.doctor.facts import Facts, gather
from lr_ray.runtime.cluster import ask_nodes, nodes

_PROBE_S = 60.0


def gather_nodes(run: str | None) -> dict[str, Facts | str]:
    """Facts of the connected cluster's nodes by address, or a line on why a node gave none.

    A node that went away meanwhile is left out.
    """
    answers = ask_nodes(nodes(), gather, run, within_s=_PROBE_S)
    found: dict[str, Facts | str] = {}
    for node in nodes():
        if node["NodeID"] not in answers:
            continue
        answer, name = answers[node["NodeID"]], node["NodeManagerAddress"]
        name = f"{name} {node['NodeID'][:8]}" if name in found else name
        if isinstance(answer, Exception):
            lines = [line.strip() for line in str(answer).splitlines() if line.strip()]
            found[name] = lines[-1] if lines else type(answer).__name__
        else:
            found[name] = replace(answer, joins=name)
    return found
