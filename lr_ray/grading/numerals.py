r"""Numbers as answers write them, exactly: 1,234.50, 3/4, \frac{3}{4}, 1\frac{3}{4}, 5e-3, 12 apples.

pytest tests/unit/grading/test_judging.py
"""

import re
from dataclasses import dataclass
from fractions import Fraction

# Of an approximate answer, as the Qwen2.5-Math evaluation toolkit has it (math_equal).
RELATIVE_TOLERANCE = Fraction(1, 10_000)

_MAX_EXPONENT = 400  # of ten: a number that costs nothing
_INTEGER = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_DECIMAL = rf"(?:{_INTEGER}(?:\.\d+|\.(?!\d))?|\.\d+)"
_POWER = r"10\s*\^\s*(?:\{\s*(?P<NAME>[+-]?\s*\d+)\s*\}|(?P<NAME1>[+-]?\d+))"
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*(?:[£€¥₹]|US|Rs\.?)?\s*(?:"
    rf"(?P<whole>\d+)\s*\\frac\{{\s*(?P<over>\d+)\s*\}}\{{\s*(?P<under>\d+)\s*\}}"
    rf"|(?P<whole2>\d+)\s+(?P<over2>\d+)/(?P<under2>\d+)"
    rf"|\\frac\{{\s*(?P<minus>-?)\s*(?P<a>{_DECIMAL})\s*\}}\{{\s*(?P<b>{_DECIMAL})\s*\}}"
    rf"|(?P<c>{_DECIMAL})\s*/\s*(?P<d>{_DECIMAL})"
    rf"|(?P<mantissa>{_DECIMAL})(?:[eE](?P<e>[+-]?\d+)"
    r"|\s*(?:\\times|\\cdot|\*|x)\s*" + _POWER.replace("NAME", "f") + r")"
    r"|" + _POWER.replace("NAME", "g") + rf"|(?P<plain>{_DECIMAL}))(?![\d.,]*\d)\s*(?P<percent>%?)"
)
# fmt: off
_SHORT_UNITS = frozenset((
    "cm", "mm", "km", "nm", "kg", "mg", "gm", "ft", "yd", "mi", "lb", "oz", "hr", "ms", "ml", "mL", "cL",
    "kJ", "kW", "kV", "mW", "mV", "mA", "Hz", "Pa", "eV", "dB", "pc", "ly", "AU", "yr",
    "sq", "cu", "cc", "st", "nd", "rd", "th",
))
_LETTER_UNITS = frozenset("mgshLlJNWVKCFAT")
_NO_UNITS = frozenset((
    "and", "sqrt", "sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "mod", "inf", "abs",
))
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
# fmt: on


@dataclass(frozen=True)
class Number:
    """An exact value. `step` is that of its last digit where it was written as a decimal, else None."""

    value: Fraction
    step: Fraction | None = None
    percent: bool = False


def number(text: str, letter_units: bool = False) -> Number | None:
    r"""The number that a tidied answer is, or None; a percent sign is kept, a unit dropped.

    `letter_units`: one letter after a space, as in "5 m", is a unit too, not a variable.
    """
    found = _NUMBER.match(text)
    if found is None:
        return _spelled(text)
    rest = text[len(found[0].rstrip()) :]
    if not _is_unit(rest, letter_units):
        return None
    try:
        value, step = _value({name: part for name, part in found.groupdict().items() if part})
    except (ValueError, ZeroDivisionError):
        return None
    sign = -1 if found["sign"] == "-" else 1
    return Number(sign * value, step, bool(found["percent"]) or "percent" in rest)


def _spelled(text: str) -> Number | None:
    """The number below a hundred that words spell, such as "twenty-one"."""
    words = re.sub(r"[\x02\x03-]", " ", text).lower().split()
    if len(words) == 1 and words[0] in _ONES:
        return Number(Fraction(_ONES.index(words[0])))
    if (
        not words
        or words[0] not in _TENS
        or len(words) > 2
        or not set(words[1:]) <= set(_ONES[1:10])
    ):
        return None
    return Number(Fraction(20 + 10 * _TENS.index(words[0]) + sum(map(_ONES.index, words[1:]))))


def without_unit(text: str) -> str:
    r"""A formula without the unit after it: \sqrt{3} cm, or 2\pi \text{ square units}."""
    found = re.search(r"(?:\s+[A-Za-z]{2,}|\s*\x02[^\x02\x03]*\x03)+(?:\^\{?-?\d\}?)?$", text)
    if found is None or not text[: found.start()].strip() or not _is_unit(found[0], True):
        return text
    return text[: found.start()].strip()


def same_number(expected: Number, extracted: Number) -> bool:
    r"""Whether they are the same number, or one the other's rounding.

    A decimal counts for a number that it is the rounding of, where that is within RELATIVE_TOLERANCE;
    an integer that is expected is exact. A percent sign on one side alone may stand for a unit
    (50\% = 50) or for hundredths (50\% = 0.5); the toolkit also takes 50 for 0.5.
    """
    values = [extracted.value]
    if extracted.percent and not expected.percent:
        values.append(extracted.value / 100)
    elif expected.percent and not extracted.percent:
        values.append(extracted.value * 100)
    return any(_close(expected, Number(value, extracted.step)) for value in values)


def _close(expected: Number, extracted: Number) -> bool:
    if expected.value == extracted.value:
        return True
    if expected.step is None and (extracted.step is None or expected.value.denominator == 1):
        return False
    steps = [n.step or Fraction(n.value.denominator == 1) for n in (expected, extracted)]
    difference = abs(expected.value - extracted.value)
    largest = max(abs(expected.value), abs(extracted.value))
    return difference <= max(steps) / 2 and difference <= RELATIVE_TOLERANCE * largest


def _value(parts: dict[str, str]) -> tuple[Fraction, Fraction | None]:
    """Value and step of the parts that matched. Raises ValueError for an exponent out of bounds."""
    for whole, over, under in (("whole", "over", "under"), ("whole2", "over2", "under2")):
        if whole in parts:
            fraction = Fraction(int(parts[over]), int(parts[under]))
            if fraction >= 1:  # 2\frac{3}{2} is a product
                return int(parts[whole]) * fraction, None
            return int(parts[whole]) + fraction, None
    if "a" in parts:
        value = _decimal(parts["a"])[0] / _decimal(parts["b"])[0]
        return (-value if "minus" in parts else value), None
    if "c" in parts:
        return _decimal(parts["c"])[0] / _decimal(parts["d"])[0], None
    exponent = int(
        next((parts[n].replace(" ", "") for n in ("e", "f", "f1", "g", "g1") if n in parts), "0")
    )
    if abs(exponent) > _MAX_EXPONENT:
        raise ValueError("exponent")
    if "plain" in parts:
        return _decimal(parts["plain"])
    scale = Fraction(10) ** exponent
    if "mantissa" not in parts:
        return scale, None
    value, step = _decimal(parts["mantissa"])
    return value * scale, (step or Fraction(1)) * scale


def _decimal(text: str) -> tuple[Fraction, Fraction | None]:
    text = text.replace(",", "").rstrip(".")
    digits = len(text.partition(".")[2])
    return Fraction(text), Fraction(1, 10**digits) if digits else None


def _is_unit(rest: str, letter_units: bool) -> bool:
    """Whether what follows a number is nothing but words, such as "apples" or "cm^2 per hour"."""
    if not rest.strip():
        return True
    if letter_units:
        rest = re.sub(r"\\mu(?=\s*[A-Za-z\x02])", " ", rest)
        rest = re.sub(r"\\(?:Omega|AA)(?![A-Za-z])", " ohm", rest)
    if not re.match(r"\s*[(\x02]|\s*[A-Za-z]", rest):
        return False
    separated = rest[0] in " (\x02"
    rest = re.sub(r"\^\s*\{?\s*-?\s*\d\s*\}?|\\cdot(?![A-Za-z])|[\x02\x03/.*()'-]", " ", rest)
    words = rest.split()
    return bool(words) and all(
        (len(word) > 2 and word.isalpha() and word.lower() not in _NO_UNITS)
        or word in _SHORT_UNITS
        or (letter_units and separated and word in _LETTER_UNITS)
        for word in words
    )
