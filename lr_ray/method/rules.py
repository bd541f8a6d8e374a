"""Which steps are kept, and what their labels are: the paper's rules, and others beside them. NumPy only.

A rule of your own is a function of the same form, known by name through `lr_ray.plugins`. One that takes a
parameter is made from its text. Shape suffixes: N steps, those of one trajectory after those of another;
R trajectories.
Exercised by `pytest tests/unit/test_label.py tests/unit/test_extending.py`.
"""

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lr_ray.method.contrast import (
    Exchange,
    Floats,
    Labels,
    plausible,
    problem_seed,
    soft_labels,
    softmax_labels,
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
    plausibility: float  # sampling.plausibility: that of the exchange and the label
    seed: int  # sampling.seed

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[R] where each trajectory's steps begin."""
        return np.asarray(np.cumsum(self.lengths) - self.lengths)

    @cached_property
    def trajectory(self) -> NDArray[np.int64]:
        """[N] which of the R trajectories a step is of."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @cached_property
    def position(self) -> NDArray[np.int64]:
        """[N] a step's place in its trajectory, from 0."""
        return np.arange(len(self.kl)) - self.starts[self.trajectory]

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


def top(parameter: str) -> SelectionRule:
    """A share of the batch's steps, those of the largest KL: a budget instead of a threshold."""
    share = _number(parameter, "SHARE", 1, "0.1")
    return lambda steps: _largest(steps.kl, share)


def entropy(parameter: str) -> SelectionRule:
    """A share of the batch's steps, those where the expert is least sure (as in arXiv 2506.01939)."""
    share = _number(parameter, "SHARE", 1, "0.1")
    return lambda steps: _largest(steps.entropy, share)


def quadrant(parameter: str) -> SelectionRule:
    """Steps where the expert is unsure or sure, and the amateur is apart from it or close to it.

    Unsure is an entropy above the batch's mean, apart a KL above the threshold. After the quadrants of
    TIP (arXiv 2604.14084), whose student is the expert here.
    """
    sure, _, near = parameter.partition("_")
    if sure not in ("unsure", "sure") or near not in ("apart", "close"):
        raise ValueError("NAME must be unsure_apart, unsure_close, sure_apart or sure_close")

    def rule(steps: Steps) -> NDArray[np.bool_]:
        unsure_N = steps.entropy > (steps.entropy.mean() if len(steps.entropy) else 0)
        return (unsure_N == (sure == "unsure")) & (kl(steps) == (near == "apart"))

    return rule


def window(parameter: str) -> SelectionRule:
    """Steps above the threshold from one place of their trajectory to another, counted from 1."""
    found = re.fullmatch(r"([0-9]{1,9})-([0-9]{1,9})", parameter)
    start, stop = (int(part) for part in found.groups()) if found else (0, 0)
    if not 1 <= start <= stop:
        raise ValueError("must be the first and the last step of the window, from 1, such as 16-64")
    return lambda steps: kl(steps) & (steps.position >= start - 1) & (steps.position < stop)


def first(parameter: str) -> SelectionRule:
    """Steps above the threshold among the first few: what trajectories of so many tokens would keep."""
    if not re.fullmatch(r"0*[1-9][0-9]{0,8}", parameter):
        raise ValueError("STEPS must be a whole number above 0, such as 64")
    return window(f"1-{parameter}")


def contrast(steps: Steps, keep_N: NDArray[np.bool_], temperature: float = 1) -> Labels:
    """The paper's: p/q over the plausible set; none where the amateur lacks all of its tokens."""
    labelled_N = keep_N & ~unlabelled(steps.exchange, steps.plausibility)
    return soft_labels(steps.exchange, labelled_N, steps.plausibility, temperature)


def tempered(parameter: str) -> LabelRule:
    """p/q to the power of 1 / temperature: below 1 sharper than the paper's, above 1 softer."""
    temperature = _number(parameter, "TEMPERATURE", 100, "0.5", least=1e-3)
    return lambda steps, keep_N: contrast(steps, keep_N, temperature)


def expert(steps: Steps, keep_N: NDArray[np.bool_]) -> Labels:
    """The expert's own p, normalised over the plausible set."""
    x = steps.exchange
    member = plausible(x, steps.plausibility) & x.of_step(keep_N)
    return softmax_labels(x, keep_N, member, x.expert[member].astype(np.float64))


def greedy(steps: Steps, keep_N: NDArray[np.bool_]) -> Labels:
    """The token that the expert took."""
    kept, token_ids = np.flatnonzero(keep_N), steps.completion[keep_N].astype(np.int32)
    return Labels(kept, np.arange(len(kept) + 1), token_ids, np.ones(len(kept), np.float32))


def _number(text: str, name: str, most: float, example: str, least: float = 0) -> float:
    """A parameter above 0, at least `least` and at most `most`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (0 < value <= most and value >= least):
        low = f"above 0, at least {least}" if least else "above 0"
        raise ValueError(f"{name} must be {low} and at most {most}, such as {example}")
    return value


def _largest(values_N: Floats, share: float) -> NDArray[np.bool_]:
    """The share of the steps with the largest values; of equal ones the earlier."""
    largest_N = np.zeros(len(values_N), bool)
    largest_N[np.argsort(-values_N, kind="stable")[: round(share * len(values_N))]] = True
    return largest_N


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
