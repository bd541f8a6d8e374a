"""What the main job refuses: one line, and nothing has started."""

import json
import socket
import subprocess
from pathlib import Path

import pytest

from lr_ray.embedded import amateur_path, expert_path
from tests.integration.jobs import ROOT, command, run, run_here
from tests.ports import free_port

__all__ = ["ROOT", "free_port", "run_job"]  # for test_compare.py

JOB = command("full_pipeline", "--config", "demo")


def run_job(*arguments: str, job: list[str] = JOB) -> subprocess.CompletedProcess:
    _, script, *given = job
    return run_here(Path(script).stem, *given, *arguments)


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
        if message != "serving.port":  # somebody may serve at the usual one
            filled.append(f"--serving.port={free_port()}")
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


def test_missing_weights_are_named_and_a_process_says_nothing_else(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_bytes((expert_path() / "config.json").read_bytes())
    asked = ["--config", "demo", "--run", str(tmp_path / "run")]
    asked += [f"--models.expert={tmp_path}/model", f"--serving.port={free_port()}"]
    result = run("full_pipeline", *asked)
    assert result.returncode == 2
    assert "no *.safetensors weights" in result.stderr
    assert (result.stdout, result.stderr.count("\n")) == ("", 1)
