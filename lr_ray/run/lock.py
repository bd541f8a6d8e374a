"""One driver at a time on a run, and none of its writers after its end.

A local path is locked by the operating system, and the lock ends with its process. An object store has
no locks: there the driver renews a note, and removes it at its end. One that finds a note watches whether
it is renewed: two machines' clocks are not compared. On both, tasks that outlive a killed driver write
no more shards once another driver has put its own note there.
Exercised by `pytest tests/unit/test_lock.py`.
"""

import contextlib
import errno
import fcntl
import os
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any

from lr_ray.errors import StageError, UserError

NOTE = ".owner.json"
RENEW_S = 15.0
FRESH_S = 60.0  # a note that is not renewed for so long is of a dead driver
LOOK_S = 3.0  # between two looks at another's note


@contextlib.contextmanager
def hold(run: Any, shared: bool) -> Iterator[None]:
    """Holds a store.Run for one driver, or for any number that only read.

    Raises UserError when another process holds it. Readers of an object store hold nothing. After a driver
    that was killed there it takes FRESH_S.
    """
    with _os_lock(run, shared) if run.is_local else _absent(run, shared):
        if shared:
            yield
            return
        run.token = uuid.uuid4().hex
        _renew(run)
        ended = threading.Event()
        renewer = threading.Thread(target=_renew_until, args=(run, ended), daemon=True)
        if not run.is_local:
            renewer.start()
        try:
            yield
        finally:
            ended.set()
            if renewer.is_alive():
                renewer.join()  # or its note could outlive the removal
            # Whatever a store raises must not hide how the work ended.
            with contextlib.suppress(Exception):
                check_owner(run)  # not the note of a driver that took over
                run.remove(NOTE)
            run.token = None


def check_owner(run: Any) -> None:
    """Raises StageError when the driver that made this copy of the run has lost it to another."""
    if run.token is None:
        return
    if not run.exists(""):
        raise StageError(
            f"{run.location}: is not there on node {socket.gethostname()}; all nodes must see the run: "
            "give a path that they share, or a URI such as s3://bucket/run"
        )
    owner = run.read_json(NOTE).get("token") if run.exists(NOTE) else None
    if owner != run.token:
        raise StageError(f"{run.location}: another job has taken this run over; nothing written")


def read_note(run: Any) -> dict[str, Any]:
    """The last driver's note: `host`, `pid` and `seen`. Raises UserError when that is not there."""
    note: dict[str, Any] = run.read_json(NOTE)
    for name, kind in (("host", str), ("pid", int), ("seen", (int, float))):
        if not isinstance(note.get(name), kind):
            raise UserError(
                f"{run.location}/{NOTE}: {name} = {note.get(name)!r:.100}: is no note of a driver; remove it "
                "if nobody works on the run"
            )
    return note


@contextlib.contextmanager
def _os_lock(run: Any, shared: bool) -> Iterator[None]:
    file = _locked(run, shared)
    try:
        yield
    except UserError:
        if run.is_new and os.listdir(run.root) == [".lock"]:  # nothing was begun
            shutil.rmtree(run.root)
        raise
    finally:
        os.close(file)


def _locked(run: Any, shared: bool) -> int:
    """The descriptor of the lock file, whose end ends the lock."""
    path, file = run.path(".lock"), -1
    try:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            if not shared or error.errno not in (errno.EACCES, errno.EROFS):
                raise
            path = path if os.path.exists(path) else run.root  # as in a copy without hidden files
            file = os.open(path, os.O_RDONLY)
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(file), os.stat(path)):  # a refused driver removed it
            raise BlockingIOError
    except OSError as error:
        if file >= 0:
            os.close(file)
        if isinstance(error, BlockingIOError):
            raise _held(run) from None
        raise UserError(
            f"--run {run.location}: .lock in it cannot be locked: {error.strerror}; give a directory that "
            "can be written, on a file system with locks"
        ) from None
    return file


@contextlib.contextmanager
def _absent(run: Any, shared: bool) -> Iterator[None]:
    if not shared and run.exists(NOTE):
        _outwait(run)
    yield


def _outwait(run: Any) -> None:
    """Returns when the note there is gone or not renewed for FRESH_S. Raises UserError when it is renewed."""
    note, began = read_note(run), time.monotonic()
    print(
        f"waiting    whether process {note['pid']} on {note['host']} still works on {run.location}: "
        f"{FRESH_S:.0f} s at most"
    )
    while time.monotonic() - began < FRESH_S:
        time.sleep(LOOK_S)
        if not run.exists(NOTE):
            return
        if read_note(run) != note:
            raise _held(run)


def _held(run: Any) -> UserError:
    who = ""
    with contextlib.suppress(UserError):
        note = read_note(run)
        who = f" (process {note['pid']} on {note['host']})"
    return UserError(f"--run {run.location}: another process{who} is working on this run")


def _renew(run: Any) -> None:
    note = {"token": run.token, "host": socket.gethostname(), "pid": os.getpid()}
    run.write_json(NOTE, note | {"seen": time.time()})


def _renew_until(run: Any, ended: threading.Event) -> None:
    while not ended.wait(RENEW_S):
        with contextlib.suppress(Exception):  # a store that fails now may answer next time
            check_owner(run)
            _renew(run)
