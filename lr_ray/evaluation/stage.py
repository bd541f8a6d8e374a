"""The evaluation stage: both models on every benchmark, graded and compared. The caller stores.

pytest tests/integration/test_serving.py
"""

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from lr_ray.config import Evaluation
from lr_ray.evaluation.benchmarks import Row, load
from lr_ray.evaluation.client import Answer, ask
from lr_ray.evaluation.grading import extract_answer, is_correct
from lr_ray.evaluation.statistics import PairedDifference, paired_difference

LABELS = ("expert", "improved")


def evaluate(
    base_url: str,
    models: dict[str, str],
    evaluation: Evaluation,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    stop_token_ids: Sequence[int] = (),
) -> dict[str, tuple[pa.Table, PairedDifference]]:
    """For each of `evaluation.benchmarks` its table and its summary.

    `models` maps the labels expert and improved to served names; `on_progress` gets (answers,
    answers in all). The table has a row per problem: problem_id, problem, expected, and for each
    label <label>_completion, <label>_answer (null when there is none), <label>_correct and
    <label>_finish_reason. Raises UserError for an unknown benchmark, before anything is asked,
    and StageError when the endpoint fails for good.
    """
    if set(models) != set(LABELS):
        raise ValueError(f"models: need the labels {LABELS}, got {sorted(models)}")
    benchmarks = {name: load(name, evaluation) for name in evaluation.benchmarks}
    total = sum(len(rows) for rows in benchmarks.values()) * len(LABELS)
    done = 0

    def on_answer() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    results = {}
    for name, rows in benchmarks.items():
        served = [models[label] for label in LABELS]
        problems = [row["problem"] for row in rows]
        answers = asyncio.run(
            ask(base_url, served, problems, evaluation, stop_token_ids, on_answer)
        )
        table = grade(name, rows, {label: answers[models[label]] for label in LABELS})
        results[name] = table, summarise(table, evaluation.seed)
    return results


def grade(benchmark: str, rows: list[Row], answers: dict[str, list[Answer]]) -> pa.Table:
    """The benchmark's table; `answers[label][i]` answers row i."""
    columns: dict[str, pa.Array] = {
        "problem_id": pa.array([row["problem_id"] for row in rows], pa.string()),
        "problem": pa.array([row["problem"] for row in rows], pa.string()),
        "expected": pa.array([row["answer"] for row in rows], pa.string()),
    }
    for label, given in answers.items():
        extracted = [extract_answer(answer.completion, benchmark) for answer in given]
        correct = [is_correct(row["answer"], e) for row, e in zip(rows, extracted, strict=True)]
        columns |= {
            f"{label}_completion": pa.array([a.completion for a in given], pa.string()),
            f"{label}_answer": pa.array(extracted, pa.string()),
            f"{label}_correct": pa.array(correct, pa.bool_()),
            f"{label}_finish_reason": pa.array([a.finish_reason for a in given], pa.string()),
        }
    return pa.table(columns)


def summarise(table: pa.Table, seed: int) -> PairedDifference:
    """Accuracies and the paired difference of a benchmark's table."""
    expert_N, improved_N = (
        np.array(table[f"{label}_correct"].to_pylist(), dtype=bool) for label in LABELS
    )
    return paired_difference(expert_N, improved_N, seed)
