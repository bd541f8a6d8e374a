"""What `import lr_ray` offers: a config, the pipeline in the calling process, and what a run holds.

pytest tests/unit/test_api.py
"""

import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lr_ray.config import STAGES, Config, merge, read_tree, resolve, unflatten
from lr_ray.config.reading import on_device
from lr_ray.errors import UserError
from lr_ray.run.rounds import result_of
from lr_ray.run.store import Run, read_asked, read_summary

if TYPE_CHECKING:
    import pyarrow as pa


def make_config(
    name: str | os.PathLike[str], device: Literal["cpu", "gpu"] | None = None, **overrides: Any
) -> Config:
    """A preset or YAML file as a checked config.

    `overrides` are sections, `sampling={"kl_threshold": 0.3}`, or dotted names,
    `**{"sampling.kl_threshold": 0.3}`. `device` is as --device: with "cpu" no process gets a GPU.
    Raises UserError naming each field that is wrong.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"name is of type {type(name).__name__}; must be a preset or a YAML file")
    tree = read_tree(os.fspath(name))
    if device not in (None, "cpu", "gpu"):
        raise UserError(f"device = {device!r}: must be 'cpu' or 'gpu'")
    if device:
        tree = on_device(tree, device)
    for key, value in overrides.items():
        tree = merge(tree, unflatten({key: value}))
    return resolve(tree)


def run_pipeline(
    config: Config | str | os.PathLike[str],
    run: str | os.PathLike[str],
    stages: Sequence[str] = STAGES,
    source: str | os.PathLike[str] | None = None,
    yes: bool = False,
) -> "StoredRun":
    """Runs what is not finished of the stages, on the cluster of RAY_ADDRESS or a local one.

    `config`: of `make_config`, or a preset's or file's name. `run`: the run directory, a path or an fsspec
    URI; called again after an interruption it goes on. `stages`: names of `lr_ray.config.STAGES`, which are
    done in its order. `source`
    and `yes` are as --from and --yes. Raises UserError for what is wrong before anything starts, StageError
    for a stage that failed, KeyboardInterrupt when it is interrupted.
    """
    from lr_ray.experiments.rounds import run_rounds
    from lr_ray.runtime import interrupts

    asked = config if isinstance(config, Config) else make_config(config)
    name = "of a Python program" if asked is config else str(config)
    unknown = [stage for stage in stages if stage not in STAGES]
    if unknown or not stages:
        raise UserError(f"stages = {list(stages)}: give some of {', '.join(STAGES)}")
    there, before = Run(os.fspath(run)), Run(os.fspath(source)) if source else None
    ordered = tuple(stage for stage in STAGES if stage in stages)
    with interrupts.borrowed():
        run_rounds(asked, there, ordered, name, source=before, yes=yes)
    return StoredRun(there)


def load_run(run: str | os.PathLike[str]) -> "StoredRun":
    """A run directory, a path or an fsspec URI, to read. Raises UserError when there is no run."""
    there = Run(os.fspath(run))
    read_asked(there)
    return StoredRun(there)


class StoredRun:
    """What a run directory holds, read when it is asked for."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self.location = run.location

    def __repr__(self) -> str:
        return f"StoredRun({self.location!r})"

    @property
    def summary(self) -> dict[str, Any]:
        """summary.json as it is now: a part for each finished stage."""
        return read_summary(self._run)

    @cached_property
    def config(self) -> Config:
        """The config that the run was made with. Raises UserError for one of another kind or version."""
        return resolve(read_asked(self._run)["config"])

    def supervision(self) -> "pa.Table":
        """A row a trajectory, columns of `lr_ray.run.schemas.SUPERVISION`.

        `kl` is in nats, of every step; `steps` has position, token ids and weights of each kept one's soft
        label. Raises UserError before sampling, StageError for a shard that cannot be read.
        """
        from lr_ray.run.schemas import SUPERVISION

        return self._table("supervision", SUPERVISION)

    def scores(self) -> "pa.Table":
        """A row a trajectory, columns of `lr_ray.run.schemas.SCORES`: what both models say of each step.

        Raises as `supervision`, and for runs that keep no scores, such as those of rejection sampling.
        """
        from lr_ray.run.schemas import SCORES

        return self._table("scores", SCORES)

    def answers(self, benchmark: str) -> "pa.Table":
        """A row a problem and sample of a benchmark, with each model's completion, answer and verdict.

        Raises UserError for a benchmark that the run has not been evaluated on.
        """
        if not self._run.exists(f"evaluation/{benchmark}.parquet"):
            known = ", ".join(self.summary.get("accuracy", {})) or "none"
            raise UserError(f"{self.location}: no answers on {benchmark}; it has {known}")
        return self._run.answers(benchmark)

    def model_path(self, cache: str | os.PathLike[str] | None = None) -> Path:
        """The improved expert's Hugging Face directory, of several rounds the result's.

        Of a run in an object store, a copy in `cache`. Raises UserError before training.
        """
        if not self._run.exists("model/config.json"):
            raise UserError(f"{self.location}: no model; training is not finished")
        if cache is None and not self._run.is_local:
            raise UserError(f"{self.location}: is not local; give a folder to copy the model to")
        return Path(result_of(self._run).local_folder("model", os.fspath(cache or "")))

    def _table(self, folder: str, schema: "pa.Schema") -> "pa.Table":
        shards = self._run.shards(folder)
        if not shards:
            raise UserError(f"{self.location}: no {folder} there")
        return self._run.read_tables(shards, schema)
