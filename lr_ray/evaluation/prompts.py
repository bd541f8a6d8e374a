"""The expert's chat template, rendered once as the stages will, before anything starts.

Exercised by `pytest tests/unit/test_prompts.py`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lr_ray.config import Config
from lr_ray.errors import UserError
from lr_ray.evaluation.client import most_refused, request
from lr_ray.evaluation.examples import examples
from lr_ray.evaluation.paper import turns as paper_turns
from lr_ray.evaluation.results import LABELS
from lr_ray.evaluation.tasks import Task
from lr_ray.models.files import context_length, nested_in, read_object, vocabulary_rows
from lr_ray.models.models import check_stops, load_tokenizer

_PROBLEM = "How many are 60 pens and 7 pens?"
_PAPER = "evaluation.protocol paper"
Turns = list[dict[str, str]]


def check_expert(path: str, config: Config, stages: Sequence[str]) -> None:
    """Raises UserError unless the model can be trained as text and asked as `stages` ask it.

    Names the turn of the conversation that the chat template refuses or leaves out, and its field.
    """
    where = f"models.expert: {config.models.expert}"
    nested = nested_in(read_object(Path(path, "config.json"), where))
    if nested:
        raise UserError(
            f"{where}: config.json keeps its language model in {nested}: a multimodal model, of "
            "which only text models can be trained; give one"
        )
    variables = config.models.chat_template_kwargs
    if "sampling" in stages:
        check_stops(path)
        turns = [{"role": "user", "content": _PROBLEM}]
        if config.sampling.system_prompt is not None:
            turns.insert(0, {"role": "system", "content": config.sampling.system_prompt})
        used = _check_template(path, where, turns, "sampling.system_prompt", variables)
        field, tokens = config.sampling.limit
        room = context_length(path) - tokens
        if used > room > 0:
            raise UserError(
                f"{where}: its chat template and sampling.system_prompt take {used} tokens without a "
                f"problem, and {field} = {tokens} leaves {room} of {room + tokens}; shorten them, or "
                f"give a smaller {field}"
            )
    if "evaluation" in stages:
        evaluation = config.evaluation
        for shots in evaluation.shots if evaluation.protocol != "paper" else ():
            asked = request(_PROBLEM, evaluation, (), examples("math", shots))["messages"]
            _check_template(path, where, asked, "evaluation.system_prompt", variables)
        if evaluation.protocol != "same":
            _check_template(path, where, paper_turns(_PROBLEM), _PAPER, variables)


def check_lengths(path: str, config: Config, tasks: Sequence[Task]) -> None:
    """Raises UserError where more prompts than may be refused leave no room for an answer.

    `path` is the expert's directory, and `tasks` are what the config's evaluation asks.
    """
    evaluation, tokenizer = config.evaluation, load_tokenizer(path)
    room = config.serving.max_model_len - evaluation.max_new_tokens
    longer, asked, longest, where = 0, 0, 0, ""
    for task in tasks:
        turns = (
            paper_turns(_PROBLEM, task.examples)
            if task.protocol == "paper"
            else request(_PROBLEM, evaluation, (), task.examples)["messages"]
        )
        text = _render(tokenizer, turns, config.models.chat_template_kwargs)
        around = _tokens(tokenizer, [text])[0] - _tokens(tokenizer, [_PROBLEM])[0]
        lengths = [around + n for n in _tokens(tokenizer, [row["problem"] for row in task.rows])]
        longer, asked = longer + sum(n > room for n in lengths), asked + len(lengths)
        if max(lengths, default=0) > longest:
            longest, where = max(lengths), task.name
    times = evaluation.samples * len(LABELS)
    if times * longer > most_refused(times * asked):
        raise UserError(
            f"evaluation.max_new_tokens = {evaluation.max_new_tokens} leaves {room} of "
            f"serving.max_model_len = {config.serving.max_model_len} tokens for a prompt, and {longer} "
            f"of {asked} prompts are longer, up to {longest} in {where}; give a smaller one, fewer "
            "evaluation.shots, or a larger serving.max_model_len"
        )


def _tokens(tokenizer: Any, texts: list[str]) -> list[int]:
    """How many each text has."""
    return [
        len(ids) for ids in tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
    ]


def _check_template(
    path: str, where: str, turns: Turns, system: str, variables: Mapping[str, Any]
) -> int:
    """Tokens of what the template puts around the problem. Raises UserError where it cannot be used.

    `system`: the setting that a system turn is of.
    """
    tokenizer = load_tokenizer(path)
    template = getattr(tokenizer, "chat_template", None)
    if not template:
        raise UserError(
            f"{where}: no chat template; put the model's chat_template.jinja beside its tokenizer, "
            "or take its instruct version"
        )
    for name in variables:
        if not re.search(rf"\b{re.escape(name)}\b", str(template)):
            raise UserError(
                f"models.chat_template_kwargs: {name}: the expert's chat template has no such variable"
            )
    try:
        text = _render(tokenizer, turns, variables)
    except Exception as error:  # jinja's, transformers' and whatever a template does
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        blamed = _blamed(tokenizer, turns, system, variables)
        raise UserError(f"{where}: its chat template {blamed}: {reason}") from None
    of_role = {
        "system": f"the system turn ({system})",
        "assistant": "a given answer (evaluation.shots or evaluation.prefill)",
        "user": "the problem",
    }
    for turn in turns:
        if turn["content"].strip() not in text:
            what = f"leaves out {of_role[turn['role']]}; correct it, or leave that out"
            raise UserError(f"{where}: its chat template {what}")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if max(ids) >= vocabulary_rows(path):
        raise UserError(
            f"{where}: its chat template makes token {max(ids)}, and the model has "
            f"{vocabulary_rows(path)}; the tokenizer is of another model"
        )
    return len(ids) - len(tokenizer(_PROBLEM, add_special_tokens=False)["input_ids"])


def _render(tokenizer: Any, turns: Turns, variables: Mapping[str, Any]) -> str:
    prefilled = turns[-1]["role"] == "assistant"
    options = {"add_generation_prompt": not prefilled, "continue_final_message": prefilled}
    options |= variables
    return str(tokenizer.apply_chat_template(turns, tokenize=False, **options))


def _blamed(tokenizer: Any, turns: Turns, system: str, variables: Mapping[str, Any]) -> str:
    """Which part the template cannot render: the first turns that fail, or everything."""
    problem = [{"role": "user", "content": _PROBLEM}]
    try:
        _render(tokenizer, problem, variables)
    except Exception:
        return "cannot be rendered"
    if turns[0]["role"] == "system":
        try:
            _render(tokenizer, [turns[0], *problem], variables)
        except Exception:
            if system == _PAPER:
                return f"refuses the system turn of {_PAPER}; give protocol same"
            return f"refuses a system turn; put {system} into the problems, or leave it out"
    last = "evaluation.prefill" if turns[-1]["role"] == "assistant" else "evaluation.shots"
    return f"refuses the turns of {last}; leave it out"
