"""The config as one tree, and which of its fields can change a result."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self, get_origin

from pydantic import Field, model_validator
from pydantic.fields import FieldInfo

from lr_ray.config.resources import AUTO, Resources
from lr_ray.config.section import Section
from lr_ray.config.sections import (
    Data,
    Evaluation,
    Models,
    Sampling,
    Serving,
    Training,
)


class Tree(Section):
    """Sections of which some fields can change a result."""

    def identity(self) -> dict[str, Any]:
        """Dotted name to value of every field that can change a result."""
        flat = flatten(self.model_dump(mode="json"))
        return {name: value for name, value in flat.items() if not _EXECUTION.search(name)}

    def digest(self) -> str:
        """sha256 (hex, first 16) of `identity`: equal runs have equal digests."""
        text = json.dumps(self.identity(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def differences(self, other: dict[str, Any]) -> list[str]:
        """Dotted names of `identity` fields whose value in the dumped tree `other` is another.

        A field that `other` lacks, as an older version's tree may, has its default there.
        """
        there = flatten(other)
        return [
            name
            for name, value in self.identity().items()
            if (there[name] if name in there else _default(type(self), name)) != value
        ]

    @classmethod
    def unknown(cls, tree: dict[str, Any]) -> list[str]:
        """Dotted names in `tree` of which this version has no field."""
        return [name for name in flatten(tree) if _field(cls, name) is None]


class Config(Tree):
    """A run of the pipeline."""

    models: Models
    data: Data = Data()
    sampling: Sampling = Sampling()
    training: Training = Training()
    serving: Serving = Serving()
    evaluation: Evaluation = Evaluation()
    resources: Resources = Resources()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name in ("amateur", "trainer"):
            gpus = getattr(self.resources, name).gpus
            if gpus != AUTO and gpus > 1:
                raise ValueError(f"resources.{name}.gpus must be at most 1: its model is not split")
        if self.evaluation.max_new_tokens >= self.serving.max_model_len:
            raise ValueError(
                f"evaluation.max_new_tokens = {self.evaluation.max_new_tokens} leaves no room for a "
                f"prompt in serving.max_model_len = {self.serving.max_model_len}"
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

    endpoint: str = Field(
        pattern=r"^https?://", description="Base URL of an OpenAI-compatible API."
    )
    models: list[str] = Field(
        min_length=1, description="Names served there, the one to compare with first: A,B."
    )
    evaluation: Evaluation = Evaluation()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.models)) < len(self.models):
            raise ValueError(f"models = {','.join(self.models)} names one twice")
        return self


class ServeConfig(Tree):
    """Model directories to serve."""

    models: dict[str, str] = Field(
        min_length=1, description="Served names and their directories: NAME=DIR,NAME=DIR."
    )
    serving: Serving = Serving()
    resources: Resources = Resources()


# Where and how fast, but not what: a run may go on with other values of these.
_EXECUTION = re.compile(
    r"^serving\.(host|port|min_replicas|max_replicas|replica_requests|max_requests|drain_s)$"
    r"|^evaluation\.(concurrency|timeout_s)$|^sampling\.(batch_size|max_rejected)$"
    r"|^training\.(zero_stage|micro_batch_tokens|gradient_checkpointing|checkpoint_every|trackers)$"
    r"|\.(min_engines|max_engines|num_workers|min_workers)$|^resources\."
)


def _field(kind: Any, name: str) -> FieldInfo | None:
    """The field of a dotted name, or the mapping that it is an entry of."""
    field = None
    for part in name.split("."):
        if field is not None and get_origin(field.annotation) is dict:
            return field
        fields = getattr(kind, "model_fields", {})
        if part not in fields:
            return None
        field, kind = fields[part], fields[part].annotation
    return field


def _default(kind: Any, name: str) -> Any:
    field = _field(kind, name)
    return field.get_default(call_default_factory=True) if field else None


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
