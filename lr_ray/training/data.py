"""A run's supervision as trajectories to train on, in an order that depends on the rows alone.

Shards are read one at a time into a memory-mapped file, so that memory holds an index and no rows.
Exercised by `pytest tests/unit/test_training_data.py`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.errors import StageError
from lr_ray.run.schemas import SUPERVISION, first_null
from lr_ray.run.store import Run
from lr_ray.training.batches import Step, Trajectory

_COLUMNS = pa.schema(
    [
        SUPERVISION.field(name)
        for name in ("problem_id", "prompt_token_ids", "completion_token_ids", "steps")
    ]
)
_ONE = 1e-3  # how far the sum of a label's weights may be from 1


class Supervision:
    """The trajectories of a run that kept a step, by problem id, then shard and row.

    `step_counts[i]` is the number of kept steps of trajectory i, `trajectories` how many rows there
    are with and without one.
    """

    def __init__(self, run: Run, vocabulary: int, scratch: str) -> None:
        """Copies the shards to `scratch`, which must outlive this. Raises StageError naming the bad row."""
        names = run.shards("supervision")
        path = Path(scratch, "supervision.arrow")
        self.trajectories = 0
        with pa.ipc.new_file(path, _COLUMNS) as sink:
            for name in names:
                table = run.read_tables([name], _COLUMNS).combine_chunks()
                for batch in table.to_batches():
                    check_rows(batch, f"{run.location}/{name}", vocabulary)
                self.trajectories += table.num_rows
                sink.write_table(table)
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self._batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in self._batches)])
        ids = [i for batch in self._batches for i in batch["problem_id"].to_pylist()]
        counts = [pc.list_value_length(batch["steps"]).to_numpy() for batch in self._batches]
        count_N = np.concatenate([np.empty(0, np.int64), *counts])
        order = np.array(sorted(range(len(ids)), key=ids.__getitem__), np.int64)
        self._order = order[count_N[order] > 0]
        self.step_counts = count_N[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, i: int) -> Trajectory:
        place = self._order[i]
        which = int(np.searchsorted(self._starts, place, side="right")) - 1
        batch, row = self._batches[which], int(place - self._starts[which])
        prompt, completion = (
            batch[name][row].values.to_numpy()
            for name in ("prompt_token_ids", "completion_token_ids")
        )
        steps = tuple(
            Step(
                len(prompt) + step["position"].as_py() - 1,
                step["token_ids"].values.to_numpy(),
                step["weights"].values.to_numpy(),
            )
            for step in batch["steps"][row].values
        )
        return Trajectory(np.concatenate([prompt, completion]), steps, int(i))


def check_rows(batch: pa.RecordBatch, where: str, vocabulary: int) -> None:
    """Raises StageError naming the first row that cannot be used: nulls, ids, positions, weights, KL.

    `batch` has columns of `schemas.SUPERVISION`; without `kl`, which training does not read, it is not looked
    at.
    """

    def refuse(bad: NDArray, rows: NDArray, said: Callable[[int], str]) -> None:
        """At the first of what is bad, whose row `rows` tells."""
        if bad.any():
            first = int(np.flatnonzero(bad)[0])
            row = int(rows[first])
            raise StageError(
                f"{where}: row {row + 1} (problem {batch['problem_id'][row]}): {said(first)}; the "
                "supervision is another model's or damaged"
            )

    def check_ids(name: str, ids: NDArray, rows: NDArray) -> None:
        known = f"but the expert has ids 0 to {vocabulary - 1}"
        refuse((ids < 0) | (ids >= vocabulary), rows, lambda i: f"{name} id {ids[i]}, {known}")

    if null := first_null(batch):
        refuse(np.ones(1, bool), np.array(null[:1]), lambda _: f"a null in {null[1]}")
    for name in ("prompt", "completion"):
        column = batch[f"{name}_token_ids"]
        check_ids(name, column.flatten().to_numpy(), pc.list_parent_indices(column).to_numpy())
    if "kl" in batch.schema.names:
        kl_N, length_N = (
            pc.list_value_length(batch[n]).to_numpy() for n in ("kl", "completion_token_ids")
        )
        said = lambda i: f"{kl_N[i]} KL values for {length_N[i]} completion tokens"  # noqa: E731
        refuse(kl_N != length_N, np.arange(len(kl_N)), said)
    flat = batch["steps"].flatten()
    if not len(flat):
        return
    row_S = pc.list_parent_indices(batch["steps"]).to_numpy()
    position_S = flat.field("position").to_numpy()
    prompt_S, length_S = (
        pc.list_value_length(batch[f"{name}_token_ids"]).to_numpy()[row_S]
        for name in ("prompt", "completion")
    )
    outside_S = (position_S < 0) | (position_S >= length_S) | (prompt_S + position_S < 1)
    place = lambda i: f"step at position {position_S[i]} of {length_S[i]} completion tokens"  # noqa: E731
    refuse(outside_S, row_S, place)
    refuse(_again(row_S, position_S), row_S, lambda i: f"two steps at position {position_S[i]}")
    ids, weights = flat.field("token_ids"), flat.field("weights")
    sizes, theirs = (pc.list_value_length(column).to_numpy() for column in (ids, weights))
    count = lambda i: f"a step with {sizes[i]} label ids and {theirs[i]} weights"  # noqa: E731
    refuse(sizes != theirs, row_S, count)
    step_L = pc.list_parent_indices(ids).to_numpy()
    id_L, weight_L = ids.flatten().to_numpy(), weights.flatten().to_numpy()
    check_ids("label", id_L, row_S[step_L])
    refuse(_again(step_L, id_L), row_S[step_L], lambda i: f"a label has id {id_L[i]} twice")
    refuse(weight_L < 0, row_S[step_L], lambda i: f"a label has the weight {weight_L[i]:.4g}")
    sum_S = np.bincount(step_L, weight_L, minlength=len(flat))
    wrong_S = ~(np.abs(sum_S - 1) < _ONE)  # NaN is wrong too
    refuse(wrong_S, row_S, lambda i: f"a label's weights sum to {sum_S[i]:.4g} instead of 1")


def _again(group_N: NDArray, value_N: NDArray) -> NDArray[np.bool_]:
    """Where a value, from 0, has stood in its group before."""
    again_N = np.ones(len(value_N), bool)
    again_N[np.unique((group_N.astype(np.int64) << 32) + value_N, return_index=True)[1]] = False
    return again_N
