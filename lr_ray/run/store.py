"""The run directory: the only place through which stages talk, on a local path or any fsspec URI.

Files appear whole or not at all. docs/run-directory.md lists them. Exercised by
`pytest tests/unit/test_store.py`.
"""

import contextlib
import difflib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from lr_ray.errors import StageError, UserError, named, reason, why_not_read
from lr_ray.json_text import no_constant
from lr_ray.run import lock
from lr_ray.run.paths import atomic, check_home, check_lasting

SCHEMA_VERSION = 1  # of run.json, summary.json and the supervision rows
_FACTS = b"lr_ray"  # key in a Parquet footer
_SHARD = re.compile(r"part-.*\.parquet")
# How a shard that is not whole is made again, where that is not by sampling.
_AGAIN = {
    "answers": "remove it and run again, which asks for what it held",
    "problems": "remove the folder problems, which sampling then writes anew",
}
_SAMPLE_AGAIN = "remove it, and summary.json if sampling was finished, and sample again"


class Run:
    """One run directory. Picklable: actors on other nodes open the same location."""

    def __init__(self, location: str, option: str = "--run") -> None:
        """Raises UserError naming the option that gave a location which no file system opens."""
        self.location, self.option = location, option
        if not str(location).strip():  # the current folder, to fsspec
            raise UserError(f"{option}: is empty; give a directory or URI")
        try:
            self.fs, root = fsspec.core.url_to_fs(location)
        except Exception as error:  # each file system has exceptions of its own
            said = f"cannot be opened: {why_not_read(error)}; give a directory or another URI"
            raise UserError(f"{option} {location}: {said}") from None
        self.root = root.rstrip("/")
        self.is_local = isinstance(self.fs, LocalFileSystem)
        if self.is_local:
            check_home(location, option)
            self.location = re.sub("(?<=.)/+$", "", str(location))  # a shell's completion adds one
        self.is_new = False  # and to be removed again where nothing comes of it
        self.token: str | None = None  # of the driver that holds the run

    @property
    def address(self) -> str:
        """Opens it in processes with another current folder too, as Ray's workers may have."""
        return self.root if self.is_local else self.location

    def path(self, name: str) -> str:
        return f"{self.root}/{name}"

    def child(self, folder: str) -> "Run":
        """A run directory inside this one, on the same file system."""
        return Run(f"{self.location.rstrip('/')}/{folder}")

    def create(self) -> None:
        """Makes the directory. Raises UserError when it cannot be written, or would not last."""
        if self.is_local:
            check_lasting(self.root, f"--run {self.location}")
        try:
            self.is_new = self.is_local and not os.path.lexists(self.root)
            self.fs.makedirs(self.root, exist_ok=True)
            if self.is_local and not os.access(self.root, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError("Permission denied")
        except Exception as error:  # each file system has exceptions of its own
            raise UserError(
                f"--run {self.location}: {why_not_read(error)}; "
                "give a directory that can be read and written"
            ) from None

    def lock(self, shared: bool = False) -> contextlib.AbstractContextManager[None]:
        """See `lock.hold`."""
        return lock.hold(self, shared)

    def check_owner(self) -> None:
        """See `lock.check_owner`."""
        lock.check_owner(self)

    def exists(self, name: str) -> bool:
        """Raises UserError where the file system does not answer, and for a link to what is not there."""
        path = self.path(name)
        try:
            there = bool(self.fs.exists(path))
        except Exception as error:  # each file system has exceptions of its own
            raise UserError(
                f"{self.location}/{name}: cannot be looked for: {why_not_read(error)}"
            ) from None
        if (
            self.is_local and not there and os.path.islink(path)
        ):  # in place of which nothing is written
            raise UserError(
                f"{self.location}/{name}: is a link to {os.readlink(path)}, which is not there; remove "
                "the link, or put there what it was of"
            )
        return there

    def shards(self, folder: str) -> list[str]:
        """Names (relative to the run) of a folder's whole Parquet shards, sorted."""
        if not self.exists(folder):
            return []
        self.fs.invalidate_cache(self.path(folder))  # actors elsewhere have written since
        paths = self.fs.ls(self.path(folder), detail=False)
        names = [str(path).rsplit("/", 1)[1] for path in paths]
        # Editors and copying tools leave part-1.parquet.swp, .part-1.parquet.Xa3 and the like.
        return sorted(f"{folder}/{n}" for n in names if _SHARD.fullmatch(n))

    def folders(self, name: str) -> list[str]:
        """Names (relative to the run) of the folders in a folder, sorted."""
        if not self.exists(name):
            return []
        self.fs.invalidate_cache(self.path(name))
        found = self.fs.ls(self.path(name), detail=True)
        return sorted(
            f"{name}/{str(entry['name']).rstrip('/').rsplit('/', 1)[1]}"
            for entry in found
            if entry["type"] == "directory"
        )

    def read_json(self, name: str) -> dict[str, Any]:
        """Raises UserError when the file is missing or no JSON object."""
        try:
            value = json.loads(self.fs.cat_file(self.path(name)), parse_constant=no_constant)
        except Exception as error:  # JSON's, and each file system has exceptions of its own
            said = why_not_read(error)
            raise UserError(f"{self.location}/{name}: cannot be read: {said}") from None
        if not isinstance(value, dict):
            raise UserError(f"{self.location}/{name}: not a JSON object")
        return value

    def write_json(self, name: str, value: dict[str, Any]) -> None:
        self.write_bytes(name, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())

    def write_lines(self, name: str, rows: list[dict[str, Any]]) -> None:
        """JSONL, a line a row."""
        self.write_bytes(name, "".join(json.dumps(row) + "\n" for row in rows).encode())

    def read_lines(self, name: str) -> list[dict[str, Any]]:
        """What `write_lines` wrote; empty where there is no file. Raises UserError for something else."""
        lines = self.fs.cat_file(self.path(name)).splitlines() if self.exists(name) else []
        with shaped(self.location, name):
            return [dict(json.loads(line)) for line in lines]

    def answers(self, task: str, columns: list[str] | None = None) -> pa.Table:
        """Graded answers of an evaluation's task, of all columns or these. Raises StageError without them."""
        name = f"evaluation/{task}.parquet"
        try:
            return pq.read_table(self.path(name), columns=columns, filesystem=self.fs)
        except (OSError, pa.ArrowException) as error:
            said = f"cannot be read: {why_not_read(error)}; put the run's own file there"
            raise StageError(f"{self.location}/{name}: {said}") from None

    def read_tables(self, names: list[str], schema: pa.Schema) -> pa.Table:
        """The shards, one after the other. Raises StageError naming one that cannot be read."""
        tables = [schema.empty_table()]
        for name in names:
            try:
                tables.append(pq.read_table(self.path(name), filesystem=self.fs, schema=schema))
            except (OSError, pa.ArrowException) as error:
                raise self._not_whole(name, error) from None
        return pa.concat_tables(tables)

    def write_table(self, name: str, table: pa.Table, facts: dict[str, Any] | None = None) -> None:
        """One Parquet file; `facts` about it go into its footer (see `read_facts`)."""
        if facts is not None:
            metadata = {**(table.schema.metadata or {}), _FACTS: json.dumps(facts)}
            table = table.replace_schema_metadata(metadata)
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self.write_bytes(name, sink.getvalue().to_pybytes())

    def read_facts(self, name: str) -> dict[str, Any]:
        """What a Parquet file's footer says of it. Raises StageError when it cannot be read, and UserError
        for something else in it.
        """
        try:
            metadata = pq.read_schema(self.path(name), filesystem=self.fs).metadata or {}
        except (OSError, pa.ArrowException) as error:
            raise self._not_whole(name, error) from None
        with shaped(self.location, name):
            return dict(json.loads(metadata.get(_FACTS, b"{}")))

    def _not_whole(self, name: str, error: Exception) -> StageError:
        again = _AGAIN.get(name.split("/")[0], _SAMPLE_AGAIN)
        return StageError(f"{self.location}/{name}: not a whole shard; {again}: {reason(error)}")

    def put_folder(self, local: str, name: str) -> None:
        """Copies a local folder in. The name appears when it is complete on local runs only.

        What a killed attempt has left of it is removed: a model may be many gigabytes.
        """
        for left in Path(self.root).glob(f".{name}.*.tmp") if self.is_local else ():
            shutil.rmtree(left)
        with self._atomic(name) as path:
            self.fs.put(local.rstrip("/") + "/", path + "/", recursive=True)

    def put_file(self, local: str, name: str) -> None:
        """Copies a local file in."""
        with self._atomic(name) as path:
            self.fs.put_file(local, path)

    def take(self, other: "Run", name: str) -> None:
        """A file or folder of another run; what is there of the same name is replaced.

        Files are hard links where they can be: no file of a run is ever written into.
        """
        if not other.exists(name):
            return
        files = other.fs.find(other.path(name))
        # An index comes last, as it says that its folder is whole.
        for path in sorted(files, key=lambda path: path.endswith("index.json")):
            file = str(path)[len(other.root) + 1 :]
            if self.is_local and other.is_local:
                with self._atomic(file) as temporary:
                    try:
                        os.link(path, temporary)
                    except OSError:  # another file system
                        shutil.copyfile(path, temporary)
            else:
                self.write_bytes(file, other.fs.cat_file(path))

    def write_bytes(self, name: str, content: bytes) -> None:
        with self._atomic(name) as path:
            self.fs.pipe_file(path, content)

    def local_folder(self, name: str, cache: str) -> str:
        """Local path of a folder: its own on a local run, else a copy under `cache`."""
        if self.is_local:
            return self.path(name)
        target = Path(cache, name)
        self.fs.get(self.path(name) + "/", f"{target}/", recursive=True)
        return str(target)

    def remove(self, name: str) -> None:
        if self.exists(name):
            self.fs.rm(self.path(name), recursive=True)

    def log_path(self) -> str:
        """Local file for the output of Ray, vLLM and DeepSpeed in this process.

        Raises UserError where there is no folder for it, and none can be made.
        """
        if self.is_local:
            try:
                os.makedirs(self.path("logs"), exist_ok=True)
            except OSError as error:
                said = f"{error.strerror}; must be a folder that can be written"
                raise UserError(f"--run {self.location}: logs: {said}") from None
            return self.path("logs/driver.log")
        return tempfile.mkstemp(prefix="lr_ray-", suffix=".log")[1]

    def _atomic(self, name: str) -> contextlib.AbstractContextManager[str]:
        """A temporary path that takes the final name on success. Object stores put whole files."""
        final = self.path(name)
        return atomic(final) if self.is_local else contextlib.nullcontext(final)


@contextlib.contextmanager
def shaped(location: str, file: str) -> Iterator[None]:
    """Raises UserError naming the file, of a run, that has other fields or kinds than are read within."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        said = f"holds something else than lr_ray writes there: {named(error)}"
        raise UserError(f"{location}/{file}: {said}; put the run's own file there") from None


def read_summary(run: Run) -> dict[str, Any]:
    """summary.json without parts that are null, {} where there is none. Raises UserError for another form."""
    summary = run.read_json("summary.json") if run.exists("summary.json") else {}
    there = {part: value for part, value in summary.items() if value is not None}
    with shaped(run.location, "summary.json"):
        for part, value in there.items():
            if isinstance(value, dict) == (part == "seconds_total"):
                must = "a number" if part == "seconds_total" else "an object"
                raise TypeError(f"{part} = {value!r:.100}: must be {must}")
    return there


def absent(run: Run) -> str:
    """That there is no run, with the run beside it that has the closest name."""
    what = f"{run.option} {run.location}"
    if run.exists("") and not run.is_new:
        return f"{what}: no run there: it has no run.json"
    folder, _, name = run.root.rpartition("/")
    with contextlib.suppress(Exception):  # each file system has exceptions of its own
        there = run.fs.ls(folder, detail=False)
        beside = [str(path).rstrip("/").rpartition("/")[2] for path in there]
        for close in difflib.get_close_matches(name, beside):
            if run.fs.exists(f"{folder}/{close}/run.json"):
                before = run.location.rstrip("/").removesuffix(name)
                return f"{what}: no such run; did you mean {before}{close}?"
    return f"{what}: no such run; give one that is there (lr-ray run --config NAME begins one)"


def read_asked(run: Run) -> dict[str, Any]:
    """run.json. Raises UserError when it is missing, of another schema version or of another form."""
    if not run.exists("run.json"):
        raise UserError(absent(run))
    asked = run.read_json("run.json")
    if asked.get("schema_version") != SCHEMA_VERSION or not isinstance(asked.get("config"), dict):
        raise UserError(f"{run.location}/run.json: not of schema version {SCHEMA_VERSION}")
    models, versions = asked.get("models", {}), asked.get("versions", {})
    wrong = None
    if not isinstance(models, dict) or not all(isinstance(m, dict) for m in models.values()):
        wrong = f"models = {models!r:.100}: must be an object of objects"
    elif not isinstance(versions, dict):
        wrong = f"versions = {versions!r:.100}: must be an object"
    if wrong:
        raise UserError(f"{run.location}/run.json: {wrong}; put the run's own file there")
    return asked
