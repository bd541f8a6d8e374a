"""Values as they were typed on the command line, as a tree of the config's fields.

Exercised by `pytest tests/unit/test_config_typed.py`.
"""

import csv
import glob
import json
import os
from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_origin

from lr_ray.config.section import Section, is_nullable, is_section, walk
from lr_ray.errors import UserError

TYPED = "as typed"  # on the items of a list: each use of the option is one of them, commas and all


def typed_tree(kind: type[Section], given: Mapping[str, Any]) -> dict[str, Any]:
    """`given` are dotted names of fields of `kind` and what was typed: a text, or a list of them.

    Names of other options are left alone. A list is what stands between commas, each use of the option
    adding to it, or a JSON list; of TYPED items each use adds one. A comma of a path that exists belongs
    to it. A mapping is NAME=VALUE,... or a JSON object, and so is a section. None is null where null is
    possible; of another field the last use of its option holds. Raises UserError naming the option.
    """
    tree: dict[str, Any] = {}
    fields = dict(walk(kind))
    for name in sorted(given, key=lambda name: name.count(".")):  # sections before their fields
        if name in fields and given[name] is not None:
            *above, last = name.split(".")
            at = tree
            for part in above:
                at = _section(f"--{name}", at, part)
            at[last] = _value(f"--{name}", fields[name].annotation, given[name])
    return tree


def _section(option: str, at: dict[str, Any], part: str) -> dict[str, Any]:
    """The section `part` of a tree, made where it is missing or empty. Raises UserError for another value."""
    if at.get(part) is None:
        at[part] = {}
    there = at[part]
    if not isinstance(there, dict):
        raise UserError(f"{option}: {part} = {there!r:.100} is given too; must be a JSON object")
    return there


def _value(option: str, annotation: Any, typed: str | list[str]) -> Any:
    texts = [typed] if isinstance(typed, str) else typed
    if is_section(annotation):
        return _once(option, (pair for text in texts for pair in _object(option, text).items()))
    if get_origin(annotation) is dict:
        return _mapping(option, texts)
    if get_origin(annotation) is list:
        as_typed = TYPED in getattr(get_args(annotation)[0], "__metadata__", ())
        return [item for text in texts for item in _items(option, text, as_typed)]
    return None if texts[-1] == "None" and is_nullable(annotation) else texts[-1]


def _items(option: str, text: str, as_typed: bool) -> list[Any]:
    bare = text.strip()
    if bare.startswith("[") and bare.endswith("]"):
        try:
            items = json.loads(bare, strict=False)
        except (ValueError, RecursionError):
            items = None if as_typed else _pieces(option, bare[1:-1])
        if items is not None and (not as_typed or all(isinstance(item, str) for item in items)):
            return list(items)
    return [text] if as_typed else _pieces(option, text)


def _pieces(option: str, text: str) -> list[str]:
    """What stands between commas; double quotes keep one inside, and so does a path that exists."""
    try:
        (parts,) = csv.reader([text], skipinitialspace=True, strict=True)
    except (csv.Error, ValueError):
        parts = text.split(",")
    pieces = _joined(parts, lambda piece: bool(glob.glob(piece)) or os.path.exists(piece))
    if not all(piece.strip() for piece in pieces):
        raise UserError(f"{option} {text!r}: nothing beside a comma; give items between commas")
    return [piece if os.path.exists(piece) else piece.strip() for piece in pieces]


def _joined(parts: list[str], belong: Any) -> list[str]:
    """Neighbours that belong together with a comma between them, as many as possible, made one."""
    joined = []
    while parts:
        ends = range(len(parts), 1, -1)
        end = next((end for end in ends if belong(",".join(parts[:end]))), 1)
        joined.append(",".join(parts[:end]))
        parts = parts[end:]
    return joined


def _mapping(option: str, texts: list[str]) -> dict[str, Any]:
    pairs: list[tuple[str, Any]] = []
    for text in texts:
        if text.strip().startswith("{"):
            pairs += _object(option, text).items()
            continue
        parts: list[str] = []
        for part in text.split(","):  # a part without a name is more of the path before it
            longer = f"{parts[-1]},{part}" if parts else ""
            more = parts and ("=" not in part or os.path.exists(longer.partition("=")[2]))
            parts = [*parts[:-1], longer] if more else [*parts, part]
        for part in parts:
            name, equals, value = part.partition("=")
            if not equals or not name.strip() or not value:
                raise UserError(f"{option} {text!r}: must be NAME=VALUE, more of them after commas")
            pairs.append((name.strip(), value))
    return _once(option, pairs)


def _object(option: str, text: str) -> dict[str, Any]:
    try:
        value = json.loads(text, strict=False, object_pairs_hook=lambda pairs: _once(option, pairs))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{option} {text[:100]!r}: must be a JSON object")
    return value


def _once(option: str, pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise UserError(f"{option}: {name} is there twice; give it once")
        found[name] = value
    return found
