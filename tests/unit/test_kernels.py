"""What a GPU trains with instead of transformers' own: the same values, chosen by the tensors' device."""

import copy

import pytest
import torch
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen2.modeling_qwen2 import Qwen2RMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from lr_ray.training import kernels

NORMS = [LlamaRMSNorm, Qwen2RMSNorm, Qwen3RMSNorm]
WIDTH = 48


def norm_and_input(kind, dtype):
    torch.manual_seed(0)
    norm = kind(WIDTH, eps=1e-5).to(dtype)
    torch.nn.init.normal_(norm.weight, 1, 0.3)
    return norm, 4 * torch.randn(3, 7, WIDTH, dtype=dtype)


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2**-7)])
def test_fused_norm_has_values_and_gradients_of_transformers(kind, dtype, tolerance):
    norm, x = norm_and_input(kind, dtype)
    found = []
    for make in (norm, lambda x: kernels.fused_norm(norm, x)):
        leaf = x.clone().requires_grad_()
        norm.zero_grad()
        value = make(leaf)
        assert value.dtype == dtype
        (value.float() * torch.arange(WIDTH)).sum().backward()
        found.append([value.detach(), leaf.grad, norm.weight.grad])
    for ours, theirs in zip(*found, strict=True):
        gap = (ours.float() - theirs.float()).norm() / theirs.float().norm()
        assert gap < tolerance


def test_norms_stay_as_they_are_on_cpus():
    norm, x = norm_and_input(Qwen2RMSNorm, torch.float32)
    expected = norm(x)
    kernels.install(norm)
    assert torch.equal(norm(x), expected)


class OnGpu(torch.Tensor):
    """Says that it is on a GPU."""

    is_cuda = True


def test_norms_are_fused_on_gpus(monkeypatch):
    asked = []
    monkeypatch.setattr(kernels, "fused_norm", lambda module, x: asked.append(module))
    norm, x = norm_and_input(Qwen3RMSNorm, torch.bfloat16)
    kernels.install(norm)
    other = copy.deepcopy(norm)
    for one in (norm, other):
        one(x.as_subclass(OnGpu))
    assert asked[0] is norm
    assert asked[1] is other


def test_attention_on_gpus_is_not_cudnn():
    torch.backends.cuda.enable_cudnn_sdp(True)
    kernels.install(torch.nn.Linear(1, 1))
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert torch.backends.cuda.flash_sdp_enabled()
