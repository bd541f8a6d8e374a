"""A job as a process of its own, whose processes are found and killed by what they are at."""

import atexit
import contextlib
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from typing import TypeVar

import psutil

from tests.integration.jobs import ROOT

Found = TypeVar("Found")
_MARK = "LR_RAY_TEST_MARK"


def title(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def is_doing(process: psutil.Process, what: str, within_s: float = 0.2) -> bool:
    """Looks at its title every other millisecond: a task may take ten."""
    deadline = time.monotonic() + within_s
    while not (there := what in title(process)) and time.monotonic() < deadline:
        time.sleep(0.002)
    return there


class Driver:
    """A job in a session of its own. `output` is what it has said so far."""

    def __init__(self, command: list[str], **variables: str) -> None:
        self.mark = uuid.uuid4().hex
        # Under nohup, a worker that is stopped would go on once its raylet ends: it gets SIGHUP, then SIGCONT.
        self.process = subprocess.Popen(
            ["env", "--default-signal=HUP", *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | variables | {_MARK: self.mark},
            start_new_session=True,
        )
        self.output = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        atexit.register(self.left, 0)  # of a test that failed, or was interrupted

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line

    def wait_until(self, there: Callable[[], Found], within_s: float = 240) -> Found:
        """Returns what was there. Fails when the job ends before."""
        deadline = time.monotonic() + within_s
        while not (found := there()):
            assert self.process.poll() is None, self.output
            assert time.monotonic() < deadline, f"waited in vain: {self.output}"
            time.sleep(0.05)
        return found

    def named(self, part: str, child: str = "") -> list[psutil.Process]:
        """Processes of the job with this in their title, or their children with that in theirs."""
        with contextlib.suppress(psutil.Error):
            ours = psutil.Process(self.process.pid).children(recursive=True)
            found = [process for process in ours if part in title(process)]
            if not child:
                return found
            return [c for process in found for c in process.children() if child in title(c)]
        return []

    def kill(self, part: str, child: str = "", doing: str = "") -> int:
        """SIGKILL to the first process so named, once its title says this too. Returns its id."""
        victim, *_ = self.wait_until(
            lambda: [found for found in self.named(part, child) if is_doing(found, doing)]
        )
        victim.kill()
        return victim.pid

    def marked(self) -> list[psutil.Process]:
        """Processes of the job's session or with its mark, whoever their parent is by now.

        A process that changes its title writes over its mark, and one may begin a session of its own.
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                ours = os.getsid(process.pid) == self.process.pid
                ours = ours or process.environ().get(_MARK) == self.mark
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def end(self, number: signal.Signals, group: bool = False) -> int:
        """Signals the driver, or all of its foreground group as Ctrl-C does. Returns its exit code."""
        (os.killpg if group else os.kill)(self.process.pid, number)
        code = self.process.wait(timeout=60)
        self._reader.join(10)
        return code

    def left(self, deadline: float) -> list[str]:
        """Titles of the job's processes that are there at that time (monotonic); they are ended then."""
        while (left := self.marked()) and time.monotonic() < deadline:
            time.sleep(0.2)
        names = [title(process) for process in left]
        for straggler in left:
            with contextlib.suppress(psutil.Error):
                straggler.kill()
        return names
