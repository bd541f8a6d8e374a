r"""Intervals as answers write them: (1,3), 1 < x < 3, x > 1 \text{ and } x < 3, \{x | x < 3\}, ]0,12.5[.

pytest tests/unit/grading/test_kinds.py
"""

import re

from lr_ray.grading.latex import split, unmarked

_REALS = r"(-\infty,\infty)"
_MIRRORED = {">": "<", r"\ge": r"\le"}
_RELATION = re.compile(r"(<|>|\\[lgn]e(?![A-Za-z]))")
_VARIABLE = re.compile(r"\\?[A-Za-z]+(?:_\{?\w+\}?)?(?:\([A-Za-z]\))?")
_ABSOLUTE = re.compile(rf"\|({_VARIABLE.pattern})\|\s*([<>]|\\[lg]e(?![A-Za-z]))\s*([^|<>=,]+)")
# {x : x < 3}, {x \in R | x < 3}
_BUILT = re.compile(
    rf"\\?\{{\s*{_VARIABLE.pattern}\s*(?:\\in\s*{re.escape(_REALS)})?\s*(?:\||:|\\mid(?![A-Za-z]))\s*(?P<what>.*?)\\?\}}"
)
_OUTWARD = re.compile(
    r"(?P<open>\]|[\[(](?=[^\[\]()]*\[$))(?P<low>[^\[\]();,]+)[,;](?P<high>[^\[\]()]+)(?P<close>[\[\])])"
)
_POINT = re.compile(rf"{_VARIABLE.pattern}\s*=\s*([^<>=,]+)")
_MEMBER = re.compile(rf"^{_VARIABLE.pattern}\s*\\in(?![A-Za-z])\s*")
_REAL = re.compile(
    rf"(?:{_VARIABLE.pattern}\s*(?:\\in|is)?\s*)?"
    rf"(?:{re.escape(_REALS)}|(?:(?:a|all|any|every)\s+)?real(?:\s+(?:numbers?|values?)(?:\s+of\s+\w)?)?)",
    re.IGNORECASE,
)


def intervals(text: str) -> list[str] | None:
    r"""The sets whose union a tidied text is, intervals in one way of writing; None where it has others.

    They are joined by \cup, or are relations joined by "or".
    """
    text, found = unmarked(text), list[str]()
    united = split(text, (r"\cup",))
    alternatives = split(text, ("or", r"\lor", r"\vee")) if len(united) == 1 else united
    related = len(alternatives) > 1 and _RELATION.search(text)
    for part in alternatives:
        member = _MEMBER.sub("", part)
        point = _POINT.fullmatch(part) if related else None  # x < 0 or x = 1
        described = [rf"\{{{point[1].strip()}\}}"] if point else _described(member)
        if described is None and len(united) == 1 and member == part:
            return None
        found += described or [member]
    return found


def _described(text: str) -> list[str] | None:
    """The intervals of ]1, 3[, of x \\ne 2, of a set that is built, or of relations that must all hold."""
    if _REAL.fullmatch(text):
        return [_REALS]
    built = _BUILT.fullmatch(text)
    if built:
        return intervals(built["what"])
    outward = _OUTWARD.fullmatch(text)
    if outward:
        opening = "[" if outward["open"] == "[" else "("
        closing = "]" if outward["close"] == "]" else ")"
        return [f"{opening}{outward['low'].strip()},{outward['high'].strip()}{closing}"]
    absolute = _ABSOLUTE.fullmatch(text)
    if absolute:
        name, relation, bound = absolute.groups()
        if relation in _MIRRORED:
            return intervals(
                f"{name} {_MIRRORED[relation]} -({bound}) or {name} {relation} {bound}"
            )
        return intervals(f"-({bound}) {relation} {name} {relation} {bound}")
    apart = re.fullmatch(rf"{_VARIABLE.pattern}\s*\\ne\s*([^<>=,]+)", text)
    if apart:
        return [rf"(-\infty,{apart[1].strip()})", rf"({apart[1].strip()},\infty)"]
    described = _of_relations(text)
    return [described] if described else None


def _of_relations(text: str) -> str | None:
    """The interval of 1 < x \\le 3, or of several such relations that must all hold."""
    name, bounds = None, dict[str, str]()
    for part in split(text, (",", ";", "and", r"\land", r"\wedge", "&")):
        if not part or _REAL.fullmatch(part):
            continue
        found = _relation(part)
        if found is None or name not in (None, found[0]) or bounds.keys() & found[1].keys():
            return None
        name = found[0]
        bounds |= found[1]
    if name is None:
        return None
    return bounds.get("low", r"(-\infty") + "," + bounds.get("high", r"\infty)")


def _relation(text: str) -> tuple[str, dict[str, str]] | None:
    """The variable and its bounds in one relation or chain of two, such as x < 2 or 3 \\ge x > 1."""
    parts = [part.strip() for part in _RELATION.split(text)]
    if set(parts[1::2]) <= _MIRRORED.keys():
        parts = [_MIRRORED.get(part, part) for part in parts[::-1]]
    if len(parts) not in (3, 5) or not set(parts[1::2]) <= set(_MIRRORED.values()) or "=" in text:
        return None
    at = 0 if len(parts) == 3 and _VARIABLE.fullmatch(parts[0]) else 2
    if not _VARIABLE.fullmatch(parts[at]) or not all(parts[::2]):
        return None
    bounds = {}
    if at:
        bounds["low"] = ("(" if parts[at - 1] == "<" else "[") + parts[at - 2]
    if at + 2 < len(parts):
        bounds["high"] = parts[at + 2] + (")" if parts[at + 1] == "<" else "]")
    return parts[at], bounds
