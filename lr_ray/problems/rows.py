"""What a usable row is: a raw row becomes a problem, or is rejected with the reason.

pytest tests/unit/test_problems_rows.py
"""

import hashlib
import math
import unicodedata
from collections.abc import Callable, Iterable
from decimal import Decimal
from typing import Any, NamedTuple

import pyarrow as pa

from lr_ray.json_text import EATEN

MAX_CHARACTERS = 100_000  # of a problem or an answer; what fits a model is checked in tokens later
MAX_ID_CHARACTERS = 1_000

PROBLEM = pa.schema(
    [
        ("problem_id", pa.string()),
        ("problem", pa.string()),
        ("answer", pa.string()),  # null where there is none
        ("file", pa.string()),
        ("row", pa.int64()),  # counted from 1; a line of a JSONL file
        ("metadata", pa.string()),  # JSON of what else a registered source's row says, or null
    ]
)

Row = dict[str, Any]


class Raw(NamedTuple):
    """One row as it was read, or why it could not be."""

    file: str
    row: int
    value: Any
    error: str | None = None


class Problem(NamedTuple):
    """In the order of PROBLEM."""

    problem_id: str
    problem: str
    answer: str | None
    file: str
    row: int
    metadata: str | None = None


class Rejected(NamedTuple):
    """In the order of lr_ray.run.schemas.REJECTED."""

    problem_id: str | None
    file: str
    row: int
    reason: str

    @property
    def place(self) -> str:
        return f"{self.file}, row {self.row}"


class Found(NamedTuple):
    """What a row says; without an id, the text makes one."""

    problem: str
    answer: str | None
    problem_id: str | None = None
    metadata: str | None = None


class UnusableRowError(ValueError):
    """Why a row is no problem: what is wrong, and what would be right."""

    def __init__(self, reason: str, problem_id: str | None = None) -> None:
        super().__init__(reason)
        self.problem_id = problem_id


Convert = Callable[[Row], Found | None]  # None: the row is left out without a word


def parse(raw: Raw, convert: Convert, id_prefix: str) -> Problem | Rejected | None:
    """The problem of a raw row, its rejection, or None where the source leaves the row out.

    An id made of the text is `id_prefix` and 16 hex digits: the same wherever the row stands.
    """
    if raw.error is not None:
        return Rejected(None, raw.file, raw.row, raw.error)
    try:
        if not isinstance(raw.value, dict):
            raise UnusableRowError(f"the row is {kind(raw.value)}; must be a JSON object")
        found = convert(raw.value)
    except UnusableRowError as error:
        return Rejected(error.problem_id, raw.file, raw.row, str(error))
    if found is None:
        return None
    problem_id = found.problem_id or id_prefix + digest(found.problem)
    answer = None if found.answer is None or is_blank(found.answer) else found.answer
    return Problem(problem_id, found.problem, answer, raw.file, raw.row, found.metadata)


def is_blank(value: str) -> bool:
    """Whether nothing of the text is seen: spaces of any kind, marks without a width, controls."""
    return all(c.isspace() or unicodedata.category(c) in ("Cf", "Cc", "Zs") for c in value)


def digest(problem: str) -> str:
    """First 16 hex digits of the text's sha256."""
    return hashlib.sha256(problem.encode()).hexdigest()[:16]


def place_in_order(name: str, seed: int) -> bytes:
    """Where a shuffle by the seed puts what has this name: the smallest key first."""
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def mapped(
    problem: str, problem_id: str | None, answer: str | None, section: str = "data.fields"
) -> Convert:
    """Reads a problem from fields with these names, set in `section`; a row may lack the answer's."""

    def convert(row: Row) -> Found:
        found_id = None
        if problem_id is not None:
            found_id = identifier(row, problem_id, option=f"{section}.id")
        try:
            return Found(
                text(row, problem, option=f"{section}.problem"),
                answer_text(row.get(answer), answer) if answer is not None else None,
                found_id,
            )
        except UnusableRowError as error:
            raise UnusableRowError(str(error), found_id) from None

    return convert


def value_of(row: Row, name: str, option: str | None = None) -> Any:
    """The field's value. `option` is the setting that names the field, for the error."""
    if name not in row:
        hint = f"; set {option} to the right one" if option else ""
        raise UnusableRowError(f"no field {name!r}; there are {listed(row)}{hint}")
    return row[name]


def text(row: Row, name: str, option: str | None = None) -> str:
    """The field's text, checked."""
    value = value_of(row, name, option)
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} is {kind(value)}; must be a string")
    if is_blank(value):
        raise UnusableRowError(f"{name} is empty; must have text")
    return _sound(value, name, MAX_CHARACTERS)


def identifier(row: Row, name: str, option: str | None = None) -> str:
    """The field's id, checked; whole numbers become text."""
    value = value_of(row, name, option)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise UnusableRowError(f"{name} is {kind(value)}; must be a string or a whole number")
    if is_blank(value):
        raise UnusableRowError(f"{name} is empty; must be a string or a whole number")
    return _sound(value, name, MAX_ID_CHARACTERS)


def answer_text(value: Any, name: str) -> str | None:
    """An answer as text; 145.0 and a decimal column's 145.00 become 145, 1e+16 has its digits."""
    if value is None:
        return None
    if isinstance(value, str):
        return _sound(value, name, MAX_CHARACTERS)
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise UnusableRowError(f"{name} is {kind(value)}; must be a string, a number or null")
    if not isinstance(value, int) and not math.isfinite(value):
        raise UnusableRowError(f"{name} is {value}; must be a finite number, a string or null")
    digits = f"{Decimal(str(value or 0)):f}"  # without the sign of -0.0
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def kind(value: Any) -> str:
    """The value's type in words."""
    names = {type(None): "null", bool: "a boolean", int: "a number", float: "a number"}
    names |= {Decimal: "a number", str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), f"a {type(value).__name__}")


def listed(names: Iterable[str], at_most: int = 12) -> str:
    """Names in quotes, the first dozen of them."""
    quoted = [repr(str(name)[:60]) for name in names]  # a plugin's may be anything
    rest = f" and {len(quoted) - at_most} more" if len(quoted) > at_most else ""
    return (", ".join(quoted[:at_most]) or "none") + rest


def _sound(value: str, name: str, at_most: int) -> str:
    if len(value) > at_most:
        raise UnusableRowError(f"{name} has {len(value)} characters; must have at most {at_most}")
    if (at := value.find("\0")) >= 0:
        raise UnusableRowError(f"{name} has a NUL at character {at + 1}; must be plain text")
    if eaten := EATEN.search(value):
        raise UnusableRowError(
            f"{name} has {eaten[0]!r} at character {eaten.start() + 1}, as LaTeX has whose backslash is not "
            "escaped; must be written as \\\\boxed in JSON"
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise UnusableRowError(
            f"{name} has half a surrogate pair at character {error.start + 1}; must be Unicode text"
        ) from None
    return value
