"""Processes of a local cluster end with their driver, however it ends; here plain ones stand for Ray's."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from lr_ray.runtime import leftovers

# Starts one that ignores signals, by way of a parent that ends, tells its id and waits.
DRIVER = """
import subprocess, sys, time
from lr_ray.runtime import leftovers
stays = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(99)"
parent = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {stays!r}]).pid, flush=True)"
with leftovers.ended(1.0):
    subprocess.run([sys.executable, "-c", parent], start_new_session=True)
    {then}
time.sleep(99)
"""


def driver(then: str) -> tuple[subprocess.Popen, psutil.Process]:
    """A driver, and the process that it leaves behind."""
    command = [sys.executable, "-c", DRIVER.replace("{then}", then)]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert started.stdout
    lines = [int(started.stdout.readline()) for _ in range(2)]
    return started, psutil.Process(max(lines))


def gone(process: psutil.Process, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_process_that_a_killed_driver_left_is_ended_after_its_grace():
    started, stray = driver("time.sleep(99)")
    time.sleep(1.5)
    assert not gone(stray, 0)  # while the driver is there
    os.killpg(started.pid, signal.SIGKILL)
    killed = time.monotonic()
    started.wait()
    assert gone(stray, 30)
    assert time.monotonic() - killed > 0.9


def test_the_end_of_the_context_ends_it_too_and_the_driver_goes_on():
    started, stray = driver("pass")
    try:
        assert gone(stray, 30)
        assert started.poll() is None
    finally:
        started.kill()
        started.wait()


def test_a_watcher_without_anything_left_ends_at_once_and_marks_nothing_afterwards():
    with leftovers.ended(60.0):
        mark = os.environ[leftovers.MARK]
        watchers = [
            p for p in psutil.process_iter(["cmdline"]) if mark in (p.info["cmdline"] or [])
        ]
        assert len(watchers) == 1
        assert os.getpid() not in leftovers.marked(mark)
    assert leftovers.MARK not in os.environ
    assert gone(watchers[0], 10)


@pytest.mark.parametrize("mark", ["", "nobody's"])
def test_a_mark_that_no_process_has_finds_none(mark):
    assert leftovers.marked(mark) == []
