"""One endpoint for the tests of this folder: `jobs/serve.py` over the embedded pair, with a key."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from lr_ray.embedded import amateur_path, expert_path
from tests.ports import free_port

ROOT = Path(__file__).parents[3]
KEY = f"planted-{uuid.uuid4().hex}"


class Served:
    """`jobs/serve.py` over the embedded pair, with a key."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/v1"
        command = [sys.executable, str(ROOT / "jobs/serve.py")]
        command += ["--models", f"expert={expert_path()},improved={amateur_path()}"]
        command += [
            "--resources.server.gpus=0",
            "--resources.server.cpus=0.5",
            "--serving.dtype=float32",
        ]
        command += ["--serving.max_model_len=512", f"--serving.port={port}"]
        self.log = folder / "serve.log"
        self.process = subprocess.Popen(
            command,
            stdout=self.log.open("w"),
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env=os.environ | {"LR_RAY_API_KEY": KEY},
        )
        deadline = time.monotonic() + 300
        while "Ctrl-C" not in self.log.read_text():
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def end(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=120)


@pytest.fixture(scope="package")
def served(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", KEY)
        served = Served(tmp_path_factory.mktemp("served"))
        yield served
        served.end()
