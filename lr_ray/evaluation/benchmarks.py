"""Benchmarks by name: problems with answers.

pytest tests/unit/test_grading.py
"""

from collections.abc import Callable

from lr_ray import embedded
from lr_ray.config import Evaluation
from lr_ray.errors import UserError

Row = dict[str, str]
_DEMO_PROBLEMS = 1000


def _demo(evaluation: Evaluation) -> list[Row]:
    count = evaluation.max_problems or _DEMO_PROBLEMS
    return embedded.generate("heldout", count, evaluation.seed)


BENCHMARKS: dict[str, Callable[[Evaluation], list[Row]]] = {"demo": _demo}


def load(name: str, evaluation: Evaluation) -> list[Row]:
    """Rows of problem_id, problem and answer, at most `evaluation.max_problems`.

    Needs no engine. Raises UserError naming evaluation.benchmarks when there is no such name.
    """
    if name not in BENCHMARKS:
        raise UserError(
            f"evaluation.benchmarks: {name!r} is not a known benchmark; give some of "
            + ", ".join(sorted(BENCHMARKS))
        )
    return BENCHMARKS[name](evaluation)
