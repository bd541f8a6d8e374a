"""Accuracy and the difference between models on the same problems, with uncertainty. Needs numpy only.

pytest tests/unit/test_statistics.py
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

RESAMPLES = 10_000
Figures = dict[str, Any]


def accuracy_interval(scores: npt.ArrayLike, seed: int) -> list[float]:
    """95 % interval of the mean of `scores`, shape [N], N >= 1, each in [0, 1].

    Wilson's score interval where every score is 0 or 1 (Wilson 1927), which holds at accuracies near
    0 and 1 too; a percentile bootstrap over problems where a score is a mean over samples.
    """
    scores_N = _scores(scores)
    mean, n, z = scores_N.mean(), len(scores_N), 1.959964
    if not np.isin(scores_N, (0.0, 1.0)).all():
        drawn = resampled_means(scores_N, np.random.default_rng(seed))
        return [float(bound) for bound in np.percentile(drawn, [2.5, 97.5])]
    centre = (mean + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    return [max(0.0, float(centre - half)), min(1.0, float(centre + half))]


def resampled_means(
    values_N: npt.NDArray[np.float64], rng: np.random.Generator, resamples: int = RESAMPLES
) -> npt.NDArray[np.float64]:
    """Means of `resamples` draws of N of N values with replacement, shape [resamples]."""
    # Drawing problems only changes how many fall on each value.
    values_D, counts_D = np.unique(values_N, return_counts=True)
    counts_RD = rng.multinomial(len(values_N), counts_D / len(values_N), size=resamples)
    return np.asarray(counts_RD @ values_D / len(values_N))


def pooled_difference(
    expert: npt.ArrayLike, improved: npt.ArrayLike, seed: int, resamples: int = RESAMPLES
) -> Figures:
    """Mean accuracy of S trained models, minus the expert's, and its 95 % percentile bootstrap interval.

    `expert` is shape [N]: the share of its samples that solve problem i, or whether its one answer
    does; `improved` is shape [S, N], one row a training seed. Problems are resampled, each with the
    expert's score and those of all S models, and the mean over models and problems is taken. So the
    interval says how far the mean of these S models would move on other problems of the kind; it
    says nothing of other seeds, whose spread `accuracy_of_seeds` shows. `expert`, `accuracy` and
    `difference` are fractions of the problems. Raises ValueError for other shapes.
    """
    expert_N, improved_SN = np.asarray(expert, dtype=float), np.asarray(improved, dtype=float)
    if improved_SN.ndim != 2 or improved_SN.shape[1:] != expert_N.shape or not improved_SN.size:
        raise ValueError(f"need [N] and [S, N], got {expert_N.shape} and {improved_SN.shape}")
    found = macro_difference([(expert_N, improved_SN.mean(axis=0))], seed, resamples)
    return {
        "expert": found["first"],
        "accuracy": found["other"],
        "accuracy_of_seeds": improved_SN.mean(axis=1).tolist(),
        "difference": found["difference"],
        "difference_ci95": found["difference_ci95"],
        "problems": found["problems"],
        "seeds": len(improved_SN),
    }


def paired_difference(
    first: npt.ArrayLike, other: npt.ArrayLike, seed: int, resamples: int = RESAMPLES
) -> Figures:
    """Accuracies, other minus first, and its 95 % percentile bootstrap interval.

    `first` and `other` are shape [N], N >= 1: whether problem i was solved, or the share of
    samples that solve it. Problems are resampled with both scores together. Returns fractions of
    problems (first, other, difference, difference_ci95) and their number. Raises ValueError for
    other shapes.
    """
    shapes = np.shape(first), np.shape(other)
    if shapes[0] != shapes[1] or np.ndim(first) != 1 or not np.size(first):
        raise ValueError(f"need two equally long non-empty vectors, got {shapes[0]}, {shapes[1]}")
    return macro_difference([(first, other)], seed, resamples)


def mcnemar_p(gained: int, lost: int) -> float:
    """Two-sided exact p of McNemar's test (binomial, McNemar 1947): 1 where nothing changed.

    `gained` and `lost` count the problems that only one of two models solves. The probability of a
    split at least as uneven, were both directions equally likely.
    """
    changed, fewer = gained + lost, min(gained, lost)
    tail = sum(math.comb(changed, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**changed)


def pass_at_k(correct: npt.ArrayLike, samples: int, k: int) -> npt.NDArray[np.float64]:
    """The chance that k of a problem's samples hold a right one, shape [N].

    `correct` counts the right ones of `samples`, shape [N]. Unbiased (Chen et al. 2021, eq. 1):
    1 - C(n - c, k) / C(n, k). Raises ValueError where k is not in 1 to `samples`.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"k = {k}: must be 1 to {samples}")
    whole = math.comb(samples, k)
    return np.array([1 - math.comb(samples - int(c), k) / whole for c in np.ravel(correct)])


def macro_difference(
    pairs: Sequence[tuple[npt.ArrayLike, npt.ArrayLike]], seed: int, resamples: int = RESAMPLES
) -> Figures:
    """`paired_difference` of the plain mean over benchmarks, each resampled by itself.

    `pairs` holds both models' scores of each benchmark, shape [N_b]; `problems` is their sum.
    """
    rng = np.random.default_rng(seed)
    parts = [(_scores(first), _scores(other)) for first, other in pairs]
    # Rounded, so that equal sums of samples are equal values.
    drawn = [resampled_means(np.round(b - a, 9), rng, resamples) for a, b in parts]
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    first, other = (float(np.mean([part[side].mean() for part in parts])) for side in (0, 1))
    return {
        "first": first,
        "other": other,
        "difference": other - first,
        "difference_ci95": [float(low), float(high)],
        "problems": sum(len(a) for a, _ in parts),
    }


def _scores(scores: npt.ArrayLike) -> npt.NDArray[np.float64]:
    scores_N = np.asarray(scores, dtype=float)
    if scores_N.ndim != 1 or not scores_N.size:
        raise ValueError(f"need a non-empty vector, got {scores_N.shape}")
    return scores_N
