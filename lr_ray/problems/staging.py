"""Stages the problems of a run: `problems/part-*.parquet`, and `problems/index.json` last of all.

pytest tests/unit/test_problems_staging.py
"""

import functools
import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.config import Config, Data
from lr_ray.errors import StageError, UserError
from lr_ray.grading.graders import find as find_grader
from lr_ray.problems.benchmarks import grader_of, unjudged
from lr_ray.problems.order import Item, distinct, shuffled
from lr_ray.problems.rows import PROBLEM, Problem, Rejected
from lr_ray.problems.sources import ENDLESS, open_source, unusable
from lr_ray.run.schemas import REJECTED
from lr_ray.run.stages import UNUSABLE
from lr_ray.run.store import Run

INDEX = "problems/index.json"
ROWS_A_PART = 1024
_REJECTED_ROWS_A_PART = 16384
_CACHED_PARTS = 4
_PROBLEMS = "problems/part-{:05d}.parquet"


def read_index(run: Run) -> dict[str, Any]:
    """How many `problems` and `rejected` rows are staged. Raises UserError for something else in its file."""
    index = run.read_json(INDEX)
    for name, least in (("problems", 1), ("rejected", 0), ("rows_a_part", 1)):
        value = index.get(name)
        if type(value) is not int or value < least:
            raise UserError(
                f"{run.location}/{INDEX}: {name} = {value!r:.100}: must be a whole number from {least}; "
                "remove the folder problems, which sampling then writes anew"
            )
    return index


def stage_problems(run: Run, config: Config) -> int:
    """Writes the run's problems unless they are there. Returns how many there are.

    At most `sampling.max_problems`; what an interrupted attempt left is written anew. Raises StageError
    when the source has no usable row or cannot be read on.
    """
    if run.exists(INDEX):
        return int(read_index(run)["problems"])
    _clear(run)
    good = _Parts(run, _PROBLEMS, PROBLEM, ROWS_A_PART)
    bad = _Parts(run, f"{UNUSABLE}{{:05d}}.parquet", REJECTED, _REJECTED_ROWS_A_PART)
    first: Rejected | None = None
    for item in _items(config):
        if isinstance(item, Rejected):
            first = first or item
            bad.add(item)
        else:
            good.add(item)
        if good.count == config.sampling.max_problems:
            break
    good.write()
    bad.write()
    if not good.count:
        raise StageError(unusable(config.data, bad.count, first))
    index = {"problems": good.count, "rejected": bad.count, "rows_a_part": ROWS_A_PART}
    reason = first and f"{first.place}: {first.reason}"
    run.write_json(INDEX, {**index, "first_rejected": reason})
    return good.count


def read_problems(run: Run, rows: NDArray[np.int64]) -> pa.Table:
    """The staged problems (columns of PROBLEM) at these indices, counted from 0, in their order.

    Reads only the parts that they lie in. Raises IndexError when there is no such problem, StageError
    when a part cannot be read.
    """
    rows = np.asarray(rows, np.int64)
    index = _index(run.address)
    if len(rows) and not (rows.min() >= 0 and rows.max() < index["problems"]):
        raise IndexError(f"problems {rows.min()} to {rows.max()} asked for, of {index['problems']}")
    parts, which = np.unique(rows // index["rows_a_part"], return_inverse=True)
    tables = [_part(run.address, _PROBLEMS.format(part)) for part in parts]
    starts = np.cumsum([0, *(table.num_rows for table in tables)])
    places = starts[which] + rows % index["rows_a_part"]
    return pa.concat_tables([PROBLEM.empty_table(), *tables]).take(pa.array(places, pa.int64()))


def count_problems(config: Config, most: int) -> int:
    """Usable problems of the source, counted up to `most`. Raises StageError when it cannot be read on."""
    items = distinct(open_source(config.data).problems())
    usable = (item for item in items if isinstance(item, Problem))
    return sum(1 for _ in itertools.islice(usable, most))


def _items(config: Config) -> Iterator[Item]:
    items, skip = open_source(config.data).problems(), config.data.skip or 0
    if config.sampling.method == "rejection":
        items = _judged(items, config.data)
    if config.data.shuffle and config.data.source.partition(":")[0] not in ENDLESS:
        items = shuffled(items, config.data.seed, skip + config.sampling.max_problems)
    else:
        items = distinct(items)
    for item in items:
        if not skip:
            yield item
        elif isinstance(item, Problem):
            skip -= 1


def _judged(items: Iterable[Item], data: Data) -> Iterator[Item]:
    """The same items; a problem whose answer its grader could find in no solution is rejected.

    Raises UserError where there is no grader that a row names.
    """
    for item in items:
        if isinstance(item, Problem) and item.answer is not None:
            kind = grader_of(data.source, data.grader, [item.metadata])
            if isinstance(kind, str):
                find_grader(kind, "data.grader")
                wrong = unjudged(item.answer, kind, json.loads(item.metadata or "{}"))
            else:
                wrong = "its grader is no text"
            if wrong:
                reason = f"{wrong} (data.grader {kind})"
                item = Rejected(item.problem_id, item.file, item.row, reason)
        yield item


def _clear(run: Run) -> None:
    run.remove("problems")
    for name in run.shards("rejected"):
        if name.startswith(UNUSABLE):
            run.remove(name)
    _index.cache_clear()
    _part.cache_clear()


class _Parts:
    """Rows that are written `size` at a time; `name` has a place for the part's number."""

    def __init__(self, run: Run, name: str, schema: pa.Schema, size: int) -> None:
        self.run, self.name, self.schema, self.size = run, name, schema, size
        self.count = 0
        self._rows: list[Item] = []

    def add(self, row: Item) -> None:
        self._rows.append(row)
        self.count += 1
        if len(self._rows) == self.size:
            self.write()

    def write(self) -> None:
        """What is not yet written, if anything."""
        if not self._rows:
            return
        columns = zip(zip(*self._rows, strict=True), self.schema, strict=True)
        arrays = [pa.array(column, field.type) for column, field in columns]
        table = pa.Table.from_arrays(arrays, schema=self.schema)
        self.run.write_table(self.name.format((self.count - 1) // self.size), table)
        self._rows = []


@functools.lru_cache(maxsize=8)
def _index(address: str) -> dict[str, int]:
    return read_index(Run(address))


@functools.lru_cache(maxsize=_CACHED_PARTS)
def _part(address: str, name: str) -> pa.Table:
    return Run(address).read_tables([name], PROBLEM)
