"""Shards and what is known of a run from their footers; nothing here starts Ray."""

import pyarrow as pa
import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.errors import StageError
from lr_ray.sampling.rows import REJECTED, SUPERVISION
from lr_ray.sampling.stage import survey, write_shard
from lr_ray.store import Run
from tests.unit.test_label import APART, SAME, K, batch

CONFIG = resolve(merge(read_tree("demo"), {}))
EXCHANGE = {"top_k": K}


def with_errors(table: pa.Table, *errors: str | None) -> pa.Table:
    place = table.schema.get_field_index("error")
    return table.set_column(place, "error", pa.array(errors, pa.string()))


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path))


def test_survey_knows_which_problems_are_done(run):
    write_shard(batch([[SAME, APART], [APART], [SAME]]), run, CONFIG, EXCHANGE)
    finished, facts = survey(run, 14)
    assert finished.nonzero()[0].tolist() == [10, 11, 12]
    assert (facts.trajectories, facts.steps_scored, facts.steps_kept) == (3, 4, 2)


def test_rejected_problems_are_done_too_and_rows_of_the_source_are_not_counted(run):
    errors = with_errors(batch([[APART], [SAME]]), None, "too long")
    write_shard(errors, run, CONFIG, EXCHANGE)
    run.write_table("rejected/part-source-00000.parquet", REJECTED.empty_table())
    finished, facts = survey(run, 12)
    assert finished.nonzero()[0].tolist() == [10, 11]
    assert (facts.trajectories, facts.rejected) == (1, 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_retry_replaces_both_files_of_the_shard(run, order):
    healthy = batch([[APART], [SAME]])
    attempts = [healthy, with_errors(healthy, "engine died", "engine died")]
    for attempt in order:
        write_shard(attempts[attempt], run, CONFIG, EXCHANGE)
    finished, facts = survey(run, 12)
    assert finished.sum() == 2
    assert (facts.trajectories, facts.rejected) == ((0, 2) if order[-1] else (2, 0))


def test_a_problem_in_two_shards_is_found(run):
    table = batch([[APART], [SAME]])
    write_shard(table, run, CONFIG, EXCHANGE)
    write_shard(table.slice(1), run, CONFIG, EXCHANGE)
    with pytest.raises(StageError, match="holds problems that another shard holds"):
        survey(run, 12)


def test_shard_that_cannot_be_written_names_folder_and_reason(run, tmp_path):
    (tmp_path / "supervision").write_text("in the way")
    with pytest.raises(StageError, match="supervision: cannot be written: File exists"):
        write_shard(batch([[APART]]), run, CONFIG, EXCHANGE)


def test_shards_are_plain_parquet_of_the_schema(run):
    write_shard(batch([[APART]]), run, CONFIG, EXCHANGE)
    (name,) = run.shards("supervision")
    assert name.startswith("supervision/part-000000010-")
    assert run.read_tables([name], SUPERVISION).num_rows == 1
    assert run.read_facts(name)["top_k"] == K
