"""The expert with LoRA and the packed loss: lm_head on kept rows only, float32 log-softmax."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lr_ray.config import Training
from lr_ray.errors import StageError
from lr_ray.models import COMPANIONS
from lr_ray.training.batches import MicroBatch

_MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.5}  # largest logit difference


def load_expert(path: str, training: Training) -> Any:
    """The expert with frozen weights and fresh LoRA weights that follow from the seed."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(training.seed)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, training.dtype))
    lora = LoraConfig(
        r=training.lora.rank,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=training.lora.targets,
        task_type="CAUSAL_LM",
    )
    try:
        return get_peft_model(base, lora)
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise StageError(f"training.lora.targets: {training.lora.targets}: {reason}") from None


class PackedLoss(nn.Module):
    """Sum over kept steps of -sum_a v(a) log pi(a | c), the paper's training loss before its mean."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, micro_batch: dict[str, Tensor]) -> Tensor:
        """Float32 scalar, in nats. Takes the tensors of a `MicroBatch`, by field name."""
        causal = self.model.get_base_model()
        hidden_BTH = causal.model(
            input_ids=micro_batch["token_ids_BT"],
            attention_mask=micro_batch["mask_BT"],
            use_cache=False,
        ).last_hidden_state
        rows_SH = hidden_BTH[micro_batch["step_batch_S"], micro_batch["step_row_S"]]
        logprobs_SV = causal.lm_head(rows_SH).float().log_softmax(-1)
        picked_L = logprobs_SV[micro_batch["label_step_L"], micro_batch["label_id_L"]]
        return -(micro_batch["label_weight_L"] * picked_L).sum()


def to_tensors(micro_batch: MicroBatch, device: torch.device) -> dict[str, Tensor]:
    return {k: torch.from_numpy(v).to(device) for k, v in vars(micro_batch).items()}


def export(
    model: Any, expert_path: str, expert: str, adapter: Path, merged: Path, training: Training
) -> float:
    """Writes the PEFT adapter and the merged, standalone model. Returns their largest logit gap.

    `expert` is the base model's name in the adapter, as the config refers to it.

    Raises StageError when merged weights do not give the logits of base + adapter.
    """
    model.eval()
    probe = torch.arange(min(64, model.config.vocab_size), device=model.device)[None]
    with torch.no_grad():
        before = model(input_ids=probe).logits.float()
        model.peft_config["default"].base_model_name_or_path = expert
        model.save_pretrained(adapter)
        whole = model.merge_and_unload()
        whole.save_pretrained(merged)
        after = type(whole).from_pretrained(merged, dtype=whole.dtype).to(model.device)
        gap = (after(input_ids=probe).logits.float() - before).abs().max().item()
    for pattern in COMPANIONS:  # the weights' own files were written anew
        for file in Path(expert_path).glob(pattern):
            if not file.name.endswith(".index.json") and file.name != "config.json":
                shutil.copyfile(file, merged / file.name)
    if not gap <= _MERGE_TOLERANCE[training.dtype]:  # NaN fails too
        raise StageError(f"merged model's logits differ by {gap:.2g} from base + adapter")
    return gap
