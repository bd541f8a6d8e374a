"""Presets and YAML files to a checked config; errors are one line and name the field."""

import difflib
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import ValidationError

from lr_ray.config.resources import AUTO, NUMBER, ROLES
from lr_ray.config.section import Section, fields_of, is_section
from lr_ray.config.tree import Config, unflatten
from lr_ray.errors import UserError
from lr_ray.yaml_text import YamlError, load, read_text

Kind = TypeVar("Kind", bound=Section)
ENDPOINT_PRESET = "qwen2.5-math-1.5b"  # whose evaluation an endpoint is asked without --config
_MOST_ERRORS = 8  # in a line


def preset_names() -> list[str]:
    files = resources.files("lr_ray").joinpath("presets").iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def read_tree(name_or_path: str) -> dict[str, Any]:
    """The raw tree of a preset or YAML file. Raises UserError when there is no such thing."""
    path = Path(os.path.expanduser(name_or_path))
    if path.suffix in (".yaml", ".yml"):
        return read_mapping(path, "--config", "a mapping of sections")
    if name_or_path not in preset_names():
        raise UserError(
            f"--config {name_or_path}: no such preset; give a .yaml file or one of "
            + ", ".join(preset_names())
        )
    preset = resources.files("lr_ray").joinpath("presets", f"{name_or_path}.yaml")
    return dict(load(preset.read_text(encoding="utf-8")))


def endpoint_tree() -> dict[str, Any]:
    """The preset by whose evaluation an endpoint is asked without --config.

    Without what it says of the paper's protocol: nobody knows whether an endpoint's first model is a base
    model.
    """
    tree = read_tree(ENDPOINT_PRESET)
    del tree["evaluation"]["paper"]
    return tree


def bare_name(name_or_path: str) -> str:
    """What a preset or YAML file is called, without its folder and the end of its name."""
    return os.path.basename(name_or_path).removesuffix(".yaml").removesuffix(".yml")


def on_device(tree: dict[str, Any], device: str) -> dict[str, Any]:
    """The tree with no GPU for any process on "cpu", else with what `auto` chooses for each."""
    gpus = 0 if device == "cpu" else AUTO
    return merge(tree, {"resources": {role: {"gpus": gpus} for role in ROLES}})


def read_mapping(path: Path, option: str, what: str) -> dict[str, Any]:
    """The mapping in a YAML file, an empty one of an empty file. Raises UserError naming `option`."""
    try:
        tree = load(read_text(path))
    except OSError as error:
        raise UserError(f"{option} {path}: {error.strerror or error}") from None
    except YamlError as error:
        raise UserError(f"{option} {path}: {error}") from None
    if tree is not None and not isinstance(tree, dict):
        raise UserError(f"{option} {path}: must be {what}")
    return tree or {}


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section; an empty one over a section leaves it as it is."""
    out = dict(base)
    for key, value in over.items():
        section = isinstance(out.get(key), dict)
        if section and isinstance(value, dict):
            out[key] = merge(out[key], value)
        elif not (section and value is None):
            out[key] = value
    return out


@overload
def resolve(tree: dict[str, Any]) -> Config: ...


@overload
def resolve(tree: dict[str, Any], kind: type[Kind], where: str = "config") -> Kind: ...


def resolve(tree: dict[str, Any], kind: type[Section] = Config, where: str = "config") -> Section:
    """The checked tree. Raises UserError with one line that names `where` and each wrong field."""
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        said = [f"{where}: {_explain(e, kind)}" for e in error.errors()[:_MOST_ERRORS]]
        more = error.error_count() - len(said)
        raise UserError("; ".join([*said, f"and {more} more"] if more else said)) from None


def changed(config: Kind, values: Mapping[str, Any], where: str = "config") -> Kind:
    """The config with other values, by dotted or nested names; of two, the later holds. Raises UserError."""
    tree = config.model_dump(mode="json")
    for name, value in values.items():
        tree = merge(tree, unflatten({name: value}))
    return resolve(tree, type(config), where)


def _explain(error: Any, kind: type[Section]) -> str:
    # AUTO and NUMBER are the branches of a field, unless a key of the file has such a name.
    unknown = error["type"] == "extra_forbidden"
    branches = () if unknown else (AUTO, NUMBER)
    path = [str(part)[:100] for part in error["loc"] if part not in branches]
    name = ".".join(path)
    if unknown and fields_of(kind, name):  # as an option has it
        above, _, last = name.rpartition(".")
        return f"unknown key {name}; write {last} below {above}"
    if unknown:
        known = _keys_at(path[:-1], kind)
        close = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        hint = f"did you mean {'.'.join([*path[:-1], close[0]])}?" if close else ", ".join(known)
        return f"unknown key {name}; {hint if close else 'known here: ' + hint}"
    if error["type"] == "missing":
        below = [f"{name}.{field}" for field in _keys_at(path, kind, required=True)] or [name]
        return f"{name} is missing; give {' and '.join(f'--{field}' for field in below)}"
    if error["type"] == "value_error":
        return f"{name + ': ' if name else ''}{error['ctx']['error']}"
    said = "must be a mapping of its fields" if error["type"] == "model_type" else error["msg"]
    return f"{name} = {_shown(error['input'])}: {said}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _keys_at(path: list[str], kind: type[Section], required: bool = False) -> list[str]:
    """Names of the fields below `path`, only `required` ones if asked; none where it is no section."""
    section: Any = fields_of(kind, ".".join(path))[-1].annotation if path else kind
    fields = section.model_fields if is_section(section) else {}
    return [name for name, field in fields.items() if field.is_required() or not required]
