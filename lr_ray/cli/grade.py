"""Judge the answers of a file, for whoever disputes a verdict.

lr-ray grade FILE.jsonl
"""

from lr_ray.grading.__main__ import main as grade


def main(argv: list[str]) -> int:
    return grade(argv, prog="lr-ray grade")
