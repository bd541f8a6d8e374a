"""LoRA dropout whose masks belong to the trajectory and the optimizer step, not to the worker.

A mask follows from seed, optimizer step, trajectory and layer alone. So one worker and many train the
same, micro-batches may be cut anyhow, a resumed run draws what the undisturbed one would have, and
recomputed activations (gradient checkpointing) meet the same mask, all without carrying random states.
"""

import hashlib
from typing import Any

import torch
from torch import Tensor, nn


class Draw:
    """What the masks of the forward under way are drawn from; shared by all layers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.index_B: list[int] = []
        self.length_B: list[int] = []

    def generator(self, row: int, layer: int, device: torch.device) -> torch.Generator:
        key = f"{self.seed} {self.step} {self.index_B[row]} {layer}".encode()
        number = int.from_bytes(hashlib.blake2b(key, digest_size=7).digest(), "big")
        return torch.Generator(device).manual_seed(number)


class TrajectoryDropout(nn.Module):
    """Dropout of `[B, T, H]` inputs; row b gets the mask of its own trajectory."""

    def __init__(self, p: float, layer: int, draw: Draw) -> None:
        super().__init__()
        self.p, self.layer, self.draw = p, layer, draw

    def forward(self, x_BTH: Tensor) -> Tensor:
        if not self.training:
            return x_BTH
        keep = torch.zeros_like(x_BTH)
        for row, length in enumerate(self.draw.length_B):
            generator = self.draw.generator(row, self.layer, x_BTH.device)
            # Of the row's own length, as padding differs with the rows beside it.
            keep[row, :length].bernoulli_(1 - self.p, generator=generator)
        return x_BTH * keep / (1 - self.p)


def install(model: Any, p: float, seed: int) -> Draw:
    """Puts it in the place of PEFT's dropout in every LoRA layer of the model."""
    draw = Draw(seed)
    layers = [module for module in model.modules() if hasattr(module, "lora_dropout")]
    for number, module in enumerate(layers):
        for name in module.lora_dropout:
            mine = TrajectoryDropout(p, number, draw) if p > 0 else nn.Identity()
            module.lora_dropout[name] = mine.train(module.training)
    return draw
