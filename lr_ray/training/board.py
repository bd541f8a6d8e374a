"""A small Ray actor between workers and driver: metrics, and the reason why training cannot go on."""

from typing import Any


class TrainingBoard:
    """Holds what workers post until the driver takes it.

    A worker's reason to give up outlives the worker: workers that Ray Train starts in its place read it
    and end, instead of failing again.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, Any]] = []
        self._failure: str | None = None

    def post(self, row: dict[str, Any]) -> None:
        self._rows.append(row)

    def take(self) -> list[dict[str, Any]]:
        """Rows posted since the last call."""
        rows, self._rows = self._rows, []
        return rows

    def fail(self, reason: str) -> None:
        self._failure = self._failure or reason

    def failure(self) -> str | None:
        return self._failure
