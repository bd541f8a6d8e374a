"""The Ray cluster of a job: the one that RAY_ADDRESS names, or a local one that ends with the job."""

import contextlib
import logging
import os
import re
import socket
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from lr_ray import plugins
from lr_ray.errors import StageError, UserError, reason
from lr_ray.run.store import Run
from lr_ray.runtime import interrupts, leftovers

# Logical CPUs of a local cluster: the engines of a stage side by side, each thread-bound, plus tasks.
_LOCAL_CPUS = 4
_REACH_S = 10.0


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Connects, yields the folder of Ray's own logs, and disconnects; ends a cluster it started.

    Within another one, it is that one. Raises UserError when RAY_ADDRESS names none that lets this
    process in.
    """
    check_address()
    # Where it is empty or relative, Ray's processes do not find each other.
    if temp := os.environ.pop("RAY_TMPDIR", ""):
        os.environ["RAY_TMPDIR"] = os.path.abspath(temp)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Serve kills its proxy after three of these, of 5 s each: where the disk or the cores are busy too soon.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    # Of Serve's proxies on a cluster of this process, which has this package.
    os.environ.setdefault(
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", "lr_ray.serving.guard.of_proxy"
    )
    import ray

    if ray.is_initialized():
        yield logs()
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.WARNING}
    if env := plugins.runtime_env():
        options["runtime_env"] = env
    _connect(options)
    interrupts.install()  # Ray puts its own there
    ours = joins() is None
    with leftovers.ended(logs()) if ours else contextlib.nullcontext():
        try:
            yield logs()
        finally:
            ray.shutdown()


def _connect(options: dict[str, Any]) -> None:
    import ray

    if joins():
        try:
            ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(f"RAY_ADDRESS: {_why_not(error)}") from error
        return
    cpus = max(_LOCAL_CPUS, os.cpu_count() or 1)
    # "local": not the cluster that somebody has started on this machine. Ray Train floods its log
    # when the dashboard is off.
    options |= {"include_dashboard": True, "dashboard_host": "127.0.0.1"}
    try:
        ray.init("local", num_cpus=cpus, **options)
    except Exception as error:  # a bare one
        if "timed out during startup" not in str(error):
            raise
        said = "Ray did not start within 30 seconds, as on a machine with too much to do"
        raise StageError(f"{said}; run the same command again") from None


def logs() -> str:
    """The folder of Ray's own logs, on this node and under the same name on others."""
    import ray

    return os.path.join(ray._private.worker._global_node.get_session_dir_path(), "logs")


def joins(environ: Mapping[str, str] = os.environ) -> str | None:
    """RAY_ADDRESS where it names a cluster; "local" is Ray's word for one of the job's own."""
    address = environ.get("RAY_ADDRESS")
    return None if address in ("", "local") else address


def check_address() -> None:
    """Raises UserError when RAY_ADDRESS cannot be connected to; Ray would try for many minutes."""
    address = joins()
    if address is None or address == "auto":
        return
    if "://" in address:  # of the dashboard, or of Ray Client
        raise UserError(
            f"RAY_ADDRESS: {address}: a job runs on a node of the cluster; submit it (ray job submit), "
            "or give the head's host:6379"
        )
    host, _, port = address.rpartition(":")
    try:
        if not (host and re.fullmatch("[0-9]{1,5}", port)):
            raise ValueError("must be HOST:PORT, as the head's, auto or local")
        socket.create_connection((host.strip("[]"), int(port)), _REACH_S).close()
    except (OSError, OverflowError, ValueError) as error:  # UnicodeError is a ValueError
        said = getattr(error, "strerror", None) or reason(error)
        raise UserError(
            f"RAY_ADDRESS: {address}: {said}; start a cluster there, or unset it "
            "for one of the job's own"
        ) from None


def _why_not(error: BaseException) -> str:
    """One line of what `ray.init` says."""
    address, causes = os.environ["RAY_ADDRESS"], str(error) + str(error.__cause__)
    if "AuthToken" in causes:
        return (
            f"{address}: the cluster refuses this token, or its lack; set RAY_AUTH_MODE=token and "
            "RAY_AUTH_TOKEN_PATH as on its head"
        )
    return f"{address}: {reason(error)}"


def nodes() -> list[dict[str, Any]]:
    """Those of the connected cluster that are alive, as `ray.nodes` tells of them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def ask_nodes(
    asked: Sequence[dict[str, Any]], question: Callable[..., Any], *arguments: Any, within_s: float
) -> dict[str, Any]:
    """What a function returns on each of these nodes, by node id; the exception where it has no answer."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    tasks = {}
    for node in asked:
        pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "max_retries": 0, "scheduling_strategy": pinned}
        tasks[node["NodeID"]] = ray.remote(question).options(**options).remote(*arguments)
    answers: dict[str, Any] = {}
    for node_id, task in tasks.items():
        try:
            answers[node_id] = ray.get(task, timeout=within_s)
        except Exception as error:  # of the function too, or its node's Python lacks this package
            answers[node_id] = error
    return answers


def placement_groups() -> set[str]:
    """Those of this job that hold or await resources, by id."""
    import ray

    job = ray.get_runtime_context().get_job_id()  # the end of each of their ids
    groups = ray.util.placement_group_table().items()
    return {name for name, group in groups if name.endswith(job) and group["state"] != "REMOVED"}


def remove_groups(names: set[str]) -> None:
    from ray import PlacementGroupID
    from ray.util import remove_placement_group
    from ray.util.placement_group import PlacementGroup

    for name in names:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(name))))


def start_helper(kind: type, run: Run) -> Any:
    """A small actor of a job on this run: asks for nothing, and is started again wherever it died."""
    import ray

    # A restart of the stage makes another.
    name = f"{kind.__name__} of {run.location} {uuid.uuid4().hex[:8]}"
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(kind).options(name=name, **options).remote()
