"""Checkpoints of training: trainable weights, optimizer moments and the metrics so far; nothing of the base.

Exercised by `pytest tests/integration/test_kills.py`.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

_WEIGHTS = "state.safetensors"
_METRICS = "metrics.json"


@dataclass
class Progress:
    """How far training is: `rows[i]` are the metrics of optimizer step i + 1."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    state: dict[str, Tensor] | None = None  # of `Backend.state`; None at the start

    @property
    def steps(self) -> int:
        return len(self.rows)


def save(progress: Progress, folder: str) -> None:
    from safetensors.torch import save_file

    assert progress.state is not None
    save_file(progress.state, Path(folder, _WEIGHTS))
    Path(folder, _METRICS).write_text(json.dumps(progress.rows))


def load(folder: str) -> Progress:
    from safetensors.torch import load_file

    rows = json.loads(Path(folder, _METRICS).read_text())
    return Progress(rows, load_file(Path(folder, _WEIGHTS)))
