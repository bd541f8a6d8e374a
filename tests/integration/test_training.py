"""The training stage under Ray Train and DeepSpeed against the oracle's one step at a time."""

import itertools
import json
import re
import shutil
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from safetensors.torch import load_file

from lr_ray.errors import StageError
from lr_ray.method import oracle
from lr_ray.models.files import vocabulary_rows
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import placement_groups
from lr_ray.training.batches import plan
from lr_ray.training.data import Supervision
from lr_ray.training.model import load_expert
from lr_ray.training.schedule import learning_rate
from lr_ray.training.train import train
from tests.integration.conftest import EXPERT, demo_config
from tests.integration.driver import title

STEPS = 6
TRAINING = {
    "optimizer_steps": STEPS,
    "warmup": 0.4,
    "max_grad_norm": 0.3,  # below the first gradients, so that clipping counts
    "learning_rate": 1e-3,
    "lora": {"dropout": 0.0},
}


@pytest.fixture(scope="module")
def trained(sampled):
    progress = []
    config = demo_config(training=TRAINING)
    summary = train(sampled.run, config, EXPERT, progress.append)
    return sampled.run, config.training, summary, progress


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path("adapter/adapter_model.safetensors"))


def test_adapter_equals_the_oracles(trained, tmp_path):
    run, training, summary, _ = trained
    trajectories = list(Supervision(run, vocabulary_rows(EXPERT), str(tmp_path)))
    drawn = plan([len(t.steps) for t in trajectories], 16, training.seed, "step")
    batches = [oracle.unpacked(trajectories, p) for p in itertools.islice(drawn, STEPS)]
    torch.set_num_threads(1)
    model = load_expert(EXPERT, training).eval()
    losses = oracle.train(
        model,
        batches,
        [learning_rate(step, training) for step in range(STEPS)],
        training.max_grad_norm,
    )
    assert summary["final_loss"] == pytest.approx(losses[-1], rel=1e-4)

    expected = {
        name.replace(".default", ""): weight.detach()
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    got = adapter_of(run)
    assert got.keys() == expected.keys()
    largest = max(w.abs().max() for w in expected.values())
    difference = max((got[n] - expected[n]).abs().max() for n in expected)
    assert difference / largest < 1e-3


def test_progress_and_counts(trained):
    run, _, summary, progress = trained
    assert [row["step"] for row in progress] == list(range(1, STEPS + 1))
    assert progress[-1]["loss"] == summary["final_loss"]
    lines = Path(run.path("metrics.jsonl")).read_text().splitlines()
    assert [json.loads(line) for line in lines] == progress
    for row in progress:
        assert (row["kept_steps"], row["workers"], row["resumed_at"]) == (16, 1, 0)
        assert 0 < row["support_probability"] <= 1
        assert 0 <= row["label_entropy"] < 5
        assert row["grad_norm"] > 0
    assert summary["trained_steps"] == 16 * STEPS
    assert summary["tokens_forward"] == sum(row["tokens"] for row in progress)
    assert summary["distinct_steps"] == 16 * STEPS
    assert 3e8 < summary["memory"]["host_bytes"] < 8e9  # with torch imported
    assert summary["merge_logit_gap"] < 1e-3


def test_merged_model_stands_alone_and_equals_base_plus_adapter(trained):
    from peft import PeftModel
    from transformers import AutoTokenizer

    run, *_ = trained
    merged = oracle.load(run.path("model"))
    base = oracle.load(EXPERT)
    ids = AutoTokenizer.from_pretrained(run.path("model")).apply_chat_template(
        [{"role": "user", "content": "Dan has 10 pens."}],
        add_generation_prompt=True,
        return_tensors="pt",
    )["input_ids"]
    with torch.no_grad():
        untouched = base(ids).logits
        adapted = PeftModel.from_pretrained(base, run.path("adapter")).eval()(ids).logits
        assert (merged(ids).logits - adapted).abs().max() < 1e-3
        assert (adapted - untouched).abs().max() > 1e-2
    for name in ("chat_template.jinja", "generation_config.json", "tokenizer.json"):
        assert Path(run.path("model"), name).read_bytes() == Path(EXPERT, name).read_bytes()
    assert json.loads(Path(run.path("model/config.json")).read_text())["architectures"]


def test_nothing_to_train_on_is_a_clear_error(tmp_path):
    with pytest.raises(StageError, match=r"no supervision; sample first"):
        train(Run(str(tmp_path)), demo_config(), EXPERT, lambda row: None)


def test_a_training_that_loses_ray_trains_own_actors_gives_its_room_back(sampled, tmp_path):
    """Its controller, and the one that would clean up after it: both may be killed for memory."""
    run = Run(str(tmp_path / "run"))
    shutil.copytree(sampled.run.path("supervision"), run.path("supervision"))
    config = demo_config(training=TRAINING | {"optimizer_steps": 40})

    def kill(row):
        for process in psutil.Process().children(recursive=True):
            if re.match(r"ray::(TrainController|PlacementGroupCleaner)", title(process)):
                process.kill()

    with pytest.raises(StageError, match=r"training failed: "):
        train(run, config, EXPERT, kill)
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != ray.cluster_resources()["CPU"]:
        assert time.monotonic() < deadline, placement_groups()
        time.sleep(0.2)
