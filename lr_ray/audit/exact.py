"""A trajectory's exact KL and soft labels: transformers in float32 over the full vocabulary.

One forward of each model over prompt and completion. Shares no arithmetic with `lr_ray.method.contrast` and
needs neither vLLM nor Ray, so that `lr_ray.audit.audit` can check what those made. Shape suffixes:
T steps, K tokens, V the expert's output rows, W the amateur's.
Exercised by `pytest tests/unit/test_audit.py`.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lr_ray.errors import StageError

CHUNK_STEPS = 256  # rows of logits alive at once: 0.16 GB a model at 152k tokens in float32
FLOOR = 1e-7  # a float32 sum of probabilities is not known better


@dataclass
class Recomputed:
    """A trajectory's exact values in nats; the arrays are float64 `[T]`."""

    kl: np.ndarray  # over the full vocabulary
    kl_at_k: np.ndarray  # with all but the exchanged tokens lumped
    lacked: np.ndarray  # expert's probability of ids that the amateur lacks
    behind: np.ndarray  # log-probability of the most probable token minus that of the greedy one
    label: dict[int, float]  # largest difference of a weight, by position of the kept step
    at_edge: int  # labels that differ by a token on the edge of the plausible set


@torch.inference_mode()
def recompute(
    expert: Any, amateur: Any, row: dict[str, Any], top_k: int, plausibility: float, tie: float
) -> Recomputed:
    """A supervision row's exact values; `tie` as in `label_difference`.

    The exchanged tokens are the expert's `top_k` and the rest of its plausible set.
    """
    first = len(row["prompt_token_ids"])
    tokens = torch.tensor(row["prompt_token_ids"] + row["completion_token_ids"]).to(expert.device)
    kept = {step["position"]: step for step in row["steps"]}
    columns, label, at_edge, start = [], {}, 0, 0
    for log_p_TV, log_q_TW in zip(
        logprobs(expert, tokens, first), logprobs(amateur, tokens, first), strict=True
    ):
        stop = start + len(log_p_TV)
        top_T = log_p_TV.amax(1)
        exchanged_TV = log_p_TV >= top_T[:, None] + math.log(plausibility)
        exchanged_TV.scatter_(1, log_p_TV.topk(top_k, sorted=False).indices, True)
        greedy_T1 = tokens[first + start : first + stop, None]
        columns.append(
            (
                lumped_kl(log_p_TV, log_q_TW, torch.ones_like(exchanged_TV)),
                lumped_kl(log_p_TV, log_q_TW, exchanged_TV),
                log_p_TV[:, log_q_TW.shape[1] :].exp().sum(1),
                top_T - log_p_TV.gather(1, greedy_T1)[:, 0],
            )
        )
        for position in kept.keys() & set(range(start, stop)):
            t = position - start
            label[position], edge = label_difference(
                kept[position], log_p_TV[t], log_q_TW[t], plausibility, tie
            )
            at_edge += edge
        start = stop
    arrays = [torch.cat(column).double().cpu().numpy() for column in zip(*columns, strict=True)]
    kl, kl_at_k, lacked, behind = arrays
    if not np.isfinite(arrays).all():
        raise StageError(f"supervision row {row['problem_id']}: recomputed values are not finite")
    return Recomputed(kl, kl_at_k, lacked, behind, label, at_edge)


def logprobs(model: Any, tokens: Tensor, first: int) -> Iterator[Tensor]:
    """float32 log-softmax of the rows that predict `tokens[first:]`, CHUNK_STEPS at a time."""
    cache, begin = None, 0
    for start in range(first, len(tokens), CHUNK_STEPS):
        stop = min(start + CHUNK_STEPS, len(tokens))
        output = model(
            input_ids=tokens[None, begin : stop - 1],
            past_key_values=cache,
            use_cache=len(tokens) - first > CHUNK_STEPS,
            logits_to_keep=stop - start,
        )
        yield output.logits[0].float().log_softmax(-1)
        cache, begin = output.past_key_values, stop - 1


def lumped_kl(log_p_TV: Tensor, log_q_TW: Tensor, named_TV: Tensor) -> Tensor:
    """KL(p || q) in nats, float64 `[T]`; ids that are not named, or in one model only, are lumped."""
    common = min(log_p_TV.shape[1], log_q_TW.shape[1])
    named = named_TV[:, :common]
    log_p, log_q = log_p_TV[:, :common], log_q_TW[:, :common]
    p, q = log_p.exp(), log_q.exp()
    inside = (p * (log_p - log_q)).masked_fill(~named, 0).sum(1, dtype=torch.float64)
    tail_p, tail_q = (
        known.masked_fill(named, 0).sum(1, dtype=torch.float64)
        + whole[:, common:].exp().sum(1, dtype=torch.float64)
        for known, whole in ((p, log_p_TV), (q, log_q_TW))
    )
    return inside + tail_p * (tail_p.clamp(min=FLOOR).log() - tail_q.clamp(min=FLOOR).log())


def label_difference(
    step: dict[str, Any], log_p_V: Tensor, log_q_W: Tensor, plausibility: float, tie: float
) -> tuple[float, bool]:
    """Largest difference of a weight over the union of recorded and exact label.

    A token within `tie` nats of the edge of the plausible set is in or out as recorded; the second
    value says whether that made a difference.
    """
    common = min(len(log_p_V), len(log_q_W))
    cut = log_p_V.max().item() + math.log(plausibility)
    theirs = dict(zip(step["token_ids"], step["weights"], strict=True))
    ratio: dict[int, float] = {}
    at_edge = False
    for token in torch.nonzero(log_p_V[:common] >= cut - tie)[:, 0].tolist():
        log_p = log_p_V[token].item()
        member = token in theirs if abs(log_p - cut) <= tie else log_p >= cut
        at_edge |= member != (log_p >= cut)
        if member:
            ratio[token] = log_p - log_q_W[token].item()
    largest = max(ratio.values(), default=0.0)
    exact = {token: math.exp(value - largest) for token, value in ratio.items()}
    total = sum(exact.values())
    return max(
        abs(exact.get(token, 0.0) / (total or 1.0) - theirs.get(token, 0.0))
        for token in exact.keys() | theirs.keys()
    ), at_edge
