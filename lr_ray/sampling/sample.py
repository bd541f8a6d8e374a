"""The sampling stage: problems to supervision shards, over pools of expert and amateur engines.

Exercised by `lr-ray sample --config demo --run RUN` and `pytest tests/integration`.
"""

import logging
import re
import time
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.config import Config, Sampling
from lr_ray.errors import StageError
from lr_ray.labelling.label import Facts
from lr_ray.labelling.relabel import exchange_of, label_scores
from lr_ray.labelling.shards import remove_leftovers, survey
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import fingerprint
from lr_ray.problems import INDEX, read_index, stage_problems, write_rejections
from lr_ray.problems.rejections import LINES
from lr_ray.run.store import Run
from lr_ray.sampling import graph
from lr_ray.sampling import trajectories as kept_trajectories
from lr_ray.sampling.activity import Observer, OnActivity, Seen, watching
from lr_ray.sampling.graph import Work
from lr_ray.sampling.rejection import check_answers

# Gets problems, rejected ones among them; facts so far; the shard that was written last.
Progress = Callable[[int, Facts, str | None], None]

_log = logging.getLogger(__name__)


def sample(
    run: Run,
    config: Config,
    expert: str,
    amateur: str | None,
    on_progress: Progress,
    *,
    keep_trajectories: bool = False,
    trajectories: Run | None = None,
    on_activity: OnActivity = lambda note, seconds_left: None,
    on_decoded: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Writes the shards that are missing, and returns the `sampling` part of the summary.

    `on_progress` is called with each shard, `on_activity` every second, from another thread.

    With `resources.sampling: apart` the expert decodes all problems before the amateur scores them;
    `on_decoded` gets (problems decoded, problems). The rows are the same. `keep_trajectories` writes the
    expert's into `trajectories/`, each with its top-K log-probabilities; `trajectories` is a finished run
    that has kept its own: they are scored, and no expert starts. Raises StageError when an engine fails
    for good or too many problems are rejected, UserError when `trajectories` does not fit the config.
    Method rejection needs no amateur.
    """
    started = time.monotonic()
    total, unusable = stage_problems(run, config), _unusable(run)
    check_answers(run, config)
    exchange = _exchange(config, expert)
    label_scores(run, config.sampling)
    finished, facts = survey(run, total)
    todo = np.flatnonzero(~finished)
    work = Work(run, config, expert, amateur, exchange, keep_trajectories, trajectories)
    seen = Seen()

    def check(facts: Facts, shard: str | None = None) -> None:
        on_progress(total + unusable.problems, facts, shard)
        _check_rejected(run, config.sampling, facts)

    facts += unusable
    check(facts)
    made = len(todo) if trajectories is None else 0  # of problems, by both models
    if len(todo):
        if _is_apart(work):
            work, made = _decode_first(work, total, todo, on_activity, on_decoded, seen)
        build = graph.contrast if config.sampling.method == "contrast" else graph.rejection
        with closing(_rows(work, todo, build, on_activity, seen)) as rows:
            for row in rows:
                shard = row["shard"]
                facts += _logged(row)
                check(facts, shard)
    if (part := finish(run, config, exchange)) is None:
        missing = total - int(survey(run, total)[0].sum())
        raise StageError(f"{missing} of {total} problems did not come back; run it again")
    if _is_apart(work) and not keep_trajectories:
        run.remove(kept_trajectories.FOLDER)
    timed = part["problems"] - (total - made) if made else 0
    spent = {"seconds": time.monotonic() - started, "starting_seconds": seen.starting_s}
    return part | spent | {"problems_timed": timed, "engines": seen.engines}


def _logged(row: dict[str, Any]) -> Facts:
    """A shard's facts, which the driver's log has too."""
    name, shard = row.pop("shard"), Facts(**row)
    _log.info(
        "shard %s: %d problems, %d trajectories, %d rejected, %d of %d steps kept",
        *(name, shard.problems, shard.trajectories, shard.rejected),
        *(shard.steps_kept, shard.steps_scored),
    )
    return shard


def finish(
    run: Run, config: Config, exchange: dict[str, Any] | None = None
) -> dict[str, Any] | None:
    """The `sampling` part of the summary of a run whose problems are all sampled, else None.

    Scores that have no supervision are labelled: another labelling of a run needs no engine. `exchange`
    is what its shards say where it is None. `problems_timed` are those that were decoded and scored in
    its `seconds`: none here. Raises StageError when too many problems are rejected.
    """
    started = time.monotonic()
    if not run.exists(INDEX):
        return None
    label_scores(run, config.sampling)
    finished, facts = survey(run, read_index(run)["problems"])
    if not finished.all():
        return None
    facts += _unusable(run)
    _check_rejected(run, config.sampling, facts)
    remove_leftovers(run)
    write_rejections(run)
    exchange = exchange or exchange_of(run)
    spent = {"seconds": time.monotonic() - started, "problems_timed": 0}
    return {**asdict(facts), **spent, "exchange": exchange}


def _unusable(run: Run) -> Facts:
    """The rows of the source that are no problem."""
    rejected = read_index(run)["rejected"]
    return Facts(problems=rejected, rejected=rejected)


def _check_rejected(run: Run, sampling: Sampling, facts: Facts) -> None:
    """Raises StageError when more of the problems are rejected than the config allows."""
    index = read_index(run)
    total, first = index["problems"] + index["rejected"], index.get("first_rejected")
    if facts.rejected > sampling.max_rejected * total:
        write_rejections(run)
        raise StageError(
            f"{facts.rejected} of {total} problems were rejected, more than "
            f"sampling.max_rejected = {sampling.max_rejected}; mend them, or give a larger "
            f"--sampling.max_rejected; reasons: {run.location}/{LINES}"
            + (f"; the first: {first}" if first else "")
        )


def _rows(
    work: Work,
    todo: NDArray,
    build: Callable[[Work, NDArray, Any], Any],
    on_activity: OnActivity,
    seen: Seen,
) -> Generator[dict[str, Any]]:
    """Rows, as they come, of the dataset of the problems at `todo`.

    `on_activity` hears of the engines, and `seen` gets what is seen of them.
    """
    import ray

    journal = graph.prepare(work)
    dataset = build(work, todo, journal)
    asked = work.config.sampling
    observer = Observer(len(todo), asked.longest * asked.samples, seen=seen)
    try:
        with watching(journal, observer, on_activity):
            yield from dataset.iter_rows()
    except ray.exceptions.RayError as error:
        raise StageError(f"sampling failed: {_reason(error)}") from error


def _is_apart(work: Work) -> bool:
    """Whether the two models hold their GPUs one after the other."""
    config = work.config
    apart = config.resources.sampling == "apart" and config.sampling.method == "contrast"
    return apart and work.trajectories in (None, work.run)


def _decode_first(
    work: Work,
    total: int,
    todo: NDArray,
    on_activity: OnActivity,
    on_decoded: Callable[[int, int], None],
    seen: Seen,
) -> tuple[Work, int]:
    """Has the expert's trajectories of the problems at `todo` in the run, and says to read them there.

    The number is of those that were not there before.
    """
    there = kept_trajectories.decoded(work.run, graph.footer(work), total)
    missing = todo[~there[todo]]
    done = total - len(missing)
    on_decoded(done, total)
    if len(missing):
        with closing(_rows(work, missing, graph.decoding, on_activity, seen)) as rows:
            for row in rows:
                done += row["decoded"]
                on_decoded(done, total)
    return replace(work, trajectories=work.run), len(missing)


def _exchange(config: Config, expert: str) -> dict[str, Any]:
    """Whose rows they are, and how exact their KL: tokens exchanged a step, and data types."""
    rows, sampling = vocabulary_rows(expert), config.sampling
    whose = {"expert": fingerprint(expert), "expert_dtype": sampling.expert.dtype}
    if sampling.method == "rejection":
        return {"method": "rejection", **whose}
    return {
        **whose,
        "top_k": min(sampling.top_k, rows),
        "expert_vocabulary": rows,
        "amateur_dtype": sampling.amateur.dtype,
        "head_dtype": "model",  # lm_head in each engine's own data type, its softmax in float32
    }


def _reason(error: Exception) -> str:
    """The line of a remote traceback that names the exception, without the class if it is ours."""
    text = str(error).strip()
    ours = re.findall(r"^lr_ray\.errors\.\w+: (.+)$", text, re.MULTILINE)
    named = ours or re.findall(r"^[\w.]+(?:Error|Exception)\b.*$", text, re.MULTILINE)
    return (named or text.splitlines()[-1:])[-1]
