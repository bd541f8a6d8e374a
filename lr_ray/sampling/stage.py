"""The sampling stage: problems to supervision shards, over pools of expert and amateur engines.

Exercised by `python jobs/sample.py --config demo --run RUN` and `pytest tests/integration`.
"""

import hashlib
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.config import Config, Pool, Sampling
from lr_ray.errors import StageError
from lr_ray.models import context_length, vocabulary_rows
from lr_ray.problems import load_problems
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.engine import engine_env
from lr_ray.sampling.expert import ExpertSampler
from lr_ray.sampling.label import label
from lr_ray.sampling.rows import REJECTED, SUPERVISION
from lr_ray.store import Run

Progress = Callable[[int, int, int], None]  # problems, steps scored, steps kept of a batch


def sample(
    run: Run, config: Config, expert: str, amateur: str, on_progress: Progress
) -> dict[str, Any]:
    """Writes the shards that are missing; returns the `sampling` part of the summary.

    Raises StageError when an engine fails for good or too many problems are rejected.
    """
    import ray
    import ray.data

    started = time.monotonic()
    sampling = config.sampling
    problems = load_problems(config)
    done = finished_ids(run)
    todo = [p for p in problems if p["problem_id"] not in done]
    if todo:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        dataset = ray.data.from_arrow(_blocks(todo, sampling.batch_size))
        shards = (
            dataset.map_batches(
                ExpertSampler,
                fn_constructor_args=(expert, sampling, min(map(context_length, (expert, amateur)))),
                **_pool(sampling.expert),
            )
            .map_batches(
                AmateurScorer, fn_constructor_args=(amateur, sampling), **_pool(sampling.amateur)
            )
            .map_batches(
                write_shard,
                batch_size=None,
                batch_format="pyarrow",
                fn_args=(run, sampling, vocabulary_rows(expert)),
            )
        )
        try:
            for row in shards.iter_rows():
                on_progress(row["problems"], row["steps_scored"], row["steps_kept"])
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[-1]
            raise StageError(f"sampling failed: {reason}") from error
    summary = count(run)
    if summary["problems"] != len(problems):
        raise StageError(f"{summary['problems']} of {len(problems)} problems came back")
    if summary["rejected"] > sampling.max_rejected * len(problems):
        raise StageError(
            f"{summary['rejected']} of {len(problems)} problems were rejected, more than "
            f"sampling.max_rejected = {sampling.max_rejected}; reasons: {run.location}/rejected"
        )
    return summary | {"seconds": time.monotonic() - started}


def write_shard(
    batch: pa.Table, run: Run, sampling: Sampling, vocabulary: int
) -> dict[str, list[int]]:
    """Labels a batch and writes it; the shard is named by its problems, so a retry replaces it."""
    labelled = label(batch, sampling, vocabulary)
    good = labelled.filter(pc.is_null(labelled["error"])).select(SUPERVISION.names)
    bad = labelled.filter(pc.is_valid(labelled["error"]))
    ids = "\n".join(labelled["problem_id"].to_pylist())
    name = f"part-{hashlib.sha256(ids.encode()).hexdigest()[:16]}.parquet"
    if good.num_rows:
        run.write_table(f"supervision/{name}", good.cast(SUPERVISION))
    if bad.num_rows:
        rejected = pa.table([bad["problem_id"], bad["error"]], schema=REJECTED)
        run.write_table(f"rejected/{name}", rejected)
    return {
        "problems": [labelled.num_rows],
        "steps_scored": [_values(good["kl"])],
        "steps_kept": [_values(good["steps"])],
    }


def finished_ids(run: Run) -> set[str]:
    """Problems that a shard holds already."""
    good = run.read_tables(run.shards("supervision"), SUPERVISION)["problem_id"]
    bad = run.read_tables(run.shards("rejected"), REJECTED)["problem_id"]
    return set(good.to_pylist()) | set(bad.to_pylist())


def count(run: Run) -> dict[str, int]:
    """Problems, rejected, trajectories and steps, counted from the shards."""
    good = run.read_tables(run.shards("supervision"), SUPERVISION)
    rejected = run.read_tables(run.shards("rejected"), REJECTED).num_rows
    return {
        "problems": good.num_rows + rejected,
        "rejected": rejected,
        "trajectories": good.num_rows,
        "steps_scored": _values(good["kl"]),
        "steps_kept": _values(good["steps"]),
    }


def _values(column: pa.ChunkedArray) -> int:
    return int(pc.sum(pc.list_value_length(column)).as_py() or 0)


def _blocks(problems: list[dict[str, Any]], size: int) -> list[pa.Table]:
    rows = [{k: p[k] for k in ("problem_id", "problem")} for p in problems]
    return [pa.Table.from_pylist(rows[i : i + size]) for i in range(0, len(rows), size)]


def _pool(pool: Pool) -> dict[str, Any]:
    from ray.data import ActorPoolStrategy

    return {
        "compute": ActorPoolStrategy(min_size=pool.min_engines, max_size=pool.max_engines),
        "batch_size": None,  # a block is a batch
        "batch_format": "pyarrow",
        "num_cpus": pool.cpus,
        "num_gpus": pool.gpus or None,
        "runtime_env": {"env_vars": engine_env(pool.gpus)},
    }
