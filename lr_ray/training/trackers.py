"""Metrics to TensorBoard, MLflow and Weights & Biases, through their own libraries.

Exercised by `pytest tests/unit/test_trackers.py`.
"""

import hashlib
from typing import Any, Self

from lr_ray.config import Config
from lr_ray.errors import UserError
from lr_ray.store import Run

TENSORBOARD = "tensorboard"
_NOT_METRICS = ("step", "resumed_at", "seconds")


def scalars(row: dict[str, Any]) -> dict[str, float]:
    """The row's figures, and its rates a second."""
    rates = {f"{name}_per_second": row[name] / row["seconds"] for name in ("kept_steps", "tokens")}
    return {name: value for name, value in row.items() if name not in _NOT_METRICS} | rates


def check_trackers(names: list[str]) -> None:
    """Raises UserError naming training.trackers when a library is not installed."""
    from importlib.util import find_spec

    modules = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
    for name in names:
        if find_spec(modules[name]) is None:
            raise UserError(
                f"training.trackers: {name} is not installed: pip install '.[trackers]'"
            )


class Trackers:
    """All that the config names, open for the length of a training. One id a run: a resumed training
    goes on in the same MLflow and Weights & Biases run."""

    def __init__(self, run: Run, config: Config) -> None:
        self.run, self.config = run, config
        self._logs: list[Any] = []
        self._closes: list[Any] = []

    def __enter__(self) -> Self:
        for name in self.config.training.trackers:
            getattr(self, f"_{name}")()
        return self

    def __exit__(self, *_: object) -> None:
        for close in self._closes:
            close()

    def log(self, row: dict[str, Any]) -> None:
        for log in self._logs:
            log(scalars(row), row["step"])

    def _id(self) -> str:
        return hashlib.sha256(f"{self.run.location} {self.config.digest()}".encode()).hexdigest()[
            :16
        ]

    def _settings(self) -> dict[str, Any]:
        return {"run": self.run.location, **self.config.identity()}

    def _tensorboard(self) -> None:
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(
            self.run.path(TENSORBOARD) if self.run.is_local else self.run.location
        )

        def log(figures: dict[str, float], step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(f"train/{name}", value, step)
            writer.flush()

        self._logs.append(log)
        self._closes.append(writer.close)

    def _mlflow(self) -> None:
        import mlflow

        with_id = mlflow.search_runs(
            filter_string=f"tags.lr_ray = '{self._id()}'", output_format="list", max_results=1
        )
        mlflow.start_run(
            run_id=with_id[0].info.run_id if with_id else None,
            run_name=None if with_id else self.run.location,
            tags={"lr_ray": self._id()},
        )
        if not with_id:
            mlflow.log_params({k: str(v)[:500] for k, v in self._settings().items()})
        self._logs.append(lambda figures, step: mlflow.log_metrics(figures, step=step))
        self._closes.append(mlflow.end_run)

    def _wandb(self) -> None:
        import wandb

        run = wandb.init(
            id=self._id(), name=self.run.location, resume="allow", config=self._settings()
        )
        self._logs.append(lambda figures, step: run.log(figures, step=step))
        self._closes.append(run.finish)
