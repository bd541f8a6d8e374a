"""A toy engine and a toy backend in the places of vLLM and DeepSpeed, and a plugin in Ray's workers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lr_ray.models.files import vocabulary_rows
from lr_ray.run.store import Run
from lr_ray.training.batches import collate, pack, plan
from lr_ray.training.data import Supervision
from lr_ray.training.train import train
from tests.integration.conftest import EXPERT, demo_config, sample_demo
from tests.integration.supervision import KL_TOLERANCE, rows
from tests.integration.toy_backend import ToyBackend

ROOT = Path(__file__).parents[2]
PROBLEMS, STEPS = 8, 6
TRAINING = {"optimizer_steps": STEPS, "checkpoint_every": 4, "warmup": 0.4}
LOSS_TOLERANCE = 1e-5  # of the loss: float32 sums in another order


def test_a_toy_engine_samples_vllms_rows(sampled, tmp_path):
    toy = "tests.integration.toy_engine:ToyEngine"
    made = sample_demo(tmp_path, engine=toy, max_problems=PROBLEMS, batch_size=4)
    there, expected = rows(made.run), rows(sampled.run)
    assert len(there) == PROBLEMS
    assert made.summary["steps_kept"] > 0
    gap = 0.0
    for problem_id, row in there.items():
        for column in ("prompt_token_ids", "completion_token_ids", "finish_reason"):
            assert row[column] == expected[problem_id][column]
        assert [s["position"] for s in row["steps"]] == [
            s["position"] for s in expected[problem_id]["steps"]
        ]
        both = zip(row["kl"], expected[problem_id]["kl"], strict=True)
        gap = max(gap, *(abs(mine - theirs) for mine, theirs in both))
    print(f"toy engine: {PROBLEMS} problems, largest KL difference to vLLM's {gap:.1e}")
    assert gap <= KL_TOLERANCE


@pytest.fixture(scope="module")
def losses(sampled, tmp_path_factory):
    """By backend, the loss of each step, with the demo's dropout."""
    found = {}
    for backend in ("deepspeed", "tests.integration.toy_backend:ToyBackend"):
        folder = tmp_path_factory.mktemp("trained") / "run"
        shutil.copytree(sampled.run.root, folder)
        progress: list = []
        config = demo_config(training=TRAINING | {"backend": backend})
        summary = train(Run(str(folder)), config, EXPERT, progress.append)
        assert summary["optimizer_steps"] == STEPS
        assert summary["merge_logit_gap"] < 1e-2
        found[backend] = [row["loss"] for row in progress]
    return found


def test_a_toy_backend_trains_as_deepspeed_does(losses):
    deepspeed, toy = losses.values()
    gaps = [abs(a - b) / a for a, b in zip(deepspeed, toy, strict=True)]
    print(f"toy backend: {STEPS} steps, largest difference of a loss {max(gaps):.1e}")
    assert len(set(deepspeed)) == STEPS
    assert max(gaps) < LOSS_TOLERANCE


def test_a_toy_backends_state_goes_on_where_it_was(sampled, tmp_path):
    torch.set_num_threads(1)
    training = demo_config(training=TRAINING).training
    items = Supervision(sampled.run, vocabulary_rows(EXPERT), str(tmp_path))
    batches = plan(items.step_counts, 16, 0, "step")
    parts = [[collate(pack(items, next(batches)))] for _ in range(3)]
    one, other = ToyBackend(EXPERT, training), ToyBackend(EXPERT, training)
    for number in range(2):
        one.step(number, parts[number], 16)
    other.load_state(one.state(), 2)
    assert one.step(2, parts[2], 16) == other.step(2, parts[2], 16)
    for name, weight in one.full_weights().items():
        assert torch.equal(weight, other.full_weights()[name])


JOB = """
from lr_ray import plugins
plugins.load(["only_here"])
from lr_ray.config import resolve, read_tree, merge
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import cluster
import ray

@ray.remote(num_cpus=0.1, runtime_env={"env_vars": {"ACTORS": "own"}})
def kept() -> list:
    import os, numpy
    rule = plugins.selections.get("every_other", "sampling.selection")
    return rule(numpy.zeros(4)).tolist(), os.environ["ACTORS"]

with cluster():
    print("KEPT", *ray.get(kept.remote()))
"""


def test_a_module_of_the_current_folder_reaches_the_workers_of_a_local_cluster(tmp_path):
    (tmp_path / "only_here.py").write_text(
        "import numpy as np\nfrom lr_ray.plugins import selections\n"
        "@selections.register('every_other')\n"
        "def every_other(steps):\n    return np.arange(len(steps)) % 2 == 0\n"
    )
    script = tmp_path / "elsewhere" / "job.py"  # whose own folder Ray adds to its workers' path
    script.parent.mkdir()
    script.write_text(JOB)
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "LR_RAY_PLUGINS")
    }
    job = subprocess.run(
        [sys.executable, str(script)], env=environment | {"PYTHONPATH": str(ROOT)},
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert "KEPT [True, False, True, False] own" in job.stdout, job.stderr
