"""Processes of a local cluster end with their driver, however it ends; here plain ones stand for Ray's."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lr_ray.runtime import leftovers

# Logs there itself, and starts one that ignores signals and reaches its output by no parent of its own.
DRIVER = """
import subprocess, sys, time
from lr_ray.runtime import leftovers
logs, then = sys.argv[1:]
stays = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(99)"
parent = (
    "import subprocess, sys; "
    f"stray = subprocess.Popen([sys.executable, '-c', {stays!r}], stderr=subprocess.DEVNULL); "
    "print(stray.pid, file=sys.stderr)"
)
log = open(f"{logs}/python-core-driver.log", "w")
with leftovers.ended(logs, 1.0), open(f"{logs}/worker.out", "w") as out:
    ran = subprocess.run([sys.executable, "-c", parent], stdout=out, stderr=subprocess.PIPE, start_new_session=True)
    print(int(ran.stderr), flush=True)
    out.close()
    if then == "wait":
        time.sleep(99)
time.sleep(99)
"""


@contextlib.contextmanager
def driver(logs: Path, then: str) -> Iterator[tuple[subprocess.Popen, psutil.Process]]:
    """A driver, and the process that it leaves behind."""
    command = [sys.executable, "-c", DRIVER, str(logs), then]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stdout
    stray = psutil.Process(int(started.stdout.readline()))
    try:
        yield started, stray
    finally:
        for process in (started, stray):
            with contextlib.suppress(psutil.Error):
                process.kill()
        started.wait()


def gone(process: psutil.Process, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_process_that_a_killed_driver_left_is_ended_after_its_grace(tmp_path):
    with driver(tmp_path, "wait") as (started, stray):
        time.sleep(1.5)
        assert not gone(stray, 0)  # while the driver is there
        os.killpg(started.pid, signal.SIGKILL)
        killed = time.monotonic()
        assert gone(stray, 30)
        assert time.monotonic() - killed > 0.9


def test_the_end_of_the_context_ends_it_too_and_the_driver_goes_on(tmp_path):
    with driver(tmp_path, "go on") as (started, stray):
        assert gone(stray, 30)
        assert started.poll() is None


def test_a_watcher_without_anything_left_ends_at_once(tmp_path):
    with leftovers.ended(str(tmp_path), 60.0):
        found = psutil.process_iter(["cmdline"])
        watchers = [p for p in found if str(tmp_path) in (p.info["cmdline"] or [])]
        assert len(watchers) == 1
    assert gone(watchers[0], 10)


@pytest.mark.parametrize(
    ("file", "mode", "found"),
    [
        ("worker.out", "w", True),
        ("raylet.err", "a", True),
        ("worker.out", "r", False),  # tail -f
        ("python-core-driver.log", "w", False),
        ("../elsewhere.out", "w", False),
    ],
)
def test_whoever_writes_its_output_there_is_of_the_cluster(tmp_path, file, mode, found):
    logs = tmp_path / "logs"
    logs.mkdir()
    (logs / file).touch()
    with (logs / file).open(mode):
        assert leftovers.writers(str(logs)) == [os.getpid()] * found
    assert leftovers.writers(str(logs)) == []


def test_a_folder_that_was_removed_meanwhile_still_tells(tmp_path):
    with (tmp_path / "worker.out").open("w"):
        (tmp_path / "worker.out").unlink()
        assert leftovers.writers(str(tmp_path)) == [os.getpid()]
