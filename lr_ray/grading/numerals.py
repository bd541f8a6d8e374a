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
_FRACTION = re.compile(rf"\\frac\{{\s*(-?{_DECIMAL})\s*\}}\{{\s*(-?{_DECIMAL})\s*\}}(?!\s*[\d.])")
_POWER = re.compile(
    r"(?P<times>(?<=[\d.])\s*(?:\\times|\\cdot|\*|x)\s*)?(?<!\d)10\s*\^\s*"
    r"(?:\{\s*(?P<braced>[+-]?\s*\d{1,4})\s*\}|(?P<bare>[+-]?\d{1,4}(?!\d)))"
)
_NUMBER = re.compile(
    rf"(?P<sign>[+-]?)\s*[£€¥₹]?\s*(?:(?:(?P<whole>\d+)\s+(?!-))?(?P<over>-?{_DECIMAL})\s*/\s*(?P<under>-?{_DECIMAL})"
    rf"|(?P<decimal>{_DECIMAL})(?:[eE](?P<exponent>[+-]?\d{{1,4}}))?)(?![\d.,]*\d)\s*(?P<percent>%?)"
)
_SHORT_UNITS = """
    cm mm km nm kg mg gm ft yd mi lb oz hr ms ml mL cL kJ kW kV mW mV mA Hz Pa eV dB pc ly AU yr sq cu
    cc Rs st nd rd th in am pm kN mN mT pF nF kA mJ MJ GJ MW GW kΩ
"""
LETTER_UNITS = "mgshLlJNWVKCFAT"
# Words that make another number of one: "5 less than the total", "2 thirds", "at least 5". They are no unit.
_CHANGING = """
    and or not no never sqrt sin cos tan cot csc log ln exp mod inf abs gcd lcm base less more
    fewer greater than at least most between from up under above below within without out times plus
    minus negative over divided factorial squared cubed root power sum twice thrice double triple half
    halves third thirds quarter quarters fourths fifths sixths eighths tenths hundredths thousandths
    hundred thousand million billion trillion dozen choose
"""
_ONES = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen
"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORDS = {word: n for n, word in enumerate(_ONES.split())} | {
    word: 20 + 10 * n for n, word in enumerate(_TENS.split())
}
_SCALES = {
    "hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12, "dozen": 12,
    "十": 10, "百": 100, "千": 1000, "万": 10**4, "亿": 10**8,
}  # fmt: skip
SCALE = re.compile(
    r"[ \t\x02]*(?:(hundred|thousand|million|billion|trillion|dozen)s?(?![A-Za-z])"
    r"|(百(?!分)|千(?![米克瓦焦卡])|[十万亿]))",
    re.IGNORECASE,
)
_LETTER_SCALES = {"k": 10**3, "M": 10**6, "B": 10**9}  # without a space, which a unit has
_PARTS = {
    "half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10,
}  # fmt: skip
# 1.234,5, 1.234.567 and 12,34,567, but not 1,234, which is a whole number
_COMMA = re.compile(
    r"(?!\d{1,3}(?:,\d{3})+(?!\d))(\d{1,3}(?:[. ]\d{3})+(?=,)|\d{1,3}(?:\.\d{3}){2,}|"
    r"\d{1,2}(?:,\d\d)+,\d{3}|\d+(?=,))(?:,(\d+))?(?![\d.,]*\d)"
)
_BASE = re.compile(
    r"((?![A-Za-z]_)[0-9A-Za-z]+?)(?:_?(?:in)?base_?|_)(\d+|[a-z]{3,})", re.IGNORECASE
)
_PER = "second|minute|hour|day|week|month|year|person|mile|pound|gallon"  # what 5/day may end in
_CJK = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3"
_NOT_BEFORE = "|".join([*_CHANGING.split(), *_WORDS, "square", "cube", "min", "max", "by"])
# Words before a number that leave it as it is: "There are 5 apples", but not "less than 5". Possessive, so
# that a text of words alone takes no longer than its length.
_INTRODUCED = re.compile(
    rf"^\x02?\s*(?:(?![^\d]*(?:[负減减不非]|[大小多少高低]于|超过|至少))[{_CJK}]++\s*:?\s*\x03?\s*(?=\d)"
    rf"|(?:(?!(?:{_NOT_BEFORE})\b)(?:[A-Za-z]{{2,}}+|a\b)[,:]?+\s*+)++\x03?\s*(?=-?\.?\d))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Number:
    """An exact value. `step` is that of its last digit where it was written as a decimal, else None."""

    value: Fraction
    step: Fraction | None = None
    percent: bool = False


def number(text: str, letter_units: bool = False) -> Number | None:
    r"""The number that a tidied answer is, or None; a percent sign is kept, a unit dropped.

    `letter_units`: as answers write. One letter after a space, as in "5 m", is a unit too, not a variable,
    words may introduce the number, and it may have a decimal comma, or end in k, M or B.
    """
    text = text.strip("\x02\x03 ")
    if letter_units:
        text = _INTRODUCED.sub("", text)
        comma = _COMMA.match(text, len(text) - len(text.lstrip("+-")))
        if comma:
            pointed = re.sub("[., ]", "", comma[1]) + (f".{comma[2]}" if comma[2] else "")
            text = text[: comma.start()] + pointed + text[comma.end() :]
    text = _FRACTION.sub(r" \1/\2", _POWER.sub(_power, text)).lstrip()
    found = _NUMBER.match(text)
    if found is None:
        return _spelled(text, letter_units)
    rest, scale = text[len(found[0].rstrip()) :], 1
    while word := SCALE.match(rest):
        scale, rest = scale * _SCALES[(word[1] or word[2]).lower()], rest[word.end() :]
    if letter_units and rest[:1] in _LETTER_SCALES and not rest[1:2].isalnum():
        scale, rest = scale * _LETTER_SCALES[rest[0]], rest[1:]
    if not _is_unit(rest.removeprefix("\x03") if scale > 1 else rest, letter_units):
        return None
    if abs(int(found["exponent"] or 0)) > _MAX_EXPONENT or _decimal(found["under"] or "1") == 0:
        return None
    value, step = _value(found)
    sign = -1 if found["sign"] == "-" else 1
    percent = bool(found["percent"]) or "percent" in rest
    return Number(sign * scale * value, step * scale if step else None, percent)


def in_base(text: str) -> tuple[str, int] | None:
    """The digits and the value of a numeral in a base: 4210_5, (AB)_{16}, 4210 (base 5), but not a_{12}."""
    found = _BASE.fullmatch(re.sub(r"[(){}]", "", text))
    base = number(found[2]) if found else None
    try:
        return (found[1], int(found[1], int(base.value))) if found and base else None
    except ValueError:
        return None


def _spelled(text: str, with_unit: bool) -> Number | None:
    """The number that words spell, such as "twenty-one" or "minus two hundred and five"."""
    words = re.sub(r"[\x02\x03-]", " ", text).lower().split()
    sign = -1 if text.startswith("-") else 1
    if words[:1] in (["minus"], ["negative"]):
        sign, words = -1, words[1:]
    if words[:1] == ["a"] and words[1:2] and words[1] in (*_SCALES, *_PARTS):  # a dozen
        words[0] = "one"
    if words[:1] == ["half"]:
        words.insert(0, "one")
    total = current = read = 0
    for word in words:
        if word in _WORDS:
            current += _WORDS[word]
        elif word in ("hundred", "dozen") and read:
            current *= _SCALES[word]
        elif word in _SCALES and read:
            total, current = total + current * _SCALES[word], 0
        elif word != "and" or not read:
            break
        read += 1
    value = Fraction(sign * (total + current))
    part = words[read] if read < len(words) else ""
    one = "half" if part == "halves" else part.removesuffix("s")
    if read and one in _PARTS and (part == one) == (value == 1):
        value, read = value / _PARTS[one], read + 1
    unit = " ".join(words[read:])
    if not read or words[read - 1] == "and" or (unit and not (with_unit and _is_unit(unit, False))):
        return None
    return Number(value)


def without_unit(text: str) -> str:
    r"""A formula without the unit after it: \sqrt{3} cm, or 2\pi \text{ square units}."""
    found = re.search(r"(?:\s+[A-Za-z]{2,}|\s*\x02[^\x02\x03]*\x03)+(?:\^\{?-?\d\}?)?$", text)
    if found is None or not text[: found.start()].strip() or not _is_unit(found[0], True):
        return text
    return text[: found.start()].strip()


def same_number(expected: Number, extracted: Number) -> bool:
    r"""Whether they are the same number, or one the other's rounding.

    A decimal counts for a number that it is the rounding of, where that is within RELATIVE_TOLERANCE;
    an integer is exact. A percent sign on one side alone may stand for a unit
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
    if any(n.step is None and n.value.denominator == 1 for n in (expected, extracted)):
        return False
    step = max(expected.step or 0, extracted.step or 0)  # 0 of two fractions, which are exact
    difference = abs(expected.value - extracted.value)
    largest = max(abs(expected.value), abs(extracted.value))
    return difference <= step / 2 and difference <= RELATIVE_TOLERANCE * largest


def _power(power: re.Match[str]) -> str:
    r"""Of 2.5\times 10^{-3} what follows 2.5, as e-3; 10^{-3} alone as 1/1000, which is exact."""
    exponent = int((power["braced"] or power["bare"]).replace(" ", ""))
    if power["times"] or abs(exponent) > _MAX_EXPONENT:
        return f"e{exponent}"
    return str(10**exponent) if exponent >= 0 else f"1/{10**-exponent}"


def _value(parts: re.Match[str]) -> tuple[Fraction, Fraction | None]:
    """Value and step of a number without its sign."""
    if parts["under"]:
        value = _decimal(parts["over"]) / _decimal(parts["under"])
        whole = int(parts["whole"] or 0)
        return (whole + value if value < 1 or not whole else whole * value), None  # 2\frac{3}{2}
    digits = parts["decimal"].rstrip(".").partition(".")[2]
    step = Fraction(1, 10 ** len(digits)) if digits or parts["exponent"] else None
    scale = Fraction(10) ** int(parts["exponent"] or 0)
    return _decimal(parts["decimal"]) * scale, step * scale if step else None


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def _is_unit(rest: str, letter_units: bool) -> bool:
    """Whether what follows a number is nothing but words, such as "apples" or "cm^2 per hour"."""
    if not rest.strip():
        return True
    if letter_units:
        rest = re.sub(r"\\mu(?=\s*[A-Za-z\x02])", " ", rest)
        rest = re.sub(r"k?\x03?\\(?:Omega|AA)(?![A-Za-z])|[MRL]\x03?_\{?\\odot\}?", " ohm", rest)
        rest = re.sub(r"\\frac\{(\x02[^{}]*)\}\{(\x02.*)\}", r"\1/\2", rest)
    rest = re.sub(rf"^\s*/\s*(?=(?:{_PER})\b)", " ", rest)
    if not re.match(r"\s*[(\x02]|\s*[^\W\d_]", rest):
        return False
    rest = re.sub(rf"[{_CJK}]+", " units ", rest)
    separated = rest[0] in " (\x02"
    rest = re.sub(r"\^\s*\{?\s*-?\s*\d\s*\}?|\\cdot(?![A-Za-z])|[\x02\x03/.*()'-]", " ", rest)
    words = rest.split()
    return bool(words) and all(
        (len(word) > 2 and word.isalpha() and word.lower() not in _CHANGING.split())
        or word in _SHORT_UNITS.split()
        or (word in ("of", "by", "a") and len(words) > 1)
        or (letter_units and separated and word in LETTER_UNITS)
        for word in words
    )
