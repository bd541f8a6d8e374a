"""The front of all commands: which there are, their exit codes, and errors of one line.

Exit codes: 0 done, 1 failed, 2 nothing started (usage, config, incompatible models),
130 and 143 interrupted (Ctrl-C, SIGTERM). Only the standard library is imported before a command is known.
"""

import argparse
import difflib
import errno
import importlib
import io
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from lr_ray.errors import StageError, UserError, is_full_disk, named, one_line

# What each does. Its module in this package has `main(argv) -> int`.
COMMANDS = {
    "run": "sample, label, train and evaluate: the whole method over one run directory",
    "sample": "the expert's trajectories, scored by both models, and their supervision",
    "label": "supervision from scores that are there, with another threshold or rule",
    "train": "fine-tune the expert on a run's supervision",
    "evaluate": "compare the expert before and after, or models behind any endpoint",
    "serve": "an OpenAI-compatible endpoint of a run's two models, or of directories",
    "compare": "variants of the method over seeds, in one table",
    "probe": "what a pair would teach, from a few problems, before the GPU hours",
    "audit": "recompute a sample of a run's supervision in float32",
    "status": "how far a run is, and whether anybody works on it",
    "plan": "what a run would ask for, without starting anything",
    "doctor": "what this machine or cluster has and lacks",
    "push": "a run's adapter, model or supervision to the Hugging Face hub, or to a folder",
    "import": "a run from sample files of the published code",
    "export": "a run's supervision as such a sample file",
    "grade": "judge the answers in a file",
}
_MODULES = {"import": "import_samples", "export": "export_samples"}  # of another name
_USAGE = "usage: lr-ray COMMAND [--config NAME_OR_PATH] [--run DIR_OR_URI] [OPTION ...]"
_EXAMPLES = """lr-ray run --config demo --run runs/demo --device cpu    the embedded pair, a few minutes
lr-ray COMMAND --help                                    a command's options
lr-ray COMMAND --help-all                                and every setting of the config"""


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and name the closest option."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Formatter, allow_abbrev=False, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuses an empty value, as of a shell's variable that is not set, where a name is due."""
        known, rest = super().parse_known_args(args, namespace)
        for action in self._actions:
            if "." not in action.dest and getattr(known, action.dest, None) in ("", [""]):
                self.error(f"argument {'/'.join(action.option_strings)}: is empty; give a value")
        return known, rest

    def error(self, message: str) -> NoReturn:
        for word in re.findall(r"--[^\s=]+", message):
            names = {option.lstrip("-"): option for option in self._option_string_actions}
            close = difflib.get_close_matches(word.lstrip("-"), names, n=1, cutoff=0.6)
            if "unrecognized" in message and close and names[close[0]] != word:
                message = f"unknown option {word}; did you mean {names[close[0]]}?"
                break
        if found := re.fullmatch("argument (.*): expected one argument", message):
            option = found[1].split("/")[0]
            message = (
                f"{option} has no value; give one, and one that begins with - as {option}=-..."
            )
        print(f"error: {one_line(message)} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help of at most 98 columns, with room for long options."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)
        self._width = min(self._width, 98)


def number(kind: type, said: str, most: float = sys.float_info.max) -> Callable[[str], Any]:
    """How argparse reads a number above 0: an int of digits alone, or a float.

    `said` is the error, with {} or {!r} for the text.
    """

    def read(text: str) -> Any:
        try:
            found = kind(text) if kind is float or text.isdecimal() else 0
        except ValueError:
            found = 0
        if not 0 < found <= most:
            raise argparse.ArgumentTypeError(said.format(text))
        return found

    return read


def main() -> NoReturn:
    """The program `lr-ray`."""
    raise SystemExit(_run(sys.argv[1:]))


def job(name: str) -> NoReturn:
    """A command as a program of its own, as in `ray job submit -- python jobs/sample.py ...`."""
    raise SystemExit(_run([name, *sys.argv[1:]]))


def run_command(argv: Sequence[str]) -> int:
    """The exit code of `lr-ray ARGV...`, run in this process, which keeps its own signal handlers.

    What the command prints goes to sys.stdout and sys.stderr. Call it in the main thread.
    """
    from lr_ray.runtime import interrupts

    with interrupts.borrowed():
        return _run(argv)


def _run(argv: Sequence[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "--help-all"):
        return _said(_help(), 0 if argv else 2)
    if argv[0] == "--version":
        from importlib.metadata import version

        return _said(f"lr_ray {version('lr_ray')}", 0)
    name, *rest = argv
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else "give one of " + ", ".join(COMMANDS)
        print(f"error: no command {name!r}; {hint} (--help says what they do)", file=sys.stderr)
        return 2
    return guarded(lambda: _work(name, rest), resumes=name != "serve")


def _said(text: str, code: int) -> int:
    try:
        print(text, flush=True)
    except OSError as error:
        if not _is_unwritten(error, resumes=False):
            raise
        return 1
    return code


def _work(name: str, argv: Sequence[str]) -> int:
    from lr_ray import output
    from lr_ray.runtime import interrupts

    form, rest = output.taken(list(argv))
    try:
        with output.told_as(form):
            command = importlib.import_module(f"lr_ray.cli.{_MODULES.get(name, name)}")
            return int(command.main(rest))
    except SystemExit as ended:  # of the argument parser
        interrupts.again()  # Ray makes SystemExit(1) of one that comes within ray.get
        if not isinstance(ended.code, int | None):  # of what a plugin runs
            raise StageError(f"the program was ended: {ended.code}") from None
        return int(ended.code or 0)


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        f"{_USAGE}\n\nLightReasoner on Ray: a strong model learns from the steps at which it and a weaker "
        f"one differ.\n\n{commands}\n\n{_EXAMPLES}"
    )


def guarded(work: Callable[[], int], resumes: bool = True) -> int:
    """The exit code of some work. `resumes`: the same command goes on where an interrupted one was."""
    from lr_ray.runtime import interrupts

    interrupts.install()
    if not os.environ.get("COLUMNS", "").strip("0"):  # 0 is no width, and rich would print nothing
        os.environ.pop("COLUMNS", None)
    if isinstance(sys.stdout, io.TextIOWrapper):  # texts may be beyond the locale's encoding
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return work()
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
        if _is_unwritten(error, resumes):
            return 1
        print(f"error: {one_line(named(error))} (traceback: {_kept_traceback()})", file=sys.stderr)
        return 1


def _kept_traceback() -> str:
    """The file with the traceback of the error that is handled, or why there is none."""
    try:
        with tempfile.NamedTemporaryFile("w", prefix="lr_ray-", suffix=".log", delete=False) as log:
            traceback.print_exc(file=log)
    except OSError as error:
        return f"none, {error.strerror}"
    return log.name


def _full(error: Exception, resumes: bool) -> str:
    """Which file or folder has no room, where that is known, and what to do."""
    from lr_ray.run.paths import MAKE_ROOM, full_temporary

    # Of a copy, `filename` is what was read.
    file = getattr(error, "filename2", None) or getattr(error, "filename", None)
    temporary, room = full_temporary(), "make room" + " for the run" * resumes
    if temporary and (file is None or f"{file}".startswith(f"{temporary.rstrip('/')}/")):
        file, room = file or temporary, MAKE_ROOM
    said = os.strerror(getattr(error, "errno", None) or errno.ENOSPC)
    again = "; the same command goes on where it was" * resumes
    return one_line(f"{file}: {said}" if file else said) + f"; {room}{again}"


def _is_unwritten(error: Exception, resumes: bool) -> bool:
    """Whether it is of a full disk, which is told, or of output that nobody reads, as behind `| head -1`."""
    if is_full_disk(error):
        print(f"error: {_full(error, resumes)}", file=sys.stderr)
        return True
    if isinstance(error, BrokenPipeError):
        try:
            print(flush=True)
        except BrokenPipeError:  # what is still printed is dropped
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return True
    return False
