"""Supervision rows against an independent recomputation: figures, their bounds, and what exceeds them.

Checks what the engines' arithmetic and the exchange of K tokens approximated; `lr_ray.sampling.exact`
recomputes. Exercised by `python jobs/audit.py --run RUN` and `pytest tests/unit/test_audit.py`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lr_ray.config import Config
from lr_ray.errors import StageError
from lr_ray.oracle import load
from lr_ray.sampling.exact import Recomputed, recompute
from lr_ray.sampling.rows import SUPERVISION
from lr_ray.store import Run


@dataclass(frozen=True)
class Bounds:
    """How far engines of a data type may be from float32 transformers."""

    kl: float  # nats, of a step, over the same exchanged tokens
    mean_kl: float  # nats
    sides: float  # share of the steps
    label: float  # weight of a token
    tie: float  # nats within which two tokens are equal: either may be greedy, or plausible
    greedy: float  # share of the trajectories with another greedy token, ties apart


# By the coarser of the two engines' data types.
BOUNDS = {
    "float32": Bounds(kl=1e-3, mean_kl=1e-4, sides=1e-3, label=1e-3, tie=1e-4, greedy=0.01),
    "bfloat16": Bounds(kl=0.5, mean_kl=0.02, sides=0.02, label=0.25, tie=0.5, greedy=0.01),
}
# What lumping the tokens beyond K may cost more.
LUMPED_KL, LUMPED_MEAN_KL, LUMPED_SIDES = 0.25, 0.02, 0.002

# Expert's probability of ids that the amateur lacks, beyond which a step has no exact KL: it would be
# infinite, and exact.FLOOR decides what is said instead (below this, by 1e-4 * log(1e-4 / 1e-7) = 7e-4).
LACKED = 1e-4


@dataclass(frozen=True)
class Figure:
    """One result. It is exceeded when it is further from 0 than its bound."""

    title: str
    value: float
    bound: float | None = None  # None: reported only
    text: str = ""  # counts behind the value
    where: str = ""  # the step with the largest value

    @property
    def exceeded(self) -> bool:
        return self.bound is not None and not abs(self.value) <= abs(self.bound)


@dataclass(frozen=True)
class Audit:
    """What was recomputed of a run and what came out. `vocabulary`: rows of expert and amateur."""

    rows: int
    rows_of: int
    steps: int
    steps_kept: int
    top_k: int
    vocabulary: tuple[int, int]
    dtype: str
    device: str
    recorded: dict[str, Any]
    problem_ids: list[str]
    figures: dict[str, Figure]


def audit(
    run: Run,
    config: Config,
    expert: str,
    amateur: str,
    count: int,
    seed: int,
    on_progress: Callable[[int, int], None],
) -> Audit:
    """Recomputes `count` rows (0: all) drawn by `seed`. Raises StageError for a malformed row."""
    places = row_places(run)
    drawn = draw(places, count, seed)
    on_progress(0, len(drawn))
    facts, sampling = recorded(run), config.sampling
    device = "cuda" if torch.cuda.is_available() else "cpu"
    models = [load(path).to(device) for path in (expert, amateur)]
    vocabulary = [model.get_output_embeddings().weight.shape[0] for model in models]
    top_k = min(facts.get("top_k", sampling.top_k), vocabulary[0])
    dtype = coarser(
        facts.get("expert_dtype", sampling.expert.dtype),
        facts.get("amateur_dtype", sampling.amateur.dtype),
    )
    bounds = BOUNDS[dtype]
    rows, results = [], []
    for row in read_rows(run, drawn):
        check_row(row, min(vocabulary))
        results.append(recompute(*models, row, top_k, sampling.plausibility, bounds.tie))
        rows.append(row)
        on_progress(len(rows), len(drawn))
    return Audit(
        rows=len(rows),
        rows_of=len(places),
        steps=sum(len(row["kl"]) for row in rows),
        steps_kept=sum(len(row["steps"]) for row in rows),
        top_k=top_k,
        vocabulary=(vocabulary[0], vocabulary[1]),
        dtype=dtype,
        device=device,
        recorded=facts,
        problem_ids=[row["problem_id"] for row in rows],
        figures=figures(rows, results, sampling.kl_threshold, bounds, top_k < vocabulary[0]),
    )


def coarser(*dtypes: str) -> str:
    return "float32" if set(dtypes) == {"float32"} else "bfloat16"


Place = tuple[str, str, int]  # problem_id, shard, row in it


def row_places(run: Run) -> list[Place]:
    """Every supervision row, in the order of problem ids, whatever shards they are in."""
    ids = pa.schema([SUPERVISION.field("problem_id")])
    return sorted(
        (problem_id, name, index)
        for name in run.shards("supervision")
        for index, problem_id in enumerate(run.read_tables([name], ids)["problem_id"].to_pylist())
    )


def draw(places: list[Place], count: int, seed: int) -> list[Place]:
    """`count` of the places (0, or more than there are: all), sorted by shard."""
    if 0 < count < len(places):
        places = random.Random(seed).sample(places, count)
    return sorted(places, key=lambda place: place[1:])


def read_rows(run: Run, places: list[Place]) -> Iterator[dict[str, Any]]:
    """The rows at `places`, one shard in memory at a time."""
    for name, group in groupby(places, key=lambda place: place[1]):
        table = run.read_tables([name], SUPERVISION)
        yield from table.take([index for _, _, index in group]).to_pylist()


def recorded(run: Run) -> dict[str, Any]:
    """What the shards' footers say: counts added up, the largest residuals, K and data types."""
    facts: dict[str, Any] = {}
    for name in run.shards("supervision"):
        said = run.read_facts(name)
        for key, value in {**said, **said.get("facts", {})}.items():
            if key in ("problems", "facts"):
                continue
            there = facts.get(key)
            if there is None:
                facts[key] = value
            elif key.startswith("largest_"):
                facts[key] = max(there, value)
            elif key.startswith(("steps_", "trajectories", "rejected")):
                facts[key] = there + value
            elif there != value:
                raise StageError(
                    f"{run.location}/{name}: {key} is {value}, in other shards {there}; sample again"
                )
    return facts


def check_row(row: dict[str, Any], vocabulary: int) -> None:
    """Raises StageError unless the row's lists fit together and both models have its tokens."""
    prompt, completion, kl = (row[n] for n in ("prompt_token_ids", "completion_token_ids", "kl"))
    positions = [step["position"] for step in row["steps"]]
    weights = [weight for step in row["steps"] for weight in step["weights"]]
    wrong = None
    if not prompt or not completion:
        wrong = "no prompt or no completion"
    elif len(kl) != len(completion):
        wrong = f"{len(kl)} KL values for {len(completion)} completion tokens"
    elif not 0 <= min(prompt + completion) <= max(prompt + completion) < vocabulary:
        wrong = f"a token is not among the {vocabulary} that both models have"
    elif positions != sorted(set(positions) & set(range(len(completion)))):
        wrong = "positions of kept steps do not ascend within the completion"
    elif any(len(step["token_ids"]) != len(step["weights"]) for step in row["steps"]):
        wrong = "a label has not one weight a token"
    elif any(len(set(step["token_ids"])) != len(step["token_ids"]) for step in row["steps"]):
        wrong = "a label has a token twice"
    elif not np.isfinite(kl + weights).all():
        wrong = "a KL or a weight is not a finite number"
    if wrong:
        raise StageError(f"supervision row {row['problem_id']}: {wrong}")


def figures(
    rows: list[dict[str, Any]],
    results: list[Recomputed],
    threshold: float,
    bounds: Bounds,
    lumped: bool,
) -> dict[str, Figure]:
    """The results; `lumped`: tokens beyond K were, so that a recorded KL is a lower bound."""
    exact, at_k, lacked, behind = (
        np.concatenate([getattr(result, name) for result in results])
        for name in ("kl", "kl_at_k", "lacked", "behind")
    )
    kl = np.concatenate([np.array(row["kl"], np.float32) for row in rows])
    kept = np.zeros(len(kl), bool)
    starts = np.cumsum([0, *(len(row["kl"]) for row in rows)])
    label = np.zeros(len(kl))
    for start, row, result in zip(starts, rows, results, strict=False):
        kept[[start + step["position"] for step in row["steps"]]] = True
        label[[start + position for position in result.label]] = list(result.label.values())

    def where(score: np.ndarray) -> str:
        worst = int(score.argmax())
        owner = int(np.searchsorted(starts, worst, side="right")) - 1
        step = f"{rows[owner]['problem_id']} step {worst - starts[owner]}"
        return step if score[worst] > 0 else ""

    known = lacked <= LACKED
    gap, difference = np.where(known, exact - kl, 0), np.where(known, np.abs(at_k - kl), 0)
    above, was_above = exact > threshold, kl > np.float32(threshold)
    gained, lost = (above & ~was_above).sum(), (~above & was_above).sum()
    other, tied = behind > bounds.tie, (behind > 0) & (behind <= bounds.tie)
    trajectories = np.add.reduceat(other, starts[:-1], dtype=int) > 0
    more = (LUMPED_KL, LUMPED_MEAN_KL) if lumped else (0.0, 0.0)
    sides = max(bounds.sides, LUMPED_SIDES) if lumped else bounds.sides
    edge = sum(result.at_edge for result in results)
    return {
        "kl_gap_largest": Figure(
            "KL gap (exact - recorded), largest",
            max(gap.max(), 0.0), bounds.kl + more[0], "nats", where(gap),
        ),
        "kl_gap_mean": Figure("KL gap, mean", gap.mean(), bounds.mean_kl + more[1], "nats"),
        "kl_gap_most_negative": Figure(
            "KL gap, most negative", min(gap.min(), 0.0), -bounds.kl, "nats", where(-gap)
        ),
        "kl_difference_at_k": Figure(
            "KL at the exchanged tokens, largest difference",
            difference.max(), bounds.kl, "nats", where(difference),
        ),
        "steps_changing_sides": Figure(
            f"steps on the other side of {threshold:g} nats",
            (gained + lost) / len(kl), sides, f"{gained} gained, {lost} lost",
            where((above != was_above) * np.abs(exact - kl)),
        ),
        "steps_kept_against_kl": Figure(
            "steps kept or dropped against their recorded KL",
            (kept != was_above).sum(), 0, "", where(kept != was_above),
        ),
        "label_difference_largest": Figure(
            "label weight, largest difference",
            label.max(), bounds.label, f"of {kept.sum()} labels", where(label),
        ),
        "trajectories_not_greedy": Figure(
            "trajectories with a token that is not greedy",
            trajectories.mean(), bounds.greedy,
            f"{trajectories.sum()} of {len(rows)}, {other.sum()} steps", where(behind * other),
        ),
        "greedy_ties": Figure("greedy tokens within rounding of another", tied.sum()),
        "labels_at_edge": Figure("labels with a token within rounding of plausible", edge),
        "steps_without_exact_kl": Figure(
            "steps on ids that the amateur lacks, KL not compared", (~known).sum()
        ),
    }  # fmt: skip
