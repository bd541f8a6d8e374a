"""The training stage: supervision shards to adapter and merged model, through Ray Train.

Exercised by `python jobs/train.py --run RUN` and `pytest tests/integration -k training`.
"""

import contextlib
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyarrow.fs import FSSpecHandler, PyFileSystem

from lr_ray.config import Config
from lr_ray.errors import StageError
from lr_ray.sampling.rows import SUPERVISION
from lr_ray.store import Run

Progress = Callable[[int, float], None]

CPU_ENV = {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
_QUIET = {"TOKENIZERS_PARALLELISM": "false", "RAY_TRAIN_ENABLE_STATE_TRACKING": "0"}


def train(run: Run, config: Config, expert: str, on_progress: Progress) -> dict[str, Any]:
    """Fine-tunes the expert on the run's supervision; returns the `training` part of the summary.

    Raises StageError when no step was kept, or a worker fails for good.
    """
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.util.queue import Queue

    from lr_ray.training.worker import train_loop

    started = time.monotonic()
    check_supervision(run)
    training = config.training
    on_gpu = training.gpus_per_worker > 0
    resources = {"CPU": training.cpus_per_worker}
    if on_gpu:
        resources["GPU"] = training.gpus_per_worker
    queue = Queue(actor_options={"num_cpus": 0})
    trainer = TorchTrainer(
        train_loop,
        train_loop_config={
            "run": run,
            "training": training,
            "expert": expert,
            "name": config.models.expert,
            "progress": queue,
        },
        torch_config=TorchConfig(backend="nccl" if on_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=training.num_workers, use_gpu=on_gpu, resources_per_worker=resources
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=run.root,
            storage_filesystem=None if run.is_local else PyFileSystem(FSSpecHandler(run.fs)),
            failure_config=FailureConfig(max_failures=3),
            worker_runtime_env={"env_vars": _QUIET | ({} if on_gpu else CPU_ENV)},
        ),
    )
    try:
        result = _fit(trainer, queue, on_progress)
    except (TrainingFailedError, ray.exceptions.RayError) as error:
        raise StageError(f"training failed: {_reason(error)}") from error
    queue.shutdown()
    figures = dict(result.return_value)
    if "error" in figures:
        raise StageError(f"training failed: {figures['error']}")
    return figures | {"seconds": time.monotonic() - started}


def check_supervision(run: Run) -> int:
    """Number of kept steps. Raises StageError when there is none to train on."""
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    kept = sum(len(steps.values) for steps in table["steps"])
    if kept == 0:
        raise StageError(
            f"--run {run.location}: {table.num_rows} trajectories, no kept step to train on; "
            "lower sampling.kl_threshold"
        )
    return kept


def _reason(error: BaseException) -> str:
    """The last line of the innermost message: what the worker said."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _fit(trainer: Any, queue: Any, on_progress: Progress) -> Any:
    """`trainer.fit()` in a thread, while this one hands on the workers' progress.

    In the main thread, Ray Train would take Ctrl-C for itself, and keep it.
    """
    from ray.util.queue import Empty

    future: Future[Any] = Future()

    def fit() -> None:
        try:
            future.set_result(trainer.fit())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=fit, daemon=True).start()
    while not (future.done() and queue.empty()):
        with contextlib.suppress(Empty):
            on_progress(*queue.get(timeout=0.5))
    return future.result()
