"""Trajectory training against one forward per kept step, on the embedded expert in float32."""

import pytest
import torch

from lr_ray import oracle
from lr_ray.config import read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.training.batches import Step, Trajectory, collate
from lr_ray.training.model import PackedLoss, load_expert, to_tensors

TRAINING = resolve(read_tree("demo")).training


@pytest.fixture(scope="module")
def solutions():
    torch.set_num_threads(1)
    expert, amateur = oracle.load(str(expert_path())), oracle.load(str(amateur_path()))
    tokenizer = load_tokenizer(str(expert_path()))
    stop = stop_token_ids(str(expert_path()))
    return [
        oracle.solve(expert, amateur, render_prompt(tokenizer, p["problem"], None), stop, 48, 0.1, 0.2)
        for p in generate("sampling", 6)
    ]  # fmt: skip


def packed(solution: oracle.Solution) -> Trajectory:
    tokens = solution.prompt + solution.completion
    steps = tuple(
        Step(
            len(k.context) - 1,
            torch.tensor(k.token_ids, dtype=torch.int32).numpy(),
            torch.tensor(k.weights).numpy(),
        )
        for k in solution.kept
    )
    return Trajectory(torch.tensor(tokens, dtype=torch.int32).numpy(), steps)


def gradient(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.requires_grad])


def fresh_model():
    model = load_expert(str(expert_path()), TRAINING).eval()  # eval: no dropout
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would hide half of the gradient
            torch.nn.init.normal_(weight, std=0.02)
    return model


@pytest.mark.parametrize("micro_batches", [1, 4])
def test_gradient_equals_one_forward_per_step(solutions, micro_batches):
    items = [packed(s) for s in solutions if s.kept]
    kept = [k for s in solutions for k in s.kept]
    assert len(kept) >= 10
    assert max(len(i.steps) for i in items) >= 2

    one_by_one = fresh_model()
    expected_loss = oracle.batch_loss(one_by_one, kept)
    expected_loss.backward()

    model = fresh_model()
    loss = 0.0
    for i in range(micro_batches):
        batch = to_tensors(collate(items[i::micro_batches]), torch.device("cpu"))
        part = PackedLoss(model)(batch) / len(kept)
        part.backward()
        loss += part.item()

    assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
    difference = gradient(model) - gradient(one_by_one)
    assert (difference.norm() / gradient(one_by_one).norm()).item() < 1e-4


def test_micro_batch_without_labels_has_zero_gradient():
    model = fresh_model()
    PackedLoss(model)(to_tensors(collate([]), torch.device("cpu"))).backward()
    assert gradient(model).abs().max() == 0
