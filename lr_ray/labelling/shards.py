"""The sampling stage's shards: which problems are done, and what a batch leaves in the run.

A batch's files have one name, made of its problems, in each folder: `scores/`, then `supervision/` and
`rejected/`. The footers of the last two say which problems are done.
Exercised by `pytest tests/unit/test_stage.py`.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.errors import StageError
from lr_ray.labelling.label import Facts, Labelled
from lr_ray.run.store import Run, shaped

FOLDERS = ("supervision", "rejected")
BESIDE = ("trajectories", "scores")  # of no account without one of the above


def shard_name(index: NDArray[np.int64]) -> str:
    """The same for the same problems, so that a retry replaces what is there."""
    return f"part-{index[0]:09d}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}.parquet"


def survey(run: Run, total: int) -> tuple[NDArray[np.bool_], Facts]:
    """Which of the run's problems a shard holds, and the facts of all shards, from their footers.

    Raises StageError when two shards hold the same problem, and UserError for a footer of another form.
    """
    finished, facts = np.zeros(total, bool), Facts()
    for name, said in checked_footers(run, *FOLDERS).items():
        if "problems" not in said:
            continue  # of rows that were no problem
        with shaped(run.location, name):
            index = np.array(said["problems"], int)
            facts += Facts(**said["facts"])
        if index.max(initial=0) >= total:
            raise StageError(
                f"{run.location}/{name}: is of problem {index.max()}, and the run has {total}; "
                "remove this file"
            )
        finished[index] = True
    return finished, facts


def checked_footers(run: Run, *folders: str) -> dict[str, dict[str, Any]]:
    """The same as `footers`. Raises StageError when two shards hold the same problem."""
    found, holder = footers(run, *folders), dict[int, str]()
    for name, said in found.items():
        for problem in said.get("problems", ()):
            other = holder.setdefault(problem, name)
            if other != name:
                raise StageError(
                    f"{run.location}/{name}: holds problems that another shard holds, "
                    f"{other}; remove the one that is a copy"
                )
    return found


def footers(run: Run, *folders: str) -> dict[str, dict[str, Any]]:
    """What each shard of the folders says of itself. Raises UserError for a footer of another form."""
    names = [shard for folder in folders for shard in run.shards(folder)]
    with ThreadPoolExecutor(16) as threads:  # each is a request where the run is in an object store
        return dict(zip(names, threads.map(partial(_footer, run), names), strict=True))


def _footer(run: Run, name: str) -> dict[str, Any]:
    said = run.read_facts(name)
    with shaped(run.location, name):
        if name.startswith("trajectories/") and not {"problems", "plausibility"} <= said.keys():
            raise KeyError("no problems and plausibility in its footer")
        if not all(type(problem) is int and problem >= 0 for problem in said.get("problems", [])):
            raise ValueError("problems must be whole numbers from 0")
        float(said.get("plausibility", 1))
    return said


def remove_leftovers(run: Run) -> None:
    """Removes trajectories and scores of batches that were interrupted and done in other batches."""
    done = {name.rsplit("/", 1)[1] for folder in FOLDERS for name in run.shards(folder)}
    for folder in BESIDE:
        for name in run.shards(folder):
            if name.rsplit("/", 1)[1] not in done:
                run.remove(name)


def write_shard(
    run: Run,
    name: str,
    labelled: Labelled,
    exchange: dict[str, Any],
    scores: pa.Table | None = None,
    plausibility: float | None = None,
) -> dict[str, list[Any]]:
    """Writes a batch's files, and returns its name and facts in lists of one.

    The scores, with the plausibility of their sets, come before the supervision made of them; None leaves
    those that are there.
    """
    facts = labelled.facts
    good = replace(facts, rejected=0, problems=len(labelled.good_index))
    bad = Facts(rejected=facts.rejected, problems=len(labelled.bad_index))
    run.check_owner()
    folders = FOLDERS if scores is None else (*FOLDERS, "scores")
    for folder in folders:  # of a lost attempt, which may have ended otherwise
        with _naming(run, folder):
            run.remove(f"{folder}/{name}")
    if scores is not None and scores.num_rows:
        put(run, "scores", name, scores, {"plausibility": plausibility, **exchange})
    for folder, table, problems, said in (
        ("supervision", labelled.good, labelled.good_index, good),
        ("rejected", labelled.bad, labelled.bad_index, bad),
    ):
        if problems:
            footer = {"problems": problems, "facts": asdict(said), **exchange}
            put(run, folder, name, table, footer)
    return {"shard": [name]} | {fact: [value] for fact, value in asdict(facts).items()}


def put(run: Run, folder: str, name: str, table: pa.Table, footer: dict[str, Any]) -> None:
    """Writes one file. Raises StageError naming the folder when it cannot be."""
    with _naming(run, folder):
        run.write_table(f"{folder}/{name}", table, footer)


@contextlib.contextmanager
def _naming(run: Run, folder: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StageError(f"{run.location}/{folder}: cannot be written: {reason}") from None
