"""Finished work of another run taken over, and work of a run that is to be made again.

Exercised by `pytest tests/unit/test_relabel.py`.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from lr_ray.config import Config, resolve
from lr_ray.errors import UserError
from lr_ray.labelling.shards import footers
from lr_ray.problems import read_index
from lr_ray.report.page import PAGE
from lr_ray.run.asked import difference, fingerprints_of, is_imported
from lr_ray.run.stages import SAMPLING, STAGES, UNUSABLE, digests, from_stage, parts_from
from lr_ray.run.store import Run, read_asked, read_summary


def can_share(source: Run, config: Config, fingerprints: Mapping[str, str | None]) -> list[str]:
    """Names of the stages, from the first on, that the source has finished by the same settings and models.

    A model that is not in `fingerprints` counts as the source's where it has the same name. Raises
    UserError when the source is no run, or is of a plugin that is not loaded.
    """
    asked, there = read_asked(source), read_summary(source)
    before = fingerprints_of(asked)
    try:
        there_config = resolve(asked["config"])
    except UserError as error:
        raise UserError(f"{source.location}: {error}") from None
    same_name = {
        role: before.get(role)
        for role in ("expert", "amateur")
        if getattr(config.models, role) == getattr(there_config.models, role)
    }
    theirs = digests(there_config, before)
    ours = digests(config, {**same_name, **fingerprints})
    same = lambda s: theirs[s.name] == ours[s.name] and bool(set(there).intersection(s.parts))  # noqa: E731
    return [stage.name for stage in itertools.takewhile(same, STAGES)]


def differing(
    source: Run, config: Config, fingerprints: Mapping[str, str | None], shared: Sequence[str]
) -> str:
    """Which settings make the first stage that is not shared another than the source's, with both values."""
    effects = {stage.effect for stage in STAGES[: len(shared) + 1]}
    changes = difference(source, config, fingerprints).changes
    return ", ".join(str(change) for change in changes if change.effects & effects)


def share(source: Run, run: Run, stages: Sequence[str]) -> dict[str, Any]:
    """Takes over what the source's `stages` have left, and returns the parts of summary.json for them.

    Of the sampling commands' stages all or those up to scoring: what is missing is labelled without
    engines, or scored from the source's trajectories.
    """
    if "decoding" in stages:
        run.take(source, "problems")
        for name in source.shards("rejected"):
            if name.startswith(UNUSABLE) or "scoring" in stages:
                run.take(source, name)
    for stage in STAGES:
        for name in stage.leaves if stage.name in stages else ():
            if name not in ("problems", "trajectories", "answers"):
                run.take(source, name)
    there = read_summary(source)
    left = set(stages) if "labelling" in stages else set(stages).difference(SAMPLING)
    whole = [stage for stage in STAGES if stage.name in left]
    parts = {part: there[part] for stage in whole for part in stage.parts if part in there}
    parts.pop("rounds", None)  # whose runs stay where they are
    return {**parts, "shared": dict.fromkeys(stages, source.location)} if stages else {}


def has_trajectories(source: Run, plausibility: float, decoding: str | None = None) -> bool:
    """Whether a finished run has kept the expert's trajectories of all its problems.

    They serve a `plausibility` that is not below the one that they were completed for. `decoding`: the
    digest that they must have (`trajectories.made_with`).
    """
    saids = footers(source, "trajectories").values()
    there = [s for s in saids if decoding is None or s.get("decoding") == decoding]
    kept = [p for said in there if said["plausibility"] <= plausibility for p in said["problems"]]
    return len(set(kept)) == read_index(source)["problems"]


def void(run: Run, stage: str, summary: dict[str, Any]) -> None:
    """Removes the page, and what a stage and those that depend on it have left.

    Scores stay where labels alone go. Raises UserError where that would need sampling again from data
    that the run does not know.
    """
    if stage in SAMPLING and is_imported(read_asked(run)):
        raise UserError(f"--run {run.location}: its supervision was imported; give another --run")
    if stage == "labelling" and not run.shards("scores"):
        stage = "decoding"
    for part in parts_from(stage):
        summary.pop(part, None)
    run.write_json("summary.json", summary)  # first: half removed, nothing may count as finished
    run.remove(PAGE)
    # From the last: killed within, the same stage is still the first stale one.
    for later in reversed(from_stage(stage)):
        for name in later.leaves:
            if not (stage == "labelling" and name.startswith("rejected")):  # see `label_scores`
                run.remove(name)
