"""The stage's Ray Data graph: problems to shards, over pools of engines with small tasks in between.

A block is a batch is a shard. Exercised by `pytest tests/integration/test_sampling.py`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.config import Config, Place, Pool
from lr_ray.engines.guard import SamplingJournal
from lr_ray.engines.vllm import engine_env, most_sequences, on_cpu, sequences
from lr_ray.labelling.label import supervise
from lr_ray.labelling.scores import score
from lr_ray.labelling.shards import shard_name, write_shard
from lr_ray.models.models import context_length, shared_context
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import start_helper
from lr_ray.sampling import trajectories as kept_trajectories
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.expert import ExpertSampler
from lr_ray.sampling.rejection import SolutionSampler, write_right

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


def write_contrast(
    batch: pa.Table, run: Run, config: Config, exchange: dict[str, Any]
) -> dict[str, list[Any]]:
    """Labels a batch that both models scored, and writes its shard."""
    sampling, name = config.sampling, shard_name(batch["index"].to_numpy())
    scored = score(batch, sampling.plausibility, exchange["top_k"])
    labelled = supervise(scored.scores, sampling, scored.bad, scored.bad_index)
    return write_shard(run, name, labelled, exchange, scored.scores, sampling.plausibility)


def prepare(work: Work) -> Any:
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


def contrast(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of shards, by the amateur's scores of the expert's greedy trajectories."""
    sampling = work.config.sampling
    assert work.amateur is not None
    room = shared_context(work.expert, work.amateur)
    scored = _on_engines(
        _trajectories(work, todo, room, journal),
        AmateurScorer,
        (work.amateur, work.config, room, journal),
        pool_options(
            sampling.amateur, work.config.resources.amateur, batches_at_once(work.config, todo, 1)
        ),
    )
    return scored.map_batches(
        write_contrast,
        fn_args=(work.run, work.config, work.exchange),
        **task_options(work.config),
    )


def _trajectories(work: Work, todo: NDArray, room: int, journal: Any) -> Any:
    """The dataset of `schemas.TRAJECTORY`: read, or decoded by the expert and maybe kept."""
    kept = work.keep_trajectories or work.trajectories
    footer = kept_trajectories.made_with(work.config, work.exchange["expert"]) if kept else {}
    if work.trajectories:
        blocks = kept_trajectories.plan(work.trajectories, todo, footer)
        arguments = (work.trajectories, work.run)
        return _blocks(blocks).map_batches(
            kept_trajectories.read, fn_args=arguments, **task_options(work.config)
        )
    decoded = solved(work, todo, room, journal)
    if work.keep_trajectories:
        decoded = decoded.map_batches(
            kept_trajectories.save, fn_args=(work.run, footer), **task_options(work.config)
        )
    return decoded


def solved(work: Work, todo: NDArray, room: int, journal: Any) -> Any:
    """The dataset of `schemas.TRAJECTORY` as the expert decodes them."""
    sampling = work.config.sampling
    return _on_engines(
        _batches(todo, sampling.batch_size),
        ExpertSampler,
        (work.expert, work.config, room, work.run, journal),
        pool_options(
            sampling.expert, work.config.resources.expert, _expert_batches(work.config, todo)
        ),
    )


def rejection(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of shards, by grading the expert's sampled solutions."""
    sampling, room = work.config.sampling, context_length(work.expert)
    arguments = (work.run, work.config, work.expert, work.exchange)
    drawn = _on_engines(
        _batches(todo, sampling.batch_size),
        SolutionSampler,
        (work.expert, work.config, room, work.run, journal),
        pool_options(
            sampling.expert, work.config.resources.expert, _expert_batches(work.config, todo)
        ),
    )
    return drawn.map_batches(write_right, fn_args=arguments, **task_options(work.config))


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


def task_options(config: Config) -> dict[str, Any]:
    """Options of small tasks. Without a bound of theirs, Ray Data would set the engines' CPUs aside."""
    from ray.data import TaskPoolStrategy

    most = max(pool.most for pool, _ in _pools(config))
    return {"compute": TaskPoolStrategy(most), **_BLOCKS}


def pool_options(pool: Pool, place: Place, at_once: int) -> dict[str, Any]:
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
        "runtime_env": {"env_vars": engine_env(place)},
    }


def _expert_batches(config: Config, todo: NDArray) -> int:
    return batches_at_once(config, todo, batches_to_fill(config, on_cpu()))


def batches_to_fill(config: Config, cpu: bool) -> int:
    """Batches that fill an engine of the expert, of vLLM's CPU build or of its GPU build."""
    return math.ceil(most_sequences(config, cpu) / sequences(config))


def batches_at_once(config: Config, todo: NDArray, full: int) -> int:
    """Batches that an actor works on at once: the `full` ones of its engine, and two that follow them.

    Not more than its share of all, or the engine that is ready first would take the others'.
    """
    engines = max(pool.most for pool, _ in _pools(config))
    share = math.ceil(math.ceil(len(todo) / config.sampling.batch_size) / engines)
    return max(1, min(full + 2, share))
