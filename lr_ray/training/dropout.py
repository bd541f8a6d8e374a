"""LoRA dropout whose masks belong to the trajectory and the optimizer step, not to the worker.

A mask follows from seed, optimizer step, trajectory and layer alone. So one worker and many train the
same, micro-batches may be cut anyhow, a resumed run draws what the undisturbed one would have, and
recomputed activations (gradient checkpointing) meet the same mask, all without carrying random states.

A trajectory draws once in a forward: a 32-bit number for each of its tokens and features. Each layer
multiplies them by an odd number of its own modulo 2^32, which permutes the 32-bit numbers, and drops
where the product is among the p * 2^32 smallest. The masks of two layers depend on each other only where
small multiples of their factors agree modulo 2^32, which random factors make improbable. One draw and
three operations a layer, whatever the number of rows, and four bytes a feature for all layers' masks.
Exercised by `pytest tests/unit/test_dropout.py`.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

_LEAST, _RANGE = -(2**31), 2**32  # of int32
_OWN = re.compile("drop(out)?(_p|_prob)?$|jitter_noise$")  # names of rates that models have


def _number(key: str, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=size).digest(), "big")


class Draw:
    """What the masks of the forward under way are drawn from; shared by all layers."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.step = 0
        self.width = 0  # features of the widest input
        self._numbers: Tensor | None = None

    def start(
        self, index_B: Sequence[int], length_B: Sequence[int], layout: Callable[[Tensor], Tensor]
    ) -> None:
        """Begins a forward over these trajectories; `layout` brings `[N, H]` into the inputs' shape."""
        self._rows, self._layout = list(zip(index_B, length_B, strict=True)), layout
        self._numbers = None

    def numbers(self, device: torch.device) -> Tensor:
        """int32, uniform, of the shape of the widest input."""
        if self._numbers is None:
            tokens, start = sum(length for _, length in self._rows), 0
            drawn = torch.empty(tokens, self.width, dtype=torch.int32, device=device)
            for index, length in self._rows:
                seed = _number(f"{self.seed} {self.step} {index}", 7)
                generator = torch.Generator(device).manual_seed(seed)
                row = drawn[start : start + length]
                row.random_(_LEAST, _LEAST + _RANGE, generator=generator)
                start += length
            self._numbers = self._layout(drawn)
        return self._numbers


class TrajectoryDropout(nn.Module):
    """Dropout of inputs whose last axis are features; each token gets its own trajectory's mask."""

    def __init__(self, p: float, layer: int, draw: Draw) -> None:
        super().__init__()
        self.p, self.draw = p, draw
        self.factor = (_number(f"layer {layer}", 4) | 1) + _LEAST

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        numbers = self.draw.numbers(x.device)[..., : x.shape[-1]]
        return _Drop.apply(x, numbers, self.factor, self.p)


class _Drop(torch.autograd.Function):
    """Keeps nothing for the backward but the numbers, which all layers share."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, factor: int, p: float) -> Tensor:
        ctx.save_for_backward(numbers)
        ctx.factor, ctx.p = factor, p
        return _drop(x, numbers, factor, p)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (numbers,) = ctx.saved_tensors
        return _drop(gradient, numbers, ctx.factor, ctx.p), None, None, None


def _drop(x: Tensor, numbers: Tensor, factor: int, p: float) -> Tensor:
    keep = numbers * factor >= _LEAST + round(p * _RANGE)
    return torch.ops.aten.native_dropout_backward(x, keep, 1 / (1 - p))  # x * keep * scale, fused


def install(model: Any, p: float, seed: int) -> Draw:
    """Replaces PEFT's dropout by it in every LoRA layer of the model, and takes the model's own out."""
    draw = Draw(seed)
    _take_out(model)
    layers = [module for module in model.modules() if hasattr(module, "lora_dropout")]
    for number, module in enumerate(layers):
        draw.width = max(draw.width, module.in_features)
        for name in module.lora_dropout:
            mine = TrajectoryDropout(p, number, draw) if p > 0 else nn.Identity()
            module.lora_dropout[name] = mine.train(module.training)
    return draw


def _take_out(model: Any) -> None:
    """Some configs ask for noise in training (`attention_dropout`) that would follow from nothing above."""
    for module in model.modules():
        for holder in (module, getattr(module, "config", None)):  # some read it there
            rates = [name for name in getattr(holder, "__dict__", ()) if _OWN.search(name)]
            rates += ["p"] if isinstance(holder, nn.Dropout) else []
            for name in rates:
                if isinstance(getattr(holder, name), float):
                    setattr(holder, name, 0.0)
