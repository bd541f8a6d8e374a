"""Looks, while models are asked, whether each still has a replica or can get another one.

pytest tests/unit/test_endpoint.py; with real nodes tests/integration/test_node_loss.py
"""

import time
from collections.abc import Callable

from lr_ray.config import Config
from lr_ray.errors import StageError
from lr_ray.placement import lacking, replica_bundles
from lr_ray.serving.endpoint import START_S, without_replica


class Watch:
    """Called every few seconds, by any thread. Requests to a model without a replica wait for one.

    Raises StageError when the nodes that are left hold no replica of each model for `resources.wait_s`
    seconds, in which an autoscaler may start others, or 15 minutes later where they do.
    """

    def __init__(self, config: Config, on_waiting: Callable[[str], None]) -> None:
        self._config, self._on_waiting = config, on_waiting
        self._since: float | None = None

    def __call__(self) -> None:
        away, models = without_replica()
        if not away:
            self._since = None
            return
        if self._since is None:
            self._since = time.monotonic()
            self._on_waiting(f"{' and '.join(away)} without a replica; waiting for another one")
        waited, wait_s = time.monotonic() - self._since, self._config.resources.wait_s
        if waited < wait_s:
            return
        wanted = {"server": replica_bundles(self._config.resources.server) * models}
        if said := lacking(wanted, waited):
            raise StageError(f"serving: {said}")
        if waited > wait_s + START_S:
            raise StageError(f"serving: {away[0]} has had no replica for {waited:.0f} s")
