"""bfloat16 against float32 of a pair: KL, steps above the threshold, greedy tokens, soft labels.

Trajectories are the expert's greedy ones in float32; every form then reads the same tokens, so that each
step is compared with itself. KL and labels are the oracle's, over the whole vocabulary.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .options import NEW_TOKENS, SHAPES, Options
from .pairs import Pair, real_pair, smollm2_pair
from .record import Record
from .scoring import load_float32

PLAUSIBILITY = 0.2
PROBLEMS = {"cuda": 32, "cpu": 8}
AT_ONCE = 8  # problems decoded
NARROW = "bfloat16"
WIDE_HEAD = "bfloat16, lm_head in float32"
Tokens = tuple[list[int], list[int]]  # prompt and completion


@dataclass
class Step:
    kl: float
    greedy: int
    label: dict[int, float]  # empty where the step is not kept


def measure(record: Record, options: Options) -> None:
    pair = real_pair(options) or smollm2_pair()
    threshold = 0.1 if options.tiny and not options.pair else 0.4  # the demo's, the paper's
    count, whose = 3 if options.tiny else PROBLEMS[options.device], ""
    if pair:
        record.note(f"weights: {pair.name}; steps above {threshold:g} nats are kept")
        models = [load_float32(path, options.device) for path in (pair.expert, pair.amateur)]
        trajectories = solved(record, models[0], pair, count)
    else:
        whose = ", random weights: nothing about real KL"
        record.note("no real weights were found; give --pair EXPERT AMATEUR")
        models = [random_float32(size, options.device) for size in SHAPES[options.size]]
        trajectories = random_tokens(models[0].config.vocab_size, count)
    found: dict[str, list[Step]] = {"float32": [], NARROW: [], WIDE_HEAD: []}
    narrow = [copy.deepcopy(model).to(torch.bfloat16) for model in models]
    wide = [model.lm_head for model in models]
    longest = 0.0
    for number, (prompt, completion) in enumerate(trajectories):
        before = record.left(0.9)
        if number and before < longest:
            break
        exact = [logprobs(model, model.lm_head, prompt, completion) for model in models]
        ours = [logprobs(model, model.lm_head, prompt, completion) for model in narrow]
        mixed = [
            logprobs(model, head, prompt, completion)
            for model, head in zip(narrow, wide, strict=True)
        ]
        for form, (log_p, log_q) in zip(found, (exact, ours, mixed), strict=True):
            found[form] += steps_of(log_p, log_q, threshold)
        longest = max(longest, before - record.left(0.9))
    for form in (NARROW, WIDE_HEAD):
        record.row(form + whose, **compared(found[form], found["float32"], threshold))


def solved(record: Record, expert: Any, pair: Pair, count: int) -> list[Tokens]:
    """Greedy solutions of generated problems, as many as half of the rung's time allows."""
    from transformers import AutoTokenizer

    from lr_ray.embedded import generate

    tokenizer = AutoTokenizer.from_pretrained(pair.expert)
    prompts = []
    for problem in generate("sampling", count):
        turn = [{"role": "user", "content": problem["problem"]}]
        prompt = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True)
        prompts.append(list(prompt["input_ids"]))
    ends = expert.generation_config.eos_token_id or []
    stops = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
    made: list[Tokens] = []
    for start in range(0, count, AT_ONCE):
        if made and record.left(0.5) < 0:
            break
        made += decode(expert, prompts[start : start + AT_ONCE], stops)
    return made


def decode(expert: Any, prompts: list[list[int]], stops: set[int]) -> list[Tokens]:
    """Greedy completions, each with the token that ended it."""
    longest, pad = max(map(len, prompts)), min(stops)
    ids_BT = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    with torch.inference_mode():
        out_BT = expert.generate(
            ids_BT.to(expert.device),
            attention_mask=mask_BT.to(expert.device),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=sorted(stops),
        )
    ends = [until_stop(completion, stops) for completion in out_BT[:, longest:].tolist()]
    return list(zip(prompts, ends, strict=True))


def until_stop(completion: list[int], stops: set[int]) -> list[int]:
    for place, token in enumerate(completion):
        if token in stops:
            return completion[: place + 1]
    return completion


def random_float32(size: str, device: str) -> Any:
    from training import random_model

    return random_model(size, torch.device(device), "float32").eval()


def random_tokens(vocabulary: int, count: int) -> list[Tokens]:
    from training import random_trajectories

    tokens = [t.token_ids.tolist() for t in random_trajectories(vocabulary, count)]
    return [(ids[:-NEW_TOKENS], ids[-NEW_TOKENS:]) for ids in tokens]


@torch.inference_mode()
def logprobs(model: Any, head: Any, prompt: list[int], completion: list[int]) -> Tensor:
    """float32 `[T, V]`; `head` gets hidden states in its own data type."""
    ids = torch.tensor([prompt + completion[:-1]], device=model.device)
    hidden_TH = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
    return head(hidden_TH.to(head.weight.dtype)).float().log_softmax(-1)


def steps_of(log_p_TV: Tensor, log_q_TW: Tensor, threshold: float) -> list[Step]:
    from lr_ray.method import oracle

    common = min(log_p_TV.shape[1], log_q_TW.shape[1])
    made = []
    for log_p, log_q in zip(log_p_TV[:, :common], log_q_TW[:, :common], strict=True):
        kl, label = oracle.step_kl(log_p, log_q), {}
        if kl > threshold:
            ids, weights = oracle.soft_label(log_p, log_q, PLAUSIBILITY)
            label = dict(zip(ids.tolist(), weights.tolist(), strict=True))
        made.append(Step(kl, int(log_p.argmax()), label))
    return made


def compared(ours: Sequence[Step], exact: Sequence[Step], threshold: float) -> dict[str, Any]:
    """Differences step by step; labels of steps that both keep."""
    both = list(zip(ours, exact, strict=True))
    moved = np.array([abs(a.kl - b.kl) for a, b in both])
    labels = [(a.label, b.label) for a, b in both if a.label and b.label]
    gaps = [
        max(abs(a.get(token, 0.0) - b.get(token, 0.0)) for token in a.keys() | b.keys())
        for a, b in labels
    ]
    return {
        "steps": len(both),
        "kl_mean": float(np.mean([b.kl for _, b in both])),
        "kl_moved_mean": float(moved.mean()),
        "kl_moved_median": float(np.median(moved)),
        "kl_moved_p99": float(np.quantile(moved, 0.99)),
        "kl_moved_max": float(moved.max()),
        "kept_float32": sum(b.kl > threshold for _, b in both),
        "changed_sides": sum((a.kl > threshold) != (b.kl > threshold) for a, b in both),
        "greedy_changed": sum(a.greedy != b.greedy for a, b in both),
        "label_gap_mean": float(np.mean(gaps)) if gaps else None,
        "label_gap_max": max(gaps, default=None),
        "labels_of_other_tokens": sum(a.keys() != b.keys() for a, b in labels),
    }
