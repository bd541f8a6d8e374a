import os
import signal
import subprocess
import sys
import textwrap
import time

import psutil
import pytest

from benchmarks.grading_forms import FORMS
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.tasks import Task
from lr_ray.grading.judging import judge
from lr_ray.grading.pool import Graders

FORMULAS = ("x^2+1", "1+x^2", "math")  # a pair that takes algebra
BLOW_UPS = [
    "9^{9^{9^9}}",
    "((((9^9)^9)^9)^9)^9",
    "100000000!",
    "(((10^{10})!)!)!",
    "2^{3^{4^{5}}}",
    "(x+y)^{100000}-(y+x)^{100001}",
    r"\sin(10^{1000000})",
    r"\sum_{k=1}^{10^9} k^k",
    "(" * 10_000 + "x" + ")" * 10_000,
    "{" * 10_000,
    r"\sqrt{" * 39 + "x" + "}" * 39,
    r"\frac{" * 39 + "x" + "}{2}" * 39,
    "x+" * 900 + "x",
    "x" * 3000,
    "1e999999999",
    r"\frac{1}{0}",
    "\x00\x02\x03\ud800",
]  # fmt: skip


def others(pid: int | None = None) -> list[psutil.Process]:
    """Live descendants of a process, without the fork server and the resource tracker."""
    found = []
    for process in psutil.Process(pid).children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            server = process.ppid() == (pid or os.getpid())
            if process.status() != psutil.STATUS_ZOMBIE and "tracker" not in command and not server:
                found.append(process)
        except psutil.NoSuchProcess:
            pass
    return found


def test_integers_and_choices_start_no_process():
    cases = [(str(n), str(n + n % 2), "demo") for n in range(2000)] + [("A", "(A)", "choice")]
    done = []
    with Graders() as graders:
        verdicts = graders.judge_all(cases, lambda: done.append(1))
        assert not graders.started
    assert [v.correct for v in verdicts] == [n % 2 == 0 for n in range(2000)] + [True]
    assert len(done) == len(cases)


def test_nothing_is_judged_as_nothing():
    with Graders() as graders:
        assert graders.judge_all([]) == []
        assert not graders.started


def test_verdicts_are_those_of_one_process_in_order():
    before = set(others())  # a cluster of other tests
    cases = [(f.expected, f.extracted, "math") for f in FORMS[::-1]] * 2
    with Graders(workers=2, time_limit_s=30) as graders:
        verdicts = graders.judge_all(cases)
        assert graders.started
        assert verdicts == [judge(*case) for case in cases]
        assert graders.judge_all([FORMULAS]) == [(True, "equivalent")]  # the same pool again
    assert set(others()) <= before


def test_a_repeated_pair_is_judged_once_and_reported_each_time():
    slow = ("x", "9^{9^{9^9}}", "math")
    done = []
    started = time.perf_counter()
    with Graders(workers=1, time_limit_s=1) as graders:
        verdicts = graders.judge_all([slow] * 20, lambda: done.append(1))
    assert verdicts == [(False, "time limit")] * 20
    assert len(done) == 20
    assert time.perf_counter() - started < 15


def test_blow_ups_are_wrong_and_harm_no_other_pair():
    before = set(others())
    cases = [case for text in BLOW_UPS for case in (("5x+1", text, "math"), FORMULAS)]
    cases += [("5x+1", f"{n}+5x", "math") for n in range(8)]
    with Graders(workers=2, time_limit_s=2) as graders:
        verdicts = graders.judge_all(cases)
    blown, right = verdicts[: 2 * len(BLOW_UPS) : 2], verdicts[1 : 2 * len(BLOW_UPS) : 2]
    assert [v.correct for v in blown] == [False] * len(BLOW_UPS)
    assert {v.how for v in blown} <= {"time limit", "too large", "different", "unreadable"}
    assert {"time limit", "too large"} <= {v.how for v in blown}
    assert right == [(True, "equivalent")] * len(BLOW_UPS)
    assert [v.correct for v in verdicts[-8:]] == [n == 1 for n in range(8)]
    assert set(others()) <= before


def test_a_blown_up_expected_answer_is_wrong_too():
    with Graders(workers=1, time_limit_s=1) as graders:
        verdicts = graders.judge_all([(t, "5x+1", "math") for t in BLOW_UPS[:3]] + [FORMULAS])
    assert [v.correct for v in verdicts] == [False, False, False, True]


def test_memory_of_a_worker_is_bounded():
    """A product that needs more than the bound is refused before the time limit."""
    with Graders(workers=1, time_limit_s=60) as graders:
        [verdict] = graders.judge_all([("x", "(((10^{10})!)!)!", "math")])
    assert verdict == (False, "too large")


def test_an_unknown_kind_is_refused():
    with Graders() as graders, pytest.raises(ValueError, match="kind: 'gsm8k'"):
        graders.judge_all([("8", "8", "gsm8k")])


RUN = """
    import os, time
    from lr_ray.grading.pool import Graders

    if __name__ == "__main__":
        with Graders(workers=2, time_limit_s=100) as graders:
            assert graders.judge_all([("x^2+1", "1+x^2", "math")])[0].correct
            print("started", flush=True)
            graders.judge_all([("x", "9^{9^{9^9}}", "math"), ("x", "8^{9^{9^9}}", "math")])
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_the_run_and_every_process_of_it(tmp_path, how):
    """Ctrl-C reaches the whole group, the others the parent alone."""
    (tmp_path / "run.py").write_text(textwrap.dedent(RUN))
    run = subprocess.Popen(
        [sys.executable, str(tmp_path / "run.py")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert run.stdout.readline() == "started\n"
    time.sleep(0.5)  # into the two powers
    family = psutil.Process(run.pid).children(recursive=True)
    assert len(family) >= 3  # the server and two workers
    if how == signal.SIGINT:
        os.killpg(run.pid, how)
    else:
        run.send_signal(how)
    _, errors = run.communicate(timeout=60)
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
    assert errors.count("Traceback") == (how == signal.SIGINT)


def test_table_grades_each_model_on_its_own_answers():
    rows = (
        {"problem_id": "a", "problem": "How many?", "answer": "8"},
        {"problem_id": "b", "problem": "How few?", "answer": "3"},
    )
    answers = {
        "expert": [Answer("The answer is 7.", "stop"), Answer("The answer is 3.", "stop")],
        "improved": [Answer("The answer is 8.", "stop"), Answer("3+", "length")],
    }
    with Graders() as graders:
        table = grade(Task("demo", "demo", (), rows), answers, graders)
    assert table["expert_correct"].to_pylist() == [False, True]
    assert table["improved_correct"].to_pylist() == [True, False]
    assert table["improved_answer"].to_pylist() == ["8", None]
    assert table["improved_verdict"].to_pylist() == ["same text", "no answer"]
