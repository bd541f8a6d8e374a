"""What a cluster cannot give is a clear error within a minute; on a cluster of real nodes."""

import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lr_ray.errors import StageError
from lr_ray.placement import await_room
from tests.integration.nodes import Nodes
from tests.nvml import Card, pretend
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
JOB = [sys.executable, str(ROOT / "jobs/sample.py"), "--config", "demo"]


def test_room_that_is_there_is_left_free(ray_cluster):
    import ray

    everything = {"expert": [{"CPU": ray.cluster_resources()["CPU"]}]}
    await_room(everything, 0)
    await_room(everything, 0)


def test_what_no_node_has_is_named(ray_cluster):
    wanted = {"expert": [{"CPU": 1.0}], "amateur": [{"CPU": 1.0, "GPU": 3.0}]}
    with pytest.raises(
        StageError, match=r"^resources\.amateur: no node has 1 CPU, 3 GPU; there are"
    ):
        await_room(wanted, 0)


def test_what_does_not_fit_at_once_is_told(ray_cluster):
    import ray

    half = {"CPU": ray.cluster_resources()["CPU"] * 0.6}
    with pytest.raises(StageError, match=r"no room for 1 expert .*, 1 amateur .* at once"):
        await_room({"expert": [half], "amateur": [half]}, 0)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    yield nodes
    nodes.kill(nodes.head)


def job_on(nodes, *arguments, env=None):
    started = time.monotonic()
    done = subprocess.run(
        [*JOB, *arguments],
        env=nodes.env | {"RAY_ADDRESS": nodes.address} | (env or {}),
        capture_output=True,
        text=True,
        timeout=100,
        cwd=ROOT,
    )
    assert time.monotonic() - started < 60
    return done


def test_a_job_that_no_node_has_room_for_says_so_and_ends(nodes, tmp_path):
    done = job_on(
        nodes, "--run", str(tmp_path), "--resources.wait_s=8",
        "--resources.expert.custom", '{"lr_ray_expert": 1}',
    )  # fmt: skip
    assert done.returncode == 1
    assert (
        "waiting up to 8 s for nodes with room for 1 expert (0.5 CPU, 1 lr_ray_expert)"
        in done.stdout
    )
    assert "error: resources.expert: no node has 0.5 CPU, 1 lr_ray_expert" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_ADDRESS": "127.0.0.1:FREE"}, r"RAY_ADDRESS: 127\.0\.0\.1:\d+: Connection refused; start"),
        ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, r"RAY_ADDRESS: .*submit it \(ray job submit\), or give"),
        ({"RAY_AUTH_TOKEN_PATH": "OTHER"}, r"RAY_ADDRESS: .*refuses this token"),
    ],
)  # fmt: skip
def test_a_cluster_that_lets_nobody_in_is_named(nodes, tmp_path, env, said):
    (tmp_path / "other").write_text("f" * 32)
    filled = {
        name: value.replace("FREE", str(free_port())).replace("OTHER", str(tmp_path / "other"))
        for name, value in env.items()
    }
    done = job_on(nodes, "--run", str(tmp_path / "run"), env=filled)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(rf"error: {said}.*\n", done.stderr), done.stderr


def test_a_run_that_another_node_does_not_see_is_refused(nodes, tmp_path):
    """The second node has another file system where the run lies, in a mount namespace of its own."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    script = f'mount -t tmpfs tmpfs {hidden} && exec "$@"'
    within = ("unshare", "--mount", "bash", "-c", script, "bash")
    if subprocess.run([*within, "true"], capture_output=True).returncode:
        pytest.skip("mount namespaces are not to be had here")
    other = nodes.add("--num-cpus=1", within=within)
    try:
        done = job_on(nodes, "--run", str(hidden / "run"))
    finally:
        nodes.kill(other)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.search(r"is not seen on node [\d.]+; give a path", done.stderr)


def test_the_doctor_tells_the_node_that_differs(nodes, tmp_path):
    """One node of three has a GPU with an old driver, which is pretended."""
    card = Card("GPU-1", "NVIDIA L4", 23034 << 20, 22000 << 20, (8, 9))
    driver = pretend(tmp_path, card, driver="570.86.15", cuda=12080)
    with_gpu = ("env", *(f"{name}={value}" for name, value in driver.items()))
    options = ("--num-cpus=1", "--num-gpus=0")  # Ray sees the card too
    others = [nodes.add(*options, within=within) for within in ((), with_gpu)]
    try:
        done = subprocess.run(
            [sys.executable, str(ROOT / "jobs/doctor.py")],
            env=nodes.env | {"RAY_ADDRESS": nodes.address},
            capture_output=True,
            text=True,
            timeout=100,
            cwd=ROOT,
        )
    finally:
        for other in others:
            nodes.kill(other)
    assert done.returncode == 0, done.stdout + done.stderr
    here, node = done.stdout.split("\n\n")[:2]
    assert f"ok    RAY_ADDRESS  {nodes.address}, 3 nodes" in here
    assert "ok    gpu          none" in here
    assert "      nodes        2 as here: " in here
    assert node.startswith("      node         ")
    assert "1 x NVIDIA L4, 24.2 GB" in node
    assert "warn  driver       570.86.15 is older than 580" in node
    assert "warn  torch        " in node
