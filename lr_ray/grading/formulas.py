r"""Where formulas stand in prose: between dollars, or as a run of numbers, letters and operators.

pytest tests/unit/grading/test_kinds.py
"""

import re
from typing import NamedTuple

# A dollar before a digit may be money: a formula has no space before its last dollar unless one after
# its first, and no digit after its last, so that "$12 and $15" holds none.
_BETWEEN = re.compile(
    r"\$\$((?:[^$\\]|\\.)+)\$\$"
    r"|(?<!\\)\$(\s(?:[^$\\]|\\.)+|(?:[^$\\]|\\.)*(?:[^$\\\s]|\\\S))\$(?!\d)"
    r"|\\\(((?:[^\\]|\\[^()\[\]])+)\\\)"
    r"|\\\[((?:[^\\]|\\[^()\[\]])+)\\\]",
    re.DOTALL,
)
_NUMBER = r"(?:(?:\d{1,3}(?:,\d{3})+(?![\d,]*\d)|\d+)(?:\.\d+)?(?:[eE][+-]?\d+(?!\w))?|\.\d+)"
_POWER = r"(?:\^\{?-?\d\}?|[²³])"
_TOKEN = re.compile(
    r"(?P<clock>\d{1,2}:\d\d(?::\d\d)?(?!\d)(?:\s?[AaPp]\.?[Mm]\b\.?)?"
    r"|\d{1,2}\s?[AaPp]\.[Mm]\b\.?)"
    rf"|(?P<number>{_NUMBER}(?:\s?\\?%)?)"
    r"|(?P<function>(?:sqrt|(?:arc)?(?:sin|cos|tan)h?|cot|sec|csc|log|ln|exp|pi)(?![A-Za-z])"
    r"|\\(?!(?:boxed|fbox)(?![A-Za-z]))[A-Za-z]+)"
    rf"|(?P<word>(?:USD|EUR|GBP|Rs|RM)(?=\d)|[A-Za-z]+\d[A-Za-z0-9]*"
    rf"|[A-Za-z]{{2,}}{_POWER}?(?:/[A-Za-z]+{_POWER}?)?)"
    r"|(?P<letter>[A-Za-zα-ωΓ-Ω∞ℝ](?!'[a-z]))"
    r"|(?P<script>[⁰¹²³⁴-⁹⁺⁻ⁿ₀-₉]+)|(?P<fraction>[¼-¾⅐-⅞])"
    r"|(?P<operator>\*\*|[-+*/^_=<>:|'×·÷±≤≥≠∪∩√∛°]|!(?![\s*]|\Z))"
    r"|(?P<open>\\?[(\[{])|(?P<close>\\?[)\]}])"
    r"|(?P<comma>,)|(?P<space>[ \t]+)|(?P<stop>.)",
    re.DOTALL,
)
_OPERANDS = ("clock", "number", "function", "letter", "script", "fraction")
_VALUES = ("clock", "number", "function", "script", "fraction")
_SCALE = re.compile(
    r"[ \t]*(?:\s?(?:hundred|thousand|million|billion|trillion|dozen)(?![A-Za-z])|[十百千万亿]|%)+",
    re.IGNORECASE,
)
_UNIT_LETTERS = "mgshlLJNWVKCFAT"
_UNIT = re.compile(
    rf"(?:[{_UNIT_LETTERS}]|[A-Za-zμ]{{2,3}}){_POWER}?(?:[/*·](?:[{_UNIT_LETTERS}]|[A-Za-z]{{2,3}}){_POWER}?)*"
)
_PLUS = re.compile(r"(?<=[\d.)%])\s*[+-]\s*")
_RATIO = re.compile(r"\b(?:ratio|odds)\b[^.\n]*?(\d+)\$?\s+to\s+\Z", re.IGNORECASE)
_IN_BASE = re.compile(r"([0-9A-Z]+)\s+(?:in\s+|\()?base\s+\Z")


class Formula(NamedTuple):
    """Where it stands (with its dollars), and what it is (without)."""

    start: int
    end: int
    content: str


class _Token(NamedTuple):
    kind: str
    text: str
    start: int
    end: int


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
    found, current, level = list[Formula](), list[_Token](), 0
    tokens = [_Token(m.lastgroup or "", m[0], m.start(), m.end()) for m in _TOKEN.finditer(text)]
    tokens += [_Token("stop", "", len(text), len(text))] * 3
    for i, token in enumerate(tokens[:-2]):
        if current and _continues(current, token, tokens[i + 1], tokens[i + 2], level):
            current.append(token)
            level += (token.kind == "open") - (token.kind == "close")
            continue
        if current:
            found += _run(current, text, found)
            current, level = [], 0
        if token.kind in _OPERANDS or token.kind == "open" or _is_sign(token, text):
            current, level = [token], int(token.kind == "open")
    return found


def last_formula(text: str) -> str | None:
    """The last whole formula of a text, with the scale after it ("5 million"), or None."""
    spans = between_dollars(text)
    outside = list(text)
    for span in spans:
        outside[span.start : span.end] = "\n" * (span.end - span.start)
    ends = {span.end for span in spans}
    between = [f for f in runs("".join(outside)) if not _is_unit_after(f, text, ends)]
    found = sorted(spans + between)
    telling = [f for f in found if len(f.content) > 1 or f.content.isdigit()] or found
    if not telling:
        return None
    last = telling[-1]
    ratio = _RATIO.search(text[max(0, last.start - 80) : last.start])
    if ratio and last.content.isdigit():
        return f"{ratio[1]}:{last.content}"
    base = _IN_BASE.search(text[max(0, last.start - 80) : last.start])
    if base and last.content.isdigit():
        return f"{base[1]}_{last.content}"
    return last.content + scale_after(text, last.end)


def scale_after(text: str, end: int) -> str:
    """The words of scale that follow at `end`, such as " million", or nothing."""
    scale = _SCALE.match(text, end)
    return scale[0] if scale else ""


def _formula(span: re.Match[str]) -> Formula:
    content = next(part for part in span.groups() if part is not None)
    return Formula(span.start(), span.end(), content.strip())


def _continues(
    current: list[_Token], token: _Token, after: _Token, second: _Token, level: int
) -> bool:
    """Whether the run goes on with `token`, which `after` and `second` follow."""
    before = current[-1]
    if token.kind in ("word", "stop"):
        return False
    if token.kind == "comma":
        return level > 0
    if token.kind == "close":
        return level > 0
    if token.kind != "space" or level > 0:
        return True
    if before.text == ":" and current[-2:-1] and current[-2].kind != "space":  # step 1: 14
        return False
    if (after.kind == "operator" and second.kind == "space") or before.kind == "operator":
        return after.kind not in ("word", "stop", "space")
    if (before.text == "x" or before.text[0] == "\\") and after.kind == "number":
        return True
    if before.kind not in ("number", "fraction"):
        return False
    if (after.text == "x" and second.kind == "space") or (
        after.kind == "number" and second.text == "/"
    ):
        return True  # 2.5 x 10^-3, 2 1/2
    return after.kind in ("function", "fraction") or after.text in ("√", *"xyzαβθπ")


def _is_sign(token: _Token, text: str) -> bool:
    if token.text in ("√", "∛", "±"):
        return True
    before = text[token.start - 1 : token.start]
    after = text[token.end : token.end + 1]
    return (
        token.text in ("-", "+")
        and not after.isspace()
        and not re.match(r"[\w.)\]}]", before or " ")
    )


def _run(tokens: list[_Token], text: str, before: list[Formula]) -> list[Formula]:
    """The formula that the tokens are, if they are one."""
    tokens = tokens[_first(tokens) : _end(tokens)]
    if sum((t.kind == "open") - (t.kind == "close") for t in tokens) > 0:
        # Only what stands after the last bracket that never closes is whole.
        at = max(i for i, t in enumerate(tokens) if t.kind == "open")
        tokens = tokens[at + 1 :]
    letters = sum(t.kind == "letter" for t in tokens)
    joined = any(t.text in ("+", "*", "^", "=", "<", ">", "_", "≤", "≥") for t in tokens)
    if not any(t.kind in _VALUES for t in tokens) and not (letters > 1 and joined):
        return []
    start, end = tokens[0].start, tokens[-1].end
    content = text[start:end]
    if before and _UNIT.fullmatch(content) and text[before[-1].end : start].isspace():
        return []  # m^2 after 36
    if not any(t.kind in ("letter", "function", "script") or t.text in "^√∛([{" for t in tokens):
        content = _PLUS.split(content.rpartition("=")[2].strip())[-1]  # 10+6=16, or 5-3
    if re.fullmatch(rf"[\d.,]+[{_UNIT_LETTERS}]", content):
        content = f"{content[:-1]} {content[-1]}"
    if re.search(r"(?<![\w.)\]}])-\\?\$\Z", text[max(0, start - 4) : start]):  # -$12
        content = f"-{content}"
    return [Formula(start, end, content)] if content else []


def _end(tokens: list[_Token]) -> int:
    """Where the run ends, without operators that nothing follows."""
    end = len(tokens)
    while end and tokens[end - 1].kind in ("operator", "open", "space", "comma"):
        if tokens[end - 1].text in ("!", "'", "°", "|"):
            break
        end -= 1
    return end


def _first(tokens: list[_Token]) -> int:
    """Where the run begins, without brackets that never close."""
    opened = sum((t.kind == "open") - (t.kind == "close") for t in tokens[: _end(tokens)])
    first = 0
    while opened > 0 and first < len(tokens) and tokens[first].kind in ("open", "space"):
        opened -= tokens[first].kind == "open"
        first += 1
    return first


def _is_unit_after(run: Formula, text: str, ends: set[int]) -> bool:
    start = run.start
    while start and text[start - 1] in " \t":
        start -= 1
    return start in ends and _UNIT.fullmatch(run.content) is not None
