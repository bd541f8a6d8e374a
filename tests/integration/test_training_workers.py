"""What training keeps of itself in a run, and two workers against one. What is killed: test_kills.py."""

from safetensors.torch import load_file

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.train import train
from tests.integration.conftest import EXPERT, STEPS, demo_config


def adapter_of(run: Run) -> dict:
    return load_file(run.path("adapter/adapter_model.safetensors"))


def test_checkpoints_hold_the_trained_weights_and_moments_alone_and_are_pruned(whole):
    folder = whole / "checkpoints"
    assert sorted(p.name for p in folder.glob("step-*")) == ["step-000070", "step-000080"]
    state = load_file(folder / "step-000080/state.safetensors")
    assert all("lora_" in name for name in state)
    adapter = adapter_of(Run(str(whole)))
    assert len(state) == 3 * len(adapter)
    for name, weight in adapter.items():
        assert (state[f"weight/{name}"] - weight).abs().max() == 0


def test_two_workers_and_zero_3_give_the_same_adapter(ray_cluster, whole, tmp_path):
    """With dropout, whose masks belong to the trajectory; to 1e-3 of the largest weight."""
    source, run = Run(str(whole)), Run(str(tmp_path / "run"))
    for name in source.shards("supervision"):
        run.write_table(name, source.read_tables([name], SUPERVISION))
    split = {"num_workers": 2, "zero_stage": 3, "micro_batch_tokens": 300}
    config = demo_config(training={"optimizer_steps": STEPS} | split)
    assert config.training.lora.dropout > 0
    summary = train(run, config, EXPERT, lambda row: None)
    one, two = adapter_of(source), adapter_of(run)
    largest = max(w.abs().max() for w in one.values())
    difference = max((one[n] - two[n]).abs().max() for n in one)
    print(f"largest difference {difference:.1e} of {largest:.2f}")
    assert difference / largest < 1e-3
    assert (summary["workers"], summary["merge_logit_gap"] < 1e-3) == (2, True)
