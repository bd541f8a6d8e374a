import itertools
import subprocess
import sys
import threading
import time

import pytest

from benchmarks.grading_forms import FORMS
from lr_ray.grading.judging import is_correct, judge, judge_exactly, must_be
from lr_ray.grading.latex import tidy
from lr_ray.grading.reading import extract_answer
from lr_ray.problems.benchmarks import grader_of
from lr_ray.problems.rows import Problem
from lr_ray.problems.sources import benchmark
from tests.unit.problem_sources import BENCHMARKS, needs_benchmarks

SETS = ("gsm8k", "math500", "svamp", "asdiv", "minerva_math", "olympiadbench", "mmlu_stem")


def test_forms_are_many_and_of_both_sorts():
    assert len(FORMS) >= 60
    assert len(set(FORMS)) == len(FORMS)
    assert min(sum(f.equal for f in FORMS), sum(not f.equal for f in FORMS)) > 40


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f"{f.kind}: {f.expected} | {f.extracted}")
def test_a_form_is_judged_as_what_it_is(form):
    verdict = judge(form.expected, form.extracted, "math")
    assert verdict.correct == form.equal, verdict
    assert (verdict.how == "different") == (not form.equal)
    exact = judge_exactly(form.expected, form.extracted, "math")
    assert exact in (None, verdict)


@pytest.mark.parametrize("form", [f for f in FORMS if f.kind not in ("unit", "base", "choice")])
def test_most_forms_are_judged_alike_the_other_way_round(form):
    """Not units, bases and what stands by a choice: an answer may leave or add those, and no more."""
    assert is_correct(form.extracted, form.expected, "math") == form.equal


@pytest.mark.parametrize(
    ("expected", "extracted", "how"),
    [
        ("8", " 8 ", "same text"),
        (r"\frac{1}{2}", r"\dfrac12", "same text"),
        ("1000", "1,000", "same number"),
        ("1,-2", "-2,1", "equivalent"),
        ("x^2+1", "1+x^2", "equivalent"),
        ("8", "9", "different"),
        ("8", "not a number {", "different"),
        ("8", None, "no answer"),
        ("8", "  ", "no answer"),
        (r"\text{(B)}", "(B) 12", "same choice"),
        ("8", "1" * 2001, "too large"),
        ("8", "(" * 1000 + "8" + ")" * 1000, "too large"),
    ],
)
def test_a_verdict_says_how(expected, extracted, how):
    assert judge(expected, extracted, "math").how == how


@pytest.mark.parametrize(
    ("expected", "extracted", "correct", "how"),
    [
        ("8", "8", True, "same text"),
        ("1000", "1,000", True, "same number"),
        ("8", "08", True, "same number"),
        ("8", "8.0", True, "same number"),
        ("8", r"\frac{16}{2}", False, "different"),
        ("8", "-8", False, "different"),
        ("8", None, False, "no answer"),
    ],
)
def test_demo_answers_are_integers(expected, extracted, correct, how):
    assert judge(expected, extracted, "demo") == (correct, how)


@pytest.mark.parametrize(
    ("extracted", "correct"),
    [("B", True), ("b", True), ("(B)", True), (r"\text{(B)}", True), ("B) 12", True), ("A", False),
     ("12", False), ("ABBA", False), ("b^2", False)],
)  # fmt: skip
def test_choices_are_compared_by_letter_alone(extracted, correct):
    assert is_correct("B", extracted, "choice") == correct


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="kind: 'gsm8k'"):
        judge("8", "8", "gsm8k")


def test_a_number_expected_is_not_its_text_alone():
    """An empty answer must not equal one that is empty once tidied."""
    assert not is_correct("$$", "$", "math")
    assert not is_correct("8", "$", "math")


def test_algebra_works_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(judge("x+1", "1+x", "math")))
    thread.start()
    thread.join()
    assert verdicts == [(True, "equivalent")]


def test_exact_rules_import_no_sympy():
    code = (
        "import sys; from lr_ray.grading.judging import judge; import lr_ray.grading.pool\n"
        "assert judge('1/2', '0.5', 'math').correct and judge('(1,2)', '(1, 2.0)', 'math').correct\n"
        "print({'sympy', 'math_verify', 'pebble', 'torch', 'ray'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@needs_benchmarks
@pytest.mark.parametrize("name", SETS)
def test_an_answer_of_a_benchmark_is_itself_and_not_the_next(name):
    """Every seventh problem; benchmarks/grading.py does all."""
    kind = grader_of(name)
    items = benchmark(name, "test", str(BENCHMARKS), "data").problems()
    rows = [item for item in items if isinstance(item, Problem)][::7]
    assert len(rows) > 35
    wrong, same, compared = [], [], 0
    for row, other in itertools.pairwise(rows):
        answer = extract_answer(rf"So $\boxed{{{row.answer.replace('$', '')}}}$.", kind)
        exact = judge_exactly(row.answer, answer, kind)
        if exact is None or not exact.correct:
            wrong.append((row.answer, answer))
        if tidy(row.answer) != tidy(other.answer):
            verdict = judge_exactly(other.answer, answer, kind)
            compared += 1
            if verdict is not None and verdict.correct:
                same.append((row.answer, other.answer))
    assert compared > 25
    assert not wrong
    assert not same


@pytest.mark.parametrize(
    "text",
    [
        r"\sum_{k=1",
        r"\sum_{k=1}^{4} k}",
        r"\begin{aligned} x=5",
        "{x=5",
        "{1=1=1",
        r"\sum_{k\in A} k",
    ],
)
def test_a_sign_of_equality_in_brackets_does_not_make_a_formula_too_large(text):
    assert judge("5", text, "math").how != "too large"
    assert judge(text, "5", "math").how != "too large"


@pytest.mark.parametrize(
    "text", ["there are ", "the answer is ", "1", "¾", r"\sin 3^\circ ", "two ", "a}", "x<"]
)
@pytest.mark.parametrize("around", ["%s", "{%s}", r"\sin %s", r"\{x | %s\}"])
def test_exact_rules_take_time_in_proportion(around, text):
    """They have no limit of time, for they run where the answers come in."""
    text = around % (text * 2000)[:1950]
    started = time.process_time()
    for expected in ("5", "(1,2)", "x<5", text + "1"):
        judge_exactly(expected, text, "math")
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    ("expected", "kind", "right"),
    [
        ("48 + 24 = <<48+24=72>>72 clips.\n#### 72", "math", "the answer alone, without its solution"),
        ("#### 72", "math", "the answer alone, without its solution"),
        ("So it is\n\\boxed{72}.", "math", "the answer alone, without its solution"),
        ("48 + 24 = 72\n#### 72", "number", "a number"),
        ("72\n#### 72", "exact", None),
        ("\n\\boxed{72}\n", "math", None),
        ("\\begin{pmatrix} 1 \\\\\n2 \\end{pmatrix}", "math", None),
    ],
)  # fmt: skip
def test_a_whole_solution_is_no_answer_to_judge_by(expected, kind, right):
    assert must_be(expected, kind) == right
