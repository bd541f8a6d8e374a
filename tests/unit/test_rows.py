"""Rows one after another in a forward give the hidden states and gradients that each gives alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from lr_ray.config import merge, read_tree, resolve
from lr_ray.training import rows
from lr_ray.training.batches import Step, Trajectory, collate
from lr_ray.training.model import PackedLoss, to_tensors, with_lora

CPU = torch.device("cpu")
LENGTHS = [40, 33, 33, 12, 3]
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
PACKED = [
    (Qwen2Config, Qwen2ForCausalLM, {}),
    (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    (LlamaConfig, LlamaForCausalLM, {}),
]
WINDOW = {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
PADDED = [
    (Qwen2Config, Qwen2ForCausalLM, WINDOW),
    (MistralConfig, MistralForCausalLM, {"sliding_window": 8}),
]


def build(config, kind, over, dtype=torch.float32):
    torch.manual_seed(0)
    return kind(config(**SHAPE, **over)).to(dtype).eval()


def items():
    rng = np.random.default_rng(0)
    return [
        Trajectory(
            rng.integers(0, 100, n).astype(np.int32),
            (Step(n - 1, np.array([1, 2], np.int32), np.array([0.5, 0.5], np.float32)),),
            i,
        )
        for i, n in enumerate(LENGTHS)
    ]


def training():
    return resolve(merge(read_tree("demo"), {"training": {"lora": {"dropout": 0.0}}})).training


def tensors():
    return to_tensors(collate(items()), CPU)


@pytest.mark.parametrize(("config", "kind", "over"), [*PACKED, *PADDED])
def test_hidden_states_are_those_of_each_row_alone(config, kind, over):
    model = build(config, kind, over)
    with torch.no_grad():
        alone = [
            model.model(torch.from_numpy(i.token_ids)[None].long()).last_hidden_state[0]
            for i in items()
        ]
        loss = PackedLoss(with_lora(model, training()).eval(), training())
        assert loss.packs == ((config, kind, over) in PACKED)
        together = loss._hidden(tensors())
    assert (together - torch.cat(alone)).abs().max() < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_padded_rows_need_no_mask(dtype):
    """Not one bit of a real token's hidden state differs without it."""
    model = build(*PACKED[0], dtype)
    padded = rows.Padded(LENGTHS, CPU)
    ids_BT = padded.pad(tensors()["token_ids_N"])
    mask_BT = padded.pad(torch.ones(sum(LENGTHS), dtype=torch.long))
    with torch.no_grad():
        with_mask, without = (
            padded.unpad(model.model(ids_BT, attention_mask=mask).last_hidden_state)
            for mask in (mask_BT, None)
        )
    assert (with_mask - without).abs().max() == 0


@pytest.mark.parametrize(("config", "kind", "over"), [PACKED[0], PADDED[0]])
def test_gradients_are_those_of_each_row_alone(config, kind, over):
    found = []
    for parts in ([items()], [[item] for item in items()]):
        model = with_lora(build(config, kind, over), training()).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.02)
        loss = PackedLoss(model, training())
        for part in parts:
            loss(to_tensors(collate(part), CPU))[0].backward()
        found.append(torch.cat([w.grad.flatten() for w in model.parameters() if w.requires_grad]))
    assert ((found[0] - found[1]).norm() / found[1].norm()).item() < 1e-5


def test_in_float32_a_gpu_attends_with_as_many_heads_of_keys_as_of_queries(monkeypatch):
    """Else torch would keep the scores of all pairs of tokens."""
    asked, attend = [], torch.nn.functional.scaled_dot_product_attention

    def attending(query, key, value, **options):
        asked.append({x.shape[1] for x in (query, key, value)})
        return attend(query, key, value, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attending)
    found = []
    for on_gpu in (False, True):
        monkeypatch.setattr(rows, "_lacks_grouped_heads", lambda query, on_gpu=on_gpu: on_gpu)
        asked.clear()
        model = with_lora(build(*PACKED[0]), training()).eval()
        loss = PackedLoss(model, training())
        loss(tensors())[0].backward()
        assert all(heads == ({4} if on_gpu else {2, 4}) for heads in asked)
        assert asked
        grads = [w.grad.flatten() for w in model.parameters() if w.requires_grad]
        found.append(torch.cat([*grads, loss._hidden(tensors()).detach().flatten()]))
    assert (found[0] - found[1]).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("is_cuda", "dtype", "lacks"),
    [
        (True, torch.float32, True),
        (True, torch.bfloat16, False),
        (False, torch.float32, False),
    ],
)
def test_grouped_heads_are_lacking_in_float32_on_gpus_alone(is_cuda, dtype, lacks):
    assert rows._lacks_grouped_heads(SimpleNamespace(is_cuda=is_cuda, dtype=dtype)) is lacks


def test_a_model_prepared_for_rows_still_reads_a_single_prompt():
    model = build(*PACKED[0])
    ids = torch.arange(20)[None]
    with torch.no_grad():
        before = model(ids).logits
        assert rows.install(model)
        assert torch.equal(model(ids).logits, before)


def test_padding_and_back_is_the_identity_and_so_are_gradients():
    x = torch.randn(sum(LENGTHS), 3, dtype=torch.double, requires_grad=True)
    padded = rows.Padded(LENGTHS, CPU)
    assert padded.pad(x).shape == (5, 40, 3)
    assert torch.equal(padded.unpad(padded.pad(x)), x)
    assert torch.autograd.gradcheck(lambda x: padded.unpad(padded.pad(x) ** 2), x)
    (gradient,) = torch.autograd.grad((padded.unpad(padded.pad(x)) * x.detach()).sum(), x)
    assert torch.equal(gradient, x)


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ([258, 200, 150, 70], [4]),
        ([4000, 40, 40, 40], [2, 2]),
        ([9, 9, 9], [3]),
        ([1], [1]),
    ],
)
def test_attention_gets_at_most_twice_the_tokens(lengths, expected):
    groups = rows.in_groups(lengths, CPU)
    assert [group.rows for group in groups] == expected
    assert sum(group.tokens for group in groups) == sum(lengths)
    assert sum(group.rows * group.longest for group in groups) <= 2 * sum(lengths)
