"""Training that loses a worker, then its driver, against one that is left alone."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.train import train
from tests.integration.conftest import EXPERT, demo_config

STEPS, EVERY = 80, 10
TRAINING = {"optimizer_steps": STEPS, "checkpoint_every": EVERY}
# A driver of its own, as a person's job has. Its worker is killed at one step, it itself at another.
DRIVER = """
import os, signal, sys
from lr_ray.runtime.cluster import cluster
from lr_ray.run.store import Run
from lr_ray.training.train import train
from tests.integration.conftest import EXPERT
from tests.integration.test_training_resume import config_of, kill_a_worker

seen = []

def on_row(row):
    print("row", row["step"], row["resumed_at"], flush=True)
    seen.append(row["step"])
    if row["step"] == 37 and seen.count(37) == 1:
        kill_a_worker()
    if row["step"] == 53:
        os.kill(os.getpid(), signal.SIGKILL)

with cluster():
    train(Run(sys.argv[1]), config_of(), EXPERT, on_row)
"""


def config_of(**over):
    return demo_config(training=TRAINING | over)


def fresh_run(source: Run, folder: Path) -> Run:
    run = Run(str(folder))
    for name in source.shards("supervision"):
        run.write_table(name, source.read_tables([name], SUPERVISION))
    return run


def adapter_of(run: Run) -> dict:
    return load_file(run.path("adapter/adapter_model.safetensors"))


def rows_of(run: Run) -> list[dict]:
    return [json.loads(x) for x in Path(run.path("metrics.jsonl")).read_text().splitlines()]


def kill_a_worker() -> None:
    """Of this process's cluster."""
    mine = psutil.Process().children(recursive=True)
    workers = [p for p in mine if "RayTrainWorker" in "".join(p.cmdline())]
    assert workers
    workers[0].kill()


@pytest.fixture(scope="module")
def undisturbed(sampled, tmp_path_factory):
    run = fresh_run(sampled.run, tmp_path_factory.mktemp("undisturbed"))
    train(run, config_of(), EXPERT, lambda row: None)
    return run


@pytest.fixture(scope="module")
def disturbed(sampled, tmp_path_factory):
    run = fresh_run(sampled.run, tmp_path_factory.mktemp("disturbed"))
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    driver = [sys.executable, "-c", DRIVER, run.location]
    killed = subprocess.run(driver, env=environment, capture_output=True, text=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    assert not Path(run.path("adapter")).exists()
    lines = [line.split() for line in killed.stdout.splitlines()]
    seen = [(int(line[1]), int(line[2])) for line in lines if line[:1] == ["row"]]
    checkpoints = {path.name for path in Path(run.path("checkpoints")).glob("step-*")}
    rows: list[dict] = []
    # Elastic, where two workers have no room on a cluster of four CPUs.
    elastic = demo_config(
        training=TRAINING | {"num_workers": 2, "min_workers": 1}, resources={"trainer": {"cpus": 3}}
    )
    summary = train(run, elastic, EXPERT, rows.append)
    return run, seen, checkpoints, rows, summary


def resumed(disturbed) -> tuple[int, int]:
    """Steps after which the second and the third attempt began."""
    starts = {row["resumed_at"] for row in rows_of(disturbed[0])} - {0}
    return min(starts), max(starts)


def test_goes_on_after_the_last_checkpoint(disturbed):
    _, seen, checkpoints, rows, summary = disturbed
    first, second = resumed(disturbed)
    # Which checkpoints these are depends on when Ray Train and the driver looked at the workers last.
    assert 0 < first <= second < STEPS
    assert first % EVERY == second % EVERY == 0
    before, again = ([step for step, at in seen if at == start] for start in (0, first))
    assert before == list(range(1, before[-1] + 1))
    assert again == list(range(first + 1, 54))  # the driver died of the row of step 53
    assert first <= before[-1]
    assert before[-1] >= 37
    # Workers outlive their driver by a moment, so there may be a later one than was seen then.
    assert second >= max(int(name.removeprefix("step-")) for name in checkpoints) - EVERY
    assert [row["step"] for row in rows] == list(range(second + 1, STEPS + 1))
    assert summary["resumed_at"] == second


def test_every_step_is_in_the_metrics_once_with_the_undisturbed_ones_data(disturbed, undisturbed):
    run, *_, summary = disturbed
    got, expected = rows_of(run), rows_of(undisturbed)
    assert [row["step"] for row in got] == list(range(1, STEPS + 1))
    first, second = resumed(disturbed)
    expected_starts = [0] * first + [first] * (second - first) + [second] * (STEPS - second)
    assert [row["resumed_at"] for row in got] == expected_starts
    for mine, theirs in zip(got, expected, strict=True):
        for name in ("tokens", "kept_steps", "label_entropy", "learning_rate"):
            assert mine[name] == theirs[name]
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    assert summary["trained_steps"] == 16 * STEPS


def test_the_adapter_is_the_undisturbed_ones(disturbed, undisturbed):
    """To 1e-5 of the largest weight: checkpoints hold weights and moments in float32, as they are."""
    got, expected = adapter_of(disturbed[0]), adapter_of(undisturbed)
    largest = max(w.abs().max() for w in expected.values())
    difference = max((got[n] - expected[n]).abs().max() for n in expected)
    print(f"largest difference {difference:.1e} of {largest:.2f}")
    assert difference / largest < 1e-5


def test_checkpoints_hold_the_trained_weights_and_moments_alone_and_are_pruned(undisturbed):
    folder = Path(undisturbed.path("checkpoints"))
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-000070", "step-000080"]
    state = load_file(folder / "step-000080/state.safetensors")
    assert all("lora_" in name for name in state)
    adapter = adapter_of(undisturbed)
    assert len(state) == 3 * len(adapter)
    for name, weight in adapter.items():
        assert (state[f"weight/{name}"] - weight).abs().max() == 0


def test_two_workers_and_zero_3_give_the_same_adapter(undisturbed, sampled, tmp_path):
    """With dropout, whose masks belong to the trajectory; to 1e-3 of the largest weight."""
    run = fresh_run(sampled.run, tmp_path / "run")
    split = config_of(num_workers=2, zero_stage=3, micro_batch_tokens=300)
    assert split.training.lora.dropout > 0
    summary = train(run, split, EXPERT, lambda row: None)
    one, two = adapter_of(undisturbed), adapter_of(run)
    largest = max(w.abs().max() for w in one.values())
    difference = max((one[n] - two[n]).abs().max() for n in one)
    print(f"largest difference {difference:.1e} of {largest:.2f}")
    assert difference / largest < 1e-3
    assert (summary["workers"], summary["merge_logit_gap"] < 1e-3) == (2, True)
