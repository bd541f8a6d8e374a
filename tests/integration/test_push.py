"""The cards of a trained run: each of their snippets loads what it names, and all give the same answer."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lr_ray.config import Place
from lr_ray.engines.vllm import engine_env
from tests.integration.jobs import ROOT


def answers(folder: Path) -> list[str]:
    """What each snippet of a card prints last, as a program of its own."""
    code = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    # Without a compiler's minute; what it would compile is vLLM's own.
    env = os.environ | engine_env(Place()) | {"VLLM_USE_AOT_COMPILE": "0", "PYTHONPATH": str(ROOT)}
    said = []
    for snippet in code:
        done = subprocess.run([sys.executable, "-c", snippet], env=env, cwd=folder.parent, capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        said.append(done.stdout.strip().splitlines()[-1])
    return said


@pytest.mark.long
def test_transformers_peft_and_vllm_answer_alike(whole, tmp_path, monkeypatch):
    from lr_ray.cli.front import run_command

    monkeypatch.chdir(tmp_path)
    said = []
    for what in ("adapter", "model"):
        assert run_command(["push", "--run", str(whole), "--what", what, "--to", f"./{what}"]) == 0
        said += answers(tmp_path / what)
    assert len(said) == 4
    assert set(said) == {said[0]}
    assert re.search(r"The answer is \d+\.$", said[0])


def test_training_leaves_cards_and_tells_its_trackers(whole):
    assert "# run: adapter" in (whole / "adapter/README.md").read_text()
    assert "# run: model" in (whole / "model/README.md").read_text()
    (told,) = (whole / "tensorboard").glob("*.outcome")
    assert b"sampling/kl_of_kept_steps" in told.read_bytes()
