"""Trajectories on disk: which shards hold which problems, and what is refused."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.errors import StageError, UserError
from lr_ray.labelling.shards import remove_leftovers
from lr_ray.pipeline.sharing import has_trajectories
from lr_ray.problems import read_problems, stage_problems
from lr_ray.run.schemas import TRAJECTORY
from lr_ray.run.store import Run
from lr_ray.sampling.graph import write_contrast
from lr_ray.sampling.trajectories import decoded, plan, read, save
from tests.unit.test_relabel import EXCHANGE, PROBLEMS, config, trajectories

FOOTER = {"decoding": "f" * 16, "plausibility": 0.2}


@pytest.fixture
def source(tmp_path) -> Run:
    """A finished run of the demo's problems, in shards of 16."""
    run = Run(str(tmp_path / "source"))
    stage_problems(run, config())
    for start in range(0, PROBLEMS, 16):
        write(run, batch_of(run).slice(start, 16))
    return run


def batch_of(run: Run) -> pa.Table:
    """Trajectories, some with errors, and an amateur's scores of them."""
    ids = read_problems(run, np.arange(PROBLEMS))["problem_id"]
    table = trajectories()
    return table.set_column(table.schema.get_field_index("problem_id"), "problem_id", ids)


def write(run: Run, table: pa.Table) -> None:
    """What the stage leaves of a batch."""
    save(table.select(TRAJECTORY.names), run, FOOTER)
    write_contrast(table, run, config(), EXCHANGE)


def blocks(source: Run, run: Run, todo) -> pa.Table:
    return pa.concat_tables(read(b, source, run) for b in plan(source, np.array(todo), FOOTER))


def test_what_was_saved_is_read_back_with_its_errors(source):
    expected = batch_of(source).select(TRAJECTORY.names)
    assert blocks(source, source, range(PROBLEMS)).equals(expected)
    assert blocks(source, source, [3, 5, 30]).equals(expected.take([3, 5, 30]))
    assert expected["error"].drop_null().to_pylist() == ["too long"] * 2


def test_trajectories_of_an_interrupted_batch_are_not_read_twice(source):
    again = batch_of(source).select(TRAJECTORY.names).slice(4, 20)
    save(again, source, FOOTER)
    assert blocks(source, source, range(PROBLEMS)).num_rows == PROBLEMS
    assert len(source.shards("trajectories")) == 4
    remove_leftovers(source)
    assert len(source.shards("trajectories")) == 3
    assert blocks(source, source, range(PROBLEMS)).num_rows == PROBLEMS


def test_a_finished_run_has_trajectories_for_a_plausibility_that_is_not_smaller(source):
    """For a smaller one the expert decodes again, in place of an error once engines would start."""
    assert [has_trajectories(source, p) for p in (0.1, 0.2, 0.3)] == [False, True, True]
    source.remove(source.shards("trajectories")[0])
    assert not has_trajectories(source, 0.2)


def test_what_does_not_fit_is_refused(source, tmp_path):
    everything = np.arange(PROBLEMS)
    for other in ({"decoding": "e" * 16}, {"plausibility": 0.1}):
        with pytest.raises(UserError, match=r"were made with other settings$"):
            plan(source, everything, FOOTER | other)
    plan(source, everything, FOOTER | {"plausibility": 0.3})  # those for a smaller one serve
    shuffled = Run(str(tmp_path / "shuffled"))
    stage_problems(shuffled, merge_seed(1))
    with pytest.raises(StageError, match=f"is of other problems than {shuffled.location}"):
        blocks(source, shuffled, everything)
    source.remove(source.shards("trajectories")[0])
    with pytest.raises(UserError, match="has no trajectories of 16 of 40 problems; sample it to"):
        plan(source, everything, FOOTER)


def merge_seed(seed: int):
    return config().model_copy(update={"data": config().data.model_copy(update={"seed": seed})})


@pytest.mark.parametrize(
    "said",
    [{}, {"problems": [0]}, {"problems": None, "plausibility": 0.2}, {"problems": 5, "plausibility": 0.2},
     {"problems": ["x"], "plausibility": 0.2}, {"problems": [-1], "plausibility": 0.2},
     {"problems": [0], "plausibility": None}, {"problems": [0], "plausibility": []}],
)  # fmt: skip
def test_a_footer_of_another_form_is_one_line_with_the_file(tmp_path, said):
    run = Run(str(tmp_path / "run"))
    run.write_table("trajectories/part-0.parquet", TRAJECTORY.empty_table(), said)
    for asked in (
        lambda: has_trajectories(run, 0.2),
        lambda: decoded(run, {"decoding": "x", "plausibility": 0.2}, 3),
    ):
        with pytest.raises(UserError, match=r"/trajectories/part-0\.parquet: holds something else than lr_ray writes there: "):  # fmt: skip
            asked()
