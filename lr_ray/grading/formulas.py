r"""Where formulas stand in prose: between dollars, or as a run of numbers, letters and operators.

pytest tests/unit/grading/test_kinds.py
"""

import re
from typing import NamedTuple

from lr_ray.grading.numerals import LETTER_UNITS, SCALE

# A dollar before a digit may be money: a formula has no space before its last dollar unless one after
# its first, and no digit after its last, so that "$12 and $15" holds none.
_BETWEEN = re.compile(
    r"\$\$((?:[^$\\]|\\.)+)\$\$"
    r"|(?<!\\)\$(\s(?:[^$\\]|\\.)+|(?:[^$\\]|\\.)*(?:[^$\\\s]|\\\S))\$(?!\d)"
    r"|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)"
    r"|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]",
    re.DOTALL,
)
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d{1,3}(?: \d{3})+(?![\d,]*\d| \d|/)|\d+)"
_NUMBER = rf"(?:{_INTEGER}(?:\.\d+)?(?:[eE][+-]?\d+(?!\w))?|\.\d+)"
_CLOCK = r"(?:\d{1,2}:\d\d(?::\d\d)?(?!\d)(?:\s?[AaPp]\.?[Mm]\b\.?)?|\d{1,2}\s?[AaPp]\.[Mm]\b\.?)"
_FUNCTION = (
    r"(?:(?:(?:sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
    r"|\\(?!(?:boxed|fbox)(?![A-Za-z]))[A-Za-z]+)(?:[ \t]+(?=[\d.]))?)"
)
_SCRIPT, _FRACTION = "[⁰¹²³⁴-⁹⁺⁻ⁿ₀-₉]", "[¼-¾⅐-⅞]"
_LETTER = r"[A-Za-zα-ωΓ-Ω∞ℝ](?!'[a-z]|[A-Za-z0-9])"
_OPERATOR = r"(?:\*\*|[-+*/^_=<>|'×·÷±≤≥≠∪∩√∛°]|!(?![\s*]|\Z))"
_VALUE = rf"(?:{_CLOCK}|{_NUMBER}(?:\s?\\?%)?|{_FUNCTION}|{_SCRIPT}+|{_FRACTION})"
_ATOM = rf"(?:{_VALUE}|{_LETTER})"
for _ in range(3):  # brackets within brackets
    _ATOM = rf"(?:{_VALUE}|{_LETTER}|\\?[(\[{{](?:{_ATOM}|{_OPERATOR}|[ \t,:])*+\\?[)\]}}])"
# After a number or a spaced operator a formula goes on; "Step 1: 14" and "5 apples" do not.
_GOES_ON = (
    rf"(?:(?:[ \t]+(?:{_OPERATOR}|[x:])[ \t]+|{_OPERATOR}[ \t]*|:)++(?={_ATOM})"
    rf"|(?<=[\d%¼-¾⅐-⅞])[ \t]+(?=\d+/\d|{_FUNCTION}|{_FRACTION}|[√xyzαβθπ](?![A-Za-z]))|)"
)
_POWER = r"(?:\^\{?-?\d\}?|[²³])"
_RUN = re.compile(
    rf"[A-Za-z]+\d[A-Za-z0-9]*|(?!{_FUNCTION})[A-Za-z]{{2,}}{_POWER}?(?:/[A-Za-z]+{_POWER}?)?"  # words
    rf"|(?P<run>(?:(?:(?<![\w.)\]}}])[-+]|[√∛±]){{1,3}}(?=\S))?{_ATOM}(?:{_GOES_ON}{_ATOM})*+(?:!(?![\s*]|\Z)|['°|])*)"
)
_TELLING = re.compile(rf"{_VALUE}|{_LETTER}.*[+*^=<>_≤≥].*{_LETTER}", re.DOTALL)
_FORMAL = re.compile(rf"{_LETTER}|{_FUNCTION}|{_SCRIPT}|[\^√∛(\[{{]")  # more than a calculation
_SCALES = re.compile(rf"(?:{SCALE.pattern})*+%?", re.IGNORECASE)
_UNIT = re.compile(
    rf"(?:[{LETTER_UNITS}]|[A-Za-zμ]{{2,3}}){_POWER}?(?:[/*·](?:[{LETTER_UNITS}]|[A-Za-z]{{2,3}}){_POWER}?)*"
)
_PLUS = re.compile(r"(?<=[\d.)%])\s*[+-]\s*")
_RATIO = re.compile(r"\b(?:ratio|odds)\b[^.\n]*?(\d+)\$?\s+to\s+\Z", re.IGNORECASE)
_IN_BASE = re.compile(r"([0-9A-Z]+)\$?\s+(?:in\s+|\()?base\s+\Z")

# Before a number that is none of the answer: "more than 5", "not 5", "half of 5".
_OTHER_THAN = re.compile(
    r"(?:\bnot|n't|\bthan(?:\s+or\s+equal\s+to)?|\btwice|\b(?:half|root)\s+of)\s+\Z", re.IGNORECASE
)
# 5 hours and 30 minutes, 5 ft 4 in: between the numbers, and after both
_LARGER = re.compile(
    r"\s*(?:hours?|hrs?|minutes?|mins?|days?|weeks?|years?|feet|foot|ft|pounds?|lbs?|dollars?)\.?\s+(?:and\s+)?\$?"
)
_SMALLER = re.compile(
    r"\s*(?:days?|months?|hours?|hrs?|minutes?|mins?|seconds?|secs?|inch(?:es)?|in|ounces?|oz|cents?)\b"
)
# x of x = 3, x_1 = 3 and x < 3
_OF = re.compile(r"\s*(\\?[A-Za-z]+)(?:_\{?\w+\}?)?\s*(?:[=<>≤≥]|\\(?:[lg]e|lt|gt))")
GLUE = re.compile(  # between two answers
    r"(?:[\s,;&~和或及与]|\b(?:and|or|also|as\s+well\s+as)\b"
    r"|\\(?:quad|qquad|[,; ]|text\s*\{\s*,?\s*(?:and|or)\s*\}))+"
)


class Formula(NamedTuple):
    """Where it stands (with its dollars), and what it is (without)."""

    start: int
    end: int
    content: str


def between_dollars(text: str) -> list[Formula]:
    r"""The formulas between $, $$, \( and \[, in order."""
    found = (_formula(span) for span in _BETWEEN.finditer(text))
    return [formula for formula in found if formula.content]


def formula_at_start(text: str) -> Formula | None:
    """The formula between dollars that the text begins with, or None."""
    span = _BETWEEN.match(text)
    return _formula(span) if span and _formula(span).content else None


def runs(text: str) -> list[Formula]:
    """The formulas of a text that stand outside of dollars, in order."""
    found: list[Formula] = []
    for run in _RUN.finditer(text):
        content = run["run"]
        if content is None or not _TELLING.search(content):
            continue
        if found and _UNIT.fullmatch(content) and text[found[-1].end : run.start()].isspace():
            continue  # m^2 after 36
        if not _FORMAL.search(content):
            content = _PLUS.split(content.rpartition("=")[2].strip())[-1]  # 10+6=16, or 5-3
        if re.fullmatch(rf"[\d.,]+[{LETTER_UNITS}]", content):
            content = f"{content[:-1]} {content[-1]}"
        if re.search(
            r"(?<![\w.)\]}])-\\?\$\Z", text[max(0, run.start() - 4) : run.start()]
        ):  # -$12
            content = f"-{content}"
        if content:
            found.append(Formula(run.start(), run.end(), content))
    return found


def last_formula(text: str) -> str | None:
    """The last whole formula of a text, with the scale after it ("5 million"), or None.

    Several are one answer where they are a list: "$2$ and $3$", "x < 1 or x > 3".
    """
    spans = between_dollars(text)
    outside = list(text)
    for span in spans:
        outside[span.start : span.end] = "\n" * (span.end - span.start)
    ends = {span.end for span in spans}
    between = [f for f in runs("".join(outside)) if not _is_unit_after(f, text, ends)]
    found = [
        f
        for f in sorted(spans + between)
        if "=" in text[f.start : f.end] or not _OTHER_THAN.search(text, f.start - 30, f.start)
    ]
    telling = [f for f in found if len(f.content) > 1 or f.content.isdigit()] or found
    if not telling:
        return None
    first = last = telling[-1]
    for before in telling[-2::-1]:
        if not _is_one_list(text, before, first, ends):
            break
        first = before
    if first is not last:
        return text[first.start : last.end]
    if len(telling) > 1 and (end := one_quantity(text, telling[-2], last)):
        return text[telling[-2].start : end]
    ratio = _RATIO.search(text[max(0, last.start - 80) : last.start])
    if ratio and last.content.isdigit():
        return f"{ratio[1]}:{last.content}"
    base = _IN_BASE.search(text[max(0, last.start - 80) : last.start])
    if base and last.content.isdigit():
        return f"{base[1]}_{last.content}"
    return last.content + scale_after(text, last.end)


def is_glue(between: str) -> bool:
    """Whether what stands between two answers makes them one list: commas, "and", spaces of a line."""
    between = re.sub(r"\$|(?<=.)\*|\\[()\[\]]", " ", between)
    if "\n" in between:  # items of a list, each on a line of its own
        return re.fullmatch(r"[\s,;.]*\n\s*(?:[-*\u2022]|\d\.|\(\w\))\s*", between) is not None
    return GLUE.fullmatch(between) is not None


def one_quantity(text: str, larger: Formula, smaller: Formula) -> int:
    """Where a quantity in two units ends, such as 5 feet 4 inches; 0 where the two numbers are none."""
    unit = _SMALLER.match(text, smaller.end)
    return unit.end() if unit and _LARGER.fullmatch(text, larger.end, smaller.start) else 0


def scale_after(text: str, end: int) -> str:
    """The words of scale that follow at `end`, such as " million", or nothing."""
    scale = _SCALES.match(text, end)
    return scale[0] if scale else ""


def _formula(span: re.Match[str]) -> Formula:
    content = next(part for part in span.groups() if part is not None)
    return Formula(span.start(), span.end(), content.strip())


def _is_one_list(text: str, one: Formula, next_one: Formula, ends: set[int]) -> bool:
    """Whether two formulas list values of one thing; outside of dollars it must be named before both."""
    of, next_of = (found[1] if (found := _OF.match(f.content)) else "" for f in (one, next_one))
    between = text[one.end : next_one.start]
    of_one = of == next_of != "" or (not next_of and {one.end, next_one.end} <= ends)
    return of_one and "\n" not in between and is_glue(between)


def _is_unit_after(run: Formula, text: str, ends: set[int]) -> bool:
    start = run.start
    while start and text[start - 1] in " \t":
        start -= 1
    return start in ends and _UNIT.fullmatch(run.content) is not None
