"""Compare models on benchmarks: a run's expert before and after training, or any behind an endpoint.

lr-ray evaluate --run runs/demo
lr-ray evaluate --endpoint http://127.0.0.1:8000/v1 --models base,tuned --run runs/asked

With --endpoint, evaluation.* are those of --config, else the paper's: its seven benchmarks and their
prompt. The key is read from OPENAI_API_KEY. The same command goes on after an interruption.
"""

import argparse
import re

from lr_ray.cli.options import parse
from lr_ray.cli.stages import EVALUATION, add_stage_options, run_stages
from lr_ray.config import EndpointConfig, endpoint_tree
from lr_ray.errors import UserError

_PROG = "lr-ray evaluate"


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--endpoint", metavar="URL", help="base URL of an OpenAI-compatible API to ask, of no run")
    add(
        "--models",
        action="append",
        metavar="A,B",
        help="with --endpoint: names served there, the one to compare with first",
    )
    add_stage_options(parser)


def main(argv: list[str]) -> int:
    if not any(argument.split("=")[0] == "--endpoint" for argument in argv):
        if re.search(r"--models[= ](?!\s*\{)", " ".join(argv)):
            raise UserError(
                "--models: names what an --endpoint serves; give --endpoint URL too, or leave it out"
            )
        command = parse(__doc__, argv, _add_options, prog=_PROG, shown=EVALUATION)
        return run_stages(command, ["evaluation"])
    from lr_ray.pipeline.evaluation import evaluate_endpoint

    defaults = {"evaluation": endpoint_tree()["evaluation"]}
    asked = parse(__doc__, argv, kind=EndpointConfig, defaults=defaults, prog=_PROG)
    return evaluate_endpoint(asked.config, asked.run)
