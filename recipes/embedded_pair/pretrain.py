"""Pre-training of one small causal language model on generated documents, on one thread.

python -m recipes.embedded_pair.recipe --out runs/pair
"""

import itertools
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from lr_ray.embedded.problems import stream
from recipes.embedded_pair.documents import Mix, draw
from recipes.embedded_pair.tokenizer import MAX_LENGTH

BATCH = 64
# Documents are sorted by length within so many batches, which halves the padding.
SORT_WINDOW = 8
PROMPT_WEIGHT = 0.1
REPORT_EVERY = 50


@dataclass(frozen=True)
class Shape:
    """Size of a model; the head dimension is 32, which vLLM's CPU attention takes."""

    hidden: int
    intermediate: int
    heads: int
    layers: int = 4


@dataclass(frozen=True)
class Phase:
    """One stretch of pre-training with its own mix of documents and schedule."""

    name: str
    mix: Mix
    steps: int
    learning_rate: float
    warmup: int = 100


@dataclass(frozen=True)
class Batch:
    """Right-padded documents; `weight_BT[b, t]` weighs the loss of predicting token t."""

    ids_BT: torch.Tensor
    weight_BT: torch.Tensor


def new_model(shape: Shape, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """A freshly initialised model for this tokenizer."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def train(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int
) -> None:
    """Runs one phase in place and prints its progress."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=phase.learning_rate, betas=(0.9, 0.98), weight_decay=0.01
    )
    model.train()
    started = time.perf_counter()
    for step, batch in enumerate(batches(tokenizer, phase, seed)):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(phase, step)
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % REPORT_EVERY == 0 or step + 1 == phase.steps:
            rate = (step + 1) / (time.perf_counter() - started)
            left = (phase.steps - step - 1) / rate
            print(
                f"{phase.name}: step {step + 1}/{phase.steps}, loss {loss.item():.3f}, "
                f"{rate * BATCH:.0f} documents/s, {left:.0f} s left",
                flush=True,
            )
    model.eval()


def learning_rate(phase: Phase, step: int) -> float:
    """Linear warm-up, then a cosine down to 3 % of the peak."""
    if step < phase.warmup:
        return phase.learning_rate * (step + 1) / phase.warmup
    progress = (step - phase.warmup) / max(1, phase.steps - phase.warmup)
    return phase.learning_rate * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))


def batches(tokenizer: PreTrainedTokenizerFast, phase: Phase, seed: int) -> Iterator[Batch]:
    """Exactly `phase.steps` batches; each document tells a different problem."""
    rng = random.Random(f"documents-{phase.name}-{seed}")
    problems = stream("pretraining", seed)
    left = phase.steps
    while left:
        count = min(SORT_WINDOW, left)
        documents = [
            draw(problem, phase.mix, rng) for problem in itertools.islice(problems, BATCH * count)
        ]
        prompts = tokenizer([d.prompt for d in documents])["input_ids"]
        replies = tokenizer([d.completion for d in documents])["input_ids"]
        rows = sorted(zip(prompts, replies, strict=True), key=lambda r: len(r[0]) + len(r[1]))
        parts = [rows[i : i + BATCH] for i in range(0, len(rows), BATCH)]
        rng.shuffle(parts)
        yield from (collate(part, tokenizer.pad_token_id) for part in parts)
        left -= count


def collate(rows: list[tuple[list[int], list[int]]], pad_id: int) -> Batch:
    """Pads on the right, which causal attention never looks back from, so no mask is needed."""
    width = max(len(prompt) + len(reply) for prompt, reply in rows)
    ids_BT = torch.full((len(rows), width), pad_id)
    weight_BT = torch.zeros((len(rows), width))
    for index, (prompt, reply) in enumerate(rows):
        end = len(prompt) + len(reply)
        ids_BT[index, :end] = torch.tensor(prompt + reply)
        weight_BT[index, : len(prompt)] = PROMPT_WEIGHT
        weight_BT[index, len(prompt) : end] = 1.0
    return Batch(ids_BT, weight_BT)


def loss_of(model: Qwen2ForCausalLM, batch: Batch) -> torch.Tensor:
    """Weighted mean cross entropy of the next token."""
    logits_BTV = model(input_ids=batch.ids_BT, use_cache=False).logits[:, :-1]
    losses_N = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), batch.ids_BT[:, 1:].flatten(), reduction="none"
    )
    weight_N = batch.weight_BT[:, 1:].flatten()
    return (losses_N * weight_N).sum() / weight_N.sum()
