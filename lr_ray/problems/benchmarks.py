"""The benchmarks by name: where each comes from, and how its rows become problem and answer.

Questions are built as the Qwen2.5-Math evaluation toolkit builds them.
pytest tests/unit/test_problems_benchmarks.py
"""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lr_ray.errors import UserError
from lr_ray.grading.boxed import last_boxed
from lr_ray.grading.judging import must_be
from lr_ray.problems.rows import Convert, Found, Row, UnusableRowError, answer_text, text, value_of
from lr_ray.problems.rows import kind as kind_of

MATH_SUBJECTS = (
    "algebra", "counting_and_probability", "geometry", "intermediate_algebra", "number_theory",
    "prealgebra", "precalculus",
)  # fmt: skip
STEM_SUBJECTS = (
    "abstract_algebra", "astronomy", "college_biology", "college_chemistry",
    "college_computer_science", "college_mathematics", "college_physics", "computer_security",
    "conceptual_physics", "electrical_engineering", "elementary_mathematics", "high_school_biology",
    "high_school_chemistry", "high_school_computer_science", "high_school_mathematics",
    "high_school_physics", "high_school_statistics", "machine_learning",
)  # fmt: skip

Splits = Mapping[str, tuple[str, ...]]
LETTERS = "ABCDEFGHIJ"  # of choices; the grader reads as many


@dataclass(frozen=True)
class Benchmark:
    """`grader` says how answers are graded (`lr_ray.grading`), `paper_shots` how many worked examples the
    paper gives (arXiv 2510.07962, appendix I).

    `splits` maps ours to those of the hub that make it; a local split is `<name>/<split>.jsonl`.
    """

    hub: str
    splits: Splits
    convert: Convert
    subjects: tuple[str, ...] = ()  # parts that can be asked for, as mmlu_stem:physics+astronomy
    configs: tuple[str | None, ...] = (None,)
    grader: str = "math"
    paper_shots: int = 0


def _gsm8k(row: Row) -> Found:
    solution = text(row, "answer")
    _, mark, answer = solution.rpartition("####")
    if not mark:
        raise UnusableRowError("answer has no '####'; must end with #### and a number")
    return Found(text(row, "question").strip(), answer.replace(",", "").strip())


def _math(row: Row) -> Found:
    problem, answer = text(row, "problem").strip(), last_boxed(text(row, "solution"))
    if answer is None:
        raise UnusableRowError(r"solution has no \boxed{}; must have one around the answer")
    return Found(problem, answer)


def _math500(row: Row) -> Found:
    return Found(text(row, "problem").strip(), text(row, "answer").strip())


def _svamp(row: Row) -> Found:
    body = text(row, "Body").strip()
    body += "" if body.endswith(".") else "."
    answer = value_of(row, "Answer")
    if isinstance(answer, str):  # as the hub has it
        answer = answer.strip().removesuffix(".0")
    return Found(f"{body} {text(row, 'Question').strip()}", answer_text(answer, "Answer"))


def _asdiv(row: Row) -> Found | None:
    answer = text(row, "answer")
    if ";" in answer:  # several answers
        return None
    question = f"{text(row, 'body').strip()} {text(row, 'question').strip()}"
    return Found(question, re.sub(r"\(.*?\)", "", answer).strip())  # 9 (apples)


def _contest(row: Row) -> Found:
    if "solution" in row:  # AIME 24, and Minerva but on the hub
        return _math(row)
    question = text(row, "question" if "question" in row else "problem")
    return Found(question.strip(), answer_text(value_of(row, "answer"), "answer"))


def _olympiadbench(row: Row) -> Found:
    answers = value_of(row, "final_answer")
    if not isinstance(answers, list) or not answers:
        raise UnusableRowError(f"final_answer is {kind_of(answers)}; must be a list with an answer")
    return Found(text(row, "question").strip(), answer_text(answers[0], "final_answer"))


def _mmlu_stem(row: Row) -> Found | None:
    if subject_of(row) not in STEM_SUBJECTS:
        return None
    choices, answer = value_of(row, "choices"), value_of(row, "answer")
    if not isinstance(choices, list) or len(choices) != 4:
        raise UnusableRowError(f"choices is {kind_of(choices)}; must be a list of four")
    if type(answer) is not int or answer not in range(4):
        raise UnusableRowError(f"answer is {answer!r}; must be 0, 1, 2 or 3")
    return _of_choices(text(row, "question"), choices, answer)


def _of_choices(question: str, choices: list[Any], answer: int) -> Found:
    """A question with two to ten choices; `answer` is the place of the right one."""
    if not 2 <= len(choices) <= len(LETTERS) or answer not in range(len(choices)):
        raise UnusableRowError(f"{len(choices)} choices and the answer is number {answer + 1}; must have "
                               f"2 to {len(LETTERS)} choices and the answer be one")  # fmt: skip
    shown = " ".join(
        f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False)
    )
    return Found(f"{question.strip()}\nAnswer Choices: {shown}", LETTERS[answer])


def _labelled(row: Row) -> Found:
    """CommonsenseQA and ARC: choices with labels, A to E, or 1 to 4 in some rows of ARC."""
    choices, right = value_of(row, "choices"), text(row, "answerKey")
    choices = choices if isinstance(choices, dict) else {}
    labels, texts = choices.get("label"), choices.get("text")
    if not isinstance(labels, list) or not isinstance(texts, list) or right not in labels:
        raise UnusableRowError(f"choices has no label {right!r}; must have it, and text beside it")
    return _of_choices(text(row, "question"), texts, labels.index(right))


def _hellaswag(row: Row) -> Found:
    endings, label = value_of(row, "endings"), str(value_of(row, "label"))
    if not isinstance(endings, list) or not label.isdecimal():
        raise UnusableRowError(f"label is {label!r}; must be the number of one of the endings")
    asked = "Which ending is the most likely one?"
    return _of_choices(f"{text(row, 'ctx').strip()}\n{asked}", endings, int(label))


def subject_of(row: Row) -> str:
    """Of a row of MMLU. Raises UnusableRowError where it is no string."""
    name = "subject" if "subject" in row else "type"
    subject = value_of(row, name)
    if not isinstance(subject, str):
        raise UnusableRowError(f"{name} is {kind_of(subject)}; must be a string")
    return subject


_TRAIN, _TEST, _VALIDATION = ("train",), ("test",), ("validation",)
_TEST_ALONE: Splits = {"test": _TEST}
_BOTH: Splits = {"train": _TRAIN, "test": _TEST}
_VALIDATED: Splits = {"train": _TRAIN, "test": _VALIDATION}  # whose own test split has no answers

BENCHMARKS: Mapping[str, Benchmark] = {
    "gsm8k": Benchmark("openai/gsm8k", _BOTH, _gsm8k, configs=("main",)),
    # The set's first home, hendrycks/competition_math, is closed; this one has its MIT licence.
    "math": Benchmark("EleutherAI/hendrycks_math", _BOTH, _math, configs=MATH_SUBJECTS),
    "math500": Benchmark("HuggingFaceH4/MATH-500", _TEST_ALONE, _math500),
    "svamp": Benchmark("ChilleD/SVAMP", {"test": _TRAIN + _TEST}, _svamp),
    "asdiv": Benchmark("EleutherAI/asdiv", {"test": _VALIDATION}, _asdiv),
    "minerva_math": Benchmark("math-ai/minervamath", _TEST_ALONE, _contest),
    "olympiadbench": Benchmark(
        "Hothan/OlympiadBench", {"test": _TRAIN}, _olympiadbench, configs=("OE_TO_maths_en_COMP",)
    ),
    "mmlu_stem": Benchmark(
        "cais/mmlu", _TEST_ALONE, _mmlu_stem, STEM_SUBJECTS, ("all",), "choice", paper_shots=5
    ),
    "commonsense_qa": Benchmark("tau/commonsense_qa", _VALIDATED, _labelled, grader="choice"),
    "hellaswag": Benchmark("Rowan/hellaswag", _VALIDATED, _hellaswag, grader="choice"),
    "arc_challenge": Benchmark(
        "allenai/ai2_arc", _BOTH, _labelled, configs=("ARC-Challenge",), grader="choice"
    ),
    "aime24": Benchmark("math-ai/aime24", _TEST_ALONE, _contest),
    "aime25": Benchmark("math-ai/aime25", _TEST_ALONE, _contest),
    "amc23": Benchmark("math-ai/amc23", _TEST_ALONE, _contest),
}


def find(source: str) -> Benchmark | None:
    """The benchmark that a source is, or is a part of, as mmlu_stem:physics is."""
    return BENCHMARKS.get(source.partition(":")[0])


def part_of(source: str, option: str) -> Convert:
    """What reads the rows of a benchmark, or of those subjects alone that `NAME:SUBJECT+...` names.

    A subject is named whole, or by the end of its name: physics is three of them. Raises UserError naming
    `option`, the setting.
    """
    name, colon, asked = source.partition(":")
    known = BENCHMARKS[name]
    if not colon:
        return known.convert
    chosen: set[str] = set()
    for part in asked.split("+"):
        found = {s for s in known.subjects if s == part or s.endswith(f"_{part}")}
        if not found:
            close = difflib.get_close_matches(part, known.subjects, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]}? Else " if close else ""
            there = f"{hint}give some of {', '.join(known.subjects)}"
            there = there if known.subjects else "it has none"
            raise UserError(f"{option}: {source}: {name} has no subject {part!r}; {there}")
        chosen |= found
    return lambda row: known.convert(row) if subject_of(row) in chosen else None


def grader_of(
    source: str, otherwise: str | None = None, metadata: Iterable[str | None] = ()
) -> str:
    """How answers of a benchmark or of the demo are graded.

    Of any other source by `otherwise`, else by the grader that its staged rows' `metadata` (JSON) name,
    else by math.
    """
    if source == "demo":
        return "demo"
    if known := find(source):
        return known.grader
    named = (json.loads(of).get("grader") for of in metadata if of)
    return otherwise or next(filter(None, named), "math")


def unjudged(answer: str, kind: str, metadata: Mapping[str, Any]) -> str | None:
    """Why the grader of this `kind` could call no answer to a row right, if it could not."""
    wrong = _wrong_fields(metadata) if kind == "reasoning_gym" else None
    if right := must_be(answer, kind):
        wrong = f"answer is {answer[:60]!r}; must be {right}"
    return wrong


def _wrong_fields(more: Mapping[str, Any]) -> str | None:
    """What is wrong with a row of which reasoning_gym makes its problem anew, if anything."""
    for name, right in {"generator": str, "seed": int, "index": int}.items():
        if name not in more:
            return f"no field {name!r}; must have generator, seed and index"
        if type(more[name]) is not right:
            what = "a string" if right is str else "a whole number"
            return f"{name} is {kind_of(more[name])}; must be {what}"
    return None
