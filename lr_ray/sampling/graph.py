"""The stage's Ray Data graph: problems to shards, over pools of engines with small tasks in between.

A block is a batch is a shard. Exercised by `pytest tests/integration/test_sampling.py`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.config import Config, Place, Pool
from lr_ray.engines.guard import SamplingJournal
from lr_ray.engines.vllm import engine_env, most_sequences, on_cpu
from lr_ray.labelling.label import supervise
from lr_ray.labelling.scores import score
from lr_ray.labelling.shards import shard_name, write_shard
from lr_ray.models.models import engine_room
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import start_helper
from lr_ray.sampling import trajectories as kept_trajectories
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.expert import ExpertSampler, Solver
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
    assert work.amateur is not None
    config, room = work.config, _room(work)
    decoded = _trajectories(work, todo, room, journal)
    arguments = (work.amateur, config, room, journal)
    at_once = batches_at_once(config, todo, 1)
    scored = _on_engines(decoded, AmateurScorer, arguments, config, "amateur", at_once)
    return _by_tasks(scored, write_contrast, (work.run, config, work.exchange), config)


def _trajectories(work: Work, todo: NDArray, room: int, journal: Any) -> Any:
    """The dataset of `schemas.TRAJECTORY`: read, or decoded by the expert and maybe kept."""
    if work.trajectories:
        blocks = _blocks(kept_trajectories.plan(work.trajectories, todo, footer(work)))
        return _by_tasks(blocks, kept_trajectories.read, (work.trajectories, work.run), work.config)
    decoded = _solved(work, todo, room, journal, ExpertSampler)
    if not work.keep_trajectories:
        return decoded
    return _by_tasks(decoded, kept_trajectories.save, (work.run, footer(work)), work.config)


def decoding(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of how many trajectories of the expert were written, for the amateur to score later."""
    decoded = _solved(work, todo, _room(work), journal, ExpertSampler)
    return _by_tasks(decoded, kept_trajectories.save_alone, (work.run, footer(work)), work.config)


def _room(work: Work) -> int:
    return engine_room(work.expert, work.amateur, work.config.sampling)


def footer(work: Work) -> dict[str, Any]:
    """Of the shards of trajectories that the stage keeps or reads."""
    return kept_trajectories.made_with(work.config, work.exchange["expert"])


def rejection(work: Work, todo: NDArray, journal: Any) -> Any:
    """The dataset of shards, by grading the expert's sampled solutions."""
    room = engine_room(work.expert, None, work.config.sampling)
    drawn = _solved(work, todo, room, journal, SolutionSampler)
    arguments = (work.run, work.config, work.expert, work.exchange)
    return _by_tasks(drawn, write_right, arguments, work.config)


def _solved(work: Work, todo: NDArray, room: int, journal: Any, solver: type[Solver]) -> Any:
    """The dataset of what the expert's engines make of the problems at `todo`, a block a batch."""
    config, size = work.config, work.config.sampling.batch_size
    blocks = _blocks([pa.table({"index": todo[i : i + size]}) for i in range(0, len(todo), size)])
    arguments = (work.expert, config, room, work.run, journal)
    at_once = batches_at_once(config, todo, batches_to_fill(config, on_cpu()))
    return _on_engines(blocks, solver, arguments, config, "expert", at_once)


def _on_engines(
    dataset: Any, actor: type, arguments: tuple[Any, ...], config: Config, role: str, at_once: int
) -> Any:
    """The dataset through the pool of actors of a role, a whole block at a time.

    `map_batches` refuses whole blocks of unknown size where GPUs are asked for, lest they do not fit
    in memory; ours are batches of a stated size. What it calls after that check does not.
    """
    pool, place = getattr(config.sampling, role), getattr(config.resources, role)
    options = pool_options(pool, place, at_once)
    return dataset.map_batches_internal(actor, fn_constructor_args=arguments, **options)


def _blocks(tables: list[pa.Table]) -> Any:
    """`from_arrow` would start a task a table, and an autoscaler nodes for so many tasks."""
    from ray.data.read_api import from_blocks

    return from_blocks(tables)


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


def _by_tasks(
    dataset: Any, function: Callable[..., Any], arguments: tuple[Any, ...], config: Config
) -> Any:
    """The dataset through small tasks, of which Ray Data would set the engines' CPUs aside if unbounded."""
    from ray.data import TaskPoolStrategy

    most = TaskPoolStrategy(max(pool.most for pool, _ in _pools(config)))
    return dataset.map_batches(function, fn_args=arguments, compute=most, **_BLOCKS)


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


def batches_to_fill(config: Config, cpu: bool) -> int:
    """Batches that fill an engine of the expert, of vLLM's CPU build or of its GPU build."""
    return math.ceil(most_sequences(config, cpu) / config.sampling.sequences)


def batches_at_once(config: Config, todo: NDArray, full: int) -> int:
    """Batches that an actor works on at once: the `full` ones of its engine, and two that follow them.

    Not more than its share of all, or the engine that is ready first would take the others'.
    """
    engines = max(pool.most for pool, _ in _pools(config))
    share = math.ceil(math.ceil(len(todo) / config.sampling.batch_size) / engines)
    return max(1, min(full + 2, share))
