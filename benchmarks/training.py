"""Training: packed against one forward per kept step, workers and ZeRO stages, the cost of Ray and DeepSpeed.

    python benchmarks/training.py --pair embedded
    python benchmarks/training.py --pair smollm2 --data-dir DIR        # DIR/gsm8k/train.jsonl
    python benchmarks/training.py --random-weights qwen2.5-math-1.5b   # on a GPU; see below

Samples a few problems with both engines, in one process, for supervision. Then prints, for LoRA without
dropout in float32 and on one thread a process:

1. Both ways of filling a batch, each on the same batches: seconds of an optimizer step (gradient,
   clipping, AdamW) and tokens forwarded, packed and not (`benchmarks/packing.py` says what is compared),
   how speed gains against tokens, the share of padding, the operator calls of a micro-batch (which stand
   for a GPU's kernel launches), and how far the gradients are apart.
2. `lr_ray.training.train.train` on a local Ray cluster with 1 and 2 workers, ZeRO 2 and 3: the median
   of `seconds` in metrics.jsonl without the first two rows, and what Ray Train takes around its loop.
3. A plain torch loop (the same packed loss, clipping, AdamW) over the same batches: what DeepSpeed and
   Ray add to an optimizer step of one worker.

`--random-weights` prints the first part alone, for an architecture with random weights and random
trajectories of about 230 tokens with about 20 kept steps: it times like the real model and says nothing
about accuracy. In bfloat16 on a GPU where there is one, else in float32. It needs torch, transformers
and peft, not Ray, vLLM, DeepSpeed, pyarrow or pydantic. `packing.flops` holds the formula of the model
FLOP; `--peak-tflops` is what they are compared with.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: as a training worker on CPU has

import numpy as np
import torch
from packing import Work, compare, print_calls, print_gradients

from lr_ray.training.batches import Step, Trajectory, plan
from lr_ray.training.model import PackedLoss, load_expert, with_lora

# hidden, layers, heads, KV heads, intermediate, vocabulary rows, tied
SIZES = {
    "tiny": (64, 2, 4, 2, 128, 1000, True),
    "qwen2.5-0.5b": (896, 24, 14, 2, 4864, 151936, True),
    "qwen2.5-math-1.5b": (1536, 28, 12, 2, 8960, 151936, True),
    "qwen2.5-math-7b": (3584, 28, 28, 4, 18944, 152064, False),
}
WARM_UP = 2  # optimizer steps
CPU = torch.device("cpu")


def random_model(size: str, device: torch.device, dtype: str) -> Any:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    hidden, layers, heads, kv_heads, intermediate, rows, tied = SIZES[size]
    config = Qwen2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=intermediate,
        vocab_size=rows,
        tie_word_embeddings=tied,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return Qwen2ForCausalLM(config)
    finally:
        torch.set_default_dtype(before)


def random_trajectories(vocabulary: int, count: int = 1000) -> list[Trajectory]:
    """Prompts of 70 to 130 tokens, completions of 128, 15 to 25 kept steps of 2 or 3 label ids."""
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        prompt = int(rng.integers(70, 131))
        kept = np.sort(rng.choice(128, int(rng.integers(15, 26)), replace=False))
        steps = []
        for position in kept:
            size = int(rng.integers(2, 4))
            weights = rng.dirichlet(np.ones(size)).astype(np.float32)
            ids = rng.integers(0, vocabulary, size).astype(np.int32)
            steps.append(Step(prompt + int(position) - 1, ids, weights))
        tokens = rng.integers(0, vocabulary, prompt + 128).astype(np.int32)
        made.append(Trajectory(tokens, tuple(steps), index))
    return made


def random_work(size: str, micro_batch_tokens: int) -> Work:
    """The paper's LoRA without dropout on random weights and trajectories."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = "bfloat16" if device.type == "cuda" else "float32"
    training: Any = SimpleNamespace(  # a `Training` needs pydantic
        method="lora",
        lora=SimpleNamespace(rank=8, alpha=16, dropout=0.0, targets=["q_proj", "v_proj"]),
        seed=0,
        gradient_checkpointing=False,
        micro_batch_tokens=micro_batch_tokens,
        learning_rate=5e-5,
        weight_decay=0.0,
        max_grad_norm=1.0,
    )
    model = with_lora(random_model(size, device, dtype), training).to(device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    print(f"{size}, random weights, {dtype} on {name}, torch {torch.__version__}")
    trajectories = random_trajectories(model.config.vocab_size)
    return Work(model, PackedLoss(model, training), training, trajectories, device)


def batches_of(work: Work, by: str, size: int, steps: int) -> list[np.ndarray]:
    counts = [len(t.steps) for t in work.trajectories]
    return list(itertools.islice(plan(counts, size, work.training.seed, by), steps))


def configure(args: argparse.Namespace, **training: Any) -> Any:
    """The demo's config over the pair, in float32, without dropout."""
    import sampling

    from lr_ray.config import changed

    config = sampling.configure(args.pair, args.problems, args.data_dir)
    over: dict[str, Any] = {"training": {"optimizer_steps": args.optimizer_steps}}
    over["training"] |= {"lora": {"dropout": 0.0}, "batch_size": args.batch_size, **training}
    over["training"] |= {"micro_batch_tokens": args.micro_batch_tokens}
    over["training"] |= {"trackers": [], "checkpoint_every": args.optimizer_steps}
    if args.pair == "smollm2":
        over["sampling"] = {"max_new_tokens": 64}
        over["training"]["learning_rate"] = 5e-5
        if args.data_dir is None:
            over["data"] = {"source": "demo"}
    return changed(config, over)


def sample(config: Any, folder: Path) -> Any:
    """Supervision of the config's problems, a table, by both engines in this process."""
    from in_process import InProcess

    from lr_ray.problems import stage_problems
    from lr_ray.run.store import Run

    run = Run(str(folder))
    total = stage_problems(run, config)
    labelled, _ = InProcess(config, run).sample(np.arange(total))
    facts = labelled.facts
    print(f"{total} problems, {facts.steps_kept} of {facts.steps_scored} steps kept", flush=True)
    return labelled.good


def load_work(config: Any, table: Any, folder: Path) -> Work:
    from in_process import model_paths

    from lr_ray.models.files import vocabulary_rows
    from lr_ray.run.store import Run
    from lr_ray.training.data import Supervision

    run, scratch = Run(str(folder / "work")), str(folder)
    run.write_table("supervision/part-0.parquet", table)
    expert = model_paths(config)[0]
    supervision = Supervision(run, vocabulary_rows(expert), scratch)
    trajectories = [supervision[i] for i in range(len(supervision.step_counts))]
    model = load_expert(expert, config.training).train()
    return Work(model, PackedLoss(model, config.training), config.training, trajectories, CPU)


def through_ray(args: argparse.Namespace, table: Any, folder: Path) -> float:
    """Prints the stage's seconds for each number of workers and ZeRO stage; those of (1, 2) are returned."""
    from in_process import model_paths

    from lr_ray.run.store import Run
    from lr_ray.runtime.cluster import cluster
    from lr_ray.training.train import train

    found = {}
    with cluster():
        for workers, zero in itertools.product((1, 2), (2, 3)):
            config = configure(args, num_workers=workers, zero_stage=zero)
            run = Run(str(folder / f"ray-{workers}-{zero}"))
            run.write_table("supervision/part-0.parquet", table)
            rows: list[dict[str, Any]] = []
            figures = train(run, config, model_paths(config)[0], rows.append)
            found[workers, zero] = statistics.median(row["seconds"] for row in rows[WARM_UP:])
            print(
                f"{workers} workers, ZeRO {zero}: {found[workers, zero]:.4f} s an optimizer step, "
                f"{found[1, 2] / found[workers, zero]:.2f} times as fast as 1 worker with ZeRO 2; "
                f"around the loop {figures['seconds'] - figures['loop_seconds']:.1f} s",
                flush=True,
            )
    return found[1, 2]


def compare_forms(args: argparse.Namespace, work: Work) -> None:
    for by, size, steps in (
        ("step", args.batch_size, args.optimizer_steps),
        ("trajectory", args.trajectories, args.trajectory_steps),
    ):
        compare(work, batches_of(work, by, size, steps), by, args.peak_tflops)
    first = batches_of(work, "step", args.batch_size, 1)[0]
    print_calls(work, first)
    print_gradients(work, first)


def measure_pair(args: argparse.Namespace, folder: Path) -> None:
    config = configure(args)
    table = sample(config, folder / "sampled")
    work = load_work(config, table, folder)
    compare_forms(args, work)
    batches = batches_of(work, "step", args.batch_size, args.optimizer_steps)
    optimizer = work.optimizer()
    spent = [work.step("packed", pairs, optimizer) for pairs in batches]
    plain = statistics.median(spent[WARM_UP:])
    print(f"plain torch loop: {plain:.4f} s an optimizer step", flush=True)
    started = time.monotonic()
    stage = through_ray(args, table, folder)
    print(f"DeepSpeed and Ray add {stage / plain - 1:+.1%} to an optimizer step of one worker")
    print(f"(these four trainings took {time.monotonic() - started:.0f} s)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("embedded", "smollm2"), default="embedded")
    parser.add_argument("--random-weights", choices=SIZES, help="only the first part, of this size")
    parser.add_argument("--problems", type=int, help="default 100, of smollm2 8")
    parser.add_argument("--data-dir", help="folder of gsm8k/train.jsonl, for smollm2; else demo's")
    parser.add_argument("--optimizer-steps", type=int, help="default 20, of smollm2 5")
    parser.add_argument("--batch-size", type=int, help="kept steps; default 16, of smollm2 8")
    parser.add_argument("--trajectories", type=int, help="a batch; default 16, of smollm2 2")
    parser.add_argument(
        "--trajectory-steps", type=int, help="such batches; default 3, of smollm2 1"
    )
    parser.add_argument("--micro-batch-tokens", type=int, help="default 8192, of smollm2 2048")
    parser.add_argument("--peak-tflops", type=float, help="default on a GPU 989: H100 SXM, bf16")
    args = parser.parse_args()
    small = args.pair == "smollm2" and not args.random_weights
    defaults = {"problems": (100, 8), "optimizer_steps": (20, 5), "batch_size": (16, 8)}
    defaults |= {"trajectories": (16, 2), "trajectory_steps": (3, 1)}
    defaults |= {"micro_batch_tokens": (8192, 2048)}
    for name, values in defaults.items():
        if getattr(args, name) is None:
            setattr(args, name, values[small])
    if args.random_weights:
        if args.peak_tflops is None and torch.cuda.is_available():
            args.peak_tflops = 989.0
        compare_forms(args, random_work(args.random_weights, args.micro_batch_tokens))
        return
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        measure_pair(args, Path(folder))


if __name__ == "__main__":
    main()
