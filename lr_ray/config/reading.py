"""Presets and YAML files to a checked config; errors are one line and name the field."""

import difflib
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from lr_ray.config.resources import AUTO, NUMBER
from lr_ray.config.tree import Config, Tree
from lr_ray.errors import UserError

Kind = TypeVar("Kind", bound=Tree)


def preset_names() -> list[str]:
    files = resources.files("lr_ray").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_tree(name_or_path: str) -> dict[str, Any]:
    """The raw tree of a preset or YAML file. Raises UserError when there is no such thing."""
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text()
        except OSError as error:
            raise UserError(f"--config {name_or_path}: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise UserError(f"--config {name_or_path}: not UTF-8 text") from None
    elif name_or_path in preset_names():
        preset = resources.files("lr_ray").joinpath("presets", f"{name_or_path}.yaml")
        text = preset.read_text()
    else:
        raise UserError(
            f"--config {name_or_path}: no such preset; give a .yaml file or one of "
            + ", ".join(preset_names())
        )
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"--config {name_or_path}: not valid YAML: {where}") from None
    if not isinstance(tree, dict):
        raise UserError(f"--config {name_or_path}: must be a mapping of sections")
    return tree


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section."""
    out = dict(base)
    for key, value in over.items():
        nested = isinstance(value, dict) and isinstance(out.get(key), dict)
        out[key] = merge(out[key], value) if nested else value
    return out


def resolve(tree: dict[str, Any], kind: type[Kind] = Config) -> Kind:  # type: ignore[assignment]
    """The checked tree. Raises UserError with one line that names each wrong field."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        raise UserError("; ".join(_explain(e, kind) for e in error.errors())) from None


def _explain(error: Any, kind: type[Tree]) -> str:
    path = [str(part) for part in error["loc"] if part not in (AUTO, NUMBER)]
    name = ".".join(path)
    if error["type"] == "extra_forbidden":
        known = _keys_at(path[:-1], kind)
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path[:-1], close[0]])}?" if close else ", ".join(known)
        return f"config: unknown key {name}; {hint if close else 'known here: ' + hint}"
    if error["type"] == "missing":
        return f"config: {name} is missing; give --{name}"
    if error["type"] == "value_error":
        return f"config: {name + ': ' if name else ''}{error['ctx']['error']}"
    return f"config: {name} = {error['input']!r}: {error['msg']}"


def _keys_at(path: list[str], kind: type[Tree]) -> list[str]:
    model: Any = kind
    for part in path:
        model = model.model_fields[part].annotation
    return list(model.model_fields)
