"""Compare variants of the method over seeds: ablations, baselines, sweeps, in one table.

lr-ray compare --config demo --run runs/compare [--grid threshold] [--training.optimizer_steps 40 ...]

lr-ray compare --against paper --run RUN [--json]

Writes <run>/comparison.md and comparison.json, a sweep also comparison.svg and .png, with several
benchmarks comparison-BENCHMARK.svg and .png; each variant and seed is a run of its own under
<run>/variants/. The same command goes on after an interruption.
--against paper puts a finished run's accuracies beside the paper's, and writes and starts nothing.
"""

import argparse
import json

from lr_ray.cli.options import Command, parse
from lr_ray.cli.stages import METHOD
from lr_ray.config import Config
from lr_ray.errors import UserError
from lr_ray.run.store import Run, read_asked, shaped


def _add_options(parser: argparse.ArgumentParser) -> None:
    from lr_ray.experiments.grid import grid_names

    parser.add_argument(
        "--grid",
        metavar="NAME_OR_PATH",
        help=f"{', '.join(grid_names())}, or a YAML file; without it, that of an existing --run, else "
        "ablations",
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
    parser.add_argument(
        "--against",
        choices=("paper",),
        help="print the accuracies of the finished --run beside the paper's figures for its expert",
    )
    parser.add_argument(
        "--json", action="store_true", help="with --against, print a JSON object on a line"
    )


def main(argv: list[str]) -> int:
    command = parse(__doc__, argv, _add_options, prog="lr-ray compare", shown=METHOD)
    options, run = command.options, command.run
    if options.against:
        return _against_paper(command)
    if options.json:
        raise UserError("--json: goes with --against; a comparison writes comparison.json")
    from lr_ray.experiments.compare import compare

    if options.run is None:  # not where the config's ordinary run is
        run = Run(f"{run.location}-compared")
    return compare(
        command.config, run, command.config_name, options.grid, options.amateurs, command.source
    )


def _against_paper(command: Command[Config]) -> int:
    from lr_ray.experiments.against import lines, look

    options, run = command.options, command.run
    others = (options.config, options.grid, options.amateurs, options.source, options.device)
    if options.run is None or any(others):
        raise UserError("--against paper: takes --run alone, and reads the settings that it has")
    changed = command.config.changes(read_asked(run)["config"])
    if changed:
        raise UserError(f"--against paper: {run.location} was made with another {changed[0]}")
    with shaped(run.location, "summary.json"):
        found = look(run)
    print(json.dumps(found, allow_nan=False) if options.json else "\n".join(lines(found)))
    return 0
