"""Batches of packed training: which worker trains which kept steps, and when.

NumPy only. One forward over a trajectory serves all its kept steps of the batch, as attention is
causal. Everything follows from the rows and the seed, so each worker computes the same plan alone.
Exercised by `pytest tests/unit/test_batches.py`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lr_ray.method.contrast import entropy_terms

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
    index: int = 0  # in the order of training


class Trajectories(Protocol):
    def __getitem__(self, i: int, /) -> Trajectory: ...


@dataclass(frozen=True)
class MicroBatch:
    """Arrays of one forward: N tokens of B trajectories in a row, S kept steps, L label entries."""

    token_ids_N: Ints
    position_N: Ints  # of a token in its trajectory
    index_B: Ints  # which trajectory of the supervision a row is
    length_B: Ints  # its tokens
    step_token_S: Ints  # which of the N tokens predicts a kept step
    label_step_L: Ints  # which kept step a label entry is of
    label_id_L: Ints
    label_weight_L: NDArray[np.float32]


def plan(
    step_counts: Sequence[int] | NDArray, batch_size: int, seed: int, by: str
) -> Iterator[Ints]:
    """Batches without end: arrays `[n, 2]` of (trajectory, step in it), drawn at random.

    `step_counts[i]` is the number of kept steps of trajectory i. By `step`, a batch has `batch_size`
    kept steps; by `trajectory`, all kept steps of so many trajectories. Each is drawn once before any
    is drawn again.
    """
    counts = np.asarray(step_counts, np.int64)
    trajectory = np.repeat(np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    pairs = np.stack([trajectory, np.arange(len(trajectory)) - first[trajectory]], axis=1)
    drawn_of = np.flatnonzero(counts) if by == "trajectory" else np.arange(len(pairs))
    rng = np.random.default_rng(seed)
    drawn = np.empty(0, np.int64)
    while True:
        while len(drawn) < batch_size:
            drawn = np.concatenate([drawn, drawn_of[rng.permutation(len(drawn_of))]])
        batch, drawn = drawn[:batch_size], drawn[batch_size:]
        if by == "trajectory":
            batch = np.concatenate([np.arange(first[i], first[i] + counts[i]) for i in batch])
        yield pairs[batch]


def pack(trajectories: Trajectories, pairs: Ints) -> list[Trajectory]:
    """The batch with the steps of one trajectory together, cut after the last, longest first."""
    packed = []
    for index in np.unique(pairs[:, 0]):
        trajectory = trajectories[index]
        steps = tuple(trajectory.steps[i] for i in sorted(pairs[pairs[:, 0] == index, 1]))
        tokens = trajectory.token_ids[: max(step.row for step in steps) + 1]
        packed.append(Trajectory(tokens, steps, int(index)))
    return sorted(packed, key=lambda p: -len(p.token_ids))


def share(
    batch: Sequence[Trajectory],
    rank: int,
    workers: int,
    micro_batch_tokens: int,
    padded: bool = False,
) -> list[list[Trajectory]]:
    """This worker's micro-batches. All workers get the same number, as each reduces gradients.

    Each stays within `micro_batch_tokens`, if need be as one trajectory alone; `padded` counts what
    padding the rows to one length takes too.
    """
    shares = [_cut(batch[r::workers], micro_batch_tokens, padded) for r in range(workers)]
    most = max(len(micro_batches) for micro_batches in shares)
    return shares[rank] + [[]] * (most - len(shares[rank]))


def _cut(items: Sequence[Trajectory], budget: int, padded: bool) -> list[list[Trajectory]]:
    """Runs of items, longest first, whose size stays within the budget of tokens."""
    cuts: list[list[Trajectory]] = []
    for item in items:
        if cuts and _tokens([*cuts[-1], item], padded) <= budget:
            cuts[-1].append(item)
        else:
            cuts.append([item])
    return cuts


def _tokens(items: Sequence[Trajectory], padded: bool) -> int:
    lengths = [len(item.token_ids) for item in items]
    return max(lengths) * len(lengths) if padded else sum(lengths)


def collate(items: Sequence[Trajectory]) -> MicroBatch:
    """Arrays of one forward. No items give one padding token and no label: a loss of zero."""
    rows = [item.token_ids for item in items] or [np.zeros(1, np.int64)]
    lengths = np.array([len(row) for row in rows], np.int64)
    starts = np.cumsum(lengths) - lengths
    steps = [(i, step) for i, item in enumerate(items) for step in item.steps]
    sizes = [len(step.token_ids) for _, step in steps]
    ids = [step.token_ids for _, step in steps]
    weights = [step.weights for _, step in steps]
    return MicroBatch(
        np.concatenate(rows).astype(np.int64),
        np.concatenate([np.arange(n) for n in lengths]),
        np.array([item.index for item in items] or [0], np.int64),
        lengths,
        np.array([starts[i] + step.row for i, step in steps], np.int64),
        np.repeat(np.arange(len(steps)), sizes).astype(np.int64),
        np.concatenate([np.empty(0, np.int64), *ids]).astype(np.int64),
        np.concatenate([np.empty(0, np.float32), *weights]).astype(np.float32),
    )


def label_entropy(batch: Sequence[Trajectory]) -> float:
    """Mean entropy of the batch's soft labels, in nats."""
    weights = np.concatenate([step.weights for item in batch for step in item.steps])
    steps = sum(len(item.steps) for item in batch)
    return float(entropy_terms(weights).sum() / steps)
