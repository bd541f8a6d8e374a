"""In which form a command tells what it does: `--output plain | quiet | verbose | json`, for every command.

pytest tests/unit/test_output.py
"""

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from typing import IO

from lr_ray.errors import UserError

FORMS = {
    "plain": "a bar on a terminal, else a line now and then",
    "quiet": "how it began and what came out, no progress",
    "verbose": "the package's log as well",
    "json": "a JSON object a line: progress by its parts, and all other lines as text",
}
_form = "plain"


def form() -> str:
    """The one of FORMS that was asked for."""
    return _form


def taken(argv: list[str]) -> tuple[str, list[str]]:
    """The last `--output FORM` of the arguments, plain without one, and all others. Raises UserError."""
    found, others, left = "plain", list[str](), iter(argv)
    for argument in left:
        name, equals, value = argument.partition("=")
        if name != "--output":
            others.append(argument)
            continue
        found = value if equals else next(left, "")
        if found not in FORMS:
            raise UserError(f"--output: {found!r}: give one of {', '.join(FORMS)}")
    return found, others


@contextlib.contextmanager
def told_as(chosen: str) -> Iterator[None]:
    """Within it, that is the form; as JSON, what is printed is a JSON object a line."""
    global _form
    before, _form = _form, chosen
    try:
        with (
            contextlib.redirect_stdout(JsonLines(sys.stdout))
            if chosen == "json"
            else contextlib.nullcontext()
        ):
            yield
    finally:
        _form = before


class JsonLines(io.TextIOBase):
    """Turns lines of text into `{"text": LINE}`; empty ones are left out."""

    def __init__(self, target: IO[str]) -> None:
        self._target, self._open = target, ""

    def write(self, text: str) -> int:
        *lines, self._open = (self._open + text).split("\n")
        for line in filter(str.strip, lines):
            self.put({"text": line.rstrip()})
        return len(text)

    def put(self, found: dict[str, object]) -> None:
        """Writes an object as a line of its own."""
        self._target.write(json.dumps(found) + "\n")
        self.flush()

    def flush(self) -> None:
        self._target.flush()

    def writable(self) -> bool:
        return True
