"""Where the rounds of a run lie: the first is the run itself, the others are runs in its folder rounds/.

Exercised by `pytest tests/unit/test_rounds.py`.
"""

import re

from lr_ray.config import value_at
from lr_ray.run.store import Run, read_summary

FOLDER = "rounds"
_LATER = re.compile("[2-9]|[1-9][0-9]+")
_PLACE = re.compile(rf"(.+)/{FOLDER}/({_LATER.pattern})")


def round_of(run: Run, number: int) -> Run:
    """The run of a round, counted from 1."""
    return run if number == 1 else run.child(f"{FOLDER}/{number}")


def later_rounds(run: Run) -> list[Run]:
    """The rounds after the first that have begun, in order."""
    names = [name.rpartition("/")[2] for name in run.folders(FOLDER)]
    numbers = sorted(int(name) for name in names if _LATER.fullmatch(name))  # copies lie there too
    return [r for r in (round_of(run, n) for n in numbers) if r.exists("run.json")]


def result_of(run: Run) -> Run:
    """The round whose improved expert came out of all rounds; a run of one round itself."""
    return round_of(run, value_at(read_summary(run), "rounds.result") or 1)


def place_of(run: Run, expert: str) -> tuple[str, int]:
    """The name of the run that a round with this expert is of, and the round's number.

    A run that only lies in a folder of that name has another expert than the round before made.
    """
    here = run.location.rstrip("/")
    if found := _PLACE.fullmatch(here):
        first, number = found[1], int(found[2])
        if round_of(Run(first), number - 1).path("model") == expert:
            return first.rpartition("/")[2], number
    return here.rpartition("/")[2], 1
