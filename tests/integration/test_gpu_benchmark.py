"""benchmarks/gpu.py at size tiny: on a machine with torch, transformers and peft alone, and with engines."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKED = ("ray", "vllm", "deepspeed", "pyarrow", "pydantic")
# Python imports a sitecustomize of its path before anything else. What is blocked is not found, rather than
# refused: libraries ask for packages that they can do without.
BLOCKER = f"""
from importlib.machinery import PathFinder

find = PathFinder.find_spec

def find_spec(cls, name, path=None, target=None):
    return None if name.partition(".")[0] in {BLOCKED} else find(name, path, target)

PathFinder.find_spec = classmethod(find_spec)
"""
RUNGS = ("training", "scoring", "precision", "starts", "sampling", "pipeline")


def run(out: Path, *options: str, path: str = "") -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), "--size", "tiny", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": path}
    asked = [*command, "--out", str(out), *options]
    return subprocess.run(asked, env=environment, capture_output=True, text=True, check=False)


def check_torch_rungs(rungs: dict) -> None:
    training, scoring, precision = (
        {row["what"]: row for row in rungs[name]["rows"]} for name in RUNGS[:3]
    )
    assert list(training) == [
        "packed",
        "one forward a kept step",
        "packed, dropout 0.05",
        "profile, packed, dropout 0.05",
        "gradient, packed against one forward a kept step, float32",
    ]
    *timed, profile, gradient = training.values()
    assert 0 < profile["of_it_attention"] < profile["cpu_seconds_per_step"]
    assert profile["gpu_seconds_per_step"] == profile["launches_per_step"] == 0  # none here
    assert 0 < gradient["relative_gap"] < 1e-4
    assert all(row["optimizer_steps"] >= 1 for row in timed)
    packed, single, dropped = timed
    assert packed["optimizer_steps"] == single["optimizer_steps"]
    slower = single["seconds_per_step"] / packed["seconds_per_step"]
    assert packed["tflops"] / single["tflops"] == pytest.approx(slower)  # of the same model FLOP
    assert single["padding"] == packed["padding"] == dropped["padding"] == 0
    assert all(row["mfu"] is None for row in timed)  # no peak is known of a CPU
    alone = scoring["transformers, chunked lm_head"]
    assert alone["trajectories"] == 16
    assert alone["trajectories_per_second"] == pytest.approx(16 / alone["seconds"])
    assert 0 < alone["gap_to_float32"] < 1e-5
    narrow, wide = precision["bfloat16"], precision["bfloat16, lm_head in float32"]
    for row in (narrow, wide):
        assert row["steps"] == narrow["steps"] > 20
        assert row["kept_float32"] == narrow["kept_float32"] > 0
        assert 0 < row["kl_moved_median"] <= row["kl_moved_p99"] <= row["kl_moved_max"] < 0.5
        assert row["changed_sides"] <= row["steps"]
    assert wide["kl_moved_mean"] < narrow["kl_moved_mean"]


def test_without_ray_and_engines_the_others_are_measured_and_skipped_rungs_say_why(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    out = tmp_path / "found.json"
    done = run(out, "--minutes", "60", path=str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text())
    rungs = found["rungs"]
    assert {name: rung["status"] for name, rung in rungs.items()} == dict.fromkeys(
        RUNGS[:3], "done"
    ) | dict.fromkeys(RUNGS[3:], "skipped")
    assert rungs["scoring"]["skipped"] == ["the vLLM scorer: vllm, pyarrow, pydantic not installed"]
    for name in ("starts", "sampling"):
        assert rungs[name]["skipped"] == ["vllm, pyarrow, pydantic not installed"]
    assert rungs["pipeline"]["skipped"] == ["vllm, pyarrow, pydantic, ray, deepspeed not installed"]
    check_torch_rungs(rungs)
    assert found["extrapolated"] == []  # tiny shapes say nothing of the paper's
    assert found["device"].startswith("CPU, ")
    assert found["command"].startswith("python benchmarks/gpu.py --size tiny")
    assert {"torch", "cuda", "vllm", "ray", "transformers", "peft"} <= found["versions"].keys()
    for name, rung in rungs.items():
        assert f"## {name}: {rung['status']}" in done.stdout
        assert all(f"| {row['what']} |" in done.stdout for row in rung["rows"])


def test_a_rung_whose_time_is_spent_is_stopped_and_makes_the_command_fail(tmp_path):
    out = tmp_path / "found.json"
    done = run(out, "--rung", "training", "--minutes", "0.01")
    assert done.returncode == 1
    rung = json.loads(out.read_text())["rungs"]["training"]
    assert rung["status"] == "stopped"
    assert "stopped after its 0 s" in rung["failed"][0]
    assert "## training: stopped" in done.stdout


def test_a_pair_that_is_none_is_refused_before_anything_starts(tmp_path):
    done = run(tmp_path / "found.json", "--pair", str(tmp_path), str(tmp_path))
    assert done.returncode == 2
    assert f"--pair: {tmp_path}: no model directory" in done.stderr


@pytest.mark.long
def test_with_engines_every_rung_is_measured(tmp_path):
    out = tmp_path / "found.json"
    done = run(out, "--minutes", "60")
    assert done.returncode == 0, done.stdout + done.stderr
    rungs = json.loads(out.read_text())["rungs"]
    assert {name: rung["status"] for name, rung in rungs.items()} == dict.fromkeys(RUNGS, "done")
    check_torch_rungs(rungs)
    engine = {row["what"]: row for row in rungs["scoring"]["rows"]}["vLLM scorer, embedded amateur"]
    assert engine["trajectories"] == 16
    assert 0 < engine["gap_to_float32"] < 1e-3
    [eager] = rungs["starts"]["rows"]  # CPU engines have no other form
    assert min(eager[name] for name in ("import_seconds", "start_seconds", "first_seconds")) > 0
    assert eager["seconds"] * eager["tokens_per_second"] == pytest.approx(4 * 128)
    sampling = {row["what"]: row for row in rungs["sampling"]["rows"]}
    whole = sampling["in turn"]
    assert whole["trajectories"] == 32
    assert whole["steps"] > 10 * whole["trajectories"]
    parts = [sampling[name] for name in ("expert decodes", "amateur scores", "labels")]
    assert sum(part["seconds"] for part in parts) == pytest.approx(whole["seconds"])
    assert 0 < sampling["scorer in float32 against transformers"]["gap_to_float32"] < 1e-3
    [demo] = rungs["pipeline"]["rows"]
    stages = [
        demo[f"{stage}_seconds"] for stage in ("sampling", "training", "serving", "evaluation")
    ]
    assert all(seconds > 0 for seconds in stages)
    assert sum(stages) < demo["seconds"]
