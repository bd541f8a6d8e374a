"""Rows of any length in one forward, one after another, so that padding exists inside attention alone.

All of a decoder except attention works token by token, so the tokens of all rows form one long row there.
Attention gets the rows padded on the right, without a mask: it is causal, so no real token sees the
padding after its row. Exercised by `pytest tests/unit/test_rows.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

_NAME = "lr_ray_rows"
# Models in which nothing but attention mixes tokens.
_TOKENWISE = ("LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
_MOST_PADDED = 2  # times the tokens that attention may get at once


class Padded:
    """B neighbouring rows of N tokens together, as `[B, T, ...]` with padding on the right."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self.rows, self.longest = len(lengths), max(lengths)
        self.tokens = sum(lengths)
        self.is_full = min(lengths) == self.longest
        if not self.is_full:
            is_token_BT = np.arange(self.longest) < np.array(lengths)[:, None]
            place_N = np.flatnonzero(is_token_BT)
            token_BT = np.zeros(is_token_BT.size, np.int64)
            token_BT[place_N] = np.arange(self.tokens)
            self.place_N, self.token_BT = (
                torch.from_numpy(index).to(device) for index in (place_N, token_BT)
            )

    def pad(self, x: Tensor) -> Tensor:
        """`[N, ...]` to `[B, T, ...]`, with the first token in the padding."""
        if not self.is_full:
            x = _Pad.apply(x, self.token_BT, self.place_N)
        return x.reshape(self.rows, self.longest, *x.shape[1:])

    def unpad(self, x: Tensor) -> Tensor:
        """`[B, T, ...]` to `[N, ...]`."""
        x = x.flatten(0, 1)
        return x if self.is_full else _Unpad.apply(x, self.place_N)


class _Pad(torch.autograd.Function):
    """Leaves the gradients of the padding out, which are zero where no real token sees it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, token_BT: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        return x.index_select(0, token_BT)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.index_select(0, ctx.saved_tensors[0]), None, None


class _Unpad(torch.autograd.Function):
    """`index_select`, whose backward knows that no place is taken twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, place_N: Tensor) -> Tensor:
        ctx.save_for_backward(place_N)
        ctx.size = x.shape
        return x.index_select(0, place_N)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient.new_zeros(ctx.size).index_copy_(0, ctx.saved_tensors[0], gradient), None


def in_groups(lengths: Sequence[int], device: torch.device) -> list[Padded]:
    """Runs of rows, in their order, of which none has more padding than tokens."""
    runs: list[list[int]] = [[]]
    for length in lengths:
        run = [*runs[-1], length]
        if max(run) * len(run) <= _MOST_PADDED * sum(run):
            runs[-1] = run
        else:
            runs.append([length])
    return [Padded(run, device) for run in runs]


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
    if _lacks_grouped_heads(query):
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], 1) for x in (key, value))
    heads = [x.shape[1] for x in (query, key, value)]
    # Together, so that they are padded at once.
    mixed = torch.cat([x.transpose(1, 2).squeeze(0) for x in (query, key, value)], dim=1)
    pieces = [mixed] if len(groups) == 1 else mixed.split([group.tokens for group in groups])
    parts = []
    for group, piece in zip(groups, pieces, strict=True):
        padded = group.pad(piece).transpose(1, 2).split(heads, dim=1)
        parts.append(group.unpad(attend(module, *padded, None, **options)[0]))
    return (torch.cat(parts) if len(parts) > 1 else parts[0])[None], None


def _lacks_grouped_heads(query: Tensor) -> bool:
    """Whether torch attends to fewer heads of keys and values by its slow way alone, which keeps all scores.

    Of its kernels for GPUs the one for grouped heads (flash) takes no float32, and the one that takes it
    (memory-efficient) wants as many heads of each (ATen, sdp_utils.cpp).
    """
    return query.is_cuda and query.dtype == torch.float32
