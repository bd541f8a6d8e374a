"""JSON bodies of any text and any shape are taken by the request's model, or are the client's mistake."""

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException

from lr_ray.serving.ingress import Chat, Completion, _http_error, _other_error, _validation_error
from lr_ray.serving.refusals import empty_prompt, wrong_value

BODIES = {
    "chat": {"model": "a", "messages": [{"role": "user", "content": "1+1?"}]},
    "completion": {"model": "a", "prompt": "1+1="},
}
KINDS = tuple(BODIES)
MODELS = {"chat": TypeAdapter(Chat), "completion": TypeAdapter(Completion)}
FIELDS = {kind: sorted(MODELS[kind].json_schema()["properties"]) for kind in KINDS}
PIECES = ("{", "}", "[", "]", ":", ",", '"', "\\", "\\u", "\\ud83d", '"a"', '"messages"', '"prompt"', "NaN", "-Infinity", "1e999", "0", "-", "1",
          "null", "true", " ", "\n", "é", "\0", "9" * 30, "9" * 5000, "[" * 300, '{"a":' * 300)  # fmt: skip
texts = st.text(max_size=8) | st.sampled_from(
    ["", "user", "assistant", "system", "tool", "text", "image_url", "auto", "none", "json_object", "json_schema", "regex", "\ud83d", "\0", "\n", "a\r\nb"]
)  # fmt: skip
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([0, -1, 2**63, -(2**63) - 1, 10**400])
    | st.floats()
    | texts
)
keys = texts | st.sampled_from(
    ["role", "content", "type", "text", "name", "function", "tool_calls", "url", "image_url", "schema", "json_schema", "parameters", "1"]
)  # fmt: skip
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=10
)  # fmt: skip
messages = st.lists(
    st.fixed_dictionaries({"role": texts, "content": anything}, optional={"tool_calls": anything, "name": anything}), max_size=3
)  # fmt: skip


def answer(kind: str, body: bytes) -> tuple[int, str]:
    """Status and message that a body gets before a replica sees it; 200 and nothing where it is taken."""
    try:
        try:
            asked = json.loads(body)
        except json.JSONDecodeError as error:
            found = {"type": "json_invalid", "loc": ("body", error.pos), "msg": "JSON decode error"}
            raise RequestValidationError([found]) from None
        try:
            MODELS[kind].validate_python(asked)
        except ValidationError as error:
            errors = [e | {"loc": ("body", *e["loc"])} for e in error.errors()]
            raise RequestValidationError(errors) from None
        wrong = wrong_value(asked) or (kind == "completion" and empty_prompt(asked))
        if not wrong:
            return 200, ""
        response = _http_error(None, HTTPException(400, str(wrong)))
    except RequestValidationError as error:
        response = _validation_error(None, error)
    except Exception as error:
        response = _other_error(None, error)
    return response.status_code, json.loads(response.body)["error"]["message"]


def assert_taken_or_refused(kind: str, body: Any) -> None:
    status, message = answer(kind, body if isinstance(body, bytes) else json.dumps(body).encode())
    if status == 200:
        return
    assert 400 <= status < 500, message
    assert message.strip()
    assert len(message.splitlines()) == 1, message
    assert len(message) < 2_000
    message.encode()


@pytest.mark.parametrize("kind", KINDS)
def test_a_plain_body_is_taken(kind):
    assert answer(kind, json.dumps(BODIES[kind]).encode()) == (200, "")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"structured_outputs": []}, "cannot be read"),
        ({"": [{"\r": 2**63}]}, "is an integer beyond 64 bits"),
    ],
)
def test_what_checks_stumble_over_is_refused_in_one_line(more, said):
    status, message = answer("chat", json.dumps(BODIES["chat"] | more).encode())
    assert status == 400
    assert said in message
    assert "\r" not in message


@pytest.mark.parametrize("kind", KINDS)
@given(
    body=st.binary(max_size=40)
    | st.lists(st.sampled_from(PIECES), max_size=15).map(
        lambda p: "".join(p).encode("utf-8", "surrogatepass")
    )
)
def test_any_bytes_are_taken_or_refused(kind, body):
    assert_taken_or_refused(kind, body)


@pytest.mark.parametrize("kind", KINDS)
@given(body=anything)
def test_any_json_is_taken_or_refused(kind, body):
    assert_taken_or_refused(kind, body)


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), value=anything)
def test_any_value_of_a_field_is_taken_or_refused(kind, data, value):
    names = data.draw(st.lists(st.sampled_from(FIELDS[kind]) | keys, min_size=1, max_size=2))
    assert_taken_or_refused(kind, BODIES[kind] | dict.fromkeys(names, value))


@given(messages=messages)
def test_any_messages_are_taken_or_refused(messages):
    assert_taken_or_refused("chat", {"model": "a", "messages": messages})


@given(value=anything)
def test_what_is_not_refused_can_be_sent_on_as_json(value):
    if wrong_value(value) is None:
        sent = json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
        assert json.loads(sent) == value
