"""What makes the optimizer steps: the protocol of a training backend, and DeepSpeed around the packed loss.

DeepSpeed's state here is that of the trainable weights alone, whole and by name: a run may go on with
another number of workers or another ZeRO stage than it began with.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lr_ray.config import Training
from lr_ray.placement.trainer import MOST_BUCKET
from lr_ray.runtime.imports import uncollected
from lr_ray.training.batches import MicroBatch
from lr_ray.training.model import PackedLoss, load_expert, to_tensors
from lr_ray.training.schedule import learning_rate

_MOMENTS = ("exp_avg", "exp_avg_sq")


def deepspeed_config(training: Training) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # accumulation is ours: micro-batches go by tokens
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": training.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": training.dtype == "bfloat16"},
        "data_types": {"grad_accum_dtype": "fp32"},
        "steps_per_print": 1 << 30,
    }


class Backend(Protocol):
    """One worker's part of the training; all workers call every method, in the same order.

    `training.backend` names a class of these, or a function that makes one, of a model directory and the
    training section. It is made in a Ray Train worker, with the process group of torch.distributed.
    """

    packs: bool  # micro-batches of rows one after another, or else of rows that are to be padded
    device: torch.device

    def step(
        self, number: int, micro_batches: Sequence[MicroBatch], kept_steps: int
    ) -> dict[str, float]:
        """Optimizer step `number` (from 0) over this worker's share of a batch of `kept_steps` steps.

        Returns loss (nats) and support_probability, both means over the whole batch, grad_norm before
        clipping, and learning_rate.
        """

    def full_weights(self) -> dict[str, Tensor]:
        """The trained weights, whole, float32 on the CPU, by their names in `model.load_expert`'s model.

        LoRA's without PEFT's ".default".
        """

    def state(self) -> dict[str, Tensor]:
        """All that a checkpoint needs, on the CPU: what `load_state` takes."""

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        """Puts the state of a training in place that has made `steps` optimizer steps."""


def ask_cuda_for_memory(accelerator: Any) -> None:
    """Of DeepSpeed's accelerator: a GPU's free bytes by CUDA, where it asks NVML.

    It takes CUDA_VISIBLE_DEVICES for numbers, which may be UUIDs, and a process that has a slice (MIG) is not
    told of the whole GPU.
    """
    if accelerator.device_name() == "cuda":
        accelerator.available_memory = lambda device=None: torch.cuda.mem_get_info(device)[0]


class Engine:
    """The backend `deepspeed`: ZeRO 2 or 3, on GPUs or CPUs."""

    def __init__(self, expert: str, training: Training) -> None:
        with uncollected():
            import deepspeed

        # On CPU, DeepSpeed would spend a minute compiling a collective that gloo has.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        ask_cuda_for_memory(deepspeed.get_accelerator())
        config = deepspeed_config(training)
        partitioned = None
        if training.zero_stage == 3:
            from transformers.integrations import HfDeepSpeedConfig

            # Loads each weight straight into its partitions.
            partitioned = HfDeepSpeedConfig(config)
        self.training = training
        self.loss = PackedLoss(load_expert(expert, training), training)
        self.packs = self.loss.packs
        del partitioned
        self.weights = {
            name.replace(".default.weight", ".weight"): weight
            for name, weight in self.loss.model.named_parameters()
            if weight.requires_grad
        }
        # DeepSpeed has a buffer of this size, whatever is trained.
        trained = sum(getattr(w, "ds_numel", w.numel()) for w in self.weights.values())
        config["zero_optimization"]["reduce_bucket_size"] = min(trained, MOST_BUCKET)
        optimizer = torch.optim.AdamW(
            self.weights.values(), lr=training.learning_rate, weight_decay=training.weight_decay
        )
        self.deepspeed, *_ = deepspeed.initialize(
            model=self.loss, optimizer=optimizer, config=config, dist_init_required=True
        )
        self.deepspeed.train()
        self.device: torch.device = self.deepspeed.device

    def step(
        self, number: int, micro_batches: Sequence[MicroBatch], kept_steps: int
    ) -> dict[str, float]:
        rate = learning_rate(number, self.training)
        for group in self.deepspeed.optimizer.param_groups:
            group["lr"] = rate
        sums = self.backward(number, micro_batches, kept_steps)
        self.deepspeed.step()
        loss, support = sums.tolist()
        return {
            "loss": loss,
            "support_probability": support,
            "grad_norm": float(self.deepspeed.get_global_grad_norm()),
            "learning_rate": rate,
        }

    def backward(self, number: int, micro_batches: Sequence[MicroBatch], kept_steps: int) -> Tensor:
        """Gradients of the batch's mean loss, reduced; returns its [loss, support], reduced too."""
        self.loss.draw.step = number
        sums = torch.zeros(2, device=self.device)
        workers = torch.distributed.get_world_size()
        for i, micro_batch in enumerate(micro_batches):
            last = i == len(micro_batches) - 1
            self.deepspeed.set_gradient_accumulation_boundary(last)
            loss, support = self.deepspeed(to_tensors(micro_batch, self.device))
            # DeepSpeed takes the mean over workers.
            self.deepspeed.backward(loss * workers / kept_steps)
            sums += torch.stack([loss.detach(), support]) / kept_steps
            if not last:
                self.deepspeed.step()
        torch.distributed.all_reduce(sums)
        return sums

    def full_weights(self) -> dict[str, Tensor]:
        from deepspeed.utils import safe_get_full_fp32_param

        return {name: safe_get_full_fp32_param(w).cpu() for name, w in self.weights.items()}

    def state(self) -> dict[str, Tensor]:
        """Weights and AdamW moments: "weight/NAME", "exp_avg/NAME", "exp_avg_sq/NAME"."""
        from deepspeed.utils import safe_get_full_optimizer_state

        state = {f"weight/{name}": value for name, value in self.full_weights().items()}
        for name, weight in self.weights.items():
            for key in _MOMENTS:
                state[f"{key}/{name}"] = safe_get_full_optimizer_state(weight, key).cpu()
        return state

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

        self._start_moments(steps)
        for name, weight in self.weights.items():
            safe_set_full_fp32_param(weight, state[f"weight/{name}"].to(self.device))
            for key in _MOMENTS:
                value = state[f"{key}/{name}"].to(self.device)
                safe_set_full_optimizer_state(weight, value, key)
        self._publish()

    def _start_moments(self, steps: int) -> None:
        """AdamW makes its state at its first step; here it is wanted before."""
        zero, stage = self.deepspeed.optimizer, self.training.zero_stage
        partitions = {2: "single_partition_of_fp32_groups", 3: "fp32_partitioned_groups_flat"}
        for flat in getattr(zero, partitions[stage]):  # this worker's, of the trainable weights
            zero.optimizer.state[flat] = {
                "step": torch.tensor(float(steps)),
                **{key: torch.zeros_like(flat.data) for key in _MOMENTS},
            }
        if stage == 2:
            zero._lazy_init_hp_params_optimizer_state()

    def _publish(self) -> None:
        """Brings the weights that forwards use up to the float32 ones just set."""
        zero = self.deepspeed.optimizer
        if self.training.zero_stage == 2:
            zero.update_lp_params()
        else:
            zero.checkpoint_event_prologue()  # small weights stay gathered: drop those
            for group in range(len(zero.fp16_groups)):
                zero._reassign_or_swap_out_partitioned_parameters(group)
            zero.checkpoint_event_epilogue()
