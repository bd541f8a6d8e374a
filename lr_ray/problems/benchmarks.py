"""The benchmarks by name: where each comes from, and how its rows become problem and answer.

Questions are built as the Qwen2.5-Math evaluation toolkit builds them.
pytest tests/unit/test_problems_benchmarks.py
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lr_ray.grading.boxed import last_boxed
from lr_ray.problems.rows import (
    Convert,
    Found,
    Row,
    UnusableRowError,
    answer_text,
    kind,
    text,
    value_of,
)

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


@dataclass(frozen=True)
class Benchmark:
    """`grader` says how answers are graded (`lr_ray.grading`), `paper_shots` how many worked examples the
    paper gives (arXiv 2510.07962, appendix I).

    `splits` maps ours to those of the hub that make it; a local split is `<name>/<split>.jsonl`.
    """

    hub: str
    splits: Mapping[str, tuple[str, ...]]
    convert: Convert
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
    return Found(text(row, "problem").strip(), _boxed(row))


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


def _minerva_math(row: Row) -> Found:
    if "solution" in row:
        return _math(row)
    return Found(text(row, "question").strip(), text(row, "answer").strip())  # as the hub has it


def _olympiadbench(row: Row) -> Found:
    answers = value_of(row, "final_answer")
    if not isinstance(answers, list) or not answers:
        raise UnusableRowError(f"final_answer is {kind(answers)}; must be a list with an answer")
    return Found(text(row, "question").strip(), answer_text(answers[0], "final_answer"))


def _mmlu_stem(row: Row) -> Found | None:
    subject = row["subject"] if "subject" in row else value_of(row, "type")
    if subject not in STEM_SUBJECTS:
        return None
    choices, answer = value_of(row, "choices"), value_of(row, "answer")
    if not isinstance(choices, list) or len(choices) != 4:
        raise UnusableRowError(f"choices is {kind(choices)}; must be a list of four")
    if type(answer) is not int or answer not in range(4):
        raise UnusableRowError(f"answer is {answer!r}; must be 0, 1, 2 or 3")
    listed = " ".join(
        f"({letter}) {choice}" for letter, choice in zip("ABCD", choices, strict=True)
    )
    question = f"{text(row, 'question').strip()}\nAnswer Choices: {listed}"
    return Found(question, "ABCD"[answer])


def _boxed(row: Row) -> str:
    answer = last_boxed(text(row, "solution"))
    if answer is None:
        raise UnusableRowError(r"solution has no \boxed{}; must have one around the answer")
    return answer


_TRAIN, _TEST = ("train",), ("test",)

BENCHMARKS: Mapping[str, Benchmark] = MappingProxyType(
    {
        "gsm8k": Benchmark(
            "openai/gsm8k", {"train": _TRAIN, "test": _TEST}, _gsm8k, configs=("main",)
        ),
        # The set's first home, hendrycks/competition_math, is closed; this one has its MIT licence.
        "math": Benchmark(
            "EleutherAI/hendrycks_math", {"train": _TRAIN, "test": _TEST}, _math, MATH_SUBJECTS
        ),
        "math500": Benchmark("HuggingFaceH4/MATH-500", {"test": _TEST}, _math500),
        "svamp": Benchmark("ChilleD/SVAMP", {"test": _TRAIN + _TEST}, _svamp),
        "asdiv": Benchmark("EleutherAI/asdiv", {"test": ("validation",)}, _asdiv),
        "minerva_math": Benchmark("math-ai/minervamath", {"test": _TEST}, _minerva_math),
        "olympiadbench": Benchmark(
            "Hothan/OlympiadBench", {"test": _TRAIN}, _olympiadbench, ("OE_TO_maths_en_COMP",)
        ),
        "mmlu_stem": Benchmark(
            "cais/mmlu",
            {"test": _TEST},
            _mmlu_stem,
            configs=("all",),
            grader="choice",
            paper_shots=5,
        ),
    }
)


def grader_of(source: str, otherwise: str | None = None) -> str:
    """How answers of a benchmark or of the demo are graded; of any other source, `otherwise` or math."""
    if source == "demo":
        return "demo"
    return BENCHMARKS[source].grader if source in BENCHMARKS else otherwise or "math"
