"""Ways of writing a number: each a function of its value that is None where the value cannot be so written."""

import unicodedata
from collections.abc import Callable
from fractions import Fraction

from hypothesis import strategies as st

Way = Callable[[Fraction], str | None]

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_FULL_WIDTH = str.maketrans({str(d): chr(0xFF10 + d) for d in range(10)} | {"-": "－"})
_ARABIC = str.maketrans({str(d): chr(0x660 + d) for d in range(10)})
_VULGAR = {
    Fraction(n): c for c in "¼½¾⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞" for n in (round(unicodedata.numeric(c) * 120),)
}


def decimal(value: Fraction) -> str | None:
    """All digits of a value, None where they never end."""
    _rest, places = value.denominator, 0
    while value.denominator != 1 and 10**places % value.denominator:
        places += 1
        if places > 60:
            return None
    digits = f"{abs(value) * 10**places // 1:0{places + 1}d}"
    sign = "-" if value < 0 else ""
    return sign + (f"{digits[:-places]}.{digits[-places:]}" if places else digits)


def grouped(separator: str) -> Way:
    def way(value: Fraction) -> str | None:
        text = decimal(value)
        if text is None or abs(value) < 1000 or (separator == " " and abs(value) >= 10**9):
            return None
        whole, point, rest = text.partition(".")
        return f"{int(whole):,}".replace(",", separator) + point + rest

    return way


def fraction(form: str) -> Way:
    """`form` has places for numerator and denominator, which a sign stands before."""

    def way(value: Fraction) -> str | None:
        sign = "-" if value < 0 else ""
        return sign + form % (abs(value.numerator), value.denominator)

    return way


def expanded(value: Fraction) -> str:
    return rf"\frac{{{value.numerator * 6}}}{{{value.denominator * 6}}}"


def mixed(form: str) -> Way:
    def way(value: Fraction) -> str | None:
        whole, rest = divmod(abs(value), 1)
        if not whole or not rest:
            return None
        sign = "-" if value < 0 else ""
        return sign + form % (whole, rest.numerator, rest.denominator)

    return way


def vulgar(value: Fraction) -> str | None:
    whole, rest = divmod(abs(value), 1)
    if rest * 120 not in _VULGAR:
        return None
    return ("-" if value < 0 else "") + (str(whole) if whole else "") + _VULGAR[rest * 120]


def scientific(form: str, power: Callable[[str], str] = str) -> Way:
    def way(value: Fraction) -> str | None:
        text = decimal(value)
        if text is None or not value:
            return None
        digits = text.lstrip("-").replace(".", "").lstrip("0")
        exponent = len(str(int(abs(value)))) - 1 if abs(value) >= 1 else 0
        while abs(value) * Fraction(10) ** -exponent < 1:
            exponent -= 1
        mantissa = decimal(value * Fraction(10) ** -exponent)
        assert mantissa
        assert digits
        return form % (mantissa, power(str(exponent)))

    return way


def percent(form: str) -> Way:
    def way(value: Fraction) -> str | None:
        text = decimal(value * 100)
        return None if text is None else form % text

    return way


def mapped(change: Callable[[str], str]) -> Way:
    def way(value: Fraction) -> str | None:
        text = decimal(value)
        return None if text is None else change(text)

    return way


def _shortened(text: str) -> str:
    """.5 for 0.5."""
    sign, digits = ("-", text[1:]) if text[0] == "-" else ("", text)
    return sign + (digits[1:] if digits.startswith("0.") else digits)


# As references write: exact, and without what an answer alone may leave out or add.
REFERENCES: dict[str, Way] = {
    "decimal": decimal,
    "fraction": fraction(r"\frac{%d}{%d}"),
    "slash": fraction("%d/%d"),
}
WAYS: dict[str, Way] = REFERENCES | {
    "thousands": grouped(","),
    "LaTeX thousands": grouped("{,}"),
    "thin spaces": grouped(r"\,"),
    "LaTeX thousands, pulled together": grouped(r",\!"),
    "spaces": grouped(" "),
    "unicode thin spaces": grouped("\N{THIN SPACE}"),
    "trailing zeros": mapped(lambda text: text + ("00" if "." in text else ".00")),
    "no zero": mapped(_shortened),
    "minus sign": mapped(lambda text: text.replace("-", "\N{MINUS SIGN}")),
    "minus apart": mapped(lambda text: text.replace("-", "- ")),
    "full width": mapped(lambda text: text.translate(_FULL_WIDTH)),
    "Arabic digits": mapped(lambda text: text.translate(_ARABIC)),
    "plus": mapped(lambda text: text if text[0] == "-" else f"+{text}"),
    "expanded": expanded,
    "dfrac": fraction(r"\dfrac{%d}{%d}"),
    "tfrac, spaces": fraction(r"\tfrac { %d } { %d }"),
    "cfrac": fraction(r"\cfrac{%d}{%d}"),
    "division": fraction(r"%d \div %d"),
    "division sign": fraction("%d÷%d"),
    "fraction slash": fraction("%d\N{FRACTION SLASH}%d"),
    "sign in the numerator": lambda v: rf"\frac{{{v.numerator}}}{{{v.denominator}}}",
    "sign in the denominator": lambda v: rf"\frac{{{-v.numerator}}}{{-{v.denominator}}}",
    "brackets": fraction(r"\left(\frac{%d}{%d}\right)"),
    "over": fraction(r"{%d \over %d}"),
    "mixed": mixed(r"%d\frac{%d}{%d}"),
    "mixed, space": mixed(r"%d \frac{%d}{%d}"),
    "mixed, thin space": mixed(r"%d\,\dfrac{%d}{%d}"),
    "mixed, slash": mixed("%d %d/%d"),
    "vulgar": vulgar,
    "scientific": scientific(r"%s \times 10^{%s}"),
    "scientific, dot": scientific(r"%s\cdot10^{%s}"),
    "scientific, unicode": scientific("%s × 10%s", lambda e: e.translate(_SUPERSCRIPTS)),
    "scientific, minus sign": scientific("%s×10^%s", lambda e: e.replace("-", "\N{MINUS SIGN}")),
    "scientific, program": scientific("%se%s"),
    "scientific, E": scientific("%sE%s"),
}
PERCENTS: dict[str, Way] = {
    "percent": percent(r"%s\%%"),
    "plain percent": percent("%s%%"),
    "percent in words": percent("%s percent"),
    "percent in text": percent(r"%s \text{ percent}"),
    "full-width percent": percent("%s\N{FULLWIDTH PERCENT SIGN}"),
}
# What stands around a number and does not change it.
AROUND = (
    "%s", "$%s$", "$$%s$$", r"\(%s\)", r"\[%s\]", r"\boxed{%s}", "{%s}", "**%s**", "**$%s$**", "`%s`", "%s.",
    " %s\n", r"\mathbf{%s}", r"\displaystyle %s", r"\displaystyle{%s}", r"\left(%s\right)", "(%s)", "x = %s",
    "x=%s", r"\text{%s}", r"%s\text{}", r"\text{}%s", "\N{ZERO WIDTH SPACE}%s", "%s\N{WORD JOINER}", r"%s\!",
    r"\,%s\,", "~%s", r"\color{red}{%s}", r"\underline{%s}", "%s。", r"= %s", r"\mathrm{%s}", r"\ %s\ ",
    r"\textbf{%s}", "The answer is %s", "*%s*", "<b>%s</b>", r"%s \quad", r"\textcolor{blue}{%s}", "y = $%s$",
)  # fmt: skip
UNITS = (
    r"%s \text{ cm}", r"%s\text{ cm}^2", "%s apples", r"%s \, \mathrm{km/h}", r"%s^\circ", "%s°", r"\$%s",
    "%s dollars", r"%s \text{ square units}", "%s km", "€%s", r"%s \text{ m}^3", "%s meters per second",
)  # fmt: skip


def written(value: Fraction, ways: dict[str, Way]) -> st.SearchStrategy[str]:
    """The value in one of the ways that can write it."""
    texts = [text for way in ways.values() if (text := way(value)) is not None]
    return st.sampled_from(texts) if texts else st.nothing()


integers = st.one_of(st.integers(-20, 20), st.integers(-(10**7), 10**7)).map(Fraction)
huge = st.integers(-(10**60), 10**60).map(Fraction)
decimals = st.builds(Fraction, st.integers(-(10**6), 10**6), st.sampled_from([10, 100, 1000, 16]))
rationals = st.builds(Fraction, st.integers(-500, 500), st.integers(1, 120))
huge_rationals = st.builds(Fraction, st.integers(-(10**40), 10**40), st.integers(1, 10**40))
values = st.one_of(integers, decimals, rationals)
large = st.one_of(huge, huge_rationals)
