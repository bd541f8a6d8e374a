"""The evaluation stage: every model asked every task, answers graded. The caller stores the tables.

pytest tests/integration/endpoint/test_evaluation.py
"""

import itertools
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from lr_ray.config import Config, Evaluation, digest_of
from lr_ray.evaluation.answers import Answer, AnswerStore, Question, question
from lr_ray.evaluation.client import ask, request
from lr_ray.evaluation.paper import paper_request
from lr_ray.evaluation.tasks import Task
from lr_ray.grading.others import OTHERS, OURS, PAPER
from lr_ray.grading.pool import Graded, Graders, Item
from lr_ray.models.models import fingerprint
from lr_ray.run.store import Run


@dataclass(frozen=True)
class ServedModel:
    """`label` names its columns, `name` is what the endpoint calls it.

    `identity` stays the same as long as its answers do: of `identity_of`, or URL and name. Protocol paper
    asks models that are `untrained` as `evaluation.paper.expert_prompt` says, all others by chat.
    """

    label: str
    name: str
    identity: str
    untrained: bool = False


def identity_of(label: str, path: str, config: Config) -> str:
    """Of a model directory: its weights and what no request says, how `config` has it served.

    A fingerprint looks at parts of the weights only, so the label belongs to it.
    """
    settings = config.inputs("answers").items()
    served = {name: value for name, value in settings if not name.startswith("evaluation.")}
    return f"{label} {fingerprint(path)} {digest_of(served)}"


Progress = Callable[[int, int], None]
# Models that are up at once, and what makes them so: a context whose value is their base URL.
Serve = Callable[[Sequence[ServedModel]], AbstractContextManager[str]]


def evaluate(
    tasks: Sequence[Task],
    groups: Sequence[Sequence[ServedModel]],
    serve: Serve,
    evaluation: Evaluation,
    run: Run,
    on_asked: Progress = lambda done, total: None,
    on_graded: Progress = lambda done, total: None,
    stop_token_ids: Sequence[int] = (),
    on_left_out: Callable[[str, str], None] = lambda model, field: None,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, pa.Table]:
    """The table of each task (see `grade`).

    Each group of models is served and asked in turn, unless its answers are all there: answers are kept
    in the run as they come. Both progress functions get (answers, answers in all); `on_left_out` and
    `watch` are those of `ask`. Raises StageError when an endpoint fails for good.
    """
    models = [model for group in groups for model in group]
    asked = {
        (task.name, model.label): questions(task, model, evaluation, stop_token_ids)
        for task in tasks
        for model in models
    }
    every = [q for t in tasks for q in in_turns([asked[t.name, m.label] for m in models])]
    with AnswerStore(run) as store:
        missing = {q.key: q for q in every if q.key not in store.answers}
        keep = keeping(store, {question.key for question in every}, on_asked)
        for group in groups:
            labels = {model.label for model in group}
            keys = {q.key for (_, label), some in asked.items() if label in labels for q in some}
            if todo := [question for key, question in missing.items() if key in keys]:
                with serve(group) as url:
                    ask(url, todo, evaluation, keep, on_left_out, watch)
        given = {of: [store.answers[q.key] for q in asked[of]] for of in asked}
    judged, tables = itertools.count(1), {}
    on_verdict = lambda: on_graded(next(judged), len(every))  # noqa: E731
    with Graders() as graders:
        for task in tasks:
            theirs = {model.label: given[task.name, model.label] for model in models}
            tables[task.name] = grade(task, theirs, graders, on_verdict, evaluation.grader_check)
    return tables


def keeping(
    store: AnswerStore, keys: set[str], on_progress: Progress
) -> Callable[[Question, Answer], None]:
    """What `ask` hands answers to: keeps each, and tells (answers, answers in all) of these keys."""
    done = len(keys & store.answers.keys())
    on_progress(done, len(keys))

    def keep(question: Question, answer: Answer) -> None:
        nonlocal done
        done += 1
        store.add(question.key, answer)
        on_progress(done, len(keys))

    return keep


def questions(
    task: Task, model: ServedModel, evaluation: Evaluation, stop_token_ids: Sequence[int] = ()
) -> list[Question]:
    """Problem by problem, each with its samples. `stop_token_ids` are those of protocol same."""
    raw = model.untrained and evaluation.paper.expert_prompt == "completion"

    def body(problem: str, sample: int) -> dict[str, Any]:
        if task.protocol == "paper":
            return paper_request(problem, evaluation, raw, task.examples, sample)
        return request(problem, evaluation, stop_token_ids, task.examples, sample)

    return [
        question(model.name, model.identity, body(row["problem"], sample))
        for row in task.rows
        for sample in range(evaluation.samples)
    ]


def grade(
    task: Task,
    answers: dict[str, list[Answer]],
    graders: Graders,
    on_verdict: Callable[[], None] = lambda: None,
    checks: Sequence[str] = (),
) -> pa.Table:
    """The task's table: a row per problem and sample.

    `answers[label]` has each problem's samples, problem by problem. Columns: problem_id, problem,
    expected, sample, and for each label <label>_completion, <label>_answer (null when there is
    none), <label>_correct, <label>_verdict (how it was judged) and <label>_finish_reason. For each
    of `checks`, names in `others.OTHERS`, also <label>_<check>_answer and <label>_<check>_correct, where
    the task's own grader is math or demo. Protocol paper has `others.PAPER` in its place there, with ours
    beside it as the check `ours`.
    """
    mathematical = task.kind in ("math", "demo")
    grader, checks = task.grader, checks if mathematical else ()
    if task.protocol == "paper" and mathematical:
        grader, checks = PAPER, [OURS, *checks]
    samples = len(next(iter(answers.values()))) // len(task.rows)
    rows = [row for row in task.rows for _ in range(samples)]
    metadata = [more for more in task.metadata or [None] * len(task.rows) for _ in range(samples)]
    columns = {
        "problem_id": _texts(row["problem_id"] for row in rows),
        "problem": _texts(row["problem"] for row in rows),
        "expected": _texts(row["answer"] for row in rows),
        "sample": pa.array([*range(samples)] * len(task.rows), pa.int32()),
    }
    for label, given in answers.items():
        items = [
            Item(row["answer"], _said(answer), answer.finish_reason == "length", more)
            for row, answer, more in zip(rows, given, metadata, strict=True)
        ]
        graded = graders.grade_all(grader, items, on_verdict)
        columns[f"{label}_completion"] = _texts(a.completion for a in given)
        columns |= _judged(label, graded)
        columns[f"{label}_verdict"] = _texts(g.verdict.how for g in graded)
        columns[f"{label}_finish_reason"] = _texts(a.finish_reason for a in given)
        for check in checks:
            graded = graders.grade_all(OTHERS.get(check, task.grader), items)
            columns |= _judged(f"{label}_{check}", graded)
    return pa.table(columns)


def _judged(name: str, graded: Sequence[Graded]) -> dict[str, pa.Array]:
    correct = pa.array([g.verdict.correct for g in graded], pa.bool_())
    return {f"{name}_answer": _texts(g.extracted for g in graded), f"{name}_correct": correct}


def _texts(values: Iterable[str | None]) -> pa.Array:
    return pa.array(list(values), pa.string())


def _said(answer: Answer) -> str | None:
    return None if answer.finish_reason == "refused" else answer.completion


def in_turns(lists: Sequence[Sequence[Question]]) -> Iterable[Question]:
    """The first of each list, then the second of each, so that the models' engines work side by side."""
    return [question for turn in zip(*lists, strict=True) for question in turn]
