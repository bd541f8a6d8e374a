"""Where the rounds of a run lie: the first is the run itself, the others are runs in its folder rounds/.

Exercised by `pytest tests/unit/test_rounds.py`.
"""

from lr_ray.run.store import Run, read_summary

FOLDER = "rounds"


def round_of(run: Run, number: int) -> Run:
    """The run of a round, counted from 1."""
    return run if number == 1 else run.child(f"{FOLDER}/{number}")


def later_rounds(run: Run) -> list[Run]:
    """The rounds after the first that have begun, in order."""
    numbers = sorted(int(name.rpartition("/")[2]) for name in run.folders(FOLDER))
    return [r for r in (round_of(run, n) for n in numbers) if r.exists("run.json")]


def result_of(run: Run) -> Run:
    """The round whose improved expert came out of all rounds; a run of one round itself."""
    return round_of(run, read_summary(run).get("rounds", {}).get("result", 1))
