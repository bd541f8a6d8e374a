"""What waiting threads cost: GNU OpenMP's default, by which they spin on, against our processes' variables.

    python benchmarks/threads.py

A process does the matrix products of a decoding step of the 1.5B model's size, 22 sequences in bfloat16, on
as many threads as there are cores; first alone, then beside another that does the same. Medians of three
rounds; products a second of all processes together.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time

from lr_ray.config import Place
from lr_ray.runtime.threads import environment

SECONDS, ROUNDS, SEQUENCES = 5.0, 3, 22
SHAPES = (
    (1536, 1536),
    (1536, 8960),
    (8960, 1536),
)  # attention's output, and the two sides of the MLP
CORES = len(os.sched_getaffinity(0))


def work() -> None:
    """Prints products a second."""
    import torch

    torch.manual_seed(0)
    weights = [torch.randn(out, into, dtype=torch.bfloat16) for into, out in SHAPES]
    x = torch.randn(SEQUENCES, SHAPES[0][0], dtype=torch.bfloat16)
    done, started = 0, time.monotonic()
    while time.monotonic() - started < SECONDS:
        y = x
        for weight in weights:
            y = torch.nn.functional.silu(torch.nn.functional.linear(y, weight))
        done += len(SHAPES)
    print(done / (time.monotonic() - started))


def measure(processes: int, variables: dict[str, str]) -> float:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, __file__, "--work"]
    started = [
        subprocess.Popen(command, env=env | variables, stdout=subprocess.PIPE, text=True)
        for _ in range(processes)
    ]
    return sum(float(process.communicate()[0]) for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    if parser.parse_args().work:
        work()
        return
    ours = environment(Place(gpus=0, cpus=CORES))
    default = {name: ours[name] for name in ("OMP_NUM_THREADS",)}
    for processes in (1, 2):
        pairs = [(measure(processes, default), measure(processes, ours)) for _ in range(ROUNDS)]
        default_rate, our_rate = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{processes} of {CORES} threads on {CORES} cores: by default {default_rate:.0f} products/s, "
            f"with ours {our_rate:.0f}, ratio {statistics.median(b / a for a, b in pairs):.2f}"
        )


if __name__ == "__main__":
    main()
