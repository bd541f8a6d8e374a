"""Configurations of any text and any shape end in a config or in one line."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_ray.config import Config, EndpointConfig, ServeConfig, flatten, merge, read_tree, resolve
from lr_ray.config.typed import typed_tree
from lr_ray.errors import UserError
from lr_ray.yaml_text import YamlError, load

KINDS = (Config, EndpointConfig, ServeConfig)
DEMO = read_tree("demo")
BASES = {
    Config: DEMO,
    EndpointConfig: {"endpoint": "http://localhost:1", "models": ["a"]},
    ServeConfig: {"models": {"a": "b"}},
}
NAMES = {kind: sorted(flatten(resolve(BASES[kind], kind).model_dump())) for kind in KINDS}
SECTIONS = sorted({name.rpartition(".")[0] for names in NAMES.values() for name in names} - {""})
PIECES = (
    "models", "sampling", "training", "data", "resources", "temperature", "expert", "amateur", "x-a", "<<", ": ", ":", "\n", "\n  ", "\n    ",
    "- ", "-", "?", "{", "}", "[", "]", ",", "&a ", "*a", "!!int ", "!!float ", "!!timestamp ", "!!binary ", "!!set ", "!!python/object:os.system ",
    "!a ", "|", ">", "|2-", "'", '"', "#", " #", "%YAML 1.1\n", "---\n", "...\n", "@", "`", "\t", " ", "0", "1", "1e999", "-1", "0x1F", "0o17",
    "010", "8:00", "1_000", "yes", "true", "null", "~", ".inf", ".nan", "2001-01-01", "\\x41", "\\ud83d", "\\", "é", "🍎", "\r", "\x85", "\u2028", "\0",
    "\ufeff", "\x1b", "=", "a", "a: 1", "a: &x [*x]", "9" * 30, "9" * 5000,
)  # fmt: skip
texts = st.text(max_size=12) | st.sampled_from(
    [*PIECES, "auto", "None", "a,b", "a=b", "a=b,c", '{"a": 1}', "[1]", "[", "{", '"a']
)
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
keys = (
    texts
    | st.sampled_from(SECTIONS)
    | st.sampled_from(sorted({n.rpartition(".")[2] for names in NAMES.values() for n in names}))
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys | st.integers(), inner, max_size=3), max_leaves=8
)  # fmt: skip


def assert_one_line(error: Exception) -> None:
    text = str(error)
    assert text.strip()
    assert len(text.splitlines()) == 1, text
    assert len(text) < 2_000
    text.encode()


def assert_config_or_line(make: Callable[[], Any]) -> None:
    """A config is the same after it was written down and read again."""
    try:
        config = make()
    except UserError as error:
        assert_one_line(error)
        return
    again = resolve(config.model_dump(mode="json"), type(config))
    assert again == config
    assert again.digest() == config.digest()


def nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


@given(text=st.one_of(st.lists(st.sampled_from(PIECES), max_size=20).map("".join), st.text()))
def test_a_yaml_text_is_read_or_refused_in_one_line(text):
    try:
        load(text)
    except YamlError as error:
        assert_one_line(error)


@given(
    content=st.one_of(
        st.binary(),
        st.lists(st.sampled_from(PIECES), max_size=12).map(
            lambda p: "".join(p).encode("utf-8", "surrogatepass")
        ),
    )
)
def test_a_file_of_any_bytes_is_a_config_or_a_line(content, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_bytes(content)
    assert_config_or_line(lambda: resolve(merge(DEMO, read_tree(str(path)))))


@pytest.mark.parametrize("kind", KINDS)
@given(tree=st.dictionaries(keys, anything, max_size=3))
def test_a_tree_of_any_shape_is_a_config_or_a_line(kind, tree):
    assert_config_or_line(lambda: resolve(tree, kind))
    assert_config_or_line(lambda: resolve(merge(BASES[kind], tree), kind))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), value=anything)
def test_a_field_of_any_value_is_a_config_or_a_line(kind, data, value):
    name = data.draw(st.sampled_from(NAMES[kind]) | st.sampled_from(SECTIONS))
    assert_config_or_line(lambda: resolve(merge(BASES[kind], nested(name, value)), kind))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data(), typed=st.lists(texts, min_size=1, max_size=3))
def test_an_option_of_any_text_is_a_config_or_a_line(kind, data, typed):
    names = data.draw(
        st.lists(st.sampled_from(NAMES[kind]) | st.sampled_from(SECTIONS), min_size=1, max_size=3)
    )
    given_texts = {name: typed if len(typed) > 1 else typed[0] for name in names}
    assert_config_or_line(lambda: resolve(merge(BASES[kind], typed_tree(kind, given_texts)), kind))
