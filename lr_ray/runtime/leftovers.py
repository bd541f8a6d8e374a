"""Ends what a local cluster leaves behind, however its driver went.

Ray's processes watch each other and mostly end within seconds of a killed driver. Now and then one stays for
a minute or for good, be it an agent or an engine with gigabytes of memory. So a watcher outside the driver's
process tree waits until the driver is gone, gives them some time, and kills those that are left. It reads
/proc, so it is for Linux only. Exercised by `pytest tests/unit/test_leftovers.py` and
`tests/integration/test_kills.py`.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator

MARK = "LR_RAY_LOCAL_CLUSTER"  # environment variable of all processes of a cluster
GRACE_S = 10.0


@contextlib.contextmanager
def ended(grace_s: float = GRACE_S) -> Iterator[None]:
    """Processes that are started within, and theirs, end with the context or with this process.

    They get `grace_s` seconds to do so by themselves.
    """
    mark = uuid.uuid4().hex
    # Isolated and without packages, so that it starts in milliseconds and imports nothing of ours.
    command = [sys.executable, "-I", "-S", __file__, mark, str(grace_s)]
    quiet = subprocess.DEVNULL
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
    assert watcher.stdin is not None
    watcher.wait()  # it goes on in a process of its own
    os.environ[MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(MARK, None)
        watcher.stdin.close()


def marked(mark: str) -> list[int]:
    """Ids of the processes that were started with this mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if wanted in file.read().split(b"\0"):
                found.append(int(name))
    return found


def _watch(mark: str, grace_s: float) -> None:
    """Returns when none is left."""
    sys.stdin.buffer.read()  # ends with the last process that has the other end of the pipe: the driver
    deadline = time.monotonic() + grace_s
    while left := marked(mark):
        if time.monotonic() > deadline:
            for process in left:
                with contextlib.suppress(OSError):
                    os.kill(process, signal.SIGKILL)
        time.sleep(0.2)


if __name__ == "__main__":
    os.setsid()  # a Ctrl-C on the terminal is for the driver
    if os.fork():
        os._exit(0)
    _watch(sys.argv[1], float(sys.argv[2]))
