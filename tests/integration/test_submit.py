"""`ray job submit` of the pipeline to a running cluster with a token: stop, submit again, fail."""

import json
import re
import subprocess
import threading
import time
import uuid
from pathlib import Path

import psutil
import pytest

from tests.integration.conftest import SECRET_OF_HEAD
from tests.integration.nodes import RAY
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
SECRET_OF_JOB = f"hf_planted{uuid.uuid4().hex}"
SMALL = [
    "--sampling.max_problems=64", "--sampling.batch_size=16", "--training.optimizer_steps=30",
    "--evaluation.max_problems=50",
]  # fmt: skip


def ray(nodes, *arguments, within=400):
    return subprocess.run(
        [RAY, "job", *arguments], env=nodes.env, capture_output=True, text=True, timeout=within
    )


def submit(nodes, *arguments, wait=True, script="jobs/sample.py", env=None):
    options = [] if wait else ["--no-wait"]
    options += ["--runtime-env", env] if env else []
    job = ["python", script, "--config", "demo", *arguments]
    return ray(nodes, "submit", *options, "--working-dir", str(ROOT), "--", *job)


@pytest.mark.long
def test_a_stopped_job_goes_on_when_it_is_submitted_again(nodes, tmp_path):
    run = tmp_path / "run"
    arguments = ["--run", str(run), "--sampling.max_problems=640", "--sampling.batch_size=8"]
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
    assert 2 <= len(kept) < 80  # `ray job stop` takes seconds, and a batch half of one

    done = submit(nodes, *arguments)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["sampling"]["problems"] == 640
    written_again = [path for path, at in kept.items() if path.stat().st_mtime_ns != at]
    assert written_again == []
    print(f"{len(kept)} of 80 shards were there, none was written again")


@pytest.fixture(scope="module")
def submitted(nodes, tmp_path_factory):
    """The whole pipeline as a job whose environment has a secret, and command lines with the head's."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "env.yaml").write_text(json.dumps({"env_vars": {"SOME_KEY": SECRET_OF_JOB}}))
    arguments = ["--run", str(folder / "run"), *SMALL, f"--serving.port={free_port()}"]
    told, ended = set(), threading.Event()

    def look() -> None:
        while not ended.wait(1):
            for process in psutil.process_iter(["cmdline"]):
                line = " ".join(process.info["cmdline"] or [])
                if SECRET_OF_HEAD in line:
                    told.add(line)

    watch = threading.Thread(target=look)
    watch.start()
    try:
        done = submit(
            nodes, *arguments, script="jobs/full_pipeline.py", env=str(folder / "env.yaml")
        )
    finally:
        ended.set()
        watch.join()
    return done, folder / "run", arguments, told


@pytest.mark.long
def test_the_whole_pipeline_runs_as_a_job(nodes, submitted):
    done, run, arguments, _ = submitted
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "accuracy demo" in done.stdout
    summary = json.loads((run / "summary.json").read_text())
    assert summary["training"]["optimizer_steps"] == 30
    again = submit(nodes, *arguments, script="jobs/full_pipeline.py")
    assert again.returncode == 0
    assert "finished before; nothing to do" in again.stdout


@pytest.mark.long
def test_nothing_secret_is_written(nodes, submitted):
    """A job's runtime environment is in Ray's own logs and command lines; the head's is nowhere."""
    done, run, _, told = submitted
    said = [path for path in run.rglob("*") if path.is_file()]
    logs = [path for path in Path(nodes.temp).glob("session_latest/logs/**/*") if path.is_file()]
    assert len(logs) > 40
    for secret, files in ((SECRET_OF_JOB, said), (SECRET_OF_HEAD, said + logs)):
        assert [path for path in files if secret.encode() in path.read_bytes()] == []
        assert secret not in done.stdout + done.stderr
    assert told == set()


def test_a_job_that_cannot_start_fails(nodes, tmp_path):
    failed = submit(nodes, "--run", str(tmp_path / "run"), "--models.expert", "/no/such/model")
    assert failed.returncode != 0
    assert "error: models.expert: /no/such/model: no such directory" in failed.stdout


def test_a_run_in_the_jobs_own_folder_is_refused(nodes):
    """Ray removes that folder some time after the job."""
    failed = submit(nodes, "--run", "runs/mine")
    assert failed.returncode != 0
    assert re.search(r"error: --run runs/mine: .*give an absolute path", failed.stdout)
