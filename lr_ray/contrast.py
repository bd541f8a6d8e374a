"""The method's arithmetic on arrays: step KL, plausible set, soft labels (arXiv 2510.07962, sampling stage).

NumPy only. Shape suffixes: N steps (of one or many trajectories), K exchanged tokens a step.
Exercised by `pytest tests/unit/test_contrast.py`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

# The float32 sum of K probabilities is known to about this; a smaller tail is rounding.
_TAIL_FLOOR = 1e-7


@dataclass(frozen=True)
class Labels:
    """Soft labels of the kept steps, flattened: step i owns `[offsets[i], offsets[i+1])`."""

    steps: NDArray[np.int64]  # [M] indices of the kept steps among the N
    offsets: NDArray[np.int64]  # [M + 1]
    token_ids: NDArray[np.int32]  # [offsets[-1]]
    weights: Floats  # [offsets[-1]], each step's sum to 1


def step_kl(expert_NK: Floats, amateur_NK: Floats) -> Floats:
    """KL(expert || amateur) of each step, in nats, with the mass outside the K tokens lumped.

    Both are float32 log-probabilities at the same K token ids, `[N, K]`, -inf in `amateur_NK` where
    the amateur has no such token (it then counts as tail). Returns float32 `[N]`: a lower bound of
    the full KL, equal to it when the K ids are the whole vocabulary.
    """
    known_NK = np.isfinite(amateur_NK) & np.isfinite(expert_NK)
    log_p = np.where(known_NK, expert_NK, 0).astype(np.float64)
    log_q = np.where(known_NK, amateur_NK, 0).astype(np.float64)
    p = np.where(known_NK, np.exp(log_p), 0)
    q = np.where(known_NK, np.exp(log_q), 0)
    tail_p = np.maximum(1 - p.sum(1), _TAIL_FLOOR)
    tail_q = np.maximum(1 - q.sum(1), _TAIL_FLOOR)
    kl = (p * (log_p - log_q)).sum(1) + tail_p * np.log(tail_p / tail_q)
    return np.maximum(kl, 0).astype(np.float32)


def plausible(expert_NK: Floats, plausibility: float) -> NDArray[np.bool_]:
    """The plausible set V_t: tokens with at least `plausibility` times the top probability, `[N, K]`."""
    top_N1 = expert_NK.max(1, keepdims=True)
    return expert_NK >= top_N1 + np.float32(np.log(plausibility))


def overflows(expert_NK: Floats, plausibility: float) -> NDArray[np.bool_]:
    """Steps whose K tokens are all plausible, so that the set may reach beyond them, `[N]`."""
    return np.asarray(plausible(expert_NK, plausibility).all(1))


def unlabelled(expert_NK: Floats, amateur_NK: Floats, plausibility: float) -> NDArray[np.bool_]:
    """Steps whose plausible tokens the amateur all lacks, `[N]`: they have no soft label."""
    return ~np.asarray((plausible(expert_NK, plausibility) & np.isfinite(amateur_NK)).any(1))


def soft_labels(
    token_ids_NK: NDArray[np.int32],
    expert_NK: Floats,
    amateur_NK: Floats,
    keep_N: NDArray[np.bool_],
    plausibility: float,
) -> Labels:
    """Softmax of log p - log q over the plausible set of each kept step.

    Args: int32 ids and float32 log-probabilities `[N, K]`, the kept steps `[N]`, alpha. Each kept
    step needs a plausible token that the amateur knows (see `unlabelled`).
    """
    steps = np.flatnonzero(keep_N)
    ids, log_p, log_q = token_ids_NK[steps], expert_NK[steps], amateur_NK[steps]
    member = plausible(log_p, plausibility) & np.isfinite(log_q)
    ratio = np.where(member, log_p.astype(np.float64) - log_q, -np.inf)
    ratio -= ratio.max(1, keepdims=True)
    weights = np.exp(ratio)
    weights /= weights.sum(1, keepdims=True)
    offsets = np.concatenate([[0], np.cumsum(member.sum(1))]).astype(np.int64)
    return Labels(steps, offsets, ids[member], weights[member].astype(np.float32))
