"""Local paths: at which nothing should be written, whole at once, and of temporary files.

Exercised by `pytest tests/unit/test_store.py`.
"""

import contextlib
import errno
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator

from fsspec.implementations.local import LocalFileSystem

from lr_ray.errors import StageError, UserError, is_full_disk

_NO_ROOM = 1 << 20  # bytes: less than is asked for at once
_JOB_FOLDER = "/runtime_resources/working_dir_files/"  # of Ray's session
MAKE_ROOM = "make room there, or name another folder with TMPDIR"


def check_home(path: str, option: str) -> None:
    """Raises UserError for a path below the home of a user that does not exist, as ~nobody/x may be."""
    there = os.path.expanduser(path)
    if there.startswith("~"):
        user = there.partition("/")[0]
        raise UserError(f"{option} {path}: no such directory: {user} is nobody's; give another")


def check_lasting(path: str, said: str) -> None:
    """Raises UserError that begins with `said` for a path that goes with the submitted job it is of."""
    if _JOB_FOLDER in f"{os.path.abspath(path)}/":
        raise UserError(
            f"{said}: lies in the submitted job's copy of its working directory, which Ray removes; "
            "give an absolute path or a URI"
        )


@contextlib.contextmanager
def temporary() -> Iterator[str]:
    """A temporary folder. Raises StageError naming its disk where that is the one without room."""
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        try:
            yield folder
        except Exception as error:
            if is_full_disk(error) and (full := full_temporary()):
                raise StageError(f"{full}: no space left; {MAKE_ROOM}") from error
            raise


def full_temporary() -> str | None:
    """The folder of this machine's temporary files, or of Ray's, whose disk has no room."""
    ours = os.environ.get("TMPDIR") or "/tmp"
    for folder in dict.fromkeys((tempfile.tempdir or ours, os.environ.get("RAY_TMPDIR") or ours)):
        with contextlib.suppress(OSError):
            if shutil.disk_usage(folder).free < _NO_ROOM:
                return folder
    return None


@contextlib.contextmanager
def atomic(final: str) -> Iterator[str]:
    """A temporary local path, of a file or a folder, that takes the final name on success.

    By then its content is on the disk: a power cut leaves nothing of that name, or all of it.
    """
    folder, base = os.path.split(final)
    os.makedirs(folder, exist_ok=True)
    temporary, local = f"{folder}/.{base}.{uuid.uuid4().hex[:8]}.tmp", LocalFileSystem()
    try:
        yield temporary
        for place, _, files in os.walk(temporary):
            for path in (*(os.path.join(place, name) for name in files), place):
                _sync(path)
        if os.path.isfile(temporary):
            _sync(temporary)
        if os.path.isdir(final):
            local.rm(final, recursive=True)
        os.replace(temporary, final)
        _sync(folder)
    except BaseException:
        if os.path.exists(temporary):
            local.rm(temporary, recursive=True)
        raise


def _sync(path: str) -> None:
    """Waits until a file's content, or a folder's names, are on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    except OSError as error:
        # Linux' answer for folders of file systems that sync none, as CIFS.
        if not (error.errno == errno.EINVAL and os.path.isdir(path)):
            raise
    finally:
        os.close(file)
