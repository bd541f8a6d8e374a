"""Serve models behind an OpenAI-compatible endpoint until Ctrl-C: a run's two, or any directories.

python jobs/serve.py --run runs/demo [--serving.port 8000]
python jobs/serve.py --models small=DIR,large=DIR [--resources.server.gpus 1]

With LR_RAY_API_KEY set, requests need it. On Ctrl-C or SIGTERM requests under way finish first.
"""

import sys

from lr_ray.cli.front import Command, main
from lr_ray.cli.serve import serve_models, serve_run
from lr_ray.config import ServeConfig


def work(command: Command) -> int:
    return serve_run(command)


def models_work(command: Command[ServeConfig]) -> int:
    return serve_models(command)


if __name__ == "__main__":
    description = " ".join(__doc__.split())
    if any(argument.split("=")[0] == "--models" for argument in sys.argv):
        main(description, models_work, kind=ServeConfig, defaults={}, resumes=False)
    main(description, work, resumes=False)
