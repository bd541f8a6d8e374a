"""The demo pipeline as a job on a head without room for workers: nodes of two types come, and go after.

The autoscaler is Ray's own (version 2); its fake provider starts the nodes on this machine.
"""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lr_ray.store import Run
from tests.integration.nodes import RAY, Nodes
from tests.integration.test_node_loss import rows
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config", "demo", "--sampling.max_problems=160", "--sampling.batch_size=8",
    "--training.optimizer_steps=80",
]  # fmt: skip
MEMORY = 300 * 2**20
TYPES = {
    name: {
        "resources": {"CPU": 2, f"lr_ray_{name}": 1, "object_store_memory": MEMORY},
        "node_config": {},
        "min_workers": 0,
        "max_workers": 2,
    }
    for name in ("expert", "amateur")
}
PLACES = [
    f"--resources.{who}.custom={{\"lr_ray_{whose}\": {share}}}"
    for who, whose, share in (
        ("expert", "expert", 1), ("amateur", "amateur", 1), ("trainer", "expert", 1),
        ("server", "expert", 0.5),
    )
]  # fmt: skip

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


class Watch:
    """The number of nodes of each type, whenever it changes, with the second."""

    def __init__(self, nodes: Nodes) -> None:
        self.nodes, self.seen, self.started = nodes, [], time.monotonic()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self._look)
        self.thread.start()

    def _look(self) -> None:
        while not self.ended.wait(0.5):
            count = self.nodes.count()
            now = tuple(count.get(name, 0) for name in TYPES)
            if not self.seen or self.seen[-1][1:] != now:
                self.seen.append((round(time.monotonic() - self.started), *now))

    def end(self) -> list[tuple[int, ...]]:
        self.ended.set()
        self.thread.join()
        return self.seen


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("scale"), head_cpus=0, types=TYPES)
    yield nodes
    nodes.kill(nodes.head)


def job_on(nodes, run, *arguments, within):
    command = [sys.executable, str(ROOT / "jobs/sample.py"), *OPTIONS, "--run", str(run)]
    return subprocess.run(
        [*command, *arguments],
        env=nodes.env | {"RAY_ADDRESS": nodes.address},
        capture_output=True,
        text=True,
        timeout=within,
        cwd=ROOT,
    )


def test_what_no_node_type_has_is_told_and_starts_none(nodes, tmp_path):
    asked = ["--resources.wait_s=15", '--resources.expert.custom={"lr_ray_expart": 1}']
    done = job_on(nodes, tmp_path / "run", *asked, within=60)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "no node type that the autoscaler may still start has room for that" in done.stdout
    assert "error: resources.expert: no node has 0.5 CPU, 1 lr_ray_expart" in done.stderr
    assert nodes.count() == {}


def test_nodes_come_for_the_pipeline_and_go_after_it(nodes, tmp_path):
    watch = Watch(nodes)
    try:
        run = tmp_path / "run"
        command = ["python", str(ROOT / "jobs/full_pipeline.py"), *OPTIONS, *PLACES]
        done = subprocess.run(
            [
                RAY,
                "job",
                "submit",
                "--",
                *command,
                "--run",
                str(run),
                f"--serving.port={free_port()}",
            ],
            env=nodes.env,
            capture_output=True,
            text=True,
            timeout=900,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        print(done.stdout)
        ended = time.monotonic()
        while nodes.count():
            assert time.monotonic() < ended + 120, nodes.count()
            time.sleep(0.5)
        time.sleep(1)
    finally:
        seen = watch.end()
        print("second " + " ".join(TYPES))
        print("\n".join(" ".join(map(str, line)) for line in seen))
    assert seen[0][1:] == seen[-1][1:] == (0, 0)
    # As many as the engines need: not for Ray Data's small tasks, not between two stages.
    assert [max(line[kind] for line in seen) for kind in (1, 2)] == [1, 1]
    summary = json.loads((run / "summary.json").read_text())
    assert {"sampling", "training", "accuracy"} <= summary.keys()

    local = tmp_path / "local"
    command = [sys.executable, str(ROOT / "jobs/sample.py"), *OPTIONS, "--run", str(local)]
    subprocess.run(command, check=True, timeout=400, cwd=ROOT)
    there, expected = rows(Run(str(run))), rows(Run(str(local)))
    assert there.keys() == expected.keys()
    for problem_id, row in there.items():
        for column in ("prompt_token_ids", "completion_token_ids", "finish_reason"):
            assert row[column] == expected[problem_id][column]
        assert row["kl"] == pytest.approx(expected[problem_id]["kl"], abs=1e-5)


def test_a_pool_grows_by_a_node(nodes, tmp_path):
    watch = Watch(nodes)
    asked = ["--sampling.max_problems=3000", "--sampling.batch_size=32"]
    asked += ["--sampling.expert.max_engines=2", *PLACES]
    try:
        done = job_on(nodes, tmp_path / "run", *asked, within=400)
    finally:
        seen = watch.end()
        print("\n".join(" ".join(map(str, line)) for line in seen))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert [max(line[kind] for line in seen) for kind in (1, 2)] == [2, 1]
