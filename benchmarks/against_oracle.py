"""The package's engines and packed training against the oracle's loops, on the same work.

    python benchmarks/against_oracle.py [--problems 40]

One process, no Ray: what the algorithm gains, apart from start-up and cluster. For the embedded pair
on one thread, prints how far the two agree (tokens, KL, labels, gradient), seconds per 1000 scored and
per 1000 trained steps, and their ratios.
"""

import argparse
import itertools
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: threads of tiny matrices only wait

import numpy as np
import torch
from in_process import InProcess
from packing import Work, print_gradients

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path, generate
from lr_ray.method import oracle
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.problems import stage_problems
from lr_ray.run.store import Run
from lr_ray.training.batches import plan
from lr_ray.training.data import Supervision
from lr_ray.training.model import PackedLoss, load_expert

EXPERT, AMATEUR = str(expert_path()), str(amateur_path())


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def print_agreement(rows: list[dict], solutions: list[oracle.Solution]) -> None:
    """How far the engines' rows are from the oracle's: tokens, KL, kept steps, labels."""
    same = [r["completion_token_ids"] == s.completion for r, s in zip(rows, solutions, strict=True)]
    kl = label = 0.0
    one_sided = []
    for row, solution in zip(rows, solutions, strict=True):
        kl = max(kl, np.abs(np.array(row["kl"]) - solution.kl).max())
        ours = {step["position"]: step for step in row["steps"]}
        theirs = {len(step.context) - len(solution.prompt): step for step in solution.kept}
        one_sided += [solution.kl[position] for position in ours.keys() ^ theirs.keys()]
        for position in ours.keys() & theirs.keys():
            mine = dict(zip(ours[position]["token_ids"], ours[position]["weights"], strict=True))
            other = theirs[position]
            for token, weight in zip(other.token_ids, other.weights, strict=True):
                label = max(label, abs(weight - mine.pop(token, 0.0)))
            label = max(label, *mine.values(), 0.0)
    print(f"agreement  {sum(same)} of {len(same)} trajectories with identical tokens")
    print(f"           largest KL difference {kl:.1e} nats, largest label difference {label:.1e}")
    print(f"           {len(one_sided)} steps kept by one only, at KL {one_sided}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--optimizer-steps", type=int, default=10)
    args = parser.parse_args()
    config = resolve(merge(read_tree("demo"), {"sampling": {"max_problems": args.problems}}))
    problems = generate("sampling", args.problems)
    tokenizer, stop = load_tokenizer(EXPERT), stop_token_ids(EXPERT)

    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        run = Run(folder)
        stage_problems(run, config)
        start_seconds, engines = timed(partial(InProcess, config, run))
        engines.sample(np.arange(2))  # warm
        ours, (labelled, _) = timed(partial(engines.sample, np.arange(args.problems)))
    table = labelled.good
    expert, amateur = oracle.load(EXPERT), oracle.load(AMATEUR)
    theirs, solutions = timed(
        lambda: [
            oracle.solve(
                expert,
                amateur,
                render_prompt(tokenizer, p["problem"], None),
                stop,
                config.sampling.max_new_tokens,
                config.sampling.kl_threshold,
                config.sampling.plausibility,
            )
            for p in problems
        ]
    )
    steps = sum(len(s.kl) for s in solutions)
    print_agreement(table.to_pylist(), solutions)
    print(f"engines start in {start_seconds:.1f} s; {steps} steps scored by both")
    print(f"sampling   {1000 * ours / steps:8.2f} s per 1000 steps, engines")
    print(f"           {1000 * theirs / steps:8.2f} s per 1000 steps, oracle")
    print(f"           {theirs / ours:8.1f} times as fast")

    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        run = Run(folder)
        run.write_table("supervision/part-0.parquet", table)
        supervision = Supervision(run, vocabulary_rows(EXPERT), folder)
        trajectories = [supervision[i] for i in range(len(supervision.step_counts))]
    drawn = plan([len(t.steps) for t in trajectories], 16, 0, "step")
    batches = list(itertools.islice(drawn, args.optimizer_steps))
    model = load_expert(EXPERT, config.training).eval()
    loss = PackedLoss(model, config.training)
    work = Work(model, loss, config.training, trajectories, torch.device("cpu"))
    print_gradients(work, batches[0])
    kept = [oracle.unpacked(trajectories, pairs) for pairs in batches]
    trained = 16 * args.optimizer_steps
    optimizer = work.optimizer()
    work.warm("packed", batches[0])
    ours = sum(work.step("packed", pairs, optimizer) for pairs in batches)
    rates = [config.training.learning_rate] * len(kept)
    theirs, _ = timed(partial(oracle.train, oracle.with_lora(expert, 0), kept, rates))
    print(f"training   {1000 * ours / trained:8.2f} s per 1000 trained steps, packed")
    print(f"           {1000 * theirs / trained:8.2f} s per 1000 trained steps, oracle")
    print(f"           {theirs / ours:8.1f} times as fast")


if __name__ == "__main__":
    main()
