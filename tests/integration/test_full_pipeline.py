"""The main job as a person runs it: figures, rerun, interruption in each stage, bad input."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from lr_ray.embedded import amateur_path, expert_path
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
JOB = [sys.executable, str(ROOT / "jobs/full_pipeline.py"), "--config", "demo"]
SMALL = [
    "--sampling.max_problems=64",
    "--sampling.batch_size=8",
    "--training.optimizer_steps=30",
    "--evaluation.max_problems=400",
]
GONE_WITHIN = 15  # seconds
SECRET = f"hf_planted{uuid.uuid4().hex}"
SECRETS = {"HF_TOKEN": SECRET, "LR_RAY_API_KEY": SECRET, "WANDB_API_KEY": SECRET}


def run_job(*arguments: str, job: list[str] = JOB) -> subprocess.CompletedProcess:
    return subprocess.run([*job, *arguments], capture_output=True, text=True, timeout=400, cwd=ROOT)


def marked(mark: str) -> list[psutil.Process]:
    """Processes that inherited the mark, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("LR_RAY_TEST_MARK") == mark and process.is_running():
                found.append(process)
    return found


@pytest.fixture(scope="module")
def interrupted_then_finished(tmp_path_factory):
    """One run, interrupted once in each stage and then left to finish."""
    folder, port = tmp_path_factory.mktemp("run") / "run", free_port()
    arguments = [*JOB, "--run", str(folder), *SMALL, f"--serving.port={port}"]
    record = []
    # `kill` reaches one process, Ctrl-C the whole foreground group.
    for line, signal_number, group in (
        ("sampling   64 problems", signal.SIGTERM, False),
        ("training   30 optimizer steps", signal.SIGINT, True),
        ("serving    starting", signal.SIGTERM, False),
        ("evaluation ", signal.SIGINT, True),  # a line of progress: answers are coming
    ):
        mark = uuid.uuid4().hex
        process = subprocess.Popen(
            arguments,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=os.environ | SECRETS | {"LR_RAY_TEST_MARK": mark},
            start_new_session=True,
        )
        output = ""
        assert process.stdout is not None
        for text in process.stdout:
            output += text
            if text.startswith(line):
                break
        time.sleep({"sampling": 8, "evaluation": 0}.get(line.split()[0], 4))
        running, told = marked(mark), []
        alive = len(running)
        for one in running:
            with contextlib.suppress(psutil.Error):
                told += [one.cmdline()] if SECRET in " ".join(one.cmdline()) else []
        (os.killpg if group else os.kill)(process.pid, signal_number)
        sent = time.monotonic()
        code = process.wait(timeout=60)
        while (left := marked(mark)) and time.monotonic() - sent < GONE_WITHIN:
            time.sleep(0.2)
        gone = time.monotonic() - sent
        print(f"{signal_number.name} in {line.split()[0]}: {alive} processes gone in {gone:.1f} s")
        with socket.socket() as client:
            port_closed = client.connect_ex(("127.0.0.1", port)) != 0
        record.append((line, code, alive, [p.name() for p in left], port_closed, output, told))
        for straggler in left:
            with contextlib.suppress(psutil.Error):
                straggler.kill()
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=400, cwd=ROOT)
    return folder, record, finished, arguments


def test_interruption_leaves_no_process_and_no_port(interrupted_then_finished):
    _, record, _, _ = interrupted_then_finished
    for line, code, alive, left, port_closed, output, _ in record:
        assert alive > 3, f"nothing was running in {line}: {output}"
        assert code in (130, 143), (line, code, output)
        assert left == [], f"left after {line}"
        assert port_closed, line


def test_same_command_goes_on_and_finishes(interrupted_then_finished):
    folder, record, finished, _ = interrupted_then_finished
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert "Traceback" not in finished.stdout + finished.stderr
    started = [
        ("sampling   64" in r[5], "training   30 optimizer steps on" in r[5]) for r in record
    ]
    assert started == [(True, False), (True, True), (False, True), (False, False)]
    names = {path.name for path in folder.iterdir()}
    expected = {"run.json", "summary.json", "supervision", "adapter", "model", "evaluation"}
    assert expected <= names
    assert not list(folder.rglob("*.tmp"))


def test_nothing_secret_is_in_the_run_a_log_or_a_command_line(interrupted_then_finished):
    folder, record, _, _ = interrupted_then_finished
    logs = [re.search(r"^ray logs   (.+)$", text, re.MULTILINE) for *_, text, _ in record]
    files = [path for found in logs for path in Path(found[1]).rglob("*") if path.is_file()]
    assert len(files) > 40
    files += [path for path in folder.rglob("*") if path.is_file()]
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
    assert [told for *_, told in record if told] == []
    assert not any(SECRET in text for *_, text, _ in record)


def test_summary_has_every_field_of_the_contract(interrupted_then_finished):
    folder, *_ = interrupted_then_finished
    summary = json.loads((folder / "summary.json").read_text())
    accuracy = summary["accuracy"]["demo"]
    assert accuracy.keys() >= {"expert", "improved", "difference", "difference_ci95", "problems"}
    assert accuracy["problems"] == 400
    assert accuracy["difference"] == pytest.approx(accuracy["improved"] - accuracy["expert"])
    assert (
        accuracy["difference_ci95"][0] <= accuracy["difference"] <= accuracy["difference_ci95"][1]
    )
    assert summary["sampling"].keys() >= {
        "problems", "rejected", "trajectories", "steps_scored", "steps_kept", "seconds",
    }  # fmt: skip
    assert summary["training"].keys() >= {
        "optimizer_steps", "trained_steps", "distinct_steps", "tokens_forward", "seconds",
        "final_loss",
    }  # fmt: skip
    assert summary["seconds_total"] > summary["training"]["seconds"]
    table = pq.read_table(folder / "evaluation/demo.parquet")
    assert table.num_rows == 400
    correct = table["improved_correct"].to_pylist()
    assert accuracy["improved"] == pytest.approx(sum(correct) / 400)
    run = json.loads((folder / "run.json").read_text())
    assert run["config"]["sampling"]["max_problems"] == 64
    assert run.keys() >= {"config_hash", "versions", "models", "data", "schema_version"}
    assert run["models"]["expert"].keys() >= {"path", "fingerprint"}


def test_a_finished_run_is_not_recomputed(interrupted_then_finished):
    folder, _, _, arguments = interrupted_then_finished
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}
    again = subprocess.run(arguments, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert again.returncode == 0
    assert "finished before; nothing to do" in again.stdout
    assert before == {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


def test_another_config_on_the_run_is_refused(interrupted_then_finished):
    folder, *_ = interrupted_then_finished
    result = run_job("--run", str(folder), *SMALL, "--sampling.kl_threshold=0.3")
    assert result.returncode == 2
    assert "another sampling.kl_threshold;" in result.stderr


@pytest.fixture
def other_tokenizer(tmp_path) -> str:
    folder = tmp_path / "other"
    folder.mkdir()
    for file in amateur_path().iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    one, two = sorted(vocabulary, key=vocabulary.get)[20:22]
    vocabulary[one], vocabulary[two] = vocabulary[two], vocabulary[one]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    return str(folder)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sampling.kl_treshold=0.3"], "unknown option --sampling.kl_treshold; did you mean --sampling.kl_threshold?"),
        (["--sampling.plausibility=7"], "sampling.plausibility"),
        (["--config", "dmeo"], "no such preset"),
        (["--models.expert=./missing"], "models.expert: ./missing: no such directory"),
        (["--models.amateur=OTHER"], "different tokenizers: 2 tokens differ"),
        (["--run=FILE/run"], "give a directory that can be read and written"),
        (["--data.source=gsm9k"], "data.source"),
        (["--evaluation.benchmarks=gsm9k"], "evaluation.benchmarks"),
        (["--serving.port=PORT"], "serving.port"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_starts_nothing(arguments, message, tmp_path, other_tokenizer):
    (tmp_path / "file").write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        values = {"OTHER": other_tokenizer, "FILE": str(tmp_path / "file")}
        values["PORT"] = str(taken.getsockname()[1])
        filled = [fill(a, values) for a in arguments]
        result = run_job("--run", str(tmp_path / "run"), *filled)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, result.stderr
    assert not (tmp_path / "run/run.json").exists()


def fill(text: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        text = text.replace(name, value)
    return text


def test_missing_weights_are_named(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes((expert_path() / "config.json").read_bytes())
    result = run_job("--run", str(tmp_path / "run"), f"--models.expert={tmp_path}/model")
    assert result.returncode == 2
    assert "no *.safetensors weights" in result.stderr
