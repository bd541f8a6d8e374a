"""Recomputes a random sample of supervision rows independently, and compares.

Checks what the engines' arithmetic and the exchange of K tokens approximated.
Exercised by `lr-ray audit --run RUN` and `pytest tests/unit/test_audit.py`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from lr_ray.audit.exact import recompute
from lr_ray.audit.figures import BOUNDS, Figure, figures
from lr_ray.config import Config
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.shards import checked_footers
from lr_ray.method.oracle import load
from lr_ray.run.schemas import SUPERVISION, first_null
from lr_ray.run.store import Run
from lr_ray.training.export import fits

_SMALL = 10_000_000  # parameters


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
    """Recomputes `count` rows (0: all) drawn by `seed`.

    Raises UserError where there is no row, StageError for a malformed one.
    """
    places = row_places(run)
    if not places:
        said = "no supervision rows to recompute; rejected.jsonl has why no problem gave one"
        raise UserError(f"--run {run.location}: {said}")
    drawn = draw(places, count, seed)
    on_progress(0, len(drawn))
    facts, sampling = recorded(run), config.sampling
    models: list[Any] = [load(path) for path in (expert, amateur)]
    cuda = torch.cuda.is_available() and fits(torch.nn.ModuleList(models), torch.device("cuda"))
    device = "cuda" if cuda else "cpu"
    models = [model.to(device) for model in models]
    if sum(model.num_parameters() for model in models) < _SMALL:
        torch.set_num_threads(1)  # threads of tiny matrices only wait for each other
    vocabulary = [model.get_output_embeddings().weight.shape[0] for model in models]
    top_k = min(facts.get("top_k", sampling.top_k), vocabulary[0])
    dtypes = {
        facts.get("expert_dtype", sampling.expert.dtype),
        facts.get("amateur_dtype", sampling.amateur.dtype),
    }
    dtype = "float32" if dtypes == {"float32"} else "bfloat16"  # the coarser
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


Place = tuple[str, str, int]  # problem_id, shard, row in it


def row_places(run: Run) -> list[Place]:
    """Every supervision row, in the order of problem ids, whatever shards they are in."""
    ids = pa.schema([SUPERVISION.field("problem_id")])
    return sorted(
        (problem_id, name, index)
        for name in run.shards("supervision")
        for index, problem_id in enumerate(_read(run, name, ids)["problem_id"].to_pylist())
    )


def draw(places: list[Place], count: int, seed: int) -> list[Place]:
    """`count` of the places (0, or more than there are: all), sorted by shard."""
    if 0 < count < len(places):
        places = random.Random(seed).sample(places, count)
    return sorted(places, key=lambda place: place[1:])


def read_rows(run: Run, places: list[Place]) -> Iterator[dict[str, Any]]:
    """The rows at `places`, one shard in memory at a time."""
    for name, group in groupby(places, key=lambda place: place[1]):
        table = _read(run, name, SUPERVISION)
        yield from table.take([index for _, _, index in group]).to_pylist()


def _read(run: Run, name: str, schema: pa.Schema) -> pa.Table:
    """A shard. Raises StageError naming its first null."""
    table = run.read_tables([name], schema)
    if null := first_null(table):
        raise StageError(f"{run.location}/{name}: row {null[0] + 1}: a null in {null[1]}")
    return table


def recorded(run: Run) -> dict[str, Any]:
    """What the shards' footers say: counts added up, the largest residuals, K and data types."""
    facts: dict[str, Any] = {}
    for name, said in checked_footers(run, "supervision").items():
        for key, value in {**said, **said.get("facts", {})}.items():
            if key in ("problems", "facts") or key.startswith("samples_"):
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
    elif min(weights, default=0) < 0:
        wrong = "a label has a weight below 0"
    if wrong:
        raise StageError(f"supervision row {row['problem_id']}: {wrong}")
