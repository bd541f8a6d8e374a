"""A comparison as a person runs it: killed after a variant, gone on with, finished, and run again."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from lr_ray.embedded import expert_path
from tests.integration.test_full_pipeline import ROOT, free_port, run_job

JOB = [sys.executable, str(ROOT / "jobs/compare.py")]
GRID = """
seeds: [1]
variants:
  nothing: {sampling.kl_threshold: 90}
  random: {sampling.selection: random_within}
  prefilled: {untrained: true, evaluation.prefill: Step by step.}
"""
SMALL = [
    "--sampling.max_problems=32",
    "--sampling.batch_size=16",
    "--training.optimizer_steps=4",
    "--evaluation.max_problems=40",
    "--evaluation.drift=300",
]


@pytest.fixture(scope="module")
def compared(ray_cluster, tmp_path_factory):
    """The run's folder, the command, when each file was written by the time of the kill, what was said."""
    folder = tmp_path_factory.mktemp("compared")
    (folder / "mine.yaml").write_text(GRID)
    run = folder / "run"
    arguments = [
        *JOB, "--config", "demo", "--run", str(run), "--grid", str(folder / "mine.yaml"), *SMALL,
        f"--serving.port={free_port()}",
    ]  # fmt: skip
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if line.startswith("variant    2 of 3: random, seed 1"):
            break
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 143, said
    assert not (run / "variants/random-1/model").exists()
    kept = written(run / "base/supervision") | written(run / "variants/nothing-1/supervision")
    finished = run_job(job=arguments)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return run, arguments, kept, finished.stdout


def written(folder: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.name != ".lock"}


def table_of(run: Path, cell: str) -> list[dict]:
    return pq.read_table(run / f"variants/{cell}/evaluation/demo.parquet").to_pylist()


def test_the_same_command_goes_on_and_keeps_what_was_done(compared):
    _, _, kept, said = compared
    assert len(kept) > 3
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert "sampling   1 of" not in said
    assert "variant    2 of 3: random, seed 1" in said
    assert "Traceback" not in said


def test_the_table_is_of_the_runs(compared):
    run, _, _, said = compared
    content = json.loads((run / "comparison.json").read_text())
    page = (run / "comparison.md").read_text()
    assert page in said
    expert = {row["problem_id"]: row["expert_completion"] for row in table_of(run, "nothing-1")}
    assert len(expert) == 40
    for name, row in content["variants"].items():
        answers = table_of(run, f"{name}-1")
        assert {a["problem_id"]: a["expert_completion"] for a in answers} == expert
        share = sum(a["improved_correct"] for a in answers) / 40
        assert row["accuracy"]["demo"]["accuracy"] == pytest.approx(share)
        assert f"| {name} " in page
    nothing, random, prefilled = content["variants"].values()
    assert random["cost"]["steps_kept"] > random["cost"]["distinct_steps"] > 0
    assert random["cost"]["trained_steps"] == 4 * 16
    assert random["cost"]["sampling_shared"]
    assert nothing["cost"]["steps_kept"] == 0
    assert nothing["accuracy"]["demo"]["difference"] == 0
    assert prefilled["cost"]["problems"] is None
    moved = {n: row["runs"][0]["drift"]["models"] for n, row in content["variants"].items()}
    assert moved["nothing"]["improved"] == moved["nothing"]["expert"] | {"kl": 0}
    assert moved["random"]["improved"]["kl"] > 0
    assert moved["prefilled"]["improved"]["entropy"] != moved["prefilled"]["expert"]["entropy"]
    assert "expert's right" in page


def test_random_steps_are_as_many_as_the_contrast_keeps_elsewhere(compared):
    positions = {}
    for folder in ("base", "variants/random-1"):
        rows = pq.read_table(compared[0] / folder / "supervision").sort_by("problem_id").to_pylist()
        positions[folder] = [[step["position"] for step in row["steps"]] for row in rows]
    contrast, random = positions.values()
    assert [len(steps) for steps in contrast] == [len(steps) for steps in random]
    assert contrast != random


def test_the_prefix_is_in_the_experts_mouth(compared):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(expert_path())
    model = AutoModelForCausalLM.from_pretrained(expert_path(), dtype="float32")
    for row in table_of(compared[0], "prefilled-1")[:5]:
        messages = [{"role": "user", "content": row["problem"]}]
        prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt + "Step by step.", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            output = model.generate(ids, do_sample=False, max_new_tokens=128)
        said = tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        assert row["improved_completion"] == "Step by step." + said


def test_a_finished_comparison_is_not_recomputed(compared):
    run, arguments, *_ = compared
    before = written(run)
    again = run_job(job=arguments)
    assert again.returncode == 0, again.stderr
    assert "mine finished before; nothing to do" in again.stdout
    assert "| random " in again.stdout
    assert written(run) == before


def test_a_variant_is_an_ordinary_run(compared):
    run, *_ = compared
    done = run_job("--run", str(run / "variants/random-1"), job=[sys.executable, "jobs/full_pipeline.py"])  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "finished before; nothing to do" in done.stdout


def test_a_wrong_grid_starts_nothing(compared, tmp_path):
    run, *_ = compared
    before = written(run)
    for text, said in (
        ("variants: {nothing: {sampling.kl_treshold: 1}}", "unknown key sampling.kl_treshold; did you mean sampling.kl_threshold?"),
        ("variants: {nothing: {sampling.kl_threshold: 1}}\nseeds: [1]", "was made with sampling.kl_threshold = 90.0 (now 1.0)"),
    ):  # fmt: skip
        (tmp_path / "other.yaml").write_text(text)
        done = run_job("--run", str(run), "--grid", str(tmp_path / "other.yaml"), job=JOB)
        assert done.returncode == 2
        assert done.stderr.count("\n") == 1
        assert re.search(r"--grid \S*other\S*: variant nothing: ", done.stderr)
        assert said in done.stderr
    assert written(run) == before
