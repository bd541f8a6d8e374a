"""The common front of all jobs: `--config`, `--run`, dotted overrides, exit codes, logs.

Exit codes: 0 done, 1 failed, 2 nothing started (usage, config, incompatible models),
130 and 143 interrupted (Ctrl-C, SIGTERM).
"""

import argparse
import difflib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, NoReturn, TypeVar

from pydantic_settings import CliSettingsSource

from lr_ray.config import ROLES, Config, Tree, merge, read_tree, resolve
from lr_ray.config.resources import AUTO
from lr_ray.config.typed import typed_tree
from lr_ray.errors import StageError, UserError
from lr_ray.run.store import Run, read_asked
from lr_ray.runtime import interrupts

Kind = TypeVar("Kind", bound=Tree)
_DEVICES = {"cpu": 0, "gpu": AUTO}  # to resources.*.gpus


@dataclass(frozen=True)
class Command(Generic[Kind]):
    """What the command line asked for."""

    config: Kind
    config_name: str
    run: Run
    options: argparse.Namespace  # what the job itself added


Options = Callable[[argparse.ArgumentParser], None]


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the closest option."""

    def error(self, message: str) -> NoReturn:
        for word in re.findall(r"--[\w.-]+", message):
            close = difflib.get_close_matches(word, self._option_string_actions, n=1, cutoff=0.6)
            if "unrecognized" in message and close:
                message = f"unknown option {word}; did you mean {close[0]}?"
                break
        print(f"error: {message} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def parse(
    description: str,
    argv: list[str],
    add_options: Options | None = None,
    kind: type[Kind] = Config,  # type: ignore[assignment]
    defaults: dict[str, Any] | None = None,
) -> Command[Kind]:
    """Reads the command line, with the job's own options if it adds any.

    A `kind` other than Config takes the sections that it has from --config, or `defaults` without
    one. Raises UserError for bad values, SystemExit for usage and --help.
    """
    parser = Parser(
        usage="%(prog)s [--config NAME_OR_PATH] [--run DIR_OR_URI] [--SECTION.FIELD VALUE ...]",
        description=description,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "--config",
        metavar="NAME_OR_PATH",
        help="preset or YAML file; without it, the config of an existing --run",
    )
    parser.add_argument(
        "--run", metavar="DIR_OR_URI", help="run directory; without it, runs/<config>"
    )
    if "resources" in kind.model_fields:
        parser.add_argument(
            "--device",
            choices=tuple(_DEVICES),
            help="cpu: no process gets a GPU (resources.*.gpus 0); gpu: each gets what auto chooses; "
            "without it the config says",
        )
    if add_options:
        add_options(parser)
    CliSettingsSource(  # adds an option for every field
        kind,  # type: ignore[arg-type]
        root_parser=parser,
        cli_parse_args=False,
        cli_use_class_docs_for_groups=False,
        cli_avoid_json=True,
    )
    known = parser.parse_args(argv)
    if known.config is None and known.run is None and defaults is None:
        parser.error("give --config, --run or both")
    name = known.config or ("run" if defaults is None else "endpoint")
    default = os.path.basename(name).removesuffix(".yaml").removesuffix(".yml")
    run = Run(known.run or os.path.join("runs", default))
    base = _base(known, run, kind, defaults)
    if getattr(known, "device", None):
        gpus = _DEVICES[known.device]
        base = merge(base, {"resources": {role: {"gpus": gpus} for role in ROLES}})
    tree = merge(base, typed_tree(kind, vars(known)))
    return Command(resolve(tree, kind), name, run, known)


def _base(
    known: argparse.Namespace, run: Run, kind: type[Tree], defaults: dict[str, Any] | None
) -> dict[str, Any]:
    """The tree below the command line's overrides."""
    if defaults is None:
        tree = read_tree(known.config) if known.config else _asked(run, kind)
        if "endpoint" in tree:
            raise UserError(
                f"--run {run.location}: holds an evaluation of an endpoint; give --endpoint and --models"
            )
        return tree
    if not known.config:
        return defaults
    shared = {name for name in kind.model_fields if name not in ("endpoint", "models")}
    return {name: part for name, part in read_tree(known.config).items() if name in shared}


def _asked(run: Run, kind: type[Tree]) -> dict[str, Any]:
    """The config that a run was made with."""
    asked = read_asked(run)
    tree = dict(asked["config"])
    unknown = [] if "endpoint" in tree else kind.unknown(tree)
    if unknown:
        version = asked.get("versions", {}).get("lr_ray", "another")
        raise UserError(
            f"--run {run.location}: was made by lr_ray {version}, whose {', '.join(unknown)} this "
            "version does not know; go on with that version, or give --config"
        )
    return tree


def main(
    description: str,
    work: Callable[[Command[Any]], int],
    add_options: Options | None = None,
    kind: type[Tree] = Config,
    defaults: dict[str, Any] | None = None,
    resumes: bool = True,
) -> NoReturn:
    """Runs a job's `work` on the parsed command line and exits with its code (see `guarded`)."""
    job = lambda: work(parse(description, sys.argv[1:], add_options, kind, defaults))  # noqa: E731
    raise SystemExit(guarded(job, resumes))


def guarded(job: Callable[[], int], resumes: bool = True) -> int:
    """The exit code of a job. `resumes`: the same command goes on where an interrupted one was."""
    interrupts.install()
    if isinstance(sys.stdout, io.TextIOWrapper):  # texts may be beyond the locale's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return job()
        except Exception:
            interrupts.again()
            raise
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        going_on = "; the same command goes on where it was" if resumes else ""
        print(f"interrupted{going_on}", file=sys.stderr)
        return 130
    except Exception as error:
        with tempfile.NamedTemporaryFile("w", prefix="lr_ray-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
        reason = (str(error).strip().splitlines() or [""])[0]
        print(f"error: {type(error).__name__}: {reason} (traceback: {log.name})", file=sys.stderr)
        return 1
