import subprocess
import sys
import time

import pytest

from lr_ray.grading.boxed import last_boxed
from lr_ray.grading.choices import choice_letter
from lr_ray.grading.reading import extract_answer
from lr_ray.problems.benchmarks import grader_of


def test_kinds_of_benchmarks():
    assert [grader_of(name) for name in ("demo", "mmlu_stem", "gsm8k", "a.jsonl")] == [
        "demo", "choice", "math", "math",
    ]  # fmt: skip


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: 'gsm8k'"):
        extract_answer("8", "gsm8k")


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("Step by step. 10+6=16. 16/2=8. The answer is 8.", "8"),
        ("The answer is 4. The answer is 12.", "12"),
        ("The answer is -3.", "-3"),
        ("The answer is 4", None),
        ("The answer is 4.5", None),
        ("10+6=16.", None),
        ("", None),
    ],
)
def test_demo_answer_is_the_last_finished_statement(completion, answer):
    assert extract_answer(completion, "demo") == answer


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        # boxes
        (r"First \boxed{1}, so \boxed{ \frac{1}{2} } of 7.", r"\frac{1}{2}"),
        (r"\boxed{\text{(A)}}", r"\text{(A)}"),
        (r"\boxed{3}. Again: \boxed{\frac{1", "3"),
        (r"It is 5, so \boxed{12", "5"),
        (r"so \boxed{12", None),
        (r"\fbox{7}", "7"),
        (r"so $\boxed 7$.", "7"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{}", None),
        (r"\boxed{x} and the answer is 5.", "x"),
        # as few-shot prompts of Minerva end
        (
            "Final Answer: The final answer is $3$. I hope it is correct.\n\nThe final answer is $4$. I hope",
            "3",
        ),
        (r"\boxed{2}. The final answer is $\frac{1}{2}$. I hope it is correct.", r"\frac{1}{2}"),
        # statements
        ("I get 1/2. The answer is 42. I hope it is correct.", "42"),
        ("The answer is 3.5.", "3.5"),
        ("The answer is -3.5", "-3.5"),
        ("The answer is: **12 apples**.", "12 apples"),
        (r"The final answer is $\frac12$ cm.", r"\frac12"),
        (r"The answer is therefore \(x^2\).", "x^2"),
        ("the answer is 11:45 p.m. Thanks.", "11:45 p.m"),
        ("The answer is 9 p.m.", "9 p.m."),
        ("The answer is Mrs. Hilt. She won.", "Mrs. Hilt"),
        ("The answer is x. I hope", "x"),
        ("The answer is 7\nProblem: 8", "7"),
        ("the answer is 4. No: the answer is 5.", "5"),
        ("答案是 5。 所以 6", "5"),
        # the last number
        ("She pays 1,250.50 of 2000 dollars, 3/4.", "3/4"),
        ("It costs $1,250.", "1,250"),
        ("The sides are 1,2,3", "3"),
        ("x is -7", "-7"),
        ("5-3", "3"),
        ("it is .5 then", ".5"),
        ("1+1=2\n#### 1,234", "1,234"),
        ("nothing", None),
        ("", None),
    ],
)
def test_answer_of_a_problem(completion, answer):
    assert extract_answer(completion, "math") == answer


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        (r"so \boxed{B}", "B"),
        (r"so \boxed{\text{(C)}}", "C"),
        (r"\boxed{\textbf{D.}\ 12}", "D"),
        (r"the answer is A, no: \boxed{B}", "B"),
        (r"\boxed{5}, which is choice (C)", "C"),
        ("The answer is (B).", "B"),
        ("the answer is b", "B"),
        ("The correct choice is **D**", "D"),
        ("The answer is 5, which is (C) here", "C"),
        ("Answer: C", "C"),
        ("C. because of symmetry", "C"),
        ("I think A is right", "A"),
        ("A car moves past a tree", None),
        ("a triangle with sides b and c", None),
        ("Therefore, E = mc^2", None),
        ("(A) 5 (B) 6\n\nIt is 6, so B", "B"),
        ("nothing", None),
    ],
)
def test_choice(completion, letter):
    assert extract_answer(completion, "choice") == letter


def test_a_choice_is_one_letter_at_the_start():
    assert [choice_letter(t) for t in ("B", "(b)", "B. 12", "Bob", "12", "b^2", "")] == [
        "B", "B", "B", None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{\boxed{3}}", "3"),
        (r"\boxed{1} } \boxed{2}", "2"),
        (r"{ { \boxed{1}", "1"),
        (r"a\\\boxed{4}", "4"),
        ("no box", None),
        (r"\boxed{1", None),
    ],
)
def test_the_last_closed_box(text, content):
    assert last_boxed(text) == content


@pytest.mark.parametrize("kind", ["math", "choice", "demo", "exact"])
@pytest.mark.parametrize(
    "text",
    [r"\boxed{" * 20_000, r"\boxed 1" * 20_000, "{" * 100_000, "\\" * 100_000, "1," * 50_000,
     "the answer is " * 10_000, "$" * 50_000, "1" * 100_000, "(A) " * 30_000, "1/" * 50_000, "-" * 50_000,
     "The answer is " + "thus, " * 20_000, "final answer is $x " * 6_000, "\n" * 100_000, " " * 100_000,
     "Answer: " + "\n" * 100_000, r"\boxed" * 20_000, r"\boxed{} " * 12_000, r"\boxed{1}, " * 12_000,
     "<answer>" * 12_000, "<think>" * 12_000, "√" * 100_000, "((1" * 30_000, "#" * 100_000, "a_" * 50_000,
     "The answer is correct. " * 5_000, "B is wrong. " * 8_000, "A or B " * 14_000, "x\u2074" * 30_000,
     "The answer is 1. No, wait, wrong, sorry: " * 4_000, "if the answer is 1, " * 8_000, "1 = 2 a b " * 15_000,
     "The answer is 1? " * 8_000, "between 5 and " * 10_000, "x=1 is rejected " * 8_000, "1,23," * 30_000,
     "5 m s kg " * 15_000, "1 x 2 = " * 15_000, "5! = " * 20_000, "is minus " * 15_000,
     "= 75 in the first " * 7_000, "= 2 for making all to read of 3 a b" + " in the" * 20_000, "la respuesta es " * 8_000,
     "respuesta " * 12_000, "错了不对" * 30_000, "is between 5 and 6 " * 7_000, "reject x = -1, " * 8_000,
     "not \\boxed{1} " * 8_000, "1 und 2 oder " * 9_000],
)  # fmt: skip
def test_reading_takes_time_in_proportion(kind, text):
    started = time.process_time()  # whatever else the machine does
    extract_answer(text, kind)
    assert time.process_time() - started < 5


def test_importing_takes_no_heavy_package():
    code = (
        "import sys, lr_ray.grading.reading\n"
        "print({'sympy', 'math_verify', 'torch', 'ray', 'pyarrow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("completion", "kind", "whole", "cut"),
    [
        ("Step 13. Step 14", "math", "14", None),
        ("The answer is 12", "math", "12", None),
        ("The answer is 12. Let me check that it", "math", "12", "12"),
        (r"So \boxed{12}", "math", "12", "12"),
        (r"<think>It may be \boxed{41}, but", "math", "41", None),
        (r"\boxed{7} or rather \boxed{1", "math", "7", "7"),
        ("So it is (B) or (C", "choice", "B", None),
        ("The answer is B. As I", "choice", "B", "B"),
        ("The answer is 1.", "demo", "1", "1"),
    ],
)
def test_a_cut_completion_answers_only_by_what_is_whole(completion, kind, whole, cut):
    assert extract_answer(completion, kind) == whole
    assert extract_answer(completion, kind, cut=True) == cut


@pytest.mark.parametrize("said", ["❌✅\n✅❌", "+", "[]", ")", ">=", "∅"])
def test_an_answer_of_signs_is_read_from_its_tag(said):
    text = f"Put it in <answer></answer>, as in <answer>...</answer>:\n<answer> {said} </answer>"
    assert extract_answer(text, "exact") == said
    assert extract_answer(f"{text} So are <answer>[answer]</answer> tags.", "exact") == said


def test_a_tag_of_signs_that_are_no_mathematics_is_none():
    assert extract_answer("<answer>∞</answer>", "math") == "∞"
    assert extract_answer("<answer>7</answer> <answer>[]</answer>", "math") == "7"
