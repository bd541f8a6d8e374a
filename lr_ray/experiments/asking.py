"""Many models on the same problems, over the endpoint, two at a time.

Answers are kept in the comparison's directory as they come, so the expert answers once, and a comparison
that was killed asks what is missing. Exercised by `pytest tests/integration/test_compare.py`.
"""

import contextlib
import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from lr_ray import serving
from lr_ray.config import Config, Evaluation
from lr_ray.errors import counted
from lr_ray.evaluation.answers import Answer, AnswerStore, Question
from lr_ray.evaluation.client import ask
from lr_ray.evaluation.evaluate import ServedModel, in_turns, keeping, questions
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.models.adapters import is_adapter
from lr_ray.models.models import TRAINED_WEIGHTS
from lr_ray.run.store import Run

Answers = dict[str, list[Answer]]  # of each task
_Asked = dict[str, list[Question]]  # of each task


@dataclass(frozen=True)
class Asked:
    """A model directory, and how it is asked.

    `identity` stays the same as long as its answers do, and `untrained` is as in `ServedModel`.
    """

    name: str
    path: str
    identity: str
    evaluation: Evaluation
    untrained: bool = False


@dataclass(frozen=True)
class Replies:
    answers: Answers
    starting_seconds: float = 0.0  # of the endpoint, with this model and its neighbour
    seconds: float = 0.0  # of those that were asked together
    timed: int = 0  # answers that were asked for in these seconds


def questions_of(asked: Asked, stop_token_ids: Sequence[int], name: str = "") -> _Asked:
    """What a model is asked. `name` is the endpoint's for it, and makes no difference to the keys."""
    model = ServedModel(name, name, asked.identity, asked.untrained)
    tasks = load_tasks(asked.evaluation)
    return {t.name: questions(t, model, asked.evaluation, stop_token_ids) for t in tasks}


def _all_of(asked: _Asked) -> list[Question]:
    return [question for of_task in asked.values() for question in of_task]


def answers_of(store: AnswerStore, asked: Asked, stop_token_ids: Sequence[int]) -> Answers | None:
    """All answers to what a model is asked; None where one is missing."""
    keys = {t: [q.key for q in qs] for t, qs in questions_of(asked, stop_token_ids).items()}
    if not all(key in store.answers for of_task in keys.values() for key in of_task):
        return None
    return {task: [store.answers[key] for key in of_task] for task, of_task in keys.items()}


def to_ask(pending: Sequence[Asked], store: AnswerStore, stop_token_ids: Sequence[int]) -> str:
    """How many of the models lack an answer, as a line says it."""
    lacking = sum(answers_of(store, asked, stop_token_ids) is None for asked in pending)
    models = counted(len(pending), "model")
    return models if lacking == len(pending) else f"{lacking} of {models}"


def take_answers(
    store: AnswerStore, other: Run, asked: Sequence[Asked], stop_token_ids: Sequence[int]
) -> None:
    """Adds what another run or comparison has of these models' answers.

    Not of a trained model of before `TRAINED_WEIGHTS`, whose identity is its own in its comparison only.
    """
    there = AnswerStore(other).answers
    for model in asked:
        if not (model.untrained or os.path.isfile(f"{model.path}/{TRAINED_WEIGHTS}")):
            continue
        for question in _all_of(questions_of(model, stop_token_ids)):
            if question.key in there and question.key not in store.answers:
                store.add(question.key, there[question.key])


def ask_all(
    pending: Sequence[Asked],
    store: AnswerStore,
    config: Config,
    stop_token_ids: Sequence[int],
    expert: str,
    on_progress: Callable[[int, int], None],
    on_waiting: Callable[[str], None],
) -> Generator[tuple[Asked, Replies]]:
    """Yields each model's answers to the tasks of its evaluation, in the order of their problems.

    What the store has is not asked again, and models that have answered all are not served. The models of
    one directory are asked together, whatever their prefill. Adapters are served with `expert`, the
    directory of the model that they belong to. `config` says how all are served; `on_progress` gets
    (answers, answers in all), `on_waiting` a line on nodes that are waited for. Raises StageError when the
    endpoint fails for good.
    """
    watch = serving.Watch(config, on_waiting)
    keys = {q.key for a in pending for q in _all_of(questions_of(a, stop_token_ids))}
    keep = keeping(store, keys, on_progress)
    # With adapters, GPUs were shared out for one engine.
    alone = config.resources.evaluation == "apart" or config.serving.adapters
    for group in groups(pending, 1 if alone else 2, expert):
        todo = [asked for asked in group if answers_of(store, asked, stop_token_ids) is None]
        paths = [asked.path for asked in todo]
        paths += [expert] if any(map(is_adapter, paths)) else []
        served = {path: f"model-{i}" for i, path in enumerate(dict.fromkeys(paths))}
        with _endpoint(served, config, on_waiting) as (url, starting):
            # Once more, as the time left is of asking and not of starting.
            on_progress(len(keys & store.answers.keys()), len(keys))
            for alike in _alike(todo):  # their engines work side by side
                began = time.monotonic()
                lists = [_all_of(questions_of(a, stop_token_ids, served[a.path])) for a in alike]
                missing = {q.key: q for q in in_turns(lists) if q.key not in store.answers}
                ask(url, list(missing.values()), alike[0].evaluation, keep, watch=watch)
                store.write()
                seconds = time.monotonic() - began  # without what is done with a reply
                for asked in alike:
                    given = answers_of(store, asked, stop_token_ids)
                    assert given is not None
                    yield asked, Replies(given, starting, seconds, len(missing))
        for asked in group:
            if asked not in todo and (given := answers_of(store, asked, stop_token_ids)):
                yield asked, Replies(given)


def beside_expert(
    replies: Iterable[tuple[Asked, Replies]], expert: Asked
) -> Iterator[tuple[Asked, Replies, Answers]]:
    """Each other model with its replies and the expert's answers, whichever come first.

    The expert's are the later ones where it had answered all before, and another model had not.
    """
    answers, waiting = None, []
    for asked, given in replies:
        if asked is expert:
            answers = given.answers
        else:
            waiting.append((asked, given))
        if answers is not None:
            for model, theirs in waiting:
                yield model, theirs, answers
            waiting.clear()


@contextlib.contextmanager
def _endpoint(
    served: Mapping[str, str], config: Config, on_waiting: Callable[[str], None]
) -> Iterator[tuple[str, float]]:
    """Base URL of the directories by their served names, and the seconds until it answered."""
    if not served:
        yield "", 0.0
        return
    started = time.monotonic()
    models = {name: path for path, name in served.items()}
    variables = config.models.chat_template_kwargs
    url = serving.start(
        models, config.serving, config.resources, on_waiting=on_waiting, variables=variables
    )
    try:
        yield url, time.monotonic() - started
    finally:
        serving.stop()


def groups(pending: Sequence[Asked], at_once: int, expert: str) -> list[list[Asked]]:
    """Those of as many directories as are in memory at once, in order; all adapters beside the expert."""
    paths = list(dict.fromkeys(asked.path for asked in pending))
    batches = []
    if any(is_adapter(path) for path in paths):
        batches = [[path for path in paths if path == expert or is_adapter(path)]]
        paths = [path for path in paths if path not in batches[0]]
    batches += [paths[i : i + at_once] for i in range(0, len(paths), at_once)]
    return [[asked for asked in pending if asked.path in batch] for batch in batches]


def _alike(group: Sequence[Asked]) -> list[list[Asked]]:
    """Those that are asked alike together."""
    alike: dict[str, list[Asked]] = {}
    for asked in group:
        alike.setdefault(asked.evaluation.model_dump_json(), []).append(asked)
    return list(alike.values())
