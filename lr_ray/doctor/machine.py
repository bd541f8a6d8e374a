"""What a job needs of the machine that it starts on, checked before it starts anything."""

from collections.abc import Collection, Sequence

from lr_ray.config import Config, Resources, Serving, uses_gpus
from lr_ray.doctor.checks import judge
from lr_ray.doctor.facts import gather
from lr_ray.doctor.finding import Need
from lr_ray.errors import UserError
from lr_ray.run.store import Run


def check_machine(
    needs_gpu: bool, stages: Sequence[str], run: Run | None = None, dtypes: Collection[str] = ()
) -> None:
    """Raises UserError with the first finding that would stop these stages here; warnings stop nothing.

    `stages` are of the pipeline, or `serving`; `dtypes` those of the engines.
    """
    folder = run.root if run is not None and run.is_local else None
    need = Need(needs_gpu, tuple(stages), frozenset(dtypes), run_bytes=None)
    for finding in judge(gather(folder, versions=False), need):
        if finding.level == "bad":
            raise UserError(str(finding))


def check_config(config: Config, stages: Sequence[str], run: Run) -> None:
    """As `check_machine`, with what these stages of a config ask for."""
    check_machine(uses_gpus(config, stages), stages, run, dtypes(config, stages))


def check_serving(resources: Resources, serving: Serving, run: Run | None = None) -> None:
    """As `check_machine`, for an endpoint."""
    check_machine(resources.server.gpus != 0, ("serving",), run, {serving.dtype})


def dtypes(config: Config, stages: Sequence[str]) -> set[str]:
    """Data types of these stages' engines."""
    found: set[str] = set()
    if "sampling" in stages:
        found.add(config.sampling.expert.dtype)
        if config.sampling.method == "contrast":
            found.add(config.sampling.amateur.dtype)
    if "evaluation" in stages:
        found.add(config.serving.dtype)
    return found
