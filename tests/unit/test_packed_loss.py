"""Trajectory training against one forward per kept step, on the embedded expert in float32."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.errors import StageError
from lr_ray.method import oracle
from lr_ray.models.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.training import model as training_model
from lr_ray.training.batches import collate
from lr_ray.training.data import Step, Trajectory
from lr_ray.training.model import PackedLoss, load_expert, to_tensors

TRAINING = resolve(read_tree("demo")).training
FULL = resolve(merge(read_tree("demo"), {"training": {"method": "full"}})).training


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
@pytest.mark.parametrize("head_rows", [4, 256])
def test_gradient_equals_one_forward_per_step(solutions, micro_batches, head_rows, monkeypatch):
    monkeypatch.setattr(training_model, "HEAD_ROWS", head_rows)
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
        part = PackedLoss(model, TRAINING)(batch)[0] / len(kept)
        part.backward()
        loss += part.item()

    assert loss == pytest.approx(expected_loss.item(), rel=1e-5)
    difference = gradient(model) - gradient(one_by_one)
    assert (difference.norm() / gradient(one_by_one).norm()).item() < 1e-4


def test_micro_batch_without_labels_has_zero_gradient():
    model = fresh_model()
    loss, support = PackedLoss(model, TRAINING)(to_tensors(collate([]), torch.device("cpu")))
    loss.backward()
    assert support == 0
    assert gradient(model).abs().max() == 0


# Models that scale or cap the logits of their lm_head, or have their parts under other names.
OTHERS = {
    "cohere": {"logit_scale": 0.1},
    "falcon": {},
    "gemma2": {"final_logit_softcapping": 0.2, "head_dim": 16},
    "gpt2": {"n_layer": 2, "n_head": 2, "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "gpt_neox": {},
    "granite": {"logits_scaling": 6.0},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
}
SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 2, "num_key_value_heads": 2, "pad_token_id": 0}


def other_model(kind: str, **over):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(SHAPE | over)))
    for weight in model.parameters():
        weight.data.mul_(3)  # far from uniform
    return model.float()


@pytest.mark.parametrize("head_rows", [1, 256])
@pytest.mark.parametrize("kind", OTHERS)
def test_the_loss_is_of_the_models_own_logits(kind, head_rows, monkeypatch):
    monkeypatch.setattr(training_model, "HEAD_ROWS", head_rows)
    model = other_model(kind, **OTHERS[kind]).train()
    label = torch.tensor([5, 9], dtype=torch.int32).numpy(), torch.tensor([0.25, 0.75]).numpy()
    item = Trajectory(torch.arange(3, 23).int().numpy(), tuple(Step(row, *label) for row in (4, 9)))
    logits = model(input_ids=torch.arange(3, 23)[None]).logits[0, [4, 9]]
    expected = -(logits.log_softmax(-1)[:, [5, 9]] * torch.tensor([0.25, 0.75])).sum()
    expected.backward()
    there = gradient_of(model)
    model.zero_grad()
    loss, _ = PackedLoss(model, FULL)(to_tensors(collate([item]), torch.device("cpu")))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert ((gradient_of(model) - there).norm() / there.norm()).item() < 1e-4


def gradient_of(model) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def test_a_model_without_an_output_layer_of_its_own_is_named():
    model = other_model("roformer", is_decoder=True)
    with pytest.raises(StageError, match="RoFormerForCausalLM: training needs a model of a body"):
        PackedLoss(model, FULL)


def test_support_is_the_share_of_probability_on_the_labels_tokens(solutions):
    items = [packed(s) for s in solutions if s.kept]
    model = fresh_model()
    loss = PackedLoss(model, TRAINING)
    _, support = loss(to_tensors(collate(items), torch.device("cpu")))
    expected = sum(
        oracle.next_token_logprobs(model, k.context)[k.token_ids].exp().sum().item()
        for s in solutions
        for k in s.kept
    )
    assert support.item() == pytest.approx(expected, rel=1e-5)


def test_dropout_belongs_to_trajectory_and_step_not_to_the_batch(solutions):
    items = [replace(packed(s), index=i) for i, s in enumerate(solutions) if s.kept]
    model = fresh_model().train()
    loss = PackedLoss(model, TRAINING)

    def summed(parts, step: int) -> float:
        loss.draw.step = step
        losses = [loss(to_tensors(collate(part), torch.device("cpu")))[0] for part in parts]
        return sum(losses).item()

    together = summed([items], 3)
    assert together == pytest.approx(summed([[item] for item in items], 3), rel=1e-5)
    assert together == summed([items], 3)
    assert together != pytest.approx(summed([items], 4), rel=1e-5)
    model.eval()
    assert together != pytest.approx(summed([items], 3), rel=1e-5)
