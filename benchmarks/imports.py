"""What garbage collection costs a process that imports large libraries.

    python benchmarks/imports.py

CPU seconds of a fresh process until an engine of the embedded expert is ready, what the endpoint needs is
imported, or the embedded expert has its LoRA weights: as Python has it, and as our processes
do it; medians of five pairs each. The files are read before, so that the disk does not count.
"""

import statistics
import subprocess
import sys

PAIRS = 5
SCRIPT = """
import contextlib, time
from lr_ray.runtime import imports
if {way!r} == "collected":
    imports.uncollected = contextlib.nullcontext
{work}
print(time.process_time())
"""
ENGINE = """
from lr_ray.config import Place, Pool
from lr_ray.embedded import expert_path
from lr_ray.engines.vllm import start_engine
start_engine(str(expert_path()), Pool(dtype="float32"), Place(cpus=1), 512)
"""
ENDPOINT = """
from lr_ray.serving import ingress, server
"""
TRAINING = """
import ray.train.torch
from lr_ray.config import read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.training.engine import load_expert
load_expert(str(expert_path()), resolve(read_tree("demo")).training)
"""
WORK = {"an engine": ENGINE, "the endpoint": ENDPOINT, "a training worker": TRAINING}
WAYS = ("collected", "uncollected")


def measure(way: str, work: str) -> float:
    told = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(way=way, work=work)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return float(told.stdout.splitlines()[-1])


def compare(name: str, work: str) -> None:
    measure("collected", work)
    pairs = [[measure(way, work) for way in WAYS] for _ in range(PAIRS)]
    ratios = [ours / theirs for theirs, ours in pairs]
    seconds = [statistics.median(column) for column in zip(*pairs, strict=True)]
    print(
        name,
        *(f"{way} {median:.2f} s" for way, median in zip(WAYS, seconds, strict=True)),
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        sep=", ",
    )


def main() -> None:
    for name, work in WORK.items():
        compare(name, work)


if __name__ == "__main__":
    main()
