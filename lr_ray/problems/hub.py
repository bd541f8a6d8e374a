"""Reads a data set of the Hugging Face hub, or a folder laid out like one, row by row.

pytest tests/unit/test_problems_hub.py
"""

import logging
import os
from collections.abc import Iterator
from typing import Any

from lr_ray.config import Fields
from lr_ray.errors import StageError, why_not_read
from lr_ray.problems.files import NARROW, is_needed, shortest
from lr_ray.problems.rows import Raw, listed

_MOST_FILES = 10_000
_ANSWER_S = 10.0  # the hub's, before it counts as out of reach


def read(name: str, config: str | None, split: str, fields: Fields | None) -> Iterator[Raw]:
    """Rows of one split of `org/name` or of a folder, streamed.

    With `fields`, only their columns. Raises StageError when the set, the config, the split or a
    column is missing, or the hub cannot be reached.
    """
    label = "/".join(part for part in (name, config, split) if part)
    dataset = _open(name, config, split)
    if fields is not None and dataset.column_names is not None:
        dataset = dataset.select_columns(_columns(dataset.column_names, fields, label))
    types = {name: getattr(of, "dtype", None) for name, of in (dataset.features or {}).items()}
    narrow = {name: dtype for name, dtype in types.items() if dtype in NARROW}
    row = 0
    try:
        for row, value in enumerate(dataset, start=1):
            value |= {name: shortest(value[name], dtype) for name, dtype in narrow.items()}
            yield Raw(label, row, value)
    except Exception as error:  # of datasets, and of the reader of each format
        from datasets.table import CastError

        cause = error.__cause__ or error
        said = why_not_read(cause)
        if isinstance(cause, CastError):  # whose reason takes many lines
            said = "its files have other columns or types than the first; must have the same"
        raise StageError(f"{label}: cannot be read after row {row}: {said}") from None


def _open(name: str, config: str | None, split: str) -> Any:
    import datasets
    from huggingface_hub import HfApi

    datasets.logging.set_verbosity(logging.CRITICAL)  # what it logs, it also raises
    folder = os.path.isdir(name)
    if folder:
        _check_size(name)
    try:
        if not folder:
            HfApi().dataset_info(name, timeout=_ANSWER_S)  # load_dataset would retry for minutes
        path = os.path.abspath(name) if folder else name  # it takes the set's name from the path
        splits = datasets.load_dataset(path, config, streaming=True)
    except Exception as error:  # of datasets, huggingface_hub and the HTTP client
        where = "folder" if folder else "Hugging Face hub"
        advice = "give one that can be reached, or a local copy (of a benchmark in data_dir, else as a path)"
        if folder:
            advice = "give one laid out like a data set of the hub, or a file of it"
        raise StageError(
            f"{where}: data set {name}{f':{config}' if config else ''} cannot be opened: "
            f"{why_not_read(error)}; {advice}"
        ) from None
    if split not in splits:
        raise StageError(f"data set {name}: no split {split!r}; there are {listed(splits)}")
    return splits[split]


def _check_size(folder: str) -> None:
    """Raises StageError for a folder in which `datasets` would look for data for many minutes."""
    found = 0
    for _, folders, files in os.walk(folder):
        found += len(folders) + len(files)
        if found > _MOST_FILES:
            raise StageError(
                f"folder: {folder} holds more than {_MOST_FILES} files and folders; give the folder of the "
                "data alone, or a glob of its files"
            )


def _columns(there: list[str], fields: Fields, label: str) -> list[str]:
    wanted = []
    for option, name in fields:
        if name in there:
            wanted.append(name)
        elif is_needed(option, name):
            raise StageError(
                f"{label}: no column {name!r}; set data.fields.{option} to one of {listed(there)}"
            )
    return list(dict.fromkeys(wanted))  # one column may be several fields
