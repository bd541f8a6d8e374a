"""What judging an answer says."""

from typing import NamedTuple


class Verdict(NamedTuple):
    """`how` it was reached, for a reader: "same number", "equivalent", "different", "time limit", ..."""

    correct: bool
    how: str
