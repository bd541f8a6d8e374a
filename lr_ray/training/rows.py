"""Rows of any length in one forward, one after another, so that padding exists inside attention alone.

Everything in a decoder but attention works token by token, so the rows' tokens are one long row to it.
Attention gets them right-padded, without a mask: as it is causal, no real token sees the padding after
its row. Exercised by `pytest tests/unit/test_rows.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_NAME = "lr_ray_rows"
# Models in which nothing but attention mixes tokens.
_TOKENWISE = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_MOST_PADDED = 2  # times the tokens that attention may get at once


class Padded:
    """B neighbouring rows of N tokens together, as `[B, T, ...]` with padding on the right."""

    def __init__(self, start: int, lengths: Sequence[int], device: torch.device) -> None:
        self.rows, self.longest = len(lengths), max(lengths)
        self.tokens = slice(start, start + sum(lengths))
        self.place_N: Tensor | None = None  # in [B * T]; of rows of one length none is needed
        if min(lengths) < self.longest:
            places = [torch.arange(n) + i * self.longest for i, n in enumerate(lengths)]
            self.place_N = torch.cat(places).to(device)

    def pad(self, x: Tensor) -> Tensor:
        """`[N, ...]` to `[B, T, ...]`, with zeros in the padding."""
        if self.place_N is not None:
            size = (self.rows * self.longest, *x.shape[1:])
            x = x.new_zeros(size).index_copy(0, self.place_N, x)
        return x.reshape(self.rows, self.longest, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` to `[N, ...]`."""
        x = x.flatten(0, 1)
        return x if self.place_N is None else _Select.apply(x, self.place_N)


class _Select(torch.autograd.Function):
    """`index_select` along the first axis for an index without repeats, whose backward adds nothing up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.size = x.shape
        return x.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return gradient.new_zeros(ctx.size).index_copy_(0, index, gradient), None


def together(lengths: Sequence[int], device: torch.device) -> Padded:
    """All rows as one padded tensor."""
    return Padded(0, lengths, device)


def in_groups(lengths: Sequence[int], device: torch.device) -> list[Padded]:
    """Runs of rows, in their order, of which none has more padding than tokens."""
    runs: list[list[int]] = [[]]
    for length in lengths:
        run = [*runs[-1], length]
        if max(run) * len(run) <= _MOST_PADDED * sum(run):
            runs[-1] = run
        else:
            runs.append([length])
    starts = [sum(map(sum, runs[:i])) for i in range(len(runs))]
    return [Padded(start, run, device) for start, run in zip(starts, runs, strict=True)]


def install(model: Any) -> bool:
    """Makes a causal model attend within rows; False for one that has to get its rows padded.

    Its body takes them as `input_ids` and `position_ids` `[1, N]` and `groups` of `in_groups`. Without
    `groups` it attends as it did.
    """
    from transformers import AttentionInterface

    windows = "sliding_attention" in (getattr(model.config, "layer_types", None) or ())
    if type(model).__name__ not in _TOKENWISE or windows:
        return False
    AttentionInterface.register(_NAME, _attention)
    model.set_attn_implementation(_NAME)
    return True


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    groups: Sequence[Padded] | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Transformers' scaled dot-product attention over `[1, heads, N, head width]`, row by row."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward as attend

    if groups is None:
        return attend(module, query, key, value, attention_mask, **options)
    parts = []
    for group in groups:
        padded = [
            group.pad(x.transpose(1, 2)[0, group.tokens]).transpose(1, 2)
            for x in (query, key, value)
        ]
        parts.append(group.unpad(attend(module, *padded, None, **options)[0]))
    return torch.cat(parts)[None] if len(parts) > 1 else parts[0][None], None
