"""Many models on the same problems, over the endpoint, two at a time.

The expert answers once for the whole comparison. Exercised by
`pytest tests/integration/test_compare.py`.
"""

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lr_ray import serving
from lr_ray.config import Evaluation, Resources, Serving
from lr_ray.evaluation.answers import Answer, Question
from lr_ray.evaluation.client import ask
from lr_ray.evaluation.evaluate import ServedModel, questions
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.run.store import Run

Answers = dict[str, list[Answer]]  # of each task


@dataclass(frozen=True)
class Asked:
    """A model directory under a name, and how it is asked (`untrained`: see `ServedModel`)."""

    name: str
    path: str
    evaluation: Evaluation
    untrained: bool = False


@dataclass(frozen=True)
class Replies:
    answers: Answers
    starting_seconds: float  # of the endpoint, with this model and its neighbour
    seconds: float  # of those that were asked together


def ask_all(
    pending: Sequence[Asked],
    settings: Serving,
    resources: Resources,
    stop_token_ids: Sequence[int],
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    variables: Mapping[str, Any] | None = None,
) -> Generator[tuple[Asked, Replies]]:
    """Yields each model's answers to the tasks of its evaluation, in the order of their problems.

    The models of one directory are asked together, whatever their prefill. `on_progress` gets
    (answers, answers in all), `variables` are those of the chat templates. Raises StageError when the
    endpoint fails for good.
    """
    done, total = 0, sum(_size(asked.evaluation) for asked in pending)

    def on_answer() -> None:
        nonlocal done
        done += 1
        on_progress(done, total)

    on_progress(0, total)
    for group in groups(pending, 1 if resources.evaluation == "apart" else 2):
        started = time.monotonic()
        served = {path: f"model-{i}" for i, path in enumerate(dict.fromkeys(a.path for a in group))}
        models = {name: path for path, name in served.items()}
        url = serving.start(models, settings, resources, variables=variables)
        try:
            starting = time.monotonic() - started
            for alike in _alike(group):  # their engines work side by side
                began = time.monotonic()
                names = [served[asked.path] for asked in alike]
                models = [
                    ServedModel(name, name, name, asked.untrained)
                    for name, asked in zip(names, alike, strict=True)
                ]
                answers = _ask(url, models, alike[0].evaluation, stop_token_ids, on_answer)
                seconds = time.monotonic() - began
                for asked, name in zip(alike, names, strict=True):
                    yield asked, Replies(answers[name], starting, seconds)
        finally:
            serving.stop()


def groups(pending: Sequence[Asked], at_once: int = 2) -> list[list[Asked]]:
    """Those of as many directories together as are in memory at once, in order."""
    paths = list(dict.fromkeys(asked.path for asked in pending))
    batches = [paths[i : i + at_once] for i in range(0, len(paths), at_once)]
    return [[asked for asked in pending if asked.path in batch] for batch in batches]


def _alike(group: Sequence[Asked]) -> list[list[Asked]]:
    """Those that are asked alike together."""
    alike: dict[str, list[Asked]] = {}
    for asked in group:
        alike.setdefault(asked.evaluation.model_dump_json(), []).append(asked)
    return list(alike.values())


def _size(evaluation: Evaluation) -> int:
    return evaluation.samples * sum(len(task.rows) for task in load_tasks(evaluation))


def _ask(
    url: str,
    models: Sequence[ServedModel],
    evaluation: Evaluation,
    stop_token_ids: Sequence[int],
    on_answer: Callable[[], None],
) -> dict[str, Answers]:
    answers: dict[str, Answers] = {model.name: {} for model in models}
    for task in load_tasks(evaluation):
        asked = {model.name: questions(task, model, evaluation, stop_token_ids) for model in models}
        said: dict[str, Answer] = {}

        def on_said(question: Question, answer: Answer, said: dict[str, Answer] = said) -> None:
            said[question.key] = answer
            on_answer()

        in_turns = [question for turn in zip(*asked.values(), strict=True) for question in turn]
        ask(url, in_turns, evaluation, on_said)
        for name, theirs in asked.items():
            answers[name][task.name] = [said[question.key] for question in theirs]
    return answers


def keep(run: Run, name: str, answers: Answers) -> None:
    """Writes `answers/<name>-<task>.parquet`."""
    for task, given in answers.items():
        columns = {
            "completion": pa.array([a.completion for a in given], pa.string()),
            "finish_reason": pa.array([a.finish_reason for a in given], pa.string()),
        }
        run.write_table(_file(name, task), pa.table(columns))


def kept(run: Run, name: str, tasks: Sequence[str]) -> Answers | None:
    """What `keep` wrote, None where a task is missing."""
    if not all(run.exists(_file(name, task)) for task in tasks):
        return None
    tables = {t: pq.read_table(run.path(_file(name, t)), filesystem=run.fs) for t in tasks}
    return {t: [Answer(**row) for row in table.to_pylist()] for t, table in tables.items()}


def _file(name: str, task: str) -> str:
    return f"answers/{name}-{task}.parquet"
