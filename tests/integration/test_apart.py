"""Decoding first and scoring after, killed in both halves, against what streaming gives."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run

ROOT = Path(__file__).parents[2]


def job(run: Path) -> list[str]:
    return [
        sys.executable, str(ROOT / "jobs/sample.py"), "--config", "demo", "--run", str(run),
        "--resources.sampling", "apart", "--sampling.max_problems", "64", "--sampling.batch_size", "16",
    ]  # fmt: skip


def killed_when(run: Path, folder: str) -> int:
    """Starts the job, kills it when the folder has a shard, and returns how many shards it has then."""
    process = subprocess.Popen(
        job(run), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    while not list(run.glob(f"{folder}/part-*")):
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.05)
    process.kill()
    process.wait()
    return len(list(run.glob(f"{folder}/part-*")))


@pytest.mark.long
def test_killed_while_decoding_and_while_scoring_it_goes_on_to_the_same_rows(sampled, tmp_path):
    run = tmp_path / "run"
    assert killed_when(run, "trajectories") < 4
    decoded = {path: path.stat().st_mtime_ns for path in run.glob("trajectories/part-*")}
    assert not list(run.glob("supervision/part-*"))
    assert killed_when(run, "supervision") >= 1
    assert {path: path.stat().st_mtime_ns for path in decoded} == decoded  # not decoded again
    done = subprocess.run(job(run), capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    expected, found = (
        {
            row["problem_id"]: row
            for row in r.read_tables(r.shards("supervision"), SUPERVISION).to_pylist()
        }
        for r in (sampled.run, Run(str(run)))
    )
    assert expected.keys() == found.keys()
    for problem_id, row in expected.items():
        assert row["completion_token_ids"] == found[problem_id]["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], found[problem_id]["kl"], atol=1e-5)
