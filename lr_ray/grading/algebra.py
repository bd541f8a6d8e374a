r"""Whether two formulas are equal, by math-verify and sympy. Importing this takes seconds.

pytest tests/unit/grading/test_judging.py
"""

import logging
import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

import sympy
from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify

from lr_ray.grading.numerals import Number, number, same_number, without_unit

_DIGITS = 40
_EXACT = sympy.Float("1e-25")  # of the larger value: more than equal formulas differ by in _DIGITS
_ZERO = sympy.Float("1e-35")
_POINTS = (sympy.Rational(7, 11), sympy.Rational(-13, 17), sympy.Rational(29, 19))
_INTEGERS = tuple(
    map(sympy.Integer, range(1, 14))
)  # the points of a formula that rounds down or up

# math-verify's own `parse` drops a last t, h, m or s as a unit, takes T for t, and of a formula that it
# cannot read takes a number out of it; its reader of LaTeX does not.
_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_SYMBOLS = ConversionConfig(lowercase_symbols=False)

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns where it sets no time limit


def equivalent(expected: str, extracted: str, time_limit_s: int | None) -> bool:
    """Whether the two tidied formulas are equal.

    Numbers are compared to 40 digits, and by the rule of `same_number` where one is approximate
    (math-verify alone rounds to six places, so that 1e-8 is 2e-8); expressions by their values at a
    few points; equations, sets and matrices by math-verify. i is the imaginary unit. `time_limit_s`
    is of math-verify's comparison, by SIGALRM, which only the main thread may set; None sets none. A
    formula that cannot be read, or has no finite value, is equal to none. Raises what sympy raises for
    one out of all bounds.
    """
    gold, answer = _read(expected), _read(extracted)
    if gold is None or answer is None:
        return False
    if _is_number(gold) and _is_number(answer):
        right, given = _number(expected, gold), _number(extracted, answer)
        if right is not None and given is not None and same_number(right, given):
            return True
        return _same_value(gold, answer)
    if _is_expression(gold) and _is_expression(answer):
        agree = _agree(gold, answer)
        if agree is not None:
            return agree
    if isinstance(gold, sympy.Eq) and isinstance(answer, sympy.Eq):
        if gold.free_symbols != answer.free_symbols:
            return False
        ratio = sympy.simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
        if ratio.is_number and ratio.is_finite and ratio != 0:
            return True
    return bool(verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=time_limit_s))


@lru_cache(maxsize=1024)
def _read(text: str) -> Any:
    """The sympy object of a formula, its decimals exact, or None."""
    plain = re.sub(r"[\x02\x03]", " ", without_unit(text))
    # The reader knows no x', and E as Euler's number only: names of their own are all they have to be.
    plain = re.sub(r"(?<=[A-Za-z])'", r"_{1}", plain)
    plain = re.sub(r"(?<![A-Za-z\\])E_\{?(\w+)\}?", r"Z_{e\1}", plain)
    try:
        formula = latex2sympy(
            plain, is_real=True, normalization_config=_LATEX, conversion_config=_SYMBOLS
        )
    except (MemoryError, RecursionError, OverflowError):
        raise
    except Exception:  # the reader raises anything on what it does not know
        return None
    if not isinstance(formula, sympy.Basic | sympy.MatrixBase):
        return None
    exact = {decimal: sympy.Rational(str(decimal)) for decimal in formula.atoms(sympy.Float)}
    return formula.xreplace(exact).subs(sympy.Symbol("i", real=True), sympy.I)


def _number(text: str, formula: Any) -> Number | None:
    """The real value of a formula without variables, to _DIGITS."""
    written = number(text)
    if written is not None:
        return written
    value = sympy.N(formula, _DIGITS)
    if isinstance(value, sympy.Rational):
        return Number(Fraction(value.p, value.q))
    return Number(Fraction(str(value))) if isinstance(value, sympy.Float) else None


def _is_number(formula: Any) -> bool:
    return _is_expression(formula) and not formula.free_symbols


def _is_expression(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not isinstance(formula, sympy.MatrixExpr)


def _agree(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions have the same value at every point tried, or None without values."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    rounds = gold.has(sympy.floor, sympy.ceiling) or answer.has(sympy.floor, sympy.ceiling)
    for start in _INTEGERS if rounds else _POINTS:
        point = {
            symbol: start + k if rounds else start * (k + 3) / (k + 2)
            for k, symbol in enumerate(symbols)
        }
        a, b = (sympy.N(formula, _DIGITS, subs=point) for formula in (gold, answer))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return None
        if not _same_value(a, b):
            return False
    return True


def _same_value(gold: Any, answer: Any) -> bool:
    a, b = (sympy.N(formula, _DIGITS) for formula in (gold, answer))
    if not (a.is_finite and b.is_finite):
        return False
    largest = max(abs(a), abs(b))
    return bool(abs(a - b) <= _EXACT * largest or largest < _ZERO)
