"""Problems that engines die of, and a full disk, in sampling. What is killed from outside: test_kills.py.

Each run ends with the rows of an undisturbed one.
"""

import os
import shutil
import signal
import subprocess

import pytest

from lr_ray.run.schemas import REJECTED
from lr_ray.run.store import Run
from lr_ray.sampling import graph
from lr_ray.sampling.expert import ExpertSampler
from tests.integration.conftest import sample_demo
from tests.integration.jobs import run_here
from tests.integration.supervision import assert_same, rows, shards


def test_problems_that_engines_raise_at_or_die_of_are_rejected_and_the_others_are_done(
    sampled, tmp_path, monkeypatch
):
    """Both are of one batch, so that each of its problems has to be asked alone."""
    undisturbed = rows(sampled.run)
    deadly, wrong = sorted(undisturbed)[5], sorted(undisturbed)[7]
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
    result = sample_demo(tmp_path, batch_size=8, max_rejected=0.1)
    rejects = result.run.read_tables(result.run.shards("rejected"), REJECTED).to_pylist()
    reasons = {reject["problem_id"]: reject["reason"] for reject in rejects}
    assert reasons.keys() == {deadly, wrong}
    assert "the engine died 2 times on this problem alone" in reasons[deadly]
    assert "on this problem alone: IndexError" in reasons[wrong]
    assert_same(result.run, sampled.run, without=reasons)
    assert result.summary["problems"] == len(undisturbed)
    assert result.summary["rejected"] == 2


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 2 MiB."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("mounting a small disk needs root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_full_disk_is_a_clear_error_and_room_lets_the_run_go_on(sampled, small_disk):
    run = small_disk / "run"
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2_000_000))  # leaves room for about three shards
    asked = ["--config", "demo", "--run", str(run)]
    asked += ["--sampling.max_problems=64", "--sampling.batch_size=4"]  # 16 shards
    failed = run_here("sample", *asked)
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1, said
    assert "cannot be written: No space left on device" in failed.stderr.splitlines()[-1]
    assert said.count("error:") == 1, said
    kept = shards(run)
    assert not list(run.glob("*/.*.tmp"))
    ballast.unlink()
    done = run_here("sample", *asked)
    assert done.returncode == 0, done.stdout + done.stderr
    assert kept.items() <= shards(run).items()
    assert_same(Run(str(run)), sampled.run)
