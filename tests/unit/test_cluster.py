"""What a job's cluster is told before it starts; nothing here starts one."""

import os
import subprocess
import sys

from lr_ray.runtime.cluster import cluster

READ = "from ray.serve._private.constants import PROXY_READY_CHECK_TIMEOUT_S as s; print(s)"


def test_serves_proxy_gets_a_minute_for_its_start_unless_somebody_says_otherwise(monkeypatch):
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    monkeypatch.setattr("lr_ray.runtime.cluster._logs", lambda: "logs")
    name = "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"
    for given, seconds in ((None, "60.0"), ("7", "7.0")):
        monkeypatch.setenv(name, given) if given else monkeypatch.delenv(name, raising=False)
        with cluster() as logs:
            assert logs == "logs"
            told = subprocess.run([sys.executable, "-c", READ], env=os.environ, capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert told.strip() == seconds
