"""What the commands that run stages share."""

import argparse
from collections.abc import Sequence

from lr_ray.cli.options import Command, parse
from lr_ray.config import Config, Sampling
from lr_ray.errors import UserError

# What --help shows of the settings that a stage reads, and of those of all stages.
METHOD = (
    "models.expert", "models.amateur", "data.source", "sampling.method", "sampling.selection",
    "sampling.labels", "sampling.max_problems", "sampling.max_new_tokens", "sampling.kl_threshold",
    "sampling.plausibility", "sampling.top_k", "sampling.seed", "training.method",
    "training.optimizer_steps", "training.batch_size", "training.learning_rate", "training.lora.rank",
    "training.seed", "evaluation.benchmarks", "evaluation.max_problems", "evaluation.max_new_tokens",
    "evaluation.shots", "evaluation.grader", "evaluation.protocol",
)  # fmt: skip
SAMPLING = (
    "models", "data", "sampling", "resources.expert.gpus", "resources.amateur.gpus",
    "resources.sampling", "resources.wait_s",
)  # fmt: skip
LABELLING = (
    "sampling.selection", "sampling.labels", "sampling.kl_threshold", "sampling.plausibility",
    "sampling.seed",
)  # fmt: skip
TRAINING = ("models.expert", "training", "resources.trainer.gpus", "resources.wait_s")
EVALUATION = (
    "models.expert", "serving", "evaluation", "resources.server.gpus", "resources.evaluation",
    "resources.wait_s",
)  # fmt: skip


def add_stage_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from",
        dest="source",
        metavar="RUN",
        help="run to begin --run with: its config unless --config is given, and what it has finished "
        "that the settings leave valid",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="do again what a changed setting makes stale, instead of naming it and stopping",
    )


def check_contrast(sampling: Sampling, can: str) -> None:
    """Raises UserError unless rows are contrast labels of the steps above the threshold.

    `can` says who needs that: "an audit can recompute".
    """
    for name, needed in (("method", "contrast"), ("selection", "kl"), ("labels", "contrast")):
        value = getattr(sampling, name)
        if value != needed:
            raise UserError(f"sampling.{name} = {value}: {can} {needed} alone")


def stage_command(
    name: str, doc: str | None, argv: list[str], stage: str, shown: Sequence[str]
) -> int:
    """A command that runs one stage."""
    command = parse(doc, argv, add_stage_options, prog=f"lr-ray {name}", shown=shown)
    return run_stages(command, [stage])


def run_stages(command: Command[Config], stages: Sequence[str]) -> int:
    """Runs what is not finished of the stages, and of the rounds. Returns the exit code."""
    from lr_ray.experiments.rounds import run_rounds

    config, name, yes = command.config, command.config_name, command.options.yes
    return run_rounds(config, command.run, tuple(stages), name, source=command.source, yes=yes)
