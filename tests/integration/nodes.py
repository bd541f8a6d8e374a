"""A Ray cluster of several `ray start` nodes on this machine, with a token, for tests of whole nodes."""

import contextlib
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil

from tests.ports import free_port

RAY = str(Path(sys.executable).with_name("ray"))
MARK = "LR_RAY_TEST_NODE"


class Nodes:
    """A head and workers. `env` is what clients and jobs of the cluster need."""

    def __init__(self, folder: Path, head_cpus: int = 4) -> None:
        self.folder, self.port, self.dashboard = folder, free_port(), free_port()
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
        self.head = self._start(
            "--head", f"--port={self.port}", f"--dashboard-port={self.dashboard}",
            "--dashboard-host=127.0.0.1", f"--temp-dir={folder}/ray",
            f"--ray-client-server-port={free_port()}", f"--num-cpus={head_cpus}",
        )  # fmt: skip

    def add(self, *arguments: str, within: tuple[str, ...] = ()) -> str:
        """Starts a worker node, by the command `within` if there is one. Returns its mark."""
        return self._start(f"--address={self.address}", *arguments, within=within)

    def _start(self, *arguments: str, within: tuple[str, ...] = ()) -> str:
        mark = uuid.uuid4().hex
        agent = [f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1"]
        started = subprocess.run(
            [*within, RAY, "start", *arguments, *agent, "--disable-usage-stats"],
            env=self.env | {MARK: mark},
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

    def kill(self, mark: str) -> None:
        """SIGKILL to all processes of a node at once, as when its machine goes away."""
        deadline = time.monotonic() + 20
        while left := self.alive(mark):
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=5)
            assert time.monotonic() < deadline, left
