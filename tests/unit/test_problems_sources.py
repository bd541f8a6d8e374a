"""Sources by name; what cannot be a source is named before anything starts."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_ray import embedded
from lr_ray.config import preset_names, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.problems import PROBLEM, check_source
from tests.unit.problem_sources import config_of, count, jsonl, stage


@pytest.mark.parametrize("name", preset_names())
def test_presets_pass_the_check_without_a_network(name):
    check_source(resolve(read_tree(name)))


def test_check_loads_no_heavy_library():
    code = (
        "import sys; from lr_ray.config import *; from lr_ray.problems import check_source; "
        "check_source(resolve(read_tree('qwen2.5-math-7b'))); "
        "print([m for m in ('datasets', 'torch', 'ray', 'vllm', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_demo_is_the_generator_and_a_smaller_one_begins_a_larger_one(tmp_path):
    columns = ["problem_id", "problem", "answer"]
    for size in (5, 1200):
        run = stage(tmp_path / str(size), "demo", size, seed=3, shuffle=size == 5)
        table = run.read_tables(run.shards("problems"), PROBLEM)
        assert table.select(columns).to_pylist() == embedded.generate("sampling", size, 3)
        assert count(run) == (size, 0)


def test_fields_of_other_names(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"q": "a", "key": 7, "a": 1}, {"q": "b", "key": "x"}])
    config = {"problem": "q", "id": "key", "answer": "a"}
    check_source(config_of(path, fields=config))
    run = stage(tmp_path, path, fields=config)
    rows = run.read_tables(run.shards("problems"), PROBLEM).to_pylist()
    assert rows == [
        {
            "problem_id": "7",
            "problem": "a",
            "answer": "1",
            "file": path,
            "row": 1,
            "metadata": None,
        },
        {
            "problem_id": "x",
            "problem": "b",
            "answer": None,
            "file": path,
            "row": 2,
            "metadata": None,
        },
    ]


BAD = [
    ({"source": "gms8k"}, "data.source: 'gms8k' is no known source and no folder; did you mean gsm8k?"),
    ({"source": "{d}/none.jsonl"}, "data.source: {d}/none.jsonl: no such file; give a .jsonl, .jsonl.gz or .parquet path"),
    ({"source": "{d}/*.parquet"}, "data.source: {d}/*.parquet: no file matches; give"),
    ({"source": "{d}/*"}, "matches {d}/notes.txt; must match .jsonl, .jsonl.gz or .parquet alone"),
    ({"source": "{d}/notes.txt"}, "is no known source and no folder, but a file of a kind that is not read; give .jsonl, .jsonl.gz or .parquet"),
    ({"source": "{d}/none"}, "is no known source and no folder"),
    ({"source": "nosuch://bucket/rows.jsonl"}, "data.source: nosuch://bucket/rows.jsonl: cannot be read: Protocol not known: nosuch"),
    ({"source": "{d}/empty.jsonl"}, "data.source: {d}/empty.jsonl: no rows"),
    ({"source": "{d}/notes.txt.jsonl"}, "data.source: {d}/notes.txt.jsonl, row 1: not JSON at character 1"),
    ({"source": "{d}/cut.parquet.gz.jsonl.gz"}, "cannot be read after row 0: Not a gzipped file"),
    ({"source": "{d}/q.jsonl"}, "data.fields.problem: no field 'problem' in the first 2 rows of {d}/q.jsonl; there are 'question', 'key'"),
    ({"source": "{d}/q.jsonl", "fields": {"problem": "question", "id": "id"}}, "data.fields.id: no field 'id' in the first 2 rows"),
    ({"source": "{d}/q.jsonl", "fields": {"problem": "question", "answer": "a"}}, "data.fields.answer: no field 'a' in the first 2 rows"),
    ({"source": "{d}/t/*.parquet"}, "{d}/t/a.parquet: no column 'problem'; set data.fields.problem to one of 'question', 'list', 'bytes'"),
    ({"source": "{d}/t/a.parquet", "fields": {"problem": "bytes"}}, "column 'bytes' (data.fields.problem) is binary; must be strings"),
    ({"source": "{d}/t/a.parquet", "fields": {"problem": "question", "id": "list"}}, "column 'list' (data.fields.id) is list<element: int64>; must be strings or integers"),
    ({"source": "{d}/t/a.parquet", "fields": {"problem": "question", "answer": "list"}}, "must be strings or numbers (or set data.fields.answer to null)"),
    ({"source": "gsm8k", "split": "validation"}, "data.split: gsm8k has no split 'validation'; there are 'train', 'test'"),
    ({"source": "svamp"}, "data.split: svamp has no split 'train'; there are 'test'"),
    ({"source": "gsm8k", "data_dir": "{d}"}, "data.split: {d}/gsm8k has no train.jsonl; there are 'dev', 'test'"),
    ({"source": "gsm8k", "data_dir": "{d}", "split": "*e*"}, "data.data_dir: {d}/gsm8k/*e*.jsonl: matches 2 files; must be one"),
    ({"source": "math", "data_dir": "{d}"}, "data.data_dir: {d}/math/train.jsonl: no such file; give a folder with <benchmark>/<split>.jsonl"),
    ({"source": "demo", "data_dir": "{d}"}, "data.data_dir: only a benchmark is read from it, and data.source is 'demo'"),
    ({"source": "gsm8k", "fields": {"problem": "q"}}, "data.fields: gsm8k has fields of its own; leave them out"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), BAD)
def test_wrong_source_is_named_in_a_line(tmp_path, data, message):
    for name in ("t", "gsm8k"):
        (tmp_path / name).mkdir()
    jsonl(tmp_path / "q.jsonl", [{"question": "a", "key": 1}, {"question": "b", "key": 2}])
    jsonl(tmp_path / "empty.jsonl", [])
    for name in ("notes.txt", "notes.txt.jsonl", "cut.parquet.gz.jsonl.gz"):
        (tmp_path / name).write_text("plain")
    for split in ("test", "dev"):
        jsonl(tmp_path / "gsm8k" / f"{split}.jsonl", [{"question": "a", "answer": "#### 1"}])
    table = pa.table({"question": ["a"], "list": [[1]], "bytes": [b"a"]})
    pq.write_table(table, tmp_path / "t/a.parquet")
    filled = {k: v.format(d=tmp_path) if isinstance(v, str) else v for k, v in data.items()}
    with pytest.raises(UserError) as error:
        check_source(config_of(**filled))
    assert message.format(d=tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def test_some_bad_rows_at_the_start_do_not_fail_the_check(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [*["nope"] * 150, {"problem": "a"}])
    check_source(config_of(path))
    path = jsonl(tmp_path / "few.jsonl", ["nope", {"question": "a"}, {"problem": "a"}])
    check_source(config_of(path))


def test_few_rows_of_which_none_is_left_are_told_before_anything_starts(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"problem": ""}, {"problem": "a"}, {"problem": "a"}])
    check_source(config_of(path))
    told = (
        "data.source: {}: no usable problem{}; the first of {} rejected rows: {}, row 1: problem is"
    )
    with pytest.raises(UserError) as error:
        check_source(config_of(path, skip=1))
    assert str(error.value).startswith(told.format(path, " after the first 1 (data.skip)", 1, path))
    path = jsonl(tmp_path / "bad.jsonl", [{"problem": ""}, {"problem": None}])
    with pytest.raises(UserError) as error:
        check_source(config_of(path))
    assert str(error.value) == told.format(path, "", 2, path) + " empty; must have text"
