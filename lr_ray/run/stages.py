"""What each stage's output depends on, and so: what is finished, stale, or there to be shared.

A stage depends on the settings that affect it (`config.effects`), on the stages before it and on the
models' weights. `digests` names all of that in one word, by which runs find what they can share; `stale`
names the settings that a run's finished work was made with other values of.
Exercised by `pytest tests/unit/test_effects.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from lr_ray.config import Config, digest_of, roles_of
from lr_ray.run.store import Run


@dataclass(frozen=True)
class Stage:
    """A step of the method."""

    name: str
    effect: str  # the mark of its settings
    leaves: tuple[str, ...]  # files and folders that it writes into a run
    parts: tuple[str, ...]  # those of summary.json
    model: str | None = None  # the role that it loads first


_TRAINING_LEAVES = ("checkpoints", "adapter", "model", "metrics.jsonl", "tensorboard")
# Rounds are made of evaluations.
_EVALUATION_PARTS = (
    "evaluation", "serving", "accuracy", "accuracy_mean", "accuracy_mean_paper", "prompt_alone",
    "perturbations", "drift", "rounds",
)  # fmt: skip
# In order; each depends on all before it. The first three are one command's, and run as one stream.
STAGES = (
    Stage("decoding", "trajectories", ("problems", "trajectories"), ("sampling",), "expert"),
    Stage("scoring", "scores", ("scores",), ("sampling",), "amateur"),
    Stage("labelling", "rows", ("supervision", "rejected", "rejected.jsonl"), ("sampling",)),
    Stage("training", "weights", _TRAINING_LEAVES, ("training",)),
    Stage("evaluation", "answers", ("answers", "evaluation"), _EVALUATION_PARTS),
)
NAMES = tuple(stage.name for stage in STAGES)
SAMPLING = ("decoding", "scoring", "labelling")
UNUSABLE = "rejected/part-source-"  # shards of rows that were no problem, from before sampling


def digests(config: Config, fingerprints: Mapping[str, str | None]) -> dict[str, str]:
    """sha256 (hex, first 16) of what each stage's output depends on, by its name.

    `fingerprints`: of the models' weights by role, which stand for their names where they are known; a
    method that needs no amateur does not read its.
    """
    found: dict[str, str] = {}
    before = ""
    for stage in STAGES:
        loaded = stage.model in roles_of(config, "sampling")
        weights = fingerprints.get(str(stage.model)) if loaded else None
        inputs = config.inputs(stage.effect)
        if weights is not None:
            del inputs[f"models.{stage.model}"]  # the same weights, wherever they lie
        before = digest_of([before, inputs, weights])
        found[stage.name] = before
    return found


def from_stage(name: str) -> tuple[Stage, ...]:
    """A stage and those that depend on it."""
    return STAGES[NAMES.index(name) :]


def parts_from(name: str) -> tuple[str, ...]:
    """The parts of summary.json that a stage and those that depend on it write."""
    return tuple(dict.fromkeys(part for stage in from_stage(name) for part in stage.parts))


def begun(run: Run) -> list[str]:
    """Names of the stages that have left something in a run. Decoding and scoring do together."""
    sampled = any(
        not name.startswith(UNUSABLE)
        for folder in ("trajectories", "scores", "supervision", "rejected")
        for name in run.shards(folder)
    )
    there = {s.name: any(run.exists(name) for name in s.leaves) for s in STAGES}
    there |= {"decoding": sampled, "scoring": sampled, "labelling": bool(run.shards("supervision"))}
    return [name for name in NAMES if there[name]]
