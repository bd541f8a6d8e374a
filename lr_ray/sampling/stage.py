"""The sampling stage: problems to supervision shards, over pools of expert and amateur engines.

Exercised by `python jobs/sample.py --config demo --run RUN` and `pytest tests/integration`.
"""

import logging
import math
import re
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.cluster import start_helper
from lr_ray.config import Config, Place, Pool
from lr_ray.errors import StageError
from lr_ray.models import context_length, fingerprint, shared_context, vocabulary_rows
from lr_ray.problems import INDEX, stage_problems, write_rejections
from lr_ray.sampling import trajectories as kept_trajectories
from lr_ray.sampling.activity import Observer, OnActivity, watching
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.engine import engine_env
from lr_ray.sampling.expert import ExpertSampler, most_sequences, most_tokens, sequences
from lr_ray.sampling.guard import SamplingJournal
from lr_ray.sampling.label import Facts, supervise
from lr_ray.sampling.rejection import SolutionSampler, check_answers, write_right
from lr_ray.sampling.scores import score
from lr_ray.sampling.shards import (
    check_rejected,
    remove_leftovers,
    shard_name,
    survey,
    write_shard,
)
from lr_ray.store import Run

Progress = Callable[[int, Facts], None]  # problems, rejected ones among them; facts so far

_log = logging.getLogger(__name__)
_BLOCKS: dict[str, Any] = {"batch_size": None, "batch_format": "pyarrow"}  # a block is a batch


@dataclass(frozen=True)
class Work:
    """What the stage is to do, as `sample` is told."""

    run: Run
    config: Config
    expert: str
    amateur: str | None
    exchange: dict[str, Any]
    keep_trajectories: bool
    trajectories: Run | None


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
    total = stage_problems(run, config)
    index = run.read_json(INDEX)
    unusable = Facts(problems=index["rejected"], rejected=index["rejected"])
    everything = total + unusable.problems
    check_answers(run, config)
    exchange = _exchange(config, expert)
    finished, facts = survey(run, total)
    todo = np.flatnonzero(~finished)
    work = Work(run, config, expert, amateur, exchange, keep_trajectories, trajectories)

    def check(facts: Facts) -> None:
        on_progress(everything, facts)
        check_rejected(run, config.sampling, facts, everything, index["first_rejected"])

    check(facts + unusable)
    if len(todo):
        if _is_apart(work):
            work = _decode_first(work, total, todo, on_activity, on_decoded)
        with closing(_shards(work, todo, on_activity)) as shards:
            for name, shard in shards:
                facts += shard
                _log.info(
                    "shard %s: %d problems, %d trajectories, %d rejected, %d of %d steps kept",
                    *(name, shard.problems, shard.trajectories, shard.rejected),
                    *(shard.steps_kept, shard.steps_scored),
                )
                check(facts + unusable)
    finished, facts = survey(run, total)
    if not finished.all():
        raise StageError(f"{(~finished).sum()} of {total} problems did not come back; run it again")
    remove_leftovers(run)
    if _is_apart(work) and not keep_trajectories:
        run.remove(kept_trajectories.FOLDER)
    write_rejections(run)
    counts = asdict(facts + unusable)
    return {**counts, "seconds": time.monotonic() - started, "exchange": exchange}


def write_contrast(
    batch: pa.Table, run: Run, config: Config, exchange: dict[str, Any]
) -> dict[str, list[Any]]:
    """Labels a batch that both models scored, and writes its shard."""
    sampling, name = config.sampling, shard_name(batch["index"].to_numpy())
    scored = score(batch, sampling.plausibility, exchange["top_k"])
    labelled = supervise(scored.scores, sampling, scored.bad, scored.bad_index)
    return write_shard(run, name, labelled, exchange, scored.scores, sampling.plausibility)


def _shards(work: Work, todo: NDArray, on_activity: OnActivity) -> Generator[tuple[str, Facts]]:
    """Samples the problems of the run at `todo`; yields each shard's name and facts when it is written."""
    journal = _prepare(work)
    build = _contrast if work.config.sampling.method == "contrast" else _rejection
    observer = Observer(len(todo), most_tokens(work.config))
    rows = _rows(build(work, todo, journal), journal, observer, on_activity)
    with closing(rows):
        for row in rows:
            yield row.pop("shard"), Facts(**row)


def _prepare(work: Work) -> Any:
    """Settings of Ray Data for the stage's datasets, and its journal."""
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    context.target_max_block_size = None  # a batch stays whole, and its files have one name
    context.execution_options.resource_limits = _limits(work.config)
    # An actor takes no more batches than it works on: a pool grows when all of its actors are full.
    context.autoscaling_config.actor_pool_util_upscaling_threshold = 1.0
    return start_helper(SamplingJournal, work.run)


def _rows(dataset: Any, journal: Any, observer: Observer, on_activity: OnActivity) -> Any:
    """The dataset's rows as they come, while `on_activity` hears of what the engines do."""
    import ray

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
) -> Work:
    """Has the expert's trajectories of the problems at `todo` in the run, and says to read them there."""
    footer = kept_trajectories.made_with(work.config.sampling, work.exchange)
    there = kept_trajectories.decoded(work.run, footer, total)
    missing = todo[~there[todo]]
    done = total - len(missing)
    on_decoded(done, total)
    if len(missing):
        room = shared_context(work.expert, str(work.amateur))
        journal = _prepare(work)
        decoding = _solved(work, missing, room, journal).map_batches(
            kept_trajectories.save_alone, fn_args=(work.run, footer), **_tasks(work.config)
        )
        observer = Observer(len(missing), most_tokens(work.config))
        with closing(_rows(decoding, journal, observer, on_activity)) as rows:
            for row in rows:
                done += row["decoded"]
                on_decoded(done, total)
    return replace(work, trajectories=work.run)


def _contrast(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of shards, by the amateur's scores of the expert's greedy trajectories."""
    sampling = work.config.sampling
    assert work.amateur is not None
    room = shared_context(work.expert, work.amateur)
    scored = _on_engines(
        _trajectories(work, todo, room, journal),
        AmateurScorer,
        (work.amateur, work.config, room, journal),
        _pool(sampling.amateur, work.config.resources.amateur, _at_once(work.config, todo, 1)),
    )
    return scored.map_batches(
        write_contrast,
        fn_args=(work.run, work.config, work.exchange),
        **_tasks(work.config),
    )


def _trajectories(work: Work, todo: NDArray, room: int, journal: Any) -> Any:
    """The dataset of `rows.TRAJECTORY`: read, or decoded by the expert and maybe kept."""
    kept = work.keep_trajectories or work.trajectories
    footer = kept_trajectories.made_with(work.config.sampling, work.exchange) if kept else {}
    if work.trajectories:
        blocks = kept_trajectories.plan(work.trajectories, todo, footer)
        arguments = (work.trajectories, work.run)
        return _blocks(blocks).map_batches(
            kept_trajectories.read, fn_args=arguments, **_tasks(work.config)
        )
    solved = _solved(work, todo, room, journal)
    if work.keep_trajectories:
        solved = solved.map_batches(
            kept_trajectories.save, fn_args=(work.run, footer), **_tasks(work.config)
        )
    return solved


def _solved(work: Work, todo: NDArray, room: int, journal: Any) -> Any:
    """The dataset of `rows.TRAJECTORY` as the expert decodes them."""
    sampling = work.config.sampling
    return _on_engines(
        _batches(todo, sampling.batch_size),
        ExpertSampler,
        (work.expert, work.config, room, work.run, journal),
        _pool(sampling.expert, work.config.resources.expert, _at_once(work.config, todo)),
    )


def _rejection(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of shards, by grading the expert's sampled solutions."""
    sampling, room = work.config.sampling, context_length(work.expert)
    arguments = (work.run, work.config, work.expert, work.exchange)
    solved = _on_engines(
        _batches(todo, sampling.batch_size),
        SolutionSampler,
        (work.expert, work.config, room, work.run, journal),
        _pool(sampling.expert, work.config.resources.expert, _at_once(work.config, todo)),
    )
    return solved.map_batches(write_right, fn_args=arguments, **_tasks(work.config))


def _on_engines(
    dataset: Any, engine: type, arguments: tuple[Any, ...], pool: dict[str, Any]
) -> Any:
    """The dataset through a pool of actors, a whole block at a time.

    `map_batches` refuses whole blocks of unknown size where GPUs are asked for, lest they do not fit
    in memory; ours are batches of a stated size. What it calls after that check does not.
    """
    return dataset.map_batches_internal(engine, fn_constructor_args=arguments, **pool)


def _batches(todo: NDArray, size: int) -> Any:
    """The dataset of problem indices, a block a batch."""
    starts = range(0, len(todo), size)
    return _blocks([pa.table({"index": todo[i : i + size]}) for i in starts])


def _blocks(tables: Sequence[pa.Table]) -> Any:
    """`from_arrow` would start a task a table, and an autoscaler nodes for so many tasks."""
    from ray.data.read_api import from_blocks

    return from_blocks(list(tables))


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


def _pools(config: Config) -> list[tuple[Pool, Place]]:
    sampling, resources = config.sampling, config.resources
    both = [(sampling.expert, resources.expert), (sampling.amateur, resources.amateur)]
    return both if sampling.method == "contrast" else both[:1]


def _limits(config: Config) -> Any:
    """All engines, and a CPU each for the tasks between them: Ray Data would ask for nodes for more."""
    from ray.data import ExecutionResources

    pools = _pools(config)
    return ExecutionResources.for_limits(
        cpu=sum(pool.most * (place.cpus + 1) for pool, place in pools),
        gpu=sum(pool.most * place.gpus for pool, place in pools),
    )


def _tasks(config: Config) -> dict[str, Any]:
    """Options of small tasks. Without a bound of theirs, Ray Data would set the engines' CPUs aside."""
    from ray.data import TaskPoolStrategy

    most = max(pool.most for pool, _ in _pools(config))
    return {"compute": TaskPoolStrategy(most), **_BLOCKS}


def _pool(pool: Pool, place: Place, at_once: int) -> dict[str, Any]:
    """Options of actors that each work on `at_once` batches, in threads."""
    from ray.data import ActorPoolStrategy

    return {
        "compute": ActorPoolStrategy(
            min_size=pool.min_engines,
            max_size=pool.most,
            max_tasks_in_flight_per_actor=at_once,
            max_concurrent_calls_per_actor=at_once,
            enable_true_multi_threading=True,
        ),
        **_BLOCKS,
        **place.options(),
        "runtime_env": {"env_vars": engine_env()},
    }


def _at_once(config: Config, todo: NDArray, full: int | None = None) -> int:
    """Batches that an actor works on at once: those that fill its engine, and two that follow them.

    Not more than its share of all, or the engine that is ready first would take the others'.
    """
    full = full or math.ceil(most_sequences(config) / sequences(config))
    engines = max(pool.most for pool, _ in _pools(config))
    share = math.ceil(math.ceil(len(todo) / config.sampling.batch_size) / engines)
    return max(1, min(full + 2, share))


def _reason(error: Exception) -> str:
    """The line of a remote traceback that names the exception, without the class if it is ours."""
    text = str(error).strip()
    ours = re.findall(r"^lr_ray\.errors\.\w+: (.+)$", text, re.MULTILINE)
    named = ours or re.findall(r"^[\w.]+(?:Error|Exception)\b.*$", text, re.MULTILINE)
    return (named or text.splitlines()[-1:])[-1]
