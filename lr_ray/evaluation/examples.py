"""Worked examples that stand before a problem in few-shot prompts, as turns of the chat.

They belong to no benchmark, so that none of its problems can leak.
pytest tests/unit/test_evaluation_tasks.py
"""

import itertools
from typing import NamedTuple

from lr_ray.embedded.problems import stream, worked

MOST = 8


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
    Example(
        "The sides of a right triangle that meet at the right angle are 20 cm and 21 cm long. "
        "How long is its perimeter, in centimetres?",
        r"The third side is $\sqrt{20^2 + 21^2} = \sqrt{841} = 29$ cm long, so the perimeter is "
        r"$20 + 21 + 29 = 70$ cm. The answer is $\boxed{70}$.",
    ),
    Example(
        r"For which positive $a$ is one solution of $x^2 - ax + 18 = 0$ twice the other?",
        r"With solutions $r$ and $2r$ the product is $2r^2 = 18$, so $r = \pm 3$. The sum is $a = 3r$, "
        r"which is positive for $r = 3$: $a = 9$. The answer is $\boxed{9}$.",
    ),
    Example(
        "In how many orders can four books stand on a shelf if two of them, a pair, must stand side by side?",
        r"The pair counts as one object, so there are $3! = 6$ orders, and the pair itself has 2: "
        r"$6 \cdot 2 = 12$. The answer is $\boxed{12}$.",
    ),
    Example(
        "A jacket costs 84 euros after its price was lowered by 30 %. What did it cost before, in euros?",
        r"84 euros are $70$ % of the old price, which was $84 / 0.7 = 120$ euros. "
        r"The answer is $\boxed{120}$.",
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
    Example(
        "What is the slope of the line through (1, 2) and (4, 11)?\n"
        "Answer Choices: (A) 2 (B) 3 (C) 4 (D) 9",
        r"The line rises by $11 - 2 = 9$ over a width of $4 - 1 = 3$, so its slope is $9 / 3 = 3$. "
        r"The answer is $\boxed{B}$.",
    ),
    Example(
        "Which part of a plant cell carries out photosynthesis?\n"
        "Answer Choices: (A) the nucleus (B) the ribosome (C) the vacuole (D) the chloroplast",
        "Photosynthesis needs chlorophyll, which is in the chloroplasts. "
        r"The answer is $\boxed{D}$.",
    ),
    Example(
        "Two resistors of 6 ohms each are connected in parallel. What is their resistance together?\n"
        "Answer Choices: (A) 3 ohms (B) 6 ohms (C) 12 ohms (D) 36 ohms",
        r"In parallel the inverses add up: $\frac{1}{6} + \frac{1}{6} = \frac{1}{3}$, which is 3 ohms. "
        r"The answer is $\boxed{A}$.",
    ),
    Example(
        "Which of these numbers has the binary form 10110?\n"
        "Answer Choices: (A) 18 (B) 20 (C) 22 (D) 26",
        r"The ones stand for 16, 4 and 2, and $16 + 4 + 2 = 22$. The answer is $\boxed{C}$.",
    ),
)


def examples(kind: str, shots: int) -> tuple[Example, ...]:
    """The first `shots` (0 to 8) examples for answers of `kind`: demo, choice or math."""
    if kind == "demo":  # problems that the pair was pre-trained on
        problems = itertools.islice(stream("pretraining"), min(shots, MOST))
        return tuple(Example(problem.text, worked(problem)) for problem in problems)
    return (_CHOICE if kind == "choice" else _MATH)[:shots]
