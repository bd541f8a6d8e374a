"""Section `sampling`: trajectories, scores and labels, or rejection sampling."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from lr_ray import plugins
from lr_ray.config.effects import On, setting
from lr_ray.config.resources import AUTO
from lr_ray.config.section import Section
from lr_ray.config.sections.common import (
    CONTRAST,
    OF_A_BATCH,
    REJECTION,
    Dtype,
    Fraction,
    Processes,
)

# Without a limit an engine's cache must have room for the longest sequence that its model reads, of Llama 3.2
# 131 072 tokens.
_ROOM = 4096


class Pool(Section):
    min_engines: int = setting("speed", default=1, ge=1, le=1024)
    """Engines, at least."""
    max_engines: Processes = setting("speed", default=AUTO)
    """Engines, at most; auto uses the GPUs there are, and min_engines on CPUs."""
    dtype: Dtype = "bfloat16"
    """Data type of weights and activations."""

    @property
    def most(self) -> int:
        """`max_engines`, or what `auto` is where no GPU is."""
        return self.min_engines if self.max_engines == AUTO else self.max_engines

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_engines > self.most:
            raise ValueError(f"min_engines = {self.min_engines} exceeds max_engines")
        return self


class Rejection(Section):
    samples: int = Field(default=4, ge=1, le=256)
    """Solutions sampled for each problem."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Temperature of these samples; 0 is greedy, of one sample a problem."""
    max_new_tokens: int | None = setting(
        On("trajectories", REJECTION, if_set=True), default=None, ge=1, le=32768
    )
    """Tokens of a solution, at most; null is sampling.max_new_tokens."""

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(
                f"samples = {self.samples} greedy solutions would be one and the same; give a temperature"
            )
        return self


class Sampling(Section):
    method: Literal["contrast", "rejection"] = setting("trajectories", default="contrast")
    """contrast: the amateur scores the expert's greedy steps. rejection (a baseline): the expert's sampled
    solutions with the right answer, all of their tokens; needs answers."""
    selection: Annotated[str, AfterValidator(plugins.selections.check)] = setting(
        On("rows", CONTRAST), default="kl"
    )
    """Steps kept: those above kl_threshold (kl), of these the first STEPS (first:STEPS) or a window
    (window:FIRST-LAST); as many as kl at random, of all steps of a batch (random) or of each trajectory
    (random_within); a share of a batch, by KL (top:SHARE) or by the expert's entropy (entropy:SHARE); a
    quadrant of both (quadrant:NAME); all; or a plugin's rule."""
    labels: Annotated[str, AfterValidator(plugins.labels.check)] = setting(
        On("rows", CONTRAST), default="contrast"
    )
    """Label of a kept step: p/q over the plausible tokens (contrast), also with a temperature
    (contrast:TEMPERATURE), the expert's p over them (expert), its greedy token (greedy), or a plugin's
    rule."""
    engine: Annotated[str, AfterValidator(plugins.engines.check)] = setting(
        "trajectories", default="vllm"
    )
    """What runs both models: vllm, or a plugin's engine."""
    max_problems: int = setting("trajectories", default=1000, ge=1)
    """Problems to solve, at most."""
    max_new_tokens: int = setting("trajectories", default=128, ge=1, le=32768)
    """Steps (generated tokens) of a trajectory, at most."""
    max_model_len: int | None = setting(On("trajectories", if_set=True), default=None, ge=16)
    """Tokens of prompt and trajectory that engines have room for; null is 4096, or twice a trajectory where
    that is more, and no more than the models read."""
    system_prompt: str | None = setting("trajectories", default=None)
    """System turn of the prompt; null for none."""
    kl_threshold: float = setting(On("rows", CONTRAST), default=0.4, ge=0, le=100)
    """Keep steps whose KL exceeds this, in nats (beta)."""
    plausibility: float = setting(
        On("trajectories", CONTRAST, if_less=True), On("rows", CONTRAST), default=0.2, gt=0, le=1
    )
    """Tokens of a label have at least this share of the step's top probability (alpha)."""
    top_k: int = setting(On("trajectories", CONTRAST), default=256, ge=2, le=8192)
    """Log-probabilities exchanged for each step, at most the whole vocabulary."""
    batch_size: int = setting(
        "speed", On("rows", CONTRAST, unless=64, rules=OF_A_BATCH), default=64, ge=1, le=4096
    )
    """Problems sent to an engine at once, and rows of a shard; by the selections random, top, entropy and
    quadrant also those among which steps are chosen."""
    max_rejected: Fraction = setting("speed", default=0.05)
    """Fraction of problems that may be rejected before the job fails."""
    seed: int = setting(On("rows", CONTRAST), On("trajectories", REJECTION), default=0, ge=0)
    """Seed of random steps and sampled solutions."""
    rejection: Rejection = setting(On("trajectories", REJECTION), default=Rejection())
    expert: Pool = setting("trajectories", default=Pool())
    amateur: Pool = setting(On("scores", CONTRAST), default=Pool())

    @property
    def limit(self) -> tuple[str, int]:
        """The field that bounds a trajectory, or by method rejection a solution, and its tokens."""
        if self.method == "rejection" and self.rejection.max_new_tokens:
            return "sampling.rejection.max_new_tokens", self.rejection.max_new_tokens
        return "sampling.max_new_tokens", self.max_new_tokens

    @property
    def longest(self) -> int:
        """Tokens of a trajectory or solution, at most."""
        return self.limit[1]

    @property
    def samples(self) -> int:
        """Solutions of a problem."""
        return self.rejection.samples if self.method == "rejection" else 1

    @property
    def sequences(self) -> int:
        """Sequences that a batch of problems is decoded in."""
        return self.batch_size * self.samples

    @property
    def room(self) -> int:
        """Tokens of prompt and trajectory, at most, of models that read as many."""
        return self.max_model_len or max(_ROOM, 2 * self.longest)

    @model_validator(mode="after")
    def _fits_a_column(self) -> Self:
        values = self.batch_size * self.max_new_tokens * self.top_k
        if values >= 2**31:
            raise ValueError(
                f"batch_size * max_new_tokens * top_k = {values} log-probabilities are too many for "
                "one batch; keep them below 2147483648"
            )
        return self
