"""Sample the expert's trajectories, score them by both models and label them: supervision shards.

lr-ray sample --config demo --run runs/demo [--sampling.kl_threshold 0.3 ...]
"""

from lr_ray.cli.stages import SAMPLING, stage_command


def main(argv: list[str]) -> int:
    return stage_command("sample", __doc__, argv, "sampling", SAMPLING)
