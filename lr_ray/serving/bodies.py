"""The bodies of requests: vLLM's own, checked so that a mistake is neither a failure nor slow to tell.

pytest tests/integration/endpoint/test_serving.py
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import ValidationError, WrapValidator

from lr_ray.runtime.imports import uncollected
from lr_ray.serving.refusals import MANY, beginning, message_of, too_many

with uncollected():
    from ray.llm._internal.serve.core.configs.openai_api_models import (
        ChatCompletionRequest,
        CompletionRequest,
    )

_UNREADABLE = (AttributeError, LookupError, TypeError, ArithmeticError, RecursionError)
_FIELDS = {*ChatCompletionRequest.model_fields, *CompletionRequest.model_fields}


def _refused(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Refuses bodies that make vLLM's own checks fail, such as a list in the place of a mapping."""
    if wrong := too_many(value):
        raise ValueError(wrong)
    try:
        if (few := beginning(value)) != value:
            _alike(few, validate)
        return validate(value)
    except _UNREADABLE as error:
        raise ValueError(f"{_which(value, validate)} cannot be read: {message_of(error)}") from None


def _alike(value: Any, validate: Callable[[Any], Any]) -> None:
    """Raises the errors of items that are all wrong, before pydantic describes millions of them."""
    try:
        validate(value)
    except ValidationError as error:
        if error.error_count() >= MANY:
            raise


def _which(value: Any, validate: Callable[[Any], Any]) -> str:
    """The field that fails alone as well."""
    for field in set(value) & _FIELDS if isinstance(value, dict) else ():
        choice = {"tool_choice": value.get("tool_choice")} if field == "tools" else {}
        try:
            validate({"prompt": "1", field: value[field]} | choice)
        except _UNREADABLE:
            return str(field)
        except Exception:  # another mistake
            continue
    return "a field"


Chat = Annotated[ChatCompletionRequest, WrapValidator(_refused)]
Completion = Annotated[CompletionRequest, WrapValidator(_refused)]
