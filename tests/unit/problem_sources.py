"""What the tests of lr_ray.problems share: sources in a folder, staged as a run."""

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.problems import INDEX, stage_problems
from lr_ray.run.schemas import REJECTED
from lr_ray.run.store import Run

BENCHMARKS = Path(
    os.environ.get("LR_RAY_BENCHMARKS")
    or Path(__file__).resolve().parents[2] / "../shared/data/benchmarks"
)
needs_benchmarks = pytest.mark.skipif(
    not BENCHMARKS.is_dir(), reason=f"no {BENCHMARKS}; set LR_RAY_BENCHMARKS to such a folder"
)


def config_of(source: str, max_problems: int = 10**6, **data) -> Config:
    over = {"data": {"source": str(source), **data}, "sampling": {"max_problems": max_problems}}
    return resolve(merge(read_tree("demo"), over))


def stage(folder, source: str, max_problems: int = 10**6, **data) -> Run:
    run = Run(f"{folder}/run")
    run.create()
    stage_problems(run, config_of(source, max_problems, **data))
    return run


def jsonl(path, rows: Iterable) -> str:
    """Writes rows as JSON; bytes and text go in as they are."""
    lines = [row if isinstance(row, bytes | str) else json.dumps(row) for row in rows]
    encoded = [line if isinstance(line, bytes) else line.encode() for line in lines]
    Path(path).write_bytes(b"".join(line + b"\n" for line in encoded))
    return str(path)


def count(run: Run) -> tuple[int, int]:
    """Usable and rejected rows."""
    index = run.read_json(INDEX)
    return index["problems"], index["rejected"]


def rejections(run: Run) -> list[dict]:
    return run.read_tables(run.shards("rejected"), REJECTED).to_pylist()
