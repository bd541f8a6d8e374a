"""Make supervision of scores that are there, without engines: another threshold, selection or label.

lr-ray label --from runs/demo --run runs/stricter --sampling.kl_threshold 0.8
"""

from lr_ray.cli.stages import LABELLING, stage_command


def main(argv: list[str]) -> int:
    return stage_command("label", __doc__, argv, "labelling", LABELLING)
