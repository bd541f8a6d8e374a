"""A run's gauges for Prometheus, which scrapes the cluster's nodes; each has the tag `run`.

Ray puts `ray_` before their names. pytest tests/integration/test_metrics.py
"""

import time
from typing import Any

from lr_ray.run.store import Run

_DESCRIPTIONS = {
    "done": "Units of the stage that are done: problems, optimizer steps or answers.",
    "total": "Units of the stage in all.",
    "rate": "Units a second since the job began the stage.",
    "kept_step_share": "Kept steps among those scored, in [0, 1].",
    "loss": "Training loss of the last optimizer step.",
    "tokens_per_second": "Tokens of the last optimizer step by its seconds, all workers together.",
}


class StageMetrics:
    """Gauges `lr_ray_<stage>_<name>` of a stage. The driver sets them; they stay until it ends."""

    def __init__(self, run: Run, stage: str) -> None:
        self._run, self._stage = run.location, stage
        self._gauges: dict[str, Any] = {}
        self._started = time.monotonic()
        self._before: int | None = None  # done, as of the first call

    def progress(self, done: int, total: int) -> None:
        """Sets `done`, `total` and `rate`, which does not count what the first call finds done."""
        if self._before is None:
            self._before = done
        rate = (done - self._before) / max(time.monotonic() - self._started, 1e-3)
        self.set(done=done, total=total, rate=rate)

    def set(self, **values: float) -> None:
        """Sets gauges by the names of `_DESCRIPTIONS`."""
        from ray.util.metrics import Gauge

        for name, value in values.items():
            if name not in self._gauges:
                full = f"lr_ray_{self._stage}_{name}"
                self._gauges[name] = Gauge(full, _DESCRIPTIONS[name], tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._run})
