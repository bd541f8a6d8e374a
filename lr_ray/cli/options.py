"""The options of the commands that take a config: `--config`, `--run`, and one for every field of it.

pytest tests/unit/test_pipeline.py tests/unit/test_config_typed.py tests/unit/test_cli.py
"""

import argparse
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import UnionType
from typing import Any, Generic, Union, get_args, get_origin

from pydantic.fields import FieldInfo
from typing_extensions import TypeVar

from lr_ray import output, plugins
from lr_ray.cli.front import Parser
from lr_ray.config import Config, Tree, merge, read_tree, resolve
from lr_ray.config.reading import bare_name, on_device
from lr_ray.config.section import is_section, walk, words
from lr_ray.config.typed import typed_tree
from lr_ray.errors import UserError
from lr_ray.run.store import Run, read_asked

Kind = TypeVar("Kind", bound=Tree, default=Config)
_NAMES = {int: "N", float: "X", bool: "{true,false}"}
EVERYTHING = ("",)


@dataclass(frozen=True)
class Command(Generic[Kind]):
    """What the command line asked for."""

    config: Kind
    config_name: str
    run: Run
    options: argparse.Namespace  # what the command itself added

    @property
    def source(self) -> Run | None:
        """The run of --from."""
        return Run(self.options.source, "--from") if self.options.source else None


Options = Callable[[argparse.ArgumentParser], None]


def parse(
    description: str | None,
    argv: Sequence[str],
    add_options: Options | None = None,
    kind: type[Kind] = Config,  # type: ignore[assignment]
    defaults: dict[str, Any] | None = None,
    prog: str = "lr-ray",
    shown: Sequence[str] = EVERYTHING,
) -> Command[Kind]:
    """Reads the command line, with the command's own options if it adds any.

    A `kind` other than Config takes the sections that it has from --config, or `defaults` without
    one. `shown` are the settings that --help has beside the command's own options: sections
    or fields. Raises UserError for bad values, SystemExit for usage and help.
    """
    parser = Parser(
        prog=prog,
        usage="%(prog)s [--config NAME_OR_PATH] [--run DIR_OR_URI] [--SECTION.FIELD VALUE ...]",
        description=description,
    )
    if add_options:
        add_options(parser)
    _add_common(parser, kind)
    _add_fields(parser, kind, EVERYTHING if "--help-all" in argv else shown)
    known = parser.parse_args(argv)
    source = getattr(known, "source", None)
    if known.config is None and known.run is None and defaults is None and source is None:
        parser.error("give --config, --run or both")
    if source and known.run is None:
        parser.error("--from takes the new run's --run too")
    plugins.load(name for text in known.plugins or [] for name in text.split(","))
    name = known.config or (f"that of {source}" if source else "run")
    default = bare_name(known.config or ("run" if defaults is None else "endpoint"))
    run = Run(known.run or os.path.join("runs", default))
    base = _base(known, Run(source, "--from") if source else run, kind, defaults)
    if getattr(known, "device", None):
        base = on_device(base, known.device)
    tree = merge(base, typed_tree(kind, vars(known)))
    return Command(resolve(tree, kind), name, run, known)


def _add_common(parser: argparse.ArgumentParser, kind: type[Tree]) -> None:
    add = parser.add_argument
    if "--config" not in parser._option_string_actions:  # else the command says itself what it is
        add(
            "--config",
            metavar="NAME_OR_PATH",
            help="preset or YAML file; without it, the config of an existing --run",
        )
        add("--run", metavar="DIR_OR_URI", help="run directory; without it, runs/<config>")
    if "resources" in kind.model_fields:
        add(
            "--device",
            choices=("cpu", "gpu"),
            help="cpu: no process gets a GPU (resources.*.gpus 0); gpu: each gets what auto chooses; "
            "without it the config says",
        )
    add(
        "--plugins",
        metavar="MODULE",
        action="append",
        help="Python module to import first, which registers what the config names; may be repeated",
    )
    add(
        "--output",  # taken from the arguments before they come here, as every command knows it
        choices=tuple(output.FORMS),
        help="how progress is told: " + "; ".join(f"{n}: {w}" for n, w in output.FORMS.items()),
    )
    add("--help-all", action="help", help="show every setting of the config as well, and exit")


def _add_fields(parser: argparse.ArgumentParser, kind: type[Tree], shown: Sequence[str]) -> None:
    """An option for every section and field; those that are not `shown` are left out of the help."""
    groups: dict[str, Any] = {}
    for name, field in walk(kind):
        if f"--{name}" in parser._option_string_actions:
            continue  # the command says itself what it is
        section = name.rpartition(".")[0]
        if section not in groups:
            groups[section] = parser.add_argument_group(section or "settings")
        known = not is_section(field.annotation) and any(
            part in ("", name) or name.startswith(f"{part}.") for part in shown
        )
        groups[section].add_argument(
            f"--{name}",
            action="append",
            metavar=_metavar(field.annotation),
            help=_help(field) if known else argparse.SUPPRESS,
        )


def _metavar(annotation: Any) -> str:
    """What kind of value a field takes: {kl,random}, N, X, TEXT, LIST or NAME=VALUE."""
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _metavar(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        parts = [_metavar(part) for part in get_args(annotation) if part is not type(None)]
        return "|".join(dict.fromkeys(parts))
    if get_origin(annotation) is list:
        return "LIST"
    if get_origin(annotation) is dict:
        return "NAME=VALUE"
    choices = words(annotation)
    if choices:
        return choices[0] if len(choices) == 1 else "{" + ",".join(map(str, choices)) + "}"
    return _NAMES.get(annotation, "JSON" if is_section(annotation) else "TEXT")


def _help(field: FieldInfo) -> str:
    """The field's description and default, as argparse formats it."""
    said, default = field.description or "", field.get_default(call_default_factory=True)
    if not field.is_required() and default is not None and default not in ({}, []):
        said += f" ({','.join(map(str, default)) if isinstance(default, list) else default})"
    return said.replace("%", "%%")


def _base(
    known: argparse.Namespace, run: Run, kind: type[Tree], defaults: dict[str, Any] | None
) -> dict[str, Any]:
    """The tree below the command line's overrides; `run` is the one whose config holds without --config."""
    if defaults is None:
        return read_tree(known.config) if known.config else _asked(run, kind)
    if not known.config:
        return defaults
    shared = {name for name in kind.model_fields if name not in ("endpoint", "models")}
    return {name: part for name, part in read_tree(known.config).items() if name in shared}


def _asked(run: Run, kind: type[Tree]) -> dict[str, Any]:
    """The config that a run was made with."""
    asked = read_asked(run)
    tree = dict(asked["config"])
    if "endpoint" in tree:
        raise UserError(
            f"--run {run.location}: holds an evaluation of an endpoint; give --endpoint and --models"
        )
    if unknown := kind.unknown(tree):
        version = asked.get("versions", {}).get("lr_ray", "another")
        raise UserError(
            f"--run {run.location}: was made by lr_ray {version}, whose {', '.join(unknown)} this "
            "version does not know; go on with that version, or give --config"
        )
    return tree
