"""Sample, train, evaluate: the whole method over one run directory.

lr-ray run --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...] [--rounds 3]
"""

import argparse

from lr_ray.cli import plan
from lr_ray.cli.options import parse
from lr_ray.cli.stages import METHOD, add_stage_options, run_stages
from lr_ray.config import STAGES
from lr_ray.errors import UserError


def _add_options(parser: argparse.ArgumentParser) -> None:
    add_stage_options(parser)
    parser.add_argument(
        "--plan", action="store_true", help="print what the run would ask for, as lr-ray plan does"
    )
    plan.add_options(parser, only="with --plan: ")


def main(argv: list[str]) -> int:
    shown = (*METHOD, "rounds", "models.amateur_of_rounds", "data.repeat_in_rounds")
    command = parse(__doc__, argv, _add_options, prog="lr-ray run", shown=shown)
    if command.options.plan:
        return plan.show(command)
    for name in ("gpus", "gpu_memory_gb", "rates"):
        if getattr(command.options, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} has an effect with --plan alone")
    return run_stages(command, STAGES)
