"""Which requests are the client's mistake, so that they are answered 4xx and not tried again.

pytest tests/unit/test_serving_refusals.py tests/integration/endpoint/test_serving.py
"""

import math
import re
from typing import Any

_HALF_A_PAIR = re.compile("[\ud800-\udfff]")
_DEEPEST = 64


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


def empty_prompt(body: dict[str, Any]) -> str | None:
    """Which part of a completion's prompt is empty, if one is: an engine cannot continue an empty prompt."""
    prompt = body.get("prompt")
    if prompt is None:
        return None if body.get("prompt_embeds") else "prompt: is missing"
    prompts = prompt if isinstance(prompt, list) and prompt else [prompt]
    if any(one in ("", []) for one in prompts):
        return "prompt: is empty; give text or token ids"
    return None


def status_of(error: BaseException) -> tuple[int, str]:
    """Status and OpenAI's type of an error that parsing or a replica raised.

    4xx for errors that vLLM blames on the client and for Python's errors of unusable values, as in
    `vllm.entrypoints.serve.exception_handling`, and for what is not implemented, as a retry would not help.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"VLLMNotFoundError"}:
        return 404, "not_found_error"
    client = {"VLLMClientError", "ValueError", "TypeError", "OverflowError", "TemplateError"}
    if names & (client | {"NotImplementedError", "RecursionError"}):
        return 400, "invalid_request_error"
    return 500, "server_error"


def message_of(error: BaseException) -> str:
    """One line: the error's first, with its class where that says nothing."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:500] if lines else type(error).__name__
