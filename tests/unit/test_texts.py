"""What texts and docstrings point at is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXTS = [
    *ROOT.glob("*.md"), ROOT / "Makefile", *(ROOT / "cluster").rglob("*.*"),
    *(path for part in ("lr_ray", "jobs", "benchmarks", "recipes", "tests") for path in (ROOT / part).rglob("*.py")),
    *(ROOT / "docs").glob("*.*"),
]  # fmt: skip


def test_files_that_are_named_are_there():
    missing = [
        f"{text.relative_to(ROOT)}: {name}"
        for text in TEXTS
        for name in re.findall(
            r"(?<![/\w])(?:tests|benchmarks|jobs|lr_ray|cluster|docs|recipes)/[\w/]+\.(?:py|yaml|md)\b",
            text.read_text(),
        )
        if not (ROOT / name).exists()
    ]
    assert missing == []
