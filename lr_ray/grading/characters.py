r"""One character for what Unicode has many of, and LaTeX for what only Unicode writes.

`clean` changes no meaning and comes before anything is read; `latexed` turns unicode mathematics into
LaTeX, as the reader of formulas knows nothing else.
pytest tests/unit/grading/test_kinds.py
"""

import re
import unicodedata
from functools import cache, lru_cache

# Of each character what stands for it; a space where nothing is given.
_PLAIN_PAIRS = """
    −- ∶: ⁄/ ∕/ ÷/ ∗* ’' ‘' ′' “" ”" 、, ∣| º° ∘° µμ ⋃∪ ℃°C ℉°F 【 】
"""
_PLAIN = {pair[0]: pair[1:] or " " for pair in _PLAIN_PAIRS.split()}
# What LaTeX has a name for; Greek letters are found by theirs.
_NAMES = r"""
    ×times ·cdot ⋅cdot ∙cdot •cdot ∞infty ≤le ≦le ⩽le ≥ge ≧ge ⩾ge ≠ne ±pm ∓mp ≈approx ∼sim ≡equiv ∪cup ∩cap
    ∈in ∉notin ⊂subset ⊆subseteq ⊃supset ⊇supseteq ∅emptyset ∖setminus ∧land ∨lor ¬neg →to ⇒Rightarrow ∑sum
    ∏prod ∫int ∂partial ⌊lfloor ⌋rfloor ⌈lceil ⌉rceil ⟨langle ⟩rangle ∠angle △triangle ⊥perp ∥parallel
    …ldots ⋯cdots ¢cent ςsigma ∆Delta ÅAA ℝmathbb{R} ℤmathbb{Z} ℕmathbb{N} ℚmathbb{Q} ℂmathbb{C}
"""
_OPERATORS = {name[0]: rf"\{name[1:]} " for name in _NAMES.split()} | {"°": r"^\circ ", "″": " in "}
_ROOTS = {"√": r"\sqrt", "∛": r"\sqrt[3]", "∜": r"\sqrt[4]"}
_ROOT = re.compile(
    r"([√∛∜])\s*(\d+(?:\.\d+)?|\((?:[^()]|\([^()]*\))*\)|\{[^{}]*\}|\\frac\{\d+\}\{\d+\}|\\[A-Za-z]+|[A-Za-z])"
)


def clean(text: str) -> str:
    """The text without zero-width characters, with one minus sign, one kind of space, quote and digit."""
    if text.isascii():
        return text
    text = re.sub("正[负負]", "±", "".join(map(_plain, text)))
    return re.sub(r"[负負](?=\d)", "-", text)


@lru_cache(maxsize=1024)
def latexed(text: str) -> str:
    r"""A cleaned answer with LaTeX for unicode mathematics: x⁴ as x^{4}, 2¾ as 2\frac{3}{4}, √2."""
    if text.isascii():
        return text
    text = re.sub(r"\}[_^]\{", "", "".join(map(_latex, text)))  # two digits raised are one number
    return _ROOT.sub(_root, text)


def _root(root: re.Match[str]) -> str:
    operand = root[2][1:-1] if root[2][0] in "({" else root[2]
    return f"{_ROOTS[root[1]]}{{{operand}}}"


@cache
def _plain(character: str) -> str:
    if character in _PLAIN or character in _OPERATORS:
        return _PLAIN.get(character, character)
    category = unicodedata.category(character)
    if category == "Cf" or "\ufe00" <= character <= "\ufe0f":
        return ""  # zero-width characters, marks of direction, variation selectors
    if category == "Zs":
        return " "
    if category == "Pd" and character not in "—―〜":
        return "-"
    if category == "Nd":
        return str(unicodedata.digit(character))
    if unicodedata.decomposition(character).startswith(("<font>", "<wide>")):
        return unicodedata.normalize("NFKC", character)  # mathematical letters; full width
    return character


@cache
def _latex(character: str) -> str:
    if character in _OPERATORS or character.isascii():
        return _OPERATORS.get(character, character)
    how, _, _ = unicodedata.decomposition(character).partition(" ")
    simple = unicodedata.normalize("NFKC", character).replace("\N{MINUS SIGN}", "-")
    if how in ("<super>", "<sub>"):
        return f"{'^' if how == '<super>' else '_'}{{{simple}}}"
    if how == "<fraction>":
        over, _, under = simple.partition("\N{FRACTION SLASH}")
        return rf"\frac{{{over}}}{{{under}}}"
    greek = re.fullmatch(r"GREEK (SMALL|CAPITAL) LETTER (\w+)", unicodedata.name(simple[0], ""))
    if greek is None:
        return character
    name = greek[2].replace("LAMDA", "LAMBDA")
    return rf"\{name.lower() if greek[1] == 'SMALL' else name.title()} "
