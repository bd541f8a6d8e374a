"""Shards and what is known of a run from their footers; nothing here starts Ray."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.errors import StageError
from lr_ray.labelling.shards import remove_leftovers, survey
from lr_ray.run.schemas import REJECTED, SCORES, SUPERVISION
from lr_ray.run.store import Run
from lr_ray.sampling.graph import batches_at_once, batches_to_fill, write_contrast
from tests.unit.test_label import APART, SAME, UNKNOWN, K, batch

CONFIG = resolve(merge(read_tree("demo"), {}))
EXCHANGE = {"top_k": K}


@pytest.mark.parametrize(
    ("problems", "engines", "gpus", "sampling", "batches"),
    [
        (2000, 1, 0, {}, 3),  # one that fills the engine, two that follow
        (2000, 1, 1, {}, 6),  # four fill a GPU's
        (2000, 1, 1, {"batch_size": 512}, 3),
        (2000, 1, 1, {"method": "rejection"}, 3),  # four sequences a problem
        (65, 1, 0, {}, 2),  # that is all
        (320, 4, 1, {}, 2),  # an engine's share of five
        (64, 2, 1, {}, 1),
    ],
)
def test_an_engine_works_on_enough_batches_to_stay_full_and_leaves_others_theirs(
    problems, engines, gpus, sampling, batches
):
    pool = {"min_engines": 1, "max_engines": engines}
    sections = {"sampling": {"batch_size": 64, "expert": pool} | sampling}
    config = resolve(merge(read_tree("demo"), sections))
    full = batches_to_fill(config, cpu=gpus == 0)
    assert batches_at_once(config, np.arange(problems), full) == batches


def with_errors(table: pa.Table, *errors: str | None) -> pa.Table:
    place = table.schema.get_field_index("error")
    return table.set_column(place, "error", pa.array(errors, pa.string()))


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path))


def test_survey_knows_which_problems_are_done(run):
    write_contrast(batch([[SAME, APART], [APART], [SAME]]), run, CONFIG, EXCHANGE)
    finished, facts = survey(run, 14)
    assert finished.nonzero()[0].tolist() == [10, 11, 12]
    assert (facts.trajectories, facts.steps_scored, facts.steps_kept) == (3, 4, 2)


def test_rejected_problems_are_done_too_and_rows_of_the_source_are_not_counted(run):
    errors = with_errors(batch([[APART], [SAME]]), None, "too long")
    write_contrast(errors, run, CONFIG, EXCHANGE)
    run.write_table("rejected/part-source-00000.parquet", REJECTED.empty_table())
    finished, facts = survey(run, 12)
    assert finished.nonzero()[0].tolist() == [10, 11]
    assert (facts.trajectories, facts.rejected) == (1, 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_retry_replaces_all_files_of_the_shard(run, order):
    healthy = batch([[APART], [SAME]])
    attempts = [healthy, with_errors(healthy, "engine died", "engine died")]
    for attempt in order:
        write_contrast(attempts[attempt], run, CONFIG, EXCHANGE)
    finished, facts = survey(run, 12)
    assert finished.sum() == 2
    assert (facts.trajectories, facts.rejected) == ((0, 2) if order[-1] else (2, 0))
    assert len(run.shards("scores")) == (0 if order[-1] else 1)


def test_a_problem_in_two_shards_is_found(run):
    table = batch([[APART], [SAME]])
    write_contrast(table, run, CONFIG, EXCHANGE)
    write_contrast(table.slice(1), run, CONFIG, EXCHANGE)
    with pytest.raises(StageError, match="holds problems that another shard holds"):
        survey(run, 12)


def test_scores_come_before_the_supervision_that_says_the_shard_is_finished(run, monkeypatch):
    written = []
    monkeypatch.setattr(Run, "write_table", lambda self, name, *rest: written.append(name))
    write_contrast(with_errors(batch([[APART], [SAME]]), None, "too long"), run, CONFIG, EXCHANGE)
    assert [name.split("/")[0] for name in written] == ["scores", "supervision", "rejected"]
    assert len({name.split("/")[1] for name in written}) == 1


def test_scores_of_a_batch_that_was_interrupted_are_removed(run):
    table = batch([[APART], [SAME]])
    write_contrast(table, run, CONFIG, EXCHANGE)
    (name,) = run.shards("supervision")
    run.remove(name)
    write_contrast(table.slice(0, 1), run, CONFIG, EXCHANGE)
    write_contrast(table.slice(1), run, CONFIG, EXCHANGE)
    assert len(run.shards("scores")) == 3
    remove_leftovers(run)
    names = [n.split("/")[1] for n in run.shards("supervision")]
    assert [n.split("/")[1] for n in run.shards("scores")] == names


def test_scores_hold_kl_and_plausible_sets_of_every_step(run):
    with np.errstate(divide="ignore"):
        write_contrast(batch([[SAME, UNKNOWN, APART]]), run, CONFIG, EXCHANGE)
    (name,) = run.shards("scores")
    assert run.read_facts(name) == {"plausibility": 0.2, **EXCHANGE}
    (row,) = run.read_tables([name], SCORES).to_pylist()
    assert run.shards("supervision") == []  # its kept step without a label spoils it
    assert len(row["kl"]) == len(row["plausible"]) == 3
    assert [step["token_ids"] for step in row["plausible"]] == [[7], [7], [7, 8]]
    assert row["plausible"][1]["amateur_logprobs"] == [-np.inf]
    assert np.exp(row["plausible"][2]["expert_logprobs"]) == pytest.approx([0.5, 0.4])
    assert np.exp(row["plausible"][2]["amateur_logprobs"]) == pytest.approx([0.1, 0.8])


def test_shard_that_cannot_be_written_names_folder_and_reason(run, tmp_path):
    (tmp_path / "supervision").write_text("in the way")
    with pytest.raises(StageError, match="supervision: cannot be written: File exists"):
        write_contrast(batch([[APART]]), run, CONFIG, EXCHANGE)


def test_shards_are_plain_parquet_of_the_schema(run):
    write_contrast(batch([[APART]]), run, CONFIG, EXCHANGE)
    (name,) = run.shards("supervision")
    assert name.startswith("supervision/part-000000010-")
    assert run.read_tables([name], SUPERVISION).num_rows == 1
    assert run.read_facts(name)["top_k"] == K
