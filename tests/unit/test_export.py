"""The exported model is what was trained, rounded once; a merge that lost the adapter is refused."""

import os

import pytest
import torch
from peft import LoraModel
from safetensors.torch import load_file

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import StageError
from lr_ray.models import models
from lr_ray.models.models import fingerprint
from lr_ray.training import export as export_module
from lr_ray.training.export import export
from lr_ray.training.model import load_expert

EXPERT = str(expert_path())


def training(dtype: str):
    return resolve(merge(read_tree("demo"), {"training": {"dtype": dtype}})).training


def weights(scale: float = 0.05) -> dict[str, torch.Tensor]:
    """LoRA weights by the names of `Engine.weights`, with lora_B away from its zeros."""
    model = load_expert(EXPERT, training("float32"))
    torch.manual_seed(0)
    return {
        name.replace(".default", ""): torch.randn_like(weight) * scale
        for name, weight in model.named_parameters()
        if weight.requires_grad
    }


@pytest.mark.parametrize(
    ("dtype", "least", "most"), [("float32", 0, 1e-3), ("bfloat16", 1e-3, 0.5)]
)
def test_gap_is_that_of_rounding(tmp_path, dtype, least, most):
    trained = weights()
    gap = export(trained, EXPERT, "embedded:expert", tmp_path, training(dtype))
    assert least <= gap < most
    adapter = load_file(tmp_path / "adapter/adapter_model.safetensors")
    assert adapter.keys() == trained.keys()
    assert all(torch.equal(adapter[name], weight) for name, weight in trained.items())

    base = load_file(f"{EXPERT}/model.safetensors")
    merged = load_file(tmp_path / "model/model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    a, b = (trained[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = (base[f"{name}.weight"].float() + 16 / 8 * b @ a).to(getattr(torch, dtype))
    assert merged[f"{name}.weight"].dtype == expected.dtype
    # One unit in the last place where the sum is near the middle of two bfloat16 numbers.
    assert torch.allclose(merged[f"{name}.weight"].float(), expected.float(), rtol=1e-2, atol=1e-5)


def test_models_that_differ_where_no_fingerprint_looks_have_different_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(models, "_SAMPLED_BYTES", 16)
    found = set()
    for scale in (0.05, 0.06):
        export(weights(scale), EXPERT, "embedded:expert", tmp_path, training("float32"))
        found.add(fingerprint(str(tmp_path / "model")))
    assert len(found) == 2


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_without_the_adapter_is_refused(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(LoraModel, "merge_and_unload", LoraModel.unload)
    with pytest.raises(StageError, match=r"merging moved the logits by 0\.\d+ of their"):
        export(weights(0.02), EXPERT, "embedded:expert", tmp_path, training(dtype))


def test_all_cores_take_part_and_the_workers_threads_come_back(tmp_path, monkeypatch):
    # vLLM's CPU worker, once it has run in this process, has put one that does nothing there.
    monkeypatch.setattr(torch, "set_num_threads", torch._C.set_num_threads)
    torch.set_num_threads(1)
    threads, probe = [], export_module._probe
    monkeypatch.setattr(
        export_module, "_probe", lambda m: threads.append(torch.get_num_threads()) or probe(m)
    )
    export(weights(), EXPERT, "embedded:expert", tmp_path, training("float32"))
    assert set(threads) == {len(os.sched_getaffinity(0))}
    assert torch.get_num_threads() == 1
