"""python -m lr_ray.grading as a person runs it."""

import bz2
import gzip
import io
import json
import lzma
import pickle
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_ray.evaluation.results import LABELS, PARTS, SHARED, changed
from lr_ray.grading.__main__ import main


def run(path, rows="", *arguments):
    path.write_text(rows, encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "lr_ray.grading", str(path), *arguments],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_each_row_gets_what_was_read_the_verdict_and_why(tmp_path):
    rows = [
        {"id": 7, "kind": "math", "expected": "12", "completion": "The answer is 12, as 3*4=12."},
        {"expected": "12", "completion": "The answer is 12", "cut": True},
        {"kind": "choice", "expected": "B", "completion": "B is correct. A is not.", "cut": False},
        {"expected": "x+1", "completion": r"\boxed{1+x}"},
    ]
    done = run(tmp_path / "rows.jsonl", "\n".join(map(json.dumps, rows)) + "\n\n")
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["extracted"], line["correct"], line["why"]) for line in lines] == [
        ("12", True, "same text"),
        (None, False, "no answer"),
        ("B", True, "same text"),
        ("1+x", True, "equivalent"),
    ]
    assert lines[0]["id"] == 7


def test_gzipped_rows_are_read_and_part_of_such_a_file_is_one_line(tmp_path):
    row, path = {"expected": "12", "completion": "The answer is 12"}, tmp_path / "rows.jsonl.gz"
    whole = gzip.compress(json.dumps(row).encode())
    for content, said in ((whole, ""), (whole[:-4], "Compressed file ended before ")):
        path.write_bytes(content)
        done = subprocess.run(
            [sys.executable, "-m", "lr_ray.grading", str(path)], capture_output=True, text=True
        )
        assert done.returncode == (2 if said else 0)
        assert (f"error: {path}: {said}" if said else "") in done.stderr
        assert bool(said) or json.loads(done.stdout)["correct"]
        assert len(done.stderr.splitlines()) == bool(said)


def test_a_file_without_rows_is_told(tmp_path):
    for rows in ("", "\n \n"):
        done = run(tmp_path / "rows.jsonl", rows)
        said = f"error: {tmp_path}/rows.jsonl: no rows; give a file of JSON lines\n"
        assert (done.returncode, done.stdout, done.stderr) == (2, "", said)


def parquet(rows) -> bytes:
    pq.write_table(pa.Table.from_pylist(rows), file := io.BytesIO())
    return file.getvalue()


def zipped(text: bytes) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w") as archive:
        archive.writestr("rows.jsonl", text)
    return file.getvalue()


ROW = {"expected": "12", "completion": "The answer is 12"}
LINE = json.dumps(ROW).encode()


@pytest.mark.parametrize(
    "content",
    [
        parquet([ROW] * 50), zipped(LINE), gzip.compress(LINE), bz2.compress(LINE), lzma.compress(LINE),
        pickle.dumps([ROW]), pickle.dumps([ROW], 2), LINE.decode().encode("utf-16"), b"\n" + zipped(LINE),
    ],
    ids=["parquet", "zip", "gzip", "bz2", "xz", "pickle", "pickle 2", "utf-16", "blank"],
)  # fmt: skip
def test_a_file_that_is_no_text_is_one_line(tmp_path, capsys, content):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    said = f"error: {path}: is no text; give a file of JSON lines in UTF-8, gzipped if its name ends with .gz\n"
    assert (main([str(path)]), *capsys.readouterr()) == (2, "", said)


def test_answers_of_several_models_are_told_as_that(tmp_path, capsys):
    path, ours = tmp_path / "demo-changed.jsonl", LABELS
    columns = {f"{label}_{part}": [str(label)] * 2 for label in ours for part in PARTS}
    correct = {f"{label}_correct": [label == "improved", False] for label in ours}
    shared = {name: ["12"] * 2 for name in SHARED}
    rows = changed(pa.table(shared | columns | correct), ours)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert len(rows) == 1
    said = f"error: {path}: has the answers of several models, expert_completion, improved_completion; give rows with one as completion, and its grader as kind\n"
    assert (main([str(path)]), *capsys.readouterr()) == (2, "", said)


def test_an_expected_answer_whose_backslash_json_has_eaten_is_told(tmp_path, capsys):
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"expected": "\frac12", "completion": "\\boxed{\\frac12}"}')
    said = rf"{path}, row 1: expected is '\x0crac12'; must have its backslashes escaped"
    assert (main([str(path)]), *capsys.readouterr()) == (1, "", f"{said}\n")


def test_a_bad_row_is_one_line_and_the_others_are_graded(tmp_path):
    rows = (
        '{"expected": "1", "completion": "1"}\n{"expected": "1"}\n{\n[]\n'
        '{"expected": 1, "completion": "1"}\n{"expected": "1", "completion": "1", "kind": "maths"}\n'
        '{"expected": "2", "completion": "2", "cut": "yes"}\n{"expected": "3", "completion": "3"}\n'
    )
    path = tmp_path / "rows.jsonl"
    done = run(path, rows)
    assert done.returncode == 1
    assert [json.loads(line)["expected"] for line in done.stdout.splitlines()] == ["1", "3"]
    errors = done.stderr.splitlines()
    assert len(errors) == 6
    for error, (row, said) in zip(
        errors,
        [
            (2, "no field 'completion'"), (3, "not JSON"), (4, "not a JSON object"),
            (5, "expected is 1; must be text"), (6, "no grader 'maths'; did you mean math"),
            (7, 'cut is "yes"; must be true or false'),
        ],
        strict=True,
    ):  # fmt: skip
        assert error.startswith(f"{path}, row {row}: ")
        assert said in error


def test_an_expected_answer_that_no_answer_can_equal_is_a_bad_row(tmp_path):
    asked = [("choice", "7", "A"), ("number", "many", "7"), ("math", "3+4=7\n#### 7", "7"), ("demo", "1/2", "1/2")]  # fmt: skip
    rows = [{"kind": k, "expected": e, "completion": rf"\boxed{{{c}}}"} for k, e, c in asked]
    good = {"kind": "exact", "expected": "seven", "completion": "seven"}
    path = tmp_path / "rows.jsonl"
    done = run(path, "\n".join(map(json.dumps, [*rows, good])))
    assert done.returncode == 1
    assert [json.loads(line)["expected"] for line in done.stdout.splitlines()] == ["seven"]
    assert done.stderr.splitlines() == [
        f"{path}, row 1: expected is '7'; must be a letter A to J (kind choice)",
        f"{path}, row 2: expected is 'many'; must be a number (kind number)",
        f"{path}, row 3: expected is '3+4=7\\n#### 7'; must be the answer alone, without its solution (kind math)",
        f"{path}, row 4: expected is '1/2'; must be a whole number (kind demo)",
    ]


def test_bytes_that_are_no_text_are_one_line_and_half_a_pair_is_printed(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = b'{"expected": "1", "completion": "%s 1"}\n'
    path.write_bytes(b"\xef\xbb\xbf" + row % b"so" + row % b"\xff" + row % rb"\ud800")
    command = [sys.executable, "-m", "lr_ray.grading"]
    for name, rows in ((str(path), None), ("-", path.read_bytes())):
        done = subprocess.run([*command, name], input=rows, capture_output=True, timeout=120)
        assert done.returncode == 1
        assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [True, True]
        assert done.stderr.decode() == (
            f"{name}, row 2: not UTF-8 at byte 34 of the line; must be UTF-8; a row must be a JSON object\n"
        )


def test_rows_that_readers_take_differently_are_named(tmp_path):
    good = '{"expected": "1", "completion": "1"'
    number = f'{good}, "x": {"9" * 5000}}}'
    rows = [f'{good}, "expected": "2"}}', f'{good}, "x": NaN}}', number, f"\ufeff{good}}}"]
    done = run(tmp_path / "rows.jsonl", "\n".join(rows))
    assert [json.loads(line)["correct"] for line in done.stdout.splitlines()] == [True]
    first, second, third = done.stderr.splitlines()
    assert "row 1: 'expected' is there twice; must be there once; a row must be" in first
    assert "row 2: not JSON: NaN is not a JSON number; a row must be" in second
    assert "row 3: not JSON: Exceeds the limit (4300 digits) for integer" in third
    assert "sys." not in third


def test_a_time_limit_that_is_none_is_one_line(tmp_path):
    row = '{"expected": "x+1", "completion": "1+x"}'
    for limit in ("0", "nan", "inf", "1e300"):
        done = run(tmp_path / "rows.jsonl", row, "--time-limit", limit)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "must be above 0 and at most 3600" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl: No such file or directory; give a file of JSON lines"),
        ([], "the following arguments are required: FILE.jsonl"),
        (["rows.jsonl", "--time-limit", "soon"], "--time-limit: invalid float value: 'soon'"),
        (["rows.jsonl", "--kind\n"], "unrecognized arguments: --kind"),
    ],
)
def test_what_cannot_be_asked_is_one_line(tmp_path, arguments, said):
    command = [sys.executable, "-m", "lr_ray.grading", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


def test_help_says_what_a_row_has():
    command = [sys.executable, "-m", "lr_ray.grading", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for word in ("expected", "completion", "kind", "cut", "extracted", "correct", "why"):
        assert word in done.stdout


def test_the_package_imports_nothing_of_evaluation_ray_or_torch():
    code = (
        "import sys, lr_ray.grading.pool, lr_ray.grading.others, lr_ray.grading.__main__\n"
        "heavy = {'ray', 'torch', 'sympy', 'math_verify', 'pyarrow', 'vllm'} & set(sys.modules)\n"
        "ours = [m for m in sys.modules if m.startswith('lr_ray.') and '.grading' not in m]\n"
        "print(heavy, ours)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set() ['lr_ray.errors', 'lr_ray.plugins', 'lr_ray.json_text']"
