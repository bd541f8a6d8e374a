"""Section `serving`: the endpoint."""

from typing import Self

from pydantic import model_validator

from lr_ray.config.effects import setting
from lr_ray.config.resources import AUTO
from lr_ray.config.section import Section
from lr_ray.config.sections.common import Dtype, Processes

# Ranks of adapters that vLLM has room for (`vllm.config.lora.MaxLoRARanks`).
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


class Serving(Section):
    host: str = setting("speed", default="127.0.0.1", min_length=1)
    """Address to bind."""
    port: int = setting("speed", default=8000, ge=1, le=65535)
    """Port to bind."""
    min_replicas: Processes = setting("speed", default=AUTO)
    """Replicas of each model, at least; auto is one, and in an evaluation of a run as many as the GPUs have
    room for."""
    max_replicas: int | None = setting("speed", default=None, ge=1, le=1024)
    """Replicas of each model under load, at most; null stays at min_replicas."""
    replica_requests: int = setting("speed", default=64, ge=1, le=4096)
    """Requests under way in a replica beyond which another replica is started."""
    dtype: Dtype = setting("answers", default="bfloat16")
    """Data type of weights and activations."""
    max_model_len: int = setting("answers", default=4096, ge=16)
    """Tokens of prompt and answer; of models that are served by their directories the default is at most what
    they read."""
    adapters: bool = setting("answers", default=False)
    """Serve improved experts as LoRA adapters on one engine of the expert, instead of each merged model on
    its own: one start and one set of weights for any number of them."""
    max_requests: int = setting("speed", default=1024, ge=1, le=65536)
    """Requests under way at once; more are answered 429, to be tried again."""
    drain_s: float = setting("speed", default=60.0, ge=0, le=3600)
    """Seconds that requests under way get to finish when the endpoint ends, or one of several replicas."""

    @property
    def replicas(self) -> int:
        """`min_replicas`, or what `auto` is for an endpoint of any models."""
        return 1 if self.min_replicas == AUTO else self.min_replicas

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.max_replicas is not None and self.replicas > self.max_replicas:
            raise ValueError(f"min_replicas = {self.min_replicas} exceeds max_replicas")
        return self
