"""The estimate of training's memory against what autograd keeps of a real forward."""

import numpy as np
import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from lr_ray.config import merge, read_tree, resolve
from lr_ray.placement.sizes import Model
from lr_ray.placement.trainer import _HEAD_ROWS, activation_bytes
from lr_ray.training import model as training_model
from lr_ray.training.batches import Step, Trajectory, collate
from lr_ray.training.model import PackedLoss, to_tensors, with_lora

SHAPE = {"hidden": 256, "intermediate": 1024, "heads": 8, "kv_heads": 2, "head_dim": 32}
LENGTHS = (120, 110, 100, 90)


def kept_bytes(layers: int, targets: list[str], checkpointing: bool, rank: int = 8) -> int:
    """Of all storages that the forward saves for its backward, weights and buffers not counted."""
    lora = {"targets": targets or ["q_proj"], "rank": rank}
    over = {"lora": lora, "method": "lora" if targets else "full"}
    over["gradient_checkpointing"] = checkpointing
    training = resolve(merge(read_tree("demo"), {"training": over})).training
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=SHAPE["hidden"],
            intermediate_size=SHAPE["intermediate"],
            num_hidden_layers=layers,
            num_attention_heads=SHAPE["heads"],
            num_key_value_heads=SHAPE["kv_heads"],
            vocab_size=300,
        )
    )
    model = with_lora(model, training) if targets else model
    loss = PackedLoss(model.to(torch.bfloat16).train(), training)
    step = (np.array([1], np.int32), np.ones(1, np.float32))
    items = [Trajectory(np.arange(n, dtype=np.int32), (Step(n - 1, *step),)) for n in LENGTHS]
    lasting = {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor
    ):
        loss(to_tensors(collate(items), torch.device("cpu")))
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in kept}
    return sum(size for place, size in sizes.items() if place not in lasting)


def estimate(layers: int, targets: list[str], checkpointing: bool, rank: int = 8) -> int:
    model = Model(parameters=0, rows=300, context=0, layers=layers, cache=0, lora={}, **SHAPE)
    return activation_bytes(model, targets, rank, sum(LENGTHS), 2, checkpointing)


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], ["q_proj", "k_proj", "v_proj", "o_proj", "down_proj"], []]
)
def test_estimate_is_what_autograd_keeps(targets):
    for layers in (2, 5):
        measured = kept_bytes(layers, targets, False)
        assert estimate(layers, targets, False) == pytest.approx(measured, rel=0.1)


def test_a_large_rank_keeps_more():
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    small, large = (kept_bytes(2, targets, False, rank) for rank in (8, 256))
    counted = [estimate(2, targets, False, rank) for rank in (8, 256)]
    assert counted[1] - counted[0] == pytest.approx(large - small, rel=0.1)


def test_checkpointing_keeps_the_layers_inputs_and_one_layer():
    targets = ["q_proj", "v_proj"]
    one_layer = estimate(3, targets, False) - estimate(2, targets, False)
    for layers in (2, 5):
        measured = kept_bytes(layers, targets, True) + one_layer
        assert estimate(layers, targets, True) == pytest.approx(measured, rel=0.1)


def test_it_knows_how_many_rows_of_logits_exist_at_once():
    assert _HEAD_ROWS == training_model.HEAD_ROWS
