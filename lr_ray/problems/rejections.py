"""Rows and problems that a run rejected, as `rejected.jsonl`, which a person can read.

Exercised by `pytest tests/unit/test_problems_staging.py`.
"""

import json

from lr_ray.config import Config
from lr_ray.errors import UserError
from lr_ray.problems.staging import read_index
from lr_ray.run.schemas import REJECTED
from lr_ray.run.store import Run

LINES = "rejected.jsonl"


def write_rejections(run: Run) -> None:
    """Writes all rows of `rejected/`, by file and row, a JSON object a line; no file of no rows."""
    rows = run.read_tables(run.shards("rejected"), REJECTED).to_pylist()
    rows.sort(key=lambda row: (row["file"], row["row"]))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    if rows:
        run.write_bytes(LINES, lines.encode("utf-8", "backslashreplace"))
    else:
        run.remove(LINES)  # of another source


def check_rows(run: Run, config: Config) -> None:
    """Raises UserError when more of the staged source's rows are rejected than the config allows."""
    index = read_index(run)
    rejected, total = index["rejected"], index["rejected"] + index["problems"]
    allowed = config.sampling.max_rejected
    if rejected > allowed * total:
        write_rejections(run)
        enough = -(-rejected * 1000 // total) / 1000  # rounded up
        raise UserError(
            f"data.source: {config.data.source}: {rejected} of {total} rows cannot be used, more than "
            f"sampling.max_rejected = {allowed}; mend them, or give --sampling.max_rejected {enough:g}; "
            f"reasons: {run.location}/{LINES}; the first: {index.get('first_rejected')}"
        )
