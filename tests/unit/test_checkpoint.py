"""Checkpoints of training in a run directory: which of them training goes on after."""

import pytest
import torch

from lr_ray.run.store import Run
from lr_ray.training import checkpoint
from lr_ray.training.checkpoint import Progress


def saved(run: Run, steps: int) -> Progress:
    rows = [{"step": step + 1} for step in range(steps)]
    progress = Progress(rows, {"weight/a": torch.arange(4.0), "exp_avg/a": torch.ones(2, 3)})
    checkpoint.save(run, progress)
    return progress


@pytest.fixture(params=["", "memory://"], ids=["local", "object store"])
def run(request, tmp_path) -> Run:
    return Run(f"{request.param}{tmp_path}/run")


def test_a_checkpoint_comes_back_as_it_was(run):
    progress = saved(run, 30)
    assert checkpoint.newest(run) == progress.name == "checkpoints/step-000030"
    again = checkpoint.load(run, progress.name)
    assert again.rows == progress.rows
    assert again.state.keys() == progress.state.keys()
    assert all(torch.equal(again.state[name], progress.state[name]) for name in again.state)


def test_there_is_none_at_first(run):
    assert checkpoint.newest(run) is None


@pytest.mark.parametrize("left", ["nothing", "state.safetensors", "metrics.json"])
def test_one_that_is_written_or_removed_in_part_is_not_taken(run, left):
    saved(run, 10)
    saved(run, 20)
    run.fs.makedirs(run.path("checkpoints/step-000030"))
    if left != "nothing":
        run.write_bytes(f"checkpoints/step-000030/{left}", b"[]")
    assert checkpoint.newest(run) == "checkpoints/step-000020"


def test_a_write_that_is_interrupted_leaves_no_whole_one(run, monkeypatch):
    """Whichever of its files the interruption hits."""
    saved(run, 10)
    for place, name in ((run.fs, "put_file"), (run, "write_bytes")):
        with monkeypatch.context() as patch:
            patch.setattr(place, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                saved(run, 20)
        assert checkpoint.newest(run) == "checkpoints/step-000010"
    saved(run, 20)
    assert checkpoint.newest(run) == "checkpoints/step-000020"


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_the_newest_is_that_of_the_most_steps(run):
    for steps in (999_999, 1_000_000, 20):
        name = f"checkpoints/step-{steps:06d}"
        for file in ("state.safetensors", "metrics.json"):
            run.write_bytes(f"{name}/{file}", b"[]")
    run.write_json("checkpoints/training.json", {})
    assert checkpoint.newest(run) == "checkpoints/step-1000000"
