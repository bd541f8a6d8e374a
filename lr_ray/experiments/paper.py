"""The figures of the paper's tables that are known, each table with its source (`paper.yaml`).

Exercised by `pytest tests/unit/test_paper.py`.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from lr_ray.yaml_text import load


@dataclass(frozen=True)
class Table:
    """`rows` map columns to names and figures; `missing` says which figures of the table are not here."""

    title: str
    source: str
    rows: tuple[dict[str, Any], ...]
    missing: str | None

    def row(self, **names: str) -> dict[str, Any] | None:
        """The row that has these names, None where there is none."""
        return next((r for r in self.rows if names.items() <= r.items()), None)


@dataclass(frozen=True)
class Paper:
    """`tables` by their numbers in the paper, `problems` of each whole test set.

    `protocol`: `raw`, the prompt of the untouched `base` models, `system` of all others, and `shots`.
    """

    tables: dict[str, Table]
    problems: dict[str, int]
    protocol: dict[str, Any]


@cache
def paper() -> Paper:
    """All of it, read once."""
    text = resources.files("lr_ray").joinpath("experiments", "paper.yaml").read_text("utf-8")
    tree = load(text)
    return Paper(
        {str(name): _table(said) for name, said in tree["tables"].items()},
        tree["problems"],
        tree["protocol"],
    )


def _table(said: dict[str, Any]) -> Table:
    columns = said.get("columns", [])
    rows = tuple(dict(zip(columns, row, strict=True)) for row in said.get("rows", []))
    return Table(said["title"], said["source"], rows, said.get("missing"))
