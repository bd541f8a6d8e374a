"""The sampling stage: problems to supervision shards, over pools of expert and amateur engines.

Exercised by `python jobs/sample.py --config demo --run RUN` and `pytest tests/integration`.
"""

import hashlib
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lr_ray.config import Config, Pool
from lr_ray.errors import StageError
from lr_ray.models import shared_context, vocabulary_rows
from lr_ray.problems import INDEX, stage_problems
from lr_ray.sampling.amateur import AmateurScorer
from lr_ray.sampling.engine import engine_env
from lr_ray.sampling.expert import ExpertSampler
from lr_ray.sampling.guard import Journal
from lr_ray.sampling.label import Facts, label
from lr_ray.store import Run

Progress = Callable[[int, Facts], None]  # problems, rejected ones among them; facts so far

FOLDERS = ("supervision", "rejected")


def sample(
    run: Run, config: Config, expert: str, amateur: str, on_progress: Progress
) -> dict[str, Any]:
    """Writes the shards that are missing; returns the `sampling` part of the summary.

    Raises StageError when an engine fails for good or too many problems are rejected.
    """
    started = time.monotonic()
    total = stage_problems(run, config)
    index = run.read_json(INDEX)
    unusable = index["rejected"]
    exchange = _exchange(config, expert)
    finished, facts = survey(run, total)
    facts += Facts(rejected=unusable)
    limit = config.sampling.max_rejected * (total + unusable)
    todo = np.flatnonzero(~finished)
    on_progress(total + unusable, facts)
    if len(todo) and facts.rejected <= limit:
        for shard in _shards(run, config, expert, amateur, exchange, todo):
            facts += shard
            on_progress(total + unusable, facts)
            if facts.rejected > limit:
                break
    if facts.rejected > limit:
        raise StageError(
            f"{facts.rejected} of {total + unusable} problems were rejected, more than "
            f"sampling.max_rejected = {config.sampling.max_rejected}; reasons: {run.location}/rejected"
            + (f"; the first: {index['first_rejected']}" if unusable else "")
        )
    finished, facts = survey(run, total)
    if not finished.all():
        raise StageError(f"{(~finished).sum()} of {total} problems did not come back; run it again")
    counts = asdict(facts + Facts(rejected=unusable))
    seconds = time.monotonic() - started
    return {"problems": total + unusable, **counts, "seconds": seconds, "exchange": exchange}


def survey(run: Run, total: int) -> tuple[NDArray[np.bool_], Facts]:
    """Which of the run's problems a shard holds, and the facts of all shards, from their footers.

    Raises StageError when two shards hold the same problem.
    """
    finished, facts = np.zeros(total, bool), Facts()
    names = [shard for folder in FOLDERS for shard in run.shards(folder)]
    with ThreadPoolExecutor(16) as threads:  # each is a request where the run is in an object store
        footers = list(threads.map(run.read_facts, names))
    for name, said in zip(names, footers, strict=True):
        if "problems" not in said:
            continue  # of rows that were no problem
        index = np.array(said["problems"], int)
        if finished[index].any():
            raise StageError(
                f"{run.location}/{name}: holds problems that another shard holds; remove this file"
            )
        finished[index] = True
        facts += Facts(**said["facts"])
    return finished, facts


def write_shard(
    batch: pa.Table, run: Run, config: Config, exchange: dict[str, Any]
) -> dict[str, list[Any]]:
    """Labels a batch and writes it; the shard is named by its problems, so a retry replaces it."""
    labelled = label(batch, config.sampling, exchange["top_k"])
    index = batch["index"].to_numpy()
    name = f"part-{index[0]:09d}-{hashlib.sha256(index.tobytes()).hexdigest()[:8]}.parquet"
    facts, none = asdict(labelled.facts), asdict(Facts())
    shards = (
        ("supervision", labelled.good, labelled.good_index, facts | {"rejected": 0}),
        ("rejected", labelled.bad, labelled.bad_index, none | {"rejected": facts["rejected"]}),
    )
    run.check_owner()
    for folder, table, problems, said in shards:
        try:
            if table.num_rows:
                footer = {"problems": problems, "facts": said, **exchange}
                run.write_table(f"{folder}/{name}", table, footer)
            else:
                run.remove(f"{folder}/{name}")  # of a lost attempt that ended otherwise
        except OSError as error:
            reason = error.strerror or error
            raise StageError(f"{run.location}/{folder}: cannot be written: {reason}") from None
    return {name: [value] for name, value in facts.items()}


def _shards(
    run: Run, config: Config, expert: str, amateur: str, exchange: dict[str, Any], todo: NDArray
) -> Iterator[Facts]:
    """Samples the problems of the run at `todo`, and yields each shard's facts when it is written."""
    import ray
    import ray.data

    sampling = config.sampling
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.max_consecutive_actor_init_deaths = 3
    journal = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Journal).remote()
    room = shared_context(expert, amateur)
    batches = [todo[i : i + sampling.batch_size] for i in range(0, len(todo), sampling.batch_size)]
    shards = (
        ray.data.from_arrow([pa.table({"index": batch}) for batch in batches])
        .map_batches(
            ExpertSampler,
            fn_constructor_args=(expert, sampling, room, run, journal),
            **_pool(sampling.expert),
        )
        .map_batches(
            AmateurScorer,
            fn_constructor_args=(amateur, sampling, room, journal),
            **_pool(sampling.amateur),
        )
        .map_batches(
            write_shard,
            batch_size=None,
            batch_format="pyarrow",
            fn_args=(run, config, exchange),
        )
    )
    try:
        for row in shards.iter_rows():
            yield Facts(**row)
    except ray.exceptions.RayError as error:
        raise StageError(f"sampling failed: {_reason(error)}") from error


def _exchange(config: Config, expert: str) -> dict[str, Any]:
    """How exact the KL of a row is: tokens exchanged a step, and data types."""
    rows, sampling = vocabulary_rows(expert), config.sampling
    return {
        "top_k": min(sampling.top_k, rows),
        "expert_vocabulary": rows,
        "expert_dtype": sampling.expert.dtype,
        "amateur_dtype": sampling.amateur.dtype,
        "head_dtype": "model",  # lm_head in each engine's own data type, its softmax in float32
    }


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


def _reason(error: Exception) -> str:
    """The line of a remote traceback that names the exception, without the class if it is ours."""
    text = str(error).strip()
    ours = re.findall(r"^lr_ray\.errors\.\w+: (.+)$", text, re.MULTILINE)
    named = ours or re.findall(r"^[\w.]+(?:Error|Exception)\b.*$", text, re.MULTILINE)
    return (named or text.splitlines()[-1:])[-1]
