"""What every stage of a job needs, and what can be wrong and is cheap to find before one starts."""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

from lr_ray.config import Config, value_at
from lr_ray.evaluation.prompts import check_expert, check_lengths
from lr_ray.models.architectures import check_runs
from lr_ray.models.files import check_trainable
from lr_ray.models.models import (
    check_pair,
    check_room,
    facts_of,
    fits_context,
    is_here,
    resolve_model,
)
from lr_ray.placement.site import Site
from lr_ray.problems import check_source
from lr_ray.run.stages import begun
from lr_ray.run.store import Run, read_asked
from lr_ray.run.versions import versions
from lr_ray.runtime.cluster import check_address
from lr_ray.runtime.connection import check_environment
from lr_ray.training.targets import check_targets
from lr_ray.training.trackers import check_trackers


@dataclass
class Job:
    """What every stage needs."""

    config: Config
    run: Run
    expert: str
    amateur: str | None
    console: Console
    summary: dict[str, Any]
    site: Site = field(default_factory=Site)
    sampling_options: dict[str, Any] = field(default_factory=dict)  # of `sampling.sample.sample`


def read_source(run: Run, config: Config) -> None:
    """Reads the source before run.json says that the run is of it, so that a wrong one can be corrected."""
    from lr_ray.problems import check_rows, stage_problems
    from lr_ray.sampling.rejection import check_answers

    if not run.exists("run.json") or "decoding" not in begun(run):
        run.remove("problems")  # maybe of another source, and nothing is made of them
    stage_problems(run, config)
    check_rows(run, config)
    check_answers(run, config)


def check_problems(config: Config) -> None:
    """Raises what `read_source` would, and touches no run; reasons that an error names stay in a folder."""
    folder = tempfile.mkdtemp(prefix="lr_ray-")
    read_source(Run(folder), config)
    shutil.rmtree(folder)


def improved(config: Config) -> str:
    """Folder of a run from which its improved expert is served."""
    return "adapter" if config.serving.adapters else "model"


def facts(
    config: Config, expert: str, amateur: str | None, run: Run | None = None
) -> dict[str, Any]:
    """What run.json says beside the config. Without the amateur's directory, only the expert's model.

    With the run, that has begun, of an amateur that was moved too.
    """
    models = {"expert": facts_of(config.models.expert, expert)}
    if amateur:
        models["amateur"] = facts_of(config.models.amateur, amateur)
    if run is not None and run.exists("run.json"):
        models = moved_models(run, config) | models
    data = config.data.model_dump() | {"max_problems": config.sampling.max_problems}
    return {"versions": versions(), "models": models, "data": data}


def moved_models(run: Run, config: Config) -> dict[str, Any]:
    """What run.json is to say of models that it has by another name, where the same weights lie at this one.

    By role. A name of the hub is not looked for, as it may be a download.
    """
    asked, found = read_asked(run), {}
    for role, reference in (("expert", config.models.expert), ("amateur", config.models.amateur)):
        before = value_at(asked, f"models.{role}.fingerprint")
        renamed = reference != value_at(asked, f"config.models.{role}")
        if before is not None and renamed and is_here(reference):
            there = facts_of(reference, resolve_model(reference, f"models.{role}"))
            if there["fingerprint"] == before:
                found[role] = there
    return found


def check(config: Config, stages: Sequence[str], staged: bool = False) -> tuple[str, str | None]:
    """Everything that can be wrong and is cheap to find. Returns the models' directories.

    The amateur is looked for only when there is sampling to do, by method contrast; the source unless its
    problems may be `staged`, as it may be gone since. `read_source` looks at it where they are not.
    """
    if "evaluation" in stages:
        from lr_ray.evaluation.tasks import load_tasks
        from lr_ray.serving import base_url, check_port

        tasks = load_tasks(config.evaluation)
        check_port(config.serving)
        check_environment(base_url(config.serving))
    check_address()
    expert = resolve_model(config.models.expert, "models.expert")
    if "training" in stages:
        check_trackers(config.training.trackers)
        check_trainable(expert, f"models.expert: {config.models.expert}")
        check_targets(expert, config.training)
    if tuple(stages) != ("training",):  # which has no engine
        check_runs(expert, f"models.expert: {config.models.expert}")
    check_expert(expert, config, stages)
    if "evaluation" in stages:
        fits_context(expert, config.serving.max_model_len, "the expert")
        check_lengths(expert, config, tasks)
    if "sampling" not in stages:
        return expert, None
    if not staged:
        check_source(config)
    if config.sampling.method == "rejection":
        check_room(expert, None, config.sampling)
        return expert, None
    amateur = resolve_model(config.models.amateur, "models.amateur")
    check_pair(expert, amateur, config.models)
    check_room(expert, amateur, config.sampling)
    return expert, amateur
