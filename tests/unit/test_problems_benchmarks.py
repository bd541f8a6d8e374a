"""The benchmarks' rows become questions and answers as the evaluation toolkit has them."""

import pytest

from lr_ray.problems import PROBLEM
from lr_ray.problems.benchmarks import BENCHMARKS, last_boxed
from lr_ray.problems.rows import UnusableRowError
from tests.unit.problem_sources import BENCHMARKS as FOLDER
from tests.unit.problem_sources import count, needs_benchmarks, rejections, stage

ROWS = [
    ("gsm8k", {"question": " How many? ", "answer": "1+1=2\n#### 1,234"}, "How many?", "1234"),
    ("math", {"problem": "$x$?", "solution": r"So \boxed{1}. Thus $\boxed{\frac{1}{2}}$."}, "$x$?", r"\frac{1}{2}"),
    ("math500", {"problem": "$x$?", "solution": "-", "answer": "p - q"}, "$x$?", "p - q"),
    ("svamp", {"Body": "Dan has 2 pens", "Question": "How many?", "Answer": 2.0}, "Dan has 2 pens. How many?", "2"),
    ("svamp", {"Body": "Dan has 2 pens. ", "Question": "How many?", "Answer": "2.0"}, "Dan has 2 pens. How many?", "2"),
    ("asdiv", {"body": "Two pens.", "question": "How many?", "answer": "9 (apples)"}, "Two pens. How many?", "9"),
    ("minerva_math", {"problem": "T?", "solution": r"\[ \boxed{4.5e33} \mathrm{K} \]"}, "T?", "4.5e33"),
    ("minerva_math", {"question": "T?", "answer": "4.5e33"}, "T?", "4.5e33"),
    ("olympiadbench", {"question": "N?", "final_answer": ["2"]}, "N?", "2"),
    ("mmlu_stem", {"question": "Q", "subject": "astronomy", "choices": ["w", "x", "y", "z"], "answer": 2}, "Q\nAnswer Choices: (A) w (B) x (C) y (D) z", "C"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "row", "problem", "answer"), ROWS)
def test_row_becomes_problem_and_answer(name, row, problem, answer):
    found = BENCHMARKS[name].convert(row)
    assert (found.problem, found.answer) == (problem, answer)


def test_rows_outside_a_benchmark_are_left_out():
    several = {"body": "a", "question": "b", "answer": "1; 2"}
    law = {"question": "Q", "subject": "jurisprudence", "choices": list("wxyz"), "answer": 0}
    assert BENCHMARKS["asdiv"].convert(several) is None
    assert BENCHMARKS["mmlu_stem"].convert(law) is None


@pytest.mark.parametrize(
    ("name", "row", "reason"),
    [
        ("gsm8k", {"question": "a"}, "no field 'answer'; there are 'question'"),
        ("gsm8k", {"question": "a", "answer": "2"}, "answer has no '####'"),
        ("math", {"problem": "a", "solution": r"\boxed{1"}, "solution has no \\boxed{}"),
        ("olympiadbench", {"question": "a", "final_answer": None}, "final_answer is null"),
        ("mmlu_stem", {"question": "a", "type": "astronomy", "choices": ["a"], "answer": 0}, "choices is a list; must be a list of four"),
        ("mmlu_stem", {"question": "a", "type": "astronomy", "choices": list("abcd"), "answer": 1.0}, "answer is 1.0; must be 0, 1, 2 or 3"),
        ("mmlu_stem", {"question": "a", "type": "astronomy", "choices": list("abcd"), "answer": "A"}, "answer is 'A'; must be 0, 1, 2 or 3"),
    ],
)  # fmt: skip
def test_malformed_row_says_what_is_wrong(name, row, reason):
    with pytest.raises(UnusableRowError) as error:
        BENCHMARKS[name].convert(row)
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("solution", "answer"),
    [
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{a}{b}}", r"\frac{a}{b}"),
        (r"\boxed{\left\{ x \right.} end", r"\left\{ x \right."),
        (r"\fbox{3}", "3"),
        (r"$\boxed 4$ end", "4"),
        (r"\boxed{5} and an open \boxed{6", "5"),
        ("none", None),
    ],
)
def test_last_boxed(solution, answer):
    assert last_boxed(solution) == answer


SIZES = [
    ("gsm8k", "train", 7473, 0),
    ("gsm8k", "test", 1319, 0),
    ("math500", "test", 500, 0),
    ("svamp", "test", 1000, 0),
    ("asdiv", "test", 2214, 1),
    ("minerva_math", "test", 272, 0),
    ("olympiadbench", "test", 675, 0),
    ("mmlu_stem", "test", 3006, 12),
]


@needs_benchmarks
@pytest.mark.parametrize(("name", "split", "problems", "repeats"), SIZES)
def test_benchmark_stages_whole_but_for_repeats(tmp_path, name, split, problems, repeats):
    run = stage(tmp_path, name, split=split, data_dir=str(FOLDER))
    assert count(run) == (problems, repeats)
    assert all(bad["reason"].startswith("duplicate of row") for bad in rejections(run))
    table = run.read_tables(run.shards("problems"), PROBLEM)
    assert table["answer"].null_count == 0
    assert min(map(len, table["answer"].to_pylist())) > 0
    assert table["problem_id"][0].as_py().startswith(f"{name}/{split}/")


@needs_benchmarks
def test_gsm8k_answers_are_numbers(tmp_path):
    run = stage(tmp_path, "gsm8k", data_dir=str(FOLDER))
    for answer in run.read_tables(run.shards("problems"), PROBLEM)["answer"].to_pylist():
        float(answer)
