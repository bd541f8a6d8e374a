"""Graders by name: built in, registered, of a user's own module; and the other graders to compare with."""

import subprocess
import sys
import time

import pytest

from lr_ray.config import Evaluation, Fields
from lr_ray.errors import UserError
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.results import checks_of, disagreements, summarise
from lr_ray.evaluation.tasks import Task, load_tasks
from lr_ray.grading.graders import Verdict, find, register
from lr_ray.grading.others import OTHERS, Toolkit
from lr_ray.grading.pool import Graded, Graders, Item
from lr_ray.grading.reading import KINDS
from lr_ray.plugins import graders
from tests.unit.problem_sources import jsonl


class Within:
    """Numbers within the tolerance that a row gives; a completion that says "crash" raises."""

    def read(self, completion, cut, metadata):
        if completion == "crash":
            raise ZeroDivisionError("no number")
        return None if cut else completion

    def judge(self, expected, extracted, metadata):
        return abs(float(expected) - float(extracted)) <= metadata.get("tolerance", 0)


class Waits(Within):
    """Right after the seconds that a row gives, in which it computes nothing."""

    def judge(self, expected, extracted, metadata):
        time.sleep(metadata["seconds"])
        return True


@pytest.fixture(scope="module")
def pool():
    with Graders(workers=1, time_limit_s=60) as graders:
        yield graders


NAME = "tests.unit.grading.test_graders:Within"


def test_a_grader_of_ones_own_reads_and_judges_with_what_the_row_says(pool):
    items = [
        Item("10", "10.5", metadata={"tolerance": 1}),
        Item("10", "10.5", metadata={"tolerance": 0.1}),
        Item("10", "10", cut=True),
        Item("10", None),
        Item("10", "crash"),
    ]
    done = []
    graded = pool.grade_all(find(NAME, "grader"), items, lambda: done.append(1))
    assert graded == [
        ("10.5", (True, "right")),
        ("10.5", (False, "different")),
        (None, (False, "no answer")),
        (None, (False, "no answer")),
        (None, (False, "failed: ZeroDivisionError: no number")),
    ]
    assert len(done) == 5


def test_time_in_which_a_grader_does_not_compute_counts_a_sixth():
    """Other work may hold the cores, and must not make answers wrong."""
    items = [Item("1", "1", metadata={"seconds": seconds}) for seconds in (1.5, 30)]
    with Graders(workers=1, time_limit_s=0.5) as graders:
        graded = graders.grade_all(Waits(), items)
    assert graded == [("1", (True, "right")), (None, (False, "time limit"))]


def test_a_registered_grader_is_found_by_its_name():
    grader = Within()
    register("within", grader)
    register("within", grader)  # as a module that is imported twice does
    assert find("within", "grader") is grader
    for name in ("within", "math"):
        with pytest.raises(ValueError, match="there already"):
            register(name, Within())
    with pytest.raises(ValueError, match="must have read and judge"):
        register("other", object())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("maths", "grader: no grader 'maths'; did you mean math"),
        ("no_such_module:x", "cannot be imported: No module named"),
        ("json:nothing", "cannot be imported: module 'json' has no attribute"),
        ("json:dumps", "is no grader; it must have the methods read and judge"),
    ],
)
def test_an_unknown_grader_is_one_line(name, message):
    with pytest.raises(UserError, match=message):
        find(name, "evaluation.grader")


@pytest.mark.parametrize(
    ("kind", "expected", "completion", "right"),
    [
        ("exact", "New York", "New  York ", True),
        ("exact", "New York", "new york", False),
        ("exact", "New York", r"It is \boxed{New York}.", True),
        ("number", "1000", "The answer is 1,000 apples.", True),
        ("number", "1000", "The answer is 1,001 apples.", False),
        ("number", "x+1", "The answer is $1+x$.", False),
        ("number", "0.5", r"\boxed{\frac{1}{2}}", True),
    ],
)
def test_exact_and_number(kind, expected, completion, right):
    with Graders() as graders:
        [graded] = graders.grade_all(kind, [Item(expected, completion)])
        assert not graders.started
    assert graded.verdict.correct == right


def evaluation(path, **settings):
    fields = Fields(problem="q", answer="a", id=None)
    return Evaluation(benchmarks=[str(path)], fields=fields, **settings)


def test_a_file_says_how_it_is_graded_and_a_setting_overrules_it(tmp_path):
    rows = [{"q": f"{n}?", "a": "B", "grader": "choice", "tolerance": n} for n in range(3)]
    path = tmp_path / "rows.jsonl"
    jsonl(path, rows)
    [task] = load_tasks(evaluation(path))
    assert (task.kind, task.grader) == ("choice", "choice")
    assert [row["tolerance"] for row in task.metadata] == [0, 1, 2]
    [drawn] = load_tasks(evaluation(path, max_problems=1))
    assert len(drawn.metadata) == len(drawn.rows) == 1
    [task] = load_tasks(evaluation(path, grader=NAME))
    assert isinstance(task.grader, Within)
    with pytest.raises(
        UserError, match=r"evaluation.grader: no grader 'choise'; did you mean choice"
    ):
        load_tasks(evaluation(path, grader="choise"))
    jsonl(path, [*rows, {"q": "9?", "a": "B", "grader": "math"}])
    with pytest.raises(
        UserError, match=r"its rows name the graders .*; must be one, or set evaluation.grader"
    ):
        load_tasks(evaluation(path))


@pytest.mark.parametrize(
    ("expected", "completion", "toolkit", "math_verify"),
    [
        ("10000", "The answer is 10000.", True, True),
        ("10000", r"\boxed{10001}", True, False),  # within 1e-4
        ("0.5", r"\boxed{50}", True, False),  # a hundredfold
        (r"\frac{1}{2}", r"\boxed{0.5}", True, True),
        ("1+x", r"\boxed{x+1}", False, True),
        ("(1,2)", r"\boxed{(1, 2)}", True, True),
        ("8", r"\boxed{9}", False, False),
        ("8", "no number", False, False),
    ],
)
def test_other_graders_judge_by_their_own_rules(pool, expected, completion, toolkit, math_verify):
    verdicts = {
        name: pool.grade_all(grader, [Item(expected, completion)])[0].verdict.correct
        for name, grader in OTHERS.items()
    }
    assert verdicts == {"toolkit": toolkit, "math_verify": math_verify}


def test_the_toolkit_reads_an_unclosed_box_and_the_last_number():
    read = lambda text: Toolkit().read(text, False, {})  # noqa: E731
    assert read(r"so \boxed{12") == "12"
    assert read("5 of 1,234") == "1234"
    assert read("The answer is 5 apples.") == "5 apples"
    assert read("nothing") is None


def test_accuracy_by_other_graders_stands_beside_ours(pool):
    rows = tuple({"problem_id": p, "problem": p, "answer": "10000"} for p in "ab")
    said = {"expert": ["10000", "9"], "improved": ["10000", "10001"]}
    answers = {
        label: [Answer(rf"\boxed{{{text}}}", "stop") for text in texts]
        for label, texts in said.items()
    }
    table = grade(Task("sums", "math", (), rows), answers, pool, checks=["toolkit"])
    choices = grade(Task("sums", "choice", (), rows), answers, pool, checks=["toolkit"])
    assert checks_of(table, "expert") == ["toolkit"]
    assert checks_of(choices, "expert") == []
    summary = summarise(table, list(said), seed=0)
    assert summary["models"]["improved"]["accuracy"] == 0.5
    assert summary["graders"] == {"expert": {"toolkit": 0.5}, "improved": {"toolkit": 1.0}}
    assert summary["graders_disagree"] == 1
    [row] = disagreements(table, list(said))
    assert (row["problem_id"], row["model"], row["correct"], row["toolkit_correct"]) == (
        "b", "improved", False, True,
    )  # fmt: skip
    assert "graders" not in summarise(choices, list(said), seed=0)


def test_a_refused_question_has_no_answer():
    nothing = Graded(None, Verdict(False, "no answer"))
    with Graders() as graders:
        assert graders.grade_all("math", [Item("8", None)]) == [nothing]


def test_no_plugin_takes_the_name_of_a_built_in_grader():
    code = "from lr_ray.plugins import graders; print(*graders.built_in)"  # alone, as a plugin is
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert set(out.split()) == {*KINDS, "reasoning_gym"}
    with pytest.raises(ValueError, match="a grader 'math' is there already"):
        graders.register("math")(Within())
