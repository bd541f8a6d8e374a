r"""One way of writing for what LaTeX and models write in many, and where a formula comes apart.

The rewriting does what `strip_string` of the Qwen2.5-Math evaluation toolkit does (evaluation/parser.py),
but drops nothing that could be part of the answer: units and "x =" are left to `comparison`.
pytest tests/unit/grading/test_judging.py
"""

import re
from functools import lru_cache

from lr_ray.grading.characters import clean, latexed

_DEGREE = "\x04"
WORDS = "\x02", "\x03"  # around what stood in \text{}: words, not variables

# Commands that only change the look, and commands that mean the same as another.
_LOOKS = """
    left right middle big Big bigg Bigg bigl bigr Bigl Bigr tiny scriptsize footnotesize small
    normalsize large Large LARGE huge Huge bf it displaystyle textstyle scriptstyle limits nolimits
    quad qquad enspace thinspace notag nonumber hfill checkmark blacksquare qed square
"""
_SAME = {
    r"\frac": "dfrac tfrac cfrac sfrac nicefrac", r"\le ": "leq leqslant leqq", r"\ge ": "geq geqslant geqq",
    r"\ne ": "neq", "<": "lt", ">": "gt", ":": "colon", "|": "mid", "/": "div", r"\{": "lbrace",
    r"\}": "rbrace", r"\emptyset ": "varnothing", r"\mathbb{R}": "R", "'": "prime", r"\log_{10}": "lg",
    "^": "textsuperscript", "€": "euro", "£": "pounds", "¥": "yen", " cents ": "cent cents textcent",
}  # fmt: skip
_RENAMED = {name: command for command, names in _SAME.items() for name in names.split()}
_RENAMED |= dict.fromkeys(_LOOKS.split(), " ")
_WRAPPERS = (
    "boxed|fbox|underline|substack|ensuremath|bm|mathbf|boldsymbol|vec|mathit|operatorname|emph|textbf|"
    "overbrace|underbrace"
)
_NESTED = r"(?:[^{}]|\{[^{}]*\})*"  # what stands in braces, with braces of its own
_ROUND = r"\(((?:[^()]++|\((?:[^()]++|\([^()]*+\))*+\))*+)\)"  # in round brackets, likewise
_ENVIRONMENT = r"\s*\{(?:[bB]?matrix|smallmatrix|array)\}"
_CURRENCY = r"(?:USD?|EUR|GBP|CNY|RMB|INR|[£€¥₹]|Rs\.?)"
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        # markdown, HTML, and what only changes the look
        (r"^([*_]{1,3})([^*_]+)\1$", r"\2"),
        (r"(?<![\w)}*])(\*\*|__|`)([^*`]+)\1(?![\w(*])", r"\2"),
        (r"</?(?:b|i|u|em|strong|sup)>|\\\\\s*$", ""),
        (r"\\(?:text|f)?colou?r(?:box)?\s*(?:\[\w+\])?\s*\{[^{}]*\}", ""),
        (r"\\(?:[hv]space|[hv]?phantom|tag)\*?\s*\{[^{}]*\}|(?<!\\)\\[,;: ]|~", " "),
        *[(rf"\\(?:{_WRAPPERS})\s*\{{({_NESTED})\}}", r"\1")] * 2,  # one may hold another
        (r"\\(?:mathbf|boldsymbol|bm|vec)\s+([A-Za-z0-9])(?![A-Za-z])", r"\1"),
        (r"\\begin\s*\{array\}\s*\{[clr|]*\}([^&\\]*)\\end\s*\{array\}", r"\1"),
        (r"\\\$|\$|\\!\s*|(?<!\\)\\[()\[\]]", ""),
        (r"\{,\}", ","),
        (r"<=", r"\\le "),
        (r">=", r"\\ge "),
        # words, and degrees, which count in a sine and are a unit elsewhere
        (rf"\\(?:text(?:rm|it|sf|tt|normal)?|[mh]box|math(?:rm|sf|tt)|rm)\s*\{{({_NESTED})\}}",
         "\x02\\1\x03"),
        (r"(?<=[\d)}\]])(?:\s*[或和与及]\s*|\s+(?:und|oder|et|ou)\s+)(?=[-\w({\[\\])", ", "),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))", _DEGREE),
        (r"\^\s*\{?\s*\x02?\s*(st|nd|rd|th)\s*\x03?\s*\}?(?![A-Za-z])", r"\1"),
        (r"\\([%&])", r"\1"),
        (rf"\x02?\s*{_CURRENCY}\s*\x03?\s*(?=\.?\d)|^[£€¥₹]\s*(?=-)", ""),
        (r"(?<=[\d}])\s*\x02?\s*[£€¥₹]\s*\x03?", " "),
        # sets, matrices, numerals, and as programs write
        (r"\\\{\s*\\\}", r"\\emptyset "),
        (r"\\mathbb\s*\{?\s*R\s*\}?", r"(-\\infty,\\infty)"),
        (rf"\\begin{_ENVIRONMENT}(?:\s*\{{[lcr|\s]*\}})?", r"\\begin{pmatrix}"),
        (rf"\\end{_ENVIRONMENT}", r"\\end{pmatrix}"),
        (r"\\overline\s*\{(\w+)\}(?=\s*_)", r"\1"),
        (r"(?<![A-Za-z\\])np\.(?=[a-z])", ""),
        (r"(?<![A-Za-z\\])(?=(?:(?:(?:arc)?(?:sin|cos|tan|cot|sec|csc)h?|log|ln)(?![A-Za-z]|\s*\.?\s*(?:\x03|$))"
         r"|pi(?![A-Za-z])))", r"\\"),
        (rf"(?:\\|(?<![A-Za-z]))sqrt\s*{_ROUND}", r"\\sqrt{\1}"),
        (r"(?<![A-Za-z\\])sqrt\s*(\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z]))", r"\\sqrt{\1}"),
        (r"\\log_\s*(\d)", r"\\log_{\1}"),
        (r"\\log_\s*\{?\s*e(?![A-Za-z])\s*\}?", r"\\ln "),
        (r"(?<=[\d.])\\dot\s*\{?(\d)\}?", r"\\overline{\1}"),
        (r"(?<=\d)(\s*\x02?\s*[ap])\.\s?m\b\.?", r"\1m"),
        (r"\*\*", "^"),
        (rf"\^\s*{_ROUND}", r"^{\1}"),
        (r"(?<![\w}])\.(?=\d)", "0."),
        (r"^\s*\x02?\s*(?:minus|negative)\s+\x03?\s*(?=[\d\\])", "-"),
        (r"(\d)\s+\x02?\s*factorial\s*\x03?", r"\1!"),
        (r"\b(hours?|feet|foot|ft|pounds?|dollars?)\s*(\x03?)\s*\x02?and\b\s*\x03?\s*(?=\d+\s*\x02?\s*(?:minutes?|inch(?:es)?|in|ounces?|cents?)\b)",
         r"\1\2 "),
        (r"(\d)\s+\x02?\s*squared\s*\x03?$", r"\1^2"),
        (r"^(-?[\d.,/]+)\s*=\s*(\\?[A-Za-z])$", r"\2=\1"),
        (r"(?<=\d) x (?=\d)", r"\\times "),
        (r"([A-Za-z])\s+\x02?\s*squared\b\s*\x03?", r"\1^2"),
        (r"([A-Za-z])\s+\x02?\s*cubed\b\s*\x03?", r"\1^3"),
        (r"(\d)\s+\x02?\s*cubed\s*\x03?$", r"\1^3"),
        # braces that TeX lets one leave out, or add
        (r"\\frac\s*([A-Za-z0-9]|\\pi(?![A-Za-z]))(?=\s*[A-Za-z0-9{])", r"\\frac{\1}"),
        (rf"(\\frac\s*\{{(?:[^{{}}]++|\{{{_NESTED}\}})*+\}})\s*([A-Za-z0-9])", r"\1{\2}"),
        (r"\\frac\s*\{([^{}]*)\}\s*\{", r"\\frac{\1}{"),
        (r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
        (r"^([+-]?)\s*\(\s*(\\frac\{\s*\d+\s*\}\{\s*\d+\s*\})\s*\)$", r"\1\2"),
        (r"\\(sqrt|pmod)\s*([A-Za-z0-9])", r"\\\1{\2}"),
        (r"(?<![\\A-Za-z])([A-Za-z])\{\(([^{}()]*)\)\}", r"\1(\2)"),
        (r"\s+", " "),
    )
]  # fmt: skip
_LAST_SPACE = re.compile(r"(?<!\\)\\$")  # of "\\ 5\\ ", whose last space is trimmed
# 12 345.6 and 3.141 592, but not the mixed number 1 234/567.
_GROUPED = re.compile(
    r"(?<![\d.,])(?:\d+|\d{1,3}(?: \d{3})+)\.(?:\d{3} )+\d{1,3}(?![\d.,]*\d| \d|/)"
    r"|(?<![\d.,])\d{1,3}(?:(?: \d{3}){2,}(?:\.\d+)?(?![\d.,]*\d| \d)| \d{3}(?:\.\d+)?(?![\d.,]*\d| \d|/))"
)
_COMMAND = re.compile(r"\\([A-Za-z]+)")
_SPACED = re.compile(r"\\mathbf\s*\{([-\d .,]+)\}")  # 12 of OlympiadBench's solutions: \mathbf{1 2}
_SYSTEM = re.compile(r"\\\{\s*\\begin\s*\{array\}\s*\{[lcr]*\}(.*?)\\end\s*\{array\}", re.DOTALL)
_ALIGNED = re.compile(
    r"\\begin\s*\{((?:aligned|align|gathered|gather|split|eqnarray|equation|multline|cases)\*?)\}(.*?)\\end\s*\{\1\}",
    re.DOTALL,
)
_TRIGONOMETRIC = re.compile(r"\\?(?<![A-Za-z])(?:arc)?(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_ANGLE = re.compile(
    rf"(\d+(?:\.\d+)?(?:/\d+)?|\\frac\{{[^{{}}]*\}}\{{[^{{}}]*\}}|\([^()]*\)|\\[a-z]+|[A-Za-z])"
    rf"\s*(?:{_DEGREE}|\x02?\s*deg(?:ree)?s?\s*\x03?(?![a-z]))"
)
# What is said of the answer before it, and after it: \text{So the answer is } 5, 5 \text{ (since } x > 0).
_LEADING = re.compile(
    r"^(?:\\(?:approx|therefore|Rightarrow|implies)(?![A-Za-z])|[=:]|(?:\x02?\s*(?:so|thus|therefore|hence),?\s+)?\x02?\s*"
    r"(?:(?:the|our|my|final|correct)\s+)*(?:answer|ans\b)\s*\.?(?:[\s\x03:=]|is\b)*"
    # \text{Thus, }, \text{Domain: }, or the choice before its text
    r"|\x02\s*(?:(?:so|thus|therefore|hence)\b[\s,:]*)?\x03|\x02[A-Za-z ]{3,40}(?::|\bis|\bare)\s*\x03"
    r"|\x02?\s*\([A-E]\)\s*\x03?\s*(?=[-\d]))\s*",
    re.IGNORECASE,
)
_REMARK = re.compile(
    r"[\s,;]*(?:\x02\s*[(\[]?|[(\[]\s*\x02?)\s*(?:since|because|as|where|using|by|rounded|approx\w*|"
    r"to the nearest|for (?:all|any|every|each)|so|note|i\.e\.?)\b.*$",
    re.IGNORECASE | re.DOTALL,
)
_REPEATING = re.compile(r"(\d{1,20})\.(\d{0,20})\\overline\s*(?:\{(\d{1,20})\}|(\d))")
_TOKEN = re.compile(r"\\(?:begin|end)\s*\{[a-z*]*\}|\\[A-Za-z]+|\\.|\w+|.", re.DOTALL)
_OPENING, _CLOSING = ("(", "[", "{", r"\{", r"\langle"), (")", "]", "}", r"\}", r"\rangle")


@lru_cache(maxsize=4096)
def tidy(text: str) -> str:
    r"""The answer in one way of writing; words of \text{} stay between the marks of WORDS."""
    text = latexed(clean(text)).strip()
    text = _SPACED.sub(lambda bold: bold[1].replace(" ", ""), text)
    text = _SYSTEM.sub(r" \\begin{cases}\1\\end{cases}", text)
    text = _ALIGNED.sub(lambda block: _lines(block[2]), text)
    text = _COMMAND.sub(lambda c: _RENAMED.get(c[1], c[0]), _LAST_SPACE.sub("", text))
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = _GROUPED.sub(lambda digits: digits[0].replace(" ", ""), text)
    if _TRIGONOMETRIC.search(text):
        text = _ANGLE.sub(r"(\\frac{\1\\pi}{180})", text)
    text = _REPEATING.sub(_fraction, text.replace(_DEGREE, " "))
    text = _LEADING.sub("", text.strip())
    text = (_REMARK.sub("", text) or text).strip(" .,;:。")
    while text.startswith("{") and _closes(text) == len(text) and len(split(text[1:-1])) == 1:
        text = text[1:-1].strip(" .,;:。")
    return text


def key(text: str) -> str:
    """What two ways of writing a tidied answer share: no marks, no braces of one sign, and no spaces but
    between digits, where one makes other numbers: 1 1/2 is not 11/2."""
    text = re.sub(r"(?<=\d)(\s)\s*(?=\d)|\s+", r"\1", re.sub(r"[\x02\x03]", "", text))
    return re.sub(r"([_^])\{(\w)\}", r"\1\2", text).removeprefix("+")


def unmarked(text: str) -> str:
    """A tidied text without the marks of WORDS."""
    return re.sub("[\x02\x03]", "", text).strip()


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


def _lines(text: str) -> str:
    """The lines of an aligned block in one: a chain where each goes on with =, else a list."""
    lines = [line.replace("&", "").strip() for line in re.split(r"\\\\(?:\[[^\]]*\])?", text)]
    lines = [line for line in lines if line]
    chain = all(line.startswith("=") for line in lines[1:])
    return " ".join(lines) if chain else ", ".join(lines)


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
