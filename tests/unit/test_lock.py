"""One driver at a time, on a local path and in an object store."""

import errno
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import pytest

from lr_ray.errors import StageError, UserError
from lr_ray.run import lock
from lr_ray.run.store import Run


@pytest.fixture(autouse=True)
def often(monkeypatch) -> None:
    monkeypatch.setattr(lock, "LOOK_S", 0.02)


@pytest.fixture
def renewing(monkeypatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path) -> Run:
    run = Run(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    run.create()
    return run


def assert_refused(run: Run, message: str) -> None:
    with pytest.raises(UserError, match=message), Run(run.location).lock():
        pass


@pytest.mark.usefixtures("renewing")
def test_second_driver_is_refused_by_the_name_of_the_first(run):
    with run.lock():
        assert_refused(run, f"another process .process {os.getpid()} on")
    with run.lock():
        pass
    assert not run.exists(lock.NOTE)


def test_readers_share_a_local_run_and_keep_a_driver_out(tmp_path):
    run = Run(str(tmp_path))
    with run.lock(shared=True), Run(str(tmp_path)).lock(shared=True):
        assert_refused(run, "another process")


@pytest.mark.parametrize("has_lock", [True, False])
def test_a_run_that_cannot_be_written_can_be_read(tmp_path, monkeypatch, has_lock):
    run, opened = Run(str(tmp_path)), os.open
    if has_lock:
        with run.lock():
            pass

    def read_only(path, flags, *mode):
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", read_only)
    with run.lock(shared=True), Run(str(tmp_path)).lock(shared=True):
        assert_refused(run, "cannot be locked: Permission denied")
        monkeypatch.undo()
        if has_lock:
            assert_refused(run, "another process")


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = f"import os\nfrom lr_ray.run.store import Run\nwith Run({str(tmp_path)!r}).lock(): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with Run(str(tmp_path)).lock():
        pass


@pytest.mark.parametrize("off", [-1e9, -600.0, -45.0, 0.0, 45.0, 600.0, 1e6])
def test_a_dead_drivers_note_is_taken_over_whatever_its_clock(monkeypatch, capsys, off):
    monkeypatch.setattr(lock, "FRESH_S", 0.3)
    run = Run(f"memory://{uuid.uuid4().hex}")
    note = {"token": "x", "host": "h", "pid": 7, "seen": time.time() + off}
    run.write_json(lock.NOTE, note)
    with run.lock():
        assert run.read_json(lock.NOTE)["pid"] == os.getpid()
    assert capsys.readouterr().out == (
        f"waiting    whether process 7 on h still works on {run.location}: 0 s at most\n"
    )


@pytest.mark.usefixtures("renewing")
@pytest.mark.parametrize("off", [-600.0, -45.0, 45.0, 600.0])
def test_a_live_driver_keeps_its_run_whatever_its_clock(monkeypatch, off):
    run, renew = Run(f"memory://{uuid.uuid4().hex}"), lock._renew

    def renew_by_another_clock(run: Run) -> None:
        renew(run)
        note = run.read_json(lock.NOTE)
        run.write_json(lock.NOTE, note | {"seen": note["seen"] + off})

    monkeypatch.setattr(lock, "_renew", renew_by_another_clock)
    with run.lock():
        assert_refused(run, f"another process .process {os.getpid()} on .+ is working on this run$")
        run.check_owner()


def test_a_driver_that_ends_meanwhile_is_not_waited_for(capsys):
    run = Run(f"memory://{uuid.uuid4().hex}")
    run.write_json(lock.NOTE, {"token": "x", "host": "h", "pid": 7, "seen": 0.0})
    ending = threading.Timer(0.2, run.remove, [lock.NOTE])
    ending.start()
    with run.lock():
        ending.join()
    capsys.readouterr()
    with run.lock():  # after an end in order
        assert capsys.readouterr().out == ""


def test_writer_of_a_lost_run_is_stopped(run):
    with run.lock():
        run.check_owner()
        run.write_json(lock.NOTE, {"token": "another", "host": "h", "pid": 7, "seen": 0.0})
        with pytest.raises(StageError, match="taken this run over"):
            run.check_owner()
    Run(run.location).check_owner()  # holds no lock, asks nothing


def test_driver_that_lost_the_run_leaves_the_new_owners_note(run):
    note = {"token": "another", "host": "h", "pid": 7, "seen": 0.0}
    with run.lock():
        run.write_json(lock.NOTE, note)
    assert run.read_json(lock.NOTE) == note


@pytest.mark.usefixtures("renewing")
def test_note_in_an_object_store_is_renewed():
    run = Run(f"memory://{uuid.uuid4().hex}")
    with run.lock():
        first = json.dumps(run.read_json(lock.NOTE))
        for _ in range(100):
            if json.dumps(run.read_json(lock.NOTE)) != first:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("not renewed")


def test_a_store_that_fails_at_the_end_does_not_hide_how_the_work_ended(monkeypatch):
    run = Run(f"memory://{uuid.uuid4().hex}")

    def fail(*_, **__):
        raise RuntimeError("HttpError 503")  # of no kind that Python has

    monkeypatch.setattr(type(run.fs), "rm", fail)
    with run.lock():
        pass
    monkeypatch.setattr(lock, "_outwait", lambda run: None)  # the note is there still
    with pytest.raises(StageError, match="training failed"), run.lock():
        raise StageError("training failed")


def test_a_refused_run_leaves_no_folder_that_it_made(tmp_path):
    def refuse(run: Run, write: str | None) -> None:
        run.create()
        with run.lock():
            if write:
                run.write_bytes(write, b"")
            raise UserError("no")

    def refused(name: str, write: str | None = None) -> list[str]:
        with pytest.raises(UserError, match="no"):
            refuse(Run(str(tmp_path / name)), write)
        return sorted(os.listdir(tmp_path))

    assert refused("new") == []
    (tmp_path / "there").mkdir()
    assert refused("there") == ["there"]
    assert refused("begun", "logs/driver.log") == ["begun", "there"]


def test_a_lock_that_a_refused_driver_removed_is_not_taken(tmp_path, monkeypatch):
    run, lock_file = Run(str(tmp_path)), tmp_path / ".lock"

    def flock(*_):  # as where the other one ends between the opening and the locking
        lock_file.unlink()
        lock_file.touch()

    monkeypatch.setattr(lock.fcntl, "flock", flock)
    assert_refused(run, "another process")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_lock_file_is_neither_waited_for_nor_a_traceback(tmp_path, make):
    make(tmp_path / ".lock")
    if make is os.mkdir:
        assert_refused(Run(str(tmp_path)), r"\.lock in it cannot be locked: Is a directory; give")
    else:
        with Run(str(tmp_path)).lock():
            pass
