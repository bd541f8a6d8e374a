"""Supervision rows to the batches of packed training: who trains which kept steps, and when.

NumPy only. One forward over a trajectory serves all its kept steps of the batch, as attention is
causal. Everything follows from the rows and the seed, so each worker computes the same plan alone.
Exercised by `pytest tests/unit/test_batches.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Step:
    """A kept step: `row` indexes the hidden states that predict it, weights sum to 1."""

    row: int
    token_ids: NDArray[np.int32]
    weights: NDArray[np.float32]


@dataclass(frozen=True)
class Trajectory:
    token_ids: NDArray[np.int32]  # prompt and completion
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class MicroBatch:
    """Right-padded arrays of one forward over B trajectories, S kept steps, L label entries."""

    token_ids_BT: Ints
    mask_BT: Ints
    step_batch_S: Ints  # which trajectory a kept step is of
    step_row_S: Ints  # which of its rows predicts the step
    label_step_L: Ints  # which kept step a label entry is of
    label_id_L: Ints
    label_weight_L: NDArray[np.float32]


def read_trajectories(table: pa.Table) -> list[Trajectory]:
    """Rows of `rows.SUPERVISION` that kept a step, in the order of their problem ids."""
    table = table.sort_by("problem_id")
    columns = ("prompt_token_ids", "completion_token_ids", "steps")
    trajectories = []
    for prompt, completion, steps in zip(*(table[c] for c in columns), strict=True):
        if not len(steps.values):
            continue
        start = len(prompt.values)
        kept = tuple(
            Step(
                start + step["position"].as_py() - 1,
                step["token_ids"].values.to_numpy(),
                step["weights"].values.to_numpy(),
            )
            for step in steps.values
        )
        tokens = np.concatenate([prompt.values.to_numpy(), completion.values.to_numpy()])
        trajectories.append(Trajectory(tokens, kept))
    return trajectories


def plan(step_counts: Sequence[int], batch_steps: int, batches: int, seed: int) -> list[Ints]:
    """`batches` arrays `[batch_steps, 2]` of (trajectory, step in it), drawn at random.

    `step_counts[i]` is the number of kept steps of trajectory i. Each step is drawn once before any
    is drawn again.
    """
    trajectory = np.repeat(np.arange(len(step_counts)), step_counts)
    step = np.concatenate([np.arange(n) for n in step_counts])
    pairs = np.stack([trajectory, step], axis=1)
    needed = batch_steps * batches
    epochs = -(-needed // len(pairs))
    rng = np.random.default_rng(seed)
    order = np.concatenate([rng.permutation(len(pairs)) for _ in range(epochs)])[:needed]
    return list(pairs[order].reshape(batches, batch_steps, 2))


def pack(trajectories: Sequence[Trajectory], pairs: Ints) -> list[Trajectory]:
    """The batch with the steps of one trajectory together, cut after the last, longest first."""
    packed = []
    for index in np.unique(pairs[:, 0]):
        trajectory = trajectories[index]
        steps = tuple(trajectory.steps[i] for i in sorted(pairs[pairs[:, 0] == index, 1]))
        packed.append(Trajectory(trajectory.token_ids[: steps[-1].row + 1], steps))
    return sorted(packed, key=lambda p: -len(p.token_ids))


def share(
    batch: Sequence[Trajectory], rank: int, workers: int, micro_batch_tokens: int
) -> list[list[Trajectory]]:
    """This worker's micro-batches. All workers get the same number, as each reduces gradients."""
    shares = [_cut(batch[r::workers], micro_batch_tokens) for r in range(workers)]
    most = max(len(micro_batches) for micro_batches in shares)
    return shares[rank] + [[]] * (most - len(shares[rank]))


def _cut(items: Sequence[Trajectory], budget: int) -> list[list[Trajectory]]:
    """Runs of items, longest first, whose padded size stays within the budget of tokens."""
    cuts: list[list[Trajectory]] = []
    for item in items:
        if cuts and len(cuts[-1][0].token_ids) * (len(cuts[-1]) + 1) <= budget:
            cuts[-1].append(item)
        else:
            cuts.append([item])
    return cuts


def collate(items: Sequence[Trajectory]) -> MicroBatch:
    """Arrays of one forward. No items give one padding token and no label: a loss of zero."""
    length = max((len(p.token_ids) for p in items), default=1)
    token_ids = np.zeros((max(len(items), 1), length), np.int64)
    mask = np.zeros_like(token_ids)
    mask[:, 0] = 1  # a row without any token would have no softmax
    for i, item in enumerate(items):
        token_ids[i, : len(item.token_ids)] = item.token_ids
        mask[i, : len(item.token_ids)] = 1
    steps = [(i, step) for i, item in enumerate(items) for step in item.steps]
    sizes = [len(step.token_ids) for _, step in steps]
    ids = [step.token_ids for _, step in steps]
    weights = [step.weights for _, step in steps]
    return MicroBatch(
        token_ids,
        mask,
        np.array([i for i, _ in steps], np.int64),
        np.array([step.row for _, step in steps], np.int64),
        np.repeat(np.arange(len(steps)), sizes).astype(np.int64),
        np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64),
        np.concatenate([np.empty(0, np.float32), *weights]).astype(np.float32),
    )
