"""What a Prometheus that scrapes the cluster's nodes sees of a run: gauges with the tag `run`.

Ray puts `ray_` before their names. pytest tests/integration/test_metrics.py
"""

import time
from typing import Any

from lr_ray.store import Run

_DESCRIPTIONS = {
    "done": "Units of the stage that are done: problems, optimizer steps, models or answers.",
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
        self._first: tuple[float, int] | None = None

    def progress(self, done: int, total: int) -> None:
        """Sets `done`, `total` and, from the second call on, `rate`."""
        now = time.monotonic()
        self.set(done=done, total=total)
        if self._first is None:
            self._first = now, done
        elif now > self._first[0]:
            self.set(rate=(done - self._first[1]) / (now - self._first[0]))

    def set(self, **values: float) -> None:
        """Sets gauges by the names of `_DESCRIPTIONS`."""
        from ray.util.metrics import Gauge

        for name, value in values.items():
            if name not in self._gauges:
                full = f"lr_ray_{self._stage}_{name}"
                self._gauges[name] = Gauge(full, _DESCRIPTIONS[name], tag_keys=("run",))
            self._gauges[name].set(value, tags={"run": self._run})
