r"""Whether an answer is the expected one.

The cheap exact rules come first: the same text, number, choice, and tuples or sets of such. Only
formulas need sympy. Pairs that nobody has looked at go through `pool.Graders`, which bounds time and
memory. Units are dropped, not compared, as the Qwen2.5-Math evaluation toolkit does; the modules
`comparison`, `numerals`, `latex` and `reading` say where the rules differ from it.
pytest tests/unit/grading/test_judging.py
"""

import re
import threading

from lr_ray.grading.characters import clean
from lr_ray.grading.choices import choice_letter
from lr_ray.grading.comparison import same
from lr_ray.grading.graders import Verdict
from lr_ray.grading.latex import bracketed, depth, key, tidy
from lr_ray.grading.numerals import number, same_number
from lr_ray.grading.reading import KINDS

MAX_CHARACTERS = 2_000  # of an answer that is compared at all
MAX_DEPTH = 40  # of its brackets and braces
TIME_LIMIT_S = 5  # of a pair of formulas

_INTEGER = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:,\d{3})+)(?:\.0*)?")
_NAME = re.compile(r"^\\?[A-Za-z]\w{0,30}\s*=\s*")
_CHOICE = re.compile(r"\(?[A-E]\)?")
# C = 5 says something of C and does not choose it; with a dash, C - 5 may choose.
_OF_LETTER = re.compile(
    r"[A-E]\s*(?:[=+*/^<>]|\\(?:[lgn]e|approx|equiv|cdot|times|pm|in|cup|cap|setminus|subset)(?![A-Za-z]))"
)


class _FormulaError(Exception):
    """Two formulas were met, which the cheap rules do not compare."""


def is_correct(expected: str, extracted: str | None, kind: str) -> bool:
    """Whether `extracted` is the answer `expected`; see `judge`."""
    return judge(expected, extracted, kind).correct


def judge(expected: str, extracted: str | None, kind: str) -> Verdict:
    """The verdict on one answer of a built-in `kind`, in this process.

    Time is limited in the main thread alone, and memory not at all: for answers of unknown origin use
    `pool.Graders`. Raises ValueError for another kind.
    """
    verdict = judge_exactly(expected, extracted, kind)
    if verdict is not None:
        return verdict
    main = threading.current_thread() is threading.main_thread()
    return judge_by_algebra(expected, extracted or "", TIME_LIMIT_S if main else None)


def judge_exactly(expected: str, extracted: str | None, kind: str) -> Verdict | None:
    """The verdict where it takes no algebra, else None. Imports no sympy.

    `demo`: integers. `choice`: one letter. `exact`: the text but for spaces. `number`: numbers alone, in
    any way of writing. `math`: see the module. Raises ValueError for another kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: {kind!r}; must be one of {', '.join(KINDS)}")
    if extracted is None or not extracted.strip():
        return Verdict(False, "no answer")
    if expected.strip() == extracted.strip():
        return Verdict(True, "same text")
    if len(expected) > MAX_CHARACTERS or len(extracted) > MAX_CHARACTERS:
        return Verdict(False, "too large")
    if kind == "demo":
        integers = all(_INTEGER.fullmatch(text.strip()) for text in (expected, extracted))
        return _judge_number(expected, extracted, integers)
    if kind == "choice":
        return _judge_choice(expected, extracted)
    if kind == "exact":
        same_text = " ".join(clean(expected).split()) == " ".join(clean(extracted).split())
        return Verdict(same_text, "same text" if same_text else "different")
    if kind == "number":
        return _judge_number(_value(expected), _value(extracted))
    return _judge_math(expected, extracted)


def must_be(expected: str, kind: str) -> str | None:
    """What an expected answer must be, where no answer of this `kind` could be equal to it, else None."""
    if kind == "choice" and choice_letter(expected) is None:
        return "a letter A to J"
    if kind == "number" and number(_value(expected)) is None:
        return "a number"
    if kind == "math" and _is_solution(expected):
        return "the answer alone, without its solution"
    if kind == "demo" and not _INTEGER.fullmatch(expected.strip()):
        return "a whole number"
    return None


def _is_solution(expected: str) -> bool:
    """Whether it is a text that ends with its answer, as rows of GSM8K (####) and MATH (a box) do."""
    lines = expected.strip().splitlines()
    return any(line.lstrip().startswith("####") for line in lines) or (
        len(lines) > 1 and r"\boxed" in expected
    )


def judge_by_algebra(expected: str, extracted: str, time_limit_s: int | None) -> Verdict:
    """The verdict on two answers that hold formulas; a failure of the algebra is a verdict too."""
    from lr_ray.grading.algebra import equivalent

    try:
        right = same(tidy(expected), tidy(extracted), lambda e, a: equivalent(e, a, time_limit_s))
    except (MemoryError, RecursionError, OverflowError):
        return Verdict(False, "too large")
    except Exception:  # sympy raises anything on what models write
        return Verdict(False, "unreadable")
    return Verdict(right, "equivalent" if right else "different")


def _value(text: str) -> str:
    """The tidied answer without the name before it and brackets around it."""
    text = _NAME.sub("", tidy(text))
    whole = bracketed(text)
    return whole[1] if whole and whole[0] + whole[2] in ("()", "{}") else text


def _judge_number(expected: str, extracted: str, comparable: bool = True) -> Verdict:
    gold, answer = number(expected), number(extracted, letter_units=True)
    right = bool(comparable and gold and answer and same_number(gold, answer))
    return Verdict(right, "same number" if right else "different")


def _judge_choice(expected: str, extracted: str) -> Verdict:
    letter = choice_letter(expected)
    right = letter is not None and letter == choice_letter(extracted)
    return Verdict(right, "same choice" if right else "different")


def _judge_math(expected: str, extracted: str) -> Verdict | None:
    gold, answer = tidy(expected), tidy(extracted)
    if key(gold) == key(answer):
        return Verdict(bool(key(gold)), "same text")
    if max(depth(gold), depth(answer)) > MAX_DEPTH:
        return Verdict(False, "too large")
    chooses = choice_letter(extracted) and not _OF_LETTER.match(answer)
    if _CHOICE.fullmatch(key(gold)) and chooses:  # as some answers of MATH are
        return _judge_choice(expected, extracted)
    try:
        right = same(gold, answer, _refuse)
    except _FormulaError:
        return None
    except RecursionError:
        return Verdict(False, "too large")
    how = "same number" if number(gold) and number(answer, letter_units=True) else "equivalent"
    return Verdict(right, how if right else "different")


def _refuse(expected: str, extracted: str) -> bool:
    raise _FormulaError
