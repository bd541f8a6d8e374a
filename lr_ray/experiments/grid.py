"""A grid's YAML to checked variants: each is the config with a few other values.

    seeds: [0, 1, 2]                      # of training, random steps and sampled solutions
    variants:
      lightreasoner: {seeds: [0, 1, 2, 3]}              # more of them for this one
      random-steps: {sampling.selection: random}
      longer: {training: {optimizer_steps: 3x}}         # three times the config's
      equal-amateur: {models.amateur: "@models.expert"}  # the config's value of another field
      prefilled: {untrained: true, evaluation.prefill: Step by step.}
    x: sampling.kl_threshold              # a sweep: draws a plot, and makes a variant of each value
    values: [0.1, 0.2]

Exercised by `pytest tests/unit/test_grid.py`.
"""

import math
import os
import re
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field

from lr_ray.config import Config, changed, flatten, resolve, value_at
from lr_ray.config.reading import bare_name, read_mapping
from lr_ray.config.section import Section
from lr_ray.errors import UserError

_GRIDS = Path(str(resources.files("lr_ray")), "presets", "grids")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_TIMES = re.compile(r"(\d+(?:\.\d+)?)x")
_SEEDED = ("training.seed", "sampling.seed")
# All variants are asked alike, beside the one expert.
_SHARED = re.compile(
    r"models\.(expert$|chat_template_kwargs)|serving(\.|$)|evaluation(\.(?!prefill$)|$)|rounds"
)


@dataclass(frozen=True)
class Variant:
    """One row of the table. An untrained one is the expert itself, asked with its own prefill."""

    name: str
    config: Config
    untrained: bool = False
    value: float | str | None = None  # of the swept field
    seeds: tuple[int, ...] = ()  # of its own; none: the grid's


@dataclass(frozen=True)
class Grid:
    name: str
    seeds: list[int]
    variants: list[Variant]
    x: str | None = None


class _File(Section):
    model_config = ConfigDict(strict=True)

    seeds: list[int] = Field(default=[0], min_length=1)
    variants: dict[str, dict[str, Any] | None] = Field(default={})
    x: str | None = None
    values: list[float | str] = Field(default=[])


def grid_names() -> list[str]:
    """Names of the grids that the package brings."""
    return sorted(path.stem for path in _GRIDS.glob("*.yaml"))


def read_grid(name_or_path: str, config: Config, amateurs: str | None = None) -> Grid:
    """The grid, with each variant's whole config.

    A relative models.amateur is looked for in the folder `amateurs`, by default the grid file's.
    Raises UserError naming the grid, the variant and the field.
    """
    tree, folder = _read(name_or_path)
    where = f"--grid {name_or_path}"
    file = resolve(tree, _File, where)
    if min(file.seeds) < 0 or len(set(file.seeds)) < len(file.seeds):
        raise UserError(f"{where}: seeds: {file.seeds} must be different numbers of 0 or more")
    if bool(file.values) and not file.x:
        raise UserError(f"{where}: values without x, the field that they are of")
    wanted: dict[str, tuple[dict[str, Any], float | str | None]] = {
        name: (over or {}, None) for name, over in file.variants.items()
    }
    for value in file.values:
        name = _name_of(str(file.x), value)
        if name in wanted:
            raise UserError(f"{where}: two variants are named {name}")
        wanted[name] = {str(file.x): value}, value
    if not wanted:
        raise UserError(f"{where}: no variants; give variants, or x and values")
    variants = [
        _variant(f"{where}: variant {name}", name, over, value, config, Path(amateurs or folder))
        for name, (over, value) in wanted.items()
    ]
    return Grid(bare_name(name_or_path), file.seeds, _swept(where, file.x, variants), file.x)


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    """A grid's tree and its folder."""
    path = Path(os.path.expanduser(name_or_path))
    folder = str(path.parent)
    if path.suffix not in (".yaml", ".yml"):
        if name_or_path not in grid_names():
            said = f"no such grid; give a .yaml file or one of {', '.join(grid_names())}"
            raise UserError(f"--grid {name_or_path}: {said}")
        path, folder = _GRIDS / f"{name_or_path}.yaml", "."
    return read_mapping(path, "--grid", "a mapping with seeds and variants"), folder


def _name_of(x: str, value: float | str) -> str:
    """A variant of a sweep: the field's last word and the value, a path's last part alone."""
    if isinstance(value, str):
        return re.sub(r"[^A-Za-z0-9._-]+", "-", value.rstrip("/").rsplit("/", 1)[-1]).strip("-")
    return f"{x.rsplit('.', 1)[-1]}-{value:g}"


def _variant(
    where: str,
    name: str,
    over: dict[str, Any],
    value: float | str | None,
    config: Config,
    folder: Path,
) -> Variant:
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: a name has letters, digits, dots, dashes and underscores")
    over = dict(over)
    seeds = over.pop("seeds", [])
    if not isinstance(seeds, list) or not all(type(s) is int and 0 <= s < 2**63 for s in seeds):
        raise UserError(
            f"{where}: seeds = {seeds!r:.100}: must be a list of numbers of 0 or more, below 2**63"
        )
    untrained = over.pop("untrained", False)
    if not isinstance(untrained, bool):
        raise UserError(f"{where}: untrained = {untrained!r}: must be true or false")
    fields = flatten(over)
    _check_once(where, over)
    for field in fields:
        if field in _SEEDED:
            raise UserError(f"{where}: {field} is set by the grid's seeds")
        if _SHARED.match(field):
            raise UserError(f"{where}: {field} is one for the whole comparison; set it in --config")
        if untrained and field != "evaluation.prefill":
            raise UserError(f"{where}: {field} has no effect on an untrained variant")
    base = config.model_dump(mode="json")
    for field, given in fields.items():
        if field == "models.amateur" and isinstance(given, str) and not given.startswith("@"):
            given = _amateur(where, given, folder)
        fields[field] = _value(where, field, given, base)
    config = changed(config, fields, where)
    return Variant(name, config, untrained, value, tuple(dict.fromkeys(seeds)))


def _check_once(where: str, over: dict[str, Any]) -> None:
    """Raises UserError for a field in both spellings, `a.b: 1` and `a: {b: 2}`."""
    names = [name for key, value in over.items() for name in flatten({key: value})]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{where}: {', '.join(twice)} is there twice; give it once")


def _value(where: str, field: str, given: Any, base: dict[str, Any]) -> Any:
    """`given`, with `3x` and `@other.field` put in numbers and values of the config."""
    if not isinstance(given, str):
        return given
    if given.startswith("@"):
        value = value_at(base, given[1:])
        if value is None:
            raise UserError(f"{where}: {field} = {given}: the config has no value of {given[1:]}")
        return value
    times = _TIMES.fullmatch(given)
    number = value_at(base, field)
    if not times or isinstance(number, str):
        return given
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise UserError(f"{where}: {field} = {given}: the config has no number to multiply there")
    product = number * float(times[1])
    if not math.isfinite(product):
        raise UserError(f"{where}: {field} = {given:.40}...: must be a number below 2**63")
    return max(1, round(product)) if isinstance(number, int) else product


def _amateur(where: str, reference: str, folder: Path) -> str:
    """An absolute path for a directory in `folder`; embedded: and Hugging Face ids as they are."""
    inside = folder / reference
    if os.path.isdir(inside):
        return str(inside.resolve())
    if not reference.startswith("embedded:") and "/" not in reference:
        raise UserError(
            f"{where}: models.amateur: no directory {reference} in {folder}; name its folder by --amateurs"
        )
    return reference


def _swept(where: str, x: str | None, variants: list[Variant]) -> list[Variant]:
    """The variants with their values of the swept field, where the grid has one."""
    if x is None:
        return variants
    dumped = [(v, value_at(v.config.model_dump(mode="json"), x)) for v in variants]
    if any(found is None or isinstance(found, list | dict) for _, found in dumped):
        raise UserError(f"{where}: x: {x} is not a field with one value")
    return [replace(v, value=v.value if v.value is not None else found) for v, found in dumped]
