"""What a machine's facts mean for a run, and what a job checks with them before it starts anything.

pytest tests/unit/test_doctor.py
"""

import os
from collections.abc import Sequence
from dataclasses import replace

from lr_ray.config import STAGES, Config, Resources, Serving, roles_of, uses_gpus
from lr_ray.doctor import gpu_checks, node_checks
from lr_ray.doctor.facts import Facts, gather
from lr_ray.doctor.finding import Finding, Need
from lr_ray.errors import UserError
from lr_ray.placement import find_models, needs
from lr_ray.run.store import Run

_HUB_BYTES = 2  # a weight's, of the presets' models


def judge(facts: Facts, need: Need) -> list[Finding]:
    """All findings, in the order in which a person would check them."""
    checks = (*gpu_checks.CHECKS, *node_checks.CHECKS)
    return [finding for check in checks for finding in check(facts, need)]


def check_machine(need: Need, run: Run | None = None) -> None:
    """Raises UserError with the first finding that would stop what is needed; warnings stop nothing."""
    folder = run.root if run is not None and run.is_local else None
    for finding in judge(gather(folder, versions=False), replace(need, run_bytes=None)):
        if finding.level == "bad":
            raise UserError(str(finding))


def check_config(config: Config, stages: Sequence[str], run: Run) -> None:
    """As `check_machine`, with what these stages of a config ask for."""
    check_machine(_need(config, stages), run)


def check_serving(resources: Resources, serving: Serving, run: Run | None = None) -> None:
    """As `check_machine`, for an endpoint."""
    options = needs.served_to_float32(serving)
    check_machine(Need(resources.server.gpus != 0, ("serving",), options), run)


def _need(config: Config, stages: Sequence[str]) -> Need:
    options: dict[str, str] = {}
    for stage in stages:
        options |= needs.to_float32(config, stage)
    on_cpu = _cpu_engines(config, stages)
    return Need(uses_gpus(config, stages), tuple(stages), options, on_cpu)


def _cpu_engines(config: Config, stages: Sequence[str]) -> tuple[str, ...]:
    """Settings that give some of these stages' engines of vLLM no GPU; a plugin's may need none."""
    roles = [role for stage in stages for role in roles_of(config, stage) if role != "trainer"]
    if config.sampling.engine != "vllm":
        roles = [role for role in roles if role == "server"]
    zeros = [role for role in roles if getattr(config.resources, role).gpus == 0]
    return tuple(f"resources.{role}.gpus" for role in zeros)


def asked(config: Config) -> Need:
    """The whole pipeline's need. Models that are not known count nothing; nothing is fetched."""
    models, _ = find_models(config)
    return replace(
        _need(config, STAGES),
        run_bytes=sum(needs.disk(config, models, config.sampling.max_problems).values()),
        hub_bytes=sum(
            _HUB_BYTES * model.parameters
            for role, model in models.items()
            if model and _to_fetch(getattr(config.models, role))
        ),
    )


def _to_fetch(reference: str) -> bool:
    """Whether it is a hub's model that its cache lacks."""
    from huggingface_hub import try_to_load_from_cache

    if reference.startswith("embedded:") or os.path.isdir(os.path.expanduser(reference)):
        return False
    return not isinstance(try_to_load_from_cache(reference, "config.json"), str)
