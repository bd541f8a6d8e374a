"""What Prometheus reads off a node while a stage of the pipeline runs, and the log's line for each shard."""

import re
import shutil
import time
import urllib.request

import ray
from rich.console import Console

from lr_ray.console import quiet_others
from lr_ray.pipeline.job import Job
from lr_ray.pipeline.stages import run_stage
from lr_ray.run.store import Run
from tests.integration.conftest import AMATEUR, EXPERT, sample_demo


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


def test_the_log_has_a_line_for_each_shard_and_helpers_have_names(ray_cluster, tmp_path):
    names = []

    def look(total, facts):
        if facts.problems:
            names.extend(actor["name"] for actor in ray.util.list_named_actors(True))

    log = tmp_path / "driver.log"
    with quiet_others(str(log)):
        options = {"on_progress": look}
        made = sample_demo(tmp_path / "run", max_problems=8, batch_size=4, options=options)
    lines = re.findall(
        r"^[\d-]+ [\d:,]+ shard (part-.+): 4 problems, 4 trajectories, 0 rejected, (\d+) of \d+ steps kept$",
        log.read_text(),
        re.MULTILINE,
    )
    shards = [name.rsplit("/", 1)[1] for name in made.run.shards("supervision")]
    assert sorted(name for name, _ in lines) == sorted(shards)
    assert sum(int(kept) for _, kept in lines) == made.summary["steps_kept"]
    assert any(name.startswith(f"SamplingJournal of {made.run.location} ") for name in names)
