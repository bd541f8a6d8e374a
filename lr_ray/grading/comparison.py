r"""Whether two tidied answers are the same object: numbers, words, tuples, intervals, sets, matrices.

Formulas, the leaves of these, go to a function that the caller gives. Differences from `math_equal` of
the Qwen2.5-Math evaluation toolkit (evaluation/grader.py): 10001 is not 10000 (theirs: within 1e-4),
0.5 is not 50, [1,2] is not (1,2), roots may come in any order, \pm is both signs, 1\frac{4}{5} is 9/5.
pytest tests/unit/grading/test_judging.py
"""

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass

from lr_ray.grading.intervals import interval, unions
from lr_ray.grading.latex import WORDS, bracketed, key, matrix, split
from lr_ray.grading.numerals import number, same_number

Leaf = Callable[[str, str], bool]  # whether two formulas are equal: (expected, extracted)

_MAX_PARTS = 100  # of a list that is compared part by part: each may be held against each
_MAX_SIGNS = 4  # of \pm in one formula: 16 of them
_NAME = r"\\?[A-Za-z][\w'\\{}\x02\x03 ]{0,30}?(?:\s*\([\w\\, ]{1,12}\))?"
_NAMED = re.compile(
    rf"(?P<name>{_NAME})\s*(?:(?<![<>!\\])=(?!=)|\\in(?![A-Za-z])|\\to(?![A-Za-z]))"
    r"\s*(?P<rest>(?:(?!\\(?:in|to)(?![A-Za-z])).)+)"
)
_RELATED = re.compile(r"[<>]|\\[lgn]e(?![A-Za-z])")
_DESCRIBED = re.compile(rf"{_RELATED.pattern}|^\s*[\]\[(].*[\[\])]\s*$|\breal\b|\\in(?![A-Za-z])")
_PLUS_MINUS, _MINUS_PLUS = re.compile(r"\\pm(?![A-Za-z])\s*"), re.compile(r"\\mp(?![A-Za-z])\s*")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)?\s*(?:([ap])\.? ?m\b)?\.?", re.IGNORECASE)
_FORMULA = re.compile(r"[\\^_=<>+*/]|sqrt|\b(?:sin|cos|tan|log|exp|ln)\b")
_A_WORD = re.compile(r"\b(?!and\b)[A-Za-z]{3}")
_COMPUTED = re.compile(
    r"(?:(?:\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|[^A-Za-z=<>])+=)+[^=<>]+"  # 10+6=16
    r"|[^=<>]+(?:(?<![!\\])=[^=<>]+){2,}"  # s^3=6^3=216
)
_RATIO = re.compile(r"\d+(?:\s*:\s*\d+)+")
_BASE = re.compile(
    r"\(?(?P<digits>[0-9A-Za-z]+?)\)?(?:_\{?(?:\(?|base)(?P<base>\d+|[a-z]{3,})\)?\}?|\(?(?:in)?base_?\{?(?P<base2>\d+|[a-z]{3,})\}?\)?)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class _Shape:
    """`kind`: scalar, list, tuple (with its brackets), set, union or matrix (a row per part)."""

    kind: str
    parts: tuple[str, ...]
    brackets: str = ""


def same(expected: str, extracted: str, leaf: Leaf) -> bool:
    """Whether the two tidied answers are the same object. Raises what `leaf` raises."""
    if key(expected) == key(extracted):
        return True
    decided = _plain(expected, extracted)
    if decided is not None:
        return decided
    gold, answer = _shape(expected), _shape(extracted)
    if gold.kind == answer.kind == "scalar":
        return _same_scalar(expected, extracted, leaf)
    if "scalar" in (gold.kind, answer.kind):
        return _with_scalar(gold, answer, expected, extracted, leaf)
    return _same_shape(gold, answer, leaf)


def _plain(expected: str, extracted: str) -> bool | None:
    """Decides what needs no structure: two numbers, two clock times, words. None where it cannot."""
    times = _clock(expected), _clock(extracted)
    if None not in times:
        return times[0] == times[1]
    gold, answer = number(expected), number(extracted, letter_units=True)
    if gold is not None and answer is not None:
        return same_number(gold, answer)
    if _RATIO.fullmatch(expected):
        ratio = re.sub(r"(?<=\d)[\s\x02]+to[\s\x03]+(?=\d)", ":", extracted)
        return key(expected) == key(ratio) or (None if _RATIO.fullmatch(ratio) is None else False)
    if gold is None and _is_prose(expected):
        return _words(expected) == _words(extracted)
    return _same_in_base(key(expected), key(extracted))


def _same_in_base(expected: str, extracted: str) -> bool | None:
    """Decides numerals in a base, such as 204_5; an answer may leave out the base that was asked for."""
    gold, answer = _in_base(expected), _in_base(extracted)
    if gold is None:
        return None
    if answer is None:
        digits = extracted.strip("()")
        return gold[0] == digits if digits.isalnum() else None
    return gold[1] == answer[1]


def _in_base(text: str) -> tuple[str, int] | None:
    """The digits and the value of a numeral in a base: 4210_5, (AB)_{16}, 4210 (base 5)."""
    found = _BASE.fullmatch(text)
    if found is None:
        return None
    written = found["base"] or found["base2"]
    base = number(written)
    try:
        return (found["digits"], int(found["digits"], int(base.value))) if base else None
    except ValueError:
        return None


def _same_shape(gold: _Shape, answer: _Shape, leaf: Leaf) -> bool:
    kinds = {gold.kind, answer.kind}
    if kinds == {"matrix", "tuple"}:
        return _ordered(_vector(gold), _vector(answer), leaf)
    if len(gold.parts) != len(answer.parts) or len(gold.parts) > _MAX_PARTS:
        return False
    if kinds == {"matrix"}:
        return all(
            _ordered(tuple(g.split("&")), tuple(a.split("&")), leaf)
            for g, a in zip(gold.parts, answer.parts, strict=True)
        )
    if kinds == {"tuple"}:
        return gold.brackets == answer.brackets and _ordered(gold.parts, answer.parts, leaf)
    if kinds == {"list", "tuple"}:  # brackets left out
        return "[" not in gold.brackets + answer.brackets and _ordered(
            gold.parts, answer.parts, leaf
        )
    if kinds <= {"list", "set"} or kinds == {"union"}:
        return _unordered(gold.parts, answer.parts, leaf)
    return False


def _with_scalar(gold: _Shape, answer: _Shape, expected: str, extracted: str, leaf: Leaf) -> bool:
    """One is a formula and the other is not."""
    other, scalar = (answer, expected) if gold.kind == "scalar" else (gold, extracted)
    if other.kind in ("list", "set") and len(other.parts) == 1:
        pair = (expected, other.parts[0]) if gold.kind == "scalar" else (other.parts[0], extracted)
        return same(*pair, leaf)
    if other.kind == "list" and re.fullmatch(r"\d{1,3}(,\d{3})+", scalar):  # not thousands, then
        listed = _Shape("list", tuple(scalar.split(",")))
        first, second = (listed, other) if gold.kind == "scalar" else (other, listed)
        return _same_shape(first, second, leaf)
    if other is answer and other.kind == "list":  # one value in several ways: 1/2 or 0.5
        return len({key(part) for part in other.parts}) == len(other.parts) and all(
            same(expected, part, leaf) for part in other.parts[:_MAX_SIGNS]
        )
    if other.kind in ("list", "set"):
        return False
    return leaf(expected, extracted)  # such as a product with a matrix, or x^2 < 4


def _same_scalar(expected: str, extracted: str, leaf: Leaf) -> bool:
    gold, answer = _named(expected), _named(extracted)
    if gold and answer:
        if key(gold["name"]) == key(answer["name"]):
            return same(_last(gold["rest"]), _last(answer["rest"]), leaf)
        return leaf(expected, extracted)
    if gold and "=" not in extracted:
        return same(_last(gold["rest"]), extracted, leaf)
    if answer and "=" not in expected:
        return same(expected, _last(answer["rest"]), leaf)
    if "=" not in expected and _COMPUTED.fullmatch(extracted):
        return same(expected, _last(extracted), leaf)
    if "=" not in extracted and _COMPUTED.fullmatch(expected):
        return same(_last(expected), extracted, leaf)
    return leaf(expected, extracted)


def _ordered(gold: tuple[str, ...], answer: tuple[str, ...], leaf: Leaf) -> bool:
    return len(gold) == len(answer) and all(
        same(g.strip(), a.strip(), leaf) for g, a in zip(gold, answer, strict=True)
    )


def _unordered(gold: tuple[str, ...], answer: tuple[str, ...], leaf: Leaf) -> bool:
    """Whether every expected part has an extracted one of its own; the same text first."""
    left = list(answer)
    rest = []
    for part in gold:
        twin = next((a for a in left if key(a) == key(part)), None)
        if twin is None:
            rest.append(part)
        else:
            left.remove(twin)
    for part in rest:
        twin = next((a for a in left if same(part, a, leaf)), None)
        if twin is None:
            return False
        left.remove(twin)
    return not left


def _shape(text: str) -> _Shape:
    rows = matrix(text)
    if rows is not None:
        return _Shape("matrix", tuple("&".join(row) for row in rows))
    united = split(text, (r"\cup",))
    if len(united) == 1 and _DESCRIBED.search(text):
        described = unions(text)
        if described is None and _RELATED.search(text):
            return _Shape("scalar", (text,))
        if described and described != [text]:
            united = described
            if len(united) == 1:
                return _listed(united[0])
    if len(united) > 1:
        return _Shape("union", tuple(interval(part) or part for part in united))
    named = _named(text)
    if named and number(named["rest"].strip()):  # x = 12,345 is one number
        return _Shape("scalar", (text,))
    if named and (r"\in" in text or bracketed(named["rest"])):  # x \in [1,2], x = \{1, 2\}
        shape = _shape(named["rest"].strip())
        return shape if shape.kind != "scalar" else _Shape("scalar", (text,))
    return _listed(text)


def _listed(text: str) -> _Shape:
    """The shape of a text without unions and relations."""
    whole = bracketed(text)
    if whole and whole[0] in ("(", "[", r"\langle"):
        variants = _signs(split(whole[1]))
        if len(variants) == len(variants[0]) == 1 and (whole[0] == "(" or matrix(whole[1])):
            return _shape(variants[0][0])
        opening, closing = ("[" if whole[0] == "[" else "("), ("]" if whole[2] == "]" else ")")
        if len(variants) > 1:
            return _Shape("list", tuple(opening + ",".join(v) + closing for v in variants))
        return _Shape("tuple", tuple(variants[0]), opening + closing)
    if whole:
        return _Shape("set", tuple(dict.fromkeys(_each_sign(split(whole[1])))))
    items = [_bare(item) for item in split(text, (",", ";", "and", "or")) if _bare(item)]
    parts = _each_sign(items if len(items) > 1 else [text])
    return _Shape("list" if len(parts) > 1 else "scalar", parts)


def _bare(text: str) -> str:
    return text.strip("".join(WORDS) + " ")


def _signs(parts: list[str]) -> list[list[str]]:
    r"""The parts with each \pm as + and as -; a \mp is the opposite of the first \pm."""
    count = sum(len(_PLUS_MINUS.findall(part)) for part in parts)
    if not 0 < count <= _MAX_SIGNS:
        return [parts]
    found = []
    for signs in itertools.product("+-", repeat=count):
        opposite = "-" if signs[0] == "+" else "+"
        # The parts are joined, so that the signs can be put in one after the other.
        written = _MINUS_PLUS.sub(opposite, "\n".join(parts))
        for sign in signs:
            written = _PLUS_MINUS.sub(sign, written, count=1)
        found.append([part.strip() for part in written.split("\n")])
    return found


def _each_sign(parts: list[str]) -> tuple[str, ...]:
    return tuple(written for part in parts for (written,) in _signs([part]))


def _vector(shape: _Shape) -> tuple[str, ...]:
    if shape.kind == "tuple":
        return shape.parts if shape.brackets == "()" else ()
    return tuple(shape.parts[0].split("&")) if len(shape.parts) == 1 else shape.parts


def _named(text: str) -> re.Match[str] | None:
    r"""The match of a text such as x = 5; the sign within \sum_{k=1} names nothing."""
    found = _NAMED.fullmatch(text)
    return found if found and found["name"].count("{") == found["name"].count("}") else None


def _last(text: str) -> str:
    return split(text, ("=",))[-1]


def _clock(text: str) -> int | None:
    """Seconds since midnight of a time with a.m. or p.m., or of one on a 24-hour clock."""
    found = _CLOCK.fullmatch(re.sub("[\x02\x03]", "", text).strip())
    if found is None or not (found[2] or found[4]):
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    if found[4]:
        hours = hours % 12 + (12 if found[4].lower() == "p" else 0)
    return hours * 3600 + minutes * 60 + seconds


def _is_prose(text: str) -> bool:
    """Whether a text is words: "Book store", "They are equal", "No", but not xyz_1 or 2 sin x."""
    if re.fullmatch(r"[\x02 ]*(?:no|yes)[\x03 .]*", text, re.IGNORECASE):
        return True
    return _FORMULA.search(text) is None and _A_WORD.search(text) is not None


def _words(text: str) -> str:
    text = re.sub(r"[^\w ]", "", text.casefold())
    return "".join(word for word in text.split() if word not in ("the", "a", "an"))
