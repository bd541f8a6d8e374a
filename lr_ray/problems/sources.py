"""Problem sources: the demo's generator and plugins by name, benchmarks, hub data sets, and files.

pytest tests/unit/test_problems_sources.py
"""

import difflib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lr_ray.config import Config, Data, Fields
from lr_ray.errors import StageError, UserError, named, one_line, reason
from lr_ray.grading.graders import find as find_grader
from lr_ray.plugins import sources
from lr_ray.problems import files, hub
from lr_ray.problems.benchmarks import BENCHMARKS, part_of
from lr_ray.problems.benchmarks import find as find_benchmark
from lr_ray.problems.rows import (
    Convert,
    Found,
    Problem,
    Raw,
    Rejected,
    Row,
    UnusableRowError,
    answer_text,
    identifier,
    kind,
    listed,
    mapped,
    parse,
    text,
)

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
_PEEKED_ROWS = 100
ENDLESS = ("demo", "reasoning_gym")  # sources that are random anyway
_OPTIONS = {"data": "data.source", "evaluation": "evaluation.benchmarks"}  # by section

# What is registered by name, for data.source NAME or NAME:PARAMETER. Gets the parameter ("" without one),
# the split (data.split; test in an evaluation) and the seed, and gives rows with `problem`, and maybe `id`
# (the text makes one), `answer`, and what else a grader is to see. Raises ValueError for a bad parameter.
Rows = Callable[[str, str, int], Iterable[Row]]


@dataclass(frozen=True)
class Source:
    """Rows and how they become problems; opening it again reads it anew."""

    rows: Callable[[], Iterator[Raw]]
    convert: Convert
    id_prefix: str
    inputs: tuple[files.File, ...] = ()  # where the rows are of files

    def problems(self) -> Iterator[Problem | Rejected]:
        """Every row in the source's order. Raises StageError when it cannot be read on."""
        for raw in self.rows():
            item = parse(raw, self.convert, self.id_prefix)
            if item is not None:
                yield item


def open_source(data: Data) -> Source:
    """The source that `data` names. Loads no data. Raises UserError naming the wrong setting."""
    by_name = is_registered(data.source)
    known = find_benchmark(data.source)
    if (by_name or known) and data.fields != Fields():
        raise UserError(f"data.fields: {data.source} has fields of its own; leave them out")
    if known:
        return benchmark(data.source, data.split, data.data_dir, "data")
    if data.data_dir is not None:
        raise UserError(
            f"data.data_dir: only a benchmark is read from it, and data.source is {data.source!r}; "
            "leave it out"
        )
    if by_name:
        return registered(data.source, data.split, data.seed)
    if files.is_location(data.source):
        return of_files(data.source, data.fields, "problem-", "data")
    convert = mapped(data.fields.problem, data.fields.id, data.fields.answer)
    if os.path.isdir(folder := os.path.expanduser(data.source)):
        rows = lambda: hub.read(folder, None, data.split, data.fields)  # noqa: E731
        return Source(rows, convert, "problem-")
    if _HUB_NAME.fullmatch(data.source) and not os.path.exists(data.source):
        name, _, config = data.source.partition(":")
        rows = lambda: hub.read(name, config or None, data.split, data.fields)  # noqa: E731
        return Source(rows, convert, f"{data.source}/{data.split}/")
    check_kind(data.source, "data.source")
    hint, names = close_to(data.source)
    raise UserError(
        f"data.source: {data.source!r} is no known source and no folder; {hint}give one of {names}, "
        "org/name or org/name:config of the Hugging Face hub, or a path, URI or glob of "
        f"{files.KINDS}; a plugin's name needs --plugins MODULE"
    )


def is_registered(source: str) -> bool:
    """Whether a source is the demo or a plugin's, whatever its parameter."""
    return source.partition(":")[0] in sources.names()


def registered(source: str, split: str, seed: int) -> Source:
    """The rows of `NAME` or `NAME:PARAMETER`; reading them raises StageError for a bad parameter."""
    name, _, parameter = source.partition(":")
    make: Rows = sources.get(name, "data.source")

    def rows() -> Iterator[Raw]:
        row = 0
        try:
            for row, value in enumerate(make(parameter, split, seed), start=1):
                yield Raw(source, row, value)
        except ValueError as error:
            raise StageError(f"{source}: {error}") from None
        except Exception as error:  # whatever a user's module raises
            raise StageError(f"{source}: after row {row}: {one_line(named(error))}") from None

    return Source(rows, _stated, f"{source}/")


def _stated(row: Row) -> Found:
    """What a registered source's row says."""
    more = {name: value for name, value in row.items() if name not in ("id", "problem", "answer")}
    found_id = identifier(row, "id") if "id" in row else None
    found = Found(text(row, "problem"), answer_text(row.get("answer"), "answer"), found_id)
    try:
        return found._replace(metadata=json.dumps(more, default=str) if more else None)
    except Exception as error:  # json's, and whatever a value's own str() raises
        said = f"its other fields are not to be had as JSON: {reason(error)}"
        raise UnusableRowError(
            f"{said}; must be texts, numbers, lists and objects", found_id
        ) from None


def of_files(location: str, fields: Fields, id_prefix: str, section: str) -> Source:
    """The rows of the files behind a path, URI or glob, whose fields `section`.fields names."""
    found, option = tuple(files.find(location, _OPTIONS[section])), f"{section}.fields"
    convert = mapped(fields.problem, fields.id, fields.answer, option)
    whole = section == "evaluation"  # where a grader sees the other fields
    rows = lambda: (r for file in found for r in files.read(file, fields, option, whole))  # noqa: E731
    return Source(rows, convert, id_prefix, found)


def check_kind(source: str, option: str) -> None:
    """Raises UserError for a file of a kind that is not read, such as CSV."""
    if os.path.isfile(os.path.expanduser(source)):
        raise UserError(
            f"{option}: {source!r} is no known source and no folder, but a file of a kind that is not "
            f"read; give {files.KINDS}"
        )


def close_to(source: str) -> tuple[str, str]:
    """What is said of a source that is not known: which name was likely meant, and all names."""
    names = [*sources.names(), *BENCHMARKS]
    close = difflib.get_close_matches(source, names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}? Else " if close else "", ", ".join(names)


def benchmark(name: str, split: str, data_dir: str | None, section: str) -> Source:
    """One split of a benchmark or of a part of it, from `data_dir` or the hub.

    Raises UserError naming the subject, `section`.split or `section`.data_dir, and for a name that a plugin
    has taken too.
    """
    convert, name = part_of(name, _OPTIONS[section]), name.partition(":")[0]
    if name in sources.names():
        raise UserError(
            f"{_OPTIONS[section]}: {name} is a benchmark, and a plugin registers a problem source of that "
            "name too; rename the plugin's"
        )
    known = BENCHMARKS[name]
    if data_dir is not None:
        file = _local(name, split, data_dir, section)
        return Source(lambda: files.read(file, None), convert, f"{name}/{split}/", (file,))
    if split not in known.splits:
        raise UserError(
            f"{section}.split: {name} has no split {split!r}; there are {listed(known.splits)}"
        )
    parts = list(itertools.product(known.configs, known.splits[split]))
    rows = lambda: (row for part in parts for row in hub.read(known.hub, *part, None))  # noqa: E731
    return Source(rows, convert, f"{name}/{split}/")


def check_source(config: Config) -> None:
    """Raises UserError when the source, or its grader, cannot be what was meant; looks at a few rows.

    Asks no network unless files are remote.
    """
    data = config.data
    source = open_source(data)
    if data.grader is not None:
        find_grader(data.grader, "data.grader")
    folder = os.path.isdir(os.path.expanduser(data.source))
    if not (source.inputs or folder or is_registered(data.source)):
        return
    try:
        rows = list(itertools.islice(source.rows(), _PEEKED_ROWS))
    except StageError as error:
        raise UserError(f"data.source: {error}") from None
    if not rows:
        raise UserError(f"data.source: {data.source}: no rows; give one that has some")
    objects = [raw.value for raw in rows if isinstance(raw.value, dict)]
    if not objects and len(rows) < _PEEKED_ROWS:
        reason = rows[0].error or f"is {kind(rows[0].value)}; must be a JSON object"
        raise UserError(f"data.source: {rows[0].file}, row {rows[0].row}: {reason}")
    if source.inputs and not find_benchmark(data.source) and objects:
        for option, name in data.fields:
            if files.is_needed(option, name) and not any(name in row for row in objects):
                raise UserError(
                    f"data.fields.{option}: no field {name!r} in the first {len(rows)} rows of "
                    f"{data.source}; there are {listed(objects[0])}"
                )
    if len(rows) < _PEEKED_ROWS:  # these are all
        items = [parse(raw, source.convert, source.id_prefix) for raw in rows]
        bad = [item for item in items if isinstance(item, Rejected)]
        problems = {item.problem_id for item in items if isinstance(item, Problem)}
        if len(problems) <= (data.skip or 0):
            raise UserError(unusable(data, len(bad), bad[0] if bad else None))


def unusable(data: Data, rejected: int, first: Rejected | None) -> str:
    """That the source has no usable problem; `first` of its rejected rows says why."""
    said = f"data.source: {data.source}: no usable problem"
    said += f" after the first {data.skip} (data.skip)" if data.skip else ""
    if first:
        return f"{said}; the first of {rejected} rejected rows: {first.place}: {first.reason}"
    return said if data.skip else f"{said}; it has no rows"


def _local(name: str, split: str, data_dir: str, section: str) -> files.File:
    folder = f"{data_dir.rstrip('/')}/{name}"
    option, hint = f"{section}.data_dir", "a folder with <benchmark>/<split>.jsonl"
    try:
        found = files.find(f"{folder}/{split}.jsonl", option, hint)
    except UserError as error:
        try:
            there = files.find(f"{folder}/*.jsonl", option, hint)
        except UserError:
            raise error from None
    else:
        if len(found) > 1:
            raise UserError(
                f"{option}: {folder}/{split}.jsonl: matches {len(found)} files; must be one"
            )
        return found[0]
    splits = [file.path.rsplit("/", 1)[1].removesuffix(".jsonl") for file in there]
    raise UserError(f"{section}.split: {folder} has no {split}.jsonl; there are {listed(splits)}")


def demo(parameter: str, split: str, seed: int) -> Iterator[Row]:
    """The embedded pair's problems, without an end; a run samples the same ones of any split."""
    from lr_ray.embedded.problems import stream

    if parameter:
        raise ValueError("takes no parameter; leave it out")
    for problem in stream("sampling", seed):
        yield {"id": problem.problem_id, "problem": problem.text, "answer": str(problem.answer)}
