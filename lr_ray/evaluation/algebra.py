r"""Whether two formulas are equal, by math-verify and sympy. Importing this takes seconds.

pytest tests/unit/test_grading.py
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

from lr_ray.evaluation.exact_numbers import Number, number, same_number, without_unit

_DIGITS = 40
_EXACT = sympy.Float(
    "1e-25"
)  # of the larger value: what _DIGITS digits of two equal formulas differ by
_APPROXIMATE = sympy.Float("1e-9")  # the same where there are decimals in a formula
_POINTS = (sympy.Rational(7, 11), sympy.Rational(-13, 17), sympy.Rational(29, 19))

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
    """The sympy object of a formula, or None."""
    plain = re.sub(r"[\x02\x03]", " ", without_unit(text))
    plain = re.sub(
        r"(?<=[A-Za-z])'", r"_{1}", plain
    )  # a name of its own, which is all that x' has to be
    plain = re.sub(
        r"(?<![A-Za-z\\])E_\{?(\w+)\}?", r"Z_{e\1}", plain
    )  # it knows E as Euler's number only
    try:
        formula = latex2sympy(
            plain, is_real=True, normalization_config=_LATEX, conversion_config=_SYMBOLS
        )
    except (MemoryError, RecursionError, OverflowError):
        raise
    except Exception:  # the reader raises anything on what it does not know
        return None
    if isinstance(formula, sympy.Basic | sympy.MatrixBase):
        return formula.subs(sympy.Symbol("i", real=True), sympy.I)
    return None


def _number(text: str, formula: Any) -> Number | None:
    """The real value of a formula without variables; exact to _DIGITS where it has no decimal."""
    written = number(text)
    if written is not None:
        return written
    if not _is_number(formula):
        return None
    value = sympy.N(formula, _DIGITS)
    if not isinstance(value, sympy.Float | sympy.Rational):
        return None
    exact = Fraction(str(value)) if isinstance(value, sympy.Float) else Fraction(value.p, value.q)
    # A decimal inside a formula has no last digit to round the other's value to.
    return Number(exact, Fraction(0) if formula.atoms(sympy.Float) else None)


def _is_number(formula: Any) -> bool:
    return _is_expression(formula) and not formula.free_symbols


def _is_expression(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not isinstance(formula, sympy.MatrixExpr)


def _agree(gold: Any, answer: Any) -> bool | None:
    """Whether two expressions have the same value at every point of _POINTS, or None without values."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    for start in _POINTS:
        point = {symbol: start * (k + 3) / (k + 2) for k, symbol in enumerate(symbols)}
        a, b = (sympy.N(formula, _DIGITS, subs=point) for formula in (gold, answer))
        if not (a.is_number and b.is_number and a.is_finite and b.is_finite):
            return None
        exact = not (gold.has(sympy.Float) or answer.has(sympy.Float))
        if abs(a - b) > (_EXACT if exact else _APPROXIMATE) * max(abs(a), abs(b)):
            return False
    return True


def _same_value(gold: Any, answer: Any) -> bool:
    if gold.has(sympy.Float) or answer.has(sympy.Float):
        return False  # approximate, so that `same_number` has the say
    a, b = (sympy.N(formula, _DIGITS) for formula in (gold, answer))
    if not (a.is_finite and b.is_finite):
        return False
    largest = max(abs(a), abs(b))
    return bool(abs(a - b) <= _EXACT * largest or largest < sympy.Float("1e-35"))
