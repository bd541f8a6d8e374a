"""How many optimizer steps there are, and the learning rate of each."""

import math

from lr_ray.config import Training
from lr_ray.config.resources import AUTO


def settled(training: Training, kept_steps: int, trajectories: int) -> Training:
    """With a number of optimizer steps, of which `auto` takes one pass over what batches are drawn from."""
    if training.optimizer_steps != AUTO:
        return training
    items = trajectories if training.batch_by == "trajectory" else kept_steps
    return training.model_copy(update={"optimizer_steps": math.ceil(items / training.batch_size)})


def learning_rate(step: int, training: Training) -> float:
    """Rate of optimizer step `step`, counted from 0: linear warm-up, then the schedule down to 0."""
    warmup = round(training.warmup * training.optimizer_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    left = (training.optimizer_steps - step) / max(1, training.optimizer_steps - warmup)
    shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
    return training.learning_rate * shapes[training.schedule]
