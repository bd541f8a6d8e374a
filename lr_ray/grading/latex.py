r"""One way of writing for what LaTeX and models write in many, and where a formula comes apart.

The rewriting does what `strip_string` of the Qwen2.5-Math evaluation toolkit does (evaluation/parser.py),
but drops nothing that could be part of the answer: units and "x =" are left to `comparison`.
pytest tests/unit/grading/test_judging.py
"""

import re
from functools import lru_cache

WORDS = "\x02", "\x03"  # around what stood in \text{}: words, not variables

_CHARACTERS = str.maketrans(
    {
        "\N{MINUS SIGN}": "-", "\N{EN DASH}": "-", "\N{MULTIPLICATION SIGN}": r"\times ",
        "\N{MIDDLE DOT}": r"\cdot ", "\N{DOT OPERATOR}": r"\cdot ", "\N{DIVISION SIGN}": "/",
        "\N{GREEK SMALL LETTER PI}": r"\pi ", "\N{INFINITY}": r"\infty ",
        "\N{LESS-THAN OR EQUAL TO}": r"\le ",
        "\N{GREATER-THAN OR EQUAL TO}": r"\ge ", "\N{NOT EQUAL TO}": r"\ne ", "\N{PLUS-MINUS SIGN}": r"\pm ",
        "\N{DEGREE SIGN}": r"^\circ ", "\N{UNION}": r"\cup ", "\N{ELEMENT OF}": r"\in ",
        "\N{EMPTY SET}": r"\emptyset ", "\N{ALMOST EQUAL TO}": r"\approx ", "\N{SUPERSCRIPT TWO}": "^2",
        "\N{SUPERSCRIPT THREE}": "^3", "\N{VULGAR FRACTION ONE HALF}": r"\frac{1}{2}",
        "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{NO-BREAK SPACE}": " ", "\N{FULLWIDTH PERCENT SIGN}": "%",
        "\N{FULLWIDTH COMMA}": ",", "\N{FULLWIDTH LEFT PARENTHESIS}": "(",
        "\N{FULLWIDTH RIGHT PARENTHESIS}": ")",
    }
)  # fmt: skip
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$|\$|\\!\s*", ""),
        (r"(?<!\\)\\[()]", ""),
        (r"\{,\}", ","),
        (r"\\(?:displaystyle|textstyle|limits|quad|qquad)(?![A-Za-z])|(?<!\\)\\[,;: ]|~", " "),
        (r"\\(?:left|right)\s*\.|\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])", ""),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\leq?(?:slant)?(?![A-Za-z])|<=|=<", r"\\le "),
        (r"\\geq?(?:slant)?(?![A-Za-z])|>=", r"\\ge "),
        (r"\\neq?(?![A-Za-z])|!=", r"\\ne "),
        (r"\\lt(?![A-Za-z])", "<"),
        (r"\\gt(?![A-Za-z])", ">"),
        (r"\\(?:text(?:rm|bf|it|sf|normal)?|mbox|mathrm|hbox|rm)\s*\{([^{}]*)\}", "\x02\\1\x03"),
        (r"\\(?:mathbf|boldsymbol|vec|mathit|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", " "),
        (r"\^\s*(?:\{\s*\\prime\s*\}|\\prime(?![A-Za-z]))", "'"),
        (r"\\%", "%"),
        (r"\\lbrace(?![A-Za-z])", r"\\{"),
        (r"\\rbrace(?![A-Za-z])", r"\\}"),
        (r"\\(?:varnothing|emptyset)(?![A-Za-z])|\\\{\s*\\\}", r"\\emptyset "),
        (r"\\mathbb\s*\{?\s*R\s*\}?|\\R(?![A-Za-z])", r"(-\\infty,\\infty)"),
        (r"(?<![A-Za-z\\])(?:infinity|inf|oo)(?![A-Za-z])", r"\\infty "),
        (r"\\begin\s*\{(?:[bB]?matrix|smallmatrix|array)\}(?:\s*\{[lcr|\s]*\})?", r"\\begin{pmatrix}"),
        (r"\\end\s*\{(?:[bB]?matrix|smallmatrix|array)\}", r"\\end{pmatrix}"),
        (r"\bnp\.(?=[a-z])|\bmath\.(?=[a-z])", r"\\"),
        (r"\*\*", "^"),
        (r"(?<![\w}])\.(?=\d)", "0."),
        (r"\\frac\s*([A-Za-z0-9])(?=\s*[A-Za-z0-9{])", r"\\frac{\1}"),
        (r"(\\frac\s*\{[^{}]*\})\s*([A-Za-z0-9])", r"\1{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*\{", r"\\frac{\1}{"),
        (r"\\sqrt\s*([A-Za-z0-9])", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])([A-Za-z])\{\(([^{}()]*)\)\}", r"\1(\2)"),
        (r"\{([^{}]*)\\choose([^{}]*)\}", r"\\binom{\1}{\2}"),
        (r"\s+", " "),
    )
]  # fmt: skip
_LEADING = re.compile(r"^(?:\\approx(?![A-Za-z])|approximately |about |=|:)\s*", re.IGNORECASE)
_REPEATING = re.compile(r"(\d{1,20})\.(\d{0,20})\\overline\s*(?:\{(\d{1,20})\}|(\d))")
_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[a-z*]*\}|\\[A-Za-z]+|\\.|\w+|.", re.DOTALL)
_OPENING, _CLOSING = ("(", "[", "{", r"\{", r"\langle"), (")", "]", "}", r"\}", r"\rangle")


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    r"""The answer in one way of writing; words of \text{} stay between the marks of WORDS."""
    text = text.strip().translate(_CHARACTERS)
    wrapped = re.fullmatch(r"\\\[(.*)\\\]", text, re.DOTALL)
    text = wrapped[1] if wrapped else text
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _REPEATING.sub(_fraction, text)
    text = _LEADING.sub("", text.strip()).strip(" .,;:")
    while text.startswith("{") and _closes(text) == len(text) and len(split(text[1:-1])) == 1:
        text = text[1:-1].strip()
    return text


def key(text: str) -> str:
    """What two ways of writing a tidied answer share: no spaces, no marks, no braces of one sign."""
    text = re.sub(r"[\s\x02\x03]", "", text)
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text).removeprefix("+")


def depth(text: str) -> int:
    """The deepest nesting of brackets and braces; one that never closes counts."""
    deepest = now = 0
    for mark in re.finditer(r"[(\[{]|[)\]}]", text):
        now += 1 if mark[0] in "([{" else -1
        deepest = max(deepest, now)
    return deepest


def split(text: str, separators: tuple[str, ...] = (",", ";")) -> list[str]:
    """The parts between separators that stand outside all brackets and environments."""
    parts, level, start = [], 0, 0
    for token in _TOKEN.finditer(text):
        if level <= 0 and token[0] in separators:
            parts.append(text[start : token.start()].strip())
            start = token.end()
        level += _step(token[0])
    return [*parts, text[start:].strip()]


def bracketed(text: str) -> tuple[str, str, str] | None:
    r"""(opening, content, closing) when one pair of (, [, {, \{ or \langle holds the whole text.

    The two may differ, as in the interval (3, 4].
    """
    opening = next((o for o in (r"\langle", r"\{", "(", "[", "{") if text.startswith(o)), None)
    if opening is None or _closes(text) != len(text):
        return None
    closing = next((c for c in (r"\rangle", r"\}", ")", "]", "}") if text.endswith(c)), "")
    return opening, text[len(opening) : len(text) - len(closing)].strip(), closing


def matrix(text: str) -> list[list[str]] | None:
    """Entries of a text that is one matrix, a list per row."""
    found = re.fullmatch(r"\\begin\{pmatrix\}(.*)\\end\{pmatrix\}", text.strip(), re.DOTALL)
    if found is None or r"\begin" in found[1]:
        return None
    rows = [row.strip() for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[1])]
    return [[entry.strip() for entry in row.split("&")] for row in rows if row]


def _fraction(repeating: re.Match[str]) -> str:
    r"""0.1\overline{6} as \frac{15}{90}."""
    whole, fixed, block = repeating[1], repeating[2], repeating[3] or repeating[4]
    over = int(whole + fixed + block) - int(whole + fixed)
    return rf"\frac{{{over}}}{{{(10 ** len(block) - 1) * 10 ** len(fixed)}}}"


def _closes(text: str) -> int:
    """Where the bracket that text begins with closes, or 0."""
    level = 0
    for token in _TOKEN.finditer(text):
        level += _step(token[0])
        if level <= 0:
            return token.end()
    return 0


def _step(token: str) -> int:
    if token in _OPENING or token.startswith(r"\begin"):
        return 1
    return -1 if token in _CLOSING or token.startswith(r"\end") else 0
