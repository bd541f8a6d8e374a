"""The learning rate of each optimizer step."""

import math

from lr_ray.config import Training


def learning_rate(step: int, training: Training) -> float:
    """Rate of optimizer step `step`, counted from 0: linear warm-up, then the schedule down to 0."""
    warmup = round(training.warmup * training.optimizer_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    left = (training.optimizer_steps - step) / max(1, training.optimizer_steps - warmup)
    shapes = {"constant": 1.0, "linear": left, "cosine": 0.5 * (1 - math.cos(math.pi * left))}
    return training.learning_rate * shapes[training.schedule]
