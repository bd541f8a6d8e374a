"""What each Ray Train worker runs: packed LoRA steps under DeepSpeed, then the export on rank 0."""

import tempfile
import time
from pathlib import Path
from typing import Any

from lr_ray.config import Training
from lr_ray.errors import StageError
from lr_ray.sampling.rows import SUPERVISION
from lr_ray.store import Run
from lr_ray.training.batches import collate, pack, plan, read_trajectories, share


def deepspeed_config(training: Training) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,  # accumulation is ours: micro-batches go by tokens
        "gradient_accumulation_steps": 1,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": training.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": training.dtype == "bfloat16"},
        "steps_per_print": 1 << 30,
    }


def learning_rate(step: int, training: Training) -> float:
    """Rate of optimizer step `step`, counted from 0: linear warm-up, then the schedule."""
    warmup = round(training.warmup * training.optimizer_steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    if training.schedule == "constant":
        return training.learning_rate
    left = (training.optimizer_steps - step) / max(1, training.optimizer_steps - warmup)
    return training.learning_rate * left


def start_engine(model: Any, training: Training) -> Any:
    """The DeepSpeed engine around a loss module whose trainable weights are LoRA's."""
    import deepspeed
    import torch

    # On CPU, DeepSpeed would spend a minute compiling a collective that gloo has.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        weights, lr=training.learning_rate, weight_decay=training.weight_decay
    )
    engine, *_ = deepspeed.initialize(
        model=model, optimizer=optimizer, config=deepspeed_config(training), dist_init_required=True
    )
    return engine


def train_step(engine: Any, micro_batches: list[Any], batch_steps: int, workers: int) -> float:
    """One optimizer step over this worker's share. Returns its part of the batch's mean loss."""
    from lr_ray.training.model import to_tensors

    total = 0.0
    for i, micro_batch in enumerate(micro_batches):
        engine.set_gradient_accumulation_boundary(i == len(micro_batches) - 1)
        loss = engine(to_tensors(micro_batch, engine.device)) / batch_steps
        engine.backward(loss * workers)  # DeepSpeed takes the mean over workers
        total += loss.item()
        engine.step()
    return total


def train_loop(spec: dict[str, Any]) -> dict[str, Any]:
    """Ray Train entry point; returns the counts of the summary's `training` part.

    `spec` holds run, training, expert (model directory), name (how the config refers to it) and
    progress (a queue). A StageError is returned as `error`: raised, Ray Train would try again.
    """
    try:
        return _train(spec)
    except StageError as error:
        return {"error": str(error)}


def _train(spec: dict[str, Any]) -> dict[str, Any]:
    import ray.train
    import torch

    from lr_ray.training.model import PackedLoss, export, load_expert

    run: Run = spec["run"]
    training: Training = spec["training"]
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    if training.gpus_per_worker == 0:
        torch.set_num_threads(max(1, int(training.cpus_per_worker)))

    trajectories = read_trajectories(run.read_tables(run.shards("supervision"), SUPERVISION))
    batches = plan(
        [len(t.steps) for t in trajectories],
        training.batch_size,
        training.optimizer_steps,
        training.seed,
    )
    model = load_expert(spec["expert"], training)
    engine = start_engine(PackedLoss(model), training)
    engine.train()
    torch.manual_seed(training.seed + 1 + rank)  # dropout

    tokens = 0
    started = time.monotonic()
    for step, pairs in enumerate(batches):
        packed = pack(trajectories, pairs)
        micro_batches = [
            collate(items) for items in share(packed, rank, workers, training.micro_batch_tokens)
        ]
        for group in engine.optimizer.param_groups:
            group["lr"] = learning_rate(step, training)
        part = train_step(engine, micro_batches, training.batch_size, workers)
        loss = torch.tensor(part, device=engine.device)
        torch.distributed.all_reduce(loss)
        if not torch.isfinite(loss):
            raise StageError(f"loss is {loss.item()} at step {step + 1}; lower the learning rate")
        tokens += sum(len(p.token_ids) for p in packed)
        if rank == 0:
            spec["progress"].put_nowait((step + 1, loss.item()))

    distinct = {tuple(pair) for pairs in batches for pair in pairs.tolist()}
    metrics = {
        "optimizer_steps": len(batches),
        "trained_steps": len(batches) * training.batch_size,
        "distinct_steps": len(distinct),
        "tokens_forward": tokens,
        "loop_seconds": time.monotonic() - started,
        "final_loss": loss.item(),
    }
    if rank == 0:
        with tempfile.TemporaryDirectory() as scratch:
            adapter, merged = Path(scratch, "adapter"), Path(scratch, "model")
            gap = export(model, spec["expert"], spec["name"], adapter, merged, training)
            run.put_folder(str(adapter), "adapter")
            run.put_folder(str(merged), "model")
        metrics["merge_logit_gap"] = gap
    return metrics
