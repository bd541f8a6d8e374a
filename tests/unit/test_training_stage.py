"""What the training stage checks and drops before it starts workers."""

import shutil
from collections import namedtuple
from types import SimpleNamespace

import pyarrow as pa
import pytest
import ray.train

from lr_ray.config import Place, changed, merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import StageError
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import SCHEMA_VERSION, Run
from lr_ray.training import train as stage
from lr_ray.training import worker
from lr_ray.training.checkpoint import Progress
from tests.unit.test_training_data import row

EXPERT = str(expert_path())
USAGE = namedtuple("USAGE", "total used free")


def demo(**training):
    return resolve(merge(read_tree("demo"), {"training": training}))


def run_with(tmp_path, *names) -> Run:
    run = Run(str(tmp_path))
    for name in names:
        table = pa.Table.from_pylist([row(name)], schema=SUPERVISION)
        run.write_table(f"supervision/part-{name}.parquet", table)
    return run


def checkpoint_of(run: Run) -> bool:
    return run.exists("checkpoints/step-000010/state.safetensors")


def test_an_attempt_that_only_exports_says_after_which_step_it_began(tmp_path, monkeypatch):
    run, training = run_with(tmp_path, "a", "b"), demo(optimizer_steps=2, batch_size=1).training
    made = {"loss": 1.0, "kept_steps": 1, "tokens": 3, "seconds": 0.5, "resumed_at": 0}
    context = SimpleNamespace(get_world_rank=lambda: 0, get_world_size=lambda: 1)
    monkeypatch.setattr(ray.train, "get_context", lambda: context)
    backend = SimpleNamespace(full_weights=dict, device="cpu")
    monkeypatch.setattr(worker.backends, "get", lambda *_: lambda *_: backend)
    progress = Progress([made | {"step": step} for step in (1, 2)])
    monkeypatch.setattr(worker, "_resume", lambda *_: progress)  # after the last checkpoint
    monkeypatch.setattr(worker, "_export", lambda *_: 0.0)
    spec = {"run": run, "training": training, "expert": EXPERT, "place": Place(gpus=1)}
    figures = worker._train(spec)
    assert (figures["optimizer_steps"], figures["resumed_at"]) == (2, 2)
    assert len(run.read_lines("metrics.jsonl")) == 2


def test_checkpoints_are_kept_for_the_same_training_whatever_the_workers(tmp_path):
    run = run_with(tmp_path, "a", "b")
    stage._own_checkpoints(run, demo(), EXPERT)
    run.write_json("checkpoints/step-000010/state.safetensors", {})
    stage._own_checkpoints(run, demo(), EXPERT)
    assert checkpoint_of(run)
    stage._own_checkpoints(run, demo(num_workers=3, zero_stage=3, checkpoint_every=7), EXPERT)
    assert checkpoint_of(run)


def test_checkpoints_are_kept_where_the_models_were_moved(tmp_path):
    run, config = run_with(tmp_path / "run", "a", "b"), demo()
    known = {"models": {"amateur": {"fingerprint": "a"}}}
    asked = {"schema_version": SCHEMA_VERSION, "config": config.model_dump(mode="json")}
    run.write_json("run.json", asked | known)
    stage._own_checkpoints(run, config, EXPERT)
    run.write_json("checkpoints/step-000010/state.safetensors", {})
    moved = {role: str(tmp_path / role) for role in ("expert", "amateur")}
    shutil.copytree(EXPERT, moved["expert"])
    other = changed(config, {f"models.{role}": path for role, path in moved.items()})
    stage._own_checkpoints(run, other, moved["expert"])
    assert checkpoint_of(run)


@pytest.mark.parametrize("change", ["supervision", "settings"])
def test_checkpoints_of_another_training_are_dropped(tmp_path, change):
    run = run_with(tmp_path, "a", "b")
    stage._own_checkpoints(run, demo(), EXPERT)
    run.write_json("checkpoints/step-000010/state.safetensors", {})
    run.write_json("model/config.json", {})
    if change == "supervision":
        run.remove("supervision/part-a.parquet")
    stage._own_checkpoints(run, demo(seed=7) if change == "settings" else demo(), EXPERT)
    assert not checkpoint_of(run)
    assert not run.exists("model")


def test_no_room_is_said_before_anything_starts(tmp_path, monkeypatch):
    run = run_with(tmp_path, "a")
    stage.check_room(run, EXPERT, demo().training)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: USAGE(1, 1, 100_000))
    with pytest.raises(StageError, match=r"no room for checkpoints and model: 0 MB free, about \d"):
        stage.check_room(run, EXPERT, demo().training)


def test_supervision_is_checked(tmp_path):
    contrast = demo().sampling
    rejection = contrast.model_copy(update={"method": "rejection"})
    assert stage.check_supervision(run_with(tmp_path / "run", "a", "b"), EXPERT, contrast) == (2, 2)
    with pytest.raises(StageError, match="no supervision; sample first"):
        stage.check_supervision(Run(str(tmp_path / "none")), EXPERT, contrast)
    with pytest.raises(StageError, match="none of the sampled solutions is right"):
        stage.check_supervision(Run(str(tmp_path / "none")), EXPERT, rejection)
    fewer = run_with(tmp_path / "fewer", "a", "b")
    fewer.write_json("summary.json", {"sampling": {"trajectories": 3}})
    with pytest.raises(
        StageError, match=r"holds 2 of 3 sampled trajectories; remove summary\.json"
    ):
        stage.check_supervision(fewer, EXPERT, contrast)
    more = run_with(tmp_path / "more", "a", "b")
    more.write_json("summary.json", {"sampling": {"trajectories": 1}})
    with pytest.raises(StageError, match="holds 2 trajectories where 1 were sampled; remove the f"):
        stage.check_supervision(more, EXPERT, contrast)
    twice = Run(str(tmp_path / "twice"))
    table = pa.Table.from_pylist([row("a")], schema=SUPERVISION)
    for name in ("part-1.parquet", "part-1 (copy).parquet"):
        twice.write_table(f"supervision/{name}", table, {"problems": [7]})
    with pytest.raises(
        StageError, match=r"part-1\.parquet: holds problems that another shard holds, s"
    ):
        stage.check_supervision(twice, EXPERT, contrast)
    other = Run(str(tmp_path / "other"))
    table = pa.Table.from_pylist([row("a")], schema=SUPERVISION)
    other.write_table("supervision/part-0.parquet", table, {"expert": "0123"})
    with pytest.raises(StageError, match=r"part-0.parquet: was sampled from another expert"):
        stage.check_supervision(other, EXPERT, contrast)
    empty = Run(str(tmp_path / "empty"))
    table = pa.Table.from_pylist([row("a", steps=())], schema=SUPERVISION)
    empty.write_table("supervision/part-0.parquet", table)
    with pytest.raises(StageError, match="1 trajectory, no kept step to train on"):
        stage.check_supervision(empty, EXPERT, contrast)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("Traceback\n  line\nValueError: no such backend\n", "ValueError: no such backend"),
        ("5 worker(s) were killed due to the node running low on memory. 22.6GB used\nadvice", "5 worker(s) were killed due to the node running low on memory. 22.6GB used"),
        ("", "RuntimeError"),
    ],
)  # fmt: skip
def test_a_failure_is_told_by_the_line_that_says_why(said, told):
    assert stage._reason(RuntimeError(said)) == told
