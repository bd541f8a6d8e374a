"""The demo over seeds: accuracy before and after, seconds, peak memory, processes left behind.

    python benchmarks/demo.py --runs runs/seeds [--other-expert DIR]

One full pipeline per row, from a new run directory each. `--other-expert` adds a row for an expert
pre-trained with another seed (`python -m recipes.embedded_pair.recipe --only expert --expert-seed 1
--out DIR`). Memory is the proportional set size of all processes of the job, shared pages counted
once, read every second.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import Any

import psutil

JOB = Path(__file__).parents[1] / "jobs/full_pipeline.py"
MARK = "LR_RAY_BENCHMARK_MARK"


def marked(mark: str) -> list[psutil.Process]:
    """Processes that inherited the mark from the job."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == mark:
                found.append(process)
    return found


def memory(processes: list[psutil.Process]) -> int:
    total = 0
    for process in processes:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total


def measure(run: Path, options: list[str]) -> dict[str, Any]:
    """Runs the job; returns its summary's figures with wall seconds, peak bytes and leftovers."""
    mark = uuid.uuid4().hex
    command = [sys.executable, str(JOB), "--config", "demo", "--run", str(run), *options]
    started, peak = time.monotonic(), 0
    process = subprocess.Popen(command, env=os.environ | {MARK: mark}, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        peak = max(peak, memory(marked(mark)))
        time.sleep(1)
    wall = time.monotonic() - started
    if process.returncode:
        raise SystemExit(f"error: {' '.join(command)} exited {process.returncode}")
    time.sleep(5)
    summary = json.loads((run / "summary.json").read_text())
    return {
        **summary["accuracy"]["demo"],
        "kept": summary["sampling"]["steps_kept"] / summary["sampling"]["steps_scored"],
        "seconds": summary["seconds_total"],
        "wall": wall,
        "peak": peak,
        "left": len(marked(mark)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, required=True, help="new folder for the runs")
    parser.add_argument("--other-expert", help="expert pre-trained with another seed")
    args = parser.parse_args()
    variants: dict[str, list[str]] = {
        "demo": [],
        "LoRA seed 1": ["--training.seed=1"],
        "LoRA seed 2": ["--training.seed=2"],
        "sampling seed 1": ["--data.seed=1"],
    }
    if args.other_expert:
        variants["another expert"] = [f"--models.expert={args.other_expert}"]
    args.runs.mkdir(parents=True)
    print(
        "| run | expert | improved | difference | 95 % interval | kept | seconds | wall | peak GB "
        "| left |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    for name, options in variants.items():
        row = measure(args.runs / name.replace(" ", "-").lower(), options)
        low, high = row["difference_ci95"]
        print(
            f"| {name} | {row['expert']:.1%} | {row['improved']:.1%} | {row['difference']:+.3f} "
            f"| {low:+.3f} to {high:+.3f} | {row['kept']:.1%} | {row['seconds']:.0f} "
            f"| {row['wall']:.0f} | {row['peak'] / 1e9:.1f} | {row['left']} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
