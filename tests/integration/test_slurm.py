"""cluster/slurm.sbatch as Slurm runs it, with an `srun` of ours whose two nodes are on this machine."""

import json
import os
import shutil
import subprocess
import sys
import uuid
from pathlib import Path

import psutil
import pytest

from tests.integration.jobs import ROOT
from tests.integration.nodes import MARK
from tests.ports import free_port

# As the real one: a process for each task, with its number and its CPUs, and signals handed on.
SRUN = """#!/usr/bin/env python
import json, os, signal, subprocess, sys

flags = [word for word in sys.argv[1:] if word.startswith("--")]
command = sys.argv[1 + len(flags):]
tasks = int(dict(flag[2:].split("=") for flag in flags)["ntasks"])
given = json.loads(os.environ["STUB_NODES"])
started = [
    subprocess.Popen(command, env=os.environ | given[i] | {"SLURM_NODEID": str(i)})
    for i in range(tasks)
]
signal.signal(signal.SIGTERM, lambda *_: [process.terminate() for process in started])
sys.exit(max(process.wait() for process in started))
"""


@pytest.fixture
def allocation(tmp_path):
    """Environment of a batch script on the first of two nodes; each has a resource that the other lacks."""
    srun = tmp_path / "bin/srun"
    srun.parent.mkdir()
    srun.write_text(SRUN)
    srun.chmod(0o755)
    node = "--node-ip-address=127.0.0.1 --dashboard-agent-listen-port={} --resources={}"
    options = [node.format(free_port(), json.dumps({name: 8}).replace(" ", "")) for name in ("first", "second")]  # fmt: skip
    options[0] += f" --dashboard-port={free_port()} --ray-client-server-port={free_port()}"
    path = f"{Path(sys.executable).parent}:{srun.parent}:{os.environ['PATH']}"
    mark, job = uuid.uuid4().hex, str(free_port())
    yield os.environ | {
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURMD_NODENAME": "127.0.0.1",
        "SLURM_JOB_ID": job,
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "4",
        "STUB_NODES": json.dumps([{"RAY_START_OPTIONS": given} for given in options]),
        "PATH": path,
        MARK: mark,
    }
    for process in left(mark):
        process.kill()
    shutil.rmtree(f"/tmp/lr_ray-{job}", ignore_errors=True)


def left(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def assert_ended(mark: str) -> None:
    """Within a while: what Ray had started ends by itself once its node is gone."""
    _, alive = psutil.wait_procs(left(mark), timeout=30)
    assert alive == left(mark) == []


def batch(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "cluster/slurm.sbatch"), *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=600, cwd="/")


@pytest.mark.long
def test_a_job_runs_the_pipeline_over_its_nodes_and_leaves_nothing(allocation, tmp_path):
    run = tmp_path / "run"
    done = batch(
        allocation, "run", "--config", "demo", "--run", str(run), "--sampling.max_problems=16",
        "--training.optimizer_steps=4", "--evaluation.max_problems=8", f"--serving.port={free_port()}",
        "--resources.expert.custom", "first=1", "--resources.amateur.custom", "second=1",
        "--resources.trainer.custom", "second=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sampling"]["trajectories"] == 16
    assert summary["training"]["optimizer_steps"] == 4
    assert summary["accuracy"]["demo"]["problems"] == 8
    assert_ended(allocation[MARK])

    again = batch(allocation, "sample", "--run", str(run), "--sampling.kl_threshold=9")
    assert again.returncode == 2
    assert "holds a run with another sampling.kl_threshold" in again.stderr
    assert_ended(allocation[MARK])
