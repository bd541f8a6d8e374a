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
    problems = expert_N.size
    # Drawing N problems with replacement only changes how many fall into each outcome.
    gained = int(np.sum(~expert_N & improved_N))
    lost = int(np.sum(expert_N & ~improved_N))
    shares = np.array([gained, lost, problems - gained - lost]) / problems
    counts_R3 = np.random.default_rng(seed).multinomial(problems, shares, size=resamples)
    differences_R = (counts_R3[:, 0] - counts_R3[:, 1]) / problems
    low, high = np.percentile(differences_R, [2.5, 97.5])
    return {
        "expert": float(expert_N.mean()),
        "improved": float(improved_N.mean()),
        "difference": (gained - lost) / problems,
        "difference_ci95": [float(low), float(high)],
        "problems": problems,
    }
