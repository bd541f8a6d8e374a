"""What a job's cluster is told before it starts; nothing here starts one."""

import contextlib
import os
import subprocess
import sys

import pytest

from lr_ray.doctor.facts import gather
from lr_ray.errors import StageError, UserError
from lr_ray.placement.site import connected
from lr_ray.runtime.cluster import _connect, check_address, cluster, joins

READ = "from ray.serve._private.constants import PROXY_READY_CHECK_TIMEOUT_S as s; print(s)"


def test_serves_proxy_gets_a_minute_for_its_start_unless_somebody_says_otherwise(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("lr_ray.runtime.cluster.logs", lambda: "logs")
    name = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
    for given, seconds in ((None, "60.0"), ("7", "7.0")):
        monkeypatch.setenv(name, given) if given else monkeypatch.delenv(name, raising=False)
        with cluster() as logs:
            assert logs == "logs"
            told = subprocess.run([sys.executable, "-c", READ], env=os.environ, capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert told.strip() == seconds


@pytest.mark.parametrize(
    ("given", "taken"), [("", None), ("here", "{}/here"), ("/tmp/there", "/tmp/there")]
)
def test_rays_folder_is_absolute(monkeypatch, tmp_path, given, taken):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("lr_ray.runtime.cluster.logs", lambda: "logs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_TMPDIR", given)
    with cluster():
        assert os.environ.get("RAY_TMPDIR") == (taken and taken.format(tmp_path))


def test_a_machine_too_busy_for_rays_start_is_told_in_a_line(monkeypatch):
    said = "The current node timed out during startup. This could happen because ..."  # Ray 2.60's

    def init(*words, **options):
        raise Exception(said)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(StageError, match=r"^Ray did not start within 30 seconds.*; run the same"):
        _connect({})
    said = "something else"
    with pytest.raises(Exception, match=r"^something else$"):
        _connect({})


@pytest.mark.parametrize(
    "address",
    ["foo", " ", ":", ":6379", "10.0.0.1", "127.0.0.1:1\n", "127.0.0.1:²", "127.0.0.1:999999", f"{'a' * 300}:1"],
)  # fmt: skip
def test_an_address_that_is_none_is_named_in_a_line(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=r"^RAY_ADDRESS: ") as error:
        check_address()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("address", ["", "auto", "local"])
def test_an_address_that_ray_finds_itself_is_left_to_it(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    check_address()


@pytest.mark.parametrize(
    ("given", "address"),
    [(None, None), ("", None), ("local", None), ("auto", "auto"), ("10.0.0.1:6379", "10.0.0.1:6379")],
)  # fmt: skip
def test_local_is_a_cluster_of_the_jobs_own(monkeypatch, given, address):
    monkeypatch.setenv("RAY_ADDRESS", given) if given is not None else monkeypatch.delenv("RAY_ADDRESS", raising=False)  # fmt: skip
    assert joins() == address
    assert gather(versions=False).joins == address
    started = []
    monkeypatch.setattr("ray.init", lambda *words, **options: started.append((*words, *sorted(options))))  # fmt: skip
    _connect({})
    assert started == [() if address else ("local", "dashboard_host", "include_dashboard", "num_cpus")]  # fmt: skip
    monkeypatch.setattr("lr_ray.placement.cards.local", lambda: "this machine's")
    monkeypatch.setattr("lr_ray.placement.site.cluster", lambda: contextlib.nullcontext())
    monkeypatch.setattr("lr_ray.placement.cards.of_cluster", lambda: "the cluster's")
    with connected() as cards:
        assert (cards == "this machine's") == (address is None)


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "http://10.0.0.1:8265"])
def test_a_client_of_a_cluster_is_told_to_submit(monkeypatch, address):
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=rf"^RAY_ADDRESS: {address}: a job runs on a node of the cluster; submit it"):  # fmt: skip
        check_address()
