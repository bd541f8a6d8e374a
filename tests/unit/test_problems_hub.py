"""Hub data sets through the datasets library: folders laid out like one, and a hub out of reach."""

import os
import socket
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_ray.errors import StageError, UserError
from lr_ray.problems import PROBLEM, check_source, hub
from tests.unit.problem_sources import config_of, count, jsonl, rejections, stage

QUESTION = {"problem": "question"}


@pytest.fixture
def parquet(tmp_path):
    """A folder with two splits, and a column that nobody asked for."""
    folder = tmp_path / "set"
    folder.mkdir()
    table = {"question": ["a", "b", "", "a"], "answer": ["1", None, "3", "1"], "extra": [[0]] * 4}
    pq.write_table(pa.table(table), folder / "train.parquet")
    pq.write_table(pa.table({"question": ["c"], "answer": ["4"]}), folder / "test.parquet")
    return str(folder)


def test_a_folder_is_read_like_a_hub_data_set(tmp_path, parquet):
    check_source(config_of(parquet, fields=QUESTION))
    run = stage(tmp_path, parquet, fields=QUESTION)
    rows = run.read_tables(run.shards("problems"), PROBLEM)
    assert rows["problem"].to_pylist() == ["a", "b"]
    assert rows["answer"].to_pylist() == ["1", None]
    assert rows["file"].to_pylist() == [f"{parquet}/train"] * 2
    assert [(bad["row"], bad["reason"].split(";")[0]) for bad in rejections(run)] == [
        (3, "question is empty"),
        (4, "duplicate of row 1: the same id or text"),
    ]


def test_its_numbers_are_read_as_they_were_written(tmp_path):
    (folder := tmp_path / "set").mkdir()
    answers = pa.array([0.1, None, 7.0], pa.float32())
    pq.write_table(pa.table({"question": list("abc"), "answer": answers}), folder / "train.parquet")
    run = stage(tmp_path, str(folder), fields=QUESTION)
    rows = run.read_tables(run.shards("problems"), PROBLEM)
    assert rows["answer"].to_pylist() == ["0.1", None, "7"]


def test_a_column_may_be_several_fields(tmp_path, parquet):
    run = stage(tmp_path, parquet, fields={"problem": "question", "id": "question"})
    assert run.read_tables(run.shards("problems"), PROBLEM)["problem_id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("source", [".", "../set", "~/set", "../set/"])
def test_a_folder_may_be_named_from_here_or_from_home(tmp_path, parquet, monkeypatch, source):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(parquet)
    assert count(stage(tmp_path / "run", source, fields=QUESTION)) == (2, 2)


def test_another_split_and_format(tmp_path, parquet):
    assert count(stage(tmp_path / "a", parquet, split="test", fields=QUESTION)) == (1, 0)
    folder = tmp_path / "lines"
    folder.mkdir()
    jsonl(folder / "train.jsonl", [{"question": "a", "answer": 1}, {"question": "b"}])
    assert count(stage(tmp_path / "b", folder, fields=QUESTION)) == (2, 0)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            {},
            "no column 'problem'; set data.fields.problem to one of 'question', 'answer', 'extra'",
        ),
        ({"split": "dev"}, "no split 'dev'; there are 'train', 'test'"),
    ],
)
def test_missing_column_or_split_is_named(tmp_path, parquet, data, message):
    with pytest.raises(StageError) as error:
        stage(tmp_path, parquet, **data)
    assert message in str(error.value)
    with pytest.raises(UserError, match=f"^data.source: .*{message}"):
        check_source(config_of(parquet, **data))


def test_a_folder_without_data_is_named_before_anything_starts(tmp_path):
    (tmp_path / "README.md").write_text("nothing")
    with pytest.raises(UserError, match=r"^data.source: folder: data set .*; give one"):
        check_source(config_of(tmp_path))


def test_a_broken_file_is_named_in_a_line(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    jsonl(folder / "train.jsonl", [{"problem": "a"}, "nope"])
    with pytest.raises(StageError, match=r"lines/train: cannot be read after row 0: ") as error:
        stage(tmp_path, folder)
    assert "\n" not in str(error.value)


CODE = """
import sys
from lr_ray.errors import StageError, UserError
from tests.unit.problem_sources import stage
try:
    stage(sys.argv[1], sys.argv[2])
except StageError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("source", "shown"), [("gsm8k", "openai/gsm8k:main"), ("org/name", "org/name")]
)
@pytest.mark.parametrize("offline", [True, False])
def test_a_hub_out_of_reach_fails_in_a_line_without_retries(tmp_path, source, shown, offline):
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        here = {
            "HF_ENDPOINT": f"http://127.0.0.1:{unused.getsockname()[1]}",
            "HF_HOME": str(tmp_path),
        }
        env = {**os.environ, **here, "HF_HUB_OFFLINE": str(int(offline))}
        command = [sys.executable, "-c", CODE, str(tmp_path), source]
        started = time.monotonic()
        out = subprocess.run(command, capture_output=True, text=True, env=env, check=True)
    [line] = out.stdout.splitlines()
    assert line.startswith(f"Hugging Face hub: data set {shown} cannot be opened: ")
    assert "local copy" in line
    assert time.monotonic() - started < 60  # importing datasets is most of it


def test_a_folder_of_far_too_many_files_is_named_at_once(tmp_path, parquet, monkeypatch):
    monkeypatch.setattr(hub, "_MOST_FILES", 2)
    check_source(config_of(parquet, fields=QUESTION))
    (tmp_path / "set" / "more").mkdir()
    with pytest.raises(
        UserError, match=r"holds more than 2 files and folders; give the folder of the data"
    ):
        check_source(config_of(parquet, fields=QUESTION))


def test_files_of_other_columns_are_told_in_a_line(tmp_path):
    folder = tmp_path / "lines"
    folder.mkdir()
    jsonl(folder / "a.jsonl", [{"problem": "a"}])
    jsonl(folder / "b.jsonl", [{"question": "a"}])
    with pytest.raises(
        StageError, match=r"read after row 1: its files have other columns or types"
    ):
        stage(tmp_path, folder)
