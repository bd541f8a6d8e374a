"""What a person reads: progress lines on the terminal; in a log file, the package's log and all others'."""

import contextlib
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import IO

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


@contextlib.contextmanager
def quiet_others(log_path: str) -> Iterator[Console]:
    """Sends file descriptors 1 and 2, libraries' prints included, to the log; yields the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    lines = logging.FileHandler(log_path, encoding="utf-8")
    lines.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    logger = logging.getLogger("lr_ray")
    logger.setLevel(logging.INFO)
    logger.propagate = False  # libraries give the root logger handlers too
    logger.addHandler(lines)
    terminal: IO[str] = os.fdopen(os.dup(1), "w", 1, errors="backslashreplace")
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        yield Console(file=terminal, highlight=False, soft_wrap=True)
    finally:
        logger.removeHandler(lines)
        lines.close()
        sys.stdout.flush()
        sys.stderr.flush()
        for target, source in enumerate(saved, start=1):
            os.dup2(source, target)
            os.close(source)
        os.close(log)
        terminal.close()


class StageProgress:
    """A bar on a terminal, else a line now and then; `note` is shown behind it."""

    LINE_EVERY = 5.0  # seconds

    def __init__(
        self,
        console: Console,
        stage: str,
        total: int,
        unit: str,
        on_update: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        """`on_update` gets (done, total) of every update."""
        self.console, self.stage, self.total, self.unit = console, stage, total, unit
        self.on_update = on_update
        self.done, self.last_line = 0, time.monotonic()  # as of the last line
        self.bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            redirect_stdout=False,  # or libraries would write to the terminal after all
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(stage, total=total, note=unit)

    def __enter__(self) -> "StageProgress":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` units are finished."""
        self.on_update(done, self.total)
        self.bar.update(self.task, completed=done, note=f"{self.unit}  {note}")
        now = time.monotonic()
        due = now - self.last_line >= self.LINE_EVERY and done > self.done
        if due and not self.console.is_terminal:
            self.last_line, self.done = now, done
            self.console.print(f"{self.stage:<10} {done}/{self.total} {self.unit}  {note}".rstrip())

    def update_of(self, done: int, total: int, note: str = "") -> None:
        """As `update`, for work whose total is known only once it runs."""
        self.bar.update(self.task, total=total)
        self.total = total
        self.update(done, note)
