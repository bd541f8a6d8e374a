"""Expert trajectories and contrastive soft labels, as supervision shards.

python jobs/sample.py --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...]
"""

from lr_ray.cli.front import Command, main
from lr_ray.pipeline.pipeline import execute


def work(command: Command) -> int:
    return execute(command.config, command.run, ("sampling",), command.config_name)


if __name__ == "__main__":
    main(__doc__.splitlines()[0], work)
