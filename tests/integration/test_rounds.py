"""Two rounds as a person runs them; and killed in the second one, and gone on with."""

import json
import shutil
from pathlib import Path
from signal import SIGKILL, SIGTERM

import pytest
from safetensors.torch import load_file

from lr_ray.models.models import fingerprint
from lr_ray.problems import PROBLEM
from lr_ray.report.status import look
from lr_ray.run.store import Run
from tests.integration.conftest import WHOLE
from tests.integration.driver import Driver
from tests.integration.jobs import command, run_here
from tests.integration.supervision import assert_same, shards
from tests.ports import free_port

pytestmark = pytest.mark.long
SAME = 1e-5  # of the largest weight, as for a run that was killed in test_kills.py


def asked(run: Path) -> list[str]:
    return [*WHOLE, "--rounds=2", "--run", str(run), f"--serving.port={free_port()}"]


@pytest.fixture(scope="module")
def two(whole, tmp_path_factory) -> Path:
    """The folder of two rounds, of which the first was sampled and trained before."""
    run = tmp_path_factory.mktemp("two") / "run"
    shutil.copytree(whole, run)
    done = run_here("full_pipeline", *asked(run))
    assert done.returncode == 0, done.stdout + done.stderr
    # A second round harms this pair (docs/rounds.md).
    assert "Result: the improved expert of round 1, as accuracy fell in round 2, -" in done.stdout
    return run


def test_the_improved_expert_is_the_next_rounds_expert_on_other_problems(two):
    first, second = Run(str(two)), Run(str(two / "rounds/2"))
    made = second.read_json("run.json")["models"]
    assert made["expert"] == {"path": f"{two}/model", "fingerprint": fingerprint(f"{two}/model")}
    assert made["amateur"] == first.read_json("run.json")["models"]["amateur"]
    ids = [
        set(r.read_tables(r.shards("problems"), PROBLEM)["problem_id"].to_pylist())
        for r in (first, second)
    ]
    assert len(ids[0] | ids[1]) == 128
    assert (two / "rounds/2/adapter/adapter_model.safetensors").exists()


def test_what_came_of_both_is_told_on_the_same_held_out_problems(two):
    told = json.loads((two / "summary.json").read_text())["rounds"]
    parts = [row["accuracy"]["demo"] for row in told["rounds"]]
    assert [part["problems"] for part in parts] == [40, 40]
    assert parts[0]["expert"] == parts[1]["expert"]
    assert parts[1]["accuracy"] - parts[0]["accuracy"] == pytest.approx(
        parts[1]["from_before"]["difference"]
    )
    assert parts[1]["from_before"]["difference_ci95"][1] < 0
    assert told["result"] == 1
    assert look(Run(str(two)))["finished"]


def test_killed_twice_in_the_second_round_it_ends_with_the_same_weights(two, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(two, run, ignore=shutil.ignore_patterns("rounds*"))
    second = run / "rounds/2"
    seen = (
        (SIGTERM, lambda: second.exists() and shards(second)),
        (SIGKILL, lambda: (second / "metrics.jsonl").exists()),
    )
    for number, when in seen:
        job = Driver(command("full_pipeline", *asked(run)))
        job.wait_until(when, within_s=600)
        assert job.end(number, group=False) == (143 if number == SIGTERM else -SIGKILL)
        assert not (second / "adapter").exists()
    done = run_here("full_pipeline", *asked(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(Run(str(second)), Run(str(two / "rounds/2")))
    ours, theirs = (load_file(r / "rounds/2/adapter/adapter_model.safetensors") for r in (run, two))
    assert ours.keys() == theirs.keys()
    largest = max(float(weight.abs().max()) for weight in theirs.values())
    assert max(float((ours[n] - theirs[n]).abs().max()) for n in ours) < SAME * largest
