"""Reads JSONL and Parquet files row by row, from any place that fsspec opens.

pytest tests/unit/test_problems_files.py
"""

import codecs
import io
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from glob import has_magic
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from lr_ray import json_text
from lr_ray.config import Fields
from lr_ray.errors import GIT_LFS, IS_POINTER, StageError, UserError, why_not_read
from lr_ray.problems.rows import Raw, listed

MAX_LINE_BYTES = 16 << 20
_BATCH_ROWS = 1024
ENDING = re.compile(r"(\.jsonl?(\.gz)?|\.parquet)$")
KINDS = ".jsonl, .jsonl.gz or .parquet"
_TEXTS = (pa.string(), pa.large_string(), pa.string_view())
# By their names in Arrow and in data sets of the hub.
NARROW = {
    "halffloat": np.float16,
    "float16": np.float16,
    "float": np.float32,
    "float32": np.float32,
}


@dataclass(frozen=True)
class File:
    """One file of a source."""

    fs: fsspec.AbstractFileSystem
    path: str

    @property
    def name(self) -> str:
        """Local path or URI, as it is shown."""
        local = isinstance(self.fs, LocalFileSystem)
        return self.path if local else str(self.fs.unstrip_protocol(self.path))


def is_file_name(source: str) -> bool:
    return bool(ENDING.search(source))


def is_location(source: str) -> bool:
    """Whether a source is meant as a path, URI or glob of files."""
    return is_file_name(source) or has_magic(source)


def find(location: str, option: str, hint: str = f"a {KINDS} path, URI or glob") -> list[File]:
    """The files behind a path, URI or glob, sorted by name.

    Raises UserError naming `option`, and `hint` for what would be right.
    """
    try:
        fs, path = fsspec.core.url_to_fs(location)
        paths = [path] if fs.isfile(path) else []
        if not paths and has_magic(path):
            paths = sorted(found for found in fs.glob(path) if _is_meant(found, path, fs))
        elif not paths:
            _check_reached(fs, path)
    except Exception as error:  # each filesystem has exceptions of its own
        raise UserError(f"{option}: {location}: cannot be read: {why_not_read(error)}") from None
    if not paths:
        there = isinstance(fs, LocalFileSystem) and os.path.exists(path)
        absent = "is no regular file" if there else "no such file"
        what = "no file matches" if has_magic(path) else absent
        raise UserError(f"{option}: {location}: {what}; give {hint}")
    for found in paths:
        if not is_file_name(found):
            raise UserError(f"{option}: {location}: matches {found}; must match {KINDS} alone")
    return [File(fs, found) for found in paths]


def _is_meant(found: str, pattern: str, fs: fsspec.AbstractFileSystem) -> bool:
    """Whether a match is a file, and hidden (as editors' leftovers are) only where the pattern says so."""
    hidden = os.path.basename(found).startswith(".")
    return bool(fs.isfile(found)) and (not hidden or os.path.basename(pattern).startswith("."))


def _check_reached(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """Raises the OSError for which a host was not asked; over HTTP, fsspec takes it for an absent file."""
    try:
        fs.info(path)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, OSError):
            raise error.__cause__ from None


def read(
    file: File, fields: Fields | None, section: str = "data.fields", whole: bool = False
) -> Iterator[Raw]:
    """All rows of a file: of Parquet the columns of `fields`, set in `section`; of JSONL every field.

    `whole`: of Parquet also the other columns, as far as JSONL could hold them. Raises StageError when the
    file cannot be read on.
    """
    parquet = file.path.endswith(".parquet")
    rows = _parquet(file, fields, section, whole) if parquet else _jsonl(file)
    at = 0
    try:
        with file.fs.open(file.path, "rb") as stream:
            if stream.read(len(GIT_LFS)) == GIT_LFS:
                raise StageError(f"{file.name} {IS_POINTER}")
        for raw in rows:
            at = raw.row
            yield raw
    except (OSError, EOFError, zlib.error, pa.ArrowException, UnicodeDecodeError) as error:
        raise StageError(
            f"{file.name}: cannot be read after row {at}: {why_not_read(error)}; give a whole file"
        ) from None


def _jsonl(file: File) -> Iterator[Raw]:
    with file.fs.open(file.path, "rb", compression="infer") as opened:
        stream = io.BufferedReader(opened, 1 << 16)
        for row, line in enumerate(_lines(stream), start=1):
            line = line.removeprefix(codecs.BOM_UTF8) if row == 1 else line
            if len(line) > MAX_LINE_BYTES:
                error = f"the line is longer than {MAX_LINE_BYTES} bytes; must be shorter"
                yield Raw(file.name, row, None, error)
            elif line.strip():
                yield _decoded(file.name, row, line.rstrip(b"\r\n"))


def _lines(stream: io.BufferedReader) -> Iterator[bytes]:
    """Lines with their ends; of one that is too long, the first MAX_LINE_BYTES + 1 bytes."""
    while line := stream.readline(MAX_LINE_BYTES + 1):
        yield line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = stream.readline(MAX_LINE_BYTES + 1)


def _decoded(file: str, row: int, line: bytes) -> Raw:
    try:
        return Raw(file, row, json_text.load(line))
    except json_text.JsonError as error:
        hint = "; must be one object a line" if str(error).startswith("not JSON") else ""
        return Raw(file, row, None, f"{error}{hint}")


def _parquet(file: File, fields: Fields | None, section: str, whole: bool) -> Iterator[Raw]:
    row = 0
    with file.fs.open(file.path, "rb") as stream:
        # Column chunks are then read a buffer at a time, whatever the size of the row groups.
        table = pq.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)
        names = table.schema_arrow.names
        if fields is not None:
            wanted = {fields.problem, fields.id, fields.answer}
            if whole:
                wanted |= {column.name for column in table.schema_arrow if _fits_json(column.type)}
            names = [name for name in names if name in wanted]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            which = f"column {listed(twice)} is there twice; must be there once"
            raise StageError(f"{file.name}: {which}")
        if fields is not None and (wrong := wrong_columns(table.schema_arrow, fields, section)):
            raise StageError(f"{file.name}: {wrong}")
        for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=names):
            columns = [_values(batch.column(name)) for name in names]
            for values in zip(*columns, strict=True):
                row += 1
                yield _row(file.name, row, dict(zip(names, values, strict=True)))


def is_needed(option: str, name: str | None) -> bool:
    """Whether some row must have the field that this option of `Fields` names."""
    return name is not None and not (option == "answer" and name == Fields().answer)


def wrong_columns(schema: pa.Schema, fields: Fields, section: str) -> str | None:
    """What is wrong with a table's columns for this mapping, if anything."""
    for option, name in fields:
        if name not in schema.names:
            if is_needed(option, name):
                return (
                    f"no column {name!r}; set {section}.{option} to one of {listed(schema.names)}"
                )
            continue
        dtype = schema.field(name).type
        if pa.types.is_dictionary(dtype):
            dtype = dtype.value_type
        good = dtype in _TEXTS or pa.types.is_null(dtype)
        number = pa.types.is_integer(dtype) and option != "problem"
        number |= (pa.types.is_floating(dtype) or pa.types.is_decimal(dtype)) and option == "answer"
        if not good and not number:
            what = {"problem": "strings", "id": "strings or integers"}.get(
                option, f"strings or numbers (or set {section}.answer to null)"
            )
            return f"column {name!r} ({section}.{option}) is {dtype}; must be {what}"
    return None


def _fits_json(dtype: pa.DataType) -> bool:
    """Whether JSON could hold the values: no bytes, such as pictures, and no dates."""
    types = pa.types
    if types.is_dictionary(dtype):
        return _fits_json(dtype.value_type)
    if any(is_other(dtype) for is_other in (
        types.is_temporal, types.is_binary, types.is_large_binary, types.is_binary_view,
        types.is_fixed_size_binary,
    )):  # fmt: skip
        return False
    return all(_fits_json(dtype.field(i).type) for i in range(dtype.num_fields))


def _values(column: pa.Array) -> list[Any]:
    """Python values; text as bytes, since it may not be UTF-8, and numbers as `shortest` has them."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type in _TEXTS:
        column = column.cast(
            pa.binary_view() if pa.types.is_string_view(column.type) else pa.large_binary()
        )
    return [shortest(value, str(column.type)) for value in column.to_pylist()]


def shortest(value: Any, dtype: str) -> Any:
    """A number of a narrow type by its shortest decimal, 0.1 and not 0.10000000149; others as they are."""
    narrow = NARROW.get(dtype)
    return value if narrow is None or value is None else float(str(narrow(value)))


def _row(file: str, row: int, values: dict[str, Any]) -> Raw:
    for name, value in values.items():
        if isinstance(value, bytes):
            try:
                values[name] = value.decode()
            except UnicodeDecodeError as error:
                reason = f"{name} is not UTF-8 at byte {error.start + 1}; must be UTF-8"
                return Raw(file, row, None, reason)
    return Raw(file, row, values)
