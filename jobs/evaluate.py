"""Compare models on benchmarks: a run's expert and improved expert, or any behind an endpoint.

python jobs/evaluate.py --config demo --run runs/demo
python jobs/evaluate.py --endpoint http://127.0.0.1:8000/v1 --models expert,improved \
    --run runs/asked [--evaluation.benchmarks gsm8k,svamp ...]

With --endpoint, evaluation.* are those of --config, else the paper's: its seven benchmarks and their
prompt. The key is read from OPENAI_API_KEY. The same command goes on after an interruption.
"""

import sys

from lr_ray.cli.front import Command, main
from lr_ray.config import EndpointConfig, read_tree
from lr_ray.pipeline.pipeline import execute

_PAPER = "qwen2.5-math-1.5b"


def work(command: Command) -> int:
    return execute(command.config, command.run, ("evaluation",), command.config_name)


def endpoint_work(command: Command[EndpointConfig]) -> int:
    from lr_ray.pipeline.evaluation import evaluate_endpoint

    return evaluate_endpoint(command.config, command.run)


if __name__ == "__main__":
    description = " ".join(__doc__.split())
    if any(argument.split("=")[0] == "--endpoint" for argument in sys.argv):
        defaults = {"evaluation": read_tree(_PAPER)["evaluation"]}
        main(description, endpoint_work, kind=EndpointConfig, defaults=defaults)
    main(description, work)
