"""Which requests are the client's mistake, so that they are answered 4xx and not tried again.

pytest tests/unit/test_serving_refusals.py tests/integration/endpoint/test_serving.py
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

UNUSABLE_GRAMMAR = (
    "the engine cannot follow the grammar of structured_outputs, response_format or tools"
)
_SAYING = ("developer", "system", "tool", "user")  # an assistant may only call tools
_UNHEEDED = ("audio", "function_call", "functions", "logits_processors", "web_search_options")
_LIMITS = ("max_tokens", "max_completion_tokens")
_NOT_OF_BEAMS = (
    "allowed_token_ids", "bad_words", "logit_bias", "min_tokens", "response_format", "stop",
    "stop_token_ids", "structured_outputs",
)  # fmt: skip
MANY = 1000
_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_DEEPEST = 64
# Pydantic checks a message in 60 microseconds, and meanwhile the endpoint answers nobody else.
_MOST_MAPPINGS = 10_000
# Of these it checks whatever takes a mapping's place against each of a dozen types.
_OF_MAPPINGS = ("documents", "messages", "tools")
# Parts of pydantic's places that name a type it tried instead of a field.
_OF_A_TYPE = re.compile(r"[A-Z]\w*|str|int|float|bool|bytes|[\w-]+\[.*", re.DOTALL)
_FOR_PROGRAMMERS = re.compile(
    r" \[type=\w+, input_value=.*?, input_type=\w+\]|For further information visit \S+"
)


def wrong_value(value: Any, where: str = "", depth: int = 0) -> str | None:
    """The first value of a JSON body that an engine cannot handle, with its place; None if there is none.

    JSON as Python reads it may hold halves of surrogate pairs, NaN, infinity, and integers of any size.
    """
    if depth > _DEEPEST:
        return f"{where}: is nested more than {_DEEPEST} deep"
    if isinstance(value, str):
        half = _HALF_A_PAIR.search(value)
        said = f"has half a surrogate pair at character {half.start() + 1}" if half else None
        return said and f"{where or 'body'}: {said}; send Unicode text"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where}: {value} is no number of JSON"
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return f"{where}: is an integer beyond 64 bits"
    items: Any = ()
    if isinstance(value, dict):
        if any(_HALF_A_PAIR.search(key) for key in value):
            return f"{where or 'body'}: a key has half a surrogate pair; send Unicode text"
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for key, item in items:
        wrong = wrong_value(item, f"{where}.{key}" if where else str(key), depth + 1)
        if wrong:
            return wrong
    return None


def too_many(body: Any) -> str | None:
    """That a body has more messages, parts and tools than can be checked in a second."""
    fields = body.items() if isinstance(body, dict) else ()
    left, found = [(value, field in _OF_MAPPINGS) for field, value in fields], 0
    while left:
        value, counted = left.pop()
        if isinstance(value, dict):
            found += 1
            left += [(item, counted) for item in value.values() if isinstance(item, dict | list)]
        elif isinstance(value, list):
            found += sum(not isinstance(item, dict) for item in value) if counted else 0
            left += [(item, counted) for item in value if isinstance(item, dict | list)]
        if found > _MOST_MAPPINGS:
            return f"more than {_MOST_MAPPINGS} messages, parts, tools and other mappings"
    return None


def beginning(value: Any) -> Any:
    """A value with the first thousand items of its lists: enough to see that they are of a wrong type."""
    if isinstance(value, list):
        return [beginning(item) for item in value[:MANY]]
    if isinstance(value, dict):
        return {key: beginning(item) for key, item in value.items()}
    return value


def empty_prompt(body: dict[str, Any]) -> str | None:
    """Which part of a completion's prompt is empty, if one is: an engine cannot continue an empty prompt."""
    prompt = body.get("prompt")
    if prompt is None:
        return None if body.get("prompt_embeds") else "prompt: is missing"
    prompts = prompt if isinstance(prompt, list) and prompt else [prompt]
    if any(one in ("", []) for one in prompts):
        return "prompt: is empty; give text or token ids"
    return None


def misplaced(body: dict[str, Any]) -> str | None:
    """Which message of a chat has no content, or a mapping whose keys would be read as a list that is due."""
    messages = body.get("messages")
    for index, message in enumerate(messages if isinstance(messages, list) else ()):
        if not isinstance(message, dict):
            continue
        if "content" not in message and message.get("role") in _SAYING:
            return f"messages.{index}.content: is missing"
        for field in ("content", "tool_calls"):
            if isinstance(message.get(field), dict):
                return f"messages.{index}.{field}: is a mapping; give a list"
    return None


def beyond(prompt: Any, vocabulary: int | None) -> str | None:
    """Which token id of a completion's prompt the model lacks: vLLM's own check lets the first one pass."""
    if vocabulary is None or not isinstance(prompt, list):
        return None
    lists = (ids for ids in [prompt, *prompt] if isinstance(ids, list) and ids)
    last = max((max(ids) for ids in lists if isinstance(ids[0], int)), default=0)
    return f"prompt: no token {last}; the last is {vocabulary - 1}" if last >= vocabulary else None


def unheeded(body: dict[str, Any]) -> str | None:
    """Which field would change the answer but is none of the engine's, which would answer without it."""
    for field in body:
        if field.startswith("guided_") and body[field] is not None:
            return f"{field}: is not supported; give structured_outputs"
        if field in _UNHEEDED and body[field] is not None:
            return f"{field}: is not supported"
    if body.get("best_of") not in (None, body.get("n") or 1):
        return "best_of: is not supported; give n alone"
    if body.get("modalities") not in (None, ["text"]):
        return "modalities: answers are text"
    if not body.get("use_beam_search"):
        return None
    if any(isinstance(limit := body.get(name), int) and limit < 1 for name in _LIMITS):
        return "max_tokens: must be at least 1"
    left_out = next((field for field in _NOT_OF_BEAMS if body.get(field)), None)
    return left_out and f"{left_out}: is not supported with use_beam_search"


def constrained(body: dict[str, Any]) -> bool:
    """Whether a request asks for answers by a grammar, which an engine finds unusable only as it answers."""
    return any(body.get(field) for field in ("structured_outputs", "response_format", "tools"))


def first_wrong(errors: Sequence[Any], of_list: str = "messages, tool_calls") -> str:
    """What pydantic's errors of a request say first, by its field instead of the types that were tried.

    Of a message's several types it is the one of that role. `of_list`: what is counted where a place begins
    with a number, which is by default the one list that vLLM checks by itself.
    """

    def tried(error: Any) -> tuple[Any, ...]:
        loc = error["loc"]
        types = [at for at, part in enumerate(loc) if _OF_A_TYPE.fullmatch(str(part))]
        return tuple(loc[: types[0] + 1] if types else loc)

    def place(error: Any) -> list[str]:
        return [str(part) for part in error["loc"] if not _OF_A_TYPE.fullmatch(str(part))]

    def fits(error: Any) -> tuple[int, bool]:
        """How far the value is of the type that was tried."""
        return len(place(error)), not error["type"].endswith("_type")

    others = {tried(error) for error in errors if error["type"] == "literal_error"}
    left = [error for error in errors if tried(error) not in others] or errors
    outer = place(left[0])
    first = max((e for e in left if place(e)[: len(outer)] == outer), key=fits)
    parts = [part for part in place(first) if part != "body"]
    if first["type"] == "json_invalid":
        return f"the body is not JSON, at character {int(parts[0]) + 1}"
    if not parts:
        if first["type"] in ("missing", "model_attributes_type"):
            return "the body is not a JSON object; send one, as Content-Type: application/json"
        return str(first["msg"]).removeprefix("Value error, ")
    where = ".".join(parts)
    if parts[0].isdigit():
        where = f"{of_list}.{where}"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}"


def why_no_json(error: BaseException) -> str:
    """Of a body that Python's JSON reader fails at otherwise than by its syntax."""
    if isinstance(error, UnicodeDecodeError):
        return f"the body is not UTF-8 text, at byte {error.start + 1}"
    if isinstance(error, RecursionError):
        return f"the body is nested more than {_DEEPEST} deep"
    return "the body has an integer beyond 64 bits"  # beyond 4300 digits, even


def stream_start(packet: str) -> tuple[dict[str, Any] | None, bool]:
    """The error among a stream's events, and whether one of them is more than an answer's role."""
    begun = False
    for event in packet.split("\n\n"):
        data = event.strip().removeprefix("data: ")
        if not data.startswith("{"):  # the end, or none
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            return chunk["error"], begun
        for choice in chunk.get("choices") or [{"text": "of usage"}]:
            delta = {**(choice.get("delta") or {}), "role": None}
            begun = begun or any(delta.values()) or bool(choice.get("finish_reason"))
            begun = begun or "delta" not in choice
    return None, begun


def status_of(error: BaseException) -> tuple[int, str]:
    """Status and OpenAI's type of an error that parsing or a replica raised.

    4xx for errors that vLLM blames on the client and for Python's errors of unusable values, as in
    `vllm.entrypoints.serve.exception_handling`, and for what is not implemented, as a retry would not help.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"VLLMNotFoundError"}:
        return 404, "not_found_error"
    client = {"VLLMClientError", "ValueError", "TypeError", "ArithmeticError", "TemplateError"}
    if names & (client | {"NotImplementedError", "RecursionError"}):
        return 400, "invalid_request_error"
    return 500, "server_error"


def readable(text: str) -> str:
    """A message in one line, without what pydantic adds for programmers."""
    return " ".join(_FOR_PROGRAMMERS.sub("", text).split())


def message_of(error: BaseException) -> str:
    """One line: the error's first, with its class where that says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
