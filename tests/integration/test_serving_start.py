"""Starting the endpoint beside a Serve that is there already."""

import socket
import urllib.request

import pytest

from lr_ray import embedded, serving
from lr_ray.config import Resources, Serving
from lr_ray.errors import StageError
from tests.ports import free_port


def test_serve_that_runs_already_is_left_alone(ray_cluster):
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"port": free_port()})
    try:
        with pytest.raises(StageError, match="already runs"):
            serving.start(
                {"expert": str(embedded.expert_path())}, Serving(port=free_port()), Resources()
            )
        assert serve.status().proxies
    finally:
        serve.shutdown()


def test_a_port_that_was_taken_since_the_job_began_is_not_shared(ray_cluster):
    """Serve's proxy listens beside another one, and each gets some of the requests."""
    from ray import serve

    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # as that proxy does
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(StageError, match=f"^serving.port: {port} is taken on 127.0.0.1"):
            serving.start({"expert": str(embedded.expert_path())}, Serving(port=port), Resources())
    assert not serve.status().proxies


@pytest.mark.long
def test_the_endpoint_of_a_killed_job_gives_way_to_the_same_command(nodes):
    port = free_port()
    command = ["serve.py", "--models=expert=embedded:expert", f"--serving.port={port}"]
    said = []
    for kills in (True, False):
        with nodes.job(*command, "--resources.server.gpus=0") as job:
            lines = iter(job.stdout.readline, "")
            said.append(next((line for line in lines if "Ctrl-C ends it" in line), "ended"))
            if kills:
                job.kill()
                job.communicate(timeout=60)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=60) as answer:
                assert answer.status == 200  # Serve does not end with who started it
    assert all(f"http://127.0.0.1:{port}/v1" in line for line in said), said
