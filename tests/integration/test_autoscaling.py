"""The demo pipeline as a job on a head without room for workers: nodes of two types come, and go after.

The autoscaler is Ray's own (version 2); its fake provider starts the nodes on this machine.
"""

import json
import subprocess
import sys
import threading
import time

import pytest

from lr_ray.run.store import Run
from tests.integration.nodes import RAY, ROOT, Nodes
from tests.integration.supervision import assert_same
from tests.ports import free_port

OPTIONS = [
    "--config", "demo", "--sampling.max_problems=160", "--sampling.batch_size=8",
    "--training.optimizer_steps=80",
]  # fmt: skip
MEMORY = 300 * 2**20
TYPES = {
    name: {
        "resources": {"CPU": 8, f"lr_ray_{name}": 1, "object_store_memory": MEMORY},
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
    nodes.end()


def test_what_no_node_type_has_is_told_and_starts_none(nodes, tmp_path):
    asked = ["--resources.wait_s=15", '--resources.expert.custom={"lr_ray_expart": 1}']
    with nodes.job("sample.py", *OPTIONS, "--run", str(tmp_path / "run"), *asked) as job:
        said, _ = job.communicate(timeout=60)
    assert job.returncode == 1, said
    assert "no node type that the autoscaler may still start has room for that" in said
    assert "error: resources.expert: no node has 0.5 CPU, 1 lr_ray_expart" in said
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
    assert_same(Run(str(run)), Run(str(local)))


def test_a_pool_grows_by_a_node(nodes, tmp_path):
    watch = Watch(nodes)
    asked = ["--sampling.max_problems=3000", "--sampling.batch_size=32"]
    asked += ["--sampling.expert.max_engines=2", *PLACES, "--resources.expert.cpus=4"]
    try:
        with nodes.job("sample.py", *OPTIONS, "--run", str(tmp_path / "run"), *asked) as job:
            said, _ = job.communicate(timeout=400)
    finally:
        seen = watch.end()
        print("\n".join(" ".join(map(str, line)) for line in seen))
    assert job.returncode == 0, said[-3000:]
    assert [max(line[kind] for line in seen) for kind in (1, 2)] == [2, 1]
