r"""Protocol `paper`: models asked as the paper asked them, each by its own prompt.

The prompts are those of appendix I (arXiv 2510.07962); how worked examples stand in them, and where an
answer ends, is the Qwen2.5-Math toolkit's (`evaluation/utils.py` and `math_eval.py`, prompt types cot and
qwen25-math-cot). pytest tests/unit/test_paper_protocol.py
"""

from collections.abc import Sequence
from typing import Any

from lr_ray.config import Evaluation
from lr_ray.config.resources import AUTO
from lr_ray.evaluation.client import sampling
from lr_ray.evaluation.examples import Example
from lr_ray.models.models import load_tokenizer, stop_token_ids, turn_end_id

SYSTEM_PROMPT = r"Please reason step by step, and put your final answer within \boxed{}."
QUESTION = "Question: {question}\nAnswer: "
STOP = "\n\nQuestion:"  # a base model goes on with a question of its own
_END_OF_TEXT = "<|endoftext|>"


def decided(evaluation: Evaluation, expert: str) -> Evaluation:
    """With what `evaluation.paper` leaves to the expert's directory; protocol same stays as it is."""
    paper = evaluation.paper
    if evaluation.protocol == "same":
        return evaluation
    end, tokenizer = turn_end_id(expert), load_tokenizer(expert)
    prompt, stops = paper.expert_prompt, paper.stop_token_ids
    if prompt == AUTO:
        prompt = "chat" if end in stop_token_ids(expert) else "completion"
    if not stops:
        of_text = tokenizer.get_vocab().get(_END_OF_TEXT)
        stops = sorted({end, of_text, tokenizer.eos_token_id} - {None})
    found = paper.model_copy(update={"expert_prompt": prompt, "stop_token_ids": stops})
    return evaluation.model_copy(update={"paper": found})


def paper_request(
    problem: str,
    evaluation: Evaluation,
    completion: bool,
    examples: Sequence[Example] = (),
    sample: int = 0,
) -> dict[str, Any]:
    """Body of a request without its model: of a raw completion, or of a chat completion."""
    stops = evaluation.paper.stop_token_ids
    if completion:
        text = prompt(problem, examples)
        return {"prompt": text, **sampling(evaluation, stops, [STOP], sample)}
    return {"messages": turns(problem, examples), **sampling(evaluation, stops, [], sample)}


def prompt(problem: str, examples: Sequence[Example] = ()) -> str:
    """What a base model continues."""
    shown = [QUESTION.format(question=e.problem) + e.solution for e in examples]
    return "\n\n\n".join([*shown, QUESTION.format(question=problem)])


def turns(problem: str, examples: Sequence[Example] = ()) -> list[dict[str, str]]:
    """What instruct and trained models are asked; the examples share the problem's turn."""
    shown = [f"{example.problem}\n{example.solution}" for example in examples]
    asked = "\n\n".join([*shown, problem])
    return [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": asked}]


def conditions(evaluation: Evaluation) -> dict[str, Any]:
    """What a reader of the figures should know, beside the prompts themselves."""
    expert = evaluation.paper.expert_prompt
    return {
        "expert": expert,
        "other_models": "chat",
        **({"completion": QUESTION, "completion_stop": STOP} if expert == "completion" else {}),
        "system_prompt": SYSTEM_PROMPT,
        "stop_token_ids": evaluation.paper.stop_token_ids,
        **evaluation.model_dump(include={"max_new_tokens", "temperature"}),
    }
