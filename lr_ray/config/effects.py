"""What a setting affects: the one place that knows which settings a stage's output depends on.

Every field of the config is made by `setting`, with marks that say what of a run is another with another
value: its trajectories, scores, supervision rows, weights, answers, the rounds after the first, or only how
fast they come. A field of a section that several sections have is without a mark where it is defined, and
has that of the section that it is in. Exercised by `pytest tests/unit/test_effects.py`.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import Field

from lr_ray.config.section import fields_of

EFFECTS = ("trajectories", "scores", "rows", "weights", "answers", "rounds", "speed")


@dataclass(frozen=True)
class On:
    """One effect of a field, maybe on a condition."""

    effect: str
    when: tuple[str, str] | None = None  # another field has this value
    # Its value gets smaller: what was made with a smaller one serves larger ones too.
    if_less: bool = False
    # It is neither null nor an empty list: runs from before there was such a field stay as they are.
    if_set: bool = False
    unless: Any = None  # it has this value
    rules: tuple[str, ...] = ()  # sampling.selection is one of these, whatever its parameter


def setting(*affects: str | On, **field: Any) -> Any:
    """pydantic's Field with its marks."""
    marks = [On(a) if isinstance(a, str) else a for a in affects]
    assert all(mark.effect in EFFECTS for mark in marks), affects
    info = Field(**field)
    info.metadata.extend(marks)
    return info


def marks_of(kind: Any, name: str) -> list[On]:
    """The marks of the field with a dotted name: its own, else those of the section that it is in."""
    found: list[On] = []
    for field in fields_of(kind, name):
        found = [part for part in field.metadata if isinstance(part, On)] or found
    return found
