"""The training stage: supervision shards to adapter and merged model, through Ray Train.

Exercised by `lr-ray train --run RUN` and `pytest tests/integration -k training`.
"""

import os
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from pyarrow.fs import FSSpecHandler, PyFileSystem

from lr_ray.config import Config, Place, Sampling, Training, digest_of
from lr_ray.errors import StageError, counted
from lr_ray.labelling.shards import checked_footers
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import fingerprint
from lr_ray.run.asked import fingerprints_of
from lr_ray.run.paths import temporary
from lr_ray.run.stages import digests
from lr_ray.run.store import Run, read_asked, read_summary
from lr_ray.runtime import interrupts, threads
from lr_ray.runtime.cluster import placement_groups, remove_groups, start_helper
from lr_ray.training import checkpoint
from lr_ray.training.data import Supervision
from lr_ray.training.schedule import settled
from lr_ray.training.trackers import Trackers

Progress = Callable[[dict[str, Any]], None]  # a row of metrics.jsonl

_MOST_FAILURES = 10  # preempted nodes among them; what cannot get better ends at once
_POLL_S = 0.5
# Bytes a checkpoint needs of each trained weight: itself and two moments, in float32.
_BYTES_A_WEIGHT = 12

_QUIET = {"TOKENIZERS_PARALLELISM": "false", "RAY_TRAIN_ENABLE_STATE_TRACKING": "0"}


def train(
    run: Run,
    config: Config,
    expert: str,
    on_progress: Progress,
    checked: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Fine-tunes the expert on the run's supervision; returns the `training` part of the summary.

    Goes on after the run's last checkpoint, when it is of the same supervision. `checked`: what
    `check_supervision` returned, if it has been called. Raises StageError when there is nothing to train
    on or no room for checkpoints, or when training fails for good.
    """
    import ray
    from ray.train.v2.api.exceptions import TrainingFailedError

    from lr_ray.training.board import TrainingBoard

    started = time.monotonic()
    counts = checked or check_supervision(run, expert, config.sampling)
    config = config.model_copy(update={"training": settled(config.training, *counts)})
    check_room(run, expert, config.training)
    _own_checkpoints(run, config, expert)
    checkpoint.forget_register(run)
    # How often Ray Train looks at its workers: what they report between two looks is lost with them.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    # Metrics lost with its node are in metrics.jsonl all the same.
    board, groups = start_helper(TrainingBoard, run), placement_groups()
    trainer = _trainer(run, config, expert, board)
    try:
        with Trackers(run, config) as trackers:

            def on_row(row: dict[str, Any]) -> None:
                trackers.log(row)
                on_progress(row)

            figures = _fit(trainer, board, on_row)
            if "error" in figures:
                raise StageError(f"training failed: {figures['error']}")
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise StageError(f"training failed: {_reason(error)}") from error
    finally:
        ray.kill(board)
        # Ray Train's own removal is lost when its controller and the cleaner are killed, for memory say.
        remove_groups(placement_groups() - groups)
    return figures | {"seconds": time.monotonic() - started}


def _trainer(run: Run, config: Config, expert: str, board: Any) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from lr_ray.training.worker import train_loop

    training, place = config.training, config.resources.trainer
    on_gpu = place.gpus > 0
    most, least = training.workers, training.min_workers
    return TorchTrainer(
        train_loop,
        train_loop_config={
            "run": run,
            "training": training,
            "place": place,
            "expert": expert,
            "name": config.models.expert,
            "board": board,
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=most if least in (None, most) else (least, most),
            use_gpu=on_gpu,
            resources_per_worker=place.bundle(),
        ),
        run_config=RunConfig(
            name=checkpoint.FOLDER,
            storage_path=run.root,
            storage_filesystem=None if run.is_local else PyFileSystem(FSSpecHandler(run.fs)),
            failure_config=FailureConfig(max_failures=_MOST_FAILURES),
            worker_runtime_env={"env_vars": _QUIET | ({} if on_gpu else cpu_env(place))},
        ),
    )


def cpu_env(place: Place) -> dict[str, str]:
    """Environment of a worker without a GPU."""
    return {"DS_ACCELERATOR": "cpu"} | threads.environment(place)


def check_supervision(run: Run, expert: str, sampling: Sampling) -> tuple[int, int]:
    """Numbers of kept steps, and of trajectories that have some.

    Raises StageError when there is none, or a row is not for this expert.
    """
    mine = fingerprint(expert)
    for name, said in checked_footers(run, "supervision").items():
        theirs = said.get("expert", mine)  # imported rows do not say
        if theirs != mine:
            raise StageError(
                f"{run.location}/{name}: was sampled from another expert (fingerprint {theirs}, "
                f"this one's is {mine}); sample with this one, or give that one as models.expert"
            )
    with temporary() as scratch:
        supervision = Supervision(run, vocabulary_rows(expert), scratch)
    summary = read_summary(run)
    sampled = summary.get("sampling", {}).get("trajectories", supervision.trajectories)
    if supervision.trajectories > sampled:
        raise StageError(
            f"--run {run.location}: holds {counted(supervision.trajectories, 'trajectory')} where {sampled} "
            "were sampled; remove the files in supervision/ that the run did not write"
        )
    if supervision.trajectories != sampled:
        raise StageError(
            f"--run {run.location}: holds {supervision.trajectories} of {sampled} sampled "
            "trajectories; remove summary.json and sample again, which makes the others"
        )
    if not supervision.trajectories:
        advice = {
            "contrast": "sample first (lr-ray sample)",
            "rejection": "none of the sampled solutions is right; draw more "
            "(sampling.rejection.samples)",
        }
        raise StageError(f"--run {run.location}: no supervision; {advice[sampling.method]}")
    kept = int(supervision.step_counts.sum())
    if kept == 0:
        raise StageError(
            f"--run {run.location}: {counted(supervision.trajectories, 'trajectory')}, no kept step to train "
            "on; lower sampling.kl_threshold"
        )
    return kept, int((supervision.step_counts > 0).sum())


def check_room(run: Run, expert: str, training: Training) -> None:
    """Raises StageError when a local run's disk cannot hold the checkpoints and the merged model."""
    if not run.is_local:
        return
    weights = sum(file.stat().st_size for file in Path(expert).glob("*.safetensors"))
    # LoRA's weights are far fewer: with rank 8 a hundredth of this.
    state = weights * _BYTES_A_WEIGHT // 2 if training.method == "full" else weights // 10
    needed = weights + (checkpoint.KEPT + 1) * state
    free = shutil.disk_usage(run.root).free
    if free < needed:
        raise StageError(
            f"--run {run.location}: no room for checkpoints and model: {free / 1e6:.0f} MB free, about "
            f"{needed / 1e6:.0f} MB needed; free some or give another --run"
        )


def _own_checkpoints(run: Run, config: Config, expert: str) -> None:
    """Drops checkpoints that are not of this training: of other supervision or settings."""
    shards = run.shards("supervision")
    sizes = [run.fs.info(run.path(name))["size"] for name in shards]
    known = fingerprints_of(read_asked(run)) if run.exists("run.json") else {}
    settings = digests(config, known | {"expert": fingerprint(expert)})["training"]
    mine = {"training": digest_of([shards, sizes, settings])}
    name = f"{checkpoint.FOLDER}/training.json"
    if run.exists(name) and run.read_json(name) == mine:
        return
    for folder in (checkpoint.FOLDER, "adapter", "model", "metrics.jsonl"):
        run.remove(folder)
    run.write_json(name, mine)


def _reason(error: BaseException) -> str:
    """The last line of the innermost message: what the worker said. Ray's own on memory ends with advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    memory = [line for line in lines if "low on memory" in line]
    return (memory or lines or [type(error).__name__])[-1]


def _fit(trainer: Any, board: Any, on_row: Progress) -> dict[str, Any]:
    """Runs `trainer.fit()` in a thread, while the calling thread hands on the workers' progress.

    In the main thread, Ray Train would replace the handler of Ctrl-C and not put it back.
    """
    import ray

    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    done = False
    while not done:
        interrupts.again()  # an import above may have swallowed it, and training would go on
        done = future.done()
        for row in ray.get(board.take.remote()):
            on_row(row)
        if not done:
            time.sleep(_POLL_S)
    return dict(future.result().return_value)
