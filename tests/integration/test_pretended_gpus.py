"""Sampling on a Ray that believes in GPUs: what a GPU's user meets before an engine's device matters."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from tests.integration.conftest import REJECTION
from tests.integration.jobs import ROOT
from tests.integration.supervision import assert_same


def resources(gpus) -> dict:
    return {role: {"gpus": gpus, "cpus": 0.5} for role in ("expert", "amateur")}


def solutions(run: Run):
    return run.read_tables(run.shards("supervision"), SUPERVISION)


def pretend(gpus: int, folder: Path, cases: dict) -> dict:
    """What was chosen for each case, sampled on a Ray of so many GPUs."""
    asked = {name: {"sampling": {}} | sections for name, sections in cases.items()}
    command = [sys.executable, "-m", "tests.integration.pretended", str(gpus), str(folder)]
    done = subprocess.run(
        [*command, json.dumps(asked)], capture_output=True, text=True, timeout=600, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {name: chosen for line in lines for name, chosen in line.items()}


def test_one_gpu_is_shared_by_both_models_or_the_experts(sampled, rejected, tmp_path):
    """In batches of other sizes, as these change no row either."""
    cases = {
        "auto": {"resources": resources("auto"), "sampling": {"batch_size": 64}},
        "rejection": {
            "resources": resources("auto"),
            "sampling": REJECTION | {"batch_size": 5},
        },
    }
    chosen = pretend(1, tmp_path, cases)
    shares = [chosen["auto"][f"resources.{role}.gpus"] for role in ("expert", "amateur")]
    assert min(shares) > 0
    assert sum(shares) <= 1
    assert chosen["auto"]["resources.sampling"] == "together"
    assert_same(Run(str(tmp_path / "auto")), sampled.run)
    assert chosen["rejection"]["resources.expert.gpus"] == 1
    ours, theirs = (
        sorted((row["problem_id"], row["completion_token_ids"]) for row in table.to_pylist())
        for table in map(solutions, (Run(str(tmp_path / "rejection")), rejected.run))
    )
    assert ours == theirs


@pytest.mark.long
@pytest.mark.parametrize(
    ("gpus", "share", "way"),
    [(1, 0.5, "together"), (1, 1, "apart"), (2, "auto", "together"), (2, 0.5, "together"), (2, 1, "together")],
)  # fmt: skip
def test_rows_are_those_of_the_cpus_on_one_and_two_gpus(sampled, tmp_path, gpus, share, way):
    chosen = pretend(gpus, tmp_path, {"run": {"resources": resources(share)}})
    assert chosen["run"]["resources.sampling"] == way
    if share != "auto":
        assert chosen["run"]["resources.expert.gpus"] == share
    assert_same(Run(str(tmp_path / "run")), sampled.run)
