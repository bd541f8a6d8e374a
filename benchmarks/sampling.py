"""The sampling stage against the oracle's loop, and with 1 and 2 engines against one without Ray at a time.

    python benchmarks/sampling.py --pair embedded --problems 2000
    python benchmarks/sampling.py --pair smollm2 --problems 100 --data-dir DIR   # DIR/gsm8k/train.jsonl
    python benchmarks/sampling.py --pair embedded --memory 2000 20000

Seconds are per 1000 scored steps, apart from start-up: from the end of each engine's first batch on.
Without Ray, each engine gets everything in one call, and one works at a time.
The oracle runs on as many threads as are fastest for the pair: one for the embedded pair, all for
SmolLM2; each engine has one. Memory is the driver's resident set and the object store's content, the
largest of readings every quarter of a second.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from in_process import PARTS, InProcess, model_paths

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.method import oracle
from lr_ray.models.models import load_tokenizer, render_prompt, stop_token_ids
from lr_ray.problems import read_problems, stage_problems
from lr_ray.run.store import Run
from lr_ray.runtime.cluster import cluster
from lr_ray.sampling.sample import sample


def configure(pair: str, problems: int, data_dir: str | None, engines: int = 1) -> Config:
    pool = {"dtype": "float32", "min_engines": engines, "max_engines": engines}
    sampling: dict[str, Any] = {"max_problems": problems, "expert": pool, "amateur": pool}
    tree = read_tree("demo")
    if pair == "smollm2":
        import smollm2

        expert, amateur = smollm2.make_pair()
        models = {"expert": str(expert), "amateur": str(amateur)}
        data = {"source": "gsm8k", "data_dir": data_dir}
        tree = merge(tree, {"models": models, "data": data})
        sampling |= {"kl_threshold": 0.4, "top_k": 256, "batch_size": 50}
    return resolve(merge(tree, {"sampling": sampling}))


def run_oracle(config: Config, run: Run, problems: int, threads: int) -> tuple[float, int]:
    """Seconds and steps of the naive loop over the first problems."""
    torch.set_num_threads(threads)
    expert_path, amateur_path = model_paths(config)
    expert, amateur = oracle.load(expert_path), oracle.load(amateur_path)
    tokenizer, stop = load_tokenizer(expert_path), stop_token_ids(expert_path)
    settings, steps = config.sampling, 0
    texts = read_problems(run, np.arange(problems))["problem"].to_pylist()
    started = time.monotonic()
    for text in texts:
        solution = oracle.solve(
            expert,
            amateur,
            render_prompt(tokenizer, text, settings.system_prompt),
            stop,
            settings.max_new_tokens,
            settings.kl_threshold,
            settings.plausibility,
        )
        steps += len(solution.kl)
    return time.monotonic() - started, steps


def run_bare(config: Config, run: Run, problems: int) -> dict[str, float]:
    """Seconds per 1000 steps of both engines and of the labels, each in one call with everything."""
    engines, warm = InProcess(config, run), config.sampling.batch_size
    engines.sample(np.arange(warm))
    labelled, seconds = engines.sample(np.arange(warm, problems))
    steps = labelled.facts.steps_scored
    return {part: 1000 * spent / steps for part, spent in seconds.items()}


def run_stage(config: Config, folder: Path) -> dict[str, float]:
    """Seconds per 1000 steps of the stage on Ray, its start-up, and peak memory."""
    seen: list[tuple[float, int]] = []
    peak = {"driver": 0, "store": 0}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.25):
            peak["driver"] = max(peak["driver"], psutil.Process().memory_info().rss)
            peak["store"] = max(peak["store"], object_store_bytes())

    started = time.monotonic()
    with cluster():
        watcher = threading.Thread(target=watch)
        watcher.start()
        summary = sample(
            Run(str(folder)),
            config,
            *model_paths(config),
            lambda _, facts, shard: seen.append((time.monotonic(), facts.steps_scored)),
        )
        ended.set()
        watcher.join()
    # From when each engine has finished a batch: several may finish their first at once.
    warm, last = seen[config.sampling.expert.most], seen[-1]
    steps = last[1] - warm[1]
    return {
        "rate": 1000 * (last[0] - warm[0]) / steps if steps else float("nan"),
        "start": seen[1][0] - started,
        "trajectories": summary["trajectories"],
        "driver": peak["driver"] / 1e6,
        "store": peak["store"] / 1e6,
    }


def object_store_bytes() -> int:
    import ray
    from ray._private.internal_api import get_memory_info_reply, get_state_from_address

    state = get_state_from_address(ray.get_runtime_context().gcs_address)
    return int(get_memory_info_reply(state).store_stats.object_store_bytes_used)


def compare(args: argparse.Namespace, folder: Path) -> None:
    config = configure(args.pair, args.problems, args.data_dir)
    run = Run(str(folder / "bare"))
    stage_problems(run, config)
    seconds, steps = run_oracle(config, run, args.oracle_problems, args.oracle_threads)
    naive = 1000 * seconds / steps
    print(f"oracle      {naive:8.2f} s per 1000 steps ({steps} steps)", flush=True)
    bare = run_bare(config, run, args.problems)
    total = sum(bare.values())
    parts = ", ".join(f"{part} {bare[part]:.2f}" for part in PARTS)
    print(f"engines     {total:8.2f} s per 1000 steps in one process ({parts})", flush=True)
    for engines in args.engines:
        config = configure(args.pair, args.problems, args.data_dir, engines)
        stage = run_stage(config, folder / f"engines-{engines}")
        print(
            f"stage       {stage['rate']:8.2f} s per 1000 steps, {engines} engines a pool: "
            f"{naive / stage['rate']:.1f} times the oracle, {stage['rate'] / total - 1:+.0%} against "
            f"the engines in one process; first shard after {stage['start']:.1f} s",
            flush=True,
        )
        per_problem = steps / args.oracle_problems
        ours = stage["start"] + per_problem * stage["rate"]
        print(
            f"            1000 problems with start-up, extrapolated: {ours:.0f} s against "
            f"{per_problem * naive:.0f} s, {per_problem * naive / ours:.1f} times"
        )


def memory(args: argparse.Namespace, folder: Path) -> None:
    for problems in args.memory:
        config = configure(args.pair, problems, args.data_dir)
        stage = run_stage(config, folder / f"memory-{problems}")
        print(
            f"{problems} problems: {stage['trajectories']} trajectories, driver "
            f"{stage['driver']:.0f} MB, object store {stage['store']:.0f} MB, "
            f"{stage['rate']:.2f} s per 1000 steps",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("embedded", "smollm2"), default="embedded")
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--oracle-problems", type=int, default=None)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 2], help="engines a pool")
    parser.add_argument("--data-dir", help="folder of gsm8k/train.jsonl, for --pair smollm2")
    parser.add_argument(
        "--memory", type=int, nargs="+", help="only peak memory of so many problems"
    )
    args = parser.parse_args()
    real = args.pair == "smollm2"
    args.oracle_problems = args.oracle_problems or (2 if real else 40)
    args.oracle_threads = psutil.cpu_count() if real else 1
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        (memory if args.memory else compare)(args, Path(folder))


if __name__ == "__main__":
    main()
