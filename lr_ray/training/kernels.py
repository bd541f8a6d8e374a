"""Which of torch's kernels a GPU trains with.

An optimizer step is some thousand small launches, which take longer than the arithmetic (docs/results.md, On
an H100).

Exercised by `pytest tests/unit/test_kernels.py`.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn

# Norms that are x / rms(x) in float32, then times a weight.
_NORMS = ("LlamaRMSNorm", "Qwen2RMSNorm", "Qwen3RMSNorm")


def install(model: Any) -> None:
    """On GPUs: attention that needs no plan, and norms of one operator forward in place of eight."""
    # cuDNN's attention plans anew for each shape, 2 to 3 ms a call on an H100, and batches differ in shape.
    torch.backends.cuda.enable_cudnn_sdp(False)
    for module in model.modules():
        if type(module).__name__ in _NORMS:
            module.forward = MethodType(_norm, module)


def _norm(module: Any, hidden_states: Tensor) -> Tensor:
    if hidden_states.is_cuda:
        return fused_norm(module, hidden_states)
    return type(module).forward(module, hidden_states)  # in pieces, torch's own is slower on CPUs


def fused_norm(module: Any, x: Tensor) -> Tensor:
    """What the module makes of `x` `[..., H]`, but rounded to its dtype once, where it rounds twice."""
    return nn.functional.rms_norm(x, x.shape[-1:], module.weight, module.variance_epsilon)
