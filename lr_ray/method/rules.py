"""Which steps are kept, and what their labels are: the paper's rules and those of its ablations. NumPy only.

A rule of your own is a function of the same form, known by name through `lr_ray.plugins`. Shape suffixes:
N steps, those of one trajectory after those of another; R trajectories.
Exercised by `pytest tests/unit/test_label.py tests/unit/test_extending.py`.
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lr_ray.method.contrast import (
    Exchange,
    Floats,
    Labels,
    expert_labels,
    greedy_labels,
    problem_seed,
    soft_labels,
    sum_of_step,
    unlabelled,
)


@dataclass(frozen=True)
class Steps:
    """What a rule may know of the steps of a batch of whole trajectories."""

    kl: Floats  # [N] KL(expert || amateur) in nats
    exchange: Exchange  # both models' log-probabilities at each step's plausible tokens
    completion: NDArray[np.int32]  # [N] the token that the expert took
    lengths: NDArray[np.int64]  # [R] steps of each trajectory
    problem_ids: Sequence[str]  # [R]
    threshold: float  # sampling.kl_threshold, in nats
    plausibility: float  # sampling.plausibility: that of the label, at least that of the exchange
    seed: int  # sampling.seed

    @cached_property
    def trajectory(self) -> NDArray[np.int64]:
        """[N] which of the R trajectories a step is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """[N] a step's place in its trajectory, from 0."""
        starts_R = np.cumsum(self.lengths) - self.lengths
        return np.arange(len(self.kl)) - starts_R[self.trajectory]

    @cached_property
    def entropy(self) -> Floats:
        """[N] the expert's entropy in nats, with its tokens that are not plausible lumped into one."""
        log_p = self.exchange.expert.astype(np.float64)
        rest_N = np.maximum(1 - sum_of_step(np.exp(log_p), self.exchange), 1e-12)
        inside_N = sum_of_step(-np.exp(log_p) * log_p, self.exchange)
        return (inside_N - rest_N * np.log(rest_N)).astype(np.float32)


SelectionRule = Callable[[Steps], NDArray[np.bool_]]  # [N] which steps are kept
# Labels of the kept steps. One that is left out has none: its trajectory is rejected.
LabelRule = Callable[[Steps, NDArray[np.bool_]], Labels]


def kl(steps: Steps) -> NDArray[np.bool_]:
    """The paper's: steps above the threshold."""
    return steps.kl > steps.threshold


def random(steps: Steps) -> NDArray[np.bool_]:
    """As many steps as `kl` keeps, drawn at random of all."""
    return _drawn(steps, np.array([0, len(steps.kl)]))


def random_within(steps: Steps) -> NDArray[np.bool_]:
    """As many steps of each trajectory as `kl` keeps of it, drawn at random."""
    return _drawn(steps, np.cumsum([0, *steps.lengths]))


def every(steps: Steps) -> NDArray[np.bool_]:
    """All steps."""
    return np.ones(len(steps.kl), bool)


def contrast(steps: Steps, keep_N: NDArray[np.bool_]) -> Labels:
    """The paper's: p/q over the plausible set; none where the amateur lacks all of its tokens."""
    labelled_N = keep_N & ~unlabelled(steps.exchange, steps.plausibility)
    return soft_labels(steps.exchange, labelled_N, steps.plausibility)


def expert(steps: Steps, keep_N: NDArray[np.bool_]) -> Labels:
    """The expert's own p over the plausible set."""
    return expert_labels(steps.exchange, keep_N, steps.plausibility)


def greedy(steps: Steps, keep_N: NDArray[np.bool_]) -> Labels:
    """The token that the expert took."""
    return greedy_labels(steps.completion, keep_N)


def _drawn(steps: Steps, spans: NDArray[np.int64]) -> NDArray[np.bool_]:
    """As many steps of each span as `kl` keeps there; lots follow from seed, problem and position."""
    keep_N = kl(steps)
    lots = [
        np.random.default_rng(problem_seed(steps.seed, problem_id)).random(length)
        for length, problem_id in zip(steps.lengths, steps.problem_ids, strict=True)
    ]
    lot_N, drawn_N = np.concatenate([np.empty(0), *lots]), np.zeros_like(keep_N)
    for start, end in itertools.pairwise(spans):
        order = start + np.argsort(lot_N[start:end])
        drawn_N[order[: keep_N[start:end].sum()]] = True
    return drawn_N
