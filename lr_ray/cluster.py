"""The Ray cluster of a job: the one that RAY_ADDRESS names, or a local one that ends with the job."""

import contextlib
import logging
import os
import uuid
from collections.abc import Iterator
from typing import Any

from lr_ray import interrupts
from lr_ray.store import Run

# Logical CPUs of a local cluster: the engines of a stage side by side, each thread-bound, plus tasks.
_LOCAL_CPUS = 4


@contextlib.contextmanager
def cluster() -> Iterator[str]:
    """Connects, yields the folder of Ray's own logs, and disconnects; ends a cluster it started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    options = {"log_to_driver": False, "logging_level": logging.WARNING}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(**options)
    else:
        cpus = max(_LOCAL_CPUS, os.cpu_count() or 1)
        # "local": not the cluster that somebody has started on this machine. Ray Train floods its log
        # when the dashboard is off.
        ray.init(
            "local", num_cpus=cpus, include_dashboard=True, dashboard_host="127.0.0.1", **options
        )
    interrupts.install()  # Ray puts its own there
    try:
        yield os.path.join(ray._private.worker._global_node.get_session_dir_path(), "logs")
    finally:
        ray.shutdown()


def start_helper(kind: type, run: Run) -> Any:
    """A small actor of a job on this run: asks for nothing, and is started again wherever it died.

    Its name says what it is; a restart of the stage makes another.
    """
    import ray

    name = f"{kind.__name__} of {run.location} {uuid.uuid4().hex[:8]}"
    options = {"num_cpus": 0, "max_restarts": -1, "max_task_retries": -1}
    return ray.remote(kind).options(name=name, **options).remote()
