"""What models are asked: benchmarks by name or file, each with a number of worked examples.

pytest tests/unit/test_evaluation_tasks.py
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

from lr_ray import embedded
from lr_ray.config import Evaluation, Fields
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.examples import Example, examples
from lr_ray.evaluation.perturbations import perturbed
from lr_ray.grading.graders import Grader, find
from lr_ray.problems import files, sources
from lr_ray.problems.benchmarks import find as find_benchmark
from lr_ray.problems.benchmarks import grader_of, unjudged
from lr_ray.problems.order import once
from lr_ray.problems.rows import Problem, Rejected, listed, parse, place_in_order
from lr_ray.problems.rows import kind as kind_of

Row = dict[str, str]
_DEMO_PROBLEMS = 1000
_LONGEST = 180  # bytes of a task's name, which names of files go on after
_PARAMETER = re.compile(r"[\w.-]+:(?![/:])")  # begins NAME:PARAMETER, but no URI


@dataclass(frozen=True)
class _Item:
    """A row that is asked; of a file or a plugin's source also what else it says, and where it stands."""

    row: Row
    more: Mapping[str, Any] | None = None
    place: str = ""


@dataclass(frozen=True)
class Task:
    """A benchmark's problems, asked in one way.

    `protocol` is same or paper (see `evaluation.paper`). `kind` names the grader of the answers; a row has
    problem_id, problem and answer. `metadata`, where it is there, has what else each row of a file says,
    for a grader of one's own to see. `benchmark` is the name without examples, and `repeats` how many
    rows of an own file are not asked because they repeat another one.
    """

    name: str
    kind: str
    examples: tuple[Example, ...]
    rows: tuple[Row, ...]
    metadata: tuple[Mapping[str, Any], ...] = ()
    protocol: str = "same"
    benchmark: str = ""
    repeats: int = 0

    @property
    def grader(self) -> str | Grader:
        """The name of a built-in grader, or another one."""
        return find(self.kind, "evaluation.grader") or self.kind


def load_tasks(evaluation: Evaluation) -> list[Task]:
    """The tasks of `task_names`, at most `evaluation.max_problems` problems each, then their variants.

    Needs no engine; benchmarks without a data_dir are downloaded. Raises UserError naming
    evaluation.benchmarks or evaluation.data_dir when one cannot be read, or a row has no answer or one that
    its grader can accept from nobody, and evaluation.grader when there is no such grader.
    """
    task_names(evaluation)  # names that clash are told first
    tasks = []
    for name in evaluation.benchmarks:
        items, repeats = _items(name, evaluation)
        rows = tuple(item.row for item in items)
        metadata = tuple(item.more for item in items if item.more is not None)
        kind, stem = _grader(name, evaluation, metadata), task_name(name, 0)
        for item in items:
            if item.more is not None and (wrong := unjudged(item.row["answer"], kind, item.more)):
                said = f"{item.place}: {wrong} (evaluation.grader {kind})"
                raise UserError(f"evaluation.benchmarks: {said}")
        tasks += [
            Task(asked, kind, examples(kind, shots), rows, metadata, protocol, stem, repeats)
            for protocol, shots in _asked(name, evaluation)
            for asked in [task_name(name, shots, protocol)]
        ]
    seed = evaluation.seed
    variants = [variant(task, kind, seed) for task in tasks for kind in evaluation.perturbations]
    tasks += [task for task in variants if task.rows]
    names = [task.name for task in tasks]
    if twice := {name for name in names if names.count(name) > 1}:
        raise UserError(
            f"evaluation.perturbations: {', '.join(sorted(twice))} is a benchmark too; rename its file"
        )
    return tasks


def variant(task: Task, kind: str, seed: int) -> Task:
    """The task's problems that a perturbation is safe for, perturbed, under their own ids."""
    changed = [
        (i, row | {"problem": text})
        for i, row in enumerate(task.rows)
        if (text := perturbed(kind, row["problem"], row["answer"], f"{row['problem_id']} {seed}"))
    ]
    return replace(
        task,
        name=variant_name(task.name, kind),
        rows=tuple(row for _, row in changed),
        metadata=tuple(task.metadata[i] for i, _ in changed) if task.metadata else (),
        repeats=0,
    )


def variant_name(task: str, kind: str) -> str:
    """Of the results of a task's variants by a perturbation: gsm8k-typos."""
    return f"{task}-{kind}"


def task_names(evaluation: Evaluation) -> list[str]:
    """Names of results: gsm8k, gsm8k-4-shot for four examples, `problems` for dir/problems.jsonl.

    Those of protocol paper end with -paper: mmlu_stem-5-shot-paper.
    Raises UserError when two are the same, or one is too long for a file's name.
    """
    names = [
        task_name(name, shots, protocol)
        for name in evaluation.benchmarks
        for protocol, shots in _asked(name, evaluation)
    ]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise UserError(
            f"evaluation.benchmarks: {', '.join(sorted(twice))} occurs twice; give each once, "
            "and files different names"
        )
    if long := [name for name in names if len(name.encode()) > _LONGEST]:
        raise UserError(
            f"evaluation.benchmarks: results named {long[0][:60]}... would have a name of "
            f"{len(long[0].encode())} bytes; must have at most {_LONGEST}: give fewer parameters, or a file "
            "a shorter name"
        )
    return names


def both_names(evaluation: Evaluation) -> list[tuple[str, str]]:
    """Each benchmark's task under protocol same, with the first of the shots, and under paper."""
    return [
        (task_name(n, evaluation.shots[0]), task_name(n, _paper_shots(n), "paper"))
        for n in evaluation.benchmarks
    ]


def _asked(name: str, evaluation: Evaluation) -> list[tuple[str, int]]:
    """Protocol and number of examples of each of a benchmark's tasks."""
    same = [("same", shots) for shots in evaluation.shots]
    paper = [("paper", _paper_shots(name))]
    return {"same": same, "paper": paper, "both": same + paper}[evaluation.protocol]


def _paper_shots(name: str) -> int:
    known = find_benchmark(name)
    return known.paper_shots if known else 0


def task_name(benchmark_name: str, shots: int, protocol: str = "same") -> str:
    whole = _PARAMETER.match(benchmark_name)  # where a slash is no folder's
    stem = files.ENDING.sub("", benchmark_name if whole else PurePosixPath(benchmark_name).name)
    stem = re.sub(r"[^\w.-]", "_", stem) + (f"-{shots}-shot" if shots else "")
    return stem + ("-paper" if protocol == "paper" else "")


def parts_of(name: str, evaluation: Evaluation) -> tuple[str, int, str]:
    """Benchmark, number of examples and protocol of a task of this name, as `task_name` joins them.

    What an own file's name ends with is the file's, as in hard-4-shot.jsonl.
    """
    stems = sorted((task_name(b, 0) for b in evaluation.benchmarks), key=len, reverse=True)
    known = "|".join(map(re.escape, stems))
    found = re.fullmatch(rf"({known}|.+?)(?:-(\d+)-shot)?(-paper)?", name)
    assert found is not None
    return found[1], int(found[2] or 0), "paper" if found[3] else "same"


def _grader(name: str, evaluation: Evaluation, metadata: Sequence[Mapping[str, Any]]) -> str:
    """The grader that a benchmark has, that the setting names, or that a file's rows name."""
    if name == "demo" or find_benchmark(name):
        return grader_of(name)
    if evaluation.grader is not None:
        find(evaluation.grader, "evaluation.grader")
        return evaluation.grader
    named = {row.get("grader") for row in metadata} - {None}
    if len(named) > 1:
        raise UserError(
            f"evaluation.benchmarks: {name}: its rows name the graders {listed(map(str, named))}; must be "
            "one, or set evaluation.grader"
        )
    kind = str(next(iter(named), "math"))
    find(kind, "evaluation.grader")
    return kind


def _items(name: str, evaluation: Evaluation) -> tuple[list[_Item], int]:
    """The rows that are asked, and `Task.repeats`."""
    if name == "demo":
        count = evaluation.max_problems or _DEMO_PROBLEMS
        return [_Item(row) for row in embedded.generate("heldout", count, evaluation.seed)], 0
    items, repeats = _read(name, evaluation)
    if not items:
        raise UserError(f"evaluation.benchmarks: {name}: no rows; give one that has some")
    if evaluation.max_problems is not None and evaluation.max_problems < len(items):
        items = _drawn(items, evaluation.max_problems, evaluation.seed)
    return items, repeats


def _drawn(items: list[_Item], count: int, seed: int) -> list[_Item]:
    # In the first rows of some sets all problems are of one subject.
    drawn = sorted(items, key=lambda item: place_in_order(item.row["problem_id"], seed))
    chosen = {item.row["problem_id"] for item in drawn[:count]}
    return [item for item in items if item.row["problem_id"] in chosen][:count]


def repeated_rows(tasks: Sequence[Task]) -> dict[str, int]:
    """How many rows repeat another one of their file, for each own file that has some."""
    return {task.benchmark: task.repeats for task in tasks if task.repeats}


def _read(name: str, evaluation: Evaluation) -> tuple[list[_Item], int]:
    """All rows of a source, and how many others repeat one. Those of benchmarks stay as they are."""
    source, items, repeats = _source(name, evaluation), list[_Item](), 0
    own, asked_before = not find_benchmark(name), dict[tuple[str, str], Problem]()
    fields = Fields(id="id") if sources.is_registered(name) else evaluation.fields
    asked = fields.model_dump().values()
    try:
        for raw in source.rows():
            found = parse(raw, source.convert, source.id_prefix)
            if found is None:
                continue
            item = once(found, asked_before) if own else found
            if item is None:
                repeats += 1
                continue
            place = f"{item.file}, row {item.row}"
            if isinstance(item, Rejected) or item.answer is None:
                reason = item.reason if isinstance(item, Rejected) else "no answer"
                raise UserError(f"evaluation.benchmarks: {place}: {reason}")
            named = raw.value.get("grader") if own and evaluation.grader is None else None
            if not isinstance(named, str | None):
                said = f"grader is {kind_of(named)}; must be a string"
                raise UserError(f"evaluation.benchmarks: {place}: {said}")
            row = {"problem_id": item.problem_id, "problem": item.problem, "answer": item.answer}
            more = {k: v for k, v in raw.value.items() if k not in asked} if own else None
            items.append(_Item(row, more, place))
    except StageError as error:
        said = str(error).removeprefix(f"{name}: ")
        raise UserError(f"evaluation.benchmarks: {name}: {said}") from None
    return items, repeats


def _source(name: str, evaluation: Evaluation) -> sources.Source:
    if find_benchmark(name):
        return sources.benchmark(name, "test", evaluation.data_dir, "evaluation")
    if sources.is_registered(name):
        return sources.registered(name, "test", evaluation.seed)
    if files.is_location(name):
        return sources.of_files(name, evaluation.fields, f"{task_name(name, 0)}/", "evaluation")
    sources.check_kind(name, "evaluation.benchmarks")
    hint, names = sources.close_to(name)
    raise UserError(
        f"evaluation.benchmarks: {name!r} is not a known benchmark; {hint}give some of {names}, or a "
        f"path of {files.KINDS}; a plugin's name needs --plugins MODULE"
    )
