"""The benchmarks' rows become questions and answers as the evaluation toolkit has them."""

import pytest

from lr_ray.config import Evaluation
from lr_ray.errors import UserError
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.problems import PROBLEM, check_source, hub
from lr_ray.problems.benchmarks import BENCHMARKS, last_boxed
from lr_ray.problems.rows import UnusableRowError
from lr_ray.problems.sources import benchmark
from tests.unit.problem_sources import BENCHMARKS as FOLDER
from tests.unit.problem_sources import config_of, count, jsonl, needs_benchmarks, rejections, stage

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
    ("commonsense_qa", {"question": "Q", "choices": {"label": list("ABCDE"), "text": list("vwxyz")}, "answerKey": "E"}, "Q\nAnswer Choices: (A) v (B) w (C) x (D) y (E) z", "E"),
    ("arc_challenge", {"question": "Q", "choices": {"text": list("wxyz"), "label": list("1234")}, "answerKey": "3"}, "Q\nAnswer Choices: (A) w (B) x (C) y (D) z", "C"),
    ("arc_challenge", {"question": "Q", "choices": {"text": list("abcdefghij"), "label": list("ABCDEFGHIJ")}, "answerKey": "J"},
     "Q\nAnswer Choices: (A) a (B) b (C) c (D) d (E) e (F) f (G) g (H) h (I) i (J) j", "J"),
    ("hellaswag", {"ctx": "Two men row. They", "endings": list("wxyz"), "label": "1"}, "Two men row. They\nWhich ending is the most likely one?\nAnswer Choices: (A) w (B) x (C) y (D) z", "B"),
    ("aime24", {"id": 60, "problem": "P", "solution": r"\boxed{204}"}, "P", "204"),
    ("aime25", {"id": "0", "problem": "P", "answer": "70"}, "P", "70"),
    ("amc23", {"id": 0, "question": "P", "answer": 27.0}, "P", "27"),
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
        ("commonsense_qa", {"question": "a", "choices": {"label": ["A"], "text": ["x"]}, "answerKey": "B"}, "choices has no label 'B'"),
        ("arc_challenge", {"question": "a", "choices": {"label": list("ABCDEFGHIJK"), "text": list("ABCDEFGHIJK")}, "answerKey": "A"}, "11 choices and the answer is number 1; must have 2 to 10 choices"),
        ("hellaswag", {"ctx": "a", "endings": list("wxyz"), "label": ""}, "label is ''; must be the number of one of the endings"),
        ("hellaswag", {"ctx": "a", "endings": list("wxyz"), "label": "4"}, "4 choices and the answer is number 5"),
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


@needs_benchmarks
def test_a_science_is_sampled_on_some_subjects_and_held_out_on_others(tmp_path):
    sampled = stage(tmp_path, "mmlu_stem:chemistry+astronomy", split="test", data_dir=str(FOLDER))
    ids = set(sampled.read_tables(sampled.shards("problems"), PROBLEM)["problem_id"].to_pylist())
    [held_out, all_of_it] = load_tasks(
        Evaluation(benchmarks=["mmlu_stem:physics", "mmlu_stem"], data_dir=str(FOLDER))
    )
    others = {row["problem_id"] for row in held_out.rows}
    assert (len(ids), len(held_out.rows)) == (455, 488)
    assert not ids & others
    assert ids | others < {row["problem_id"] for row in all_of_it.rows}
    assert (held_out.kind, held_out.name) == ("choice", "mmlu_stem_physics")


@pytest.mark.parametrize("source", ["mmlu_stem", "mmlu_stem:physics"])
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"subject": ["college_physics"]}, "subject is a list; must be a string"),
        ({"subject": {}}, "subject is an object; must be a string"),
        ({"type": None}, "type is null; must be a string"),
    ],
)
def test_a_subject_that_is_no_text_is_named(tmp_path, source, row, message):
    row = row | {"question": "1?", "choices": ["1", "2", "3", "4"], "answer": 0}
    (tmp_path / "mmlu_stem").mkdir()
    jsonl(tmp_path / "mmlu_stem" / "test.jsonl", [row])
    with pytest.raises(
        UserError, match=rf"^evaluation\.benchmarks: .*test\.jsonl, row 1: {message}$"
    ):
        load_tasks(Evaluation(benchmarks=[source], data_dir=str(tmp_path)))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("mmlu_stem:phisics", "mmlu_stem has no subject 'phisics'; did you mean "),
        (
            "mmlu_stem:law",
            "mmlu_stem has no subject 'law'; give some of abstract_algebra, astronomy, ",
        ),
        ("gsm8k:algebra", "gsm8k has no subject 'algebra'; it has none"),
    ],
)
def test_a_subject_that_is_not_there_is_named(source, message):
    with pytest.raises(UserError) as error:
        check_source(config_of(source, split="test"))
    assert str(error.value).startswith(f"data.source: {source}: {message}")
    with pytest.raises(UserError) as error:
        load_tasks(Evaluation(benchmarks=[source]))
    assert str(error.value).startswith(f"evaluation.benchmarks: {source}: {message}")


@pytest.mark.parametrize(
    ("name", "shown", "split"),
    [
        ("commonsense_qa", "tau/commonsense_qa", "test"),
        ("hellaswag", "Rowan/hellaswag", "train"),
        ("arc_challenge", "allenai/ai2_arc:ARC-Challenge", "test"),
        ("aime24", "math-ai/aime24", "test"),
        ("aime25", "math-ai/aime25", "test"),
        ("amc23", "math-ai/amc23", "test"),
    ],
)
def test_a_benchmark_is_asked_of_the_hub_by_its_name(monkeypatch, name, shown, split):
    """No network here: what is asked is seen, and a folder laid out like the set is read above."""
    asked = []
    monkeypatch.setattr(hub, "read", lambda *of: asked.append(of) or iter(()))
    assert list(benchmark(name, split, None, "data").problems()) == []
    source, _, config = shown.partition(":")
    there = {"commonsense_qa": "validation"}.get(name, split)
    assert asked == [(source, config or None, there, None)]
