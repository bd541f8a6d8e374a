"""What a person reads: progress lines on the terminal; in a log file, the package's log and all others'."""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import IO, cast

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from lr_ray import output


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
        with _terminal(terminal, logger) as console:
            yield console
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


@contextlib.contextmanager
def _terminal(file: IO[str], logger: logging.Logger) -> Iterator[Console]:
    """The console of the form that was asked for."""
    form = output.form()
    if form == "json":
        lines = output.JsonLines(file)
        with heard(_json_lines(lines)):
            yield Console(file=cast(IO[str], lines), highlight=False, soft_wrap=True)
        return
    more = logging.StreamHandler(file)
    if form == "verbose":
        logger.addHandler(more)
    try:
        yield Console(file=file, highlight=False, soft_wrap=True, quiet=form == "quiet")
    finally:
        logger.removeHandler(more)


def _json_lines(lines: output.JsonLines) -> "Callable[[Told], None]":
    """Writes what is heard: a stage's start and end at once, and the rest now and then."""
    last = 0.0

    def tell(told: Told) -> None:
        nonlocal last
        now = time.monotonic()
        if told.at_once or now - last >= StageProgress.LINE_EVERY:
            last = now
            found = asdict(told)
            found.pop("at_once")
            lines.put(found)

    return tell


@contextlib.contextmanager
def fetching(name: str, folder: Path, every_s: float = 10.0) -> Iterator[None]:
    """Says what is fetched into `folder`, and how much of it is there, unless it is there at once.

    On a terminal the hub's own bars say so.
    """
    started, ended = time.monotonic(), threading.Event()

    def size() -> int:
        return sum(file.stat().st_size for file in folder.glob("*") if file.is_file())

    before = size()

    def tell() -> None:
        pause = min(2.0, every_s)
        while not ended.wait(pause):
            pause, seconds = every_s, time.monotonic() - started
            with contextlib.suppress(OSError):  # a file has taken its final name
                fetched = (size() - before) / 1e9
                print(f"fetching   {name}  {fetched:.1f} GB, {seconds:.0f} s", flush=True)

    if not sys.stderr.isatty():
        threading.Thread(target=tell, name="fetching", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def rate(a_second: float) -> str:
    """Three digits, whatever their size."""
    return f"{a_second:.0f}" if a_second >= 100 else f"{a_second:.3g}"


@dataclass(frozen=True)
class Told:
    """How far a stage is."""

    stage: str
    done: int
    total: int
    unit: str
    rate: float | None  # units a second since this job began the stage; None: not known yet
    seconds_left: float | None
    note: str
    at_once: bool  # the stage begins or ends


_listeners: list[Callable[[Told], None]] = []


@contextlib.contextmanager
def heard(listener: Callable[[Told], None]) -> Iterator[None]:
    """Tells `listener` too what every stage's progress within shows, in whatever thread that is."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


class StageProgress:
    """A bar on a terminal, else a line now and then, with `note` and time left. Any thread may call it."""

    LINE_EVERY = 5.0  # seconds
    QUIET_LINE_EVERY = 15.0  # while nothing more is done
    LEFT_AFTER = 5.0  # seconds of work that time left is told from, and a hundredth of it

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
        self.done = 0
        self.notes = ("", "")  # of what is done, and of what is under way
        self.seconds_left: float | None = None
        self.rate: float | None = None
        self.told_left = False  # by `show`
        self.first: tuple[int, float] | None = None  # done before, and when that was told
        self.line_done, self.last_line = 0, time.monotonic()  # as of the last line
        self.lock = threading.Lock()
        self.bar = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
            console=console,
            transient=True,
            redirect_stdout=False,  # or libraries would write to the terminal after all
            redirect_stderr=False,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(stage, total=total, note=unit)

    def __enter__(self) -> "StageProgress":
        self.bar.start()
        self._tell(at_once=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()
        self._tell(at_once=True)

    def update(self, done: int, note: str = "") -> None:
        """`done` of `total` units are finished; the first call says how many were before.

        Time counts from the last call that told of no more than that.
        """
        self.on_update(done, self.total)
        now = time.monotonic()
        with self.lock:
            self.done = done
            if self.first is None or done == self.first[0]:
                self.first = done, now
            self.notes = note, self.notes[1]
            before, started = self.first
            if done > before and now - started >= self.LEFT_AFTER:
                self.rate = (done - before) / (now - started)
                if not self.told_left and 100 * (done - before) >= self.total - before:
                    self.seconds_left = (self.total - done) / self.rate
            self._draw(now)

    def update_of(self, done: int, total: int, note: str = "") -> None:
        """As `update`, for work whose total is known only once it runs."""
        self.bar.update(self.task, total=total)
        self.total = total
        self.update(done, note)

    def show(self, note: str, seconds_left: float | None) -> None:
        """What is under way, and when all will be done if the work itself can tell (None: not yet)."""
        with self.lock:
            self.notes, self.told_left = (self.notes[0], note), True
            self.seconds_left = seconds_left
            self._draw(time.monotonic())

    def _draw(self, now: float) -> None:
        left = ""
        if self.seconds_left is not None:
            left = f"{timedelta(seconds=round(self.seconds_left))} left"
        text = "  ".join(part for part in (self.unit, *self.notes, left) if part)
        pace = f"{self.unit}, {rate(self.rate)}/s" if self.rate else self.unit
        shown = "  ".join(part for part in (pace, *self.notes, left) if part)
        self.bar.update(self.task, completed=self.done, note=shown)
        every = self.LINE_EVERY if self.done > self.line_done else self.QUIET_LINE_EVERY
        by_lines = not self.console.is_terminal and output.form() != "json"
        if now - self.last_line >= every and by_lines:
            self.last_line, self.line_done = now, self.done
            self.console.print(f"{self.stage:<10} {self.done}/{self.total} {text}")
        self._tell()

    def _tell(self, at_once: bool = False) -> None:
        note = ", ".join(filter(None, self.notes))
        counts = self.stage, self.done, self.total, self.unit
        told = Told(*counts, self.rate, self.seconds_left, note, at_once)
        for listener in list(_listeners):
            listener(told)
