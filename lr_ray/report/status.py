"""Where a run is, from its directory alone: nothing is written, and no driver is kept out.

Exercised by `python jobs/status.py --run RUN` and `pytest tests/unit/test_status.py`.
"""

import fcntl
import json
import re
import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from lr_ray.config import STAGES, Config, Evaluation, resolve, value_at
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation import answers
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.experiments.checks import ASKED, summary_of
from lr_ray.experiments.grid import read_grid
from lr_ray.experiments.plan import make_plan
from lr_ray.labelling.shards import FOLDERS
from lr_ray.problems import INDEX
from lr_ray.report.page import PAGE
from lr_ray.run import lock
from lr_ray.run.store import Run, read_asked

Found = dict[str, Any]

PIPELINE, ENDPOINT, COMPARISON = "pipeline run", "evaluation of an endpoint", "comparison"
FINISHED, CURRENT, LATER, LEFT_OUT = "finished", "current", "later", "left out"  # of a stage
CELL_STATES = (FINISHED, "trained", "sampled", "begun", "to do")
_METRICS, _TABLE, _TABLE_PAGE = "metrics.jsonl", "comparison.json", "comparison.md"
_THREADS = 16  # each file is a request where the run is in an object store
_RECENT = 32  # files, or rows of metrics.jsonl, that a rate is made of
_TAIL = 1 << 15  # bytes; holds as many rows of metrics.jsonl
_TIMES = ("mtime", "LastModified", "last_modified", "created")  # by file system


class _Part(NamedTuple):
    """A Parquet file, when it was written (None: not told), what its footer says (None: unreadable)."""

    name: str
    written: float | None
    said: Any


class Status:
    """Looks at one run. A footer that one look has read is not read by the next."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._read: dict[str, tuple[Any, Any]] = {}  # name to what tells the file, and its footer

    def look(self) -> Found:
        """Everything that is told of the run, as JSON has it.

        `run`, `kind`, `asked` (run.json), `work` (see `at_work`) and `finished` (null: it is not). Of a
        comparison `grid`, its `cells` by state, `failed`, `sources` and, in `now`, where it is at work.
        Of another run `export`, `accuracy`, `accuracy_mean` and `stages`: each has its `state`, a
        finished one its part of summary.json, the current one `done`, `in_all`, `a_second` and
        `remaining_s`. Raises UserError when there is no run, or a file of it cannot be read.
        """
        run = self.run
        run.fs.invalidate_cache()  # drivers elsewhere have written since
        asked = _asked(run)
        found: Found = {"run": run.location, "asked": asked, "work": at_work(run)}
        if run.exists(ASKED):
            return found | {"kind": COMPARISON, **_comparison(run, asked["config"])}
        found["kind"] = ENDPOINT if "endpoint" in asked["config"] else PIPELINE
        summary = summary_of(run)
        alone = found["kind"] == ENDPOINT or asked.get("untrained")  # as some of a comparison are
        stages = self._stages(STAGES[-1:] if alone else STAGES, summary, found)
        over = all(part["state"] in (FINISHED, LEFT_OUT) for part in stages.values())
        return found | {
            "stages": stages,
            "export": [name for name in ("adapter", "model") if run.exists(name)],
            "accuracy": summary.get("accuracy", {}),
            "accuracy_mean": summary.get("accuracy_mean"),
            "finished": _finished(run, PAGE, summary) if over else None,
        }

    def _stages(self, names: Sequence[str], summary: Found, found: Found) -> Found:
        looks = dict(zip(STAGES, (self._sampling, self._training, self._evaluation), strict=True))
        stages: Found = {}
        for place, name in enumerate(names):
            if name in summary:
                stages[name] = {"state": FINISHED, **summary[name]}
            elif any(later in summary for later in names[place:]):
                stages[name] = {"state": LEFT_OUT}
            elif any(part["state"] == CURRENT for part in stages.values()):
                stages[name] = {"state": LATER}  # what is there of it was made of an older result
            else:
                part = looks[name](found["asked"]["config"], found["work"])
                stages[name] = {"state": CURRENT, **part}
        if "sampling" in names and "sampling" in summary:
            stages["sampling"]["shards"] = len(self.run.shards(FOLDERS[0]))
        return stages

    def _sampling(self, config: Found, work: Found) -> Found:
        index = self.run.read_json(INDEX) if self.run.exists(INDEX) else {}
        parts = [part for name in FOLDERS for part in self._parts(name, self.run.read_facts)]
        # Rows that were no problem have no `problems`, and imported ones no facts.
        shards = [part for part in parts if part.said and "problems" in part.said]
        names = ("trajectories", "rejected", "steps_kept", "steps_scored")
        counts = {name: sum(part.said["facts"][name] for part in shards) for name in names}
        counts["rejected"] += index.get("rejected", 0)
        problems = [len((part.said or {}).get("problems", ())) for part in parts]
        counts["shards"] = len({part.name.rsplit("/", 1)[1] for part in shards or parts})
        return counts | self._pace(parts, problems, index.get("problems"), work)

    def _training(self, config: Found, work: Found) -> Found:
        rows, steps = _last_rows(self.run), value_at(config, "training.optimizer_steps")
        last: Found = rows[-1] if rows else {"step": 0, "loss": None}
        rate = 1 / statistics.median(row["seconds"] for row in rows) if rows else None
        saved = [re.fullmatch(r"step-(\d+)", name) for name in _names(self.run, "checkpoints")]
        return {
            "done": last["step"],
            "in_all": steps,
            "loss": last["loss"],
            "checkpoint": max((int(match[1]) for match in saved if match), default=None),
            "a_second": rate,
            "remaining_s": _remaining(last["step"], steps, rate, work),
        }

    def _evaluation(self, config: Found, work: Found) -> Found:
        def rows(name: str) -> int:
            return int(pq.read_metadata(self.run.path(name), filesystem=self.run.fs).num_rows)

        parts = self._parts(answers.FOLDER, rows)
        return self._pace(parts, [part.said or 0 for part in parts], _asked_in_all(config), work)

    def _pace(
        self, parts: Sequence[_Part], counts: Sequence[int], in_all: int | None, work: Found
    ) -> Found:
        """How far, how fast over the files written last (null where their times do not tell)."""
        known = self.run.is_local and work["at_work"]  # when the driver started
        since = time.time() - work["seconds"] if known else 0.0
        timed = [(part.written or 0.0, n) for part, n in zip(parts, counts, strict=True) if n]
        recent = sorted(one for one in timed if one[0] > since)[-_RECENT:]
        seconds = recent[-1][0] - recent[0][0] if recent else 0.0
        rate = sum(n for _, n in recent[1:]) / seconds if seconds > 0 else None
        return {
            "done": sum(counts),
            "in_all": in_all,
            "a_second": rate,
            "remaining_s": _remaining(sum(counts), in_all, rate, work),
            "unreadable": [part.name for part in parts if part.said is None],
        }

    def _parts(self, folder: str, read: Callable[[str], Any]) -> list[_Part]:
        """The folder's whole Parquet files, by what `read` says of each."""
        try:
            listed = self.run.fs.ls(self.run.path(folder), detail=True)
        except FileNotFoundError:
            return []
        there = {f"{folder}/{info['name'].rsplit('/', 1)[1]}": info for info in listed}
        there = {name: info for name, info in there.items() if name.startswith(f"{folder}/part-")}

        def said(name: str) -> Any:
            stamp = (there[name]["size"], _written(there[name]))
            if self._read.get(name, (None, None))[0] != stamp:
                try:
                    self._read[name] = stamp, read(name)
                except (OSError, StageError, pa.ArrowException):  # cut short, or gone since
                    return None
            return self._read[name][1]

        with ThreadPoolExecutor(_THREADS) as threads:
            found = zip(there, threads.map(said, there), strict=True)
            return [_Part(name, _written(there[name]), value) for name, value in found]


def at_work(run: Run) -> Found:
    """`at_work`, and `host`, `pid` and `seconds` since the last driver's note, where there is one.

    A driver writes it at its start and, where it is `renewed`, again and again. `at_work` is null where the
    file system does not tell. Jobs that only read are not seen.
    """
    try:
        note = run.read_json(lock.NOTE)
    except UserError:  # there is none
        return {"at_work": False}
    seconds = max(0.0, time.time() - note["seen"])
    held = _held(run.path(".lock")) if run.is_local else seconds < lock.FRESH_S
    who = {"host": note["host"], "pid": note["pid"], "seconds": seconds}
    return {"at_work": held, **who, "renewed": not run.is_local}


def _held(path: str) -> bool | None:
    # Asked only beside a note: a lock that a driver holds is left as it is, and one that is taken here for
    # microseconds is a killed driver's, as another one that starts has no note yet.
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return False if isinstance(error, FileNotFoundError) else None
    return False


def _asked(run: Run) -> Found:
    if not run.exists("run.json"):
        work, reason = at_work(run), "it has no run.json"
        if work["at_work"]:
            reason += f" yet; process {work['pid']} on {work['host']} is at work"
        raise UserError(f"--run {run.location}: no run there: {reason}")
    return read_asked(run)


def _finished(run: Run, page: str, summary: Found) -> Found:
    there = f"{run.location}/{page}" if run.exists(page) else None
    return {"seconds": summary.get("seconds_total"), "page": there}


def _comparison(run: Run, config: Found) -> Found:
    """Its cells by state; where the grid is not to be had here, those that have a folder."""
    asked, reason = run.read_json(ASKED), None
    try:
        base: Config = resolve(config)
        plan = make_plan(base, read_grid(asked["grid"], base, asked["amateurs"]))
        cells, sources = [c.folder for c in plan.cells], [s.folder for s in plan.sources]
    except UserError as error:  # a file of another machine, or a config of another version
        reason = str(error)
        cells, sources = [f"variants/{name}" for name in _names(run, "variants")], []
    table = run.read_json(_TABLE) if run.exists(_TABLE) else {}
    folders = [*sources, *cells]
    with ThreadPoolExecutor(_THREADS) as threads:
        found = list(threads.map(lambda folder: _state(run.child(folder)), folders))
    states = dict(zip(folders, (state for state, _ in found), strict=True))
    todo = [cell for cell in cells if states[cell] != FINISHED]
    counts, failed = Counter(states[cell] for cell in cells), table.get("failed", {})
    return {
        "grid": asked["grid"],
        "cells": {state: counts[state] for state in CELL_STATES},
        "cells_in_all": None if reason else len(cells),
        "grid_unread": reason,
        "failed": {name: why for name, why in failed.items() if f"variants/{name}" in todo},
        "sources_sampled": sum(states[source] == "sampled" for source in sources),
        "sources": None if reason else len(sources),
        "now": [folder for folder, (_, busy) in zip(folders, found, strict=True) if busy],
        "finished": _finished(run, _TABLE_PAGE, table) if table and not todo else None,
    }


def _state(run: Run) -> tuple[str, bool]:
    """One of `CELL_STATES` of a run in a comparison, and whether somebody works on it."""
    summary = summary_of(run)
    if "accuracy" in summary:
        return FINISHED, False
    said = {"training": "trained", "sampling": "sampled"}
    begun = "begun" if run.exists("run.json") else "to do"
    state = next((state for part, state in said.items() if part in summary), begun)
    return state, bool(at_work(run)["at_work"])


def _asked_in_all(config: Found) -> int | None:
    """Answers of all models; None where a benchmark would have to be read to know."""
    if set(value_at(config, "evaluation.benchmarks")) != {"demo"}:
        return None
    models = len(config["models"]) if "endpoint" in config else 2
    evaluation = Evaluation.model_validate(config["evaluation"])
    return models * evaluation.samples * sum(len(task.rows) for task in load_tasks(evaluation))


def _last_rows(run: Run) -> list[Found]:
    """The last rows of metrics.jsonl, which is as of the last checkpoint."""
    text = run.fs.tail(run.path(_METRICS), _TAIL) if run.exists(_METRICS) else b""
    lines = text.splitlines()[len(text) == _TAIL :]  # the first may have lost its beginning
    return [json.loads(line) for line in lines[-_RECENT:]]


def _names(run: Run, folder: str) -> list[str]:
    try:
        listed = run.fs.ls(run.path(folder), detail=False)
    except FileNotFoundError:
        return []
    return sorted(str(path).rstrip("/").rsplit("/", 1)[1] for path in listed)


def _written(info: Found) -> float | None:
    told = next((info[name] for name in _TIMES if info.get(name) is not None), None)
    told = told.timestamp() if isinstance(told, datetime) else told
    return float(told) if isinstance(told, int | float) else None


def _remaining(done: int, in_all: int | None, rate: float | None, work: Found) -> float | None:
    """Seconds, where somebody is at work and the rest and the rate are known."""
    return (in_all - done) / rate if work["at_work"] and in_all is not None and rate else None
