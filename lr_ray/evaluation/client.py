"""Asks models behind any OpenAI-compatible endpoint; each request states all that decides its answer.

pytest tests/integration/endpoint/test_evaluation.py
"""

import asyncio
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lr_ray.config import Evaluation
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import Answer, Question, answer_of, storable
from lr_ray.evaluation.examples import Example
from lr_ray.evaluation.known_fields import KnownFields
from lr_ray.runtime.connection import (
    OPENAI_KEY,
    async_client,
    check_environment,
    client,
    read_key,
    scheme_of,
    via,
    without_user,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI

# The client waits half a second after the first failure, then twice as long each time, up to eight:
# about two minutes in all, in which a replica or a gateway is back.
_RETRIES = 18
_REFUSED_SHARE = 0.05  # of the questions; with more of them something else is wrong
_REFUSED_FEW = 5
_UNREADABLE_TRIES = 3  # of a question whose answer is none, such as a gateway's page
_PAUSE_S = 0.5
_WATCH_S = 5.0
_MOVED = (301, 302, 303)  # by which a POST becomes a GET
_SAYS_NOTHING = ("Connection error", "Request timed out")
# Every field that changes what is sampled, as if it were not there: neither a server's default nor a
# model's generation config answers. The second are extensions of vLLM's that others share.
_NEUTRAL: dict[str, Any] = {"top_p": 1.0, "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0.0}
_NEUTRAL_EXTENSION: dict[str, Any] = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}


def request(
    problem: str,
    evaluation: Evaluation,
    stop_token_ids: Sequence[int] = (),
    examples: Sequence[Example] = (),
    sample: int = 0,
) -> dict[str, Any]:
    """Body of a chat completion request without its model, which states every sampling field.

    `stop_token_ids` end an answer in addition to the model's own EOS; they are an extension that
    vLLM's endpoints know, so leave them out for others. `sample` counts from 0 at a temperature.
    """
    turns = [("system", evaluation.system_prompt)]
    for example in examples:
        turns += [("user", example.problem), ("assistant", example.solution)]
    turns += [("user", problem), ("assistant", evaluation.prefill)]
    messages = [{"role": role, "content": said} for role, said in turns if said is not None]
    body = {"messages": messages, **sampling(evaluation, stop_token_ids, evaluation.stop, sample)}
    if evaluation.prefill is not None:
        body["extra_body"] |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


def sampling(
    evaluation: Evaluation, stop_token_ids: Sequence[int], stop: Sequence[str], sample: int
) -> dict[str, Any]:
    """Every field of a request but its model and what is asked, as `request` has them."""
    extension: dict[str, Any] = dict(_NEUTRAL_EXTENSION)
    if stop_token_ids:
        extension["stop_token_ids"] = list(stop_token_ids)
    body: dict[str, Any] = {
        "temperature": evaluation.temperature,
        "max_tokens": evaluation.max_new_tokens,
        "seed": (evaluation.seed * 100_003 + sample) % 2**63 if evaluation.temperature else 0,
        **_NEUTRAL,
        "extra_body": extension,
    }
    if stop:
        body["stop"] = list(stop)
    return body


def check_endpoint(base_url: str, models: Iterable[str], max_new_tokens: int = 1) -> None:
    """Raises UserError naming what is wrong when the endpoint cannot be asked for these models."""
    from openai import AuthenticationError, NotFoundError, OpenAIError, Timeout

    shown = without_user(base_url)
    if not scheme_of(base_url)[1]:
        raise UserError(f"--endpoint {shown}: is no URL; give one as http://HOST:PORT/v1")
    check_environment(base_url)
    limits: dict[str, Any] = {"max_retries": 1, "timeout": Timeout(20, connect=5)}
    try:
        with client(base_url, read_key(OPENAI_KEY), **limits) as asking:
            listed = asking.models.with_raw_response.list()
            past = listed.http_response.history
            _check_stays(shown, listed.http_response, any(r.status_code in _MOVED for r in past))
            found = listed.http_response.json()
            # A bare list, as Together's, is none to the client's own reader.
            entries = found if isinstance(found, list) else found["data"]
            served = {str(entry["id"]): entry for entry in entries}
    except AuthenticationError as error:
        # A key is not sent to where it redirects.
        _check_stays(shown, error.response, bool(error.response.history))
        raise UserError(
            f"--endpoint {shown}: the key is not accepted; put the right one into {OPENAI_KEY}"
        ) from None
    except NotFoundError:
        raise UserError(
            f"--endpoint {shown}: has no /models; give the address before it, which mostly ends "
            "with /v1"
        ) from None
    except (KeyError, TypeError, json.JSONDecodeError, UnicodeDecodeError):
        raise UserError(
            f"--endpoint {shown}: its list of models is not the OpenAI API's; give the address of "
            "an OpenAI-compatible API"
        ) from None
    except (OpenAIError, ValueError) as error:
        reason = f"{_line(error)}{via(base_url)}"
        raise UserError(f"--endpoint {shown}: does not answer: {reason}") from None
    unknown = [model for model in models if model not in served]
    if unknown:
        raise UserError(
            f"--models {', '.join(unknown)}: not served at {shown}; there are "
            f"{', '.join(sorted(served)) or 'none'}"
        )
    for model in models:
        room = served[model].get("max_model_len")  # as vLLM's endpoints say
        if isinstance(room, int) and max_new_tokens >= room:
            raise UserError(
                f"evaluation.max_new_tokens = {max_new_tokens} leaves no room for a prompt: {model} at "
                f"{shown} reads {room} tokens; give a smaller --evaluation.max_new_tokens"
            )


def _check_stays(shown: str, response: Any, moved: bool) -> None:
    """Raises UserError when the endpoint has `moved`, with its address as the last response has it."""
    if moved:
        there = without_user(str(response.url)).removesuffix("/models")
        raise UserError(f"--endpoint {shown}: redirects to {there}; give --endpoint {there}")


def ask(
    base_url: str,
    questions: Sequence[Question],
    evaluation: Evaluation,
    on_answer: Callable[[Question, Answer], None],
    on_left_out: Callable[[str, str], None] = lambda model, field: None,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Asks all questions, and hands over each answer as it comes.

    At most `evaluation.concurrency` requests are under way. Connection errors, timeouts, 408, 409,
    429 and 5xx are retried with back-off for about two minutes, answers that are no completion twice. A
    sampling field that the endpoint does not take is left out of all requests to that model, and told once
    by `on_left_out`. A prompt that the endpoint refuses (400, 413, 422) is an answer of its own, which is
    never right, and handed over at the end. `watch` is called every few seconds, in another thread, and what
    it raises ends the asking. Raises StageError when a request fails for good, or one in twenty is refused,
    and UserError for a key that no header can carry. The key is read from OPENAI_API_KEY.
    """
    from anyio.from_thread import start_blocking_portal

    # In a thread of its own: a notebook has an event loop in this one, and asyncio would print an
    # interruption that came while one of its tasks was at work.
    with start_blocking_portal() as portal:
        portal.call(_ask, base_url, questions, evaluation, on_answer, on_left_out, watch)


async def _ask(
    base_url: str,
    questions: Sequence[Question],
    evaluation: Evaluation,
    on_answer: Callable[[Question, Answer], None],
    on_left_out: Callable[[str, str], None],
    watch: Callable[[], None],
) -> None:
    waiting, refused = iter(questions), list[tuple[Question, Answer]]()
    most = most_refused(len(questions))
    # What is asked of a model as a chat says nothing of its completions.
    known = {_way(question): KnownFields(question.model, on_left_out) for question in questions}

    async def worker(asking: "AsyncOpenAI") -> None:
        for question in waiting:
            answer = await _one(asking, base_url, question, known[_way(question)])
            if answer.finish_reason == "refused":
                refused.append((question, answer))
            else:
                prefill = evaluation.prefill or ""
                on_answer(question, replace(answer, completion=prefill + answer.completion))
            if len(refused) > most:
                raise StageError(
                    f"evaluation: {without_user(base_url)}: model {question.model} refused {len(refused)} "
                    f"prompts, the last with: {answer.completion}{_advice(answer.completion, evaluation)}"
                )

    limits: dict[str, Any] = {"max_retries": _RETRIES, "timeout": evaluation.timeout_s}
    async with async_client(base_url, read_key(OPENAI_KEY), **limits) as asking:
        try:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(_watched(watch))
                count = min(evaluation.at_once, len(questions))
                workers = [group.create_task(worker(asking)) for _ in range(count)]
                await asyncio.gather(*workers, return_exceptions=True)  # the group raises
                watching.cancel()
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from None
    # Kept now, not as they came: after a failure the server may be set up otherwise, and is asked again.
    for question, answer in refused:
        on_answer(question, answer)


async def _watched(watch: Callable[[], None]) -> None:
    from anyio.to_thread import run_sync

    while True:
        await asyncio.sleep(_WATCH_S)
        await run_sync(watch, abandon_on_cancel=True)


def most_refused(questions: int) -> float:
    """How many of so many questions a server may refuse."""
    return max(_REFUSED_FEW, _REFUSED_SHARE * questions)


def _way(question: Question) -> tuple[str, bool]:
    """The model, and whether a raw completion is asked of it."""
    return question.model, "prompt" in question.body


async def _one(
    asking: "AsyncOpenAI", base_url: str, question: Question, known: KnownFields
) -> Answer:
    from openai import APIStatusError, OpenAIError

    where = f"evaluation: {without_user(base_url)}: model {question.model}"
    (_, raw), unreadable = _way(question), 0
    while True:
        body, reply = known.of(question.body), None
        try:
            asked: Any = asking.completions if raw else asking.chat.completions
            reply = await asked.create(**body)
            answer = answer_of(reply.choices[0], raw)
        except OpenAIError as error:
            said = _line(error)
            if not isinstance(error, APIStatusError) or error.status_code not in (400, 413, 422):
                raise StageError(f"{where}: {said}{via(base_url)}") from None
            if not known.leave_out(body, said):
                return Answer(said, "refused")
        except (AttributeError, TypeError, LookupError, ValueError) as error:
            unreadable += 1
            if unreadable == _UNREADABLE_TRIES:
                found = getattr(error, "doc", None) or getattr(reply, "error", None) or reply
                kind = "completion" if raw else "chat completion"
                shown = storable(" ".join(str(found).split())[:300])
                raise StageError(f"{where}: what it answers is no {kind}: {shown}") from None
            await asyncio.sleep(_PAUSE_S * unreadable)
        else:
            known.settled = True
            return answer


def _advice(said: str, evaluation: Evaluation) -> str:
    """Which setting to change when a server's message says that the request was too long."""
    if not re.search(r"max_(completion_)?tokens|max_model_len|context (length|window|size)", said):
        return ""
    return f"; give a smaller --evaluation.max_new_tokens than {evaluation.max_new_tokens}"


def _line(error: Exception) -> str:
    said = getattr(getattr(error, "response", None), "text", "")
    cause = error.__cause__ if str(error).rstrip(".") in _SAYS_NOTHING else None
    parts = [str(error), said[:300] if said not in str(error) else "", str(cause or "")]
    return storable(" ".join(" ".join(parts).split())[:500])
