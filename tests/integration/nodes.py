"""A Ray cluster of several `ray start` nodes on this machine, with a token, for tests of whole nodes."""

import atexit
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
RAY = str(Path(sys.executable).with_name("ray"))
MARK = "LR_RAY_TEST_NODE"


class Nodes:
    """A head and workers. `env` is what clients and jobs of the cluster need.

    With `types` (as `available_node_types` of a launcher file) the head's autoscaler adds and removes
    nodes of them by Ray's fake provider; their processes carry the head's mark.
    """

    def __init__(self, folder: Path, head_cpus: int = 4, types: dict | None = None) -> None:
        self.folder, self.port, self.dashboard = folder, free_port(), free_port()
        self.temp, self._marks = self._short(), list[str]()
        token = folder / "token"
        token.write_text(uuid.uuid4().hex)
        self.address = f"127.0.0.1:{self.port}"
        self.env = os.environ | {
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{self.dashboard}",
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        }
        self.env.pop("RAY_ADDRESS", None)
        autoscaling, env = self._autoscaler(types) if types else ([], {})
        self.head = self._start(
            "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}",
            "--dashboard-host=127.0.0.1", f"--temp-dir={self.temp}",
            f"--ray-client-server-port={free_port()}", f"--num-cpus={head_cpus}", *autoscaling,
            env=env,
        )  # fmt: skip

    @staticmethod
    def _short() -> str:
        """A folder for Ray's session whose sockets' paths stay below 107 bytes, as pytest's would not."""
        folder = tempfile.mkdtemp(prefix="lr")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        return folder

    @contextlib.contextmanager
    def job(self, script: str, *arguments: str) -> Iterator[subprocess.Popen]:
        """A job of ours whose driver is a process here, in the cluster; ended on leaving."""
        driver = subprocess.Popen(
            [sys.executable, str(ROOT / "jobs" / script), *arguments],
            env=self.env | {"RAY_ADDRESS": self.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        try:
            yield driver
        finally:
            if driver.poll() is None:
                driver.terminate()
                driver.communicate(timeout=120)

    def add(self, *arguments: str, within: tuple[str, ...] = ()) -> str:
        """Starts a worker node, by the command `within` if there is one. Returns its mark."""
        return self._start(f"--address={self.address}", *arguments, within=within)

    def count(self) -> dict[str, int]:
        """Nodes that the autoscaler has running, by type."""
        found: Counter[str] = Counter()
        for process in self.alive(self.head):
            with contextlib.suppress(psutil.Error):
                parent = process.parent()
                if process.name() != "raylet" or (parent and parent.name() == "raylet"):
                    continue  # a worker between fork and exec is called so too
                if kind := process.environ().get("RAY_NODE_TYPE_NAME"):
                    found[kind] += 1
        return dict(found)

    def _autoscaler(self, types: dict) -> tuple[list[str], dict[str, str]]:
        """Arguments and environment of a head that scales."""
        from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
        from ray.autoscaler._private.util import prepare_config

        provider = {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "gcs_address": self.address,
            "head_node_id": FAKE_HEAD_NODE_ID,
            "launch_multiple": True,
        }
        head = {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}
        config = prepare_config({
            "cluster_name": "lr-ray-test",
            "provider": provider,
            "max_workers": 8,
            "idle_timeout_minutes": 0.25,
            "head_node_type": "ray.head.default",
            **{f"{part}setup_commands": [] for part in ("", "head_", "worker_")},
            "available_node_types": {"ray.head.default": head, **types},
        })  # fmt: skip
        file = self.folder / "autoscaling.json"
        file.write_text(json.dumps(config | {"cluster_synced_files": []}))
        return [f"--autoscaling-config={file}"], {
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }

    def _start(
        self, *arguments: str, within: tuple[str, ...] = (), env: dict[str, str] | None = None
    ) -> str:
        mark = uuid.uuid4().hex
        self._marks.append(mark)
        agent = [f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1"]
        started = subprocess.run(
            [*within, RAY, "start", *arguments, *agent, "--disable-usage-stats"],
            env=self.env | {MARK: mark} | (env or {}),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert started.returncode == 0, started.stdout + started.stderr
        return mark

    def alive(self, mark: str) -> list[psutil.Process]:
        """Processes of a node, those of its workers among them."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == mark and process.is_running():
                    found.append(process)
        return found

    def end(self) -> None:
        """Kills all nodes that were started; a worker's log monitor would outlive its head."""
        for mark in self._marks:
            self.kill(mark)

    def kill(self, mark: str) -> None:
        """SIGKILL to all processes of a node at once, as when its machine goes away."""
        deadline = time.monotonic() + 20
        while left := self.alive(mark):
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
            assert time.monotonic() < deadline, left
