"""The training stage under Ray Train and DeepSpeed against the oracle's one step at a time."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lr_ray import oracle
from lr_ray.errors import StageError
from lr_ray.sampling.rows import SUPERVISION
from lr_ray.store import Run
from lr_ray.training.batches import plan, read_trajectories
from lr_ray.training.model import load_expert
from lr_ray.training.stage import train
from lr_ray.training.worker import learning_rate
from tests.integration.conftest import EXPERT, demo_config

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
    summary = train(sampled.run, config, EXPERT, lambda *at: progress.append(at))
    return sampled.run, config.training, summary, progress


def adapter_of(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path("adapter/adapter_model.safetensors"))


def test_adapter_equals_the_oracles(trained):
    run, training, summary, _ = trained
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    trajectories = read_trajectories(table)
    pairs = plan([len(t.steps) for t in trajectories], 16, STEPS, training.seed)
    batches = [oracle.unpacked(trajectories, p) for p in pairs]
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
        name.replace(".default", ""): weight
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }
    got = adapter_of(run)
    assert got.keys() == expected.keys()
    largest = max(w.abs().max() for w in expected.values())
    difference = max((got[n] - expected[n]).abs().max() for n in expected)
    assert difference / largest < 1e-3


def test_two_workers_give_the_same_adapter(trained, tmp_path):
    run, _, summary, _ = trained
    other = Run(str(tmp_path))
    for name in run.shards("supervision"):
        other.write_table(name, run.read_tables([name], SUPERVISION))
    config = demo_config(training=TRAINING | {"num_workers": 2, "micro_batch_tokens": 300})
    again = train(other, config, EXPERT, lambda *at: None)
    assert again["trained_steps"] == summary["trained_steps"] == 16 * STEPS
    assert again["final_loss"] == pytest.approx(summary["final_loss"], rel=1e-4)
    one, two = adapter_of(run), adapter_of(other)
    largest = max(w.abs().max() for w in one.values())
    assert max((one[n] - two[n]).abs().max() for n in one) / largest < 1e-3


def test_progress_and_counts(trained):
    _, _, summary, progress = trained
    assert [step for step, _ in progress] == list(range(1, STEPS + 1))
    assert progress[-1][1] == pytest.approx(summary["final_loss"])
    assert summary["distinct_steps"] == 16 * STEPS
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
    with pytest.raises(StageError, match=r"no kept step to train on"):
        train(Run(str(tmp_path)), demo_config(), EXPERT, lambda *at: None)
