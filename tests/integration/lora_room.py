"""What vLLM itself reserves for LoRA, of models without weights, in a process of its own.

python -m tests.integration.lora_room FOLDER... prints a JSON line a folder that has a config.json: the
numbers of all buffers, a unit of rank and an adapter.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "HF_HUB_OFFLINE": "1"}

SLOTS, RANK = 3, 16


def main(folders: list[str]) -> None:
    import torch
    from vllm.config import LoRAConfig, ModelConfig, VllmConfig, set_current_vllm_config
    from vllm.distributed import init_distributed_environment, initialize_model_parallel
    from vllm.lora.layers.fused_moe import FusedMoEWithLoRA
    from vllm.lora.model_manager import LoRAModelManager
    from vllm.model_executor.model_loader.utils import initialize_model

    FusedMoEWithLoRA.__init__ = without_kernel
    FusedMoEWithLoRA.set_mapping = lambda self, wrapper: None
    meet = Path(tempfile.mkdtemp(), "meet").as_uri()
    for number, folder in enumerate(folders):
        lora = LoRAConfig(max_lora_rank=RANK, max_loras=SLOTS, max_cpu_loras=SLOTS,
                          lora_dtype=torch.bfloat16)  # fmt: skip
        model = ModelConfig(model=folder, dtype="bfloat16", skip_tokenizer_init=True)
        config = VllmConfig(model_config=model, lora_config=lora)
        with set_current_vllm_config(config):
            if not number:
                init_distributed_environment(1, 0, meet, 0, "gloo")
                initialize_model_parallel(1)
            with torch.device("meta"):
                module = initialize_model(vllm_config=config)
            rows = model.get_vocab_size()
            LoRAModelManager(module, 8, 64, rows, lora, torch.device("cpu"), config)
        print(json.dumps(reserved(module) / SLOTS / RANK), flush=True)
    os._exit(0)  # a process group's threads would be waited for


def without_kernel(self, base) -> None:
    """A layer of experts as far as its buffers go; the CPU has no kernel for the rest."""
    import torch

    torch.nn.Module.__init__(self)
    self.base_layer, self.moe_config = base, base.moe_config
    self.tp_size, self.tp_rank, self._w13_slices = 1, 0, 2
    self.device = torch.device("meta")


def reserved(module) -> int:
    """Numbers in the buffers of all layers, each buffer once."""
    found = {}
    for part in module.modules():
        for name, value in vars(part).items():
            if "lora_" in name and "_stacked" in name:
                buffers = value if isinstance(value, tuple | list) else [value]
                found |= {id(b): b.numel() for b in buffers if b._base is None}
    return sum(found.values())


if __name__ == "__main__":
    main(sys.argv[1:])
