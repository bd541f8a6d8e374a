"""Local paths at which nothing should be written. Exercised by `pytest tests/unit/test_store.py`."""

import os

from lr_ray.errors import UserError

_JOB_FOLDER = "/runtime_resources/working_dir_files/"  # of Ray's session


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
