"""What dies during sampling: actors, engines, drivers, problems that end engines, and a full disk.

Each run ends with the rows of an undisturbed one.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from lr_ray.run.schemas import REJECTED, SUPERVISION
from lr_ray.run.store import Run
from lr_ray.sampling import graph
from lr_ray.sampling.expert import ExpertSampler
from tests.integration.conftest import sample_demo

ROOT = Path(__file__).parents[2]
PROBLEMS, BATCH = 64, 8
JOB = [sys.executable, str(ROOT / "jobs/sample.py"), "--config", "demo"]
SMALL = [f"--sampling.max_problems={PROBLEMS}", "--sampling.batch_size=4"]  # 16 shards


def read(run: Run) -> dict:
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    rows = {row["problem_id"]: row for row in table.to_pylist()}
    assert len(rows) == table.num_rows, "a problem has two rows"
    return rows


@pytest.fixture(scope="module")
def undisturbed(sampled):
    rows = read(sampled.run)
    assert len(rows) == PROBLEMS
    return rows


def assert_same(rows: dict, expected: dict) -> None:
    assert rows.keys() == expected.keys()
    for problem_id, row in rows.items():
        other = expected[problem_id]
        assert row["prompt_token_ids"] == other["prompt_token_ids"]
        assert row["completion_token_ids"] == other["completion_token_ids"]
        np.testing.assert_allclose(row["kl"], other["kl"], atol=1e-5)
        assert [s["position"] for s in row["steps"]] == [s["position"] for s in other["steps"]]


class Killer(threading.Thread):
    """SIGKILLs an actor of this process's cluster while it works on a batch, or a child of that actor."""

    def __init__(self, actor: str, child: str | None = None) -> None:
        super().__init__(daemon=True)
        self.busy, self.child, self.killed = f"MapBatches({actor})).submit", child, 0
        self.start()

    def run(self) -> None:
        while not self.killed:
            for process in psutil.Process().children(recursive=True):
                if self.busy in title(process):
                    victims = process.children() if self.child else [process]
                    for victim in (v for v in victims if (self.child or "") in title(v)):
                        victim.kill()
                        self.killed += 1
            time.sleep(0.02)


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize("actor", ["ExpertSampler", "AmateurScorer", "engine process"])
def test_killed_actor_or_engine_is_replaced(sampled, undisturbed, tmp_path, monkeypatch, actor):
    if actor == "engine process":
        monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "1")
        killer = Killer("ExpertSampler", "VLLM::EngineCore")
    else:
        killer = Killer(actor)
    result = sample_demo(tmp_path, batch_size=BATCH)
    assert killer.killed >= 1
    assert result.summary["rejected"] == 0
    print(
        f"{actor} killed: {result.summary['seconds']:.1f} s instead of {sampled.summary['seconds']:.1f}"
    )
    assert_same(read(result.run), undisturbed)


def test_problems_that_engines_raise_at_or_die_of_are_rejected_and_the_others_are_done(
    undisturbed, tmp_path, monkeypatch
):
    deadly, wrong = sorted(undisturbed)[5], sorted(undisturbed)[41]
    deadly_prompt, wrong_prompt = (
        undisturbed[problem_id]["prompt_token_ids"] for problem_id in (deadly, wrong)
    )

    class Poisoned(ExpertSampler):
        """Killed by one problem, as by a kernel's bug or the memory limit; raises at a token of another."""

        def solve(self, prompts):
            if deadly_prompt in list(prompts):
                os.kill(os.getpid(), signal.SIGKILL)
            return super().solve([[10**6] if p == wrong_prompt else p for p in prompts])

    monkeypatch.setattr(graph, "ExpertSampler", Poisoned)
    result = sample_demo(tmp_path, batch_size=BATCH)
    rejects = result.run.read_tables(result.run.shards("rejected"), REJECTED).to_pylist()
    reasons = {reject["problem_id"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {deadly, wrong}
    assert "the engine died 2 times on this problem alone" in reasons[deadly]
    assert "on this problem alone: IndexError" in reasons[wrong]
    expected = {k: v for k, v in undisturbed.items() if k not in reasons}
    assert_same(read(result.run), expected)
    assert result.summary["problems"] == PROBLEMS
    assert result.summary["rejected"] == 2


def start(folder: Path, *arguments: str) -> subprocess.Popen:
    command = [*JOB, "--run", str(folder), *SMALL, *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )


def shards(folder: Path) -> dict[str, float]:
    files = [*folder.glob("supervision/part-*"), *folder.glob("rejected/part-*")]
    return {f.name: f.stat().st_mtime for f in files}


def wait_for(condition, seconds: float, job: subprocess.Popen) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_killed_driver_goes_on_where_it_was(undisturbed, tmp_path):
    run, kept = tmp_path / "run", {}
    for new in (0, 1, 1):  # shards that are finished when the driver is killed
        job = start(run)
        if not new:
            wait_for((run / "problems/index.json").exists, 120, job)
            second = start(run)
            output, _ = second.communicate(timeout=60)
            assert second.returncode == 2
            assert f"another process (process {job.pid} on" in output
        wait_for(lambda: len(shards(run)) >= len(kept) + new, 120, job)  # noqa: B023
        job.kill()
        job.communicate()
        time.sleep(1)  # workers that have not noticed yet
        now = shards(run)
        again = [name for name, written in kept.items() if now.get(name) != written]
        print(f"driver killed with {len(now)} shards: {len(again)} of {len(kept)} written again")
        assert not again
        kept = now
    assert len(kept) < 16, "the driver was never killed in the middle"
    job = start(run)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert kept.items() <= shards(run).items(), "a finished shard was written again"
    assert_same(read(Run(str(run))), undisturbed)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_a_clear_error_and_room_lets_the_run_go_on(undisturbed, small_disk):
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(310_000))  # leaves room for about three shards
    job = start(run)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 1, output
    assert "cannot be written: No space left on device" in output.splitlines()[-1]
    assert output.count("error:") == 1
    kept = shards(run)
    assert not list(run.glob("*/.*.tmp"))
    ballast.unlink()
    job = start(run)
    output, _ = job.communicate(timeout=300)
    assert job.returncode == 0, output
    assert kept.items() <= shards(run).items()
    assert_same(read(Run(str(run))), undisturbed)
