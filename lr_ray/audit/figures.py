"""What an audit reports: figures over recomputed trajectories, each with the bound it must keep.

Exercised by `pytest tests/unit/test_audit.py`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.audit.exact import Recomputed


@dataclass(frozen=True)
class Bounds:
    """How far engines of a data type may differ from transformers in float32."""

    kl: float  # nats, of a step, over the same exchanged tokens
    mean_kl: float  # nats, its mean over the steps
    bias: float  # nats, the same with its sign
    sides: float  # share of the steps
    label: float  # weight of a token
    tie: float  # nats within which two tokens are equal: either may be greedy, or plausible
    greedy: float  # share of the trajectories with another greedy token, ties apart


# By the coarser of the two engines' data types: at least 1.7 times the worst seen on a 135M pair whose
# amateur lacks two layers (4831 steps, 2007 labels, 40 trajectories).
# float32, sums in another order: KL 1e-4, mean 1.5e-5, labels 3e-5, no side, all greedy.
# bfloat16: KL 0.8 (of 9 nats), mean 0.024, bias 6e-4, 1.8 % of the sides (0.4 of them by lumping),
# labels 0.17, greedy tokens up to 0.43 and 0.27 nats behind: a trajectory or two may pass the tie.
BOUNDS = {
    "float32": Bounds(
        kl=1e-3, mean_kl=1e-4, bias=1e-4, sides=1e-3, label=1e-3, tie=1e-4, greedy=0.01
    ),
    "bfloat16": Bounds(
        kl=2.0, mean_kl=0.06, bias=0.01, sides=0.03, label=0.4, tie=0.5, greedy=0.05
    ),
}
# What lumping the tokens beyond K may add; beyond it, raise sampling.top_k. Seen on that pair at
# K = 256 of 49152: 0.42 nats, mean 0.004, 0.3 to 0.4 % of the sides.
LUMPED_KL, LUMPED_BIAS, LUMPED_SIDES = 1.0, 0.01, 0.01

# Expert's probability of ids that the amateur lacks, beyond which a step has no exact KL: it would be
# infinite, and exact.FLOOR decides what is said instead (below this, by 1e-4 * log(1e-4 / 1e-7) = 7e-4).
LACKED = 1e-4


@dataclass(frozen=True)
class Figure:
    """One result. It is exceeded when it is further from 0 than its bound."""

    title: str
    value: float
    bound: float | None = None  # None: reported only
    where: str = ""  # the step with the largest value

    @property
    def exceeded(self) -> bool:
        return self.bound is not None and not abs(self.value) <= abs(self.bound)


class Steps:
    """All steps of the audited rows, one after the other: arrays of length N."""

    def __init__(
        self, rows: list[dict[str, Any]], results: list[Recomputed], threshold: float
    ) -> None:
        self.ids = [row["problem_id"] for row in rows]
        self.starts = np.cumsum([0] + [len(row["kl"]) for row in rows])
        self.exact, self.at_k, self.lacked, self.behind = (
            np.concatenate([getattr(result, name) for result in results])
            for name in ("kl", "kl_at_k", "lacked", "behind")
        )
        self.recorded = np.concatenate([np.array(row["kl"], np.float32) for row in rows])
        self.kept = np.zeros(len(self.recorded), bool)
        self.label = np.zeros(len(self.recorded))
        for start, result in zip(self.starts[:-1], results, strict=True):
            positions = start + np.array(list(result.label), int)
            self.kept[positions] = True
            self.label[positions] = list(result.label.values())
        self.above = self.exact > threshold
        self.was_above = self.recorded > np.float32(threshold)

    def largest(self, title: str, score: NDArray, bound: float) -> Figure:
        """The highest score, from 0, with its step."""
        return Figure(title, max(float(score.max()), 0.0), bound, self.where(score))

    def where(self, score: NDArray) -> str:
        """The step with the highest score, if that is above 0."""
        worst = int(score.argmax())
        row = int(np.searchsorted(self.starts, worst, side="right")) - 1
        return f"{self.ids[row]} step {worst - self.starts[row]}" if score[worst] > 0 else ""


def figures(
    rows: list[dict[str, Any]],
    results: list[Recomputed],
    threshold: float,
    bounds: Bounds,
    lumped: bool,
) -> dict[str, Figure]:
    """All results; `lumped`: tokens beyond K were, so that a recorded KL is a lower bound."""
    steps = Steps(rows, results, threshold)
    labels = f"label weight: largest difference, {steps.kept.sum()} labels"
    return {
        **_kl_figures(steps, bounds, lumped),
        **_selection_figures(steps, bounds, lumped),
        "label_difference_largest": steps.largest(labels, steps.label, bounds.label),
        "labels_at_edge": Figure(
            f"labels with a token within {bounds.tie:g} nats of plausible",
            sum(result.at_edge for result in results),
        ),
        **_greedy_figures(steps, bounds),
    }


def _kl_figures(steps: Steps, bounds: Bounds, lumped: bool) -> dict[str, Figure]:
    known = steps.lacked <= LACKED
    gap = np.where(known, steps.exact - steps.recorded, 0)
    difference = np.where(known, np.abs(steps.at_k - steps.recorded), 0)
    return {
        "kl_gap_largest": steps.largest(
            "KL gap, exact minus recorded: largest, nats", gap, bounds.kl + LUMPED_KL * lumped
        ),
        "kl_gap_mean": Figure(
            "KL gap: mean, nats", float(gap.mean()), bounds.bias + LUMPED_BIAS * lumped
        ),
        "kl_gap_most_negative": Figure(
            "KL gap: most negative, nats", min(float(gap.min()), 0.0), -bounds.kl, steps.where(-gap)
        ),
        "kl_difference_largest": steps.largest(
            "KL over the same tokens: largest difference, nats", difference, bounds.kl
        ),
        "kl_difference_mean": Figure(
            "KL over the same tokens: mean difference, nats",
            float(difference.mean()),
            bounds.mean_kl,
        ),
        "steps_without_exact_kl": Figure(
            "steps on ids that the amateur lacks, KL not compared", int((~known).sum())
        ),
    }


def _selection_figures(steps: Steps, bounds: Bounds, lumped: bool) -> dict[str, Figure]:
    gained = int((steps.above & ~steps.was_above).sum())
    lost = int((~steps.above & steps.was_above).sum())
    inconsistent = steps.kept != steps.was_above
    distance = np.abs(steps.exact - steps.recorded)
    return {
        "steps_changing_sides": Figure(
            f"share of steps on the other side of kl_threshold, {gained} gained, {lost} lost",
            (gained + lost) / len(steps.above),
            bounds.sides + LUMPED_SIDES * lumped,
            steps.where(np.where(steps.above != steps.was_above, distance, 0)),
        ),
        "steps_kept_against_kl": Figure(
            "steps kept or left out against their recorded KL",
            int(inconsistent.sum()),
            0,
            steps.where(inconsistent),
        ),
    }


def _greedy_figures(steps: Steps, bounds: Bounds) -> dict[str, Figure]:
    other = steps.behind > bounds.tie
    tied = (steps.behind > 0) & ~other
    astray = np.add.reduceat(other, steps.starts[:-1], dtype=int) > 0
    return {
        "trajectories_not_greedy": Figure(
            f"share of trajectories with a token that is not greedy, {other.sum()} steps",
            float(astray.mean()),
            bounds.greedy,
            steps.where(np.where(other, steps.behind, 0)),
        ),
        "greedy_ties": Figure(
            f"greedy tokens behind another by at most {bounds.tie:g} nats", int(tied.sum())
        ),
    }
