"""What is told of run directories in every state; nothing here starts Ray or an engine."""

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

from lr_ray.cli.status import lines
from lr_ray.config import EndpointConfig, merge, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.evaluation.answers import Answer, AnswerStore
from lr_ray.evaluation.results import LABELS, macro, summarise
from lr_ray.experiments.checks import ASKED
from lr_ray.labelling.shards import survey
from lr_ray.problems import stage_problems
from lr_ray.report.status import Status, at_work
from lr_ray.run import lock
from lr_ray.run.schemas import REJECTED
from lr_ray.run.store import SCHEMA_VERSION, Run, begin
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


def half_sampled(run: Run) -> Run:
    """Two shards of two problems each, of which one is rejected."""
    staged(run)
    write_contrast(batch([[SAME, APART], [APART]]), run, CONFIG, EXCHANGE)
    errors = with_errors(batch([[SAME], [SAME], [SAME], [APART]]), None, None, None, "too long")
    write_contrast(errors.slice(2), run, CONFIG, EXCHANGE)
    return run


def sampled(run: Run) -> Run:
    half_sampled(run)
    part = asdict(survey(run, PROBLEMS)[1]) | {"seconds": 5.0, "exchange": EXCHANGE}
    run.write_json("summary.json", {"sampling": part, "seconds_total": 5.0})
    return run


def half_trained(run: Run) -> Run:
    sampled(run)
    rows = [{"step": i + 1, "loss": 0.5, "seconds": 0.5, "resumed_at": 0} for i in range(50)]
    run.write_lines("metrics.jsonl", rows)
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
    with AnswerStore(run) as store:
        for number in range(answers):
            store.add(str(number), Answer("1", "stop"))
    return run


def accuracy(**correct: list[bool]) -> dict:
    """What the summary says of these verdicts."""
    return summarise(verdicts(**correct), list(correct), seed=0)


def verdicts(**correct: list[bool]) -> pa.Table:
    count = len(next(iter(correct.values())))
    columns: dict = {"sample": pa.array([0] * count, pa.int32())}
    for label, right in correct.items():
        columns |= {f"{label}_correct": right, f"{label}_answer": ["1"] * count}
        columns[f"{label}_finish_reason"] = ["stop"] * count
    return pa.table(columns)


BOTH = {"expert": [True, False, False, False], "improved": [True, True, True, False]}


def finished(run: Run) -> Run:
    trained(run)
    run.write_bytes("report.html", b"<html>")
    part = {"answers": 8, "seconds": 4.0}
    return add(run, evaluation=part, accuracy={"demo": accuracy(**BOTH)}, seconds_total=18.5)


def told(run: Run) -> dict[str, str]:
    """Texts by label, as a person reads them."""
    return dict(lines(Status(run).look()))


def job(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "jobs/status.py", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip


@pytest.fixture
def driver(run):
    """Holds the run in another process, from its call until the test's end."""
    processes = []

    def start() -> int:
        code = (
            f"from lr_ray.run.store import Run\nwith Run({run.location!r}).lock():\n"
            "    print('held', flush=True)\n    input()"
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = subprocess.Popen([sys.executable, "-c", code], text=True, **pipes)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process.pid

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_help_loads_no_heavy_library():
    code = (
        "import runpy, sys\nsys.argv = ['jobs/status.py', '--help']\n"
        "try:\n    runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "except SystemExit:\n"
        "    print([m for m in ('torch', 'ray', 'vllm', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert "--watch SECONDS" in out.stdout
    assert out.stdout.splitlines()[-1] == "[]"


def test_no_run_is_told_in_one_line(run):
    with pytest.raises(UserError, match=r"no run there: it has no run\.json$"):
        Status(run).look()
    done = job("--run", run.location)
    assert done.returncode == 2
    assert done.stderr == f"error: --run {run.location}: no run there: it has no run.json\n"
    assert not os.path.exists(run.location)


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
        Status(run).look()
    assert "\n" not in str(error.value)


def test_wrong_options_are_told_in_one_line():
    for arguments, message in (
        ([], "required: --run"),
        (["--run", "x", "--watch", "0"], "0 must be a number of seconds above 0"),
        (["--run", "x", "--wach", "1"], "unknown option --wach; did you mean --watch?"),
    ):
        done = job(*arguments)
        assert done.returncode == 2
        assert message in done.stderr
        assert done.stderr.count("\n") == 1


def test_staged(run):
    assert told(staged(run)) == {
        "run": f"{run.location} (pipeline run)",
        "config": "expert embedded:expert, amateur embedded:amateur; at most 20 problems of demo; asks demo",
        "work": "nobody is working on it",
        "sampling": "0 of 20 problems in 0 shards, 0 trajectories, 0 rejected, 0 of 0 steps kept (0.0%)",
        "training": "to come",
        "export": "to come",
        "evaluation": "to come",
    }


def at(run: Run, *seconds: float) -> None:
    """Sets when the supervision shards were written, in the order of their names."""
    for name, when in zip(run.shards("supervision"), seconds, strict=True):
        os.utime(run.path(name), (when, when))
    for name in run.shards("rejected"):
        os.utime(run.path(name), (seconds[-1], seconds[-1]))


def test_half_sampled(run):
    half_sampled(run)
    run.write_table("rejected/part-source-00000.parquet", REJECTED.empty_table())
    at(run, 1000, 1010)
    text = "4 of 20 problems in 2 shards, 3 trajectories, 1 rejected, 2 of 4 steps kept (50.0%)"
    # The second shard's two problems in ten seconds, and nothing of what is left without a driver.
    assert told(run)["sampling"] == f"{text}, 12.0 problems/min"


def test_rest_is_told_at_work_by_the_shards_of_this_driver(run, driver):
    half_sampled(run)
    pid = driver()
    at(run, 1000, 1010)
    text = told(run)
    assert re.fullmatch(rf"at work: process {pid} on \S+, started \d+ s ago", text["work"])
    assert "problems/min" not in text["sampling"]  # the driver before was at another pace
    at(run, time.time() + 10, time.time() + 20)
    assert told(run)["sampling"].endswith(", 12.0 problems/min, about 80 s left")


def test_a_damaged_shard_is_named(run):
    half_sampled(run)
    name = run.shards("supervision")[0]
    run.write_bytes(name, b"PAR1")
    assert told(run)["sampling"].endswith(f"; cannot be read: {name}")


def test_footers_are_read_once_but_for_a_shard_that_was_replaced(run):
    half_sampled(run)
    status = Status(run)
    status.look()
    write_contrast(batch([[APART, APART], [APART]]), run, CONFIG, EXCHANGE)
    write_contrast(batch([[SAME]] * 5).slice(4), run, CONFIG, EXCHANGE)
    part = status.look()["stages"]["sampling"]
    assert (part["done"], part["shards"], part["steps_kept"]) == (5, 3, 3)


def test_sampled(run):
    text = told(sampled(run))
    assert text["sampling"] == (
        "finished: 2 shards, 3 trajectories, 1 rejected, 2 of 4 steps kept (50.0%), 5.0 s"
    )
    assert (text["training"], text["evaluation"]) == ("step 0 of 80", "to come")
    assert "finished" not in text


def test_half_trained(run, driver):
    half_trained(run)
    text = "step 50 of 80, loss 0.500, last checkpoint of step 50, 120.0 steps/min"
    assert told(run)["training"] == text
    driver()
    assert told(run)["training"] == f"{text}, about 15 s left"


def test_trained(run):
    text = told(trained(run))
    assert text["training"].startswith("finished: 80 optimizer steps, 9 trained steps (7 distinct)")
    assert text["export"] == "adapter/, model/"
    assert text["evaluation"] == "0 of 20 answers"


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


def test_job_says_the_same_and_ends_its_watch(run):
    finished(run)
    done = job("--run", run.location, "--watch", "5")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"finished   18.5 s in all; {run.location}/report.html"
    shown = job("--run", run.location, "--json")
    assert json.loads(shown.stdout) == json.loads(json.dumps(Status(run).look()))
    assert shown.stdout.count("\n") == 1


def test_nothing_is_written_and_a_driver_can_start(run):
    half_evaluated(half_trained(run))
    run.write_json(lock.NOTE, {"token": "x", "host": "h", "pid": 7, "seen": 0.0})
    Path(run.path(".lock")).touch()

    def files() -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in Path(run.root).rglob("*")}

    before = files()
    text = told(run)["work"]
    assert re.fullmatch(r"nobody .*; process 7 on h, started \S+ h ago, did not end in order", text)
    assert files() == before
    with run.lock():
        assert at_work(run)["at_work"]


def test_starting_run_is_told_with_its_driver(run, driver):
    run.create()
    pid = driver()
    with pytest.raises(UserError, match=f"no run.json yet; process {pid} on .* is at work"):
        Status(run).look()


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
    assert text["evaluation"] == "7 of 30 answers"
    assert "sampling" not in text
    verdict = {"a": [True, False], "b": [True, True], "c": [False, False]}
    part = {"evaluation": {"answers": 6, "seconds": 1.0}, "seconds_total": 2.0}
    run.write_json("summary.json", part | {"accuracy": {"demo": accuracy(**verdict)}})
    assert re.fullmatch(
        r"demo: a 50\.0%, b 100\.0% \(\+50\.0% .*\), c 0\.0% \(-50\.0% .*\) on 2 problems",
        told(run)["accuracy"],
    )


def test_answers_in_all_are_unknown_where_a_benchmark_would_have_to_be_read(run):
    config = resolve(merge(CONFIG.model_dump(), {"evaluation": {"benchmarks": ["demo", "gsm8k"]}}))
    begin(run, config, FACTS)
    run.write_json("summary.json", {"sampling": {}, "training": {}})
    half_evaluated(run)
    assert Status(run).look()["stages"]["evaluation"]["in_all"] is None


GRID = """
seeds: [0]
variants:
  a: {}
  b: {training.optimizer_steps: 3x}
  c: {sampling.selection: random}
  d: {untrained: true, evaluation.prefill: Step by step.}
"""


@pytest.fixture
def comparison(run, tmp_path) -> Run:
    grid = tmp_path / "mine.yaml"
    grid.write_text(GRID)
    begin(run, CONFIG, FACTS)
    asked = {"schema_version": SCHEMA_VERSION, "grid": str(grid), "amateurs": None}
    run.write_json(ASKED, asked)
    sampled(run.child("base"))
    finished(run.child("variants/a-0"))
    trained(run.child("variants/b-0"))
    return run


def test_comparison_counts_its_variants_by_state(comparison):
    with comparison.lock(), comparison.child("variants/b-0").lock():
        text = told(comparison)
    assert text["run"] == f"{comparison.location} (comparison)"
    assert text["work"].startswith(f"at work: process {os.getpid()} on ")
    assert text["sampling"] == "1 of 1 sources"
    assert text["variants"] == "of 4: 1 finished, 1 trained, 2 to do"
    assert text["now"] == "variants/b-0"
    comparison.write_json("comparison.json", {"failed": {"c-0": "no room"}, "seconds_total": 3.0})
    text = told(comparison)
    assert text["failed"] == "c-0: no room"
    assert "finished" not in text
    for name in ("b-0", "c-0", "d-0"):
        comparison.child(f"variants/{name}").write_json("summary.json", {"accuracy": {}})
    comparison.write_bytes("comparison.md", b"#")
    text = told(comparison)
    assert text["variants"] == "of 4: 4 finished"
    assert text["finished"] == f"3.0 s in all; {comparison.location}/comparison.md"


def test_comparison_whose_grid_is_elsewhere_counts_what_is_there(comparison, tmp_path):
    (tmp_path / "mine.yaml").unlink()
    text = told(comparison)
    assert text["variants"].startswith(
        "1 finished, 1 trained of those that have a folder; the grid"
    )
    assert "sampling" not in text


def test_untrained_variant_has_nothing_to_sample(run):
    begin(run, CONFIG, FACTS | {"untrained": True})
    assert told(run)["evaluation"] == "0 of 20 answers"
    assert "sampling" not in told(run)


def test_nothing_kept_leaves_training_out(run):
    sampled(run)
    add(run, evaluation={"answers": 8, "seconds": 0.0}, accuracy={"demo": accuracy(**BOTH)})
    text = told(run)
    assert (text["training"], text["export"]) == ("left out", "left out")
    assert "finished" in text


def test_object_store_tells_by_the_age_of_the_note():
    run = half_sampled(Run(f"memory://{uuid.uuid4().hex}"))
    assert told(run)["sampling"].startswith("4 of 20 problems in 2 shards")
    assert told(run)["work"] == "nobody is working on it"
    with run.lock():
        assert told(run)["work"].startswith(f"at work: process {os.getpid()} on ")
        note = run.read_json(lock.NOTE)
        run.write_json(lock.NOTE, note | {"seen": time.time() - lock.FRESH_S - 60})
        assert told(run)["work"].startswith("nobody is working on it; process")
    half_evaluated(trained(run))
    assert told(run)["evaluation"] == "7 of 20 answers"
    assert told(finished(run))["finished"].startswith("18.5 s in all")
