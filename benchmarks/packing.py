"""Three ways to compute the gradient of one batch of kept steps, timed and compared.

    packed   one row a trajectory, as training does: all its kept steps share the forward
    padded   one row a kept step, many rows a forward, lm_head on the kept positions only
    single   one forward a kept step, lm_head everywhere: `oracle.batch_loss`, step by step

Needs torch, transformers and peft; neither Ray, vLLM, DeepSpeed, pyarrow nor pydantic.
"""

import itertools
import resource
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lr_ray.method import oracle
from lr_ray.training import dropout, rows
from lr_ray.training.batches import Trajectory, collate, pack, share
from lr_ray.training.model import PackedLoss, to_tensors

FORMS = ("packed", "padded", "single")
PAPER_STEPS = 16_000  # trained steps: 1000 optimizer steps of 16


@dataclass(frozen=True)
class Work:
    """A LoRA model without dropout and what it is trained on."""

    model: Any
    loss: PackedLoss
    training: Any  # a `Training`, or what has the same fields
    trajectories: Sequence[Trajectory]
    device: torch.device

    @property
    def weights(self) -> list[Tensor]:
        return [weight for weight in self.model.parameters() if weight.requires_grad]

    def micro_batches(self, form: str, pairs: np.ndarray) -> list[list[Trajectory]]:
        if form == "packed":
            items = pack(self.trajectories, pairs)
        else:
            whole = [(self.trajectories[t], self.trajectories[t].steps[s]) for t, s in pairs]
            items = [Trajectory(t.token_ids[: s.row + 1], (s,), t.index) for t, s in whole]
            items.sort(key=lambda item: -len(item.token_ids))
        budget = 1 if form == "single" else self.training.micro_batch_tokens
        return share(items, 0, 1, budget, not self.loss.packs)

    def backward(self, form: str, pairs: np.ndarray) -> None:
        """Adds the gradient of the batch's mean loss."""
        if form == "single":
            with torch.device(self.device):
                for step in oracle.unpacked(self.trajectories, pairs):
                    (oracle.batch_loss(self.model, [step]) / len(pairs)).backward()
            return
        for items in self.micro_batches(form, pairs):
            loss, _ = self.loss(to_tensors(collate(items), self.device))
            (loss / len(pairs)).backward()

    def gradient(self, form: str, pairs: np.ndarray) -> Tensor:
        """Of all trainable weights, flat, float32."""
        self.model.zero_grad()
        self.backward(form, pairs)
        return torch.cat([weight.grad.flatten().float() for weight in self.weights])

    def lengths(self, form: str, batches: Sequence[np.ndarray]) -> list[list[int]]:
        """Tokens of each row of each micro-batch."""
        parts = [part for pairs in batches for part in self.micro_batches(form, pairs)]
        return [[len(item.token_ids) for item in part] for part in parts]

    def tokens(self, form: str, batches: Sequence[np.ndarray]) -> tuple[int, int]:
        """Tokens forwarded, without and with padding; that inside attention is not counted."""
        lengths = self.lengths(form, batches)
        padded = sum if self.loss.packs or form == "single" else lambda part: max(part) * len(part)
        return sum(map(sum, lengths)), sum(map(padded, lengths))

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def optimizer(self) -> torch.optim.Optimizer:
        rate, decay = self.training.learning_rate, self.training.weight_decay
        return torch.optim.AdamW(self.weights, lr=rate, weight_decay=decay)

    def step(self, form: str, pairs: np.ndarray, optimizer: torch.optim.Optimizer) -> float:
        """Seconds of an optimizer step: gradient, clipping, AdamW."""
        self.wait()
        started = time.perf_counter()
        optimizer.zero_grad()
        self.backward(form, pairs)
        torch.nn.utils.clip_grad_norm_(self.weights, self.training.max_grad_norm)
        optimizer.step()
        self.wait()
        return time.perf_counter() - started

    def warm(self, form: str, pairs: np.ndarray) -> None:
        self.backward(form, pairs if form == "packed" else pairs[:2])


def shake(model: Any) -> None:
    """Moves lora_B away from its zeros, which hide lora_A's gradient."""
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)


def gap(one: Tensor, other: Tensor) -> float:
    """Relative difference of two gradients."""
    return float((one - other).norm() / other.norm())


def flops(work: Work, batches: Sequence[np.ndarray]) -> float:
    """Of the packed forward and backward, padding not counted:

        4 N sum t_i + 6 L D sum t_i^2 + 4 V H s

    with N weights in the linear maps of the L layers, rows of t_i tokens, D the width of all query heads,
    V H the weights of lm_head and s kept steps. Frozen weights need no gradient of their own, so the
    backward through them costs one forward (2 N a token). Attention is causal: two products of t_i^2 D
    FLOP each a layer, and its backward costs two forwards. LoRA's own products are left out.
    """
    config = work.model.config
    frozen = {n: p for n, p in work.model.named_parameters() if "lora_" not in n and p.dim() == 2}
    linear = sum(p.numel() for n, p in frozen.items() if ".layers." in n)
    head = config.vocab_size * config.hidden_size
    width = config.num_attention_heads * (
        getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    )
    rows = [len(item.token_ids) for pairs in batches for item in pack(work.trajectories, pairs)]
    attention = 6 * config.num_hidden_layers * width * sum(t * t for t in rows)
    return 4.0 * linear * sum(rows) + attention + 4.0 * head * sum(map(len, batches))


def peak_gigabytes(device: torch.device) -> float:
    """Of the GPU's memory since the last reset; on CPU, of the whole process so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def compare(work: Work, batches: Sequence[np.ndarray], by: str, peak_tflops: float | None) -> None:
    """Prints what each form costs and how much packing gains."""
    kept = sum(map(len, batches))
    print(
        f"filled by {by}: {len(batches)} optimizer steps, {kept / len(batches):.1f} kept steps each"
    )
    seconds, tokens = dict.fromkeys(FORMS, 0.0), dict.fromkeys(FORMS, 0)
    peak, optimizer = dict.fromkeys(FORMS, 0.0), work.optimizer()
    for form in FORMS:
        work.warm(form, batches[0])
    # In turns, so that what else the machine does hits all alike.
    for pairs, form in itertools.product(batches, FORMS):
        if work.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds[form] += work.step(form, pairs, optimizer)
        peak[form] = max(peak[form], peak_gigabytes(work.device))
    for form in FORMS:
        tokens[form], padded = work.tokens(form, batches)
        print(
            f"  {form:<7} {seconds[form] / len(batches):9.4f} s an optimizer step, {tokens[form]} tokens "
            f"({padded} with padding), {tokens[form] / seconds[form]:.0f} tokens/s, {PAPER_STEPS} trained "
            f"steps in {PAPER_STEPS * seconds[form] / kept:.0f} s"
            + (f", peak {peak[form]:.1f} GB" if work.device.type == "cuda" else "")
        )
    if work.device.type == "cpu":
        print(f"  peak of the process so far {peak_gigabytes(work.device):.1f} GB")
    for form in FORMS[1:]:
        fewer, faster = tokens[form] / tokens["packed"], seconds[form] / seconds["packed"]
        print(
            f"  packed against {form}: {fewer:.2f} times fewer tokens, {faster:.2f} times as fast, "
            f"speed ratio / token ratio {faster / fewer:.2f}"
        )
    print_padding(work, batches)
    rate = flops(work, batches) / seconds["packed"] / 1e12
    share = f", {rate / peak_tflops:.1%} of {peak_tflops:g}" if peak_tflops else ""
    print(f"  packed  {rate:.3f} TFLOP/s{share}", flush=True)


def print_padding(work: Work, batches: Sequence[np.ndarray]) -> None:
    """Of the packed form's rows, had they been padded on the right in these micro-batches."""
    lengths = work.lengths("packed", batches)
    tokens = sum(map(sum, lengths))
    padded = sum(max(part) * len(part) for part in lengths)
    groups = [group for part in lengths for group in rows.in_groups(part, torch.device("cpu"))]
    inside = sum(group.rows * group.longest for group in groups)
    _, forwarded = work.tokens("packed", batches)
    print(
        f"  padding {1 - tokens / forwarded:.1%} of what is forwarded ({1 - tokens / padded:.1%} with "
        f"rows padded to the longest), {1 - tokens / inside:.1%} inside attention; "
        f"{len(lengths) / len(batches):.1f} micro-batches an optimizer step",
        flush=True,
    )


class Calls(TorchDispatchMode):
    """Counts operator calls that compute something: on a GPU, each starts a kernel or a few."""

    def __init__(self) -> None:
        super().__init__()
        self.of: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        name = operator.name()
        if not operator.is_view and not name.startswith(("aten::empty", "aten::detach")):
            self.of[name] += 1
        return operator(*args, **(kwargs or {}))


def print_calls(work: Work, pairs: np.ndarray, p: float = 0.05) -> None:
    """Operator calls of one packed micro-batch, without dropout and with it."""
    (items, *_) = work.micro_batches("packed", pairs)
    tensors = to_tensors(collate(items), work.device)
    found = []
    for probability in (p, 0.0):  # leaves the work without dropout, as it came
        work.loss.draw = dropout.install(work.model, probability, work.training.seed)
        with Calls() as forward:
            loss, _ = work.loss(tensors)
        with Calls() as backward:
            loss.backward()
        found.append((forward.of.total(), backward.of.total()))
    work.model.zero_grad()
    (forward_with, backward_with), (forward_calls, backward_calls) = found
    print(
        f"operator calls of a micro-batch of {len(items)} trajectories: forward {forward_calls}, "
        f"backward {backward_calls}; dropout adds {forward_with - forward_calls} and "
        f"{backward_with - backward_calls}",
        flush=True,
    )


def print_gradients(work: Work, pairs: np.ndarray) -> None:
    """How far the forms' gradients are apart on one batch; of a bfloat16 model, from float32 too.

    Leaves noise in lora_B, and a bfloat16 model in float32.
    """
    shake(work.model)
    found = {form: work.gradient(form, pairs) for form in FORMS}
    kind = str(next(work.model.parameters()).dtype).removeprefix("torch.")
    for form in FORMS[:2]:
        print(f"gradient, {form} against single, {kind}: {gap(found[form], found['single']):.1e}")
    if kind == "float32":
        return
    work.model.float()
    exact = {form: work.gradient(form, pairs) for form in ("packed", "single")}
    print(f"gradient, packed against single, float32: {gap(exact['packed'], exact['single']):.1e}")
    for form in FORMS:
        print(
            f"gradient, {form} in {kind} against float32: {gap(found[form], exact['single']):.1e}"
        )
