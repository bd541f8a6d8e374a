import threading

import pytest
from lr_ray.evaluation.benchmarks import load

from lr_ray.config import Evaluation
from lr_ray.errors import UserError
from lr_ray.evaluation.client import Answer, request
from lr_ray.evaluation.grading import extract_answer, is_correct
from lr_ray.evaluation.stage import grade, summarise


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
        (r"First \boxed{1}, so \boxed{ \frac{1}{2} } of 7.", r"\frac{1}{2}"),
        (r"\boxed{\text{(A)}}", r"\text{(A)}"),
        (r"\boxed{3}. Again: \boxed{\frac{1", "3"),
        ("She pays 1,250.50 of 2000 dollars, 3/4.", "3/4"),
        ("It costs $1,250.", "1,250"),
        ("x is -7", "-7"),
        ("nothing", None),
    ],
)
def test_other_benchmarks_prefer_the_last_closed_box_to_the_last_number(completion, answer):
    assert extract_answer(completion, "gsm8k") == answer


@pytest.mark.parametrize(
    ("expected", "extracted"),
    [
        ("8", "8"),
        ("8", " 08 "),
        ("1000", "1,000"),
        ("8", "8.0"),
        ("0.5", r"\frac{1}{2}"),
        (r"\frac{\sqrt{2}}{2}", r"\frac{1}{\sqrt{2}}"),
        ("x^2+1", "1+x^2"),
        ("(1, 2)", "(1,2)"),
        ("18", r"\$18"),
        (r"50\%", "0.5"),
    ],
)
def test_equal_answers_in_different_forms_are_correct(expected, extracted):
    assert is_correct(expected, extracted)


@pytest.mark.parametrize(
    ("expected", "extracted"),
    [
        ("8", "80"),
        ("8", "-8"),
        ("8", None),
        ("8", ""),
        ("8", "not a number {"),
        ("0.5", r"\frac{1}{3}"),
        ("x^2+1", "x^2-1"),
        ("(1, 2)", "(2, 1)"),
    ],
)
def test_different_answers_are_wrong(expected, extracted):
    assert not is_correct(expected, extracted)


def test_equivalence_is_found_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.append(is_correct("0.5", r"\frac{1}{2}")))
    thread.start()
    thread.join()
    assert verdicts == [True]


def test_table_grades_each_model_on_its_own_answers():
    rows = [
        {"problem_id": "a", "problem": "How many?", "answer": "8"},
        {"problem_id": "b", "problem": "How few?", "answer": "3"},
    ]
    answers = {
        "expert": [Answer("The answer is 7.", "stop"), Answer("The answer is 3.", "stop")],
        "improved": [Answer("The answer is 8.", "stop"), Answer("3+", "length")],
    }
    table = grade("demo", rows, answers)
    assert table.to_pylist()[1] == {
        "problem_id": "b",
        "problem": "How few?",
        "expected": "3",
        "expert_completion": "The answer is 3.",
        "expert_answer": "3",
        "expert_correct": True,
        "expert_finish_reason": "stop",
        "improved_completion": "3+",
        "improved_answer": None,
        "improved_correct": False,
        "improved_finish_reason": "length",
    }
    assert table["improved_correct"].to_pylist() == [True, False]
    summary = summarise(table, seed=0)
    assert (summary["expert"], summary["improved"], summary["difference"]) == (0.5, 0.5, 0.0)


def test_requests_differ_in_nothing_but_the_model():
    evaluation = Evaluation(max_new_tokens=99, system_prompt="Be brief.")
    first, second = (request(m, "How many?", evaluation, [2]) for m in ("expert", "improved"))
    assert first.pop("model") == "expert"
    assert second.pop("model") == "improved"
    assert first == second
    assert first["temperature"] == 0
    assert first["max_tokens"] == 99
    assert [m["role"] for m in first["messages"]] == ["system", "user"]
    assert first["extra_body"]["stop_token_ids"] == [2]


def test_requests_without_stop_ids_are_plain_openai():
    assert "extra_body" not in request("m", "How many?", Evaluation())


def test_a_prefill_is_continued_rather_than_answered():
    body = request("m", "How many?", Evaluation(prefill="Step by step."), [2])
    assert body["messages"][-1] == {"role": "assistant", "content": "Step by step."}
    extension = body["extra_body"]
    assert (extension["add_generation_prompt"], extension["continue_final_message"]) == (
        False,
        True,
    )
    assert extension["stop_token_ids"] == [2]


def test_demo_rows_are_bounded_and_answered():
    rows = load("demo", Evaluation(max_problems=5))
    assert len(rows) == 5
    assert all(is_correct(row["answer"], row["answer"]) and row["problem"] for row in rows)
    assert rows == load("demo", Evaluation(max_problems=8))[:5]
    assert rows != load("demo", Evaluation(max_problems=5, seed=1))


def test_unknown_benchmark_is_named_with_the_known_ones():
    with pytest.raises(UserError, match=r"evaluation\.benchmarks: 'dmo' .* demo"):
        load("dmo", Evaluation())
