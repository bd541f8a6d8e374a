r"""Whether two tidied answers are the same object: numbers, words, tuples, intervals, sets, matrices.

Formulas, the leaves of these, go to a function that the caller gives. Differences from `math_equal` of
the Qwen2.5-Math evaluation toolkit (evaluation/grader.py): 10001 is not 10000 (theirs: within 1e-4),
0.5 is not 50, [1,2] is not (1,2), roots may come in any order, \pm is both signs, 1\frac{4}{5} is 9/5.
pytest tests/unit/grading/test_judging.py
"""

import itertools
import re
from collections.abc import Callable
from typing import NamedTuple

from lr_ray.grading.intervals import intervals
from lr_ray.grading.latex import bracketed, key, matrix, split, unmarked
from lr_ray.grading.numerals import in_base, number, same_number

Leaf = Callable[[str, str], bool]  # whether two formulas are equal: (expected, extracted)

_MAX_PARTS = 100  # of a list that is compared part by part: each may be held against each
_MAX_SIGNS = 4  # of \pm in one formula: 16 of them
_NAMED = re.compile(
    r"(?P<name>(?:\\|\x02)?[A-Za-z][\w'\\{}\x02\x03 ]{0,30}?(?:\s*\([\w\\, ]{1,12}\))?)"
    r"\s*(?:(?<![<>!\\])=(?!=)|\\in(?![A-Za-z]))\s*(?P<rest>.+)"
)
_COMPUTED = re.compile(
    r"(?:(?:\\(?:begin|end)\{\w+\}|\\[A-Za-z]+|[^A-Za-z=<>])+=)+[^=<>]+"  # 10+6=16
    r"|[^=<>]+(?:=[^=<>]+){2,}"  # s^3=6^3=216
)
_RELATED = re.compile(r"[<>]|\\[lgn]e(?![A-Za-z])")
_PLUS_MINUS = re.compile(r"\\pm(?![A-Za-z])\s*")
_CLOCK = re.compile(r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)?\s*(?:([ap])\.? ?m\b)?\.?", re.IGNORECASE)
_RATIO = re.compile(r"\d+(?:(?:\s*:\s*|\s+to\s+)\d+)+")
_NOTHING = re.compile(
    r"\\emptyset|(?:there (?:is|are|exists?) )?no (?:real )?solutions?(?: exists?)?|the empty set",
    re.IGNORECASE,
)


class _Shape(NamedTuple):
    """`kind`: scalar, list, tuple (with its brackets), set, union or matrix (a row per part).

    A list with brackets is of names that stood in them, in their order.
    """

    kind: str
    parts: tuple[str, ...]
    brackets: str = ""


def same(expected: str, extracted: str, leaf: Leaf) -> bool:
    """Whether the two tidied answers are the same object. Raises what `leaf` raises."""
    if key(expected) == key(extracted) or all(
        _NOTHING.fullmatch(unmarked(text)) for text in (expected, extracted)
    ):
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
    """Decides what needs no structure: numbers, times, ratios, words, numerals. None where it cannot."""
    for read in (_clock, _ratio):
        gold, answer = read(expected), read(extracted)
        if gold is not None and answer is not None:
            return gold == answer
    right, given = number(expected), number(extracted, letter_units=True)
    if right is not None and given is not None:
        return same_number(right, given)
    if right is None and _is_prose(expected):
        return _says(expected, extracted)
    return _same_in_base(key(expected), key(extracted))


def _clock(text: str) -> int | None:
    """Seconds since midnight of a time with a.m. or p.m., or of one on a 24-hour clock."""
    found = _CLOCK.fullmatch(unmarked(text))
    if found is None or not (found[2] or found[4]):
        return None
    hours, minutes, seconds = (int(part or 0) for part in found.groups()[:3])
    if found[4]:
        hours = hours % 12 + (12 if found[4].lower() == "p" else 0)
    return hours * 3600 + minutes * 60 + seconds


def _ratio(text: str) -> list[str] | None:
    """The terms of 5:8, or of 5 to 8."""
    text = unmarked(text)
    return re.findall(r"\d+", text) if _RATIO.fullmatch(text) else None


def _same_in_base(expected: str, extracted: str) -> bool | None:
    """Decides numerals in a base, such as 204_5; an answer may leave out the base that was asked for."""
    gold, answer = in_base(expected), in_base(extracted)
    if gold is None:
        decimal = number(expected) if answer else None
        return decimal.value == answer[1] if decimal and answer else None
    if answer is None:
        digits = extracted.strip("()")
        return gold[0] == digits if digits.isalnum() else None
    return gold[1] == answer[1]


def _is_prose(text: str) -> bool:
    """Whether a text is words: "Book store", "They are equal", "No", but not xyz_1 or 2 sin x."""
    if re.fullmatch(r"(?:no|yes)[ .]*", unmarked(text), re.IGNORECASE):
        return True
    return (
        re.search(r"[\\^_=<>+*/]", text) is None
        and re.search(r"\b(?!and\b)[A-Za-z]{3}", text) is not None
    )


def _says(expected: str, extracted: str) -> bool:
    """Whether words say the expected ones: "Yes, he has enough" says yes, and "The function is even" even."""
    gold, said = _words(expected), unmarked(extracted)
    if gold in ("yes", "no"):
        said = re.split("[,;:.]", said, maxsplit=1)[0]
    of = re.search(r"^[\w' ]*\s(?:is|are|was|were)\s+([\w' ]+)$", said)
    named = re.fullmatch(r"[A-Za-z]{3,} ([A-Z])", unmarked(expected))  # Brand B
    letter = named[1].casefold() if named else None
    return _words(said) in (gold, letter) or bool(of and _words(of[1]) == gold)


def _words(text: str) -> str:
    text = re.sub(r"[^\w ]|(?<=\d)(?:st|nd|rd|th)\b", "", text.casefold())
    return key(" ".join(word for word in text.split() if word not in ("the", "a", "an")))


def _same_scalar(expected: str, extracted: str, leaf: Leaf) -> bool:
    """Whether two formulas are equal, of which one may have the name or the computation before it."""
    if r"\approx" in extracted:
        return any(same(expected, side, leaf) for side in split(extracted, (r"\approx",)) if side)
    gold, answer = _named(expected), _named(extracted)
    if gold and answer:
        if key(gold["name"]) == key(answer["name"]):
            return same(_last(gold["rest"]), _last(answer["rest"]), leaf)
    elif not _has_sides(extracted) and (gold or _is_computed(expected)):
        return same(_last(expected), extracted, leaf)
    elif not _has_sides(expected) and (answer or _is_computed(extracted)):
        return same(expected, _last(extracted), leaf)
    return leaf(expected, extracted)


def _named(text: str) -> re.Match[str] | None:
    r"""The name and the rest of a text such as x = 5; the = of \sum_{k=1} names nothing."""
    found = _NAMED.fullmatch(text)
    return found if found and split(text, ("=", r"\in"))[0] == found["name"].strip() else None


def _is_computed(text: str) -> bool:
    return _has_sides(text) and _COMPUTED.fullmatch(text) is not None


def _has_sides(text: str) -> bool:
    """Whether a text has a = outside all brackets."""
    return len(split(text, ("=",))) > 1


def _last(text: str) -> str:
    return split(text, ("=", r"\in"))[-1]


def _with_scalar(gold: _Shape, answer: _Shape, expected: str, extracted: str, leaf: Leaf) -> bool:
    """One is a formula and the other is not."""
    scalar, other = (gold, answer) if gold.kind == "scalar" else (answer, gold)
    if _NOTHING.fullmatch(scalar.parts[0]):
        return False
    if other.kind not in ("list", "set"):
        return leaf(expected, extracted)  # such as a product with a matrix, or x^2 < 4
    if re.fullmatch(r"\d{1,3}(,\d{3})+", scalar.parts[0]):  # not thousands, then
        listed = _Shape("list", tuple(scalar.parts[0].split(",")))
        gold, answer = (listed, answer) if scalar is gold else (gold, listed)
    elif other is answer and len({key(part) for part in other.parts}) == len(other.parts) > 1:
        # one value in several ways: 1/2 or 0.5
        return other.kind == "list" and all(same(expected, part, leaf) for part in other.parts[:4])
    return _unordered(gold, answer, leaf)


def _same_shape(gold: _Shape, answer: _Shape, leaf: Leaf) -> bool:
    kinds = {gold.kind, answer.kind}
    if kinds == {"set", "tuple"}:  # \{(2,3)\}
        one = [_shape(s.parts[0]) if len(s.parts) == 1 else s for s in (gold, answer)]
        return {s.kind for s in one} == {"tuple"} and _same_shape(one[0], one[1], leaf)
    if kinds == {"matrix", "tuple"}:
        return _ordered(_vector(gold), _vector(answer), leaf)
    if kinds == {"matrix"}:
        rows = [tuple(tuple(row.split("&")) for row in shape.parts) for shape in (gold, answer)]
        return len(rows[0]) == len(rows[1]) and all(map(_ordered, *rows, itertools.repeat(leaf)))
    if kinds == {"tuple"}:
        return gold.brackets == answer.brackets and _ordered(gold.parts, answer.parts, leaf)
    if kinds == {"list", "tuple"}:  # brackets left out
        return "[" not in gold.brackets + answer.brackets and _ordered(
            gold.parts, answer.parts, leaf
        )
    return (kinds <= {"list", "set"} or kinds == {"union"}) and _unordered(gold, answer, leaf)


def _ordered(gold: tuple[str, ...], answer: tuple[str, ...], leaf: Leaf) -> bool:
    return len(gold) == len(answer) <= _MAX_PARTS and all(
        same(g.strip(), a.strip(), leaf) for g, a in zip(gold, answer, strict=True)
    )


def _unordered(gold: _Shape, answer: _Shape, leaf: Leaf) -> bool:
    """Whether every expected part has an extracted one of its own; the same text first.

    Where names that one alone has tell the parts apart, their order counts.
    """
    if len(gold.parts) != len(answer.parts) or len(gold.parts) > _MAX_PARTS:
        return False
    in_order = gold.brackets or answer.brackets or _has_names(gold.parts)
    if in_order and not all(any(map(_named, shape.parts)) for shape in (gold, answer)):
        return _ordered(gold.parts, answer.parts, leaf)
    left, rest = list(answer.parts), list(gold.parts)
    for is_twin in (lambda part, a: key(part) == key(a), lambda part, a: same(part, a, leaf)):
        for part in tuple(rest):
            twin = next((a for a in left if is_twin(part, a)), None)
            if twin is not None:
                left.remove(twin)
                rest.remove(part)
    return not left


def _has_names(parts: tuple[str, ...]) -> bool:
    """Whether each part is of a name, and not all of one, as x_1 and x_2 are: x=1, y=2."""
    names = {key(named["name"]).partition("_")[0] for part in parts if (named := _named(part))}
    return len(names) > 1 and all(map(_named, parts))


def _vector(shape: _Shape) -> tuple[str, ...]:
    if shape.kind == "tuple":
        return shape.parts if shape.brackets == "()" else ()
    return tuple(shape.parts[0].split("&")) if len(shape.parts) == 1 else shape.parts


def _shape(text: str) -> _Shape:
    rows = matrix(text)
    if rows is not None:
        return _Shape("matrix", tuple("&".join(row) for row in rows))
    united = intervals(text) or [text]
    if len(united) > 1:
        return _Shape("union", tuple(united))
    if united != [text]:
        return _listed(united[0])
    if _RELATED.search(text):
        return _Shape("scalar", (text,))
    sides = split(text, ("=",)) if len(split(text)) == 1 else []
    if paired := _paired(text):
        return _Shape("list", paired, "()")
    if len(sides) > 1 and all(map(bracketed, sides[-2:])):  # P = (x, y) = (1, 2)
        return _shape(sides[-1])
    named = _named(text)
    if number(named["rest"].strip() if named else text):  # 12,345 and x = 12,345 are no lists
        return _Shape("scalar", (text,))
    if named and (r"\in" in text or bracketed(named["rest"])):  # x \in [1,2], x = \{1, 2\}
        shape = _shape(named["rest"].strip())
        return shape if shape.kind != "scalar" else _Shape("scalar", (text,))
    return _listed(text)


def _paired(text: str) -> tuple[str, ...]:
    """Of (x,y)=(1,2) the parts x=1 and y=2; nothing of another text."""
    sides = [bracketed(side) for side in split(text, ("=",))]
    if len(sides) != 2 or any(side is None or side[0] + side[2] != "()" for side in sides):
        return ()
    names, values = (split(side[1]) for side in sides if side)
    pairs = tuple(f"{name}={value}" for name, value in zip(names, values, strict=False))
    return pairs if len(names) == len(values) > 1 and all(map(_named, pairs)) else ()


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
    items = [part for part in split(unmarked(text), (",", ";", "and", "or")) if part]
    parts = _each_sign(items if len(items) > 1 else [text])
    return _Shape("list" if len(parts) > 1 else "scalar", parts)


def _signs(parts: list[str]) -> list[list[str]]:
    r"""The parts with each \pm as + and as -."""
    joined = "\n".join(parts)  # so that the signs can be put in one after the other
    count = len(_PLUS_MINUS.findall(joined))
    if not 0 < count <= _MAX_SIGNS:
        return [parts]
    found = []
    for signs in itertools.product("+-", repeat=count):
        left = iter(signs)
        found.append(_PLUS_MINUS.sub(lambda _: next(left), joined).split("\n"))  # noqa: B023
    return found


def _each_sign(parts: list[str]) -> tuple[str, ...]:
    return tuple(written for part in parts for (written,) in _signs([part]))
