"""What in a request is the client's mistake; nothing here imports vLLM."""

import json

import pytest

from lr_ray.serving.refusals import (
    beginning,
    beyond,
    constrained,
    empty_prompt,
    first_wrong,
    message_of,
    misplaced,
    readable,
    status_of,
    stream_start,
    too_many,
    unheeded,
    why_no_json,
    wrong_value,
)


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
        (OverflowError(), 400), (ZeroDivisionError(), 400), (NotImplementedError("part"), 400), (TemplateSyntaxError("t"), 400),
        (VLLMClientError("v"), 400), (VLLMNotFoundError("v"), 404), (RecursionError(), 400),
        (RuntimeError("bug"), 500), (KeyError("a"), 500), (MemoryError(), 500), (AttributeError(), 500),
    ],
)  # fmt: skip
def test_errors_are_the_clients_or_the_servers(error, status):
    assert status_of(error)[0] == status


def test_the_message_of_an_error_is_its_first_line():
    assert message_of(ValueError("\n  a\nb")) == "a"
    assert message_of(TypeError()) == "TypeError"


def test_a_mapping_in_the_place_of_a_list_is_named():
    user = {"role": "user", "content": "a"}
    assert misplaced({"messages": [user, user | {"content": {}}]}).startswith(
        "messages.1.content: "
    )
    assert misplaced({"messages": [user | {"tool_calls": {}}]}).startswith(
        "messages.0.tool_calls: "
    )
    for content in ("a", [], [{"type": "text", "text": "a"}], None):
        assert misplaced({"messages": [user | {"content": content}]}) is None
    assert misplaced({"messages": "a"}) is None


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
def test_a_message_without_its_content_is_named(role):
    user = {"role": "user", "content": "a"}
    assert misplaced({"messages": [user, {"role": role}]}) == "messages.1.content: is missing"
    assert misplaced({"messages": [user, {"role": "assistant"}, {"role": "documents"}]}) is None


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"guided_json": {"type": "object"}}, "guided_json"), ({"guided_choice": []}, "guided_choice"),
        ({"functions": [{"name": "f"}]}, "functions"), ({"function_call": "auto"}, "function_call"),
        ({"logits_processors": ["x"]}, "logits_processors"), ({"web_search_options": {}}, "web_search_options"),
        ({"best_of": 3}, "best_of"), ({"best_of": 1, "n": 2}, "best_of"), ({"best_of": "x"}, "best_of"),
        ({"modalities": ["text", "audio"]}, "modalities"), ({"audio": {"voice": "x"}}, "audio"),
        ({"use_beam_search": True, "stop": "a"}, "stop"), ({"use_beam_search": True, "max_tokens": 0}, "max_tokens"),
        ({"use_beam_search": True, "response_format": {"type": "json_object"}}, "response_format"),
    ],
)  # fmt: skip
def test_a_field_that_an_engine_would_leave_out_is_named(body, field):
    assert unheeded(body).startswith(f"{field}: ")


@pytest.mark.parametrize(
    "body",
    [{"stop": "a", "max_tokens": 0}, {"best_of": 1}, {"best_of": 2, "n": 2}, {"best_of": None, "functions": None},
     {"modalities": ["text"], "audio": None, "guided_json": None}, {"store": True, "metadata": {}},
     {"use_beam_search": True, "n": 2, "stop": [], "max_tokens": None, "max_completion_tokens": 5}],
)  # fmt: skip
def test_a_field_that_changes_no_answer_may_be_there(body):
    assert unheeded(body) is None


@pytest.mark.parametrize("prompt", [[590], [0, 590, 1], [[1], [590]], [99999]])
def test_the_first_token_beyond_the_vocabulary_is_named(prompt):
    assert beyond(prompt, 590).endswith("the last is 589")


@pytest.mark.parametrize("prompt", ["590", ["590"], [589], [[0], [589]], [], None])
def test_tokens_of_the_vocabulary_are_a_prompt(prompt):
    assert beyond(prompt, 590) is None
    assert beyond([590], None) is None


def test_a_body_that_would_take_long_to_check_is_refused():
    assert "10000" in too_many({"messages": [{}] * 10_001})
    assert "10000" in too_many({"messages": [{"content": [{}] * 10_000}]})
    for item in (1, "", None, [], [1, 2]):
        assert "10000" in too_many({"messages": [item] * 10_001})
        assert "10000" in too_many({"messages": [{"content": [item] * 10_001}]})
        assert "10000" in too_many({"tools": [item] * 10_001})
    assert (
        too_many({"response_format": {"enum": [""] * 10_001}, "stop_token_ids": [1] * 10_001})
        is None
    )
    assert too_many({"messages": [{}] * 5000, "tools": [{}] * 4000}) is None
    assert too_many({"prompt": list(range(10**6))}) is None
    assert too_many("a") is None


def test_the_beginning_of_a_body_has_the_first_items_of_its_lists():
    body = {"a": [1] * 999, "b": {"c": [["x"] * 2000] * 1001}, "d": "x" * 2000}
    assert beginning(body) == body | {"b": {"c": [["x"] * 1000] * 1000}}


def test_which_requests_ask_for_a_grammar():
    assert constrained({"structured_outputs": {"regex": "a"}})
    assert constrained({"response_format": {"type": "json_object"}})
    assert constrained({"tools": [{}]})
    assert not constrained({"tools": None, "prompt": "a"})


ROLE = {
    "loc": ("body", "messages", 0, "DeveloperParam", "role"),
    "type": "literal_error",
    "msg": "r",
}
CONTENT = {"type": "string_type", "msg": "Input should be a valid string"}


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        ([CONTENT | {"loc": ("body", "messages", 0, "DeveloperParam", "content", "str")}, ROLE,
          CONTENT | {"loc": ("body", "messages", 0, "UserParam", "content", "str")}],
         "messages.0.content: Input should be a valid string"),
        ([ROLE], "messages.0.role: r"),
        ([CONTENT | {"loc": ("body", "messages", 0, "UserParam", "content", "str")},
          {"loc": ("body", "messages", 0, "HarmonyMessage", "content"), "type": "list_type", "msg": "a list"},
          {"loc": ("body", "messages", 0, "HarmonyMessage", "author"), "type": "missing", "msg": "Field required"}],
         "messages.0.content: Input should be a valid string"),
        ([CONTENT | {"loc": ("body", "stop", "str")},
          {"loc": ("body", "stop", "list[str]"), "type": "too_long", "msg": "at most 16"}], "stop: at most 16"),
        ([CONTENT | {"loc": ("body", "stop", "str")}, CONTENT | {"loc": ("body", "stop", "list[str]", 3)}],
         "stop.3: Input should"),
        ([{"loc": ("body", "tool_choice", "literal['none']"), "type": "literal_error", "msg": "none"},
          {"loc": ("body", "tool_choice", "NamedParam", "type"), "type": "literal_error", "msg": "function"}],
         "tool_choice.type: function"),
        ([CONTENT | {"loc": ("body", "prompt", "list[constrained-int]")}], "prompt: Input should be"),
        ([CONTENT | {"loc": ("body", "response_format", "function-wrap[f()]", "type")}],
         "response_format.type: Input"),
        ([{"loc": ("body",), "type": "value_error", "msg": "Value error, tools: a"}], "tools: a"),
        ([{"loc": ("body", 6), "type": "json_invalid", "msg": "x"}], "the body is not JSON, at character 7"),
        ([{"loc": (0, "ToolCallParam", "function"), "type": "missing", "msg": "Field required"}],
         "messages, tool_calls.0.function: Field required"),
        ([{"loc": ("body",), "type": "missing", "msg": "x"}], "the body is not a JSON object; send one"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_by_its_field(errors, said):
    assert first_wrong(errors).startswith(said)


@pytest.mark.parametrize(
    ("packet", "found"),
    [
        ('data: {"error": {"message": "m", "code": 400}}\n\ndata: [DONE]\n\n', ("m", False)),
        ('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n', (None, False)),
        ('data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
         'data: {"error": {"message": "m"}}\n\n', ("m", False)),
        ('data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: {"error": {"message": "m"}}\n\n',
         ("m", True)),
        ('data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n', (None, True)),
        ('data: {"choices": [{"text": ""}]}\n\n', (None, True)),
        ('data: {"choices": [], "usage": {}}\n\n', (None, True)),
        ("data: [DONE]\n\n", (None, False)),
    ],
)  # fmt: skip
def test_an_error_before_the_first_words_of_a_stream_is_seen(packet, found):
    error, begun = stream_start(packet)
    assert (error and error["message"], begun) == found


def test_a_body_that_is_no_json_is_told_why():
    assert why_no_json(UnicodeDecodeError("utf-8", b"a\xff", 1, 2, "x")).endswith("at byte 2")
    assert "nested" in why_no_json(RecursionError())
    assert "integer" in why_no_json(ValueError())


def test_messages_are_one_line_without_what_is_for_programmers():
    text = "1 error for A\nb\n  is due [type=t, input_value=[1], input_type=list]\n    For further information visit https://x/y"
    assert readable(text) == "1 error for A b is due"


def test_a_place_that_begins_with_a_number_is_of_the_list_that_was_checked():
    error = {"loc": (0, "TextParam", "text"), "type": "missing", "msg": "Field required"}
    said = "messages.1.content.0.text: Field required"
    assert first_wrong([error], "messages.1.content") == said
