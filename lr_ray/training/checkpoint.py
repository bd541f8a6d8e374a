"""Checkpoints of training: trainable weights, optimizer moments and the metrics so far; nothing of the base.

`checkpoints/step-N/` of a run. `metrics.json` is written last and marks a checkpoint as whole.
Exercised by `pytest tests/unit/test_checkpoint.py tests/integration/test_kills.py`.
"""

import json
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.fs import FSSpecHandler, PyFileSystem

from lr_ray.run.store import Run

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoints"  # Ray Train keeps its register there too
_WEIGHTS = "state.safetensors"
_METRICS = "metrics.json"


@dataclass
class Progress:
    """How far training is: `rows[i]` are the metrics of optimizer step i + 1."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    state: "dict[str, Tensor] | None" = None  # of `Backend.state`; None at the start

    @property
    def steps(self) -> int:
        return len(self.rows)

    @property
    def name(self) -> str:
        """Of its checkpoint, relative to the run."""
        return f"{FOLDER}/step-{self.steps:06d}"


def save(run: Run, progress: Progress) -> None:
    """Writes the checkpoint `progress.name`."""
    from safetensors.torch import save_file

    assert progress.state is not None
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as scratch:
        file = Path(scratch, _WEIGHTS)
        save_file(progress.state, file)
        run.fs.makedirs(run.path(progress.name), exist_ok=True)
        run.fs.put_file(str(file), run.path(f"{progress.name}/{_WEIGHTS}"))
    run.write_bytes(f"{progress.name}/{_METRICS}", json.dumps(progress.rows).encode())


def newest(run: Run) -> str | None:
    """The name of the last whole checkpoint."""
    there = (name for name in run.folders(FOLDER) if name.startswith(f"{FOLDER}/step-"))
    whole = [n for n in there if all(run.exists(f"{n}/{file}") for file in (_WEIGHTS, _METRICS))]
    return max(whole, key=lambda name: (len(name), name), default=None)


def load(run: Run, name: str) -> Progress:
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory(prefix="lr_ray-") as scratch:
        folder = run.local_folder(name, scratch)
        rows = json.loads(Path(folder, _METRICS).read_text())
        return Progress(rows, load_file(Path(folder, _WEIGHTS)))


def file_system(run: Run) -> PyFileSystem | None:
    """The run's, as Ray Train takes it; None for local files."""
    return None if run.is_local else PyFileSystem(FSSpecHandler(run.fs))
