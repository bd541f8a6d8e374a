"""The demo while a random process of it is killed every 20 to 40 seconds, again and again until it is done.

The seconds are of a machine that takes two minutes for the demo, and more where it takes longer.
"""

import json
import os
import random
import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from lr_ray.run.store import Run
from tests.integration.driver import Driver, title
from tests.integration.jobs import command, run
from tests.integration.supervision import assert_same
from tests.ports import free_port

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

SEED, WITHIN_S = 0, 1800
# Title of a process to what it is. A node's own processes (gcs_server, raylet and what they watch over it
# with) belong to test_node_loss.py, as a node goes with them.
KINDS = {
    "MapBatches(ExpertSampler)": "expert's actor",
    "MapBatches(AmateurScorer)": "amateur's actor",
    "VLLM::": "engine",
    "RayTrainWorker": "training worker",
    ":LLMServer:": "replica",
    "ray::": "other actor or task",
}


def kind_of(process: psutil.Process) -> str | None:
    name = title(process)
    if "Dashboard" in name or "RuntimeEnvAgent" in name:
        return None
    return next((kind for part, kind in KINDS.items() if part in name), None)


class Chaos:
    """The same command until it is done, and what was killed on the way: stage and kind of each."""

    def __init__(self, folder: Path, slower: float) -> None:
        self.folder, self.random, self.slower = folder, random.Random(SEED), slower
        self.asked = command(
            "full_pipeline", "--config", "demo", "--run", str(folder),
            f"--serving.port={free_port()}",
        )  # fmt: skip
        self.kills: list[tuple[str, str]] = []
        self.codes: list[int] = []

    def until_done(self) -> None:
        deadline = time.monotonic() + self.slower * WITHIN_S
        while self.codes[-1:] != [0]:
            job = Driver(self.asked, VLLM_ENABLE_V1_MULTIPROCESSING="1")
            while not self.ended(job, self.slower * self.random.uniform(20, 40)):
                assert time.monotonic() < deadline, job.output
                self.kill_one(job)
            self.codes.append(job.process.returncode)
            print(f"the job ended with {self.codes[-1]}: {job.output.strip().splitlines()[-1]}")
            assert job.left(time.monotonic() + 60) == []

    @staticmethod
    def ended(job: Driver, within_s: float) -> bool:
        deadline = time.monotonic() + within_s
        while job.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        return job.process.poll() is not None

    def kill_one(self, job: Driver) -> None:
        """Of the kind that was killed least so far, among those that are there."""
        there: dict[str, list[psutil.Process]] = {"driver": [psutil.Process(job.process.pid)]}
        for process in sorted(job.marked(), key=lambda p: p.pid):
            if kind := kind_of(process):
                there.setdefault(kind, []).append(process)
        so_far = Counter(kind for _, kind in self.kills)
        least = min(so_far[kind] for kind in there)
        kind = self.random.choice(sorted(kind for kind in there if so_far[kind] == least))
        victim = self.random.choice(there[kind])
        name = title(victim)
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            return
        self.kills.append((self.stage(), kind))
        print(f"killed in {self.kills[-1][0]}: {kind} ({name.split('jobs/')[-1][:60]})", flush=True)

    def stage(self) -> str:
        """The first that the run's summary lacks."""
        file = self.folder / "summary.json"
        there = json.loads(file.read_text()) if file.exists() else {}
        return next((s for s in ("sampling", "training") if s not in there), "evaluation")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    port = f"--serving.port={free_port()}"
    done = run("full_pipeline", "--config", "demo", "--run", str(folder), port, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_whatever_is_killed_the_same_command_ends_with_the_undisturbed_runs_results(
    undisturbed, tmp_path
):
    began = time.monotonic()
    seconds = json.loads((undisturbed / "summary.json").read_text())["seconds_total"]
    chaos = Chaos(tmp_path / "run", slower=max(1.0, seconds / 120))
    chaos.until_done()
    print(
        f"done after {time.monotonic() - began:.0f} s, {len(chaos.codes)} commands and "
        f"{len(chaos.kills)} kills (undisturbed {seconds:.0f} s): {dict(Counter(kind for _, kind in chaos.kills))}, "
        f"{dict(Counter(stage for stage, _ in chaos.kills))}"
    )
    assert len(chaos.kills) >= 5
    assert len({kind for _, kind in chaos.kills}) >= 3
    assert len({stage for stage, _ in chaos.kills}) >= 2
    ours, theirs = chaos.folder, undisturbed
    assert_same(Run(str(ours)), Run(str(theirs)))
    summary = json.loads((ours / "summary.json").read_text())
    assert summary["sampling"]["rejected"] == 0
    adapters = [load_file(f / "adapter/adapter_model.safetensors") for f in (ours, theirs)]
    apart = max(float((adapters[0][n] - w).abs().max()) for n, w in adapters[1].items())
    print(f"adapters are {apart} apart")
    assert adapters[0].keys() == adapters[1].keys()
    assert apart == 0.0
    tables = [pq.read_table(f / "evaluation/demo.parquet") for f in (ours, theirs)]
    assert tables[0].num_rows == 1000
    assert tables[0].equals(tables[1])
    assert not list(ours.rglob("*.tmp"))
    assert os.path.exists(ours / "report.html")
