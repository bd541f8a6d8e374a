"""Staged problems: whole or not at all, without repeats, in a stable order, read back by index."""

import gzip
import json
import pickle
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.errors import StageError, UserError
from lr_ray.problems import (
    INDEX,
    PROBLEM,
    check_rows,
    read_problems,
    stage_problems,
    staging,
    write_rejections,
)
from lr_ray.problems.order import _SLACK
from lr_ray.run.store import Run
from tests.unit.problem_sources import config_of, count, jsonl, rejections, stage


def rows(n: int) -> list[dict]:
    return [{"problem": f"{i} + 1?", "answer": i + 1} for i in range(n)]


def texts(run: Run) -> list[str]:
    return run.read_tables(run.shards("problems"), PROBLEM)["problem"].to_pylist()


def ids(run: Run) -> list[str]:
    return run.read_tables(run.shards("problems"), PROBLEM)["problem_id"].to_pylist()


def test_parts_hold_1024_problems_each_and_the_index_says_so(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [*rows(2500), "nope"])
    run = stage(tmp_path, path)
    parts = [run.read_tables([name], PROBLEM).num_rows for name in run.shards("problems")]
    assert parts == [1024, 1024, 452]
    first = f"{path}, row 2501: {rejections(run)[0]['reason']}"
    assert run.read_json(INDEX) == {
        "problems": 2500, "rejected": 1, "rows_a_part": 1024, "first_rejected": first,
    }  # fmt: skip
    assert texts(run) == [row["problem"] for row in rows(2500)]
    assert ids(run) == run.read_tables(run.shards("problems"), PROBLEM)["problem_id"].to_pylist()


def test_reading_stops_at_max_problems(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", ["nope", *rows(10), "nope"])
    run = stage(tmp_path, path, max_problems=10)
    assert count(run) == (10, 1)


def test_a_worker_in_another_folder_reads_the_runs_own_problems(tmp_path, monkeypatch):
    for folder, text in {"mine": "1 + 1?", "ray": "2 + 2?"}.items():
        (tmp_path / folder).mkdir()
        monkeypatch.chdir(tmp_path / folder)
        path = jsonl(tmp_path / f"{folder}.jsonl", [{"problem": text}])
        stage_problems(Run("runs/demo"), config_of(path))
    monkeypatch.chdir(tmp_path / "mine")
    sent = pickle.dumps(Run("runs/demo"))
    monkeypatch.chdir(tmp_path / "ray")  # where a cluster was started, with a run of the same name
    read = read_problems(pickle.loads(sent), np.array([0]))
    assert read["problem"].to_pylist() == ["1 + 1?"]


def test_problems_are_read_in_the_order_asked_for(tmp_path):
    run = stage(tmp_path, jsonl(tmp_path / "rows.jsonl", rows(2500)))
    asked = np.array([2499, 0, 1024, 1023, 1024, 2047, 2048])
    table = read_problems(run, asked)
    assert table.schema.equals(PROBLEM)
    assert table["problem"].to_pylist() == [f"{i} + 1?" for i in asked]
    assert table["row"].to_pylist() == [i + 1 for i in asked]
    assert read_problems(run, np.array([], np.int64)).num_rows == 0
    for outside in (2500, -1):
        with pytest.raises(IndexError, match="of 2500"):
            read_problems(run, np.array([0, outside]))


def test_reading_opens_only_the_parts_it_needs(tmp_path):
    run = stage(tmp_path, jsonl(tmp_path / "rows.jsonl", rows(2500)))
    run.remove("problems/part-00001.parquet")
    assert read_problems(run, np.array([2400, 3]))["problem"].to_pylist() == ["2400 + 1?", "3 + 1?"]
    with pytest.raises(
        StageError, match=r"part-00001\.parquet: not a whole shard; remove the folder problems"
    ):
        read_problems(run, np.array([1500]))


@pytest.mark.parametrize("cut", [True, False])
def test_a_part_that_is_damaged_or_gone_is_written_anew_as_the_error_advises(tmp_path, cut):
    path = jsonl(tmp_path / "rows.jsonl", rows(1500))
    run = stage(tmp_path, path)
    part, before = Path(run.path("problems/part-00001.parquet")), texts(run)
    part.write_bytes(b"PAR1") if cut else part.unlink()
    with pytest.raises(
        StageError, match=r"part-00001\.parquet: .*; remove the folder problems, which sampling"
    ):
        read_problems(run, np.array([1500 - 1]))
    run.remove("problems")
    stage_problems(run, config_of(path))
    assert texts(run) == before
    assert read_problems(run, np.array([1499]))["problem"].to_pylist() == ["1499 + 1?"]


@pytest.mark.parametrize(
    "index",
    [
        {},
        {"problems": "3", "rejected": 0, "rows_a_part": 1024},
        {"problems": 3, "rejected": None, "rows_a_part": 1024},
        {"problems": 3, "rejected": 0, "rows_a_part": 0},
    ],
)
def test_an_index_of_another_form_is_named(tmp_path, index):
    path = jsonl(tmp_path / "rows.jsonl", rows(3))
    run = stage(tmp_path, path)
    run.write_json("problems/index.json", index)
    said = r"problems/index\.json: \w+ = .*: must be a whole number from \d; remove the folder problems"
    with pytest.raises(UserError, match=said):
        stage_problems(run, config_of(path))
    with pytest.raises(UserError, match=said):
        check_rows(run, config_of(path))


def test_a_staged_run_is_left_as_it_is(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", rows(3))
    run = stage(tmp_path, path)
    jsonl(path, rows(5))
    assert stage_problems(run, config_of(path)) == 3
    assert count(run) == (3, 0)


def test_an_interrupted_attempt_starts_over(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    lines = Path(jsonl(tmp_path / "rows.jsonl", [*["nope"] * 20_000, *rows(8000)])).read_bytes()
    path.write_bytes(gzip.compress(lines) + gzip.compress(lines)[:5])
    with pytest.raises(StageError, match=r"cannot be read after row 2\d{4}: "):
        stage(tmp_path, path)
    run = Run(str(tmp_path / "run"))
    assert len(run.shards("problems")) > 4
    assert run.shards("rejected") == ["rejected/part-source-00000.parquet"]
    assert not run.exists(INDEX)
    run.write_table("rejected/part-other.parquet", pa.table({"problem_id": ["x"]}))
    # The next source is shorter: nothing of the longer attempt may remain.
    path.write_bytes(gzip.compress(lines[-60_000:].partition(b"\n")[2]))
    good = stage_problems(run, config_of(path))
    assert 1024 < good < 2048
    assert len(run.shards("problems")) == 2
    assert run.shards("rejected") == ["rejected/part-other.parquet"]
    assert texts(run) == [row["problem"] for row in rows(8000)[-good:]]


def test_staging_twice_gives_the_same_bytes(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [*rows(1500), "nope"])
    for shuffle in (False, True):
        found = []
        for attempt in range(2):
            run = stage(tmp_path / f"{shuffle}-{attempt}", path, shuffle=shuffle)
            names = [*run.shards("problems"), *run.shards("rejected"), INDEX]
            found.append({name: run.fs.cat_file(run.path(name)) for name in names})
        assert len(found[0]) == 4
        assert found[0] == found[1]


def test_a_source_without_a_usable_row_fails_with_its_first_reason(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", [{"problem": ""}, {"problem": None}])
    with pytest.raises(StageError) as error:
        stage(tmp_path, path)
    assert str(error.value) == (
        f"data.source: {path}: no usable problem; the first of 2 rejected rows: "
        f"{path}, row 1: problem is empty; must have text"
    )
    run = Run(str(tmp_path / "run"))
    assert not run.exists(INDEX)
    assert len(rejections(run)) == 2


def test_rejected_rows_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(staging, "_REJECTED_ROWS_A_PART", 3)
    path = jsonl(tmp_path / "rows.jsonl", [*["nope"] * 7, *rows(1)])
    run = stage(tmp_path, path)
    assert run.shards("rejected") == [f"rejected/part-source-0000{i}.parquet" for i in range(3)]
    assert [bad["row"] for bad in rejections(run)] == list(range(1, 8))


@pytest.mark.parametrize("shuffle", [False, True])
def test_repeats_name_the_first_occurrence(tmp_path, shuffle):
    a = jsonl(tmp_path / "a.jsonl", [{"problem": "x"}, {"problem": "y"}, {"problem": "x"}])
    b = jsonl(tmp_path / "b.jsonl", [{"problem": "y"}, {"problem": "z"}])
    run = stage(tmp_path, tmp_path / "[ab].jsonl", shuffle=shuffle)
    assert sorted(texts(run)) == ["x", "y", "z"]
    found = {(bad["file"], bad["row"]): bad["reason"] for bad in rejections(run)}
    must = "the same id or text; must occur once"
    assert found == {
        (a, 3): f"duplicate of row 1: {must}",
        (b, 1): f"duplicate of row 2 of {a}: {must}",
    }


def test_ids_of_texts_do_not_depend_on_place_or_file(tmp_path):
    mixed = rows(50)
    random.Random(0).shuffle(mixed)
    one = stage(tmp_path / "one", jsonl(tmp_path / "a.jsonl", rows(50)))
    two = stage(tmp_path / "two", jsonl(tmp_path / "b.jsonl", mixed))
    assert dict(zip(texts(one), ids(one), strict=True)) == dict(
        zip(texts(two), ids(two), strict=True)
    )
    assert len(set(ids(one))) == 50


def test_shuffle_depends_on_seed_and_ids_alone(tmp_path):
    mixed = rows(400)
    random.Random(0).shuffle(mixed)
    a, b = (jsonl(tmp_path / f"{n}.jsonl", r) for n, r in (("a", rows(400)), ("b", mixed)))
    order = ids(stage(tmp_path / "a", a, shuffle=True))
    assert order == ids(stage(tmp_path / "b", b, shuffle=True))
    in_file = ids(stage(tmp_path / "c", a))
    other_seed = ids(stage(tmp_path / "d", a, shuffle=True, seed=1))
    assert sorted(order) == sorted(in_file) == sorted(other_seed)
    assert len({tuple(order), tuple(in_file), tuple(other_seed)}) == 3


def test_a_smaller_shuffled_selection_begins_a_larger_one(tmp_path):
    n = 5 * _SLACK  # what is kept is trimmed several times on the way
    lines = rows(n)
    for place in range(0, n, 10):
        lines[place] = {"problem": place}
    path = jsonl(tmp_path / "rows.jsonl", lines)
    all_of_it = stage(tmp_path / "all", path, shuffle=True)
    assert count(all_of_it) == (n * 9 // 10, n // 10)
    for size in (1, 10, 700):
        run = stage(tmp_path / str(size), path, max_problems=size, shuffle=True)
        assert ids(run) == ids(all_of_it)[:size]
        # Bad rows are met as often as in the whole source, not all of them at once.
        bad = [row["row"] for row in rejections(run)]
        assert bad == [row["row"] for row in rejections(all_of_it)][: len(bad)]
        assert len(bad) <= max(5, size // 5)


def test_shuffled_selection_is_uniform_over_the_file(tmp_path):
    path = jsonl(tmp_path / "rows.jsonl", rows(4000))
    run = stage(tmp_path, path, max_problems=1000, shuffle=True)
    table = run.read_tables(run.shards("problems"), PROBLEM)
    mean = np.mean(table["row"].to_pylist())
    assert abs(mean - 2000.5) < 5 * 4000 / np.sqrt(12 * 1000)  # five standard errors


def test_more_bad_rows_than_allowed_are_told_with_the_option_and_listed(tmp_path):
    path = jsonl(
        tmp_path / "rows.jsonl", [*rows(17), "nope", {"problem": "漢字?", "answer": []}, "{"]
    )
    run = stage(tmp_path, path)
    config = config_of(path)
    with pytest.raises(UserError) as error:
        check_rows(run, config)
    said = str(error.value)
    assert said.startswith(
        f"data.source: {path}: 3 of 20 rows cannot be used, more than sampling.max_"
    )
    assert "give --sampling.max_rejected 0.15; reasons: " in said
    assert f"the first: {path}, row 18: not JSON at character 1" in said
    allowed = config.sampling.model_copy(update={"max_rejected": 0.15})
    check_rows(run, config.model_copy(update={"sampling": allowed}))
    lines = (tmp_path / "run/rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["row"] for line in lines] == [18, 19, 20]


def test_rejections_can_be_read_and_do_not_outlive_their_source(tmp_path):
    run = stage(tmp_path, jsonl(tmp_path / "a.jsonl", [*rows(1), b"\xff", {"問題": "?"}]))
    write_rejections(run)
    lines = (tmp_path / "run/rejected.jsonl").read_text(encoding="utf-8")
    assert "'問題'" in lines
    assert [json.loads(line) for line in lines.splitlines()] == rejections(run)
    run.remove("problems")
    stage(tmp_path, jsonl(tmp_path / "b.jsonl", rows(2)))
    write_rejections(run)
    assert not run.exists("rejected.jsonl")
