"""Rejection sampling, a baseline: the expert's own right solutions, all of their tokens, no amateur.

Exercised by `pytest tests/unit/test_rejection.py` and `pytest tests/integration/test_sampling.py`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from lr_ray.config import Config
from lr_ray.engines.engine import Generate
from lr_ray.errors import UserError
from lr_ray.grading.graders import find
from lr_ray.grading.pool import Graded, Graders, Item
from lr_ray.labelling.label import Facts, Labelled
from lr_ray.labelling.shards import shard_name, write_shard
from lr_ray.method.contrast import problem_seed
from lr_ray.models.models import load_tokenizer
from lr_ray.problems import PROBLEM
from lr_ray.problems.benchmarks import grader_of
from lr_ray.run.schemas import SOLUTIONS, SUPERVISION, lists, rejected
from lr_ray.run.store import Run
from lr_ray.sampling.expert import Solver

NO_ANSWER = "the problem has no answer to grade by"


@dataclass
class Solutions:
    """A problem's sampled solutions."""

    prompt: list[int]
    completions: list[list[int]]
    finish_reasons: list[str]


class SolutionSampler(Solver):
    """Rows of the run's problems in, sampled solutions (columns of `schemas.SOLUTIONS`) out."""

    schema, nothing = SOLUTIONS, Solutions([], [], [])

    def items(self, problems: pa.Table, prompts: list[list[int]]) -> Sequence[Any]:
        return list(zip(problems["problem_id"].to_pylist(), prompts, strict=True))

    def solve(self, items: Sequence[tuple[str, list[int]]]) -> list[Solutions]:
        asked, drawn = self.sampling, self.sampling.rejection
        requests = [
            Generate(
                prompt,
                asked.longest,
                samples=drawn.samples,
                temperature=drawn.temperature,
                seed=problem_seed(asked.seed, problem_id),  # the batch has no say in the draw
            )
            for problem_id, prompt in items
        ]
        return [
            Solutions(
                prompt,
                [sample.token_ids for sample in found],
                [sample.finish_reason for sample in found],
            )
            for (_, prompt), found in zip(items, self.engine.generate(requests), strict=True)
        ]

    def columns(self, solved: list[Solutions]) -> dict[str, pa.Array]:
        return {
            "prompt_token_ids": lists([s.prompt for s in solved], pa.int32()),
            "completions": pa.array(
                [s.completions for s in solved], SOLUTIONS.field("completions").type
            ),
            "finish_reasons": pa.array([s.finish_reasons for s in solved], pa.list_(pa.string())),
        }


def check_answers(run: Run, config: Config) -> None:
    """Raises UserError when solutions are to be graded and none of the staged problems has an answer."""
    if config.sampling.method != "rejection":
        return
    answer = pa.schema([PROBLEM.field("answer")])
    for name in run.shards("problems"):
        column = run.read_tables([name], answer)["answer"]
        if column.null_count < len(column):
            return
    raise UserError(
        f"data.source: {config.data.source}: no problem has an answer, and sampling.method = "
        f"rejection grades by it; data.fields.answer = {config.data.fields.answer} must name its field"
    )


def write_right(
    batch: pa.Table, run: Run, config: Config, model: str, exchange: dict[str, Any]
) -> dict[str, list[Any]]:
    """Grades a batch of sampled solutions, and writes its shard."""
    tokenizer = load_tokenizer(model)

    def decode(token_ids: list[int]) -> str:
        return str(tokenizer.decode(token_ids, skip_special_tokens=True))

    labelled = keep_right(batch, decode, config.data.source, config.data.grader)
    return write_shard(run, shard_name(batch["index"].to_numpy()), labelled, exchange)


def keep_right(
    batch: pa.Table, decode: Callable[[list[int]], str], source: str, grader: str | None = None
) -> Labelled:
    """Columns of `schemas.SOLUTIONS` to supervision: right solutions, each once, and all of their tokens.

    `source`, `grader` and the rows say how answers are graded (see `benchmarks.grader_of`). A problem that
    has no right solution has no row; one that has an error or no answer is rejected.
    """
    problems = batch.to_pylist()
    errors = [p["error"] or (NO_ANSWER if p["answer"] is None else None) for p in problems]
    reasons = pa.array(errors, pa.string())
    failed = reasons.is_valid()
    solved = [p for p, error in zip(problems, errors, strict=True) if error is None]
    finished = [
        (p, tuple(completion))
        for p in solved
        for completion, reason in zip(p["completions"], p["finish_reasons"], strict=True)
        if reason == "stop"
    ]
    kinds = [grader_of(source, grader, [problem["metadata"]]) for problem, _ in finished]
    graded = dict[int, Graded]()
    with Graders() as graders:
        for kind in dict.fromkeys(kinds):  # of a plugin's rows each may name its own
            of_kind = [i for i, other in enumerate(kinds) if other == kind]
            items = [
                Item(p["answer"], decode(list(c)), False, json.loads(p["metadata"] or "{}"))
                for p, c in (finished[i] for i in of_kind)
            ]
            found = graders.grade_all(find(kind, "data.grader") or kind, items)
            graded |= zip(of_kind, found, strict=True)
    right = [of for i, of in enumerate(finished) if graded[i].verdict.correct]
    once = {(problem["index"], completion): problem for problem, completion in right}
    rows = [_row(problem, completion) for (_, completion), problem in once.items()]
    steps = sum(len(row["steps"]) for row in rows)
    bad_index = batch["index"].filter(failed).to_pylist()
    return Labelled(
        pa.Table.from_pylist(rows, SUPERVISION),
        rejected(batch, failed, reasons),
        [problem["index"] for problem in solved],
        bad_index,
        Facts(
            problems=batch.num_rows,
            trajectories=len(rows),
            rejected=len(bad_index),
            steps_scored=steps,
            steps_kept=steps,
            samples_drawn=sum(len(problem["completions"]) for problem in solved),
            samples_right=len(right),
        ),
    )


def _row(problem: dict[str, Any], completion: tuple[int, ...]) -> dict[str, Any]:
    return {
        "problem_id": problem["problem_id"],
        "prompt_token_ids": problem["prompt_token_ids"],
        "completion_token_ids": completion,
        "finish_reason": "stop",
        "kl": np.full(len(completion), np.nan, np.float32),
        "steps": [
            {"position": position, "token_ids": [token], "weights": [1.0]}
            for position, token in enumerate(completion)
        ],
    }
