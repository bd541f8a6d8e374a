"""Sample, train, evaluate: the whole method over one run directory.

python jobs/full_pipeline.py --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...]
python jobs/full_pipeline.py --config qwen2.5-math-1.5b --plan [--gpus 8] [--rates RUN]
"""

import argparse

from rich.console import Console

from lr_ray.cli.front import Command, main
from lr_ray.config import STAGES, Config
from lr_ray.errors import UserError
from lr_ray.pipeline.pipeline import execute
from lr_ray.report.plan import lines


def add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--plan", action="store_true", help="print what the run would ask for; start nothing")
    add("--gpus", metavar="N", type=_count, help="with --plan: GPUs there will be")
    add("--gpu-memory-gb", metavar="G", type=_gigabytes, help="with --plan: of a GPU; 80 if None")
    add("--rates", metavar="RUN", help="with --plan: finished run whose seconds are scaled")


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"{text} must be a number of GPUs from 1 to 1024")
    return int(text)


def _gigabytes(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number of GB above 0")
    return found


def work(command: Command[Config]) -> int:
    options = command.options
    if options.plan:
        console = Console(highlight=False, markup=False)
        for label, text in lines(
            command.config,
            command.config_name,
            options.gpus,
            options.gpu_memory_gb,
            options.rates,
        ):
            console.print(f"{label:<10} {text}", soft_wrap=True)
        return 0
    for name in ("gpus", "gpu_memory_gb", "rates"):
        if getattr(options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} has an effect with --plan alone")
    return execute(command.config, command.run, STAGES, command.config_name)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], work, add_options)
