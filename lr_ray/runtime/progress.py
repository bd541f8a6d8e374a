"""How far a driver is, in its run's progress.json, for `lr-ray status` on any machine.

pytest tests/unit/test_progress.py
"""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from lr_ray.console import Told, heard
from lr_ray.errors import StageError, UserError, named, one_line
from lr_ray.run.store import SCHEMA_VERSION, Run
from lr_ray.runtime import interrupts

FILE = "progress.json"
RUNNING, FINISHED, FAILED, INTERRUPTED = "running", "finished", "failed", "interrupted"
EVERY_S = 2.0
EVERY_STORE_S = 10.0  # in an object store each write is a request


class Record:
    """progress.json of one job. Any thread may call it; a write that fails is left out."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._every = EVERY_S if run.is_local else EVERY_STORE_S
        self._written = 0.0
        self._lock = threading.Lock()
        self._content: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "run": run.location,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "state": RUNNING,
        }

    def tell(self, **facts: Any) -> None:
        """Adds facts, which JSON must know, and writes."""
        self._add(facts, at_once=True)

    def hear(self, told: Told) -> None:
        """Takes over what a stage's progress shows; written when that is due, and at its start and end.

        Raises a received signal's exception once more: work that goes on has not heard of it.
        """
        facts = asdict(told)
        self._add(facts, facts.pop("at_once"))
        interrupts.again()

    def _add(self, facts: dict[str, Any], at_once: bool) -> None:
        with self._lock:
            self._content |= facts
            now = time.monotonic()
            if not at_once and now - self._written < self._every:
                return
            self._written = now
            updated = {"updated_at": datetime.now(UTC).isoformat(timespec="seconds")}
            with contextlib.suppress(Exception):  # a full disk, a store that does not answer
                self._run.write_json(FILE, self._content | updated)


@contextlib.contextmanager
def recorded(run: Run, **facts: Any) -> Iterator[Record]:
    """Writes progress.json of all stages' progress within, and at the end how it ended."""
    record = Record(run)
    record.tell(**facts)
    try:
        with heard(record.hear):
            yield record
    except BaseException as error:
        stopped = interrupts.received is not None or not isinstance(error, Exception)
        ended = {"state": INTERRUPTED} if stopped else {"state": FAILED, "error": _line(error)}
        record.tell(**ended)
        raise
    record.tell(state=FINISHED)


def _line(error: BaseException) -> str:
    """What the command prints of an error."""
    return str(error) if isinstance(error, UserError | StageError) else one_line(named(error))
