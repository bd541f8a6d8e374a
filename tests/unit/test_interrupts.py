"""Interruption in a process of its own: in order, and by force when the exception was swallowed.

The processes wait in short sleeps: of a signal that comes between Python's last look and the system
call of a sleep, Python hears when the sleep is over.
"""

import signal
import subprocess
import sys
import threading

import psutil
import pytest

from lr_ray.runtime import interrupts

ORDERLY = """
import time
from lr_ray.runtime import interrupts
interrupts.install()
try:
    print("ready", flush=True)
    while True:
        time.sleep(0.1)
finally:
    print("cleaned up", flush=True)
"""

SWALLOWED = """
import subprocess, time
from lr_ray.runtime import interrupts
interrupts.GRACE_S = 1.0
interrupts.install()
child = subprocess.Popen(["sleep", "60"], start_new_session=True)
told = False
while True:
    try:
        if not told:  # in here, so that no signal comes before the except
            told = True
            print(child.pid, flush=True)
        for _ in range(600):
            time.sleep(0.1)
    except:
        pass
"""

CONVERTED = """
import time
from lr_ray.cli.front import guarded
from lr_ray.errors import StageError

def job():
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
    except BaseException:
        raise StageError("workers went away")

raise SystemExit(guarded(job))
"""


# Ray replaces the handler's SystemExit(143) by its own within a blocking call.
REPLACED = """
import time, types
from lr_ray.cli import front

def work(argv):
    try:
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
    except SystemExit:
        raise SystemExit(1) from None

front.importlib = types.SimpleNamespace(import_module=lambda name: types.SimpleNamespace(main=work))
front.sys.argv = ["lr-ray", "serve"]
front.main()
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, -2), (signal.SIGTERM, 143)])
def test_cleanup_runs(number, code):
    process = subprocess.Popen([sys.executable, "-c", ORDERLY], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.stdout.read() == "cleaned up\n"
    # Outside of a job nothing turns KeyboardInterrupt into 130; Python dies of the signal.
    assert process.wait(timeout=20) == code


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_swallowed_exception_still_ends_process_and_descendants(number, code):
    process = subprocess.Popen([sys.executable, "-c", SWALLOWED], stdout=subprocess.PIPE, text=True)
    child = psutil.Process(int(process.stdout.readline()))
    process.send_signal(number)
    assert process.wait(timeout=20) == code
    assert psutil.wait_procs([child], timeout=10)[1] == []


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_error_made_of_the_interruption_is_the_interruption(number, code):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", CONVERTED], **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, said = process.communicate(timeout=20)
    assert process.returncode == code
    assert "workers went away" not in said


def test_patience_is_for_work_that_ends_in_order():
    script = SWALLOWED.replace(
        "while True:", "patience = interrupts.patience(3)\npatience.__enter__()\nwhile True:"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    assert process.wait(timeout=20) == 143


BORROWED = """
import signal, time
from lr_ray.runtime import interrupts
interrupts.GRACE_S = 0.5
before = signal.getsignal(signal.SIGTERM)
try:
    with interrupts.borrowed():
        interrupts.install()
        print("ready", flush=True)
        while True:
            time.sleep(0.1)
except BaseException as ended:
    print(type(ended).__name__, interrupts.received, signal.getsignal(signal.SIGTERM) == before)
time.sleep(1)  # beyond the grace
print("went on", flush=True)
"""


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGINT, "KeyboardInterrupt"), (signal.SIGTERM, "SystemExit")]
)
def test_a_process_that_borrows_the_handlers_goes_on(number, name):
    process = subprocess.Popen([sys.executable, "-c", BORROWED], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.communicate(timeout=20)[0] == f"{name} None True\nwent on\n"
    assert process.returncode == 0


def test_another_exit_code_made_of_the_interruption_is_the_interruptions():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", REPLACED], **pipes)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143


def test_another_thread_than_the_main_one_installs_nothing():
    before, failed = signal.getsignal(signal.SIGINT), []

    def work():
        try:
            interrupts.install()
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
    assert signal.getsignal(signal.SIGINT) is before
