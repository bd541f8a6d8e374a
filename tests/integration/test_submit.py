"""`ray job submit` of the pipeline to a running cluster with a token: stop, submit again, fail."""

import json
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.integration.nodes import RAY, Nodes
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SMALL = [
    "--sampling.max_problems=64", "--sampling.batch_size=16", "--training.optimizer_steps=30",
    "--evaluation.max_problems=50",
]  # fmt: skip


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("submit"))
    yield nodes
    nodes.kill(nodes.head)


def ray(nodes, *arguments, within=400):
    return subprocess.run(
        [RAY, "job", *arguments], env=nodes.env, capture_output=True, text=True, timeout=within
    )


def submit(nodes, *arguments, wait=True, script="jobs/sample.py"):
    options = [] if wait else ["--no-wait"]
    job = ["python", script, "--config", "demo", *arguments]
    return ray(nodes, "submit", *options, "--working-dir", str(ROOT), "--", *job)


@pytest.mark.long
def test_a_stopped_job_goes_on_when_it_is_submitted_again(nodes, tmp_path):
    run = tmp_path / "run"
    arguments = ["--run", str(run), "--sampling.max_problems=160", "--sampling.batch_size=8"]
    begun = submit(nodes, *arguments, wait=False)
    assert begun.returncode == 0, begun.stdout + begun.stderr
    (name,) = set(re.findall(r"raysubmit_\w+", begun.stdout))
    deadline = time.monotonic() + 180
    while len(list(run.glob("supervision/part-*"))) < 2:
        assert time.monotonic() < deadline, ray(nodes, "logs", name).stdout
        time.sleep(0.1)
    stopped = ray(nodes, "stop", name)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert "was stopped" in ray(nodes, "status", name).stdout
    kept = {path: path.stat().st_mtime_ns for path in run.glob("supervision/part-*")}
    assert 2 <= len(kept) < 20

    done = submit(nodes, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sampling"]["problems"] == 160
    written_again = [path for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert written_again == []
    print(f"{len(kept)} of 20 shards were there, none was written again")


@pytest.mark.long
def test_the_whole_pipeline_runs_as_a_job(nodes, tmp_path):
    run, script = tmp_path / "run", "jobs/full_pipeline.py"
    arguments = ["--run", str(run), *SMALL, f"--serving.port={free_port()}"]
    done = submit(nodes, *arguments, script=script)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "accuracy demo" in done.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["training"]["optimizer_steps"] == 30
    again = submit(nodes, *arguments, script=script)
    assert again.returncode == 0
    assert "finished before; nothing to do" in again.stdout


def test_a_job_that_cannot_start_fails(nodes, tmp_path):
    failed = submit(nodes, "--run", str(tmp_path / "run"), "--models.expert", "/no/such/model")
    assert failed.returncode != 0
    assert "error: models.expert: /no/such/model: no such directory" in failed.stdout


def test_a_run_in_the_jobs_own_folder_is_refused(nodes):
    """Ray removes that folder some time after the job."""
    failed = submit(nodes, "--run", "runs/mine")
    assert failed.returncode != 0
    assert re.search(r"error: --run runs/mine: .*give an absolute path", failed.stdout)
