"""Ends what a local cluster leaves behind, however its driver went.

Most of Ray's processes end within seconds of a killed driver, but its agents look for the lost head for a
minute, and now and then an engine with gigabytes of memory stays for good. So a watcher outside the driver's
process tree waits until the driver is gone, gives them some time, and kills those that are left. It reads
/proc, so it is for Linux only. Exercised by `pytest tests/unit/test_leftovers.py` and
`tests/integration/test_kills.py`.
"""

import contextlib
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator

GRACE_S = 10.0


@contextlib.contextmanager
def ended(logs: str, grace_s: float = GRACE_S) -> Iterator[None]:
    """The processes of a cluster end with the context or with this process.

    They get `grace_s` seconds to do so by themselves. `logs` is the folder of the cluster's logs.
    """
    # Isolated and without packages, so that it starts in milliseconds and imports nothing of ours.
    command = [sys.executable, "-I", "-S", __file__, os.path.realpath(logs), str(grace_s)]
    quiet = subprocess.DEVNULL
    watcher = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=quiet, stderr=quiet)
    assert watcher.stdin is not None
    watcher.wait()  # it goes on in a process of its own
    try:
        yield
    finally:
        watcher.stdin.close()


def writers(logs: str) -> list[int]:
    """Ids of the processes whose output goes into the folder: those of Ray, and what they started.

    Environment and command line do not tell, as a process that changes its title writes over both. The
    driver writes logs there, but not its output.
    """
    return [int(name) for name in filter(str.isdigit, os.listdir("/proc")) if _writes(name, logs)]


def _writes(process: str, logs: str) -> bool:
    with contextlib.suppress(OSError):  # it is gone, or somebody else's
        folder = f"/proc/{process}/fd"
        for fd in os.listdir(folder):
            with contextlib.suppress(OSError):
                file = os.readlink(f"{folder}/{fd}").removesuffix(" (deleted)")
                ours = file.startswith(f"{logs}/") and file.endswith((".out", ".err"))
                if ours and os.lstat(f"{folder}/{fd}").st_mode & stat.S_IWUSR:  # else it reads them
                    return True
    return False


def _watch(logs: str, grace_s: float) -> None:
    """Returns when none is left."""
    sys.stdin.buffer.read()  # ends with the last process that has the other end of the pipe: the driver
    deadline = time.monotonic() + grace_s
    while left := writers(logs):
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
