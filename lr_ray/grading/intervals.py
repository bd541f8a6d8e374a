r"""Intervals as answers write them: (1,3), 1 < x < 3, x > 1 \text{ and } x < 3, \{x | x < 3\}, ]0,12.5[.

pytest tests/unit/grading/test_kinds.py
"""

import re
from typing import NamedTuple

from lr_ray.grading.latex import WORDS, split

_LE, _GE = r"\le", r"\ge"
_INFINITE = r"\infty"
_REALS = rf"(-{_INFINITE},{_INFINITE})"
_RELATION = re.compile(r"(<|>|\\[lg]e(?![A-Za-z])|\\ne(?![A-Za-z]))")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
# {x : x < 3}, {x \in R | x < 3}
_BUILT = re.compile(
    r"\\?\{\s*(?P<name>\\?[A-Za-z]+)\s*(?:\\in\s*(?P<from>[^|:]*?))?\s*(?:\||:|\\mid(?![A-Za-z])|\\colon)\s*(?P<what>.*?)\\?\}"
)
_MEMBER = re.compile(
    rf"{_VARIABLE.pattern}\s*\\in\s*{re.escape(_REALS)}|{_VARIABLE.pattern}\s*(?:is\s+)?(?:a\s+)?real(?:\s+number)?"
)
_OPENED_OUTWARD = re.compile(
    r"(?P<open>[\]\[(])(?P<low>[^\[\]();,]+)[,;](?P<high>[^\[\]()]+)(?P<close>[\[\])])"
)
_ALL = re.compile(
    rf"(?:{_VARIABLE.pattern}\s*\\in\s*)?(?:{re.escape(_REALS)}|(?:all|any|every)\s+(?:the\s+)?real(?:\s+(?:numbers?|values?)"
    r"(?:\s+of\s+\w)?)?|real numbers)",
    re.IGNORECASE,
)


class _Bounds(NamedTuple):
    """Of a variable, the lower and the upper bound as text or None, and whether each belongs to it."""

    low: str | None
    high: str | None
    low_closed: bool
    high_closed: bool


def interval(text: str) -> str | None:
    """The interval that a tidied text describes, in one way of writing, or None where it is none."""
    text = _bare(text)
    if _ALL.fullmatch(_bare(re.sub("[\x02\x03]", "", text))):
        return _REALS
    built = _of_set(text)
    if built is not None:
        return interval(built)
    outward = _OPENED_OUTWARD.fullmatch(text)
    if outward and (outward["open"] == "]" or outward["close"] == "["):
        opening = "[" if outward["open"] == "[" else "("
        closing = "]" if outward["close"] == "]" else ")"
        return f"{opening}{outward['low'].strip()},{outward['high'].strip()}{closing}"
    return _of_relations(text)


def _of_set(text: str) -> str | None:
    """What holds of the real numbers in a set such as {x | x < 3}."""
    built = _BUILT.fullmatch(text)
    return (
        built["what"] if built and (not built["from"] or _bare(built["from"]) == _REALS) else None
    )


def unions(text: str) -> list[str] | None:
    """The intervals of a text of relations joined by "or", or of x \\ne a; None where it has others."""
    built = _of_set(_bare(text))
    if built is not None:
        return unions(built)
    parts = []
    for part in split(text, ("or", r"\lor", r"\vee")):
        apart = re.fullmatch(rf"{_VARIABLE.pattern}\s*\\ne\s*([^<>=,]+)", _bare(part))
        if apart:
            parts += [rf"(-\infty,{apart[1].strip()})", rf"({apart[1].strip()},\infty)"]
            continue
        found = interval(part)
        if found is None:
            return None
        parts.append(found)
    return parts


def _of_relations(text: str) -> str | None:
    """The interval of 1 < x \\le 3, or of several such relations that must all hold."""
    name, bounds = None, _Bounds(None, None, False, False)
    for part in split(text, (",", ";", "and", r"\land", r"\wedge", "&")):
        part = _bare(part)
        if not part or _MEMBER.fullmatch(_bare(re.sub("[\x02\x03]", "", part))):
            continue
        found = _relation(part)
        if found is None or name not in (None, found[0]):
            return None
        name, new = found
        if (new.low is not None and bounds.low is not None) or (
            new.high is not None and bounds.high is not None
        ):
            return None
        bounds = _Bounds(
            new.low if bounds.low is None else bounds.low,
            new.high if bounds.high is None else bounds.high,
            new.low_closed or bounds.low_closed,
            new.high_closed or bounds.high_closed,
        )
    if name is None:
        return None
    opening, closing = "[" if bounds.low_closed else "(", "]" if bounds.high_closed else ")"
    return f"{opening}{bounds.low or '-' + _INFINITE},{bounds.high or _INFINITE}{closing}"


def _relation(text: str) -> tuple[str, _Bounds] | None:
    """The variable and its bounds in one relation or chain of two, such as x < 2 or 3 \\ge x > 1."""
    parts = [part.strip() for part in _RELATION.split(text)]
    if len(parts) not in (3, 5) or r"\ne" in parts or "=" in text:
        return None
    if len({part in (">", _GE) for part in parts[1::2]}) > 1:  # 1 < x > 3
        return None
    if parts[1] in (">", _GE):
        parts = parts[::-1]
        parts[1::2] = ["<" if p == ">" else _LE for p in parts[1::2]]
    at = 2 if len(parts) == 5 else 0 if _VARIABLE.fullmatch(parts[0]) else 2
    if not _VARIABLE.fullmatch(parts[at]) or not all(parts[::2]):
        return None
    low = (parts[at - 2], parts[at - 1] == _LE) if at else (None, False)
    high = (parts[at + 2], parts[at + 1] == _LE) if at + 2 < len(parts) else (None, False)
    return parts[at], _Bounds(low[0], high[0], low[1], high[1])


def _bare(text: str) -> str:
    return text.strip("".join(WORDS) + " ")
