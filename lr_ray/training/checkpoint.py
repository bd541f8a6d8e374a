"""Checkpoints of training: trainable weights, optimizer moments and the metrics so far; nothing of the base.

`checkpoints/step-N/` of a run. `metrics.json` is written last and marks a checkpoint as whole.
Exercised by `pytest tests/unit/test_checkpoint.py tests/integration/test_kills.py`.
"""

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lr_ray.errors import StageError, reason
from lr_ray.run.paths import temporary
from lr_ray.run.store import Run

if TYPE_CHECKING:
    from torch import Tensor

FOLDER = "checkpoints"  # Ray Train's too
KEPT = 2  # checkpoints
# Of checkpoints that Ray Train was told of: it does not start where one of them is gone, and removes by it.
_REGISTER = f"{FOLDER}/checkpoint_manager_snapshot.json"
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
    with temporary() as scratch:
        file = Path(scratch, _WEIGHTS)
        save_file(progress.state, file)
        run.put_file(str(file), f"{progress.name}/{_WEIGHTS}")
    run.write_bytes(f"{progress.name}/{_METRICS}", json.dumps(progress.rows).encode())


def prune(run: Run, last: str) -> None:
    """Removes all checkpoints but the last, just written, and the whole ones next before it."""
    there = _there(run)  # those of more steps were passed over
    kept = [name for name in there[there.index(last) :] if _is_whole(run, name)][:KEPT]
    for name in there:
        if name not in kept:
            run.remove(name)


def forget_register(run: Run) -> None:
    """Drops Ray Train's register of checkpoints, which versions before had it keep."""
    run.remove(_REGISTER)


def _there(run: Run) -> list[str]:
    """Names of all checkpoints, the one of most steps first."""
    there = (name for name in run.folders(FOLDER) if name.startswith(f"{FOLDER}/step-"))
    return sorted(there, key=lambda name: (len(name), name), reverse=True)


def _is_whole(run: Run, name: str) -> bool:
    """False of one that was written or removed in part."""
    return all(run.exists(f"{name}/{file}") for file in (_WEIGHTS, _METRICS))


def newest(run: Run) -> str | None:
    """The name of the last whole checkpoint; warns of each later one that is damaged."""
    for name in filter(lambda name: _is_whole(run, name), _there(run)):
        damage = _damage(run, name)
        if damage is None:
            return name
        said = "%s/%s; training goes on after the checkpoint before it"
        logging.getLogger(__name__).warning(said, run.location, damage)
    return None


def _damage(run: Run, name: str) -> str | None:
    """What is wrong with a checkpoint's files, None where nothing is; of the weights the header is read."""
    file = f"{name}/{_WEIGHTS}"
    try:
        path, there = run.path(file), int(run.fs.info(run.path(file))["size"])
        size = int.from_bytes(run.fs.cat_file(path, start=0, end=8), "little")
        if size > there:
            raise ValueError(f"cut or damaged at {there} bytes")
        header = json.loads(run.fs.cat_file(path, start=8, end=8 + size))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
        if there != 8 + size + max(ends, default=0):
            raise ValueError(f"cut or damaged at {there} bytes")
        file = f"{name}/{_METRICS}"
        rows = json.loads(run.fs.cat_file(run.path(file)))
        if not isinstance(rows, list) or len(rows) != int(name.rpartition("-")[2]):
            raise ValueError("has not as many rows as the checkpoint has steps")
    except FileNotFoundError:  # removed since
        return f"{file}: is not there any more"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        return f"{file}: {reason(error)}"
    return None


def load(run: Run, name: str) -> Progress:
    """Raises StageError naming the checkpoint when it cannot be read, as another attempt cannot either."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    with temporary() as scratch:
        folder = run.local_folder(name, scratch)
        try:
            rows = json.loads(Path(folder, _METRICS).read_text())
            return Progress(rows, load_file(Path(folder, _WEIGHTS)))
        except (SafetensorError, ValueError) as error:
            said = f"damaged: {reason(error)}; remove this folder and run again"
            raise StageError(f"{run.location}/{name}: {said}") from None
