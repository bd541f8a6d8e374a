"""What is told of run directories in every state; nothing here starts Ray or an engine."""

import contextlib
import io
import json
import os
import re
import subprocess
import sys
import time
import uuid
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from lr_ray.cli.front import run_command
from lr_ray.config import EndpointConfig, merge, read_tree, resolve
from lr_ray.console import StageProgress
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.results import LABELS, macro, summarise
from lr_ray.labelling.shards import survey
from lr_ray.problems import stage_problems
from lr_ray.report.status import at_work, lines, look
from lr_ray.run import lock
from lr_ray.run.asked import begin
from lr_ray.run.store import SCHEMA_VERSION, Run
from lr_ray.runtime.progress import recorded
from lr_ray.sampling.graph import write_contrast
from tests.unit.test_label import APART, SAME, batch
from tests.unit.test_stage import EXCHANGE, with_errors

ROOT = Path(__file__).parents[2]
PROBLEMS = 20
CONFIG = resolve(
    merge(
        read_tree("demo"),
        {"sampling": {"max_problems": PROBLEMS}, "evaluation": {"max_problems": 10}},
    )
)
FACTS = {
    "versions": {},
    "models": {name: {"path": name, "fingerprint": name} for name in ("expert", "amateur")},
    "data": {"source": "demo"},
}


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path / "run"))


def staged(run: Run) -> Run:
    stage_problems(run, CONFIG)
    begin(run, CONFIG, FACTS)
    return run


def worked(
    run: Run, stage: str, done: int, total: int, unit: str, note: str = "", error=None
) -> Run:
    """A job's record of one stage; `error` ends the job."""
    with contextlib.suppress(type(error) if error else ()), recorded(run):
        with StageProgress(Console(file=io.StringIO()), stage, total, unit) as progress:
            progress.update(done, note)
        if error:
            raise error
    return run


def half_sampled(run: Run, error=None) -> Run:
    return worked(
        staged(run), "sampling", 4, PROBLEMS, "problems", "2/4 steps kept, 1 rejected", error
    )


def sampled(run: Run) -> Run:
    """Two shards of two problems each, of which one is rejected."""
    half_sampled(run)
    write_contrast(batch([[SAME, APART], [APART]]), run, CONFIG, EXCHANGE)
    errors = with_errors(batch([[SAME], [SAME], [SAME], [APART]]), None, None, None, "too long")
    write_contrast(errors.slice(2), run, CONFIG, EXCHANGE)
    part = asdict(survey(run, PROBLEMS)[1]) | {"seconds": 5.0, "exchange": EXCHANGE}
    run.write_json("summary.json", {"sampling": part, "seconds_total": 5.0})
    return run


def half_trained(run: Run) -> Run:
    worked(sampled(run), "training", 50, 80, "steps", "loss 0.500", KeyboardInterrupt())
    for step in (5, 50):
        run.write_bytes(f"checkpoints/step-{step:06d}/metrics.json", b"[]")
    return run


def add(run: Run, **parts) -> Run:
    run.write_json("summary.json", run.read_json("summary.json") | parts)
    return run


def trained(run: Run) -> Run:
    half_trained(run)
    for folder in ("adapter", "model"):
        run.write_json(f"{folder}/config.json", {})
    part = {"optimizer_steps": 80, "trained_steps": 9, "distinct_steps": 7, "final_loss": 0.25}
    return add(run, training=part | {"seconds": 9.0})


def half_evaluated(run: Run, answers: int = 7) -> Run:
    return worked(run, "evaluation", answers, 20, "answers", error=KeyboardInterrupt())


def accuracy(**correct: list[bool]) -> dict:
    """What the summary says of these verdicts."""
    return summarise(verdicts(**correct), list(correct), seed=0)


def verdicts(**correct: list[bool]) -> pa.Table:
    count = len(next(iter(correct.values())))
    columns: dict = {"sample": pa.array([0] * count, pa.int32())}
    for label, right in correct.items():
        columns |= {f"{label}_correct": right, f"{label}_answer": ["1"] * count}
        columns |= {
            f"{label}_finish_reason": ["stop"] * count,
            f"{label}_completion": ["1"] * count,
        }
    return pa.table(columns)


BOTH = {"expert": [True, False, False, False], "improved": [True, True, True, False]}


def finished(run: Run) -> Run:
    trained(run)
    run.write_bytes("report.html", b"<html>")
    part = {"answers": 8, "seconds": 4.0}
    return add(run, evaluation=part, accuracy={"demo": accuracy(**BOTH)}, seconds_total=18.5)


def told(run: Run) -> dict[str, str]:
    """Texts by label, as a person reads them."""
    return dict(lines(look(run)))


@pytest.fixture
def job(capsys):
    """The command in this process: its exit code, output and errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = run_command(["status", *arguments])
        return code, *capsys.readouterr()

    return run


DRIVER = """
import io, sys
from rich.console import Console
from lr_ray.console import StageProgress
from lr_ray.run.store import Run
from lr_ray.runtime.progress import recorded

StageProgress.LEFT_AFTER = 0.0
location, stage, total, unit, note = sys.argv[1:]
run = Run(location)
with run.lock():
    if not stage:
        print("held", flush=True)
        input()
    with recorded(run), StageProgress(Console(file=io.StringIO()), stage, int(total), unit) as progress:
        for done in range(int(total) // 2 + 1):
            progress.update(done, note)
        progress.show("", 80.0)
        progress._tell(at_once=True)
        print("held", flush=True)
        input()
"""


@pytest.fixture
def driver(run):
    """Holds the run in another process, half way through a stage if one is named, until the test's end."""
    processes = []

    def start(stage="", total=0, unit="", note="") -> subprocess.Popen:
        command = [sys.executable, "-c", DRIVER, run.location, stage, str(total), unit, note]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen(command, text=True, cwd=ROOT, **pipes)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_no_run_is_told_in_one_line(run, job):
    with pytest.raises(UserError, match=r"no such run; give one that is there"):
        look(run)
    assert not os.path.exists(run.location)
    os.mkdir(run.location)
    said = f"error: --run {run.location}: no run there: it has no run.json\n"
    assert job("--run", run.location) == (2, "", said)
    assert os.listdir(run.location) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\xff{", "run.json: cannot be read"),
        (b"[1, 2]", "run.json: not a JSON object"),
        (b'{"schema_version": 0, "config": {}}', f"run.json: not of schema version {SCHEMA_VERSION}"),
    ],
)  # fmt: skip
def test_a_run_json_of_another_kind_is_told_in_one_line(run, content, message):
    run.write_bytes("run.json", content)
    with pytest.raises(UserError, match=message) as error:
        look(run)
    assert "\n" not in str(error.value)


def test_wrong_options_are_told_in_one_line(job):
    for arguments, message in (
        ([], "required: --run"),
        (["--run", "x", "--watch", "0"], "0 must be a number of seconds above 0"),
        (["--run", "x", "--watch", "1e20"], "1e20 must be a number of seconds above 0, a day at"),
        (["--run", "x", "--wach", "1"], "unknown option --wach; did you mean --watch?"),
    ):
        code, _, error = job(*arguments)
        assert code == 2
        assert message in error
        assert error.count("\n") == 1


def test_staged(run):
    assert told(staged(run)) == {
        "run": f"{run.location} (pipeline run)",
        "config": "expert embedded:expert, amateur embedded:amateur; at most 20 problems of demo; asks demo",
        "work": "nobody is working on it",
        "sampling": "to come",
        "training": "to come",
        "export": "to come",
        "evaluation": "to come",
    }


def test_half_sampled(run):
    text = told(half_sampled(run, KeyboardInterrupt()))
    assert text["sampling"] == "4 of 20 problems, 2/4 steps kept, 1 rejected"
    assert re.fullmatch(r"interrupted \d s ago; the same command goes on", text["work"])
    assert (text["training"], text["export"], text["evaluation"]) == ("to come",) * 3


def test_a_failure_is_told_in_its_one_line(run):
    text = told(half_sampled(run, StageError("9 of 20 problems were rejected")))
    assert re.fullmatch(r"failed \d s ago: 9 of 20 problems were rejected", text["work"])
    assert text["sampling"] == "4 of 20 problems, 2/4 steps kept, 1 rejected"


def test_rest_is_told_at_work_by_the_record_of_this_driver(run, driver):
    half_sampled(run, KeyboardInterrupt())
    held = driver()
    text = told(run)
    assert re.fullmatch(rf"at work: process {held.pid} on \S+, heard of \d+ s ago", text["work"])
    assert text["sampling"] == "4 of 20 problems, 2/4 steps kept, 1 rejected"
    held.communicate("\n")
    driver("sampling", 20, "problems", "2/4 steps kept")
    assert re.fullmatch(
        r"10 of 20 problems, 2/4 steps kept, \d+\.\d problems/s, about \d\d s left",
        told(run)["sampling"],
    )


def test_a_killed_driver_is_told_from_one_that_ended(run, driver):
    staged(run)
    killed = driver("sampling", 20, "problems", "2/4 steps kept")
    killed.kill()
    killed.wait()
    text = told(run)
    assert re.fullmatch(
        rf"killed or lost: process {killed.pid} on \S+, last heard of \d s ago; the same command goes on",
        text["work"],
    )
    assert text["sampling"] == "10 of 20 problems, 2/4 steps kept"
    assert look(run)["progress"]["state"] == "running"


def test_serving_is_a_part_of_the_evaluation(run):
    text = told(worked(trained(run), "serving", 0, 2, "models"))
    assert text["evaluation"] == "serving 0 of 2 models"


def test_sampled(run):
    text = told(sampled(run))
    assert text["sampling"] == (
        "finished: 2 shards, 3 trajectories, 1 rejected, 2 of 4 steps kept (50.0%), 5.0 s"
    )
    assert (text["training"], text["evaluation"]) == ("to come", "to come")
    assert "finished" not in text


def test_half_trained(run, driver):
    half_trained(run)
    text = "50 of 80 steps, loss 0.500; last checkpoint of step 50"
    assert told(run)["training"] == text
    driver("training", 100, "steps", "loss 0.250")
    assert re.fullmatch(
        r"50 of 100 steps, loss 0\.250, \d+\.\d steps/s, about \d\d s left; last checkpoint of step 50",
        told(run)["training"],
    )


def test_trained(run):
    text = told(trained(run))
    assert text["training"].startswith("finished: 80 optimizer steps, 9 trained steps (7 distinct)")
    assert text["export"] == "adapter/, model/"
    assert text["evaluation"] == "to come"


def test_trained_weights_that_were_moved_away_are_told(run):
    finished(run)
    for folder in ("adapter", "model"):
        run.remove(folder)
    text = told(run)
    assert text["training"].startswith("finished: 80 optimizer steps")
    assert text["export"] == "neither adapter/ nor model/ is there any more"


def test_half_evaluated(run):
    half_evaluated(trained(run))
    assert told(run)["evaluation"] == "7 of 20 answers"


def test_finished(run):
    text = told(finished(run))
    assert text["evaluation"] == "finished: 8 answers, 4.0 s"
    assert re.fullmatch(
        r"demo: expert 25\.0%, improved 75\.0% \(\+50\.0% \[.*\] 2 gained 0 lost p=0\.5\) on 4 problems",
        text["accuracy"],
    )
    assert text["finished"] == f"18.5 s in all; {run.location}/report.html"
    tables = {"a": verdicts(**BOTH), "b": verdicts(**BOTH)}
    add(run, accuracy_mean=macro(tables, LABELS, 0))
    assert told(run)["accuracy"].startswith("mean: expert 25.0%, improved 75.0% (+50.0% [")


def test_job_says_the_same_and_ends_its_watch(run, job):
    finished(run)
    code, out, error = job("--run", run.location, "--watch", "5")
    assert (code, error) == (0, "")
    assert out.splitlines()[-1] == f"finished   18.5 s in all; {run.location}/report.html"
    shown = job("--run", run.location, "--json")[1]
    assert json.loads(shown) == json.loads(json.dumps(look(run)))
    assert shown.count("\n") == 1


def test_nothing_is_written_and_a_driver_can_start(run):
    half_evaluated(half_trained(run))
    run.write_json(lock.NOTE, {"token": "x", "host": "h", "pid": 7, "seen": 0.0})
    Path(run.path(".lock")).touch()

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path(run.root).rglob("*")}

    before = files()
    text = told(run)["work"]
    assert re.fullmatch(r"killed or lost: process 7 on h, last heard of \S+ h ago; .*", text)
    assert files() == before
    with run.lock():
        assert at_work(run)["at_work"]


def test_starting_run_is_told_with_its_driver(run, driver):
    run.create()
    pid = driver().pid
    with pytest.raises(UserError, match=f"no run.json yet; process {pid} on .* is at work"):
        look(run)


def test_evaluation_of_an_endpoint(run):
    tree = {"endpoint": "http://h/v1", "models": ["a", "b", "c"]}
    config = resolve(
        tree | {"evaluation": CONFIG.evaluation.model_dump(mode="json")}, EndpointConfig
    )
    asked = {"schema_version": SCHEMA_VERSION, "config": config.model_dump(mode="json")}
    run.write_json("run.json", asked)
    half_evaluated(run)
    text = told(run)
    assert text["run"] == f"{run.location} (evaluation of an endpoint)"
    assert text["config"] == "http://h/v1, models a, b, c; asks demo"
    assert text["evaluation"] == "7 of 20 answers"
    assert "sampling" not in text
    verdict = {"a": [True, False], "b": [True, True], "c": [False, False]}
    part = {"evaluation": {"answers": 6, "seconds": 1.0}, "seconds_total": 2.0}
    run.write_json("summary.json", part | {"accuracy": {"demo": accuracy(**verdict)}})
    assert re.fullmatch(
        r"demo: a 50\.0%, b 100\.0% \(\+50\.0% .*\), c 0\.0% \(-50\.0% .*\) on 2 problems",
        told(run)["accuracy"],
    )


def compared(run: Run, done: int, now: str, failed: dict[str, str], error=None) -> Run:
    with contextlib.suppress(type(error) if error else ()), recorded(run) as record:
        record.tell(variants={"done": done, "total": 4, "now": now, "failed": failed})
        if now:
            worked(run.child(now), "training", 10, 80, "steps", "loss 0.500")
        if error:
            raise error
    return run


def edit(name: str, **fields):
    return lambda run: run.write_json(name, run.read_json(name) | fields)


def put(name: str, **fields):
    return lambda run: run.write_json(name, fields)


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("progress.json", put("progress.json", state="failed")),
        ("progress.json", put("progress.json", state="interrupted")),
        ("progress.json", put("progress.json", state="running", stage="sampling")),
        ("progress.json", put("progress.json", state="failed", error="x", updated_at="noon")),
        ("progress.json", put("progress.json", variants=3)),
        ("progress.json", put("progress.json", variants={"done": 1, "total": 2})),
        ("progress.json", put("progress.json", variants={"done": None, "total": 2})),
        (".owner.json", put(".owner.json")),
        (".owner.json", put(".owner.json", seen="noon", host="h", pid=7)),
        ("summary.json", edit("summary.json", sampling=3)),
        ("summary.json", edit("summary.json", sampling={})),
        ("summary.json", edit("summary.json", training=[])),
        ("summary.json", edit("summary.json", evaluation={"answers": 3, "seconds": "x"})),
        ("summary.json", edit("summary.json", accuracy=3)),
        ("summary.json", edit("summary.json", accuracy={"demo": {}})),
        ("summary.json", edit("summary.json", accuracy_mean=3)),
        ("summary.json", edit("summary.json", prompt_alone=[1])),
        ("summary.json", edit("summary.json", rounds=3)),
        ("summary.json", edit("summary.json", seconds_total="x")),
        ("run.json", edit("run.json", config={})),
        ("run.json", edit("run.json", config={"rounds": "x"})),
        ("run.json", edit("run.json", config={"endpoint": "x"})),
        ("run.json", edit("run.json", config={"evaluation": {"benchmarks": ["demo"]}, "models": 3})),
    ],
)  # fmt: skip
def test_a_file_of_another_form_is_named_in_one_line(run, file, spoil):
    spoil(finished(run))
    with pytest.raises(UserError, match=rf"^{run.location}/{re.escape(file)}: ") as error:
        lines(look(run))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["2.bak", "1", "0", "02", "two", "-2", "\u0662"])
def test_what_else_lies_among_the_rounds_is_no_round(run, name):
    finished(run)
    finished(run.child(f"rounds/{name}"))
    assert look(run)["rounds"] == []
    assert "round" not in told(run)


def test_comparison_says_how_many_variants_are_finished_and_where_it_is(run):
    begin(run, CONFIG, FACTS)
    trained(run.child("variants/b-0"))
    compared(run, 1, "variants/b-0", {"c-0": "no room"}, KeyboardInterrupt())
    text = told(run)
    assert text["run"] == f"{run.location} (comparison)"
    assert text["work"].startswith("interrupted ")
    assert text["variants"] == "1 of 4 finished"
    assert text["failed"] == "c-0: no room"
    assert text["now"] == "training in variants/b-0: 10 of 80 steps, loss 0.500"
    assert "finished" not in text
    assert told(run.child("variants/b-0"))["training"].startswith("finished: 80 optimizer steps")
    with run.lock():
        assert told(run)["work"].startswith(f"at work: process {os.getpid()} on ")
    run.write_json("comparison.json", {"seconds_total": 3.0})
    compared(run, 4, "", {})
    text = told(run)
    assert text["variants"] == "4 of 4 finished"
    assert "now" not in text
    assert text["finished"] == f"3.0 s in all; {run.location}/comparison.md"
    run.write_bytes("comparison.html", b"")  # what a person opens
    assert told(run)["finished"] == f"3.0 s in all; {run.location}/comparison.html"


def test_a_comparison_is_known_without_a_record_of_its_variants(run):
    begin(run, CONFIG, FACTS)
    run.write_json("grid.json", {"grid": "ablations"})
    with recorded(run):  # ended before it came to a variant
        pass
    for _ in range(2):
        text = told(run)
        assert text["run"] == f"{run.location} (comparison)"
        assert text["work"] == "nobody is working on it"
        assert not {"sampling", "variants", "finished"} & set(text)
        run.remove("progress.json")
    run.write_json("comparison.json", {"seconds_total": 3.0, "failed": {"c-0": "no room"}})
    assert look(run)["finished"] is None
    run.write_json("comparison.json", {"seconds_total": 3.0, "failed": {}})
    assert told(run)["finished"] == f"3.0 s in all; {run.location}/comparison.md"


def test_untrained_variant_has_nothing_to_sample(run):
    begin(run, CONFIG, FACTS | {"untrained": True})
    assert told(half_evaluated(run))["evaluation"] == "7 of 20 answers"
    assert "sampling" not in told(run)


def test_nothing_kept_leaves_training_out(run):
    sampled(run)
    add(run, evaluation={"answers": 8, "seconds": 0.0}, accuracy={"demo": accuracy(**BOTH)})
    text = told(run)
    assert (text["training"], text["export"]) == ("left out", "left out")
    assert "finished" in text


def test_object_store_tells_by_the_age_of_the_note():
    run = half_sampled(Run(f"memory://{uuid.uuid4().hex}"))
    assert told(run)["sampling"].startswith("4 of 20 problems")
    assert told(run)["work"] == "nobody is working on it"
    with run.lock():
        assert told(run)["work"].startswith(f"at work: process {os.getpid()} on ")
        note = run.read_json(lock.NOTE)
        run.write_json(lock.NOTE, note | {"seen": time.time() - lock.FRESH_S - 60})
        assert told(run)["work"].startswith("killed or lost: process")
    half_evaluated(trained(run))
    assert told(run)["evaluation"] == "7 of 20 answers"
    assert told(finished(run))["finished"].startswith("18.5 s in all")


def test_an_imported_run_says_nothing_of_a_sampling_that_never_was(run):
    sampled(run)
    run.write_json("run.json", run.read_json("run.json") | {"data": {"source": "imported"}})
    part = run.read_json("summary.json")["sampling"]
    add(run, sampling=part | {"imported": ["a.jsonl"]})
    told = dict(lines(look(run)))
    assert told["config"] == "expert embedded:expert; supervision imported; asks demo"
    assert told["sampling"].startswith(
        "finished: 2 shards, imported: 3 trajectories, 1 line rejected, "
    )
