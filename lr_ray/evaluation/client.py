"""Asks models behind any OpenAI-compatible endpoint, greedily and under identical conditions.

pytest tests/integration/test_serving.py
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from lr_ray.config import Evaluation
from lr_ray.errors import StageError

_RETRIES = 5
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Answer:
    """What a model said, the prefill included; `finish_reason` is stop or length."""

    completion: str
    finish_reason: str


async def ask(
    base_url: str,
    models: Sequence[str],
    problems: Sequence[str],
    evaluation: Evaluation,
    stop_token_ids: Sequence[int] = (),
    on_answer: Callable[[], None] = lambda: None,
) -> dict[str, list[Answer]]:
    """For each served model, its answers to `problems`, in their order.

    At most `evaluation.concurrency` requests are under way. `stop_token_ids` end a completion of
    every model in addition to its own EOS; they are an extension that vLLM's endpoints know, so
    leave them out for others. Connection errors, timeouts, 408, 409, 429 and 5xx are retried with
    back-off. Raises StageError when a request fails for good. OPENAI_API_KEY is sent when set.
    """
    from openai import AsyncOpenAI, OpenAIError

    slots = asyncio.Semaphore(evaluation.concurrency)
    key = os.environ.get("OPENAI_API_KEY", "none")
    async with AsyncOpenAI(
        base_url=base_url, api_key=key, max_retries=_RETRIES, timeout=_TIMEOUT_S
    ) as client:

        async def one(model: str, problem: str) -> Answer:
            body = request(model, problem, evaluation, stop_token_ids)
            try:
                async with slots:
                    response = await client.chat.completions.create(**body)
            except OpenAIError as error:
                raise StageError(_reason(base_url, model, error)) from None
            on_answer()
            choice = response.choices[0]
            said = (evaluation.prefill or "") + (choice.message.content or "")
            return Answer(said, choice.finish_reason)

        try:
            async with asyncio.TaskGroup() as group:
                # Problem by problem, so that the models' engines work side by side.
                tasks = [[group.create_task(one(m, p)) for m in models] for p in problems]
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    return {m: [row[i].result() for row in tasks] for i, m in enumerate(models)}


def _reason(base_url: str, model: str, error: Exception) -> str:
    from openai import APIStatusError

    said = f" {error.response.text[:300]}" if isinstance(error, APIStatusError) else ""
    return " ".join(f"evaluation: {base_url}: model {model}: {error}{said}".split())


def request(
    model: str, problem: str, evaluation: Evaluation, stop_token_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """Body of a chat completion request: greedy, whatever the model's own sampling defaults."""
    system = [{"role": "system", "content": evaluation.system_prompt}]
    begun = [{"role": "assistant", "content": evaluation.prefill}]
    body: dict[str, Any] = {
        "model": model,
        "messages": [
            *(system if evaluation.system_prompt is not None else []),
            {"role": "user", "content": problem},
            *(begun if evaluation.prefill is not None else []),
        ],
        "temperature": 0,
        "max_tokens": evaluation.max_new_tokens,
    }
    extension: dict[str, Any] = {}
    if stop_token_ids:
        # Some generation configs ask for a penalty, which would move the argmax.
        extension = {"stop_token_ids": list(stop_token_ids), "repetition_penalty": 1.0}
    if evaluation.prefill is not None:
        extension |= {"add_generation_prompt": False, "continue_final_message": True}
    if extension:
        body["extra_body"] = extension
    return body
