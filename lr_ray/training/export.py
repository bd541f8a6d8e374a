"""A finished training as files: PEFT adapter, and a merged model that stands alone."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lr_ray.config import Training
from lr_ray.errors import StageError
from lr_ray.models import COMPANIONS
from lr_ray.training.model import load_expert

# Largest logit difference, in standard deviations of the logits; bfloat16 rounds the merged weights.
_MERGE_TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1}


def export(
    weights: dict[str, Tensor], expert_path: str, expert: str, target: Path, training: Training
) -> float:
    """Writes target/adapter (with LoRA) and target/model. Returns the largest logit difference.

    `weights` are the trained ones by name, float32; the base is loaded anew, so that it does not matter
    how training had split it. Merged and compared in float32: a forward in bfloat16 is off by more than
    a merge is. `expert` is the base model's name in the adapter, as the config refers to it. Raises
    StageError when the model, read back, does not give the logits of base + adapter.
    """
    model = load_expert(expert_path, training.model_copy(update={"dtype": "float32"})).eval()
    with torch.no_grad():
        place(weights, model)
        probe = torch.arange(min(64, model.config.vocab_size))[None]
        before = model(input_ids=probe).logits
        if training.method == "lora":
            model.peft_config["default"].base_model_name_or_path = expert
            model.save_pretrained(target / "adapter")
            model = model.merge_and_unload()
        model.to(getattr(torch, training.dtype)).save_pretrained(target / "model")
        again = type(model).from_pretrained(target / "model", dtype=torch.float32).eval()
        gap = (again(input_ids=probe).logits - before).abs().max().item()
    for pattern in COMPANIONS:  # the weights' own files were written anew
        for file in Path(expert_path).glob(pattern):
            if not file.name.endswith(".index.json") and file.name != "config.json":
                shutil.copyfile(file, target / "model" / file.name)
    if not gap <= _MERGE_TOLERANCE[training.dtype] * before.std().item():  # NaN fails too
        raise StageError(f"merged model's logits differ by {gap:.2g} from those trained")
    return gap


def place(weights: dict[str, Tensor], model: Any) -> None:
    """Copies trained weights, by the names of `Engine.weights`, into a model of the same kind."""
    there = dict(model.named_parameters())
    for name, value in weights.items():
        key = name if name in there else name.replace(".weight", ".default.weight")
        there[key].copy_(value)
