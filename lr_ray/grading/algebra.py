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
from mpmath.libmp import fzero
from sympy.core.evalf import evalf

from lr_ray.grading.numerals import Number, number, same_number, without_unit

_DIGITS = 40  # of a number that is held against a rounded decimal
# To which a difference is looked for before two formulas are the same. Of sums, of integrals and of
# functions at a point, more bits take long.
_BITS, _FEW_BITS = 4_000, 400
_MAX_COMPUTED = 20_000  # of an exponent, or a number under a factorial
_POINTS = (sympy.Rational(7, 11), sympy.Rational(-13, 17), sympy.Rational(29, 19))
# The points of a formula that rounds down or up.
_INTEGERS = tuple(map(sympy.Integer, range(1, 14)))

# math-verify's own `parse` drops a last t, h, m or s as a unit, takes T for t, and of a formula that it
# cannot read takes a number out of it; its reader of LaTeX does not.
_LATEX = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=False, nits=True, boxed="none"
)
_SYMBOLS = ConversionConfig(lowercase_symbols=False)

logging.getLogger("math_verify").setLevel(logging.ERROR)  # it warns where it sets no time limit


def equivalent(expected: str, extracted: str, time_limit_s: int | None) -> bool:
    """Whether the two tidied formulas are equal.

    Numbers are equal where no difference is found: integers and rationals exactly, others to 1200 digits,
    and by the rule of `same_number` where one is approximate (math-verify alone rounds to six places, so
    that 1e-8 is 2e-8); expressions by their values at a few points; equations, sets and matrices by
    math-verify. i is the imaginary unit. `time_limit_s`
    is of math-verify's comparison, by SIGALRM, which only the main thread may set; None sets none. A
    formula that cannot be read, or has no finite value, is equal to none. Raises what sympy raises for
    one out of all bounds.
    """
    gold, answer = _read(expected), _read(extracted)
    if gold is None or answer is None:
        return False
    if _is_number(gold) and _is_number(answer):
        right, given = number(expected), number(extracted)
        if (right and right.step) or (given and given.step):
            right, given = right or _rounded(gold), given or _rounded(answer)
            return bool(right and given and same_number(right, given))
        return _is_zero(gold - answer) is True
    if _is_expression(gold) and _is_expression(answer):
        # Roots are drawn of what is positive, as in x\sqrt{2x}, unless there is |x|.
        agree = _agree(gold, answer, positive=not re.search(r"\||\\[lr]vert", expected + extracted))
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


def _rounded(formula: Any) -> Number | None:
    """The real value of a formula without variables: a rational's own, another's to _DIGITS."""
    value = formula if formula.is_Rational else sympy.N(formula, _DIGITS)
    if isinstance(value, sympy.Rational):
        return Number(Fraction(value.p, value.q))
    return Number(Fraction(str(value))) if isinstance(value, sympy.Float) else None


def _is_number(formula: Any) -> bool:
    return _is_expression(formula) and not formula.free_symbols


def _is_expression(formula: Any) -> bool:
    return isinstance(formula, sympy.Expr) and not isinstance(formula, sympy.MatrixExpr)


def _agree(gold: Any, answer: Any, positive: bool) -> bool | None:
    """Whether two expressions have the same value at every point (`positive`: that roots are of), or None."""
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    rounds = gold.has(sympy.floor, sympy.ceiling) or answer.has(sympy.floor, sympy.ceiling)
    points = _INTEGERS if rounds else _POINTS
    if rounds and any(str(symbol) in "xyzt" for symbol in symbols):  # no integers by custom
        points += _POINTS
    for start in points:
        point = {
            symbol: start + k if start.is_Integer else start * (k + 3) / (k + 2)
            for k, symbol in enumerate(symbols)
        }
        difference = gold - answer
        zero = _is_zero(difference.subs(point)) if rounds else _is_zero(difference, point)
        if zero is False and start.is_negative and positive and _has_root(difference):
            above = {s: -value * k for k, (s, value) in enumerate(point.items(), start=1)}
            zero = _is_zero(difference, above)
        if zero is not True:
            return zero
    return True


def _has_root(formula: Any) -> bool:
    """Whether a root of something with a variable is in it."""
    powers = formula.atoms(sympy.Pow)
    return any(p.exp.is_Rational and not p.exp.is_Integer and p.base.free_symbols for p in powers)


def _is_computable(formula: Any) -> bool:
    """Whether its powers and factorials, which the reader leaves as they are, can be computed exactly."""
    powers = formula.atoms(sympy.Pow)
    if any(not (power.exp.is_integer or power.base.is_Rational) for power in powers):
        return False  # a root of a sum would be looked for in its factors
    sizes = [power.exp for power in powers if power.exp.is_number]
    sizes += [product.args[0] for product in formula.atoms(sympy.factorial)]
    return all(size.is_number and bool(abs(size) <= _MAX_COMPUTED) for size in sizes)


def _is_zero(difference: Any, point: dict[Any, Any] | None = None) -> bool | None:
    """Whether a formula without variables (but those of `point`) is 0; None without a finite value."""
    summed = difference.has(sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
    if summed or _is_computable(difference):
        difference = difference.doit()
    if difference.is_Rational:
        return bool(difference == 0)
    options = {"maxprec": _FEW_BITS if summed or point else _BITS, "subs": point or {}}
    try:
        value = evalf(difference, 64, options)
    except NotImplementedError:  # has no value, or one that sympy cannot compute
        return None
    if value is sympy.zoo or difference.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    # Of the real and the imaginary part: the value, and the number of its bits that are certain.
    return not any(
        part is not None and (accuracy is None or accuracy > 8) and part != fzero
        for part, accuracy in zip(value[:2], value[2:], strict=True)
    )
