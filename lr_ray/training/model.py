"""The expert with trainable weights, and the packed loss: lm_head on kept rows only, in chunks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lr_ray.errors import StageError, reason
from lr_ray.runtime.imports import uncollected
from lr_ray.training import dropout, kernels, rows
from lr_ray.training.batches import MicroBatch

if TYPE_CHECKING:  # benchmarks/training.py --random-weights runs where pydantic is not installed
    from lr_ray.config import Training

HEAD_ROWS = 256  # kept steps whose logits exist at once: 160 MB in float32 for 152k tokens


def with_lora(base: Any, training: Training) -> Any:
    """The model with frozen weights and fresh LoRA weights that follow from the seed."""
    with uncollected():
        from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=training.lora.rank,
        lora_alpha=training.lora.alpha,
        lora_dropout=training.lora.dropout,
        target_modules=training.lora.targets,
        task_type="CAUSAL_LM",
    )
    torch.manual_seed(training.seed)
    try:
        return get_peft_model(base, lora)
    except ValueError as error:
        asked = f"training.lora.targets: {training.lora.targets}"
        raise StageError(f"{asked}: {reason(error)}") from None


def load_expert(path: str, training: Training) -> Any:
    """The expert as it is trained: with LoRA, or with all of its own weights trainable."""
    with uncollected():
        from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(path, dtype=getattr(torch, training.dtype))
    return with_lora(base, training) if training.method == "lora" else base


class Head(nn.Module):
    """lm_head and the loss on kept rows, in chunks of `HEAD_ROWS`, as one module.

    ZeRO-3 gathers a weight whenever a module that holds it is called, and all workers must do so equally
    often. One call for all chunks makes that so, however many chunks a worker has.
    """

    def __init__(self, causal: Any) -> None:
        super().__init__()
        lm_head = causal.get_output_embeddings()
        self.weight, self.bias = lm_head.weight, lm_head.bias
        name = next(name for name, child in causal.named_children() if child is lm_head)
        self._logits = partial(_own_logits, causal, name)  # no submodule: its parts are the body's

    def forward(
        self, rows_SH: Tensor, step_L: Tensor, id_L: Tensor, weight_L: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Loss, and pi's probability on the labels' tokens; both float32 sums over the S kept steps."""
        if len(rows_SH) <= HEAD_ROWS:
            return self._chunk(rows_SH, step_L, id_L, weight_L)
        loss, support = rows_SH.new_zeros((2,), dtype=torch.float32)
        for start in range(0, len(rows_SH), HEAD_ROWS):
            end = min(start + HEAD_ROWS, len(rows_SH))
            bounds = torch.tensor([start, end], device=step_L.device)
            first, last = torch.searchsorted(step_L, bounds).tolist()
            labels = step_L[first:last] - start, id_L[first:last], weight_L[first:last]
            # Logits are computed anew in the backward, so that only one chunk's exist at a time.
            part, mass = checkpoint(self._chunk, rows_SH[start:end], *labels, use_reentrant=False)
            loss, support = loss + part, support + mass
        return loss, support

    def _chunk(
        self, rows_SH: Tensor, step_L: Tensor, id_L: Tensor, weight_L: Tensor
    ) -> tuple[Tensor, Tensor]:
        linear = lambda x: nn.functional.linear(x, self.weight, self.bias)  # noqa: E731
        logits_SV = self._logits(linear, rows_SH)
        picked_L = logits_SV.float().log_softmax(-1)[step_L, id_L]
        return -(weight_L * picked_L).sum(), picked_L.detach().exp().sum()


class _StandIn:
    """A module with some of its parts replaced. Called, it or a module in it gives what was `found`."""

    def __init__(self, module: Any, found: Any = None, **parts: Any) -> None:
        self.__dict__ |= {"_module": module, "_found": found, **parts}

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._module, name)
        return self if self._found and isinstance(value, nn.Module) else value

    def __call__(self, *_: Any, **__: Any) -> Any:
        return self._found


class _Found:
    """What a body returns: hidden states `[1, S, H]`, and nothing else."""

    def __init__(self, hidden: Tensor) -> None:
        self.last_hidden_state = hidden

    def __getitem__(self, place: int) -> Tensor:
        return self.last_hidden_state

    def __getattr__(self, name: str) -> None:
        return None


def _own_logits(causal: Any, lm_head: str, linear: Callable[[Tensor], Tensor], rows: Tensor) -> Any:
    """Logits `[S, V]` by the model's own forward: some models scale or cap what their lm_head gives.

    `lm_head` is that part's name, and `linear` what is called in its place.
    """
    prefix = causal.base_model_prefix
    body = _StandIn(getattr(causal, prefix), _Found(rows[None]))
    return type(causal).forward(_StandIn(causal, **{prefix: body, lm_head: linear})).logits[0]


def _body(causal: Any) -> Any:
    """All of a model but its output layer. Raises StageError for one that has no such parts."""
    head, name = causal.get_output_embeddings(), type(causal).__name__
    if causal.base_model is causal or all(child is not head for child in causal.children()):
        raise StageError(f"{name}: training needs a model of a body and an output layer")
    return causal.base_model


class PackedLoss(nn.Module):
    """Sum over kept steps of -sum_a v(a) log pi(a | c), the paper's training loss before its mean.

    `packs` says whether the model takes its rows one after another (see `rows`) or padded.
    """

    def __init__(self, model: Any, training: Training) -> None:
        super().__init__()
        self.model = model
        is_lora = training.method == "lora"
        self.draw = dropout.install(model, training.lora.dropout if is_lora else 0, training.seed)
        causal = model.get_base_model() if is_lora else model
        self.packs = rows.install(causal)
        kernels.install(causal)
        self.body, self.head = _body(causal), Head(causal)
        if training.gradient_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})

    def forward(self, micro_batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Loss (float32 scalar, nats) and the sum over kept steps of pi's share of the label's support.

        Takes the tensors of a `MicroBatch`, by field name.
        """
        rows_SH = self._hidden(micro_batch)[micro_batch["step_token_S"]]
        labels = [micro_batch[f"label_{name}_L"] for name in ("step", "id", "weight")]
        return self.head(rows_SH, *labels)

    def _hidden(self, micro_batch: dict[str, Tensor]) -> Tensor:
        """Hidden states `[N, H]` of the micro-batch's tokens."""
        ids_N = micro_batch["token_ids_N"]
        index_B, length_B = micro_batch["index_B"].tolist(), micro_batch["length_B"].tolist()
        if not self.packs:
            padded = rows.Padded(length_B, ids_N.device)
            self.draw.start(index_B, length_B, padded.pad)
            # Causal and padded on the right, so no mask is needed.
            found = self.body(input_ids=padded.pad(ids_N), use_cache=False)
            return padded.unpad(found.last_hidden_state)
        self.draw.start(index_B, length_B, lambda numbers_NH: numbers_NH[None])
        found = self.body(
            input_ids=ids_N[None],
            position_ids=micro_batch["position_N"][None],
            use_cache=False,
            groups=rows.in_groups(length_B, ids_N.device),
        )
        return found.last_hidden_state[0]


def to_tensors(micro_batch: MicroBatch, device: torch.device) -> dict[str, Tensor]:
    """By field name; those of whole rows stay on the CPU, where Python reads them."""
    tensors = {k: torch.from_numpy(np.asarray(v)) for k, v in vars(micro_batch).items()}
    return {k: v if k.endswith("_B") else v.to(device) for k, v in tensors.items()}
