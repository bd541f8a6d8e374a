"""Grades rows of a file, for whoever disputes a verdict.

python -m lr_ray.grading FILE.jsonl
"""

import argparse
import codecs
import contextlib
import gzip
import json
import re
import sys
import zlib
from collections.abc import Iterator
from typing import Any, NoReturn

from lr_ray import json_text
from lr_ray.errors import StageError, UserError, one_line, why_not_read
from lr_ray.grading.graders import find
from lr_ray.grading.judging import must_be
from lr_ray.grading.pool import Graders, Item
from lr_ray.grading.reading import KINDS

_DESCRIPTION = f"""Reads the answer off each completion and judges it. A row is a JSON object with `expected`,
`completion`, `kind` ({", ".join(KINDS)}, or module:object of a grader of your own; math where it is left
out) and `cut` (whether the limit on tokens ended the completion; false where it is left out); what else it
has is handed on, and a grader of your own sees it. For each row a line with `extracted`, `correct` and
`why` is printed; one that no answer could be right for is told on stderr, as other bad rows are."""

_MAX_TIME_LIMIT_S = 3600
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1f]")
_FIELDS = {"expected": str, "completion": str, "kind": str, "cut": bool}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"error: {one_line(message)} (--help lists the options)", file=sys.stderr)
        raise SystemExit(2)


def main(argv: list[str] | None = None, prog: str = "python -m lr_ray.grading") -> int:
    parser = _Parser(prog=prog, description=_DESCRIPTION)
    parser.add_argument("file", metavar="FILE.jsonl", help="rows, one a line; - reads stdin")
    parser.add_argument(
        "--time-limit",
        type=float,
        default=5.0,
        metavar="S",
        help="of a judgement, in CPU seconds (5)",
    )
    arguments = parser.parse_args(argv)
    try:
        return 1 if _grade_file(arguments.file, arguments.time_limit) else 0
    except BrokenPipeError:
        return 1
    except (UserError, StageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1


def _grade_file(name: str, time_limit_s: float) -> int:
    """Prints a line for each row. Returns how many rows were bad. Raises UserError where none can be read."""
    if not 0 < time_limit_s <= _MAX_TIME_LIMIT_S:
        raise UserError(
            f"--time-limit {time_limit_s}: must be above 0 and at most {_MAX_TIME_LIMIT_S}"
        )
    bad, rows = 0, 0
    with Graders(time_limit_s=time_limit_s) as graders:
        for number, line in enumerate(_lines(name), start=1):
            if not line.strip():
                continue
            rows += 1
            if rows == 1:
                _check_kind(name, line)
            try:
                row = json.dumps(_graded(_row(line), graders), ensure_ascii=False)
                # Half of a surrogate pair, which UTF-8 has no bytes for, as JSON escapes it.
                print(row.encode(errors="backslashreplace").decode(), flush=True)
            except (ValueError, UserError) as error:
                bad += 1
                print(f"{name}, row {number}: {error}", file=sys.stderr)
    if not rows:
        raise UserError(f"{name}: no rows; give a file of JSON lines")
    return bad


def _check_kind(name: str, first: bytes) -> None:
    """Raises UserError for the first row of a file without a good one: no text, or of several models."""
    bare = first.removeprefix(codecs.BOM_UTF8).lstrip()
    if not bare.startswith(b"{") and (_CONTROL.search(bare) or not _is_utf8(bare)):
        raise UserError(
            f"{name}: is no text; give a file of JSON lines in UTF-8, gzipped if its name ends with .gz"
        )
    with contextlib.suppress(ValueError):
        row = json_text.load(first)
        names = [n for n in row if n.endswith("_completion")] if isinstance(row, dict) else []
        if names and "completion" not in row:
            raise UserError(
                f"{name}: has the answers of several models, {', '.join(names)}; give rows with one as "
                "completion, and its grader as kind"
            )


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


def _graded(row: dict[str, Any], graders: Graders) -> dict[str, Any]:
    """Raises ValueError where no answer could be right, and UserError where there is no such grader."""
    kind = row.get("kind", "math")
    rest = {name: value for name, value in row.items() if name not in _FIELDS}
    item = Item(row["expected"], row["completion"], row.get("cut", False), rest)
    grader = find(kind, "kind") or kind
    if right := must_be(row["expected"], kind):
        raise ValueError(f"expected is {row['expected'][:60]!r}; must be {right} (kind {kind})")
    [graded] = graders.grade_all(grader, [item])
    said = {"extracted": graded.extracted, "correct": graded.verdict.correct}
    return row | said | {"why": graded.verdict.how}


def _lines(name: str) -> Iterator[bytes]:
    open_file = gzip.open if name.lower().endswith(".gz") else open
    try:
        with (
            contextlib.nullcontext(sys.stdin.buffer)
            if name == "-"
            else open_file(name, "rb") as file
        ):
            yield from file
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{name}: {why_not_read(error)}; give a file of JSON lines") from None


def _row(line: bytes) -> dict[str, Any]:
    """The row of a line. Raises ValueError saying what is wrong and what would be right."""
    try:
        row = json_text.load(line)
    except json_text.JsonError as error:
        raise ValueError(f"{error}; a row must be a JSON object") from None
    if not isinstance(row, dict):
        raise ValueError("not a JSON object; must have expected and completion")
    for name, kind in _FIELDS.items():
        if name not in row and name in ("expected", "completion"):
            raise ValueError(f"no field {name!r}; must have expected and completion")
        if name in row and not isinstance(row[name], kind):
            what = "text" if kind is str else "true or false"
            raise ValueError(f"{name} is {json.dumps(row[name])[:40]}; must be {what}")
    if json_text.EATEN.search(row["expected"]):
        raise ValueError(f"expected is {row['expected'][:60]!r}; must have its backslashes escaped")
    return row


if __name__ == "__main__":
    sys.exit(main())
