"""A number written in two ways is one number; changed by one, it is another."""

import re
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_ray.grading.judging import is_correct
from lr_ray.grading.reading import extract_answer
from tests.unit.properties.numerals import (
    AROUND,
    PERCENTS,
    REFERENCES,
    UNITS,
    WAYS,
    decimal,
    large,
    values,
    written,
)


def boxed(answer: str) -> str | None:
    return extract_answer(rf"So it is $\boxed{{{answer}}}$.", "math")


@given(data=st.data(), value=st.one_of(values, large))
def test_a_number_is_equal_in_all_ways_of_writing(data, value):
    expected = data.draw(written(value, WAYS), "expected")
    answer = data.draw(written(value, WAYS), "answer")
    assert is_correct(expected, boxed(answer), "math")


@given(data=st.data(), value=values, around=st.sampled_from(AROUND))
def test_what_stands_around_a_number_does_not_change_it(data, value, around):
    expected = data.draw(written(value, REFERENCES), "expected")
    answer = data.draw(written(value, REFERENCES), "answer")
    assert is_correct(expected, boxed(around % answer), "math")
    assert is_correct(expected, around % answer, "math")
    assert is_correct(around % expected, answer, "math")


@given(data=st.data(), value=values, around=st.sampled_from(UNITS))
def test_a_unit_is_dropped(data, value, around):
    expected = data.draw(written(value, REFERENCES), "expected")
    answer = data.draw(written(value, REFERENCES), "answer")
    assert is_correct(expected, boxed(around % answer), "math")


@given(data=st.data(), value=values.filter(decimal))
def test_a_percentage_is_hundredths(data, value):
    expected = data.draw(written(value, REFERENCES | PERCENTS), "expected")
    answer = data.draw(written(value, PERCENTS), "answer")
    assert is_correct(expected, boxed(answer), "math")


@given(
    data=st.data(),
    value=st.one_of(values, large),
    change=st.sampled_from([1, -1]),
    around=st.sampled_from(AROUND),
)
def test_a_number_changed_by_one_is_another(data, value, change, around):
    expected = data.draw(written(value, REFERENCES), "expected")
    answer = data.draw(written(value + change, WAYS), "answer")
    assert not is_correct(expected, boxed(around % answer), "math")
    assert not is_correct(around % expected, answer, "math")


@given(data=st.data(), value=st.one_of(values, large).filter(bool))
def test_a_number_with_the_other_sign_is_another(data, value):
    expected = data.draw(written(value, REFERENCES), "expected")
    answer = data.draw(written(-value, WAYS), "answer")
    assert not is_correct(expected, boxed(answer), "math")


def exact(value: Fraction):
    """Ways that write a value exactly: a decimal that ends stands for what rounds to it, too."""
    names = REFERENCES if value.denominator == 1 else ("fraction", "slash")
    return {name: REFERENCES[name] for name in names}


@given(data=st.data(), value=large, change=st.sampled_from([1, -1]))
def test_a_large_numerator_or_denominator_changed_by_one_is_another(data, value, change):
    above, below = value.numerator, value.denominator
    changed = Fraction(above + change, below)
    expected = data.draw(written(value, exact(value)), "expected")
    answer = data.draw(written(changed, exact(changed)), "answer")
    assert not is_correct(expected, boxed(answer), "math")
    if above:
        other = Fraction(above, below + 1)
        assert not is_correct(
            expected, boxed(rf"\frac{{{other.numerator}}}{{{other.denominator}}}"), "math"
        )


@given(base=st.integers(2, 30), exponent=st.integers(2, 90), add=st.integers(-9, 9))
def test_a_power_is_its_value_exactly(base, exponent, add):
    power = f"{base}^{{{exponent}}}"
    formula, value = f"{power}{add:+d}" if add else power, base**exponent + add
    assert is_correct(formula, str(value), "math")
    assert is_correct(str(value), formula, "math")
    assert not is_correct(formula, str(value + 1), "math")
    assert not is_correct(str(value - 1), formula, "math")


@given(
    a=st.integers(-(10**15), 10**15),
    b=st.integers(1, 10**15),
    form=st.sampled_from(
        [
            ("%d+%d", int.__add__),
            ("%d-%d", int.__sub__),
            (r"%d \times %d", int.__mul__),
            (r"%d \cdot %d", int.__mul__),
        ]
    ),
)
def test_a_sum_or_product_is_its_value_exactly(a, b, form):
    text, apply = form
    assert is_correct(str(apply(a, b)), text % (a, b), "math")
    assert not is_correct(str(apply(a, b) + 1), text % (a, b), "math")


@given(
    value=st.integers(-(10**12), 10**12).map(Fraction),
    around=st.sampled_from(AROUND),
    kind=st.sampled_from(["number", "math"]),
    data=st.data(),
)
def test_the_grader_of_numbers_agrees_with_that_of_mathematics(value, around, kind, data):
    listed = re.search(r"[({]%s", around)
    names = ["decimal"] if listed else ["decimal", "thousands"]  # (1,000) may be a pair
    answer = data.draw(written(value, {name: WAYS[name] for name in names}))
    assert is_correct(str(value), around % answer, kind)
    assert not is_correct(str(value + 1), around % answer, kind)


@pytest.mark.parametrize(
    ("expected", "answer"),
    [
        (r"\frac{3}{4}", r"\mathbf{\frac{3}{4}}"), ("7", "7。"), ("7", "\\ 7\\ "), ("12345.6", r"12\,345.6"),
        ("10^{12}", "1 000 000 000 000"), ("-7", "€-7"), ("12,480.625", r"\left(\frac{99845}{8}\right)"),
        ("-9 1/21", r"-{190 \over 21}"), ("4{,}095{,}772", r"\frac{-4095772}{-1}"), ("12345", "x = 12,345"), ("58,779.6", r"293898 \div 5"),
        ("-1,000", r"\frac{1000}{-1}"),
    ],
)  # fmt: skip
def test_ways_of_writing_that_were_found(expected, answer):
    assert is_correct(expected, answer, "math")


@pytest.mark.parametrize("answer", ["(7)", "x = 7", "y = $7$", r"\text{7}", "7。"])
def test_the_grader_of_numbers_leaves_out_what_stands_around_one(answer):
    assert is_correct("7", answer, "number")
    assert not is_correct("8", answer, "number")


@pytest.mark.parametrize("way", sorted(WAYS))
def test_each_way_writes_some_number(way):
    assert any(WAYS[way](Fraction(n, 8)) for n in (8, 12, 16_000, 20_004))
