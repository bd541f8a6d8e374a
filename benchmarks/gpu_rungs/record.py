"""What a rung found, kept on disk as it is found, so that a rung that is stopped keeps its figures."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Row = dict[str, Any]  # "what", then figures whose names carry their units


@dataclass
class Record:
    """One rung. `status` is done, skipped, failed or stopped; nothing measured is skipped."""

    rung: str
    budget_s: float
    status: str = "stopped"  # until `end` says otherwise
    seconds: float = 0.0
    device: str | None = None
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)  # parts, with the reason
    failed: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._file: Path | None = None
        self._started = time.monotonic()

    def keep_in(self, file: Path) -> None:
        self._file = file
        self._save()

    def left(self, share: float = 1.0) -> float:
        """Seconds until `share` of the budget is spent; negative afterwards."""
        return share * self.budget_s - (time.monotonic() - self._started)

    def row(self, what: str, **figures: Any) -> None:
        self.rows.append({"what": what, **figures})
        shown = ", ".join(f"{name} {show(value)}" for name, value in figures.items())
        self._say(f"{what}: {shown}")

    def note(self, text: str) -> None:
        self.notes.append(text)
        self._say(text)

    def skip(self, reason: str) -> None:
        self.skipped.append(reason)
        self._say(f"skipped: {reason}")

    def fail(self, reason: str) -> None:
        self.failed.append(reason)
        self._say(f"failed: {reason}")

    def attempt(self, part: str, work: Callable[[], None]) -> None:
        """Runs a part; its failure is recorded and leaves the others their turn."""
        try:
            work()
        except Exception as error:  # whatever a card, a driver or a library may raise
            lines = str(error).strip().splitlines() or [""]
            self.fail(f"{part}: {type(error).__name__}: {lines[0][:300]}")

    def end(self) -> None:
        self.seconds = time.monotonic() - self._started
        self.status = "failed" if self.failed else "done" if self.rows else "skipped"
        self._save()

    def _say(self, text: str) -> None:
        print(f"  {self.rung:<9} {text}", flush=True)
        self._save()

    def _save(self) -> None:
        if self._file:
            self.seconds = time.monotonic() - self._started
            fresh = self._file.with_suffix(".unfinished")
            fresh.write_text(json.dumps(asdict(self)))
            os.replace(fresh, self._file)  # a process that is killed leaves the last whole one


def read(file: Path) -> Record:
    return Record(**json.loads(file.read_text()))


def show(value: Any) -> str:
    """A figure in a table: four digits, small ones with an exponent."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.1e}" if 0 < abs(value) < 1e-3 else f"{value:,.4g}".replace(",", "")
    return str(value)
