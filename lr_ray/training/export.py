"""A finished training as files: PEFT adapter, and a merged model that stands alone."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lr_ray.config import Training
from lr_ray.errors import StageError
from lr_ray.models.models import COMPANIONS, TRAINED_WEIGHTS
from lr_ray.training.model import load_expert

_TOLERANCE = 1e-3  # of the logits' standard deviation: what merging in float32 may move them
_ROOM = 1.2  # of a GPU, times the weights in float32: those, and what forwards and copies need
CPU = torch.device("cpu")


def export(
    weights: dict[str, Tensor],
    expert_path: str,
    expert: str,
    target: Path,
    training: Training,
    device: torch.device = CPU,
) -> float:
    """Writes target/adapter (with LoRA) and target/model. Returns the largest logit difference.

    `weights` are the trained ones by name, float32; the base is loaded anew, so that it does not matter
    how training had split it. `expert` is the base model's name in the adapter, as the config refers to
    it. Merging and forwards are in float32, so the difference is that of rounding the merged weights to
    training.dtype, once. Computes on `device` where the model has room there, else on all cores. Raises
    StageError when merging itself moves the logits, or when the model read back is not the one written.
    """
    with torch.no_grad(), _all_cores():
        model = load_expert(expert_path, training.model_copy(update={"dtype": "float32"})).eval()
        device = device if fits(model, device) else CPU
        model.to(device)
        place(weights, model)
        trained = _probe(model)
        if training.method == "lora":
            model.peft_config["default"].base_model_name_or_path = expert
            model.save_pretrained(target / "adapter")
            model = model.merge_and_unload()
        moved = ((_probe(model) - trained).abs().max() / trained.std()).item()
        model.to(getattr(torch, training.dtype)).save_pretrained(target / "model")
        again = type(model).from_pretrained(target / "model", dtype=model.dtype)
        again.eval().to(device)
        written, read = model.state_dict(), again.state_dict()
        whole = all(torch.equal(written[name], read[name]) for name in written)
        del model, written, read
        gap = (_probe(again.float()) - trained).abs().max().item()
    for pattern in COMPANIONS:  # the weights' own files were written anew
        for file in Path(expert_path).glob(pattern):
            if not file.name.endswith(".index.json") and file.name != "config.json":
                shutil.copyfile(file, target / "model" / file.name)
    said = json.dumps({"sha256": _digest(weights)}, indent=2) + "\n"
    (target / "model" / TRAINED_WEIGHTS).write_text(said)
    if not (moved <= _TOLERANCE and gap < float("inf")):  # NaN fails too
        raise StageError(f"merging moved the logits by {moved:.2g} of their standard deviation")
    if not whole:
        raise StageError("the merged model, read back, has other weights than were written")
    return gap


def fits(model: Any, device: torch.device) -> bool:
    """Whether a float32 model has room beside what training left on the device."""
    if device.type != "cuda":
        return False
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return _ROOM * 4 * sum(weight.numel() for weight in model.parameters()) < free


@contextlib.contextmanager
def _all_cores() -> Iterator[None]:
    """A training worker has as many threads as CPUs that it asked for; by now the others are done."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _probe(model: Any) -> Tensor:
    """Logits on a fixed input, float32."""
    ids = torch.arange(min(64, model.config.vocab_size), device=model.device)[None]
    return model(input_ids=ids).logits.float()


def _digest(weights: dict[str, Tensor]) -> str:
    """sha256 (hex) of names and values."""
    found = hashlib.sha256()
    for name, value in sorted(weights.items()):
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def place(weights: dict[str, Tensor], model: Any) -> None:
    """Copies trained weights, by the names of `Backend.full_weights`, into a model of the same kind."""
    there = dict(model.named_parameters())
    for name, value in weights.items():
        key = name if name in there else name.replace(".weight", ".default.weight")
        there[key].copy_(value)
