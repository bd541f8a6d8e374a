"""Sampling on a Ray that believes in GPUs: what a GPU's user meets before an engine's device matters."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run

ROOT = Path(__file__).parents[2]


def resources(gpus) -> dict:
    return {role: {"gpus": gpus, "cpus": 0.5} for role in ("expert", "amateur")}


def rows_of(run: Run) -> dict:
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    return {row["problem_id"]: row for row in table.to_pylist()}


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


def check_same(sampled, folder: Path) -> None:
    expected, found = rows_of(sampled.run), rows_of(Run(str(folder)))
    assert expected.keys() == found.keys()
    for problem_id, row in expected.items():
        other = found[problem_id]
        assert row["completion_token_ids"] == other["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], other["kl"], atol=1e-5)
        assert [s["position"] for s in row["steps"]] == [s["position"] for s in other["steps"]]


def test_one_gpu_is_shared_by_both_models(sampled, tmp_path):
    cases = {
        "auto": {"resources": resources("auto")},
        "rejection": {
            "resources": resources("auto"),
            "sampling": {"method": "rejection", "max_problems": 16},
        },
    }
    chosen = pretend(1, tmp_path, cases)
    shares = [chosen["auto"][f"resources.{role}.gpus"] for role in ("expert", "amateur")]
    assert min(shares) > 0
    assert sum(shares) <= 1
    assert chosen["auto"]["resources.sampling"] == "together"
    check_same(sampled, tmp_path / "auto")
    assert chosen["rejection"]["resources.expert.gpus"] == 1
    assert len(rows_of(Run(str(tmp_path / "rejection")))) > 8


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
    check_same(sampled, tmp_path / "run")
