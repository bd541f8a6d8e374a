"""JSONL and Parquet, plain, compressed, several, remote; what is broken is named."""

import gzip
import json
import os
import re

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_ray.config import Evaluation
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.problems import PROBLEM, check_source, files
from tests.ports import free_port
from tests.unit.problem_sources import config_of, jsonl, rejections, stage

ROWS = [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(3)]
TEXTS = ["0 + 1?", "1 + 1?", "2 + 1?"]


def column(run, name: str) -> list:
    return run.read_tables(run.shards("problems"), PROBLEM)[name].to_pylist()


def test_rows_are_lines_whatever_their_ends(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(row).encode() for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + lines[0] + b"\r\n\r\n  \n" + lines[1] + b"\n" + lines[2])
    run = stage(tmp_path, path)
    assert (column(run, "problem"), column(run, "row")) == (TEXTS, [1, 4, 5])
    assert rejections(run) == []


def test_a_byte_order_mark_in_the_middle_of_files_put_together_is_no_row(tmp_path):
    path, (line, *_) = tmp_path / "rows.jsonl", [json.dumps(row).encode() for row in ROWS]
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\n\xef\xbb\xbf" + line.replace(b"0", b"7") + b"\n")
    assert column(stage(tmp_path, path), "problem") == [TEXTS[0], TEXTS[0].replace("0", "7")]


def test_invalid_utf8_costs_its_line_alone(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [ROWS[0], b'\xff{"problem": "a"}', ROWS[1]])
    run = stage(tmp_path, path)
    assert column(run, "problem") == TEXTS[:2]
    assert [bad["row"] for bad in rejections(run)] == [2]


def test_over_long_line_is_skipped_without_being_held(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_LINE_BYTES", 64)
    path = jsonl(tmp_path / "rows.jsonl", [ROWS[0], b"x" * 1000, ROWS[1]])
    run = stage(tmp_path, path)
    assert (column(run, "problem"), column(run, "row")) == (TEXTS[:2], [1, 3])
    [bad] = rejections(run)
    assert bad["reason"] == "the line is longer than 64 bytes; must be shorter"


@pytest.mark.parametrize("name", ["rows.jsonl.gz", "rows.json.gz"])
def test_compressed_lines(tmp_path, name):
    with gzip.open(tmp_path / name, "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in ROWS)
    assert column(stage(tmp_path, tmp_path / name), "problem") == TEXTS


def test_cut_archive_is_named_with_the_row_it_breaks_at(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in ROWS * 10_000).encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StageError, match=rf"{path}: cannot be read after row \d+: Compressed file"):
        stage(tmp_path, path)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.parquet"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 22144\n")
    said = f"{name} is a pointer of git-lfs, not the file itself; run git lfs pull"
    with pytest.raises(UserError, match=f"^data.source: .*{said}"):
        check_source(config_of(path))
    with pytest.raises(StageError, match=said):
        stage(tmp_path, path)


def test_several_files_are_read_by_name(tmp_path):
    jsonl(tmp_path / "b.jsonl", [ROWS[0]])
    jsonl(tmp_path / "a.jsonl", [ROWS[2]])
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(json.dumps(ROWS[1]).encode()))
    run = stage(tmp_path, tmp_path / "*.jsonl*")
    assert column(run, "problem") == [TEXTS[2], TEXTS[0], TEXTS[1]]
    names = [f"{tmp_path}/{name}" for name in ("a.jsonl", "b.jsonl", "c.jsonl.gz")]
    assert (column(run, "file"), column(run, "row")) == (names, [1, 1, 1])


def test_hidden_leftovers_are_read_where_the_glob_says_so_alone(tmp_path):
    for name in ("a.jsonl", ".#a.jsonl", "._a.jsonl", ".a.jsonl"):
        jsonl(tmp_path / name, [ROWS[len(name) % 3]])
    found = lambda pattern: [f.path for f in files.find(f"{tmp_path}/{pattern}", "data.source")]  # noqa: E731
    assert found("*.jsonl") == [f"{tmp_path}/a.jsonl"]
    assert found(".a*.jsonl") == [f"{tmp_path}/.a.jsonl"]


def test_what_is_there_and_no_file_is_told_from_what_is_absent(tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")
    for name, said in {
        "folder": "is no regular file",
        "pipe": "is no regular file",
        "x": "no such file",
    }.items():
        with pytest.raises(UserError, match=rf"/{name}\.jsonl: {said}; give a \.jsonl, "):
            check_source(config_of(tmp_path / f"{name}.jsonl"))


def test_remote_files_are_named_by_their_uri(tmp_path):
    fs = fsspec.filesystem("memory")
    fs.pipe("/sources/rows.jsonl", "\n".join(json.dumps(row) for row in ROWS).encode())
    try:
        run = stage(tmp_path, "memory://sources/*.jsonl")
    finally:
        fs.rm("/sources", recursive=True)
    assert column(run, "problem") == TEXTS
    assert column(run, "file") == ["memory:///sources/rows.jsonl"] * 3


TYPES = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
}


@pytest.mark.parametrize("name", TYPES)
def test_parquet_in_every_kind_of_string(tmp_path, name):
    texts = pa.array([*TEXTS, None]).cast(TYPES[name])
    table = pa.table({"unused": [[1]] * 4, "problem": texts, "answer": [1, 2, 3, 4]})
    pq.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    run = stage(tmp_path, tmp_path / "rows.parquet")
    assert (column(run, "problem"), column(run, "row")) == (TEXTS, [1, 2, 3])
    assert column(run, "answer") == ["1", "2", "3"]
    [bad] = rejections(run)
    assert (bad["row"], bad["reason"]) == (4, "problem is null; must be a string")


@pytest.mark.parametrize(
    "dtype", [pa.float16(), pa.float32(), pa.float64(), pa.decimal128(38, 10)], ids=str
)
def test_parquet_numbers_are_read_as_they_were_written(tmp_path, dtype):
    written = [0.1, None, 7.0, 2.5, 1e-3]
    answers = pa.array(written).cast(dtype)
    pq.write_table(
        pa.table({"problem": list("abcde"), "answer": answers}), tmp_path / "rows.parquet"
    )
    run = stage(tmp_path, tmp_path / "rows.parquet")
    assert column(run, "answer") == ["0.1", None, "7", "2.5", "0.001"]


def test_parquet_value_that_is_not_utf8_costs_its_row_alone(tmp_path):
    values = pa.array([b"a", b"b\xff", b"c"]).view(pa.string())
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"problem": values, "key": [7, 8, 9]}), path)
    run = stage(tmp_path, path, fields={"id": "key"})
    assert column(run, "problem_id") == ["7", "9"]
    reason = "problem is not UTF-8 at byte 2; must be UTF-8"
    assert rejections(run) == [{"problem_id": None, "file": str(path), "row": 2, "reason": reason}]


def test_columns_of_a_later_file_are_checked_too(tmp_path):
    pq.write_table(pa.table({"problem": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"]}), tmp_path / "b.parquet")
    with pytest.raises(
        StageError, match=r"b\.parquet: no column 'problem'; set .* to one of 'text'"
    ):
        stage(tmp_path, tmp_path / "*.parquet")


def duplicated(path, names, columns):
    pq.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], names=names), path)
    return str(path)


@pytest.mark.parametrize("name", ["problem", "answer"])
def test_a_column_twice_is_named(tmp_path, name):
    names, columns = ["problem", "answer", name], [["a", "b"], ["1", "2"], ["c", "d"]]
    path = duplicated(tmp_path / "rows.parquet", names, columns)
    message = rf"rows\.parquet: column '{name}' is there twice; must be there once"
    with pytest.raises(StageError, match=message):
        stage(tmp_path, path)
    with pytest.raises(UserError, match=rf"^data\.source: .*{message}"):
        check_source(config_of(path))
    with pytest.raises(UserError, match=rf"^evaluation\.benchmarks: .*{message}"):
        load_tasks(Evaluation(benchmarks=[path]))


def test_an_unused_column_may_be_there_twice(tmp_path):
    names = ["x", "problem", "x", "answer"]
    path = duplicated(tmp_path / "rows.parquet", names, [[1], ["a"], [2], ["3"]])
    assert column(stage(tmp_path, path), "answer") == ["3"]


def test_a_column_twice_in_a_benchmark_of_ones_own_folder_is_named(tmp_path):
    names = ["question", "problem", "question"]
    path = duplicated(tmp_path / "rows.parquet", names, [["a"], ["b"], ["c"]])
    file = files.File(fsspec.filesystem("file"), path)
    with pytest.raises(StageError, match="column 'question' is there twice"):
        list(files.read(file, None))


def test_a_column_that_is_missing_is_set_where_the_file_is_named(tmp_path):
    pq.write_table(pa.table({"question": ["a"]}), tmp_path / "rows.parquet")
    path = str(tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"no column 'problem'; set evaluation\.fields\.problem to"):
        load_tasks(Evaluation(benchmarks=[path]))
    with pytest.raises(UserError, match=r"no column 'problem'; set data\.fields\.problem to"):
        check_source(config_of(path))


def test_a_host_that_is_not_reached_is_told_from_a_file_that_is_absent():
    url = f"http://127.0.0.1:{free_port()}/problems.jsonl"
    with pytest.raises(UserError, match=re.escape(f"{url}: cannot be read: Connect call failed")):
        files.find(url, "data.source")
    with pytest.raises(UserError, match="no such file; give"):
        files.find("memory://problems.jsonl", "data.source")
