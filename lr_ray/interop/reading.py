"""Samples files to supervision shards, one problem's lines in memory at a time.

Exercised by `lr-ray import` and `pytest tests/unit/test_interchange.py`.
"""

import contextlib
import gzip
import itertools
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import fsspec
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem

from lr_ray.config import Config
from lr_ray.errors import UserError, why_not_read
from lr_ray.interop.form import Expert, Line, decode, is_gzipped, parse
from lr_ray.interop.grouping import group, row
from lr_ray.problems.rejections import LINES, write_rejections
from lr_ray.problems.rows import UnusableRowError as BadLine
from lr_ray.run.schemas import REJECTED, SUPERVISION
from lr_ray.run.store import Run

Progress = Callable[[int], None]  # bytes of the files read

SHARD = "part-import-{:06}.parquet"
_SHARD_VALUES = 1 << 20  # tokens and label entries: about 8 MB before compression
_SHARD_REJECTED = 10_000
_PEEK = 100  # lines that show whether the tokenizer fits
_MOST_STEPS = 32_768  # of a trajectory, as of sampling.max_new_tokens; of one id's lines


def check_files(files: Sequence[str], expert: Expert) -> int:
    """Total bytes. Raises UserError for a file that cannot be read, comes twice or has another tokenizer."""
    total, paths = 0, set[str]()
    for file in files:
        try:
            fs, path = fsspec.core.url_to_fs(file)
            if path in paths:
                raise UserError(f"--samples {file}: is there twice; give each file once")
            paths.add(path)
            if isinstance(fs, LocalFileSystem) and fs.info(path)["type"] == "other":
                raise UserError(f"--samples {file}: a pipe or device; give a regular file")
            with _opened(file) as (stored, stream):
                total += stored.size or 0
                _check_tokenizer(file, itertools.islice(stream, _PEEK), expert)
        except UserError:
            raise
        except Exception as error:  # each file system has exceptions of its own
            raise UserError(f"--samples {file}: {why_not_read(error)}") from None
    return total


def _check_tokenizer(file: str, lines: Iterable[bytes], expert: Expert) -> None:
    compared = differing = 0
    first = ""
    for number, raw in enumerate(lines, 1):
        try:
            item = decode(raw)
            pairs = list(zip(item["token_ids"], item["tokens"], strict=True))
        except (KeyError, TypeError, ValueError):
            continue
        for token_id, there in pairs:
            if not isinstance(token_id, int):
                continue
            compared += 1
            if not 0 <= token_id < expert.rows:
                here = f"beyond the expert's {expert.rows}"
            elif expert.disagreement([token_id], [there]):
                here = f"{expert.text(token_id)!r} for the expert"
            else:
                continue
            differing += 1
            first = first or f"line {number}: token {token_id} is {there!r} there and {here}"
    if 2 * differing > compared:
        raise UserError(
            f"--samples {file}: made with another tokenizer: {first}; "
            f"{differing} of the first {compared} tokens differ; give the --config of its expert"
        )


def remove_leftovers(run: Run) -> None:
    """Clears what an interrupted import left. Raises UserError when others' supervision is there."""
    prefix = SHARD.split("{")[0]
    for folder in ("supervision", "rejected"):
        for name in run.shards(folder):
            if not name.startswith(f"{folder}/{prefix}"):
                raise UserError(
                    f"--run {run.location}: {name} was not imported; give another --run"
                )
    for folder in ("supervision", "rejected"):
        run.remove(folder)


def import_files(
    run: Run, config: Config, expert: Expert, files: Sequence[str], on_progress: Progress
) -> dict[str, Any]:
    """Writes supervision and rejected shards; returns the `sampling` part of the summary.

    Raises UserError for a file that cannot be read to its end, when too many lines are rejected, or none
    is left; of what was written, `rejected.jsonl` stays then.
    """
    started = time.monotonic()
    shards = _Shards(run)
    try:
        _read(files, config, expert, shards, on_progress)
    except UserError:
        remove_leftovers(run)
        raise
    counts = shards.counts
    counts["steps_scored"] = counts["steps_kept"]  # the others' KL is not in the files
    return {
        "imported": list(files),
        **{name: counts[name] for name in _COUNTS},
        "seconds": time.monotonic() - started,
    }


def _read(
    files: Sequence[str], config: Config, expert: Expert, shards: "_Shards", on_progress: Progress
) -> None:
    for file in files:
        for lines in _problems(file, expert, shards, on_progress):
            found = group(lines, expert)
            for line, reason in found.unusable:
                shards.reject(line.problem_id, file, line.number, reason)
            shards.add(lines[0].problem_id, [list(t) for t in found.trajectories])
            shards.counts["steps_retokenized"] += found.retokenized
    shards.flush()
    write_rejections(shards.run)
    counts, limit, given = shards.counts, config.sampling.max_rejected, ", ".join(files)
    if counts["rejected"] > limit * counts["lines"]:
        other = ", or give a larger --sampling.max_rejected" if counts["steps_kept"] else ""
        raise UserError(
            f"--samples {given}: {counts['rejected']} of {counts['lines']} lines were rejected, more than "
            f"sampling.max_rejected = {limit}; {shards.first_rejected}; "
            f"reasons: {shards.run.location}/{LINES}; mend them{other}"
        )
    if not counts["steps_kept"]:
        reasons = f"; {shards.first_rejected}" if counts["rejected"] else ""
        raise UserError(f"--samples {given}: no kept step{reasons}; must have a line for each")


# `problems` are distinct ids, `rejected` lines, `trajectories` rows; `trajectories_split` of them
# hold steps that nest in no other, `problems_repeated` came again after another problem's lines.
_COUNTS = (
    "problems", "rejected", "trajectories", "steps_scored", "steps_kept",
    "lines", "steps_from_text", "steps_retokenized", "prompts_rendered",
    "trajectories_split", "problems_repeated",
)  # fmt: skip


def _problems(
    file: str, expert: Expert, shards: "_Shards", on_progress: Progress
) -> Iterator[list[Line]]:
    """Runs of usable lines that are of one problem."""
    lines: list[Line] = []
    try:
        with _opened(file) as (stored, stream):
            told = 0
            for number, raw in enumerate(stream, 1):
                on_progress(stored.tell() - told)
                told = stored.tell()
                if not raw.strip():
                    continue
                shards.counts["lines"] += 1
                try:
                    line = parse(raw, file, number, expert)
                except BadLine as bad:
                    shards.reject(bad.problem_id, file, number, str(bad))
                    continue
                if lines and (_key(line) != _key(lines[0]) or len(lines) == _MOST_STEPS):
                    yield lines
                    lines = []
                lines.append(line)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"--samples {file}: {why_not_read(error)}; give a whole file") from error
    if lines:
        yield lines


def _key(line: Line) -> tuple[str, str]:
    return line.problem_id, line.prompt_id


@contextlib.contextmanager
def _opened(file: str) -> Iterator[tuple[Any, Iterable[bytes]]]:
    """The file as it is stored, and its lines."""
    gzipped = is_gzipped(file, "--samples")
    with fsspec.open(file, "rb") as stored:
        yield stored, gzip.GzipFile(fileobj=stored) if gzipped else stored


class _Shards:
    """Rows on their way into shards of bounded size; names follow from the files alone."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.counts: Counter[str] = Counter()
        self.first_rejected = ""
        self._rows: list[dict[str, Any]] = []
        self._rejected: list[dict[str, Any]] = []
        self._values = 0
        self._written: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()  # rows by the id before a number is put behind it
        self._ids: set[str] = set()

    def add(self, problem_id: str, trajectories: Sequence[Any]) -> None:
        if not trajectories:
            return
        again = self._seen[problem_id] > 0
        self.counts["problems"] += not again
        self.counts["problems_repeated"] += again
        self.counts["trajectories"] += len(trajectories)
        self.counts["trajectories_split"] += len(trajectories) - 1
        for trajectory in trajectories:
            self.counts["steps_kept"] += len(trajectory)
            self.counts["steps_from_text"] += sum(s.line.context is None for s in trajectory)
            self.counts["prompts_rendered"] += sum(s.rendered for s in trajectory)
            self._rows.append(row(self._unique(problem_id), trajectory))
            self._values += len(trajectory[0].context)
            self._values += sum(len(step.line.token_ids) for step in trajectory)
        if self._values >= _SHARD_VALUES:
            self.flush()

    def reject(self, problem_id: str | None, file: str, number: int, reason: str) -> None:
        self.counts["rejected"] += 1
        self.first_rejected = self.first_rejected or f"the first, {file}:{number}: {reason}"
        self._rejected.append(
            {"problem_id": problem_id, "file": file, "row": number, "reason": reason}
        )
        if len(self._rejected) == _SHARD_REJECTED:
            self.flush()

    def flush(self) -> None:
        """Writes what is there, a shard in each folder."""
        for folder, rows, schema in (
            ("supervision", self._rows, SUPERVISION),
            ("rejected", self._rejected, REJECTED),
        ):
            if rows:
                name = f"{folder}/{SHARD.format(self._written[folder])}"
                self.run.write_table(name, pa.Table.from_pylist(rows, schema=schema))
                self._written[folder] += 1
                rows.clear()
        self._values = 0

    def _unique(self, problem_id: str) -> str:
        """The id, with `#2`, `#3` … behind it for its further rows."""
        while True:
            self._seen[problem_id] += 1
            n = self._seen[problem_id]
            name = problem_id if n == 1 else f"{problem_id}#{n}"
            if name not in self._ids:
                self._ids.add(name)
                return name
