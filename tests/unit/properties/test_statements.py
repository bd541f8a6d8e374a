"""Texts around an answer that do not change what is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lr_ray.grading.judging import judge
from lr_ray.grading.reading import KINDS, extract_answer

NUMBERS = st.one_of(
    st.integers(-50, 2000).map(str),
    st.integers(1000, 10**9).map("{:,}".format),
    st.builds("{}.{}".format, st.integers(0, 99), st.integers(1, 99)),
)
FORMULAS = st.one_of(
    NUMBERS,
    st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(1, 99), st.integers(2, 99)),
    st.builds(r"{}\sqrt{{{}}}".format, st.integers(2, 9), st.integers(2, 99)),
    st.builds("x^{{{}}}+{}".format, st.integers(2, 20), st.integers(1, 9)),
    st.builds("({}, {})".format, st.integers(-9, 9), st.integers(-9, 9)),
    st.builds(r"\{{{}, {}\}}".format, st.integers(-9, -1), st.integers(0, 9)),
    st.builds(r"{}\pi".format, st.integers(2, 99)),
    st.builds("{}!".format, st.integers(2, 20)),
    st.builds(r"\binom{{{}}}{{2}}".format, st.integers(2, 20)),
)
WORK = st.lists(
    st.sampled_from(
        ["Let $x = 3$.", "We have 4 apples and 5 pears.", "Then $2x + 1 = 7$, as stated.", "First, 12 / 4 = 3.",
         "A part of it is $\\boxed{5}$, so we go on.", "**Step 1:** add 3.", "1. Take 17 from 20.", "设 $x=3$。",
         "Is the answer 4? Let us see.", "We want the answer in the form $a+b$.", "所以一共有 12 个。", "Hence\n\\[ a = 9. \\]",
         "We put the answer into \\boxed{}.", "Each costs $12 and there are 3.", "Then 50% of 90 is 45.", "-----",
         "The answer to part (a) is 6.", "So the answer is not 8."]
    ),
    max_size=4,
).map("\n".join)  # fmt: skip
THOUGHTS = st.sampled_from(
    ["", "<think>\nMaybe 8?\n</think>\n", "<think>The answer is 99.</think>", "So $\\boxed{99}$?\n</think>\n\n",
     "<thinking>The final answer is \\boxed{98}</thinking>\n", "<|begin_of_thought|>77<|end_of_thought|>\n"]
)  # fmt: skip
BOXED = (
    r"\boxed{%s}", r"$\boxed{%s}$", r"$$\boxed{%s}$$", r"\[\boxed{%s}\]", r"\(\boxed{%s}\).", r"The answer is $\boxed{%s}$.",
    r"**Final Answer:** \boxed{%s}", r"Therefore, $x = \boxed{%s}$.", r"$\boxed{ %s }$", r"\fbox{%s}", r"\\boxed{%s}",
    r"因此答案是 $\boxed{%s}$。", "### Final Answer\n$$\n\\boxed{%s}\n$$", r"$\boxed{\boxed{%s}}$", r"**$\boxed{%s}$**",
    r"<answer>\boxed{%s}</answer>", r"\boxed {%s}", r"\boxed{$%s$}", r"\boxed{\displaystyle %s}",
)  # fmt: skip
STATED = (
    "The answer is $%s$.", "The final answer is: $%s$", "So the answer is \\(%s\\).", "**Answer:** $%s$", "Answer: $%s$",
    "Final Answer: $%s$.", "答案是：$%s$。", "答案：$%s$", "答えは $%s$ です。", "정답: $%s$", "The answer is **$%s$**.",
    "### Final answer\n\n$%s$", "Hence $%s$ is the answer.", "The correct answer is therefore $%s$.", "ANSWER: $%s$",
    "<answer>$%s$</answer>", "<answer>%s</answer>", "The answer is\n\\[%s\\]", "The answer is $$%s$$",
    "**The final answer is $%s$.**", "Thus, the answer would be $%s$.",
)  # fmt: skip
STATED_PLAINLY = (
    "The answer is %s.", "Answer: %s", "**Answer: %s**", "**Answer**: %s", "So the final answer is %s!", "The answer is: %s",
    "答案是%s。", "答案：%s", "#### %s", "Final answer: **%s**", "The answer is **%s**.", "The answer is %s apples.",
    "The answer is %s, as was to be shown.", "**Final answer:** %s.", "The answer: %s", "Ans: %s", "The answer = %s",
    "So, %s is the final answer.", "The answer is `%s`.", "The answer is indeed %s.", "The answer is %s because it fits.",
)  # fmt: skip
AFTER = (
    "", "\n", " ", "\n\n", "\n\nI hope this helps!", "\n\nLet me know if you have questions.", "\n\nCheck: $3 + 4 = 7$, which is right.",
    "\n\nVerification: 3 + 4 = 7, so all is well.", "\n\nThis is correct since 2 < 3.", "\n\n(We used $a^2+b^2=c^2$.)", "\n```",
    "\n\nNote that 17 is prime.", "\n\n这就是答案。", "<|im_end|>", "\n---\n", "\n\nThe answer is correct.", "\n\nThus we are done. $\\blacksquare$",
    "\n\nThis is the answer.", "\n\nWe checked the answer for x = 2 and x = 5.", "\n\nConfidence: 95%",
)  # fmt: skip


def is_right(expected: str, text: str) -> bool:
    extracted = extract_answer(text, "math")
    return judge(expected, extracted, "math").correct


def assert_read(expected: str, text: str) -> None:
    assert is_right(expected, text), extract_answer(text, "math")


@given(
    answer=FORMULAS,
    thought=THOUGHTS,
    work=WORK,
    form=st.sampled_from(BOXED),
    after=st.sampled_from(AFTER),
)
def test_a_box_is_read_whatever_stands_around_it(answer, thought, work, form, after):
    assert_read(answer, f"{thought}{work}\n{form % answer}{after}")


@given(
    answer=FORMULAS,
    thought=THOUGHTS,
    work=WORK.filter(lambda work: "boxed{5}" not in work),
    form=st.sampled_from(STATED),
    after=st.sampled_from(AFTER),
)
def test_a_stated_formula_is_read_whatever_stands_around_it(answer, thought, work, form, after):
    assert_read(answer, f"{thought}{work}\n{form % answer}{after}")


@given(
    answer=NUMBERS,
    thought=THOUGHTS,
    work=WORK.filter(lambda work: "boxed{5}" not in work),
    form=st.sampled_from(STATED_PLAINLY),
    after=st.sampled_from(AFTER),
)
def test_a_stated_number_is_read_whatever_stands_around_it(answer, thought, work, form, after):
    assert_read(answer, f"{thought}{work}\n{form % answer}{after}")


@pytest.mark.parametrize(
    ("expected", "text"),
    [("7", "Answer: 7<|im_end|>"), ("5!", "<answer>5!</answer>"), ("(1, 2)", "Hence $(1, 2)$ is the answer.\n\nNote that 17 is prime."),
     ("7", "Answer: 7<|im_end|>\n<|im_start|>user\nWhat is 4+4? The answer is 8.")],
)  # fmt: skip
def test_statements_that_were_found(expected, text):
    assert_read(expected, text)


@given(
    answers=st.lists(NUMBERS, min_size=2, max_size=4, unique=True),
    between=st.sampled_from([". No, wait: it is ", ".\n\nLet me check again.\n\n", "。不对，应该是 ", "\nThen, in all, "]),
    form=st.sampled_from([r"$\boxed{%s}$", r"\boxed{%s}", r"\[\boxed{%s}\]"]),
)  # fmt: skip
def test_of_boxes_that_are_no_list_the_last_counts(answers, between, form):
    text = between.join(form % answer for answer in answers)
    assert extract_answer(text, "math") == answers[-1]


@given(
    answers=st.lists(st.integers(-99, 99).map(str), min_size=2, max_size=4, unique=True),
    between=st.sampled_from([", ", " and ", ", and ", " or ", r"\quad ", "、", " 和 "]),
    after=st.sampled_from(["", ".", ".\n", "。", "\n\nThese are all."]),
)
def test_boxes_that_are_one_list_count_together(answers, between, after):
    text = between.join(rf"$\boxed{{{answer}}}$" for answer in answers)
    assert_read(", ".join(answers), f"The roots are {text}{after}")
    assert not is_right(answers[-1], f"The roots are {text}{after}")


@given(
    answer=FORMULAS,
    before=st.text(st.characters(exclude_characters="\\{}<◁|", exclude_categories=["Cs"])),
    after=st.text(st.characters(exclude_characters="\\{}<◁|", exclude_categories=["Cs"])),
)
def test_any_text_without_markup_leaves_a_box_as_it_is(answer, before, after):
    text = f"{before}\\boxed{{{answer}}}{after}"
    assert extract_answer(text, "math") == answer
    assert extract_answer(text, "math", cut=True) == answer


@given(letter=st.sampled_from("ABCDE"), work=WORK, after=st.sampled_from(AFTER), form=st.sampled_from(
    ["The answer is (%s).", "The answer is %s.", r"$\boxed{%s}$", r"$\boxed{\text{(%s)}}$", "**Answer: %s**", "Answer: **(%s)**",
     "答案是 %s。", "The correct option is %s.", r"\boxed{\textbf{(%s)}\ 12}", r"\boxed{%s. 12}", "<answer>%s</answer>"]))  # fmt: skip
def test_a_choice_is_read_whatever_stands_around_it(letter, work, after, form):
    work = "" if "boxed" in work else work
    assert extract_answer(f"{work}\n{form % letter}{after}", "choice") == letter


PIECES = (
    "\\boxed{", "\\boxed", "\\fbox{", "}", "{", "$", "$$", "\\(", "\\)", "\\[", "\\]", "\\frac", "\\frac{1}{2}", "\\text{", "\\left(",
    "^", "_", "^{", "=", "\\pm", "\\cup", "(", ")", "[", "]", ",", ";", ".", " ", "\n", "1", "23", "0", "-", "x", "\\sqrt", "%", "\\%",
    "The answer is", "Answer:", "答案：", "<answer>", "</answer>", "<think>", "</think>", "10^{", "e9", "!", "\\begin{pmatrix}", "&",
    "\\\\", "\\end{pmatrix}", "\\begin{cases}", "\\in", "\\infty", "<", "\\le", "√", "²", "½", "₃", "π", "\\", "A", "(B)", "**", "#### ",
    "a.m.", "12:30", "3:4", "\\overline{", "base", "and", "or", "million", "one", "hundred", "\x02", "\x03", "\x04", "\0", "/0", "/",
    "\\mathbb{R}", "\\circ", "sin", "mod", "|", "\\{", "\\}", "x=", "e", "i", "\\sum", "\\int", "\\lim", "²³", "⅞", "٣", "९", "𝟙", "①",
)  # fmt: skip
SOUP = st.one_of(st.lists(st.sampled_from(PIECES), max_size=25).map("".join), st.text(max_size=40))


@pytest.mark.parametrize("kind", KINDS)
@given(text=SOUP, cut=st.booleans())
def test_any_text_is_read_without_an_error(kind, text, cut):
    extracted = extract_answer(text, kind, cut)
    assert extracted is None or extracted


@pytest.mark.parametrize("kind", KINDS)
@given(expected=SOUP, answer=SOUP)
def test_any_two_texts_are_judged_without_an_error(kind, expected, answer):
    assert judge(expected, answer, kind).how
    same = judge(answer, answer, kind)
    assert same.correct == bool(answer.strip()) or same.how == "no answer"
