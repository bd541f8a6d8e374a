"""Whether the cluster has what a stage asks for: room on some node, and the run directory on all.

pytest tests/integration/test_placement.py
"""

import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lr_ray.errors import StageError, UserError
from lr_ray.placement.needs import Bundle
from lr_ray.run.lock import NOTE
from lr_ray.run.store import Run
from lr_ray.runtime import interrupts
from lr_ray.runtime.cluster import ask_nodes, joins, nodes

_POLL_S = 2.0
_PROBE_S = 30.0
_STATUS_S = 10.0
_SETTLE_S = 10.0
_HEAD = "node:__internal_head__"  # Ray's resource of that node alone


def await_room(
    wanted: Mapping[str, Sequence[Bundle]],
    wait_s: float,
    on_waiting: Callable[[str], None] = lambda said: None,
) -> None:
    """Returns when all bundles fit on the connected cluster at once; an autoscaler is asked for them.

    A cluster that the job started gets no other nodes, so there is no waiting. `on_waiting` is called once,
    and again when the autoscaler reports that it cannot help. Raises StageError naming what has no
    room after `wait_s` seconds.
    """
    from ray.util import placement_group, remove_placement_group

    bundles = [bundle for part in wanted.values() for bundle in part if bundle]
    if not bundles:
        return
    wait_s = wait_s if joins() else 2 * _POLL_S
    told = refused = False
    _settle(bundles)
    deadline = time.monotonic() + wait_s
    group = placement_group(bundles)
    try:
        while not group.wait(_POLL_S):
            interrupts.again()
            if time.monotonic() > deadline:
                raise StageError(_no_room(wanted, wait_s))
            if not told:
                on_waiting(
                    f"waiting up to {wait_s:.0f} s for nodes with room for {_listed(wanted)}"
                )
            told = True
            if not refused and _is_refused(group):
                refused = True
                on_waiting("no node type that the autoscaler may still start has room for that")
    finally:
        remove_placement_group(group)


def check_room(stage: str, wanted: Mapping[str, Sequence[Bundle]]) -> None:
    """Raises UserError when the nodes that are there could not hold all bundles at once, were they idle."""
    if said := lacking(wanted):
        raise UserError(f"{stage}: {said}")


def lacking(wanted: Mapping[str, Sequence[Bundle]], waited_s: float | None = None) -> str | None:
    """What the nodes that are there do not hold, were they idle; none when they hold all at once.

    `waited_s`: seconds that other nodes were waited for.
    """
    bundles = [bundle for part in wanted.values() for bundle in part if bundle]
    if hold([node["Resources"] for node in nodes()], bundles):
        return None
    return _no_room(wanted, waited_s)


def hold(nodes: Sequence[Mapping[str, float]], bundles: Sequence[Bundle]) -> bool:
    """Whether nodes of these resources hold the bundles: the largest first, each where it first fits."""
    left = [dict(node) for node in nodes]
    for bundle in sorted(bundles, key=lambda b: (-b.get("GPU", 0), -b.get("CPU", 0))):
        for node in left:
            if all(node.get(name, 0) + 1e-4 >= amount for name, amount in bundle.items()):
                for name, amount in bundle.items():
                    node[name] -= amount
                break
        else:
            return False
    return True


def _settle(bundles: Sequence[Bundle]) -> None:
    """Gives the actors of the stage before a moment to end: a group that waits starts nodes."""
    import ray

    needed: Counter[str] = Counter()
    for bundle in bundles:
        needed.update(bundle)

    def there(resources: Mapping[str, float]) -> bool:
        return all(resources.get(name, 0) >= amount for name, amount in needed.items())

    deadline = time.monotonic() + _SETTLE_S
    while there(ray.cluster_resources()) and not there(ray.available_resources()):
        if time.monotonic() > deadline:
            return
        interrupts.again()
        time.sleep(_SETTLE_S / 50)


def _is_refused(group: Any) -> bool:
    """Whether the cluster's autoscaler has said that it can start no nodes for a placement group."""
    import ray
    from ray._raylet import GcsClient  # type: ignore[attr-defined]
    from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply

    status = GetClusterStatusReply()
    client = GcsClient(ray.get_runtime_context().gcs_address)
    try:
        status.ParseFromString(client.get_cluster_status(timeout_s=_STATUS_S))
    except ray.exceptions.RayError:
        return False  # the head is busy; it is asked again
    requests = status.autoscaling_state.infeasible_gang_resource_requests
    return any(request.details.startswith(group.id.hex()) for request in requests)


def check_visible(run: Run) -> None:
    """Raises UserError naming a node that does not see a run on a local path, which this driver holds."""
    if run.is_local and (address := _blind(_sees, run, [{}])):
        raise UserError(
            f"--run {run.location}: is not seen on node {address}; give a path on a file system that all "
            "nodes share, or a URI such as s3://bucket/run"
        )


def check_model(folder: str, bundles: Sequence[Bundle]) -> None:
    """Raises StageError naming a node that holds one of the bundles and does not see a model's directory."""
    if address := _blind(_is_there, folder, bundles):
        raise StageError(
            f"{folder}: is not seen on node {address}, which may have to load this model; all nodes must "
            "share its folder: HF_HOME for a hub's models, TMPDIR for those of a run in a bucket"
        )


def _blind(sees: Callable[[Any], bool], what: Any, bundles: Sequence[Bundle]) -> str | None:
    """The address of another node that holds one of the bundles and does not see `what`, if there is one."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    others = [
        node
        for node in nodes()
        if node["NodeID"] != here and any(hold([node["Resources"]], [one]) for one in bundles)
    ]
    found = ask_nodes(others, sees, what, within_s=_PROBE_S)
    # False, rather than the error of a node that went away meanwhile.
    blind = (node["NodeManagerAddress"] for node in others if found[node["NodeID"]] is False)
    return next(blind, None)


def _is_there(folder: str) -> bool:
    return os.path.isdir(folder)


def check_head() -> None:
    """Raises UserError when the driver is not on the head, whose proxy alone is an endpoint's."""
    import ray

    here, there = ray.get_runtime_context().get_node_id(), nodes()
    at = {node["NodeID"]: node["NodeManagerAddress"] for node in there}
    heads = [at[node["NodeID"]] for node in there if _HEAD in node["Resources"]]
    if heads and at.get(here) not in heads:
        raise UserError(
            f"serving: an endpoint listens on the head, {heads[0]}, and this job runs on {at.get(here)}; "
            "start it on the head (ray job submit without --entrypoint-num-cpus, -gpus and -resources)"
        )


def _sees(run: Run) -> bool:
    return run.exists(NOTE) and run.read_json(NOTE).get("token") == run.token


def _no_room(wanted: Mapping[str, Sequence[Bundle]], wait_s: float | None) -> str:
    """Which bundle no node has, or that there is no room for all; `wait_s` without one was not waited."""
    there = [node["Resources"] for node in nodes()]
    for name, bundles in wanted.items():
        for bundle in bundles:
            if not any(all(node.get(k, 0) >= v for k, v in bundle.items()) for node in there):
                return (
                    f"resources.{name}: no node has {_said(bundle)}; there are "
                    f"{'; '.join(_said(node) for node in there) or 'none'}; change resources.{name}, "
                    "or start such nodes"
                )
    if wait_s is None:
        return (
            f"resources: no room for {_listed(wanted)} at once; there are "
            f"{'; '.join(_said(node) for node in there)}; ask for fewer or smaller ones"
        )
    return (
        f"resources: no room for {_listed(wanted)} at once after {wait_s:.0f} s; free some, start "
        "nodes, or wait longer (resources.wait_s)"
    )


def _listed(wanted: Mapping[str, Sequence[Bundle]]) -> str:
    return ", ".join(f"{len(b)} {name} ({_said(b[0])})" for name, b in wanted.items() if b)


def _said(bundle: Mapping[str, Any]) -> str:
    shown = {k: v for k, v in bundle.items() if not k.startswith(("node:", "object_store"))}
    return ", ".join(
        f"{v / 1e9:.3g} GB memory" if k == "memory" else f"{v:g} {k}" for k, v in shown.items()
    )
