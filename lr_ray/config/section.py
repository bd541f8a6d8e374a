"""What all sections of the config share: unknown keys refused, numbers that are written as numbers.

Exercised by `pytest tests/unit/test_config_yaml.py`.
"""

import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from types import UnionType
from typing import Any, Literal, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from lr_ray.json_text import EATEN

# As JSON has them, with a sign and a decimal point at either end allowed.
_NUMBER = re.compile(r"\s*[-+]?(0|[1-9][0-9]*|(?=\.[0-9]))(\.[0-9]*)?([eE][-+]?[0-9]+)?\s*")
_CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


class Section(BaseModel):
    """Fields of one mapping. An empty subsection is as if it were not written, `x-` keys are helpers.

    The docstring below a field is its description, on one line.
    """

    model_config = ConfigDict(
        extra="forbid", validate_default=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        for field in cls.model_fields.values():
            field.description = field.description and " ".join(field.description.split())

    @model_validator(mode="before")
    @classmethod
    def _leave_out(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {
            key: value
            for key, value in given.items()
            if not str(key).startswith("x-") and not (value is None and cls._may_be_empty(key))
        }

    @classmethod
    def _may_be_empty(cls, key: str) -> bool:
        field = cls.model_fields.get(key)
        annotation = field.annotation if field else None
        return is_section(annotation) or get_origin(annotation) is dict

    @field_validator("*", mode="before")
    @classmethod
    def _is_well_written(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[str(info.field_name)]
        check_written(value, field.annotation)
        return value


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether a field of this type is a mapping of fields."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def walk(kind: type[Section], above: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Dotted name and field, a section before its fields."""
    for name, field in kind.model_fields.items():
        yield above + name, field
        if is_section(field.annotation):
            yield from walk(field.annotation, f"{above}{name}.")


def fields_of(kind: Any, name: str) -> list[FieldInfo]:
    """The fields that a dotted name goes through, of a field or an entry of its mapping; else none."""
    found: list[FieldInfo] = []
    for part in name.split("."):
        field = kind.model_fields.get(part) if is_section(kind) else None
        if field:
            kind = field.annotation
            found.append(field)
        elif get_origin(kind) is not dict:
            return []
    return found


def check_written(value: Any, annotation: Any) -> None:
    """Raises a pydantic error for text that is no Unicode or none, and what only passes for a number.

    The latter are true and false, text such as 0100, 8:00 or 1_000 that readers take differently, and
    numbers beyond 64 bits. Text is none where an escape has eaten a backslash, and as None in place of null.
    """
    if isinstance(value, list | dict):
        items = value.values() if isinstance(value, dict) else value
        for item in items if get_origin(annotation) in (list, dict) else ():
            check_written(item, get_args(annotation)[-1])
    elif isinstance(value, str) and value in words(annotation):
        return
    elif numbers_alone(annotation):
        if isinstance(value, bool | str) and not _NUMBER.fullmatch(str(value)):
            said = " or ".join([*words(annotation), "a number, written as 100, 0.1 or 1e-4"])
            raise PydanticCustomError("number", f"must be {said}")
        if isinstance(value, int | str) and _is_beyond(value):
            raise PydanticCustomError("number", "must be a number below 2**63")
    elif isinstance(value, str) and (_CONTROL.search(value) or EATEN.search(value)):
        said = "must be Unicode text, without control characters such as \\b of \\boxed in double quotes"
        raise PydanticCustomError("text", said)
    elif value == "None" and is_nullable(annotation):  # as it is typed, of Python
        raise PydanticCustomError("text", "must be null where there is to be none")


def _is_beyond(value: int | str) -> bool:
    """Whether a number takes more than 64 bits."""
    try:
        return not -(2**63) < Decimal(value) < 2**63  # abs() would overflow
    except InvalidOperation:  # an exponent of more than 18 digits
        return abs(float(value)) >= 1


def numbers_alone(annotation: Any) -> bool:
    """Whether int and float are all that a field takes, beside null and a word such as auto."""
    if get_origin(annotation) in (Union, UnionType):
        others = [p for p in get_args(annotation) if p is not type(None) and not words(p)]
        return all(numbers_alone(part) for part in others)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return numbers_alone(get_args(annotation)[0])
    return annotation in (int, float)


def is_nullable(annotation: Any) -> bool:
    """Whether a field may be null."""
    return get_origin(annotation) in (Union, UnionType) and type(None) in get_args(annotation)


def words(annotation: Any) -> tuple[str, ...]:
    """The words that a field takes."""
    if hasattr(annotation, "__metadata__"):
        return words(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return tuple(word for part in get_args(annotation) for word in words(part))
    return get_args(annotation) if get_origin(annotation) is Literal else ()
