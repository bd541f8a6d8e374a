"""Dropout masks: those of the trajectory, its step and the layer, and of nothing else."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.training import dropout, rows
from lr_ray.training.batches import collate
from lr_ray.training.dropout import Draw, TrajectoryDropout
from lr_ray.training.model import PackedLoss, load_expert, to_tensors
from tests.unit.test_batches import trajectory
from tests.unit.test_packed_loss import FULL, other_model

WIDTH = 64
LENGTHS = {0: 90, 1: 60, 2: 75}  # of trajectories, by index


def flat(numbers: Tensor) -> Tensor:
    return numbers[None]


def masks(
    indices: Sequence[int], p: float = 0.25, layer: int = 0, step: int = 0, seed: int = 0
) -> dict[int, Tensor]:
    """What a layer keeps of each trajectory, all of them in one forward."""
    draw = Draw(seed)
    draw.step, draw.width = step, WIDTH
    lengths = [LENGTHS[i] for i in indices]
    draw.start(indices, lengths, flat)
    kept = TrajectoryDropout(p, layer, draw)(torch.ones(1, sum(lengths), WIDTH))[0]
    parts = kept.split(lengths)
    return {i: part > 0 for i, part in zip(indices, parts, strict=True)}


def test_the_mask_of_a_trajectory_is_the_same_in_any_micro_batch():
    whole = masks([0, 1, 2])
    for indices in ([2, 0, 1], [1], [2, 1]):
        for index, mask in masks(indices).items():
            assert torch.equal(mask, whole[index])


def test_padded_rows_get_the_same_mask():
    draw = Draw(0)
    draw.width = WIDTH
    padded = rows.Padded(list(LENGTHS.values()), torch.device("cpu"))
    draw.start(list(LENGTHS), list(LENGTHS.values()), padded.pad)
    kept = TrajectoryDropout(0.25, 0, draw)(torch.ones(3, 90, WIDTH))
    for index, mask in masks([0, 1, 2]).items():
        assert torch.equal(kept[index, : LENGTHS[index]] > 0, mask)


@pytest.mark.parametrize("p", [0.05, 0.5, 0.9])
def test_the_kept_share_is_the_asked_one_and_the_mean_stays(p):
    draw = Draw(0)
    draw.width = 500
    draw.start([0], [2000], flat)
    for layer in (0, 1, 55):
        kept = TrajectoryDropout(p, layer, draw)(torch.ones(1, 2000, 500))
        assert kept.unique().tolist() == pytest.approx([0, 1 / (1 - p)])
        error = (p * (1 - p) / kept.numel()) ** 0.5
        assert (kept > 0).double().mean().item() == pytest.approx(1 - p, abs=4 * error)


@pytest.mark.parametrize("other", [{"layer": 1}, {"layer": 40}, {"step": 1}, {"seed": 1}])
def test_masks_of_layers_steps_and_seeds_are_independent(other):
    p = 0.25
    one, two = (torch.cat(list(masks([0, 1, 2], p, **over).values())) for over in ({}, other))
    both = (~one & ~two).double().mean().item()
    error = (p**2 * (1 - p**2) / one.numel()) ** 0.5
    assert both == pytest.approx(p**2, abs=4 * error)


def test_masks_of_trajectories_and_of_the_tokens_of_one_are_independent():
    p, found = 0.25, masks([0, 1, 2], 0.25)
    error = (p**2 / (59 * WIDTH)) ** 0.5
    for one, two in ((found[0], found[1]), (found[0][1:], found[0]), (found[1], found[2])):
        both = (~one[:59] & ~two[:59]).double().mean().item()
        assert both == pytest.approx(p**2, abs=4 * error)


def test_narrower_layers_and_other_types_are_dropped_too():
    draw = Draw(0)
    draw.width = WIDTH
    draw.start([0], [90], flat)
    kept = TrajectoryDropout(0.25, 0, draw)(torch.ones(1, 90, 16, dtype=torch.bfloat16))
    assert kept.dtype == torch.bfloat16
    assert torch.equal(kept[0] > 0, masks([0])[0][:, :16])


def test_gradients_meet_the_mask_of_the_forward():
    draw = Draw(0)
    draw.width = WIDTH
    draw.start([0], [90], flat)
    layer = TrajectoryDropout(0.25, 3, draw)
    x = torch.randn(1, 90, WIDTH, requires_grad=True)
    layer(x).sum().backward()
    assert torch.equal(x.grad, layer(torch.ones(1, 90, WIDTH)))
    assert torch.equal(layer.eval()(x), x)


def test_every_lora_layer_has_a_mask_of_its_own():
    model = load_expert(str(expert_path()), resolve(read_tree("demo")).training)
    draw = dropout.install(model, 0.25, 0)
    layers = [m for m in model.modules() if isinstance(m, TrajectoryDropout)]
    assert len(layers) == 2 * model.config.num_hidden_layers
    assert draw.width == model.config.hidden_size
    factors = {layer.factor for layer in layers}
    assert len(factors) == len(layers)
    assert all(factor % 2 for factor in factors)  # an even one would map numbers onto each other


def test_recomputed_activations_meet_the_same_masks():
    found = []
    items = [trajectory(30, [10, 29]), trajectory(20, [12])]
    for twice in (False, True):
        over = {"gradient_checkpointing": twice, "lora": {"dropout": 0.3}}
        training = resolve(merge(read_tree("demo"), {"training": over})).training
        model = load_expert(str(expert_path()), training).train()
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        PackedLoss(model, training)(to_tensors(collate(items), torch.device("cpu")))[0].backward()
        found.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad]))
    assert found[0].abs().max() > 0
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize(
    ("kind", "rates"),
    [
        ("llama", {"attention_dropout": 0.5}),
        ("opt", {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5}),
        ("phi", {"resid_pdrop": 0.5, "embd_pdrop": 0.5}),
        ("starcoder2", {"residual_dropout": 0.5, "embedding_dropout": 0.5}),
    ],
)
def test_a_models_own_dropout_is_taken_out(kind, rates):
    over = {"ffn_dim": 48, "word_embed_proj_dim": 32} if kind == "opt" else {}
    model = other_model(kind, **over, **rates).train()
    loss = PackedLoss(model, FULL)
    batch = to_tensors(collate([trajectory(9, (1, 2, 8))]), torch.device("cpu"))
    trained = loss(batch)[0].item()
    assert trained == loss(batch)[0].item()
    loss.eval()
    assert trained == loss(batch)[0].item()
