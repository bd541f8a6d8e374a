"""Compare variants of the method over seeds: ablations, baselines, sweeps, in one table.

lr-ray compare --config demo --run runs/compare [--grid threshold] [--training.optimizer_steps 40 ...]

Writes <run>/comparison.md and comparison.json, a sweep also comparison.svg and .png; each variant and
seed is a run of its own under <run>/variants/. The same command goes on after an interruption.
"""

import argparse

from lr_ray.cli.options import Command, parse
from lr_ray.cli.stages import METHOD
from lr_ray.config import Config
from lr_ray.run.store import Run


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grid",
        metavar="NAME_OR_PATH",
        help="ablations, threshold, plausibility, gap, or a YAML file; without it, that of an existing "
        "--run, else ablations",
    )
    parser.add_argument(
        "--amateurs",
        metavar="DIR",
        help="folder of the model directories that a grid's models.amateur names; without it, the "
        "grid file's",
    )
    parser.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        help="run or comparison whose finished work of the same settings is taken over",
    )


def main(argv: list[str]) -> int:
    from lr_ray.experiments.compare import compare

    command: Command[Config] = parse(
        __doc__, argv, _add_options, prog="lr-ray compare", shown=METHOD
    )
    options, run = command.options, command.run
    if options.run is None:  # not where the config's ordinary run is
        run = Run(f"{run.location}-compared")
    source = Run(options.source) if options.source else None
    return compare(command.config, run, command.config_name, options.grid, options.amateurs, source)
