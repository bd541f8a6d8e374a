"""How much memory DeepSpeed is told that a GPU has free; nothing here has one."""

from types import SimpleNamespace

import pytest
import torch
from deepspeed.accelerator import cuda_accelerator
from deepspeed.accelerator.cpu_accelerator import CPU_Accelerator

from lr_ray.training.engine import ask_cuda_for_memory


def refused(handle):
    raise PermissionError("NVML: no permission")


@pytest.mark.parametrize("named", ["GPU-6cdc4a2f", "MIG-377e0049", "0"])
def test_a_gpu_that_is_named_by_its_uuid_or_is_a_slice_tells_its_free_memory(monkeypatch, named):
    nvml = SimpleNamespace(
        nvmlInit=lambda: None, nvmlDeviceGetHandleByIndex=int, nvmlDeviceGetMemoryInfo=refused
    )
    monkeypatch.setattr(cuda_accelerator, "pynvml", nvml)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (7_000, 10_000))
    accelerator = cuda_accelerator.CUDA_Accelerator()
    with pytest.raises((ValueError, PermissionError)):
        accelerator.available_memory(0)
    ask_cuda_for_memory(accelerator)
    assert accelerator.available_memory() == accelerator.available_memory(0) == 7_000


def test_a_cpu_is_asked_as_before():
    accelerator = CPU_Accelerator()
    ask_cuda_for_memory(accelerator)
    assert accelerator.available_memory() > 0
    assert "available_memory" not in vars(accelerator)
