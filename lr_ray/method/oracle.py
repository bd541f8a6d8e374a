"""LightReasoner once, plainly: one process, transformers only, one problem and one step at a time.

The reference that the pipeline is tested against and measured against. It shares no arithmetic with
the rest of the package: float32, full vocabulary, one amateur forward for each prefix, one training
forward for each kept step. The method is that of arXiv 2510.07962; beta is `kl_threshold`, alpha is
`plausibility`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM


@dataclass
class KeptStep:
    """A step above the threshold: its context and its soft label over the plausible set."""

    context: list[int]
    token_ids: list[int]
    weights: list[float]


@dataclass
class Solution:
    """A greedy trajectory with the KL of each of its steps, in nats."""

    prompt: list[int]
    completion: list[int] = field(default_factory=list)
    kl: list[float] = field(default_factory=list)
    kept: list[KeptStep] = field(default_factory=list)


def load(path: str) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def next_token_logprobs(model: torch.nn.Module, context: list[int]) -> Tensor:
    """log pi(. | context), float32 [V]."""
    return model(input_ids=torch.tensor([context])).logits[0, -1].float().log_softmax(-1)


def step_kl(log_p_V: Tensor, log_q_V: Tensor) -> float:
    """D_KL(p || q) over the expert's vocabulary: the step is kept above beta."""
    return (log_p_V.exp() * (log_p_V - log_q_V)).sum().item()


def soft_label(log_p_V: Tensor, log_q_V: Tensor, plausibility: float) -> tuple[Tensor, Tensor]:
    """Ids of the plausible set (by alpha) and the label: p / q normalised over it."""
    p, q = log_p_V.exp(), log_q_V.exp()
    ids = torch.nonzero(p >= plausibility * p.max())[:, 0]
    ratio = p[ids] / q[ids]
    return ids, ratio / ratio.sum()


@torch.no_grad()
def solve(
    expert: torch.nn.Module,
    amateur: torch.nn.Module,
    prompt: list[int],
    stop_ids: list[int],
    max_new_tokens: int,
    kl_threshold: float,
    plausibility: float,
) -> Solution:
    """The expert decodes greedily; each prefix is scored by the amateur from scratch."""
    solution = Solution(prompt)
    for _ in range(max_new_tokens):
        context = prompt + solution.completion
        log_p = next_token_logprobs(expert, context)
        log_q = next_token_logprobs(amateur, context)[: len(log_p)]
        kl = step_kl(log_p, log_q)
        solution.kl.append(kl)
        if kl > kl_threshold:
            ids, weights = soft_label(log_p, log_q, plausibility)
            kept = KeptStep(context, ids.tolist(), weights.tolist())
            solution.kept.append(kept)
        token = int(log_p.argmax())
        solution.completion.append(token)
        if token in stop_ids:
            break
    return solution


def unpacked(trajectories: Sequence[Any], pairs: Iterable[tuple[int, int]]) -> list[KeptStep]:
    """A batch of packed training (`training.batches.plan`) as kept steps of their own."""
    batch = []
    for t, s in pairs:
        step = trajectories[t].steps[s]
        context = trajectories[t].token_ids[: step.row + 1].tolist()
        batch.append(KeptStep(context, step.token_ids.tolist(), step.weights.tolist()))
    return batch


def batch_loss(model: torch.nn.Module, batch: list[KeptStep]) -> Tensor:
    """Mean over kept steps of -sum_a v(a) log pi(a | context), one forward each."""
    total = torch.zeros(())
    for step in batch:
        logprobs = next_token_logprobs(model, step.context)
        total = total - (torch.tensor(step.weights) * logprobs[step.token_ids]).sum()
    return total / len(batch)


def train(
    model: torch.nn.Module,
    batches: list[list[KeptStep]],
    learning_rates: list[float],
    max_grad_norm: float = 1.0,
) -> list[float]:
    """AdamW over the batches, each at its rate; returns each batch's loss."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, weight_decay=0.0)
    losses = []
    for batch, rate in zip(batches, learning_rates, strict=True):
        optimizer.param_groups[0]["lr"] = rate
        optimizer.zero_grad()
        loss = batch_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def with_lora(model: torch.nn.Module, seed: int) -> torch.nn.Module:
    """The paper's adapter: rank 8, alpha 16, on q_proj and v_proj."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    return get_peft_model(model, lora)
