"""Generated word problems of two to four steps: the data of the embedded pair.

Every problem belongs to exactly one split, decided by a hash of its signature (topic, numbers and
operations in order; names and wording ignored), so no seed or count can make splits overlap.

    python -c "from lr_ray.embedded import generate; print(generate('heldout', 2))"
"""

import hashlib
import itertools
import operator
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

SMALLEST, LARGEST = 2, 60
MIN_STEPS, MAX_STEPS = 2, 4
OPERANDS = {"+": range(2, 10), "-": range(2, 10), "*": range(2, 5), "/": range(2, 5)}
_RESULT: dict[str, Callable[[int, int], int]] = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv
}  # fmt: skip
# Shares of the hash buckets, in percent: the upper bound of each split.
BUCKETS = {"pretraining": 60, "sampling": 80, "heldout": 100}
Operations = tuple[tuple[str, int], ...]  # sign and operand of each step
NAMES = (
    "Dan", "Mia", "Leo", "Ana", "Sam", "Eva", "Max", "Zoe", "Ben", "Ivy",
    "Tom", "Ida", "Kai", "Lea", "Jon", "Amy", "Raj", "Nia", "Ali", "Uma",
)  # fmt: skip


@dataclass(frozen=True)
class Topic:
    """A setting with its wording; `register` names how texts about it tend to be written."""

    name: str
    register: str
    opening: str
    question: str
    phrases: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Problem:
    """One problem with all that a document about it needs. `results[0]` is the starting number."""

    problem_id: str
    topic: Topic
    name: str
    text: str
    operations: Operations
    results: tuple[int, ...]

    @property
    def answer(self) -> int:
        return self.results[-1]

    @property
    def signature(self) -> str:
        return signature(self.topic.name, self.results[0], self.operations)


TOPICS = (
    Topic("shop", "textbook", "{name} has {number} pens in a shop.", "How many pens?", {
        "+": ("{name} orders {number} more.", "A box brings {number} more pens."),
        "-": ("{name} sells {number} pens.", "Then {number} pens break."),
        "*": ("{name} makes the stock {number} times as large.",),
        "/": ("{name} puts them on {number} shelves and keeps one shelf.",),
    }),
    Topic("library", "textbook", "{name} counts {number} books in a library.", "How many books?", {
        "+": ("{name} buys {number} books.", "A reader gives {number} more books."),
        "-": ("{name} lends {number} books.", "Then {number} books get lost."),
        "*": ("{name} copies them to have {number} times as many.",),
        "/": ("{name} splits them over {number} rooms and counts one room.",),
    }),
    Topic("farm", "skipping", "{name} finds {number} eggs on a farm.", "How many eggs?", {
        "+": ("{name} finds {number} more.", "The hens lay {number} more eggs."),
        "-": ("{name} eats {number} eggs.", "A fox takes {number} eggs."),
        "*": ("A week later there are {number} times as many.",),
        "/": ("{name} fills {number} equal baskets and takes one basket.",),
    }),
    Topic("bus", "skipping", "{name} drives a bus with {number} people.", "How many people?", {
        "+": ("At a stop {number} people get on.", "{name} lets {number} more in."),
        "-": ("At a stop {number} people get off.", "{name} drops {number} people."),
        "*": ("At the station the load grows {number} times.",),
        "/": ("The people change to {number} equal buses and {name} drives one.",),
    }),
    Topic("garden", "bare", "{name} grows {number} roses in a garden.", "How many roses?", {
        "+": ("{name} plants {number} more.", "In spring {number} more roses open."),
        "-": ("{name} cuts {number} roses.", "The wind ruins {number} roses."),
        "*": ("In summer the roses become {number} times as many.",),
        "/": ("{name} ties {number} equal bunches and shows one bunch.",),
    }),
    Topic("game", "bare", "{name} starts a game with {number} coins.", "How many coins?", {
        "+": ("{name} wins {number} coins.", "A friend hands over {number} more coins."),
        "-": ("{name} loses {number} coins.", "A gate costs {number} coins."),
        "*": ("A lucky card pays {number} times the coins.",),
        "/": ("{name} shares with a team of {number} and has one share.",),
    }),
)  # fmt: skip


def apply(operation: str, left: int, right: int) -> int:
    """The result of one step; division is only ever asked for where it is exact."""
    return _RESULT[operation](left, right)


def signature(topic: str, start: int, operations: Operations) -> str:
    """Equal for two problems that differ in names and wording alone."""
    return f"{topic}|{start}|" + "|".join(f"{op}{number}" for op, number in operations)


def split_of(problem_signature: str) -> str:
    """The only split in which a problem with this signature may appear."""
    digest = hashlib.sha256(problem_signature.encode()).digest()
    bucket = int.from_bytes(digest[:8], "big") % 100
    return next(split for split, bound in BUCKETS.items() if bucket < bound)


def stream(split: str, seed: int = 0) -> Iterator[Problem]:
    """Endless problems of one split without a repeated signature."""
    if split not in BUCKETS:
        raise ValueError(f"split: {split!r} is not one of {', '.join(BUCKETS)}")
    rng = random.Random(f"{split}-{seed}")
    seen: set[str] = set()
    for index in itertools.count():
        while True:
            topic = rng.choice(TOPICS)
            operations, results = _draw_steps(rng)
            key = signature(topic.name, results[0], operations)
            if split_of(key) == split and key not in seen:
                break
        seen.add(key)
        name = rng.choice(NAMES)
        text = _tell(topic, name, results[0], operations, rng)
        problem_id = f"demo-{split}-{seed}-{index:05d}"
        yield Problem(problem_id, topic, name, text, operations, results)


def generate(split: str, count: int, seed: int = 0) -> list[dict[str, str]]:
    """The first `count` problems of a split as rows of problem_id, problem and answer."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count: {count!r} is not a whole number of at least 1")
    return [
        {"problem_id": p.problem_id, "problem": p.text, "answer": str(p.answer)}
        for p in itertools.islice(stream(split, seed), count)
    ]


def worked(problem: Problem) -> str:
    """The reply that writes every step: "Step by step. 10+6=16. 16/2=8. The answer is 8."."""
    return steps(problem, problem.results) + answer(problem.answer)


def steps(problem: Problem, results: tuple[int, ...]) -> str:
    """As many written steps as `results` has transitions."""
    written = "".join(
        f"{left}{operation}{number}={right}. "
        for (operation, number), left, right in zip(
            problem.operations, results, results[1:], strict=False
        )
    )
    return f"Step by step. {written}"


def answer(number: int) -> str:
    return f"The answer is {number}."


def _draw_steps(rng: random.Random) -> tuple[Operations, tuple[int, ...]]:
    """Operations, and the numbers they lead through, all within SMALLEST to LARGEST."""
    results = [rng.randint(SMALLEST, LARGEST)]
    operations: list[tuple[str, int]] = []
    for _ in range(rng.randint(MIN_STEPS, MAX_STEPS)):
        choices = _possible(results[-1])
        operation = rng.choice(sorted(choices))
        number = rng.choice(choices[operation])
        operations.append((operation, number))
        results.append(apply(operation, results[-1], number))
    return tuple(operations), tuple(results)


def _possible(value: int) -> dict[str, list[int]]:
    """Operands that keep the next result whole and in range, for each operation that has any."""
    choices = {
        operation: [
            number
            for number in numbers
            if SMALLEST <= apply(operation, value, number) <= LARGEST
            and (operation != "/" or value % number == 0)
        ]
        for operation, numbers in OPERANDS.items()
    }
    return {operation: numbers for operation, numbers in choices.items() if numbers}


def _tell(topic: Topic, name: str, start: int, operations: Operations, rng: random.Random) -> str:
    sentences = [topic.opening.format(name=name, number=start)]
    for operation, number in operations:
        phrase = rng.choice(topic.phrases[operation])
        sentences.append(phrase.format(name=name, number=number))
    return " ".join([*sentences, topic.question])
