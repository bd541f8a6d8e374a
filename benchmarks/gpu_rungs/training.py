"""Training at the real shapes with random weights: the packed step against one forward a kept step.

The forms and the formula of the model FLOP are those of `benchmarks/packing.py`, the shapes and the
trajectories those of `benchmarks/training.py`.
"""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np

from .options import SHAPES, Options
from .record import Record

DROPOUT = 0.05  # the paper's
BATCH = 16  # kept steps
PROFILED = 3  # optimizer steps
MOST = {"tiny": 2}  # optimizer steps measured
PAPERS_FORM = f"packed, dropout {DROPOUT}"
WITH_CUDNN = f"{PAPERS_FORM}, cuDNN's attention"
FORMS = {"packed": "packed", "single": "one forward a kept step"}


@dataclass
class Spent:
    """Of the optimizer steps measured in one form."""

    steps: int = 0
    seconds: float = 0.0
    peak_gb: float = 0.0


def measure(record: Record, options: Options) -> None:
    import torch
    from packing import Work
    from training import random_work

    from lr_ray.training.batches import plan
    from lr_ray.training.model import PackedLoss

    work: Work = random_work(SHAPES[options.size][0], 8192)
    drawn = plan([len(t.steps) for t in work.trajectories], BATCH, 0, "step")
    most = MOST.get(options.size, 60)
    batches, drawn_later = list(itertools.islice(drawn, most)), list(itertools.islice(drawn, most))
    work.model.train()
    if options.device == "cuda":
        known = f"{options.peak_tflops:g} TFLOP/s" if options.peak_tflops else "unknown"
        record.note(f"mfu is of the card's dense bfloat16 peak: {known} (--peak-tflops)")

    def in_turns() -> None:
        spent = time_forms(record, work, list(FORMS), batches, 0.45)
        for form, name in FORMS.items():
            add_row(record, options, work, form, name, batches, spent[form])
        ratio = per_step(spent["single"]) / per_step(spent["packed"])
        record.note(f"packed is {ratio:.2f} times as fast as {FORMS['single']}")

    def with_dropout() -> None:
        lora = SimpleNamespace(**vars(work.training.lora) | {"dropout": DROPOUT})
        training: Any = SimpleNamespace(**vars(work.training) | {"lora": lora})
        loss = PackedLoss(work.model, training)  # puts its dropout into the model
        dropping = replace(work, loss=loss, training=training)
        spent = time_forms(record, dropping, ["packed"], batches, 0.65)["packed"]
        add_row(record, options, dropping, "packed", PAPERS_FORM, batches, spent)
        add_profile(record, dropping, PAPERS_FORM, drawn_later[:PROFILED])
        if options.device == "cuda":
            # What `lr_ray.training.kernels` leaves out, on batches of shapes that were not there yet.
            torch.backends.cuda.enable_cudnn_sdp(True)
            spent = time_forms(record, dropping, ["packed"], drawn_later, 0.85)["packed"]
            add_row(record, options, dropping, "packed", WITH_CUDNN, drawn_later, spent)
        PackedLoss(work.model, work.training)  # takes dropout out again, and cuDNN's attention

    record.attempt("packed against single", in_turns)
    record.attempt("packed with dropout", with_dropout)
    if work.device.type == "cuda":
        torch.cuda.empty_cache()
    record.attempt("gradients", lambda: add_gaps(record, work, batches[0]))


def time_forms(
    record: Record, work, forms: Sequence[str], batches: Sequence[np.ndarray], share: float
) -> dict[str, Spent]:
    """Each form over the same batches, in turns, until `share` of the rung's time is spent."""
    import torch
    from packing import peak_gigabytes

    optimizer, spent = work.optimizer(), {form: Spent() for form in forms}
    for form in forms:
        work.warm(form, batches[0])
    for number, pairs in enumerate(batches):
        if number and record.left(share) < 0:
            break
        for form in forms:
            if work.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            found = spent[form]
            found.seconds += work.step(form, pairs, optimizer)
            found.steps += 1
            found.peak_gb = max(found.peak_gb, peak_gigabytes(work.device))
    return spent


def add_profile(record: Record, work, name: str, batches: Sequence[np.ndarray]) -> None:
    """Where the time of these steps goes: how long a GPU works in them, and what its launches take."""
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    optimizer, cuda = work.optimizer(), work.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    with profile(activities=activities) as found:
        for pairs in batches:
            work.step("packed", pairs, optimizer)
    events, steps = found.key_averages(), len(batches)
    attention = [e for e in events if re.match(r"aten::\w*attention", e.key)]
    launches = [e for e in events if re.match("cu(da)?LaunchKernel", e.key)]
    # Operators have their kernels' time too, and so have named parts of the step.
    kernels = [e for e in events if e.device_type == DeviceType.CUDA and not e.is_user_annotation]
    record.row(
        f"profile, {name}",
        optimizer_steps=steps,
        cpu_seconds_per_step=sum(e.self_cpu_time_total for e in events) / 1e6 / steps,
        of_it_attention=sum(e.self_cpu_time_total for e in attention) / 1e6 / steps,
        gpu_seconds_per_step=sum(e.self_device_time_total for e in kernels) / 1e6 / steps,
        launches_per_step=sum(e.count for e in launches) / steps,
    )


def per_step(spent: Spent) -> float:
    return spent.seconds / spent.steps


def add_row(
    record: Record, options: Options, work, form: str, name: str, batches, spent: Spent
) -> None:
    """Model FLOP are those that the packed form needs, whatever the form; padding counts in none."""
    from packing import flops

    done = batches[: spent.steps]
    tokens, padded = work.tokens(form, done)
    rate = flops(work, done) / spent.seconds / 1e12
    peak = options.peak_tflops
    record.row(
        name,
        optimizer_steps=spent.steps,
        seconds_per_step=per_step(spent),
        tokens_per_second=tokens / spent.seconds,
        padding=padded / tokens - 1,
        tflops=rate,
        mfu=rate / peak if peak else None,
        peak_gb=spent.peak_gb,
    )


def add_gaps(record: Record, work, pairs: np.ndarray) -> None:
    """How far one batch's gradients are apart, relative; a bfloat16 model's from float32 too."""
    from packing import gap, shake

    shake(work.model)
    found = {form: work.gradient(form, pairs) for form in FORMS}
    kind = str(next(work.model.parameters()).dtype).removeprefix("torch.")
    against = f"packed against {FORMS['single']}"
    if kind != "float32":
        work.model.float()
        exact = {form: work.gradient(form, pairs) for form in FORMS}
        record.row(f"gradient, {against}, {kind}", relative_gap=gap(*found.values()))
        for form, name in FORMS.items():
            of_form = gap(found[form], exact["single"])
            record.row(f"gradient, {name}, {kind} against float32", relative_gap=of_form)
        found = exact
    record.row(f"gradient, {against}, float32", relative_gap=gap(*found.values()))
