"""The method's arithmetic on arrays: step KL, plausible set, soft labels (arXiv 2510.07962, sampling stage).

NumPy only; rules.py says what is used when. Shape suffixes: N steps (of one or many trajectories), M
exchanged tokens, which are those of the first step, then those of the second, and so on.
Exercised by `pytest tests/unit/test_contrast.py`.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# The float32 sum of K probabilities is known to about this; a smaller tail is rounding.
_TAIL_FLOOR = 1e-7


@dataclass(frozen=True)
class Exchange:
    """Both models' float32 log-probabilities at the tokens that the expert named, at least one a step.

    `amateur` is -inf where the amateur has no such token: it then counts as tail.
    """

    token_ids: NDArray[np.int32]  # [M]
    expert: Floats  # [M]
    amateur: Floats  # [M]
    counts: NDArray[np.int32]  # [N] tokens of each step, all above 0; their sum is M

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """[N] where each step's tokens begin."""
        return np.cumsum(self.counts, dtype=np.int64) - self.counts

    def of_step(self, per_step_N: NDArray) -> NDArray:
        """A value a step, repeated for each of its tokens, `[M]`."""
        return np.repeat(per_step_N, self.counts)

    def only(self, member_M: NDArray[np.bool_]) -> "Exchange":
        """Without the tokens that are no members, of which each step has at least one."""
        if member_M.all():
            return self
        counts = sum_of_step(member_M, self).astype(np.int32)
        return Exchange(
            self.token_ids[member_M], self.expert[member_M], self.amateur[member_M], counts
        )


@dataclass(frozen=True)
class Divergence:
    """What the exchanged tokens say of each step; all float32 `[N]`."""

    kl: Floats  # nats
    expert_residual: Floats  # probability outside the exchanged tokens
    amateur_residual: Floats


@dataclass(frozen=True)
class Labels:
    """Soft labels of the kept steps, flattened: step i owns `[offsets[i], offsets[i+1])`."""

    steps: NDArray[np.int64]  # [L] indices of the kept steps among the N
    offsets: NDArray[np.int64]  # [L + 1]
    token_ids: NDArray[np.int32]  # [offsets[-1]]
    weights: Floats  # [offsets[-1]], each step's sum to 1


def entropy_terms(weights: NDArray) -> NDArray[np.float64]:
    """-w log w of each weight, 0 at 0, in nats: their sum over a label is its entropy."""
    exact = weights.astype(np.float64)
    return np.asarray(-exact * np.log(np.where(exact > 0, exact, 1)))


def diverge(x: Exchange) -> Divergence:
    """KL(expert || amateur) of each step, with the mass outside the exchanged tokens lumped.

    A lower bound of the full KL (grouping outcomes loses divergence), equal to it when the tokens are
    the whole vocabulary. NaN where a model gave NaN.
    """
    unknown = np.flatnonzero((x.amateur == -np.inf) | (x.expert == -np.inf))
    log_p, log_q = x.expert.astype(np.float64), x.amateur.astype(np.float64)
    log_p[unknown] = log_q[unknown] = 0
    p, q = np.exp(log_p), np.exp(log_q)
    p[unknown] = q[unknown] = 0
    residual_p = np.maximum(1 - sum_of_step(p, x), 0)
    residual_q = np.maximum(1 - sum_of_step(q, x), 0)
    tail_p, tail_q = np.maximum(residual_p, _TAIL_FLOOR), np.maximum(residual_q, _TAIL_FLOOR)
    log_p -= log_q
    log_p *= p  # in place: fresh memory costs more than the arithmetic
    kl = sum_of_step(log_p, x) + tail_p * np.log(tail_p / tail_q)
    return Divergence(*(v.astype(np.float32) for v in (np.maximum(kl, 0), residual_p, residual_q)))


def plausible(x: Exchange, plausibility: float) -> NDArray[np.bool_]:
    """The plausible set V_t: tokens with at least `plausibility` times the top probability, `[M]`."""
    top_N = np.maximum.reduceat(x.expert, x.starts) if len(x.counts) else x.expert
    return x.expert >= x.of_step(top_N) + np.float32(np.log(plausibility))


def plausible_bound(top_logprob: Floats, plausibility: float) -> NDArray[np.int64]:
    """Most tokens a plausible set can have: n tokens of alpha * max p or more, and n alpha max p <= 1."""
    return np.floor(np.exp(-top_logprob.astype(np.float64)) / plausibility * (1 + 1e-6)).astype(int)


def unlabelled(x: Exchange, plausibility: float) -> NDArray[np.bool_]:
    """Steps whose plausible tokens the amateur all lacks, `[N]`: they have no soft label."""
    return sum_of_step(plausible(x, plausibility) & np.isfinite(x.amateur), x) == 0


def soft_labels(
    x: Exchange, keep_N: NDArray[np.bool_], plausibility: float, temperature: float = 1
) -> Labels:
    """Softmax of (log p - log q) / temperature over the plausible set of each kept step.

    Each kept step needs a plausible token that the amateur knows (see `unlabelled`).
    """
    member = plausible(x, plausibility) & np.isfinite(x.amateur) & x.of_step(keep_N)
    ratio = x.expert[member].astype(np.float64) - x.amateur[member]
    return softmax_labels(x, keep_N, member, ratio / temperature)


def problem_seed(seed: int, problem_id: str) -> int:
    """A seed for all that is random about one problem, below 2**62."""
    digest = hashlib.sha256(f"{seed} {problem_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 2


def softmax_labels(
    x: Exchange, keep_N: NDArray[np.bool_], member_M: NDArray[np.bool_], scores: NDArray[np.float64]
) -> Labels:
    """Softmax over the members of each kept step; a score a member, in nats.

    Members are of kept steps alone, at least one of each.
    """
    sizes = sum_of_step(member_M, x)[keep_N].astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    if len(scores):
        scores = np.exp(scores - np.repeat(np.maximum.reduceat(scores, offsets[:-1]), sizes))
        scores /= np.repeat(np.add.reduceat(scores, offsets[:-1]), sizes)
    weights = scores.astype(np.float32)
    return Labels(np.flatnonzero(keep_N), offsets, x.token_ids[member_M], weights)


def sum_of_step(values_M: NDArray, x: Exchange) -> NDArray[np.float64]:
    """Sum over each step's tokens, float64 `[N]`."""
    if not len(x.counts):
        return np.zeros(0)
    return np.add.reduceat(values_M.astype(np.float64, copy=False), x.starts)
