"""Print what a run would ask for: memory, GPUs, tokens, disk and, by another run's rates, time.

lr-ray plan --config qwen2.5-math-1.5b [--gpus 8] [--gpu-memory-gb 80] [--rates RUN]
"""

import argparse

from lr_ray.cli.front import number
from lr_ray.cli.options import Command, parse
from lr_ray.config import Config

SHOWN = (
    "models", "data.source", "sampling.method", "sampling.max_problems", "sampling.max_new_tokens",
    "sampling.top_k", "training.method", "training.optimizer_steps", "training.batch_size",
    "training.zero_stage", "training.num_workers", "serving.max_model_len", "serving.min_replicas",
    "evaluation.benchmarks", "evaluation.max_problems", "evaluation.max_new_tokens",
    "evaluation.samples", "resources.sampling", "resources.evaluation",
    *(f"resources.{role}.gpus" for role in ("expert", "amateur", "trainer", "server")),
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser, only: str = "") -> None:
    """`only` says when they have an effect."""
    add = parser.add_argument
    gpus = number(int, "{} must be a number of GPUs from 1 to 1024", most=1024)
    gigabytes = number(float, "{} must be a number of GB above 0")
    add("--gpus", metavar="N", type=gpus, help=f"{only}GPUs there will be")
    add("--gpu-memory-gb", metavar="G", type=gigabytes, help=f"{only}of a GPU (80)")
    add("--rates", metavar="RUN", help=f"{only}finished run whose seconds are scaled")


def show(command: Command[Config]) -> int:
    from rich.console import Console

    from lr_ray.report.plan import lines

    options, console = command.options, Console(highlight=False, markup=False)
    memory = options.gpu_memory_gb
    for label, text in lines(
        command.config, command.config_name, options.gpus, memory, options.rates
    ):
        console.print(f"{label:<10} {text}", soft_wrap=True)
    return 0


def main(argv: list[str]) -> int:
    return show(parse(__doc__, argv, add_options, prog="lr-ray plan", shown=SHOWN))
