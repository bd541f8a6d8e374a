"""Serve a run's expert and improved expert, and compare them on benchmarks.

python jobs/evaluate.py --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...]
"""

from lr_ray.cli import Command, main
from lr_ray.pipeline import execute


def work(command: Command) -> int:
    return execute(command, ("evaluation",))


if __name__ == "__main__":
    main(__doc__.splitlines()[0], work)
