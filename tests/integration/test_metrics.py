"""What Prometheus reads off a node while a stage of the pipeline runs, and the log's line for each shard."""

import re
import shutil
import time
import urllib.request

import ray
from rich.console import Console

from lr_ray.pipeline.job import Job
from lr_ray.pipeline.stages import run_stage
from lr_ray.run.store import Run
from tests.integration.conftest import AMATEUR, EXPERT


def exported(run: Run, within_s: float = 30) -> dict[str, float]:
    """Our gauges of a run, as the node exports them."""
    port = ray.nodes()[0]["MetricsExportPort"]
    deadline = time.monotonic() + within_s
    while True:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
        lines = [line for line in text.splitlines() if f'run="{run.location}"' in line]
        found = {line.split("{")[0]: float(line.rsplit(" ", 1)[1]) for line in lines}
        if found or time.monotonic() > deadline:
            return found
        time.sleep(1)


def test_gauges_say_how_far_a_stage_is(sampled, tmp_path):
    shutil.copytree(sampled.run.root, tmp_path / "run")
    run = Run(str(tmp_path / "run"))
    with run.lock():  # all shards are there: no engine starts
        run_stage(Job(sampled.config, run, EXPERT, AMATEUR, Console(quiet=True), {}), "sampling")
    gauges = exported(run)
    summary = sampled.summary
    assert gauges["ray_lr_ray_sampling_done"] == gauges["ray_lr_ray_sampling_total"] == 64
    share = summary["steps_kept"] / summary["steps_scored"]
    assert abs(gauges["ray_lr_ray_sampling_kept_step_share"] - share) < 1e-9


def test_the_log_has_a_line_for_each_shard_and_helpers_have_names(cut):
    lines = re.findall(
        r"^[\d-]+ [\d:,]+ shard (part-.+): 4 problems, 4 trajectories, 0 rejected, (\d+) of \d+ steps kept$",
        cut.log,
        re.MULTILINE,
    )
    run = cut.run
    assert len(lines) == 4
    assert sorted(n for n, _ in lines) == sorted(
        n.rsplit("/", 1)[1] for n in run.shards("supervision")
    )
    assert sum(int(kept) for _, kept in lines) == cut.summary["steps_kept"]
    assert any(n.startswith(f"SamplingJournal of {run.location} ") for n in cut.actors)
