"""run.json: what a run was asked for, and what a command may ask of it that is another.

A setting may change as long as no stage that depends on it has begun. Exercised by
`pytest tests/unit/test_effects.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lr_ray.config import Change, Config, roles_of, value_at
from lr_ray.errors import UserError, series
from lr_ray.run.stages import STAGES, begun, digests, from_stage
from lr_ray.run.store import SCHEMA_VERSION, Run, read_asked

# `data` of a run whose supervision came from files of other tools.
IMPORTED = {"source": "imported"}
# What importing reads of the sections that are about sampling.
_READ_BY_IMPORT = ("models.expert", "models.chat_template_kwargs", "sampling.system_prompt")
MODEL_BEHIND = "model behind models."  # begins the name of a change that is no setting


@dataclass(frozen=True)
class Difference:
    """What a command asks otherwise than a run's run.json, and which stages that concerns."""

    changes: list[Change]
    affected: list[str]  # stages whose output is another by them
    stale: list[str]  # those of them that have left something in the run

    def __str__(self) -> str:
        return ", ".join(str(change) for change in self.changes if change.effects)


def difference(
    run: Run, config: Config, fingerprints: Mapping[str, str | None] | None = None
) -> Difference:
    """What differs from run.json, of the config and of models that are given. Raises UserError without it."""
    there = read_asked(run)
    changes = config.changes(there["config"])
    for role, now in (fingerprints or {}).items():
        before = value_at(there, f"models.{role}.fingerprint")
        if before != now:
            effect = next(s.effect for s in STAGES if s.model == role)
            name = f"{MODEL_BEHIND}{role}: its fingerprint"
            changes.append(Change(name, before, now, frozenset({effect})))
        elif now is not None:  # the same weights, wherever they lie now
            name = f"models.{role}"
            changes = [c._replace(effects=frozenset()) if c.name == name else c for c in changes]
    first = next((s for s in STAGES if any(s.effect in c.effects for c in changes)), None)
    affected = [stage.name for stage in from_stage(first.name)] if first else []
    return Difference(changes, affected, [name for name in begun(run) if name in affected])


def begin(run: Run, config: Config, facts: dict[str, Any] | None) -> None:
    """Writes run.json, unless the run holds work that would be stale by it.

    `facts` are versions, models and data; None checks the config alone, and writes nothing. Raises
    UserError naming what differs, with both values.
    """
    if run.exists("run.json"):
        found = difference(run, config, fingerprints_of(facts) if facts else None)
        check(run, found)
        if not facts or not found.changes:
            return
    elif not facts or not set(roles_of(config, "sampling")) <= facts["models"].keys():
        raise UserError(f"--run {run.location}: no run.json; sample first")
    before = read_asked(run) if run.exists("run.json") else {}
    # A later stage does not look at the amateur.
    models = before.get("models", {}) | facts["models"]
    asked = {
        "schema_version": SCHEMA_VERSION,
        "config_hash": config.digest(),
        "digests": digests(config, fingerprints_of({"models": models})),
    }
    asked |= facts | {"models": models, "config": config.model_dump(mode="json")}
    run.write_json("run.json", before | asked)


def check(run: Run, found: Difference, advice: str = "give another --run") -> None:
    """Raises UserError when work of the run would be stale, with the advice of the command."""
    if found.stale:
        stale = series(found.stale)
        raise UserError(
            f"--run {run.location}: holds a run with another {found}, and {stale} would be made again; "
            f"{advice}, or the values in its run.json"
        )


def check_made(run: Run, config: Config, stage: str, facts: dict[str, Any]) -> None:
    """Raises UserError unless what the stage has left in a run is of these settings and models."""
    found = difference(run, config, fingerprints_of(facts))
    if stage in found.affected:
        raise UserError(
            f"--run {run.location}: {stage} was done with another {found}; give the values in its run.json"
        )


def is_imported(asked: Mapping[str, Any]) -> bool:
    """Whether what the config says of problems, amateur and thresholds is not of the run's rows."""
    return asked.get("data") == IMPORTED


def used_by_imported(name: str) -> bool:
    """Whether the setting of a dotted name has anything to do with a run whose rows were imported."""
    about_sampling = name.startswith(("data.", "models.", "sampling."))
    return not about_sampling or name.startswith(_READ_BY_IMPORT)


def fingerprints_of(asked: dict[str, Any]) -> dict[str, str | None]:
    """Of the models that run.json or its facts name, by role."""
    return {role: model.get("fingerprint") for role, model in asked.get("models", {}).items()}
