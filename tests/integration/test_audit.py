"""The audit of rows that real engines made, as a person runs it."""

import json
import subprocess
from pathlib import Path

from lr_ray.pipeline.job import facts
from lr_ray.run.asked import begin
from tests.integration.conftest import AMATEUR, EXPERT
from tests.integration.jobs import run_here


def audit(sampled) -> tuple[subprocess.CompletedProcess, dict]:
    begin(sampled.run, sampled.config, facts(sampled.config, EXPERT, AMATEUR))
    ended = run_here("audit", "--run", sampled.run.location, "--sample", "all")
    return ended, json.loads(Path(sampled.run.path("audit.json")).read_text())


def test_sampled_run_passes(sampled):
    ended, found = audit(sampled)
    assert ended.returncode == 0, ended.stderr
    assert "64 of 64 rows (seed 0)" in ended.stdout
    assert found["exceeded"] == []
    assert found["steps"] == sampled.summary["steps_scored"]
    assert found["steps_kept"] == sampled.summary["steps_kept"]
    assert found["recorded"].items() >= sampled.summary["exchange"].items()
    assert found["recorded"]["trajectories"] == 64
    assert found["figures"]["kl_difference_largest"]["value"] > 0  # nothing is compared with itself


def test_few_exchanged_tokens_cost_what_lumping_costs_and_nothing_else(cut):
    _, found = audit(cut)
    value = {name: figure["value"] for name, figure in found["figures"].items()}
    assert found["recorded"]["steps_completed"] > 5
    assert value["kl_gap_largest"] > 0.01
    # To float32 rounding, as in test_sampling.py: completed steps exchanged their plausible sets.
    assert value["kl_difference_largest"] < 1e-3
    assert value["kl_gap_most_negative"] > -1e-3
    assert value["label_difference_largest"] < 1e-3
    assert value["trajectories_not_greedy"] == 0
    assert {"kl_difference_largest", "label_difference_largest"}.isdisjoint(found["exceeded"])
