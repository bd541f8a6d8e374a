"""A training backend of plain torch: AdamW on one worker's CPU."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lr_ray.config import Training
from lr_ray.training.batches import MicroBatch
from lr_ray.training.model import PackedLoss, load_expert, to_tensors
from lr_ray.training.schedule import learning_rate

MOMENTS = ("exp_avg", "exp_avg_sq")


class ToyBackend:
    """See `lr_ray.training.engine.Backend`."""

    device = torch.device("cpu")

    def __init__(self, expert: str, training: Training) -> None:
        self.training, self.loss = training, PackedLoss(load_expert(expert, training), training)
        self.packs = self.loss.packs
        self.weights = {
            name.replace(".default.weight", ".weight"): weight
            for name, weight in self.loss.model.named_parameters()
            if weight.requires_grad
        }
        self.optimizer = torch.optim.AdamW(
            self.weights.values(), weight_decay=training.weight_decay
        )
        self.loss.train()

    def step(
        self, number: int, micro_batches: Sequence[MicroBatch], kept_steps: int
    ) -> dict[str, float]:
        rate = self.optimizer.param_groups[0]["lr"] = learning_rate(number, self.training)
        self.loss.draw.step = number  # of the dropout
        self.optimizer.zero_grad()
        sums = torch.zeros(2)
        for micro_batch in micro_batches:
            loss, support = self.loss(to_tensors(micro_batch, self.device))
            (loss / kept_steps).backward()
            sums += torch.stack([loss.detach(), support]) / kept_steps
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), self.training.max_grad_norm)
        self.optimizer.step()
        figures = {"loss": sums[0], "support_probability": sums[1], "grad_norm": norm}
        return {name: value.item() for name, value in figures.items()} | {"learning_rate": rate}

    def full_weights(self) -> dict[str, Tensor]:
        return {name: weight.detach().float() for name, weight in self.weights.items()}

    def state(self) -> dict[str, Tensor]:
        state = {f"weight/{name}": weight for name, weight in self.full_weights().items()}
        for name, weight in self.weights.items():
            state |= {f"{key}/{name}": self.optimizer.state[weight][key] for key in MOMENTS}
        return {name: value.clone() for name, value in state.items()}

    def load_state(self, state: dict[str, Tensor], steps: int) -> None:
        for name, weight in self.weights.items():
            weight.data.copy_(state[f"weight/{name}"])
            moments = {key: state[f"{key}/{name}"].clone() for key in MOMENTS}
            self.optimizer.state[weight] = {"step": torch.tensor(float(steps)), **moments}
