"""What graded tables say, and the page that shows it; nothing here starts Ray."""

import io
import json
import re
from types import SimpleNamespace

import pyarrow as pa
import pytest
from rich.console import Console

from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.results import LABELS, changed, macro, prompt_alone, summarise
from lr_ray.evaluation.tasks import Task
from lr_ray.grading.pool import Graders
from lr_ray.report import print_summary, terminal, write_page
from lr_ray.run.store import Run

EXPECTED = ["1", "2", "3", "4"]


def task(count: int = 4) -> Task:
    rows = tuple(
        {"problem_id": f"p{i}", "problem": f"<b>{i}?", "answer": EXPECTED[i]} for i in range(count)
    )
    return Task("sums", "math", (), rows)


def table(samples: int = 1, **said: list[str]) -> pa.Table:
    """`said[label]`: texts of answers; "cut" and "refused" are such endings."""
    ends = {"cut": "length", "refused": "refused"}
    answers = {
        label: [Answer(text, ends.get(text, "stop")) for text in texts]
        for label, texts in said.items()
    }
    with Graders() as graders:
        return grade(task(len(next(iter(said.values()))) // samples), answers, graders)


BOTH = {"expert": ["1", "2", "0", "cut"], "improved": ["1", "0", "3", "4"]}


def test_summary_of_two_models_has_the_contract_and_more():
    summary = summarise(table(**BOTH), ["expert", "improved"], seed=0)
    assert (summary["expert"], summary["improved"], summary["difference"]) == (0.5, 0.75, 0.25)
    assert summary["problems"] == 4
    expert = summary["models"]["expert"]
    assert (expert["answered"], expert["cut"], expert["refused"]) == (0.75, 0.25, 0.0)
    found = summary["differences"]["improved"]
    assert (found["gained"], found["lost"], found["mcnemar_p"]) == (2, 1, 1.0)
    assert found["difference_ci95"] == summary["difference_ci95"]


def test_any_number_of_models_is_compared_with_the_first():
    three = table(a=["1", "2", "0", "0"], b=["1", "2", "3", "0"], c=["0", "0", "0", "refused"])
    summary = summarise(three, ["a", "b", "c"], seed=0)
    assert {k: v["difference"] for k, v in summary["differences"].items()} == {"b": 0.25, "c": -0.5}
    assert summary["models"]["c"]["refused"] == 0.25
    assert "expert" not in summary
    alone = summarise(table(a=["1", "2", "0", "0"]), ["a"], seed=0)
    assert alone["differences"] == {}
    assert alone["models"]["a"]["accuracy"] == 0.5


def test_samples_are_averaged_and_voted():
    sampled = table(3, a=["1", "1", "0", "0", "9", "9", "cut", "3", "0"])
    summary = summarise(sampled, ["a"], seed=0)
    model = summary["models"]["a"]
    assert (summary["problems"], summary["samples"]) == (3, 3)
    assert model["accuracy"] == pytest.approx((2 / 3 + 0 + 1 / 3) / 3)
    assert model["pass_at_k"]["1"] == pytest.approx(model["accuracy"])
    assert model["pass_at_k"]["3"] == pytest.approx(2 / 3)
    assert model["characters"] == pytest.approx(11 / 9)
    # The second is outvoted; the third has a tie, and the right one came first.
    assert model["majority"] == pytest.approx(2 / 3)


def test_a_gain_may_go_with_more_tries():
    """The first solves both sometimes, the second one always."""
    two = table(2, a=["1", "0", "2", "0"], b=["1", "1", "0", "2"])
    found = summarise(two, ["a", "b"], seed=0)["differences"]["b"]
    at_k = {k: gain["difference"] for k, gain in found["pass_at_k"].items()}
    assert at_k == {"1": found["difference"], "2": 0}
    assert found["difference"] == 0.25
    assert found["majority"]["difference"] == -0.5  # the first has its right answers first
    low, high = found["majority"]["difference_ci95"]
    assert low <= -0.5 <= high <= 0
    assert "majority" not in summarise(table(**BOTH), ["expert", "improved"], seed=0)["differences"]


def test_a_samples_right_answers_are_one_answer_however_written():
    sampled = table(3, a=["\\boxed{1.0}", "\\boxed{1}", "\\boxed{7}", "\\boxed{2}", "9", "9"])
    assert summarise(sampled, ["a"], seed=0)["models"]["a"]["majority"] == 0.5


def test_a_samples_wrong_answers_are_one_answer_however_written():
    written = ["\\boxed{\\frac{5}{2}}", "\\boxed{\\dfrac52}", "\\boxed{$\\frac 52$}"]
    sampled = table(4, a=["1", *written])
    assert summarise(sampled, ["a"], seed=0)["models"]["a"]["majority"] == 0


def test_mean_over_tasks():
    tables = {"sums": table(**BOTH), "more": table(expert=["1"], improved=["1"])}
    found = macro(tables, ["expert", "improved"], seed=0)
    assert found["models"]["expert"]["accuracy"] == 0.75
    assert found["differences"]["improved"]["difference"] == 0.125


@pytest.mark.parametrize(
    ("changes", "shown"),
    [("ggggl", "ggl"), ("glll", "gll"), ("gggg", "ggg"), ("llll", "lll"), ("g", "g")],
)
def test_a_lost_problem_is_among_the_examples_where_there_is_one(monkeypatch, changes, shown):
    words = {"g": "gained", "l": "lost"}
    shared = {"problem": "?", "model": "improved"}
    shared |= {f"{m}_{p}": "1" for m in LABELS for p in ("correct", "completion")}
    rows = [{**shared, "problem_id": "p", "change": words[c]} for c in changes]
    monkeypatch.setattr(terminal, "changed", lambda table, labels: rows)
    console = Console(file=io.StringIO())
    terminal._print_changed(console, SimpleNamespace(answers=str), "sums", LABELS)
    told = re.findall(r"\((gained|lost)\)", console.file.getvalue())
    assert told == [words[c] for c in shown]


def test_changed_problems_are_listed_gained_ones_first():
    rows = changed(table(**BOTH), ["expert", "improved"])
    assert [(row["problem_id"], row["change"]) for row in rows] == [
        ("p2", "gained"), ("p3", "gained"), ("p1", "lost"),
    ]  # fmt: skip
    assert rows[0]["expert_answer"] == "0"
    assert rows[0]["improved_completion"] == "3"
    assert rows[0]["improved_verdict"]
    json.dumps(rows)


@pytest.fixture
def finished(tmp_path) -> tuple[Run, dict]:
    run, made = Run(str(tmp_path)), table(**BOTH)
    run.write_table("evaluation/sums.parquet", made)
    part = summarise(made, ["expert", "improved"], seed=0)
    conditions = {"system_prompt": "Box <it>.", "stop": []}
    summary = {
        "accuracy": {"sums": part},
        "accuracy_mean": macro({"sums": made, "again": made}, ["expert", "improved"], 0),
        "evaluation": {"answers": 8, "seconds": 1.5, "conditions": conditions},
        "seconds_total": 2.0,
    }
    write_page(run, summary)
    return run, summary


def test_page_shows_figures_conditions_and_changed_problems(finished, tmp_path):
    page = (tmp_path / "report.html").read_text()
    for shown in (
        "50.0%",
        "75.0%",
        "+25.0",
        "2 gained",
        "1 lost",
        "Box &lt;it&gt;.",
        "&lt;b&gt;2?",
    ):
        assert shown in page
    assert "<b>2?" not in page
    assert "src=" not in page  # everything is in the file
    assert "http" not in page.split("</style>")[1]


def test_terminal_shows_figures_and_one_line_a_changed_answer(finished, capsys):
    run, summary = finished
    print_summary(Console(highlight=False, width=200), run, summary)
    printed = capsys.readouterr().out
    assert "50.0% -> 75.0%   +25.0%" in printed
    assert "2 gained 1 lost" in printed
    assert "25.0% cut by the limit" in printed
    assert "p2 (gained) <b>2?" in printed


def test_page_and_terminal_show_gains_over_samples_and_drift(tmp_path, capsys):
    run = Run(str(tmp_path))
    made = table(2, expert=["1", "0", "2", "0"], improved=["1", "1", "0", "2"])
    run.write_table("evaluation/sums.parquet", made)
    right = {"expert": 1.234, "improved": None}
    expert = {"kl": 0.0, "perplexity": 20.5, "entropy": 0.41, "right_perplexity": right}
    models = {"expert": expert, "improved": expert | {"kl": 0.0321, "perplexity": 24.75}}
    summary = {
        "accuracy": {"sums": summarise(made, ["expert", "improved"], seed=0)},
        "evaluation": {"answers": 8, "seconds": 1.5},
        "drift": {"texts": 493, "answers": {"expert": 90, "improved": 95}, "models": models},
        "seconds_total": 2.0,
    }
    write_page(run, summary)
    page = (tmp_path / "report.html").read_text()
    assert "493 tokens of other texts" in page
    assert "90 and 95 tokens of the answers" in page
    for shown in ("0.0321", "24.8", "1.23", ">pass@2<", ">majority<", "-50.0 ["):
        assert shown in page
    print_summary(Console(highlight=False, width=200), run, summary)
    printed = capsys.readouterr().out
    assert "improved against expert: pass@1 +25.0% [" in printed
    assert "majority -50.0% [" in printed
    assert "KL 0.0321 nats, perplexity 20.5 -> 24.8 on 493 tokens of other texts" in printed
    assert "expert's 1.23 -> 1.23, improved's none -> none" in printed


def test_page_and_terminal_show_other_graders_and_where_they_disagree(tmp_path, capsys):
    rows = ({"problem_id": "p", "problem": "<b>?", "answer": "10000"},)
    said = {"expert": "10000", "improved": "10001"}
    answers = {label: [Answer(rf"\boxed{{{text}}}", "stop")] for label, text in said.items()}
    with Graders(workers=1, time_limit_s=60) as graders:
        made = grade(Task("sums", "math", (), rows), answers, graders, checks=["toolkit"])
    run = Run(str(tmp_path))
    run.write_table("evaluation/sums.parquet", made)
    summary = {
        "accuracy": {"sums": summarise(made, list(said), seed=0)},
        "evaluation": {"answers": 2, "seconds": 1.5},
        "seconds_total": 2.0,
    }
    write_page(run, summary)
    page = (tmp_path / "report.html").read_text()
    assert "by other graders" in page
    assert "1 answer judged otherwise by one" in page
    assert "toolkit: right, read <code>10001</code>" in page
    print_summary(Console(highlight=False, width=200), run, summary)
    printed = capsys.readouterr().out
    assert (
        "ours 100.0% -> 0.0%, toolkit 100.0% -> 100.0%; 1 answer judged otherwise by one" in printed
    )
    assert "p (improved) expects 10000: ours wrong by '10001', toolkit right by '10001'" in printed


def test_protocol_paper_is_judged_by_the_toolkits_rules_and_the_prompt_alone_by_ours(
    tmp_path, capsys
):
    rows = tuple(
        {"problem_id": f"p{i}", "problem": "?", "answer": a}
        for i, a in enumerate(("10000", r"\sqrt{8}"))
    )
    said = {  # the toolkit takes 10001 for 10000; 2 times the root of 2 takes algebra
        "expert": [r"\boxed{10001}", r"\boxed{2\sqrt{2}}"],
        "improved": [r"\boxed{10000}", r"\boxed{3}"],
    }
    answers = {of: [Answer(text, "stop") for text in texts] for of, texts in said.items()}
    with Graders(workers=1, time_limit_s=60) as graders:
        same = grade(Task("sums", "math", (), rows), answers, graders)
        paper = Task("sums-paper", "math", (), rows, protocol="paper")
        papers = grade(paper, answers, graders)
    assert papers["expert_correct"].to_pylist() == [True, True]
    assert papers["expert_ours_correct"].to_pylist() == same["expert_correct"].to_pylist()
    assert same["expert_correct"].to_pylist() == [False, True]
    assert papers["improved_correct"].to_pylist() == [True, False]
    alone = prompt_alone(same, papers, "expert", seed=0)
    assert (alone["same"], alone["paper"], alone["difference"]) == (0.5, 0.5, 0)
    run = Run(str(tmp_path))
    for name, table in (("sums", same), ("sums-paper", papers)):
        run.write_table(f"evaluation/{name}.parquet", table)
    summary = {
        "accuracy": {
            "sums": summarise(same, list(said), seed=0),
            "sums-paper": {**summarise(papers, list(said), seed=0), "protocol": "paper"},
        },
        "prompt_alone": {"sums": alone | {"same": 0.384, "paper": 0.425, "difference": -0.041}},
        "evaluation": {"answers": 8, "seconds": 1.5, "conditions_paper": {"other_models": "chat"}},
        "seconds_total": 2.0,
    }
    write_page(run, summary)
    page = (tmp_path / "report.html").read_text()
    for shown in ("sums-paper", "What the prompt alone moves", "-4.1", "Asked as the paper asked"):
        assert shown in page
    assert "Asked alike" not in page
    print_summary(Console(highlight=False, width=200), run, summary)
    printed = capsys.readouterr().out
    assert "expert 38.4% same, 42.5% paper: the prompt alone moves -4.1% [" in printed
    assert "the paper's 100.0% -> 50.0%, ours 50.0% -> 50.0%; 1 answer judged otherwise" in printed
    assert "expects 10000: the paper's right by '10001', ours wrong by '10001'" in printed


def test_a_run_with_nothing_to_show_has_no_page(tmp_path):
    write_page(Run(str(tmp_path)), {})
    assert not (tmp_path / "report.html").exists()
