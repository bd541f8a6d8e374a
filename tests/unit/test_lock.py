"""One driver at a time, on a local path and in an object store."""

import json
import os
import subprocess
import sys
import time
import uuid

import pytest

from lr_ray.errors import StageError, UserError
from lr_ray.run import lock
from lr_ray.run.store import Run


@pytest.fixture(params=["local", "memory"])
def run(request, tmp_path) -> Run:
    run = Run(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")
    run.create()
    return run


def assert_refused(run: Run, message: str) -> None:
    with pytest.raises(UserError, match=message), Run(run.location).lock():
        pass


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


def test_lock_of_a_killed_process_is_free(tmp_path):
    code = f"import os\nfrom lr_ray.run.store import Run\nwith Run({str(tmp_path)!r}).lock(): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    with Run(str(tmp_path)).lock():
        pass


def test_stale_note_in_an_object_store_is_taken_over():
    run = Run(f"memory://{uuid.uuid4().hex}")
    note = {"token": "x", "host": "h", "pid": 7, "seen": 0.0}
    run.write_json(lock.NOTE, note)
    with run.lock():
        assert run.read_json(lock.NOTE)["pid"] == os.getpid()


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


def test_note_in_an_object_store_is_renewed(monkeypatch):
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    run = Run(f"memory://{uuid.uuid4().hex}")
    with run.lock():
        first = json.dumps(run.read_json(lock.NOTE))
        for _ in range(100):
            if json.dumps(run.read_json(lock.NOTE)) != first:
                break
            time.sleep(0.05)
        else:
            raise AssertionError("not renewed")
