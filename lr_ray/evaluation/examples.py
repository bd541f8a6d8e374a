"""Worked examples that stand before a problem in few-shot prompts, as turns of the chat.

They belong to no benchmark, so that none of its problems can leak.
pytest tests/unit/test_evaluation_tasks.py
"""

import itertools
from typing import NamedTuple

MOST = 4


class Example(NamedTuple):
    problem: str
    solution: str


_MATH = (
    Example(
        "A baker fills 6 trays with 14 rolls each and sells three quarters of the rolls. "
        "How many rolls are left?",
        r"The baker has $6 \cdot 14 = 84$ rolls. A quarter of them is left: $84 / 4 = 21$. "
        r"The answer is $\boxed{21}$.",
    ),
    Example(
        r"Solve $\frac{x - 3}{2} = x + 5$ for $x$.",
        r"Multiplying by 2 gives $x - 3 = 2x + 10$, so $-3 - 10 = 2x - x$ and $x = -13$. "
        r"The answer is $\boxed{-13}$.",
    ),
    Example(
        "Two fair dice are rolled. What is the probability that their sum is 9?",
        r"There are 36 outcomes. The sum is 9 for $(3,6), (4,5), (5,4), (6,3)$, which are 4 of them. "
        r"The probability is $\frac{4}{36} = \frac{1}{9}$. The answer is $\boxed{\frac{1}{9}}$.",
    ),
    Example(
        "A cyclist rides 18 km in 45 minutes. What is the average speed in kilometres per hour?",
        r"45 minutes are $\frac{3}{4}$ of an hour, so the speed is $18 / \frac{3}{4} = 24$ km per hour. "
        r"The answer is $\boxed{24}$.",
    ),
)

_CHOICE = (
    Example(
        "Which of these numbers is divisible by both 4 and 9?\n"
        "Answer Choices: (A) 54 (B) 68 (C) 108 (D) 126",
        "Both 4 and 9 divide a number exactly when 36 does. Only $108 = 3 \\cdot 36$ qualifies. "
        r"The answer is $\boxed{C}$.",
    ),
    Example(
        "A body moves at a constant velocity. What is the net force on it?\n"
        "Answer Choices: (A) zero (B) its weight (C) its momentum (D) it grows with time",
        "At constant velocity the acceleration is zero, and so is the net force by Newton's second law. "
        r"The answer is $\boxed{A}$.",
    ),
    Example(
        "Which data structure gives back first what was put in last?\n"
        "Answer Choices: (A) a queue (B) a stack (C) a hash table (D) a sorted list",
        "Last in, first out is what a stack does; a queue gives back first what was put in first. "
        r"The answer is $\boxed{B}$.",
    ),
    Example(
        "How many electrons does a neutral carbon atom have?\n"
        "Answer Choices: (A) 4 (B) 12 (C) 8 (D) 6",
        "Carbon has atomic number 6, so a neutral atom has 6 electrons. "
        r"The answer is $\boxed{D}$.",
    ),
)


def examples(kind: str, shots: int) -> tuple[Example, ...]:
    """The first `shots` (0 to 4) examples for answers of `kind`: demo, choice or math."""
    if kind == "demo":
        return _demo()[:shots]
    return (_CHOICE if kind == "choice" else _MATH)[:shots]


def _demo() -> tuple[Example, ...]:
    """Worked solutions of problems that the pair was pre-trained on."""
    from lr_ray.embedded.problems import stream, worked

    problems = itertools.islice(stream("pretraining"), MOST)
    return tuple(Example(problem.text, worked(problem)) for problem in problems)
