"""How a benchmark or a file is graded, by name: built in, registered, or an object of a user's module.

pytest tests/unit/grading/test_graders.py
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from lr_ray.errors import UserError
from lr_ray.grading.reading import KINDS as BUILT_IN
from lr_ray.plugins import graders, uncallable

_METHODS = {"read": "completion, cut, metadata", "judge": "expected, extracted, metadata"}


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


def register(name: str, grader: Grader) -> None:
    """Makes a grader known by name in this process. Raises ValueError for a name that is taken."""
    if not isinstance(grader, Grader) and name not in graders.built_in:
        raise ValueError(f"{grader!r} is no grader; it must have read and judge")
    graders.register(name)(grader)


def find(name: str, option: str) -> Grader | None:
    """The grader of a name; None for a built-in one. `my_module:grader` is imported.

    A class is called without arguments. Raises UserError naming `option` for an unknown name.
    """
    if name in BUILT_IN:
        return None
    found = graders.get(name, option)
    try:
        grader = found() if isinstance(found, type) else found
    except TypeError as error:
        raise UserError(f"{option}: {name!r} cannot be imported: {error}") from None
    if not isinstance(grader, Grader):
        raise UserError(f"{option}: {name!r} is no grader; it must have the methods read and judge")
    for method, takes in _METHODS.items():
        if wrong := uncallable(getattr(grader, method), takes):
            raise UserError(f"{option}: {name!r}: {method} {wrong}")
    return grader
