"""The files of a comparison: written, shown again, and what is told where some are not there."""

from types import SimpleNamespace

import pytest

from lr_ray.errors import StageError
from lr_ray.experiments import compare
from lr_ray.experiments.grid import Grid
from lr_ray.experiments.plan import make_plan
from lr_ray.run.store import Run
from tests.unit.test_comparison import DEMO, finished, variant


def bench(run: Run, grid: Grid, config=DEMO) -> SimpleNamespace:
    return SimpleNamespace(run=run, config=config, grid=grid, plan=make_plan(config, grid))


@pytest.fixture
def untrained_alone(tmp_path) -> tuple[SimpleNamespace, dict[str, str]]:
    """A sweep whose trained variants failed, and why."""
    grid = Grid("mine", [0], [
        variant("low", 0.1), variant("prefilled", 0.1, untrained=True, evaluation={"prefill": "So."}),
    ], "sampling.kl_threshold")  # fmt: skip
    there = bench(Run(str(tmp_path)), grid)
    finished(there.run, there.plan.cells[1], [1, 2], 0)
    return there, {"low-0": "loss is nan at step 3"}


def test_a_sweep_of_an_untrained_variant_alone_has_a_table_and_no_picture(untrained_alone):
    there, failed = untrained_alone
    compare._write(there, failed, 1.0)
    page = there.run.fs.cat_file(there.run.path("comparison.md")).decode()
    assert "- low-0: loss is nan at step 3" in page
    assert there.run.read_json("comparison.json")["failed"] == failed
    assert there.run.exists("comparison.html")
    assert not there.run.exists("comparison.svg")


def test_reasons_are_told_where_the_table_cannot_be_written(untrained_alone):
    there, failed = untrained_alone
    told = "1 of 2 runs failed: low-0: loss is nan at step 3; the table could not be written: ValueError: no"
    with pytest.raises(StageError, match=told), compare._reasons_first(there.plan, failed):
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), compare._reasons_first(there.plan, {}):
        raise ValueError("no")
