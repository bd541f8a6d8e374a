"""Training's rows, and what a run came to, to TensorBoard, MLflow and Weights & Biases by their libraries.

A training has an id of its own, kept beside its checkpoints: resumed, it goes on in the same MLflow and
Weights & Biases run, and a training that begins anew is another run. Exercised by
`pytest tests/unit/test_trackers.py`.
"""

import contextlib
import importlib
import logging
import os
import tempfile
import uuid
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Self

from lr_ray.config import Config
from lr_ray.errors import StageError, UserError, reason
from lr_ray.run.store import Run
from lr_ray.training.outcome import Outcome, to_mlflow, to_tensorboard, to_wandb

TENSORBOARD = "tensorboard"
IDENTITY = "checkpoints/trackers.json"  # goes with the checkpoints of another training
_OUTCOME = ".outcome"  # ends the names of TensorBoard's files of an `Outcome`
_NOT_METRICS = ("step", "resumed_at", "seconds")
_MODULES = {
    "tensorboard": ("tensorboardX", "tensorboardX"),
    "mlflow": ("mlflow", "'.[trackers]'"),
    "wandb": ("wandb", "'.[trackers]'"),
}

Row = dict[str, Any]  # of metrics.jsonl
Log = Callable[[Row], None]


def scalars(row: Row) -> dict[str, float]:
    """The row's figures, and its rates a second."""
    rates = {f"{name}_per_second": row[name] / row["seconds"] for name in ("kept_steps", "tokens")}
    return {name: value for name, value in row.items() if name not in _NOT_METRICS} | rates


def check_trackers(names: Sequence[str]) -> None:
    """Raises UserError naming training.trackers when one is not installed or not set up."""
    for name in names:
        module, package = _MODULES[name]
        spec = find_spec(module)
        if spec is None or spec.origin is None:  # a folder ./wandb or ./mlflow is no library
            raise UserError(f"training.trackers: {name} is not installed: pip install {package}")
    if "mlflow" in names:
        _check_mlflow()
    if "wandb" in names:
        _check_wandb()


def _check_mlflow() -> None:
    uri = importlib.import_module("mlflow").get_tracking_uri()
    database = uri.split(":")[0].split("+")[0] in ("sqlite", "mysql", "postgresql", "mssql")
    if database and find_spec("sqlalchemy") is None:
        raise UserError(
            f"training.trackers: mlflow would write to {uri}, which mlflow-skinny cannot; "
            "set MLFLOW_TRACKING_URI to a server's address, or install mlflow"
        )


def _check_wandb() -> None:
    """Without a key, W&B would ask for one on the terminal. Asks no server."""
    wandb = importlib.import_module("wandb")
    online = wandb.setup().settings.mode == "online"
    if online and not wandb.login(prompt=False, verify=False):
        raise UserError(
            "training.trackers: wandb has no API key: set WANDB_API_KEY, run `wandb login`, or set "
            "WANDB_MODE=offline"
        )


def tell(run: Run, config: Config, outcome: Outcome) -> None:
    """Opens the trackers of the run's last training for what the run came to; warns of those that fail."""
    if not run.exists(IDENTITY):
        return
    for name in config.training.trackers:
        try:
            with Trackers(run, config, [name]) as trackers:
                trackers.tell(outcome)
        except StageError as error:
            logging.getLogger(__name__).warning("%s", error)


class Trackers:
    """All that the config names, or those `names` of them, open for the length of a training.

    A resumed training repeats the optimizer steps after its last checkpoint. Each is logged once: MLflow
    and Weights & Biases keep the first value, TensorBoard the last.
    """

    def __init__(self, run: Run, config: Config, names: Sequence[str] | None = None) -> None:
        self.run, self.config = run, config
        self.names = config.training.trackers if names is None else names
        self._logs: dict[str, Log] = {}
        self._tells: dict[str, Callable[[Outcome], None]] = {}
        self._stack = contextlib.ExitStack()
        self._last = 0  # step
        self._failed = False
        self._id = ""

    def __enter__(self) -> Self:
        """Raises StageError when a tracker cannot start."""
        if not self.run.exists(IDENTITY):
            self.run.remove(TENSORBOARD)  # of the training before
            self.run.write_json(IDENTITY, {"id": uuid.uuid4().hex[:16]})
        self._id = str(self.run.read_json(IDENTITY)["id"])
        for name in self.names:
            try:
                self._logs[name] = getattr(self, f"_{name}")()
            except Exception as error:  # each library raises kinds of its own
                self._close(failed=True)
                raise StageError(f"training.trackers: {name}: {reason(error)}") from error
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close(failed=kind is not None)

    def log(self, row: Row) -> None:
        """A tracker that fails is dropped with a warning: metrics.jsonl has all rows anyway."""
        if row["step"] <= self._last:  # made again after a worker died
            return
        self._last = row["step"]
        for name, log in list(self._logs.items()):
            try:
                log(row)
            except Exception as error:
                del self._logs[name]
                _warn(name, error)

    def tell(self, outcome: Outcome) -> None:
        """The same for what the run came to."""
        for name, tell in self._tells.items():
            try:
                tell(outcome)
            except Exception as error:
                _warn(name, error)

    def _close(self, failed: bool) -> None:
        self._failed = failed
        try:
            self._stack.close()
        except Exception as error:  # must not hide how the training ended
            _warn("closing", error)

    def _settings(self) -> dict[str, Any]:
        return {"run": self.run.location, **self.config.identity()}

    def _tensorboard(self) -> Log:
        from tensorboardX import SummaryWriter

        folder = self.run.path(TENSORBOARD)
        if not self.run.is_local:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lr_ray-"))
            self._stack.callback(self._put, folder)
        writer: Any = None

        def write(row: Row) -> None:
            for name, value in scalars(row).items():
                writer.add_scalar(f"train/{name}", value, row["step"])

        def log(row: Row) -> None:
            nonlocal writer
            if writer is None:  # a resumed training's file is written anew
                from lr_ray.training.worker import METRICS

                rows = self.run.read_lines(METRICS)
                before = [old for old in rows if old["step"] < row["step"]]
                self.run.remove(TENSORBOARD)
                # A TensorBoard that is open forgets what it has read.
                writer = SummaryWriter(folder, purge_step=[*before, row][0]["step"])
                self._stack.callback(writer.close)
                for old in before:
                    write(old)
            write(row)
            writer.flush()

        def tell(outcome: Outcome) -> None:
            if self.run.exists(TENSORBOARD):  # what was told before
                for path in self.run.fs.ls(self.run.path(TENSORBOARD), detail=False):
                    if str(path).endswith(_OUTCOME):
                        self.run.fs.rm(path)
            with SummaryWriter(folder, filename_suffix=_OUTCOME) as said:
                to_tensorboard(said, outcome, self._settings())

        self._tells["tensorboard"] = tell
        return log

    def _put(self, folder: str) -> None:
        if os.listdir(folder):
            self.run.put_folder(folder, TENSORBOARD)

    def _mlflow(self) -> Log:
        import mlflow

        ours = mlflow.search_runs(
            filter_string=f"tags.lr_ray = '{self._id}'", output_format="list", max_results=1
        )
        known = ours[0].info.run_id if ours else None
        name = None if known else self.run.location
        active = mlflow.start_run(run_id=known, run_name=name, tags={"lr_ray": self._id})
        self._stack.callback(lambda: mlflow.end_run("FAILED" if self._failed else "FINISHED"))
        last = 0
        if known:
            history = mlflow.MlflowClient().get_metric_history(active.info.run_id, "loss")
            last = max((metric.step for metric in history), default=0)
        else:
            mlflow.log_params({key: str(value)[:500] for key, value in self._settings().items()})

        def log(row: Row) -> None:
            if row["step"] > last:
                mlflow.log_metrics(scalars(row), step=row["step"], run_id=active.info.run_id)

        self._tells["mlflow"] = lambda outcome: to_mlflow(mlflow, outcome)
        return log

    def _wandb(self) -> Log:
        import wandb

        run = wandb.init(
            id=self._id,
            name=self.run.location,
            resume="allow",
            config=self._settings(),
            settings=wandb.Settings(console="off", silent=True),
        )
        self._stack.callback(lambda: run.finish(exit_code=int(self._failed)))
        first = run.step  # of a resumed run, the one after its last

        def log(row: Row) -> None:
            if row["step"] >= first:
                run.log(scalars(row), step=row["step"])

        self._tells["wandb"] = lambda outcome: to_wandb(wandb, run, outcome)
        return log


def _warn(name: str, error: Exception) -> None:
    logging.getLogger(__name__).warning("training.trackers: %s: %s", name, reason(error))
