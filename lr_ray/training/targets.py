"""Whether training.lora.targets are layers of the expert, by its weights' headers alone.

Exercised by `pytest tests/unit/test_targets.py`.
"""

from pathlib import Path

from lr_ray.config import Training
from lr_ray.errors import UserError
from lr_ray.models.files import check_weights, nested_in, read_object, vocabulary_rows
from lr_ray.models.tensors import is_tied

_HEAD = "lm_head"


def check_targets(expert: str, training: Training) -> None:
    """Raises UserError for a target that would get no update, or one that is not trained."""
    # A multimodal model's weights have other names than its modules.
    config = read_object(Path(expert, "config.json"), expert)
    if training.method != "lora" or nested_in(config):
        return
    shapes = check_weights(Path(expert), expert)
    layers = [n.removesuffix(".weight") for n, shape in shapes.items() if len(shape) == 2]
    tied, rows = is_tied(config) or f"{_HEAD}.weight" not in shapes, vocabulary_rows(expert)
    outer = {n for n in layers if n == _HEAD or (tied and shapes[f"{n}.weight"][0] == rows)}
    for target in training.lora.targets:
        asked = f"training.lora.targets: {target!r}"
        if target == _HEAD:
            raise UserError(
                f"{asked}: the loss reads its weight without an update, which would not be trained; "
                "leave it out, or set training.method = full"
            )
        # As PEFT matches them.
        found = {layer for layer in layers if layer == target or layer.endswith(f".{target}")}
        if found & outer:
            raise UserError(
                f"{asked}: is the expert's output layer too (tie_word_embeddings), which merging "
                "would change and the loss has not; leave it out, or set training.method = full"
            )
        if not found:
            names = sorted({layer.rpartition(".")[2] for layer in layers if layer not in outer})
            raise UserError(
                f"{asked}: is no layer of the expert; must be of {', '.join(names[:20])}"
            )
