r"""One character for what Unicode has many of, and LaTeX for what only Unicode writes.

`clean` changes no meaning and comes before anything is read; `latexed` turns unicode mathematics into
LaTeX, as the reader of formulas knows nothing else.
pytest tests/unit/grading/test_kinds.py
"""

import re
import unicodedata
from functools import lru_cache

_PLAIN = {
    "\N{HYPHEN}": "-", "\N{NON-BREAKING HYPHEN}": "-", "\N{FIGURE DASH}": "-", "\N{EN DASH}": "-",
    "\N{MINUS SIGN}": "-", "\N{SMALL HYPHEN-MINUS}": "-", "\N{SUPERSCRIPT MINUS}": "\N{SUPERSCRIPT MINUS}",
    "\N{RATIO}": ":", "\N{FRACTION SLASH}": "/", "\N{DIVISION SLASH}": "/", "\N{DIVISION SIGN}": "/",
    "\N{ASTERISK OPERATOR}": "*", "\N{RIGHT SINGLE QUOTATION MARK}": "'", "\N{PRIME}": "'",
    "\N{LEFT SINGLE QUOTATION MARK}": "'", "\N{LEFT DOUBLE QUOTATION MARK}": '"',
    "\N{RIGHT DOUBLE QUOTATION MARK}": '"', "\N{IDEOGRAPHIC COMMA}": ",", "\N{DIVIDES}": "|",
    "\N{MASCULINE ORDINAL INDICATOR}": "\N{DEGREE SIGN}", "\N{RING OPERATOR}": "\N{DEGREE SIGN}",
    "\N{MICRO SIGN}": "\N{GREEK SMALL LETTER MU}", "\N{OHM SIGN}": "\N{GREEK CAPITAL LETTER OMEGA}",
    "\N{LEFT BLACK LENTICULAR BRACKET}": " ", "\N{RIGHT BLACK LENTICULAR BRACKET}": " ",
    "\N{PLANCK CONSTANT}": "h", "\N{SCRIPT SMALL L}": "l", "\N{N-ARY UNION}": "\N{UNION}",
}  # fmt: skip
_OPERATORS = {
    "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ",
    "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≦": r"\le ",
    "≧": r"\ge ", "≠": r"\ne ", "±": r"\pm ", "∓": r"\mp ", "≈": r"\approx ", "∼": r"\sim ",
    "≡": r"\equiv ", "°": r"^\circ ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "∉": r"\notin ",
    "⊂": r"\subset ", "⊆": r"\subseteq ", "⊃": r"\supset ", "⊇": r"\supseteq ", "∅": r"\emptyset ",
    "∖": r"\setminus ", "∧": r"\land ", "∨": r"\lor ", "¬": r"\neg ", "→": r"\to ",
    "⇒": r"\Rightarrow ", "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ",
    "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ", "⌉": r"\rceil ", "⟨": r"\langle ",
    "⟩": r"\rangle ", "∠": r"\angle ", "△": r"\triangle ", "⊥": r"\perp ", "∥": r"\parallel ",
    "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}",
    "ℂ": r"\mathbb{C}", "…": r"\ldots ", "⋯": r"\cdots ", "¢": " cents ", "″": " in ",
}  # fmt: skip
_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi pi rho sigma tau "
    "phi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega"
)
_SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿⁱˣ", "0123456789+-()nix", strict=True))
_SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₍₎ₙₓ", "0123456789+-()nx", strict=True))
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_OPERAND = r"(\d+(?:\.\d+)?|\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z]|)"


class _Plain(dict[int, str]):
    """Of each code point the text that `clean` has for it, found when it is first met."""

    def __missing__(self, point: int) -> str:
        self[point] = found = _plain(chr(point))
        return found


def _plain(character: str) -> str:
    if character.isascii() or character in _OPERATORS or character in _PLAIN:
        return _PLAIN.get(character, character)
    if unicodedata.category(character) == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""  # zero-width characters, marks of direction, variation selectors
    if unicodedata.category(character) == "Zs":
        return " "
    if unicodedata.category(character) == "Nd":
        return str(unicodedata.digit(character))
    if "\uff00" <= character <= "\uffee" or "\U0001d400" <= character <= "\U0001d7ff":
        return unicodedata.normalize("NFKC", character)  # full width; mathematical letters
    return character


_TABLE = _Plain()
_LATEX = str.maketrans(
    _OPERATORS
    | {
        unicodedata.lookup(f"GREEK {case} LETTER {_name}"): rf"\{name} "
        for name in _GREEK.split()
        for case in ("CAPITAL" if name[0].isupper() else "SMALL",)
        for _name in (name.upper().replace("LAMBDA", "LAMDA"),)
    }
    | {"\N{GREEK PHI SYMBOL}": r"\phi ", "\N{GREEK SMALL LETTER FINAL SIGMA}": r"\sigma "}
)


def clean(text: str) -> str:
    """The text without zero-width characters, with one minus sign, one kind of space, quote and digit."""
    return text if text.isascii() else text.translate(_TABLE)


@lru_cache(maxsize=1024)
def latexed(text: str) -> str:
    r"""A cleaned answer with LaTeX for unicode mathematics: x⁴ as x^{4}, 2¾ as 2\frac{3}{4}, √2."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda run: f"^{{{_ascii(run[0], _SUPERSCRIPTS)}}}", text)
    text = _LOWERED.sub(lambda run: f"_{{{_ascii(run[0], _SUBSCRIPTS)}}}", text)
    text = re.sub(r"\s*([¼-¾⅐-⅞])", _vulgar, text)
    text = text.translate(_LATEX)
    return re.sub(rf"([√∛∜])\s*{_OPERAND}", _root, text)


def _ascii(scripts: str, of: dict[str, str]) -> str:
    return "".join(of[script] for script in scripts)


def _vulgar(fraction: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", fraction[1]).partition("\N{FRACTION SLASH}")
    return rf"\frac{{{over}}}{{{under}}}"


def _root(root: re.Match[str]) -> str:
    operand = root[2]
    inner = operand[1:-1] if operand[:1] in ("(", "{") and operand else operand
    return f"{_ROOTS[root[1]]}{{{inner}}}" if operand else root[0]
