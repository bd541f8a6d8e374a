"""Fine-tune the expert on a run's supervision; export adapter and merged model.

lr-ray train --run runs/demo
lr-ray train --from runs/demo --run runs/longer --training.optimizer_steps 200
"""

from lr_ray.cli.stages import TRAINING, stage_command


def main(argv: list[str]) -> int:
    return stage_command("train", __doc__, argv, "training", TRAINING)
