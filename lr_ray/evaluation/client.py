"""Asks models behind any OpenAI-compatible endpoint, under identical conditions.

pytest tests/integration/endpoint/test_evaluation.py
"""

import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from lr_ray.config import Evaluation
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import Answer, Question
from lr_ray.evaluation.examples import Example

if TYPE_CHECKING:
    from openai import AsyncOpenAI

KEY_VARIABLE = "OPENAI_API_KEY"
# The client waits half a second after the first failure, then twice as long each time, up to eight:
# about two minutes in all, in which a replica or a gateway is back.
_RETRIES = 18
_REFUSED_SHARE = 0.05  # of the questions; with more of them something else is wrong
_REFUSED_FEW = 5


def request(
    problem: str,
    evaluation: Evaluation,
    stop_token_ids: Sequence[int] = (),
    examples: Sequence[Example] = (),
    sample: int = 0,
) -> dict[str, Any]:
    """Body of a chat completion request without its model, whatever the model's own sampling defaults.

    `stop_token_ids` end an answer in addition to the model's own EOS; they are an extension that
    vLLM's endpoints know, so leave them out for others. `sample` counts from 0 at a temperature.
    """
    messages = []
    if evaluation.system_prompt is not None:
        messages.append({"role": "system", "content": evaluation.system_prompt})
    for example in examples:
        messages.append({"role": "user", "content": example.problem})
        messages.append({"role": "assistant", "content": example.solution})
    messages.append({"role": "user", "content": problem})
    if evaluation.prefill is not None:
        messages.append({"role": "assistant", "content": evaluation.prefill})
    body: dict[str, Any] = {
        "messages": messages,
        "temperature": evaluation.temperature,
        "max_tokens": evaluation.max_new_tokens,
    }
    if evaluation.stop:
        body["stop"] = evaluation.stop
    if evaluation.temperature > 0:
        body |= {"top_p": 1.0, "seed": evaluation.seed * 100_003 + sample}
    extension: dict[str, Any] = {}
    if stop_token_ids:
        # Some generation configs ask for a penalty, which would move the argmax.
        extension = {"stop_token_ids": list(stop_token_ids), "repetition_penalty": 1.0}
    if evaluation.prefill is not None:
        extension |= {"add_generation_prompt": False, "continue_final_message": True}
    if extension:
        body["extra_body"] = extension
    return body


def check_endpoint(base_url: str, models: Iterable[str]) -> None:
    """Raises UserError naming what is wrong when the endpoint cannot be asked for these models."""
    from openai import AuthenticationError, NotFoundError, OpenAI, OpenAIError

    try:
        with OpenAI(base_url=base_url, api_key=_key(), max_retries=2, timeout=20) as client:
            served = {model.id for model in client.models.list()}
    except AuthenticationError:
        raise UserError(
            f"--endpoint {base_url}: the key is not accepted; put the right one into {KEY_VARIABLE}"
        ) from None
    except NotFoundError:
        raise UserError(
            f"--endpoint {base_url}: has no /models; give the address before it, which mostly ends "
            "with /v1"
        ) from None
    except (OpenAIError, ValueError) as error:
        raise UserError(f"--endpoint {base_url}: does not answer: {_line(error)}") from None
    unknown = [model for model in models if model not in served]
    if unknown:
        raise UserError(
            f"--models {', '.join(unknown)}: not served at {base_url}; there are "
            f"{', '.join(sorted(served)) or 'none'}"
        )


def ask(
    base_url: str,
    questions: Sequence[Question],
    evaluation: Evaluation,
    on_answer: Callable[[Question, Answer], None],
) -> None:
    """Asks them all, and hands each answer over as it comes.

    At most `evaluation.concurrency` requests are under way. Connection errors, timeouts, 408, 409,
    429 and 5xx are retried with back-off for about two minutes. A prompt that the endpoint refuses
    (400, 413, 422) is an answer of its own, which is never right. Raises StageError when a request
    fails for good, or one in twenty is refused. The key is read from OPENAI_API_KEY.
    """
    asyncio.run(_ask(base_url, questions, evaluation, on_answer))


async def _ask(
    base_url: str,
    questions: Sequence[Question],
    evaluation: Evaluation,
    on_answer: Callable[[Question, Answer], None],
) -> None:
    from openai import AsyncOpenAI

    waiting, refused = iter(questions), 0
    most_refused = max(_REFUSED_FEW, _REFUSED_SHARE * len(questions))

    async def worker(client: "AsyncOpenAI") -> None:
        nonlocal refused
        for question in waiting:
            answer = await _one(client, base_url, question, evaluation.prefill or "")
            refused += answer.finish_reason == "refused"
            if refused > most_refused:
                raise StageError(
                    f"evaluation: {base_url}: model {question.model} refused {refused} prompts, the "
                    f"last with: {answer.completion}"
                )
            on_answer(question, answer)

    async with AsyncOpenAI(
        base_url=base_url, api_key=_key(), max_retries=_RETRIES, timeout=evaluation.timeout_s
    ) as client:
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(evaluation.at_once, len(questions))):
                    group.create_task(worker(client))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None


async def _one(client: "AsyncOpenAI", base_url: str, question: Question, prefill: str) -> Answer:
    from openai import APIStatusError, OpenAIError

    try:
        response = await client.chat.completions.create(**question.body)
    except OpenAIError as error:
        if isinstance(error, APIStatusError) and error.status_code in (400, 413, 422):
            return Answer(_line(error), "refused")
        reason = f"evaluation: {base_url}: model {question.model}: {_line(error)}"
        raise StageError(reason) from None
    choice = response.choices[0]
    return Answer(prefill + (choice.message.content or ""), choice.finish_reason)


def _key() -> str:
    return os.environ.get(KEY_VARIABLE) or "none"


def _line(error: Exception) -> str:
    said = getattr(getattr(error, "response", None), "text", "")
    return " ".join(f"{error} {said[:300] if said not in str(error) else ''}".split())[:500]
