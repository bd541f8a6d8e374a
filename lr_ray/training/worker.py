"""What each Ray Train worker runs: packed steps of a backend, checkpoints, then the export on rank 0."""

import errno
import itertools
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lr_ray.config import Place, Training
from lr_ray.errors import StageError
from lr_ray.models.files import vocabulary_rows
from lr_ray.plugins import backends
from lr_ray.run.paths import full_temporary, temporary
from lr_ray.run.store import Run
from lr_ray.runtime import memory, threads
from lr_ray.training import checkpoint
from lr_ray.training.batches import Ints, collate, label_entropy, pack, plan, share
from lr_ray.training.checkpoint import Progress
from lr_ray.training.data import Supervision
from lr_ray.training.engine import Backend

METRICS = "metrics.jsonl"


def train_loop(spec: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry point; returns the counts of the summary's `training` part.

    `spec` holds run, training, expert (model directory), name (how the config refers to it) and board
    (an actor, see `board.TrainingBoard`). What cannot get better by trying again is returned as
    `error`: raised, Ray Train would try again.
    """
    import ray

    board = spec["board"]
    failure = ray.get(board.failure.remote())
    if failure:  # of the attempt before
        return {"error": failure}
    try:
        return _train(spec)
    except Exception as error:
        reason = _final(error, spec["run"])
        if reason is None:
            raise
        # The other workers wait for this one: it has to die to free them.
        ray.get(board.fail.remote(reason))
        raise


def _final(error: Exception, run: Run) -> str | None:
    """One line for an error that another attempt would meet too, else None."""
    import torch

    if isinstance(error, StageError):
        return str(error)
    full = full_temporary() or f"{run.location}, or its machine's {tempfile.gettempdir()}"
    if isinstance(error, torch.OutOfMemoryError):
        return (
            "out of GPU memory; lower training.micro_batch_tokens, set "
            "training.gradient_checkpointing, or training.zero_stage 3 with more workers"
        )
    cause: BaseException | None = error
    while cause is not None:  # Ray Train wraps what its upload meets
        known = cause.errno if isinstance(cause, OSError) else None
        if known == errno.EACCES:
            reason = os.strerror(known)
            return f"{run.location}: cannot be written: {reason}; put that right and run again"
        # safetensors has a kind of error of its own, and no error says which of the two it was
        if known in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(cause):
            return f"{full}: no space left; make room and run again"
        cause = cause.__cause__ or cause.__context__
    return None


def _train(spec: dict[str, Any]) -> dict[str, Any]:
    import ray.train
    import torch

    run: Run = spec["run"]
    training: Training = spec["training"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    place: Place = spec["place"]
    if place.gpus == 0:
        torch.set_num_threads(threads.count(place))
    with temporary() as scratch:
        supervision = Supervision(run, vocabulary_rows(spec["expert"]), scratch)
        make = backends.get(training.backend, "training.backend")
        backend: Backend = make(spec["expert"], training)
        progress = _resume(backend, run, rank)
        started, resumed_at = time.monotonic(), progress.steps
        for step, pairs in _batches(supervision, training, progress.steps):
            begun = time.monotonic()
            packed = pack(supervision, pairs)
            mine = share(packed, rank, workers, training.micro_batch_tokens, not backend.packs)
            figures = backend.step(step, [collate(items) for items in mine], len(pairs))
            _check_finite(figures, step)
            row = {"step": step + 1, **figures, "label_entropy": label_entropy(packed)}
            row |= {"kept_steps": len(pairs), "tokens": sum(len(p.token_ids) for p in packed)}
            row |= {"seconds": time.monotonic() - begun, "workers": workers}
            row |= {"resumed_at": resumed_at}
            progress.rows.append(row)
            if rank == 0:
                spec["board"].post.remote(row)
            if (step + 1) % training.checkpoint_every == 0 or step + 1 == training.optimizer_steps:
                _checkpoint(backend, progress, rank, run)
        weights = backend.full_weights()
        if rank != 0:
            return {}
        run.check_owner()
        run.write_lines(METRICS, progress.rows)  # which an attempt killed at its end had not
        figures = _counts(supervision, training, progress)
        figures["merge_logit_gap"] = _export(spec, weights, scratch, backend.device)
    figures |= {"loop_seconds": time.monotonic() - started, "workers": workers}
    # Not the last row's: an attempt may only have had to export.
    return figures | {"resumed_at": resumed_at, "memory": memory.peak()}


def _batches(
    supervision: Supervision, training: Training, start: int
) -> Iterator[tuple[int, Ints]]:
    batches = plan(supervision.step_counts, training.batch_size, training.seed, training.batch_by)
    return itertools.islice(enumerate(batches), start, training.optimizer_steps)


def _check_finite(figures: dict[str, float], step: int) -> None:
    loss, norm = figures["loss"], figures["grad_norm"]
    if not abs(loss) + abs(norm) < float("inf"):  # NaN fails too
        raise StageError(
            f"loss is {loss}, its gradient's norm {norm}, at step {step + 1}; "
            "lower training.learning_rate"
        )


def _resume(backend: Backend, run: Run, rank: int) -> Progress:
    """What the newest whole checkpoint says, with its state in the backend; nothing without one."""
    from ray.train.collective import broadcast_from_rank_zero

    # Each worker could see another newest one.
    name = broadcast_from_rank_zero(checkpoint.newest(run) if rank == 0 else None)
    if name is None:
        return Progress()
    progress = checkpoint.load(run, name)
    assert progress.state is not None
    backend.load_state(progress.state, progress.steps)
    progress.state = None
    return progress


def _checkpoint(backend: Backend, progress: Progress, rank: int, run: Run) -> None:
    """All workers take part; rank 0 writes, and puts metrics.jsonl where the checkpoint is.

    Ray Train is not told of checkpoints: it removes by a list of its own, which a damaged one leads astray.
    """
    import ray.train

    run.check_owner()
    state = backend.state()
    if rank == 0:
        checkpoint.save(run, Progress(progress.rows, state))
        checkpoint.prune(run, progress.name)
        run.write_lines(METRICS, progress.rows)
    ray.train.report({"step": progress.steps})


def _counts(supervision: Supervision, training: Training, progress: Progress) -> dict[str, Any]:
    rows: Sequence[dict[str, Any]] = progress.rows
    first = np.cumsum(supervision.step_counts) - supervision.step_counts
    drawn = np.zeros(int(supervision.step_counts.sum()), bool)
    for _, pairs in _batches(supervision, training, 0):
        drawn[first[pairs[:, 0]] + pairs[:, 1]] = True
    return {
        "optimizer_steps": len(rows),
        "trained_steps": sum(row["kept_steps"] for row in rows),
        "distinct_steps": int(drawn.sum()),
        "tokens_forward": sum(row["tokens"] for row in rows),
        "step_seconds": sum(row["seconds"] for row in rows),
        "final_loss": rows[-1]["loss"],
    }


def _export(spec: dict[str, Any], weights: dict[str, Any], scratch: str, device: Any) -> float:
    from lr_ray.training.export import export

    run, target = spec["run"], Path(scratch, "export")
    gap = export(weights, spec["expert"], spec["name"], target, spec["training"], device)
    for folder in sorted(target.iterdir()):
        run.put_folder(str(folder), folder.name)
    return gap
