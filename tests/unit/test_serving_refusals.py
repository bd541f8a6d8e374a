"""What in a request is the client's mistake; nothing here imports vLLM."""

import json

import pytest

from lr_ray.serving.refusals import empty_prompt, message_of, status_of, wrong_value


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (r'{"messages": [{"content": "\ud83d"}]}', "messages.0.content: has half a surrogate pair at ch"),
        (r'{"messages": [{"content": [{"text": "ab\udc00"}]}]}', "messages.0.content.0.text: has half a"),
        (r'{"stop": ["a", "\ud83d"]}', "stop.1: has half a surrogate pair at character 1"),
        (r'{"\ud83d": 1}', "body: a key has half a surrogate pair"),
        (r'{"metadata": {"a\udc00": 1}}', "metadata: a key has half a surrogate pair"),
        (r'"\ud83d"', "body: has half a surrogate pair"),
        ('{"temperature": NaN}', "temperature: nan is no number"),
        ('{"temperature": -Infinity}', "temperature: -inf is no number"),
        ('{"logit_bias": {"1": 1e999}}', "logit_bias.1: inf is no number"),
        ('{"seed": 9223372036854775808}', "seed: is an integer beyond 64 bits"),
        ('{"prompt": [[1, -9223372036854775809]]}', "prompt.0.1: is an integer beyond 64 bits"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "is nested more than 64 deep"),
    ],
)  # fmt: skip
def test_values_that_engines_cannot_work_with_are_named_by_their_place(body, said):
    found = wrong_value(json.loads(body))
    assert said in found
    found.encode()


@pytest.mark.parametrize(
    "body",
    [r'{"a": "\ud83d\ude00"}', '{"a": "é\U0001f34e\\u0000"}', '{"seed": 9223372036854775807}', "[]",
     '{"a": [1, 0.5, true, null, {"b": [[]]}]}', '{"a": -9223372036854775808}', '{"temperature": 1e300}'],
)  # fmt: skip
def test_other_values_are_the_engines(body):
    assert wrong_value(json.loads(body)) is None


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", ""], [[1], []], None])
def test_an_empty_prompt_is_named(prompt):
    assert empty_prompt({"prompt": prompt}).startswith("prompt: is ")


@pytest.mark.parametrize("prompt", ["a", " ", ["a", "b"], [1, 2], [[1], [2]], [0]])
def test_a_prompt_is_one(prompt):
    assert empty_prompt({"prompt": prompt}) is None
    assert empty_prompt({"prompt_embeds": "x"}) is None


class VLLMClientError(Exception):
    """Of this name, as vLLM's."""


class VLLMNotFoundError(VLLMClientError):
    pass


class TemplateSyntaxError(type("TemplateError", (Exception,), {})):
    pass


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("a"), 400), (UnicodeEncodeError("utf-8", "a", 0, 1, "b"), 400), (TypeError(), 400),
        (OverflowError(), 400), (NotImplementedError("part"), 400), (TemplateSyntaxError("t"), 400),
        (VLLMClientError("v"), 400), (VLLMNotFoundError("v"), 404), (RecursionError(), 400),
        (RuntimeError("bug"), 500), (KeyError("a"), 500), (MemoryError(), 500), (AttributeError(), 500),
    ],
)  # fmt: skip
def test_errors_are_the_clients_or_the_servers(error, status):
    assert status_of(error)[0] == status


def test_the_message_of_an_error_is_its_first_line():
    assert message_of(ValueError("\n  a\nb")) == "a"
    assert message_of(TypeError()) == "TypeError"
