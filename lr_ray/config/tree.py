"""The config as one tree, and which of its fields can change a result."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Self

from pydantic import model_validator

from lr_ray.config.effects import On, marks_of, setting
from lr_ray.config.resources import AUTO, Resources
from lr_ray.config.section import Section, fields_of
from lr_ray.config.sections import Data, Evaluation, Models, Sampling, Serving, Training
from lr_ray.config.sections.serving import RANKS


class Change(NamedTuple):
    """A field whose value is another than that in a tree that was dumped before."""

    name: str
    before: Any
    now: Any
    effects: frozenset[str]  # of which it is the input, in either tree

    def __str__(self) -> str:
        return f"{self.name} = {self.before} (now {self.now})"


class Tree(Section):
    """Sections of which some fields can change a result."""

    def inputs(self, *effects: str) -> dict[str, Any]:
        """Dotted name to value of every field that has one of the effects (see `config.effects`).

        A field that has it only when its value gets smaller is left out.
        """
        flat = flatten(self.model_dump(mode="json"))
        return {
            name: value
            for name, value in flat.items()
            if any(m.effect in effects and not m.if_less for m in _acting(type(self), name, flat))
        }

    def identity(self) -> dict[str, Any]:
        """Dotted name to value of every field that can change a result."""
        flat = flatten(self.model_dump(mode="json"))
        return {name: value for name, value in flat.items() if _changing(type(self), name, flat)}

    def digest(self) -> str:
        """sha256 (hex, first 16) of `identity`: equal runs have equal digests."""
        return digest_of(self.identity())

    def changes(self, other: dict[str, Any]) -> list[Change]:
        """The fields of `identity` whose value in the dumped tree `other` is another, with what they affect.

        A field that `other` lacks, as an older version's tree may, has its default there.
        """
        kind, here, there = type(self), flatten(self.model_dump(mode="json")), flatten(other)
        before = {n: there[n] if n in there else _default(kind, n) for n in here}
        gone = [n for n in there if n not in here and fields_of(kind, n)]  # entries of a mapping
        before |= {n: there[n] for n in gone}
        found = []
        for name in [*(n for n in here if _changing(kind, n, here, before)), *gone]:
            old, new = before[name], here.get(name)
            if old == new:
                continue
            acting = [*_acting(kind, name, here), *_acting(kind, name, before)]
            effects = {m.effect for m in acting if not m.if_less or new < old}
            found.append(Change(name, old, new, frozenset(effects - {"speed"})))
        return found

    @classmethod
    def unknown(cls, tree: dict[str, Any]) -> list[str]:
        """Dotted names in `tree` of which this version has no field."""
        return [name for name in flatten(tree) if not fields_of(cls, name)]


def digest_of(value: Any) -> str:
    """sha256 (hex, first 16) of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _changing(kind: type[Tree], name: str, *flats: Mapping[str, Any]) -> bool:
    """Whether a field can change a result; one that does by some selection rules, in one of these trees."""
    marks = [m for m in marks_of(kind, name) if m.effect != "speed"]
    return any(not m.rules or any(m in _acting(kind, name, flat) for flat in flats) for m in marks)


def _acting(kind: type[Tree], name: str, flat: Mapping[str, Any]) -> list[On]:
    """A field's marks whose conditions hold in a flat tree."""
    return [
        m
        for m in marks_of(kind, name)
        if (m.when is None or flat.get(m.when[0]) == m.when[1])
        and not (m.if_set and flat.get(name) in (None, []))
        and (m.unless is None or flat.get(name) != m.unless)
        and (not m.rules or str(flat.get("sampling.selection")).partition(":")[0] in m.rules)
    ]


class Config(Tree):
    """A run of the pipeline."""

    models: Models
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    serving: Serving = Serving()
    evaluation: Evaluation = Evaluation()
    resources: Resources = setting("speed", default=Resources())
    rounds: int = setting("rounds", default=1, ge=1, le=100)
    """Rounds of lr-ray run, at most: the improved expert of one is the expert of the next."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("amateur", "trainer"):
            gpus = getattr(self.resources, name).gpus
            if gpus != AUTO and gpus > 1:
                raise ValueError(f"resources.{name}.gpus must be at most 1: its model is not split")
        share, workers = self.resources.trainer.gpus, self.training.workers
        if share != AUTO and 0 < share < 1 and workers > 1:
            raise ValueError(
                f"resources.trainer.gpus = {share:g} with training.num_workers = {workers}: NCCL takes no "
                "two workers on one GPU; give 1, or one worker"
            )
        if self.evaluation.max_new_tokens >= self.serving.max_model_len:
            raise ValueError(
                f"evaluation.max_new_tokens = {self.evaluation.max_new_tokens} leaves no room for a "
                f"prompt in serving.max_model_len = {self.serving.max_model_len}"
            )
        field, tokens = self.sampling.limit
        if tokens >= (self.sampling.max_model_len or math.inf):
            raise ValueError(
                f"{field} = {tokens} leaves no room for a prompt in sampling.max_model_len = "
                f"{self.sampling.max_model_len}"
            )
        if self.serving.adapters and self.training.method != "lora":
            raise ValueError(
                f"serving.adapters: training.method = {self.training.method} makes no adapter; leave it false"
            )
        if self.serving.adapters and self.training.lora.rank > RANKS[-1]:
            raise ValueError(
                f"serving.adapters: vLLM serves adapters of rank {RANKS[-1]} at most, and "
                f"training.lora.rank = {self.training.lora.rank}; leave it false"
            )
        return self


STAGES = ("sampling", "training", "evaluation")
_STAGE_ROLES = {
    "sampling": ("expert", "amateur"), "training": ("trainer",), "evaluation": ("server",)
}  # fmt: skip


def roles_of(config: Config, stage: str) -> tuple[str, ...]:
    """The sections of `resources` that a stage's processes are of. Method rejection has no amateur."""
    only = stage == "sampling" and config.sampling.method == "rejection"
    return ("expert",) if only else _STAGE_ROLES[stage]


def uses_gpus(config: Config, stages: Sequence[str] = STAGES) -> bool:
    """Whether a process of the stages asks for GPUs, or leaves it to `auto`."""
    roles = [role for stage in stages for role in roles_of(config, stage)]
    return any(getattr(config.resources, role).gpus != 0 for role in roles)


class EndpointConfig(Tree):
    """An evaluation of models behind somebody's endpoint."""

    endpoint: str = setting("answers", pattern=r"^https?://")
    """Base URL of an OpenAI-compatible API."""
    models: list[str] = setting("answers", min_length=1)
    """Names served there, the one to compare with first: A,B."""
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models = {','.join(self.models)} names one twice")
        asked = self.evaluation
        if asked.protocol != "same" and asked.paper.expert_prompt == AUTO:
            raise ValueError(
                "evaluation.paper.expert_prompt = auto: an endpoint does not show what its models are; give "
                "completion or chat"
            )
        return self


class ServeConfig(Tree):
    """Model directories to serve."""

    models: dict[str, str] = setting("answers", min_length=1)
    """Served names and their directories: NAME=DIR,NAME=DIR."""
    serving: Serving = Serving()
    resources: Resources = setting("speed", default=Resources())


def _default(kind: Any, name: str) -> Any:
    """The value of a field in a tree that does not have it, None where it needs one."""
    parts, default = name.split("."), None
    for depth, field in enumerate(fields_of(kind, name), start=1):
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        if isinstance(default, Section):  # which may say otherwise than its fields
            default = default.model_dump(mode="json")
        if isinstance(default, dict):
            return value_at(default, ".".join(parts[depth:]))
    return default


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted names to values, of nested and dotted names alike."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """A nested tree of dotted names and their values."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, last = name.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[last] = value
    return tree


def value_at(tree: Any, name: str) -> Any:
    """The value of a dotted name in a nested tree, None where there is none."""
    for part in name.split("."):
        tree = tree.get(part) if isinstance(tree, dict) else None
    return tree
