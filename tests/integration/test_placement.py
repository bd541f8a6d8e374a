"""What a cluster cannot give is a clear error within a minute; on a cluster of real nodes."""

import re
import subprocess
import time

import pytest

from tests.integration.jobs import ROOT, command, run_here
from tests.nvml import Card, pretend
from tests.ports import free_port

JOB = command("sample", "--config", "demo")


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
    ("address", "said"),
    [
        ("127.0.0.1:FREE", r"127\.0\.0\.1:\d+: Connection refused; start"),
        ("http://127.0.0.1:8265", r".*submit it \(ray job submit\), or give"),
    ],
)
def test_an_address_of_no_cluster_is_named(tmp_path, monkeypatch, address, said):
    monkeypatch.setenv("RAY_ADDRESS", address.replace("FREE", str(free_port())))
    done = run_here("sample", "--config", "demo", "--run", str(tmp_path / "run"))
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(rf"error: RAY_ADDRESS: {said}.*\n", done.stderr), done.stderr


def test_a_cluster_that_refuses_the_token_is_named(nodes, tmp_path):
    (tmp_path / "other").write_text("f" * 32)
    other = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "other")}
    done = job_on(nodes, "--run", str(tmp_path / "run"), env=other)
    assert done.returncode == 2, done.stdout + done.stderr
    assert re.fullmatch(r"error: RAY_ADDRESS: .*refuses this token.*\n", done.stderr), done.stderr


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
            command("doctor"),
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
