"""Jobs as a person runs them: as processes of their own, or faster within this one."""

import contextlib
import logging
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]


def command(job: str, *arguments: str) -> list[str]:
    return [sys.executable, str(ROOT / "jobs" / f"{job}.py"), *arguments]


def run(job: str, *arguments: str, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(job, *arguments), capture_output=True, text=True, timeout=timeout, cwd=ROOT
    )


def run_here(job: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`run` without a process of its own, and so on this process's Ray cluster if it has one."""
    _, script, *_ = asked = command(job, *arguments)
    code: object = 0
    with _captured() as (out, err), _called_as(asked[1:]), _same_handlers():
        try:
            runpy.run_path(script, run_name="__main__")
        except SystemExit as ended:
            code = ended.code
        said = [(file.flush(), file.seek(0), file.read())[-1] for file in (out, err)]
    assert isinstance(code, int), code
    return subprocess.CompletedProcess(asked, code, *said)


@contextlib.contextmanager
def _captured() -> Iterator[tuple[IO[str], IO[str]]]:
    """Files that take what is written to standard output and error, by Python or beside it."""
    with contextlib.ExitStack() as stack:
        files = []
        for number, taken in ((1, contextlib.redirect_stdout), (2, contextlib.redirect_stderr)):
            file = stack.enter_context(tempfile.TemporaryFile("w+"))
            (sys.stdout, sys.stderr)[number - 1].flush()
            stack.callback(os.close, saved := os.dup(number))
            stack.callback(os.dup2, saved, number)
            os.dup2(file.fileno(), number)
            stack.enter_context(taken(file))
            files.append(file)
        out, err = files
        stack.callback(_forget, files)
        yield out, err


def _forget(files: list[IO[str]]) -> None:
    """Loggers made within a job write to its standard error, which the next job's is not."""
    for logger in [logging.root, *map(logging.getLogger, list(logging.root.manager.loggerDict))]:
        for handler in list(logger.handlers):
            if getattr(handler, "stream", None) in files:
                logger.removeHandler(handler)


@contextlib.contextmanager
def _called_as(arguments: list[str]) -> Iterator[None]:
    there, sys.argv = sys.argv, arguments
    try:
        yield
    finally:
        sys.argv = there


@contextlib.contextmanager
def _same_handlers() -> Iterator[None]:
    """A job takes Ctrl-C and SIGTERM for itself."""
    there = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in there.items():
            signal.signal(number, handler)
