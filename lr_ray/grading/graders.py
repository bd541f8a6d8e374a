"""How a benchmark or a file is graded, by name: built in, registered, or an object of a user's module.

pytest tests/unit/grading/test_graders.py
"""

import difflib
import importlib
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lr_ray.errors import UserError
from lr_ray.grading.reading import KINDS as BUILT_IN


class Verdict(NamedTuple):
    """`how` it was reached, for a reader: "same number", "equivalent", "different", "time limit", ..."""

    correct: bool
    how: str


@runtime_checkable
class Grader(Protocol):
    """Reads and judges answers in a worker process, which has limits of time and memory.

    It is pickled to get there, so its class must be importable.
    """

    def read(self, completion: str, cut: bool, metadata: Mapping[str, Any]) -> str | None:
        """The answer that a completion gives, or None. `cut`: the limit on tokens ended it."""

    def judge(self, expected: str, extracted: str, metadata: Mapping[str, Any]) -> Verdict | bool:
        """Whether the answer that was read is the expected one. `metadata`: the row's other fields."""


_registered: dict[str, Grader] = {}


def register(name: str, grader: Grader) -> None:
    """Makes a grader known by name in this process. Raises ValueError for a name that is taken."""
    if name in (*BUILT_IN, *_registered) and _registered.get(name) is not grader:
        raise ValueError(f"a grader {name!r} is there already")
    if not isinstance(grader, Grader):
        raise ValueError(f"{grader!r} is no grader; it must have read and judge")
    _registered[name] = grader


def find(name: str, option: str) -> Grader | None:
    """The grader of a name; None for a built-in one. `my_module:grader` is imported.

    A class is called without arguments. Raises UserError naming `option` for an unknown name.
    """
    if name in (*BUILT_IN, *_registered):
        return _registered.get(name)
    module, colon, attribute = name.partition(":")
    if not colon:
        names = [*BUILT_IN, *_registered]
        close = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {close[0]}? Else " if close else ""
        raise UserError(
            f"{option}: no grader {name!r}; {hint}give {', '.join(names)}, or module:object of your own"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
        grader = found() if isinstance(found, type) else found
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{option}: {name!r} cannot be imported: {error}") from None
    if not isinstance(grader, Grader):
        raise UserError(f"{option}: {name!r} is no grader; it must have the methods read and judge")
    return grader
