"""The difference between two models on the same problems, with its uncertainty. Needs numpy only.

pytest tests/unit/test_statistics.py
"""

from typing import TypedDict

import numpy as np
import numpy.typing as npt


class PairedDifference(TypedDict):
    """Fractions of problems, and their number."""

    expert: float
    improved: float
    difference: float
    difference_ci95: list[float]
    problems: int


class PooledDifference(TypedDict):
    """Fractions of problems; `seeds` of them answered each problem."""

    expert: float
    accuracy: float
    accuracy_of_seeds: list[float]
    difference: float
    difference_ci95: list[float]
    problems: int
    seeds: int


def pooled_difference(
    expert: npt.ArrayLike, improved: npt.ArrayLike, seed: int, resamples: int = 10_000
) -> PooledDifference:
    """Mean accuracy of S trained models, minus the expert's, and its 95 % percentile bootstrap interval.

    `expert` is bool, shape [N]: whether it solved problem i; `improved` is bool, shape [S, N], one row
    a training seed. Problems are resampled, each with the expert's verdict and those of all S models,
    and the mean over models and problems is taken. So the interval says how far the mean of these S
    models would move on other problems of the kind; it says nothing of other seeds, whose spread
    `accuracy_of_seeds` shows.
    Raises ValueError for other shapes.
    """
    expert_N, improved_SN = np.asarray(expert, dtype=bool), np.asarray(improved, dtype=bool)
    if improved_SN.ndim != 2 or improved_SN.shape[1:] != expert_N.shape or not improved_SN.size:
        raise ValueError(f"need [N] and [S, N], got {expert_N.shape} and {improved_SN.shape}")
    seeds, problems = improved_SN.shape
    # Models gained by each problem, -S to S: drawing problems only changes how many fall on each value.
    gained_N = improved_SN.sum(axis=0) - seeds * expert_N.astype(int)
    values_D, counts_D = np.unique(gained_N, return_counts=True)
    counts_RD = np.random.default_rng(seed).multinomial(
        problems, counts_D / problems, size=resamples
    )
    low, high = np.percentile(counts_RD @ values_D / (seeds * problems), [2.5, 97.5])
    return {
        "expert": float(expert_N.mean()),
        "accuracy": float(improved_SN.mean()),
        "accuracy_of_seeds": improved_SN.mean(axis=1).tolist(),
        "difference": float(gained_N.sum() / (seeds * problems)),
        "difference_ci95": [float(low), float(high)],
        "problems": problems,
        "seeds": seeds,
    }


def paired_difference(
    expert: npt.ArrayLike, improved: npt.ArrayLike, seed: int, resamples: int = 10_000
) -> PairedDifference:
    """Accuracies, improved minus expert, and its 95 % percentile bootstrap interval.

    `expert` and `improved` are bool, shape [N], N >= 1: whether problem i was solved. Problems are
    resampled with both verdicts together. Raises ValueError for other shapes.
    """
    expert_N, improved_N = np.asarray(expert, dtype=bool), np.asarray(improved, dtype=bool)
    if expert_N.ndim != 1 or expert_N.shape != improved_N.shape or not expert_N.size:
        raise ValueError(
            f"need two equally long non-empty vectors, got {expert_N.shape}, {improved_N.shape}"
        )
    pooled = pooled_difference(expert_N, improved_N[None], seed, resamples)
    return {
        "expert": pooled["expert"],
        "improved": pooled["accuracy"],
        "difference": pooled["difference"],
        "difference_ci95": pooled["difference_ci95"],
        "problems": pooled["problems"],
    }
