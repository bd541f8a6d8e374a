"""What each kind of process asks the cluster for: the one section that differs from laptop to cluster.

`auto` stands for what `lr_ray.placement.arrange` chooses by the models' sizes and the GPUs there are. A
config that has been through it holds numbers only, and stages see no other.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from lr_ray.config.section import Section

AUTO: Literal["auto"] = "auto"
ROLES = ("expert", "amateur", "trainer", "server")
_RAYS_OWN = {"CPU", "GPU", "memory", "object_store_memory"}  # names of resources
_LEAST = 1e-4  # of a resource, in Ray
NUMBER = "number"  # tag of the other branch, as it stands in pydantic's errors


def _whole_or_shared(gpus: float) -> float:
    if gpus > 1 and gpus != int(gpus):
        raise ValueError("must be a fraction of one GPU or a whole number of them")
    return gpus


Kind = TypeVar("Kind")
# The type of a field that is `auto` or of a kind.
AutoOr = Annotated[
    Annotated[Literal["auto"], Tag(AUTO)] | Annotated[Kind, Tag(NUMBER)],
    Discriminator(lambda value: AUTO if value == AUTO else NUMBER),
]


if TYPE_CHECKING:  # stages see numbers only
    Gpus = float
else:
    Gpus = AutoOr[Annotated[float, Field(ge=0, le=64), AfterValidator(_whole_or_shared)]]


class Place(Section):
    gpus: Gpus = cast(float, AUTO)
    """GPUs: 0 is CPU only, a fraction shares one, 2 or more split the model; auto chooses by the models'
    sizes and the GPUs there are."""
    cache_gb: float | None = Field(default=None, gt=0, le=1e4)
    """GB (1e9 bytes) of each GPU for an engine's keys and values; null leaves it to gpus: auto, or to vLLM,
    which takes 0.9 of the share. Trainers have none."""
    cpus: float = Field(default=1, ge=0, le=256)
    """CPUs; without GPUs the threads of the process, too."""
    memory_gb: float | None = Field(default=None, gt=0)
    """Main memory in GB that Ray sets aside; null for none."""
    accelerator: str | None = Field(default=None, min_length=1)
    """Type of GPU as Ray names it, such as A100 or H100."""
    custom: dict[str, Annotated[float, Field(gt=0)]] = Field(default={})
    """Custom resources of the nodes meant for it, such as lr_ray_expert: 1."""

    @model_validator(mode="after")
    def _is_what_ray_takes(self) -> Self:
        if taken := sorted(_RAYS_OWN & self.custom.keys()):
            raise ValueError(f"custom: {', '.join(taken)}: give cpus, gpus or memory_gb instead")
        for name, amount in self.bundle().items():
            if amount != AUTO and amount < _LEAST:
                raise ValueError(f"{name} = {amount:g}: must be 0, or at least {_LEAST:g}")
        return self

    def bundle(self) -> dict[str, float]:
        """Ray's names of what is asked for, as in a placement group."""
        found = {"CPU": self.cpus, "GPU": self.gpus, "memory": (self.memory_gb or 0) * 1e9}
        if self.accelerator:
            found[f"accelerator_type:{self.accelerator}"] = 0.001
        return {name: amount for name, amount in {**found, **self.custom}.items() if amount}

    def options(self) -> dict[str, Any]:
        """The same as options of an actor or a task."""
        rest = self.bundle()
        named = {"num_cpus": rest.pop("CPU", 0), "num_gpus": rest.pop("GPU", None)}
        return {**named, "memory": rest.pop("memory", None), "resources": rest}


class Resources(Section):
    expert: Place = Place()
    """An engine of the expert."""
    amateur: Place = Place()
    """An engine of the amateur."""
    trainer: Place = Place()
    """A training worker."""
    server: Place = Place()
    """A replica of a served model."""
    sampling: Literal["auto", "together", "apart"] = AUTO
    """Whether expert and amateur hold their GPUs together, or one after the other with the trajectories kept
    on disk in between."""
    evaluation: Literal["auto", "together", "apart"] = AUTO
    """Whether both models are served together, or one after the other."""
    wait_s: float = Field(default=900.0, ge=0, le=86400)
    """Seconds to wait for nodes with room, on a cluster that the job did not start."""

    @model_validator(mode="after")
    def _asks(self) -> Self:
        for name in ("trainer", "server"):  # Ray places these by what they ask for
            place = getattr(self, name)
            if place.gpus != AUTO and not place.bundle():
                raise ValueError(f"{name} asks for nothing; give it cpus or gpus")
        return self
