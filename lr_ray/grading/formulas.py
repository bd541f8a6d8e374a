r"""Where formulas stand in prose: between dollars, or as a run of numbers, letters and operators.

pytest tests/unit/grading/test_kinds.py
"""

import re
from typing import NamedTuple

from lr_ray.grading.numerals import LETTER_UNITS, SCALE

# A dollar before a digit may be money: a formula has no space before its last dollar unless one after
# its first, and no digit after its last, so that "$12 and $15" holds none.
_ALIGNED = r"\{(?:align|gather|equation|split|eqnarray|multline)(?:ed)?\*?\}"
_BETWEEN = re.compile(
    r"\$\$((?:[^$\\]|\\.)+)\$\$"
    r"|(?<!\\)\$(?!(?<=\d\$)\s)(\s(?:[^$\\]|\\.)+|(?:[^$\\]|\\.)*(?:[^$\\\s]|\\\S))\$(?!\d)"
    r"|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)"
    r"|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]"
    rf"|(\\begin{_ALIGNED}(?:[^\\]|\\(?!end{_ALIGNED}))*+\\end{_ALIGNED})",
    re.DOTALL,
)
_LINES = re.compile(rf"\\begin{_ALIGNED}(.*)\\end{_ALIGNED}", re.DOTALL)
_INTEGER = (
    r"(?:\d{1,2}(?:,\d\d)+,\d{3}(?![\d,]*\d)|\d{1,3}(?:,\d{3})+(?![\d,]*\d)"  # 12,34,567
    r"|\d{1,3}(?: \d{3})+(?![\d,]*\d| \d|/)|\d+)"
)
_NUMBER = (
    rf"(?:\d{{1,3}}(?:\.\d{{3}})+,\d+|(?<!\d,)\d+,\d+(?!,?\d)"  # 1.234,5 and 2,5
    rf"|{_INTEGER}(?:\.\d+)?(?:[eE][+-]?\d+(?!\w))?|\.\d+)"
)
_CLOCK = r"(?:\d{1,2}:\d\d(?::\d\d)?(?!\d)(?:\s?[AaPp]\.?[Mm]\b\.?)?|\d{1,2}\s?[AaPp]\.[Mm]\b\.?)"
_FUNCTION = (
    r"(?:(?:(?:sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
    r"|\\(?!(?:boxed|fbox)(?![A-Za-z]))[A-Za-z]+)(?:[ \t]+(?=[\d.]))?)"
)
_SCRIPT, _FRACTION = "[⁰¹²³⁴-⁹⁺⁻ⁿ₀-₉]", "[¼-¾⅐-⅞]"
_LETTER = r"[A-Za-zα-ωΓ-Ω∞ℝ](?!'[a-z]|[A-Za-z0-9])"
# "5! ways" and "4! = 24", but not "12! Great", "12!" at an end, or **12!**
FACTORIAL = r"!(?=[^\s*]|[ \t]+(?:[a-z=×·]|[-+*/][ \t]*\d))"
_OPERATOR = rf"(?:\*\*|[<>]=|[-+*/^_=<>|'×·÷±≤≥≠∪∩√∛°]|{FACTORIAL})"
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
    rf"|(?P<run>(?:(?:(?<![\w.)\]}}])[-+]|[√∛±]){{1,3}}(?=\S))?{_ATOM}(?:{_GOES_ON}{_ATOM})*+(?:{FACTORIAL}|['°|])*)"
)
_TELLING = re.compile(rf"{_VALUE}|{_LETTER}.*[+*^=<>_≤≥].*{_LETTER}", re.DOTALL)
_FORMAL = re.compile(rf"{_LETTER}|{_FUNCTION}|{_SCRIPT}|[\^√∛(\[{{]")  # more than a calculation
_SCALES = re.compile(
    rf"(?:{SCALE.pattern})*+(?:%|[ \t]+(?:factorial|squared|cubed)\b)?", re.IGNORECASE
)
_UNIT = re.compile(
    rf"(?!(?:and|or|is|so|to)\b)(?:[{LETTER_UNITS}]|[A-Za-zμ]{{2,3}}){_POWER}?(?:[/*·](?:[{LETTER_UNITS}]|[A-Za-z]{{2,3}}){_POWER}?)*"
)
_PLUS = re.compile(r"(?<=[\d.)%])\s*[+-]\s*")
_RATIO = re.compile(r"\b(?:ratio|odds)\b[^.\n]*?(\d+)\$?\s+to\s+\Z", re.IGNORECASE)
_IN_BASE = re.compile(r"([0-9A-Z]+)\$?\s+(?:in\s+|\()?base\s+\Z")

_MINUS = re.compile(  # of -$12, "negative 12" and "is minus 12", but not of "15 minus 12"
    r"(?:(?<![\w.)\]}])-\\?\$|\b(?:negative|(?:is|are|be|equals|to|get)\s+minus)\s+)\Z",
    re.IGNORECASE,
)
# Before a number that is none of the answer: "more than 5", "not 5", "half of 5".
_OTHER_THAN = re.compile(
    r"(?:不是|(?:\b|can)(?:not|never)(?:\s+be|\s+equal(?:\s+to)?)?|n't(?:\s+be)?|\bthan(?:\s+or\s+equal\s+to)?|\btwice|\b(?:half|root|instead)\s+of)\s*\\?\$?\Z",
    re.IGNORECASE,
)
_REJECTING = re.compile(
    r"\b(?:reject|discard|exclud|eliminat)\w*\s+(the\s+(?:root|solution|value)\s+)?\Z",
    re.IGNORECASE,
)
# And after one: "-5 is rejected", "7 is not enough", but not "12 do not swim", which counts them.
_FAILS = re.compile(
    r"\)?,?\s+(?:which\s+)?(?:fails\b|(?:is|was|being)\s+(?:rejected|extraneous|invalid|impossible|discarded|excluded)\b"
    r"|(?:do(?:es)?|can?|would)\s*(?:n't|not)\s+(?:work|satisfy)\b)",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\)?\s+(?:(?:is|was)\s+(?:wrong|not)\b|does\s*(?:n't|not)\b|(?:can?|would)\s*(?:n't|not)\s+be\b)",
    re.IGNORECASE,
)
_BETWEEN_TWO = re.compile(
    r"(\A|\b(?:is|are|be|was|lies?|falls?)\s+(?:[a-z]+\s+)?)?(\bbetween\s+\$?[-+]?[\d.,/]+%?\$?(?:\s+\w+)?\s+(?:and|to)\s+)\Z",
    re.IGNORECASE,
)
# 5 hours and 30 minutes, 5 ft 4 in: between the numbers, and after both
_LARGER = re.compile(
    r"\s*(?:hours?|minutes?|days?|weeks?|years?|feet|foot|pounds?|dollars?|(?:hrs?|mins?|ft|lbs?)\.?)\s+(?:and\s+)?\$?"
)
_SMALLER = re.compile(
    r"\s*(?:days?|months?|hours?|hrs?|minutes?|mins?|seconds?|secs?|inch(?:es)?|in|ounces?|oz|cents?)\b"
)
_COMPARED = re.compile(r"[\d\s.,]+[<>≤≥][\d\s.,<>≤≥=]+")
_RESULT = re.compile(
    r"(?:=\s*|\*\*|\b(?:is|are|was|were|pays|costs|makes|earns|takes|ends up|total of)\s)\\?\$?[-\d.,]+\Z"
)
# "seats in 3 blocks", "dollars for the first 5 days", "hours to read 120 pages", but not "to get 30"
_OF_DETAIL = (
    r"(?:in|for(?:[ \t]+\w+ing)?|over|during|on|at|per|with|of|after|before|than|every|each"
    r"|to[ \t]+(?!(?:get|make|find|give|have|reach|be|arrive|end|the|a|an)\b)[a-z]+)\b"
)
_WORD = rf"(?:[ \t]+(?!(?:and|or|so|but|to|total[ \t]+of|{_OF_DETAIL})\b)[A-Za-z]['\w-]*)"
_DETAILS = re.compile(
    rf"(?:{_WORD}{{0,3}}\*\*)?(?:[ \t]+more)?(?:[ \t]+\$?\d[\w.,-]*(?=[ \t]+[A-Za-z]))?{_WORD}{{0,3}}"
    rf"(?:[ \t]+{_OF_DETAIL}(?:[ \t]+(?:the|a|an|all|first|last|next|other|these|those|his|her|their)\b)*"
    rf"(?:[ \t]+\$?\d[\w.,-]*+%?)?{_WORD}{{0,3}})*+"
    r"(?:[ \t]*\((?!or\b)[^()\n]*[a-z]{2}[^()\n]*\))?(?:[.!]?\*\*)?(?:[.!]?\s*(?:\Z|\n)|[.!]\s)"
)
# Between an exact value and what it is about: "243/625, or about 38.9%"
_ABOUT = re.compile(r"(?i)\$?,?\s*\(?(?:or|which is)?\s*(?:about|approximately|roughly|≈)\s*\\?\$?")
# x of x = 3, x_1 = 3 and x < 3
_OF = re.compile(r"\s*(\\?[A-Za-z]+)(?:_\{?\w+\}?)?\s*(?:(=)|[<>≤≥]|\\(?:[lg]e|lt|gt))")
GLUE = re.compile(  # between two answers
    r"(?:[\s,;&~和或及与]|\b(?:and|or|also|as\s+well\s+as|und|oder|et|ou)\b"
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
    end = 0  # of the last formula with its unit
    for run in _RUN.finditer(text):
        content = run["run"]
        if found and text[end : run.start()].isspace() and _UNIT.fullmatch(run[0]):
            end = run.end()  # m, and s^2 after it, after 36
            continue
        if content is None or not _TELLING.search(content):
            continue
        end = run.end()
        content = plain = re.sub(r"(?<=[\d)]) x (?=[\d(.])", " * ", content)
        if "=" in content:  # 3 * 4m = 12m
            plain = re.sub(rf"(?<=\d)[{LETTER_UNITS}](?![\w^])", "", content)
        if not _FORMAL.search(plain):
            content = _PLUS.split(plain.rpartition("=")[2].strip())[-1]  # 10+6=16, or 5-3
        if re.fullmatch(rf"[\d.,]+[{LETTER_UNITS}]", content):
            content = f"{content[:-1]} {content[-1]}"
        if _MINUS.search(text[max(0, run.start() - 20) : run.start()]):
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
    ordered = sorted(spans + between)
    found = _asserted(text, ordered)
    found = _without_details(text, found)
    telling = [f for f in found if len(f.content) > 1 or f.content.isdigit()] or found
    if not telling:
        return None
    if len(telling) > 1 and re.search(r"[\\/√π]", telling[-2].content):
        exact, rounded = telling[-2:]
        if _ABOUT.fullmatch(text, exact.end, rounded.start):
            return rf"{exact.content} \approx {rounded.content}"
    lower = _BETWEEN_TWO.search(text, telling[-1].start - 80, telling[-1].start)
    if lower and lower[1] is not None:
        return lower[2] + telling[-1].content
    if lower and len(telling) > 2:  # 7 primes between 2 and 18
        del telling[-2:]
    first = last = telling[-1]
    for before in telling[-2::-1]:
        if not _is_one_list(text, before, first, ends):
            break
        first = before
    if first is not last:
        return text[first.start : last.end]
    if len(telling) > 1 and (end := one_quantity(text, telling[-2], last)):
        return text[telling[-2].start : end]
    before_it = text[max(0, last.start - 80) : last.start]
    ratio = _RATIO.search(before_it)
    if ratio and last.content.isdigit():
        return f"{ratio[1]}:{last.content}"
    base = _IN_BASE.search(before_it)
    if base and last.content.isdigit():
        return f"{base[1]}_{last.content}"
    return last.content + scale_after(text, last.end)


def _asserted(text: str, formulas: list[Formula]) -> list[Formula]:
    """The formulas but for those that are said to be wrong, and what they repeat."""
    wrong: set[Formula] = set()
    until: dict[str, int] = {}  # of what is wrong, where it was said so
    for f in formulas:
        verb, plain = _REJECTING.search(text, f.start - 30, f.start), f.content.replace(" ", "")
        if _FAILS.match(text, f.end) or (verb and (verb[1] or "=" in plain or plain[:1] == "-")):
            until |= {plain: f.end, plain.rpartition("=")[2]: f.end}
        elif _DENIED.match(text, f.end):
            wrong.add(f)
            until |= {plain: f.end} if "=" in plain else {}
    return [
        f
        for f in formulas
        if ("=" in text[f.start : f.end] or not _OTHER_THAN.search(text, f.start - 30, f.start))
        and f not in wrong
        and f.end > until.get(f.content.replace(" ", ""), 0)
        and f.end > until.get(f.content.rpartition("=")[2].strip(), 0)
        and not _COMPARED.fullmatch(f.content)
    ]


def _without_details(text: str, found: list[Formula]) -> list[Formula]:
    """The formulas but for numbers after a result that only say more of it: 3*4=12 in 5 days."""
    for at in range(len(found))[:-4:-1]:
        one = found[at]
        if _RESULT.search(text[max(0, one.start - 12) : one.end]) and one.content[-1:].isdigit():
            details = _DETAILS.match(text, one.end)
            return found[: at + 1] if details and details.end() > found[-1].start else found
    return found


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
    content = next(part for part in span.groups() if part is not None).strip()
    if aligned := _LINES.fullmatch(content):  # of a derivation the last line
        *earlier, content = [line for line in aligned[1].split(r"\\") if line.strip()] or [""]
        while earlier and content.count(r"\begin") < content.count(r"\end"):  # rows of a matrix
            content = rf"{earlier.pop()}\\{content}"
        content = re.sub(r"&\s*(?==)" if r"\begin" in content else "&", "", content).strip()
    return Formula(span.start(), span.end(), content)


def _is_one_list(text: str, one: Formula, next_one: Formula, ends: set[int]) -> bool:
    """Whether two formulas list values of one thing; outside of dollars it must be named before both."""
    of, next_of = (
        found.groups() if (found := _OF.match(f.content)) else "" for f in (one, next_one)
    )
    between = text[one.end : next_one.start]
    of_one = of == next_of != "" or (not next_of and {one.end, next_one.end} <= ends)
    return of_one and "\n" not in between and is_glue(between)


def _is_unit_after(run: Formula, text: str, ends: set[int]) -> bool:
    start = len(text[: run.start].rstrip(" \t"))
    return start in ends and _UNIT.fullmatch(run.content) is not None
