"""The figures of all rungs as Markdown tables, with what they were measured on; and the paper's setting."""

from collections.abc import Sequence
from typing import Any

from .record import Record, Row, show

PAPER = "1000 problems x 128 tokens, 16000 trained steps"
PAPER_TRAJECTORIES, PAPER_TOKENS, PAPER_OPTIMIZER_STEPS = 1000, 128_000, 1000


def lines(report: dict[str, Any], records: Sequence[Record]) -> list[str]:
    """`report` is what `benchmarks/gpu.py` writes, without its rungs."""
    versions = [f"{name} {found or 'none'}" for name, found in report["versions"].items()]
    made = [
        "",
        f"device     {report['device']}",
        f"driver     {report['driver'] or 'none'}",
        f"versions   {', '.join(versions)}",
        f"command    {report['command']}",
        f"date       {report['date']}",
        f"size       {report['size']}",
    ]
    for record in records:
        made += ["", f"## {record.rung}: {record.status}, {record.seconds:.0f} s", ""]
        made += tables(record.rows)
        made += record.notes
        made += [f"skipped: {reason}" for reason in record.skipped]
        made += [f"failed: {reason}" for reason in record.failed]
    if report["extrapolated"]:
        made += ["", *report["extrapolated"]]
    return made


def tables(rows: Sequence[Row]) -> list[str]:
    """A table for each run of rows with the same figures."""
    made: list[str] = []
    columns: list[str] = []
    for row in rows:
        if list(row) != columns:
            columns = list(row)
            made += [""] if made else []
            heads = [name.replace("_", " ") for name in columns]
            made += [f"| {' | '.join(heads)} |", "|---" * len(columns) + "|"]
        made.append(f"| {' | '.join(show(value) for value in row.values())} |")
    return [*made, ""] if made else made


def extrapolated(records: Sequence[Record]) -> list[str]:
    """The paper's setting from the rates that were measured: a line a part, without starts and Ray."""
    rows = {(record.rung, row["what"]): row for record in records for row in record.rows}
    found = []
    sampled = rows.get(("sampling", "in turn"))
    if sampled:
        seconds = PAPER_TOKENS / sampled["tokens_per_second"]
        found.append(f"decode, score and label {PAPER_TOKENS} steps in {seconds:.1f} s")
    for (rung, what), row in rows.items():
        if rung == "scoring":
            seconds = PAPER_TRAJECTORIES / row["trajectories_per_second"]
            found.append(f"{what}: score {PAPER_TRAJECTORIES} trajectories in {seconds:.1f} s")
        if rung == "training" and "seconds_per_step" in row:
            seconds = PAPER_OPTIMIZER_STEPS * row["seconds_per_step"]
            found.append(
                f"{what}: {PAPER_OPTIMIZER_STEPS} optimizer steps of 16 in {seconds:.0f} s"
            )
    head = (
        f"extrapolated to the paper's setting ({PAPER}; without starts, Ray, checkpoints, export)"
    )
    return [f"{head}: {part}" for part in found]
