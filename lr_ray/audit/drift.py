"""How far a trained model has moved from its expert: on texts of another kind, and in what it says.

transformers in float32 over the whole vocabulary, one model in memory at a time; needs neither Ray nor vLLM.
Exercised by `pytest tests/unit/test_drift.py`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor
from transformers.utils import logging

from lr_ray.audit.exact import logprobs
from lr_ray.config import Evaluation
from lr_ray.evaluation.client import request
from lr_ray.evaluation.paper import paper_request
from lr_ray.method.oracle import load
from lr_ray.models.models import context_length, load_tokenizer
from lr_ray.training.export import fits

Tokens = tuple[list[int], int]  # of a text, and where those begin that are read
_SMALL = 10_000_000  # parameters


def drift(
    paths: Mapping[str, str],
    table: pa.Table,
    evaluation: Evaluation,
    variables: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What summary.json has as `drift`: figures of model directories by label, the first being the expert.

    `table` is a task's (see `evaluation.grade`), `variables` are those of the chat template. `asked` is
    `evaluation.drift`; `texts` and `answers.<label>` count the tokens that were read. `models.<label>` has,
    of that model:

    kl: KL(expert || model) of the next token in texts that are not of the domain, mean in nats
    perplexity: of these texts
    entropy: of the next token in its own answers, mean in nats; null without answers
    right_perplexity.<other>: of the right answers of model `other`; null where it has none

    Of each model the first answers are read, `evaluation.drift` tokens at most, as their text is tokenized
    after the task's prompt without examples; of protocol paper, `evaluation` must be `paper.decided`.
    """
    expert, limit = next(iter(paths)), evaluation.drift or 0
    room = min(context_length(path) for path in paths.values())
    tokenizer = load_tokenizer(paths[expert])
    texts = [(ids[:room], 1) for text in _texts() if len(ids := tokenizer(text)["input_ids"]) > 1]
    said = {
        label: _answers(
            tokenizer, table, label, _asked(evaluation, label == expert), limit, room, variables
        )
        for label in paths
    }
    models: dict[str, dict[str, Any]] = {}
    rows: list[Tensor] = []  # float32 [T, V] of each text, by the expert
    for label, path in paths.items():
        with torch.inference_mode():
            threads, model = torch.get_num_threads(), _load(path)
            try:
                there, models[label] = _texts_of(model, texts, rows)
                models[label] |= _answers_of(model, said, label)
                rows = rows or there
            finally:
                torch.set_num_threads(threads)
                del model
    return {
        "asked": evaluation.drift,
        "texts": sum(len(ids) - first for ids, first in texts),
        "answers": {
            label: sum(len(ids) - first for (ids, first), _ in given)
            for label, given in said.items()
        },
        "models": models,
    }


def _texts() -> list[str]:
    """Sentences on nature, crafts and history, without numbers."""
    text = resources.files("lr_ray").joinpath("audit", "texts.txt").read_text()
    return text.strip().split("\n\n")


def _asked(evaluation: Evaluation, is_expert: bool) -> Callable[[str], dict[str, Any]]:
    """The request of a problem without its examples, as this model got it."""
    if evaluation.protocol == "paper":
        raw = is_expert and evaluation.paper.expert_prompt == "completion"
        return lambda problem: paper_request(problem, evaluation, raw)
    plain = evaluation.model_copy(update={"prefill": None})  # which an answer begins with
    return lambda problem: request(problem, plain)


def _answers(
    tokenizer: Any,
    table: pa.Table,
    label: str,
    asked: Callable[[str], dict[str, Any]],
    left: int,
    room: int,
    variables: Mapping[str, Any] | None,
) -> list[tuple[Tokens, bool]]:
    """A model's first answers behind their prompts, and whether each is right."""
    found = []
    parts = [f"{label}_{part}" for part in ("completion", "correct", "finish_reason")]
    names = ["problem", "sample", *parts]
    for row in table.select(names).to_pylist():
        problem, sample, completion, right, reason = (row[name] for name in names)
        if sample or not completion or reason == "refused":
            continue
        prompt = _prompt(tokenizer, asked(problem), variables)
        answer = tokenizer(completion, add_special_tokens=False)["input_ids"]
        ids = [*prompt, *answer[:left]][:room]
        if len(ids) > len(prompt):
            found.append(((ids, len(prompt)), right))
            left -= len(ids) - len(prompt)
        if left <= 0:
            break
    return found


def _prompt(
    tokenizer: Any, body: Mapping[str, Any], variables: Mapping[str, Any] | None
) -> list[int]:
    if "prompt" in body:
        ids = tokenizer(body["prompt"])
    else:
        ids = tokenizer.apply_chat_template(
            body["messages"], add_generation_prompt=True, tokenize=True, **(variables or {})
        )
    return list(ids["input_ids"])


def _load(path: str) -> Any:
    """The model, with one thread where threads of tiny matrices would only wait for each other."""
    logging.disable_progress_bar()
    model: Any = load(path)
    if model.num_parameters() < _SMALL:
        torch.set_num_threads(1)
    if torch.cuda.is_available() and fits(model, torch.device("cuda")):  # engines may be there too
        model.to("cuda")
    return model


def _texts_of(
    model: Any, texts: Sequence[Tokens], expert: Sequence[Tensor]
) -> tuple[list[Tensor], dict[str, Any]]:
    """The model's rows of each text, float32 `[T, V]` on the CPU; `kl` to the expert's, and `perplexity`."""
    kl, negative, rows = 0.0, 0.0, []
    for i, (ids, first) in enumerate(texts):
        log_q_TV = torch.cat([part.cpu() for part, _ in _read(model, ids, first)])
        log_p_TV = expert[i] if expert else log_q_TV
        moved_TV = log_p_TV.exp() * (log_p_TV - log_q_TV)
        kl += moved_TV.sum(dtype=torch.float64).item()
        negative += _negative(log_q_TV, torch.tensor(ids[first:]))
        rows.append(log_q_TV)
    count = sum(map(len, rows))
    return rows, {"kl": kl / count, "perplexity": math.exp(negative / count)}


def _answers_of(
    model: Any, said: Mapping[str, Sequence[tuple[Tokens, bool]]], label: str
) -> dict[str, Any]:
    """`entropy` and `right_perplexity`."""
    entropy, perplexity = None, dict[str, float | None]()
    for other, answers in said.items():
        spread, negative, count, of_right = 0.0, 0.0, 0, 0
        for tokens, right in answers:
            for log_p_TV, taken_T in _read(model, *tokens) if right or other == label else ():
                spread -= (log_p_TV.exp() * log_p_TV).sum(dtype=torch.float64).item()
                count += len(taken_T)
                if right:
                    negative += _negative(log_p_TV, taken_T)
                    of_right += len(taken_T)
        perplexity[other] = math.exp(negative / of_right) if of_right else None
        if other == label:
            entropy = spread / count if count else None
    return {"entropy": entropy, "right_perplexity": perplexity}


def _read(model: Any, ids: list[int], first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """float32 log-probabilities `[T, V]` of the tokens from `first` on, and these, in parts."""
    tokens, start = torch.tensor(ids, device=model.device), first
    for log_p_TV in logprobs(model, tokens, first):
        yield log_p_TV, tokens[start : start + len(log_p_TV)]
        start += len(log_p_TV)


def _negative(log_p_TV: Tensor, taken_T: Tensor) -> float:
    """Sum of -log p at the tokens, in nats."""
    return -log_p_TV.gather(1, taken_T[:, None]).sum(dtype=torch.float64).item()
