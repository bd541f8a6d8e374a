r"""Other people's graders, to hold ours against: math-verify alone, and rules of the Qwen2.5-Math toolkit.

Each reads and judges by its own rules, so that a difference between two models can be seen not to be ours.
pytest tests/unit/grading/test_graders.py
"""

import math
import re
from collections.abc import Mapping
from typing import Any

from lr_ray.grading.boxed import last_boxed
from lr_ray.grading.graders import Grader, Verdict

_MINERVA = re.compile(r"final answer is \$(.*?)\$\. I hope", re.DOTALL)
_STATED = re.compile(r"the answer is|final answer is|答案是", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d*\.?\d+")
_UNITS = re.compile(r"\\(?:text|mbox)\s*\{[^{}]*\}\s*(?:\^\{?\d\}?)?$")
_DROPPED = re.compile(r"\\(?:left|right|!|,|;|\s)|\^\{?\\circ\}?|\\?%|\\?\$|\s")
_TOLERANCE = 1e-4


class MathVerify:
    """math-verify as it comes: its own reading of completion and gold, its own comparison."""

    def __init__(self) -> None:
        self._read: tuple[str | None, list[Any]] = None, []

    def read(self, completion: str, cut: bool, metadata: Mapping[str, Any]) -> str | None:
        from math_verify import parse

        parsed = parse(completion, parsing_timeout=None)
        text = str(parsed[-1]) if parsed else None  # the formula comes first, its text last
        self._read = text, parsed
        return text

    def judge(self, expected: str, extracted: str, metadata: Mapping[str, Any]) -> Verdict:
        from math_verify import parse, verify

        gold = parse(f"${expected.replace('$', '')}$", parsing_timeout=None)
        text, answer = self._read
        if text != extracted:
            answer = parse(f"${extracted}$", parsing_timeout=None)
        right = bool(verify(gold, answer, timeout_seconds=None))
        return Verdict(right, "equivalent" if right else "different")


class Toolkit:
    """The number and string rules of the Qwen2.5-Math evaluation toolkit (parser.py and grader.py).

    Numbers are equal within 1e-4 of the expected one, of its hundredth and of its hundredfold; texts where
    they are the same once units, spaces and signs of percent and degrees are dropped; tuples part by part.
    Its symbolic comparison is left to math-verify.
    """

    def read(self, completion: str, cut: bool, metadata: Mapping[str, Any]) -> str | None:
        minerva = _MINERVA.search(completion)
        if minerva:
            return minerva[1]
        if "boxed" in completion:
            boxed = last_boxed(completion)
            return boxed if boxed is not None else completion.rpartition("boxed")[2].strip("{ ")
        stated = list(_STATED.finditer(completion))
        if stated:
            return completion[stated[-1].end() :].strip().lstrip(":").strip().rstrip(".") or None
        numbers = _NUMBER.findall(completion.replace(",", ""))
        return numbers[-1] if numbers else None

    def judge(self, expected: str, extracted: str, metadata: Mapping[str, Any]) -> Verdict:
        gold, answer = _stripped(expected), _stripped(extracted)
        if gold == answer:
            return Verdict(True, "same text")
        if _same_number(gold, answer):
            return Verdict(True, "same number")
        parts = [re.fullmatch(r"[(\[](.+,.+)[)\]]", text) for text in (gold, answer)]
        if parts[0] and parts[1]:
            pairs = [part[1].split(",") for part in parts if part]
            if len(pairs[0]) == len(pairs[1]):
                right = all(g == a or _same_number(g, a) for g, a in zip(*pairs, strict=True))
                return Verdict(right, "same parts" if right else "different")
        return Verdict(False, "different")


class WholeToolkit(Toolkit):
    """The toolkit's reading and rules, with math-verify in the place of its symbolic comparison."""

    def judge(self, expected: str, extracted: str, metadata: Mapping[str, Any]) -> Verdict:
        verdict = super().judge(expected, extracted, metadata)
        return verdict if verdict.correct else MathVerify().judge(expected, extracted, metadata)


OTHERS: Mapping[str, Grader] = {"math_verify": MathVerify(), "toolkit": Toolkit()}
OURS, PAPER = "ours", WholeToolkit()  # a check's name, and the grader of protocol paper


def _stripped(text: str) -> str:
    text = _UNITS.sub("", text.strip().rstrip("."))
    text = _DROPPED.sub("", text).replace("tfrac", "frac").replace("dfrac", "frac")
    text = re.sub(r"\\frac(\d)(\d)", r"\\frac{\1}{\2}", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text)
    text = re.sub(r"^[A-Za-z]=", "", text)
    text = re.sub(r"(\.\d*?)0+(?!\d)", lambda tail: tail[1].rstrip("."), text)
    text = {"0.5": r"\frac{1}{2}"}.get(text, text)
    return re.sub(r"^(-?\d+)/(-?\d+)$", r"\\frac{\1}{\2}", text).lower()


def _value(text: str) -> float | None:
    fraction = re.fullmatch(r"(-?)\\frac\{(-?[\d.]+)\}\{(-?[\d.]+)\}", text)
    try:
        if fraction:
            return (-1 if fraction[1] else 1) * float(fraction[2]) / float(fraction[3])
        return float(text.replace(",", ""))
    except (ValueError, ZeroDivisionError, OverflowError):
        return None


def _same_number(gold: str, answer: str) -> bool:
    right, given = _value(gold), _value(answer)
    if right is None or given is None:
        return False
    return any(
        math.isclose(given, near, rel_tol=_TOLERANCE) for near in (right / 100, right, right * 100)
    )
