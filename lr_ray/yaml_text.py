"""YAML as its 1.2 core schema reads it, with a key twice refused.

PyYAML reads 1.1, where `yes` is a boolean, `0100` is 64 and `8:00` is 480. Here a plain scalar is null,
a boolean or a number only as YAML 1.2's core schema has it (section 10.3.2), and `0100`, which 1.1 and 1.2
read differently, stays text. Merge keys (`<<`) work; a key beside one overrides what it brings.
Exercised by `pytest tests/unit/test_config_yaml.py`.
"""

import re
import stat
from pathlib import Path
from typing import Any

import yaml

_MAX_BYTES = 200_000


class YamlError(ValueError):
    """One line: what is wrong with the text, and where."""


def read_text(path: Path) -> str:
    """A file's text, in UTF-8 whatever the locale.

    Raises OSError, and YamlError for other bytes and for what is no file on a disk.
    """
    found = path.stat()
    if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):  # a pipe may never end
        raise YamlError("a pipe or device; give a regular file")
    if found.st_size > _MAX_BYTES:  # which PyYAML would read for minutes
        raise YamlError(f"has {found.st_size} bytes; must have {_MAX_BYTES} at most")
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise YamlError(f"not UTF-8 text at byte {error.start + 1}; save it as UTF-8") from None


def load(text: str) -> Any:
    """The one document of a text. Raises YamlError."""
    try:
        return yaml.load(text, _Loader)
    except YamlError:
        raise
    except yaml.YAMLError as error:
        raise YamlError(_line(error)) from None
    except RecursionError:
        raise YamlError("not valid YAML: nested too deeply") from None
    except AttributeError:  # of a tag whose value PyYAML expects to match
        raise YamlError("not valid YAML: a !!timestamp without a date") from None
    except KeyError as error:  # of a tag whose value PyYAML looks up
        raise YamlError(
            f"not valid YAML: !!bool {error.args[0]!r:.100}; must be true or false"
        ) from None
    except ValueError as error:  # an impossible !!timestamp
        raise YamlError(f"not valid YAML: {' '.join(str(error).split())}") from None


_DIGITS = 4300  # of what Python reads as an integer
_MERGE, _TEXT = "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open: list[str | None] = []  # anchors of the collections that are being read

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) and event.anchor in self._open:
            raise yaml.MarkedYAMLError(
                problem=f"*{event.anchor} stands inside &{event.anchor}; must stand behind it",
                problem_mark=event.start_mark,  # type: ignore[arg-type]  # a C reader's has another type
            )
        self._open.append(event.anchor if isinstance(event, yaml.CollectionStartEvent) else None)
        node: yaml.Node | None = super().compose_node(parent, index)
        self._open.pop()
        return node

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        pairs = []
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                line = key.start_mark.line + 1
                if key.value in seen:
                    where = f"line {line}: {key.value} is there twice"
                    where += f" (also in line {seen[key.value]})" if seen[key.value] != line else ""
                    raise YamlError(f"{where}; give it once")
                seen[key.value] = line
                if key.tag != _MERGE:  # keys are names, so 1 and on are text too
                    key = yaml.ScalarNode(_TEXT, key.value, key.start_mark, key.end_mark)
            pairs.append((key, value))
        node.value = pairs
        return node


_CORE = (
    ("null", r"~|null|Null|NULL|", ("~", "n", "N", "")),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(?:0|[1-9][0-9]*)|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+0123456789.",
    ),
    ("merge", "<<", "<"),
)
for _name, _form, _first in _CORE:
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_name}", re.compile(f"(?:{_form})\\Z"), list(_first)
    )


def _int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    if len(text) > _DIGITS and base == 10:
        raise yaml.MarkedYAMLError(
            problem=f"a number of {len(text)} digits; must have {_DIGITS} at most",
            problem_mark=node.start_mark,
        )
    return int(text, base)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    text = str(loader.construct_scalar(node)).lower()
    return float(text.replace(".inf", "inf").replace(".nan", "nan"))


_Loader.add_constructor("tag:yaml.org,2002:int", _int)
_Loader.add_constructor("tag:yaml.org,2002:float", _float)


def _line(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return f"not valid YAML: {' '.join(str(error).split())}"
    problem = " ".join(str(getattr(error, "problem", error)).split())
    return f"not valid YAML: line {mark.line + 1}, column {mark.column + 1}: {problem[:200]}"
