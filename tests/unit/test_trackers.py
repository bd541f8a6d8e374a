"""Trackers against what their own libraries wrote: each step once, also when training is resumed."""

import importlib
import json
import os
import struct
import uuid
from pathlib import Path

import numpy as np
import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.report import tell_trackers
from lr_ray.report.tracked import kept_kl
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run, read_summary
from lr_ray.training import trackers
from lr_ray.training.outcome import Outcome
from lr_ray.training.trackers import IDENTITY, TENSORBOARD, Trackers, check_trackers, tell
from tests.unit.test_results import BOTH, table
from tests.unit.test_status import finished


def demo(*names):
    return resolve(merge(read_tree("demo"), {"training": {"trackers": list(names)}}))


def row(step: int, loss: float | None = None) -> dict:
    counts = {"kept_steps": 16, "tokens": 400, "seconds": 0.5, "resumed_at": 0}
    return counts | {"step": step, "loss": 1 / step if loss is None else loss}


def log(run: Run, names: list[str], steps, loss: float | None = None) -> None:
    with Trackers(run, demo(*names)) as opened:
        for step in steps:
            opened.log(row(step, loss))


def log_and_fail(run: Run, names: list[str], steps) -> None:
    with Trackers(run, demo(*names)) as opened:
        for step in steps:
            opened.log(row(step))
        raise StageError("training failed")


def records(data: bytes) -> list[bytes]:
    """TensorBoard's records: length (8 bytes), its checksum (4), content, its checksum (4)."""
    found = []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        found.append(data[12 : 12 + length])
        data = data[16 + length :]
    return found


PAGE = "<html><body>the page</body></html>"


def outcome(folder: Path, accuracy: float = 0.75) -> Outcome:
    """What a run came to: three kept steps, one answer that became right."""
    page = folder / "report.html"
    page.write_text(PAGE)
    row = {"task": "demo", "change": "gained", "problem": "1|2", "expert_answer": None}
    metrics = {"accuracy/demo/improved": accuracy, "sampling/kept_share": 0.2}
    kl = np.array([0.2, 0.4, 1.5], np.float32)
    return Outcome(4, metrics, kl, [row], str(page))


def events(run: Run) -> list:
    """The values that TensorBoard reads of all files, as they stand."""
    from tensorboardX.proto.event_pb2 import Event

    files = sorted(run.fs.ls(run.path(TENSORBOARD), detail=False))
    read = [Event.FromString(r) for file in files for r in records(run.fs.cat_file(file))]
    return [(event.step, value) for event in read for value in event.summary.value]


def test_tensorboard_has_what_the_run_came_to_once(run, tmp_path):
    log(run, ["tensorboard"], [1, 2])
    for accuracy in (0.5, 0.75):  # the second as after another evaluation
        tell(run, demo("tensorboard"), outcome(tmp_path, accuracy))
    found = {value.tag: (step, value) for step, value in events(run)}
    assert [value.simple_value for _, value in events(run) if "accuracy" in value.tag] == [0.75]
    step, histogram = found["sampling/kl_of_kept_steps"]
    assert (step, histogram.histo.num) == (4, 3)
    assert histogram.histo.max == 1.5
    text = found["evaluation/changed_answers/text_summary"][1].tensor.string_val[0].decode()
    assert text.splitlines()[-1] == "| demo | gained | 1\\|2 | null |"
    settings = found["config/text_summary"][1].tensor.string_val[0].decode()
    assert "| training.learning_rate | 0.004 |" in settings
    assert "report.html" in found["report/text_summary"][1].tensor.string_val[0].decode()
    assert shown(run) == [(1, 1), (2, 0.5)]


def test_a_finished_run_tells_its_trackers_by_stage(run):
    finished(run)
    run.write_table("evaluation/demo.parquet", table(**BOTH))
    log(run, ["tensorboard"], [1])
    tell_trackers(run, demo("tensorboard"), read_summary(run))
    found = {value.tag: value for _, value in events(run)}
    assert found["accuracy/demo/improved"].simple_value == 0.75
    assert found["difference/demo/improved_low"].simple_value <= 0.5
    assert found["training/final_loss"].simple_value == 0.25
    kept = sum(map(len, run.read_tables(run.shards("supervision"), SUPERVISION)["steps"]))
    assert found["sampling/steps_kept"].simple_value == kept == len(kept_kl(run)) > 0
    assert found["sampling/kl_of_kept_steps"].histo.num == kept
    assert "evaluation/changed_answers/text_summary" in found


def test_the_kl_of_kept_steps_is_theirs(run):
    finished(run)
    rows = run.read_tables(run.shards("supervision"), SUPERVISION).to_pylist()
    theirs = [row["kl"][step["position"]] for row in rows for step in row["steps"]]
    assert kept_kl(run).tolist() == theirs


def shown(run: Run, tag: str = "train/loss") -> list[tuple[int, float]]:
    """(step, value) as TensorBoard shows them: a session's start hides its step and later ones."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    points: list[tuple[int, float]] = []
    for path in sorted(run.fs.ls(run.path(TENSORBOARD), detail=False)):
        for record in records(run.fs.cat_file(path)):
            event = Event.FromString(record)
            if event.session_log.status == SessionLog.START:
                points = [point for point in points if point[0] < event.step]
            values = [v.simple_value for v in event.summary.value if v.tag == tag]
            points += [(event.step, value) for value in values]
    return points


@pytest.fixture(params=["local", "remote"])
def run(request, tmp_path):
    return Run(str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}")


def test_tensorboard_has_each_figure_and_the_rates(run):
    log(run, ["tensorboard"], [1, 2, 4])
    assert shown(run) == [(1, 1), (2, 0.5), (4, 0.25)]
    assert shown(run, "train/tokens_per_second") == [(1, 800), (2, 800), (4, 800)]
    assert shown(run, "train/seconds") == []


def test_resumed_tensorboard_has_each_step_once(run):
    log(run, ["tensorboard"], [1, 2, 3], loss=5)  # killed after a checkpoint at step 2
    run.write_lines("metrics.jsonl", [row(1, 5), row(2, 5)])
    log(run, ["tensorboard"], [3, 4], loss=7)
    assert shown(run) == [(1, 5), (2, 5), (3, 7), (4, 7)]


def test_resumed_before_its_first_checkpoint_it_has_each_step_once(run):
    log(run, ["tensorboard"], [1, 2], loss=5)
    log(run, ["tensorboard"], [1, 2, 3], loss=7)
    assert shown(run) == [(1, 7), (2, 7), (3, 7)]


def test_steps_made_again_after_a_worker_died_are_not_logged_again(run):
    log(run, ["tensorboard"], [1, 2, 3, 2, 3, 4])
    assert [step for step, _ in shown(run)] == [1, 2, 3, 4]


def test_another_training_starts_anew(run):
    log(run, ["tensorboard"], [1, 2, 3])
    first = run.read_json(IDENTITY)
    run.remove("checkpoints")  # as the stage does when supervision or settings are others
    log(run, ["tensorboard"], [1])
    assert shown(run) == [(1, 1)]
    assert run.read_json(IDENTITY) != first


def test_resumed_remote_run_whose_driver_was_killed_has_the_steps_before():
    run = Run(f"memory://{uuid.uuid4().hex}")
    log(run, [], [1, 2])  # its temporary folder is lost
    run.write_lines("metrics.jsonl", [row(1), row(2)])
    log(run, ["tensorboard"], [3])
    assert [step for step, _ in shown(run)] == [1, 2, 3]


def test_files_of_a_remote_run_are_there_when_training_fails():
    run = Run(f"memory://{uuid.uuid4().hex}")
    with pytest.raises(StageError):
        log_and_fail(run, ["tensorboard"], [1])
    assert shown(run) == [(1, 1)]


def test_a_tracker_that_fails_is_dropped_and_the_others_go_on(tmp_path, monkeypatch):
    def broken(self):
        def log(row):
            assert row["step"] < 2

        return log

    monkeypatch.setattr(Trackers, "_mlflow", broken)
    log(Run(str(tmp_path)), ["mlflow", "tensorboard"], [1, 2, 3])
    assert [step for step, _ in shown(Run(str(tmp_path)))] == [1, 2, 3]


def test_a_tracker_that_cannot_start_fails_in_one_line(tmp_path):
    (tmp_path / "no-folder").write_text("")
    run = Run(str(tmp_path))
    run.write_json(IDENTITY, {"id": "x"})

    class Broken(Trackers):
        def _tensorboard(self):
            os.listdir(tmp_path / "no-folder")

    with pytest.raises(StageError, match=r"^training\.trackers: tensorboard: .*Not a directory"):
        Broken(run, demo("tensorboard")).__enter__()


def test_missing_library_is_named(monkeypatch, tmp_path):
    check_trackers(["tensorboard"])
    (tmp_path / "lr_ray_folder").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    for module in ("lr_ray_missing", "lr_ray_folder"):
        monkeypatch.setitem(trackers._MODULES, "wandb", (module, "'.[trackers]'"))
        message = r"training\.trackers: wandb is not installed: pip install '\.\[trackers\]'"
        with pytest.raises(UserError, match=message):
            check_trackers(["tensorboard", "wandb"])


@pytest.fixture
def store(tmp_path, monkeypatch):
    """MLflow with a store of files: mlflow-skinny has no database."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri(f"file://{tmp_path}/store")
    return mlflow


def test_mlflow_goes_on_in_the_same_run_with_each_step_once(store, tmp_path):
    check_trackers(["mlflow"])
    run = Run(str(tmp_path / "run"))
    with pytest.raises(StageError):
        log_and_fail(run, ["mlflow"], [1, 2, 3])
    (found,) = store.search_runs(output_format="list")
    assert found.info.status == "FAILED"
    assert found.data.params["training.learning_rate"] == "0.004"
    assert found.data.params["run"] == found.info.run_name == run.location
    log(run, ["mlflow"], [3, 4])
    (again,) = store.search_runs(output_format="list")
    assert (again.info.run_id, again.info.status) == (found.info.run_id, "FINISHED")
    history = store.MlflowClient().get_metric_history(found.info.run_id, "loss")
    assert [(m.step, m.value) for m in history] == [(step, 1 / step) for step in (1, 2, 3, 4)]
    assert again.data.metrics["tokens_per_second"] == 800

    run.remove("checkpoints")
    log(run, ["mlflow"], [1])
    assert len(store.search_runs(output_format="list")) == 2


def test_mlflow_has_what_the_run_came_to(store, tmp_path):
    run = Run(str(tmp_path / "run"))
    log(run, ["mlflow"], [1, 2])
    for accuracy in (0.5, 0.75):
        tell(run, demo("mlflow"), outcome(tmp_path, accuracy))
    (found,) = store.search_runs(output_format="list")
    assert found.info.status == "FINISHED"
    assert found.data.metrics["accuracy/demo/improved"] == 0.75
    client, place = store.MlflowClient(), found.info.run_id
    assert {a.path for a in client.list_artifacts(place)} == {
        "changed.json",
        "kl.svg",
        "report.html",
    }
    files = {n: Path(client.download_artifacts(place, n)) for n in ("changed.json", "report.html")}
    assert files["report.html"].read_text() == PAGE
    assert json.loads(files["changed.json"].read_text())["data"] == [
        ["demo", "gained", "1|2", None]
    ]


def test_mlflow_that_cannot_write_is_one_line(store, tmp_path, monkeypatch):
    store.set_tracking_uri(f"sqlite:///{tmp_path}/store.db")
    if importlib.util.find_spec("sqlalchemy") is None:
        with pytest.raises(UserError, match="set MLFLOW_TRACKING_URI to a server's address"):
            check_trackers(["mlflow"])
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    store.set_tracking_uri(f"file://{tmp_path}/other")
    with pytest.raises(StageError, match=r"^training\.trackers: mlflow: .+"):
        Trackers(Run(str(tmp_path / "run")), demo("mlflow")).__enter__()


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    module = pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    module.teardown()  # its settings are read once a process
    yield module
    module.teardown()


def offline_runs(folder: Path) -> list[tuple[str, list[tuple[int, float]]]]:
    """Run id and (step, loss) of each offline run: a LevelDB log of W&B's records."""
    from wandb.proto.wandb_internal_pb2 import Record

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        data, at, whole, name, points = path.read_bytes(), 7, b"", "", []
        while at + 7 <= len(data):
            if 32768 - at % 32768 < 7:  # the rest of a block
                at += 32768 - at % 32768
            length, kind = struct.unpack("<HB", data[at + 4 : at + 7])
            whole += data[at + 7 : at + 7 + length]
            at += 7 + length
            if kind not in (1, 4):  # neither whole nor last
                continue
            record, whole = Record.FromString(whole), b""
            name = record.run.run_id or name
            items = {".".join(i.nested_key) or i.key: i.value_json for i in record.history.item}
            if "loss" in items:
                points.append((int(items["_step"]), json.loads(items["loss"])))
        found.append((name, points))
    return found


def test_wandb_goes_on_under_the_same_id(wandb, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="wandb has no API key: set WANDB_API_KEY"):
        check_trackers(["wandb"])
    wandb.teardown()
    monkeypatch.setenv("WANDB_MODE", "offline")
    check_trackers(["wandb"])
    run = Run(str(tmp_path / "run"))
    log(run, ["wandb"], [1, 2, 3, 2, 3])
    log(run, ["wandb"], [4])
    wandb.teardown()  # which writes the files out
    (one, first), (two, second) = offline_runs(tmp_path)
    assert one == two == run.read_json(IDENTITY)["id"]
    assert first == [(1, 1), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert second == [(4, 0.25)]


def test_wandb_has_what_the_run_came_to(wandb, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = Run(str(tmp_path / "run"))
    log(run, ["wandb"], [1, 2])
    tell(run, demo("wandb"), outcome(tmp_path))
    wandb.teardown()
    ((first, _), (second, _)) = offline_runs(tmp_path)
    assert first == second
    media = tmp_path / "wandb"
    (table,) = media.glob("offline-run-*/files/media/table/evaluation/changed_answers_*.table.json")
    assert json.loads(table.read_text())["data"] == [["demo", "gained", "1\\|2", "null"]]
    (page,) = media.glob("offline-run-*/files/media/html/report_*.html")
    assert "the page" in page.read_text()
    logged = b"".join(f.read_bytes() for f in media.glob("offline-run-*/*.wandb"))
    for name in (
        b"accuracy/demo/improved",
        b"sampling/kl_of_kept_steps",
        b"report-" + first.encode(),
    ):
        assert name in logged
