"""Checkpoints of training in a run directory: which of them training goes on after."""

import errno
import logging
import os
from types import SimpleNamespace

import pytest
import ray.train
import torch

from lr_ray.errors import StageError
from lr_ray.run.store import Run
from lr_ray.training import checkpoint
from lr_ray.training.checkpoint import Progress
from lr_ray.training.worker import _checkpoint, _final


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


def test_weights_are_on_the_disk_before_the_checkpoint_counts_as_whole(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def sync(file: int) -> None:
        fsync(file)
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{file}")))

    monkeypatch.setattr(os, "fsync", sync)
    saved(Run(str(tmp_path)), 10)
    files = [name.split(".")[1] for name in synced if name.endswith(".tmp")]
    assert files == ["state", "metrics"]


def test_the_newest_is_that_of_the_most_steps(run):
    for steps in (999_999, 1_000_000, 20):
        checkpoint.save(run, Progress([{}] * steps, {"weight/a": torch.ones(1)}))
    run.write_json("checkpoints/training.json", {})
    assert checkpoint.newest(run) == "checkpoints/step-1000000"


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("state.safetensors", lambda whole: whole[: len(whole) // 2], "cut or damaged at"),
        ("state.safetensors", lambda whole: whole[:-1], "cut or damaged at"),
        ("state.safetensors", lambda whole: b"", "Expecting value"),
        ("state.safetensors", lambda whole: bytes(len(whole)), "Expecting value"),
        ("state.safetensors", lambda whole: b"\xff" * len(whole), "cut or damaged at"),
        ("metrics.json", lambda whole: whole[:-3], "Expecting"),
        ("metrics.json", lambda whole: b"[{}]", "has not as many rows as the checkpoint has steps"),
        ("metrics.json", lambda whole: b'["\xff"]', "codec can't decode"),
        ("metrics.json", lambda whole: b"{}", "has not as many rows"),
    ],
)
def test_a_damaged_one_is_passed_over_with_a_warning(run, file, damage, said, monkeypatch):
    warned: list[str] = []
    log = logging.getLogger(checkpoint.__name__)
    monkeypatch.setattr(log, "warning", lambda text, *of: warned.append(text % of))
    saved(run, 10)
    path = f"{saved(run, 20).name}/{file}"
    run.write_bytes(path, damage(run.fs.cat_file(run.path(path))))
    assert checkpoint.newest(run) == "checkpoints/step-000010"
    [line] = warned
    assert line.startswith(f"{run.location}/{path}: ")
    assert said in line


def test_the_last_two_are_kept_and_nothing_that_is_no_whole_one(run):
    for steps in (10, 20, 30):
        saved(run, steps)
    run.write_bytes("checkpoints/step-000025/state.safetensors", b"half")
    run.write_json("checkpoints/training.json", {})
    checkpoint.prune(run, "checkpoints/step-000030")
    assert run.folders("checkpoints") == ["checkpoints/step-000020", "checkpoints/step-000030"]
    assert run.exists("checkpoints/training.json")


def test_a_damaged_one_takes_the_one_before_it_not_along(run):
    """Training goes on after the one before, which stays until there are two others."""
    saved(run, 10)
    saved(run, 20)
    run.write_bytes("checkpoints/step-000020/state.safetensors", b"damaged")
    assert checkpoint.newest(run) == "checkpoints/step-000010"
    checkpoint.prune(run, saved(run, 15).name)
    assert run.folders("checkpoints") == ["checkpoints/step-000010", "checkpoints/step-000015"]
    checkpoint.prune(run, saved(run, 20).name)
    assert run.folders("checkpoints") == ["checkpoints/step-000015", "checkpoints/step-000020"]
    assert checkpoint.newest(run) == "checkpoints/step-000020"


def test_ray_train_knows_of_no_checkpoint(run, monkeypatch):
    """Its register refuses to start where one is gone, as in a copy that was made meanwhile."""
    told = []
    monkeypatch.setattr(ray.train, "report", lambda *said, **more: told.append((said, more)))
    progress = Progress([{"step": 1}])
    backend = SimpleNamespace(state=lambda: {"weight/a": torch.arange(4.0)})
    _checkpoint(backend, progress, 0, run)
    assert told == [(({"step": 1},), {})]
    assert checkpoint.newest(run) == progress.name
    run.write_json("checkpoints/checkpoint_manager_snapshot.json", {})  # of a version before
    checkpoint.forget_register(run)
    assert not run.exists("checkpoints/checkpoint_manager_snapshot.json")


@pytest.mark.parametrize(("file", "content"), [("state.safetensors", b"x"), ("metrics.json", b"[")])
def test_one_that_cannot_be_read_is_named_and_ends_the_training(run, file, content):
    name = saved(run, 10).name
    run.write_bytes(f"{name}/{file}", content)
    with pytest.raises(StageError, match=r"damaged: .*; remove this folder and run again") as error:
        checkpoint.load(run, name)
    assert str(error.value).startswith(f"{run.location}/{name}: ")
    assert _final(error.value, run) == str(error.value)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, "{run}, or its machine's /scratch: no space left; make room and run again"),
        (errno.EDQUOT, "{run}, or its machine's /scratch: no space left; make room and run again"),
        (errno.EACCES, "{run}: cannot be written: Permission denied; put that right and run again"),
        (errno.EIO, None),
    ],
)
def test_a_disk_that_stays_full_ends_the_training_and_may_be_that_of_scratch_files(
    run, monkeypatch, code, told
):
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/scratch")
    assert _final(OSError(code, "said"), run) == (told and told.format(run=run.location))


def test_the_full_disk_is_named_where_it_is_that_of_scratch_files(run, monkeypatch):
    monkeypatch.setattr("lr_ray.training.worker.full_temporary", lambda: "/scratch")
    said = "/scratch: no space left; make room and run again"
    assert _final(OSError(errno.ENOSPC, "said"), run) == said
