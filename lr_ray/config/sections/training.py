"""Section `training`: the optimizer steps on what was kept."""

from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field, model_validator

from lr_ray import plugins
from lr_ray.config.effects import On, setting
from lr_ray.config.resources import AUTO, AutoOr
from lr_ray.config.section import Section
from lr_ray.config.sections.common import Dtype, Fraction, Processes

if TYPE_CHECKING:
    Steps: TypeAlias = int  # training sees numbers only
else:
    Steps = AutoOr[Annotated[int, Field(ge=1)]]

LORA = ("training.method", "lora")


class Lora(Section):
    rank: int = Field(default=8, ge=1, le=1024)
    """Rank of the update."""
    alpha: float = Field(default=16, gt=0)
    """Scale of the update, divided by the rank."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    """Dropout before the update."""
    targets: list[str] = Field(default=["q_proj", "v_proj"], min_length=1)
    """Layers that get an update."""


class Training(Section):
    method: Literal["lora", "full"] = setting("weights", default="lora")
    """Weights that are trained: LoRA's, or all."""
    backend: Annotated[str, AfterValidator(plugins.backends.check)] = setting(
        "weights", default="deepspeed"
    )
    """What makes the optimizer steps: deepspeed, or a plugin's."""
    optimizer_steps: Steps = setting("weights", default=1000)
    """Optimizer steps; auto goes once through the kept steps (or trajectories), the last batch filled up."""
    batch_by: Literal["step", "trajectory"] = setting("weights", default="step")
    """What a batch is drawn from: kept steps, or trajectories with all of their kept steps."""
    batch_size: int = setting("weights", default=16, ge=1, le=65536)
    """Kept steps (or trajectories) in a batch."""
    learning_rate: float = setting("weights", default=5e-5, gt=0, le=1)
    """Peak learning rate."""
    warmup: Fraction = setting("weights", default=0.0)
    """Fraction of the optimizer steps in which the rate rises from 0."""
    schedule: Literal["constant", "linear", "cosine"] = setting("weights", default="linear")
    """Learning rate after the warm-up."""
    max_grad_norm: float = setting("weights", default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    weight_decay: float = setting("weights", default=0.0, ge=0, le=1)
    """AdamW weight decay."""
    seed: int = setting("weights", default=0, ge=0)
    """Seed of batches, LoRA weights and dropout."""
    dtype: Dtype = setting("weights", default="bfloat16")
    """Data type of the frozen weights."""
    lora: Lora = setting(On("weights", LORA), default=Lora())
    zero_stage: int = setting("speed", default=2, ge=2, le=3)
    """DeepSpeed ZeRO stage, 2 or 3."""
    num_workers: Processes = setting("speed", default=AUTO)
    """Data-parallel workers; auto takes the GPUs there are, with at least four of a batch's items each, and
    one on CPUs."""
    min_workers: int | None = setting("speed", default=None, ge=1)
    """Workers to continue with when there is no room for num_workers; null waits for room."""
    micro_batch_tokens: int = setting("speed", default=8192, ge=1)
    """Tokens of one forward pass, padding included, at most."""
    gradient_checkpointing: bool = setting("speed", default=False)
    """Recompute activations in the backward pass instead of keeping them."""
    checkpoint_every: int = setting("speed", default=50, ge=1)
    """Optimizer steps from one checkpoint to the next."""
    trackers: list[Literal["tensorboard", "mlflow", "wandb"]] = setting(
        "speed", default=["tensorboard"]
    )
    """Where metrics go beside metrics.jsonl; mlflow and wandb are configured by their own environment
    variables."""

    @property
    def workers(self) -> int:
        """`num_workers`, or what `auto` is where no GPU is."""
        return 1 if self.num_workers == AUTO else self.num_workers

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        given = self.num_workers != AUTO
        if given and self.min_workers is not None and self.min_workers > self.workers:
            raise ValueError(f"min_workers = {self.min_workers} exceeds num_workers")
        return self
