"""What a pair would teach, from the scores of a few problems: figures, and a verdict by stated bounds.

Shape suffixes: N steps, R trajectories, L steps with a label. Exercised by `pytest tests/unit/test_probe.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Sampling
from lr_ray.labelling.label import steps_of
from lr_ray.method.contrast import entropy_terms
from lr_ray.method.rules import Steps, contrast

THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.2, 1.6)  # nats
QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
RESAMPLES = 10_000
CLOSE, FAR = "nothing to teach: too close", "little in common: too far"
REVERSED = "the wrong way round: the amateur solves more"
ALIKE = "looks like pairs that gained"

# The bounds of the verdict (docs/probe.md), from docs/results.md and thus from few pairs.
APART = 0.1  # nats at which pairs are compared: the threshold of the sweep over amateurs
# Steps above APART. The amateur with 6.2 % taught nothing, -0.7 [-2.2, +0.8] points; 7.8 % gave +12.2.
LEAST_APART = 0.07
# Kept steps. In the sweep over thresholds 0.8 % gave +6.0 points; 0.2 % did harm, -7.6.
LEAST_KEPT = 0.005
# Kept steps whose label prefers another token. With 0 (greedy-labels) there was no gain, with 10 % one.
LEAST_OTHERWISE = 0.05
# Between the real pair in another domain, where 47.5 % gained +4.0 points (and its controls as much), and
# SmolLM2's with 63.1 %, which solve no problem.
MOST_APART = 0.6
# No measured pair bounds this one: twice what the real pair has, 29 %.
MOST_OTHERWISE = 0.58

Figures = dict[str, Any]


def figures(scores: pa.Table, sampling: Sampling, seed: int = 0) -> Figures:
    """All that SCORES say of a pair, as JSON has it; at least one trajectory.

    Selection is by KL, labels are contrastive, whatever `sampling` says of them. Shares are of the scored
    steps, but `disagreement` and `entropy` of those kept that have a label (None: there are none).
    `seed`: of the bootstrap over trajectories.
    """
    steps = steps_of(scores.combine_chunks(), sampling)
    entropy_N, other_N = _labels(steps)
    keep_N = steps.kl > sampling.kl_threshold
    entropy_L = entropy_N[keep_N & np.isfinite(entropy_N)]
    cut = pc.sum(pc.equal(scores["finish_reason"], "length")).as_py()
    return {
        "trajectories": scores.num_rows,
        "trajectories_cut": cut / scores.num_rows,
        "steps": len(keep_N),
        "steps_kept": int(keep_N.sum()),
        "kl_threshold": sampling.kl_threshold,
        "kept": float(keep_N.mean()),
        "kept_ci95": kept_interval(keep_N, steps.lengths, seed),
        "apart": float((steps.kl > APART).mean()),
        "thresholds": _thresholds(steps, THRESHOLDS, entropy_N, other_N),
        "kl": _quantiles(steps.kl),
        "entropy": {"mean": _mean(entropy_L), **_quantiles(entropy_L)},
        "disagreement": _above(keep_N, entropy_N, other_N)["disagreement"],
        "kept_without_label": int((keep_N & np.isnan(entropy_N)).sum()),
    }


def thresholds(steps: Steps, own: float) -> list[Figures]:
    """What the THRESHOLDS and a run's own would keep of its steps, smallest first."""
    return _thresholds(steps, sorted({*THRESHOLDS, own}), *_labels(steps))


def kept_interval(
    keep_N: NDArray[np.bool_], lengths_R: NDArray[np.int64], seed: int, resamples: int = RESAMPLES
) -> list[float]:
    """95 % percentile bootstrap interval of the kept share, over whole trajectories of at least a step."""
    kept_R = np.add.reduceat(keep_N, np.cumsum(lengths_R) - lengths_R, dtype=np.int64)
    count = len(lengths_R)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    low, high = np.percentile((draws @ kept_R) / (draws @ lengths_R), [2.5, 97.5])
    return [float(low), float(high)]


def verdict(found: Figures, accuracy: Figures | None = None) -> tuple[str, str]:
    """One of REVERSED, CLOSE, FAR and ALIKE, and which figure against which bound says so.

    `found`: of `figures`; `accuracy`: of both models, with `gap_ci95`, None where answers are not known.
    """
    if accuracy and accuracy["gap_ci95"][1] < 0:
        gap = f"the expert's accuracy is {-accuracy['gap']:.1%} below the amateur's"
        return REVERSED, f"{gap}, and with such pairs the paper's experts gained nothing or lost"
    apart, kept, otherwise = found["apart"], found["kept"], found["disagreement"]
    steps = f"{apart:.1%} of the steps above {APART:g} nats"
    if apart < LEAST_APART:
        return CLOSE, f"{steps}, and below {LEAST_APART:.0%} no pair gained"
    if kept < LEAST_KEPT or otherwise is None:
        at = f"at kl_threshold {found['kl_threshold']:g} {kept:.1%} of the steps are kept"
        return CLOSE, f"{at}, and below {LEAST_KEPT:.1%} training did harm; a lower one keeps more"
    labels = f"{otherwise:.1%} of the labels prefer another token"
    if otherwise < LEAST_OTHERWISE:
        return CLOSE, f"{labels} than the expert, and below {LEAST_OTHERWISE:.0%} no pair gained"
    if apart > MOST_APART:
        return FAR, f"{steps}; pairs that gained had less than {MOST_APART:.0%}"
    if otherwise > MOST_OTHERWISE:
        return FAR, f"{labels}; in pairs that gained less than {MOST_OTHERWISE:.0%} did"
    return ALIKE, f"{steps}, and {labels}"


def _labels(steps: Steps) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Entropy (nats) of each step's label, NaN where it has none, and whether another token tops it.

    The expert's own token is topped only by a token of more weight, so that ties are no disagreement.
    """
    count = len(steps.kl)
    entropy_N, other_N = np.full(count, np.nan), np.zeros(count, bool)
    labels = contrast(steps, np.ones(count, bool))
    if len(labels.steps):
        starts, weights = labels.offsets[:-1], labels.weights.astype(np.float64)
        taken = np.repeat(steps.completion[labels.steps], np.diff(labels.offsets))
        own_L = np.add.reduceat(np.where(labels.token_ids == taken, weights, 0), starts)
        entropy_N[labels.steps] = np.add.reduceat(entropy_terms(weights), starts)
        other_N[labels.steps] = np.maximum.reduceat(weights, starts) > own_L
    return entropy_N, other_N


def _thresholds(
    steps: Steps, values: Sequence[float], entropy_N: NDArray, other_N: NDArray
) -> list[Figures]:
    return [{"kl_threshold": t, **_above(steps.kl > t, entropy_N, other_N)} for t in values]


def _above(keep_N: NDArray, entropy_N: NDArray, other_N: NDArray) -> Figures:
    """What a mask of kept steps keeps, and how many of its labels prefer another token."""
    return {
        "steps_kept": int(keep_N.sum()),
        "kept": float(keep_N.mean()),
        "disagreement": _mean(other_N[keep_N & np.isfinite(entropy_N)]),
    }


def _mean(values: NDArray) -> float | None:
    return float(values.mean()) if len(values) else None


def _quantiles(values: NDArray) -> dict[str, float | None]:
    found = np.quantile(values, QUANTILES) if len(values) else [None] * len(QUANTILES)
    return {f"{q:g}": v if v is None else float(v) for q, v in zip(QUANTILES, found, strict=True)}
