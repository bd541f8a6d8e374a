"""Fine-tune the expert on a run's supervision; export adapter and merged model.

python jobs/train.py --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...]
"""

from lr_ray.cli.front import Command, main
from lr_ray.pipeline.pipeline import execute


def work(command: Command) -> int:
    return execute(command.config, command.run, ("training",), command.config_name)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], work)
