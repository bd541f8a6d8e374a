"""What a job says of its placement, in a line."""

import pytest

from lr_ray.cli.options import parse
from lr_ray.config import STAGES
from lr_ray.placement import arrange, find_models
from lr_ray.placement.cards import NONE, pretended
from lr_ray.report import placement_line


def line(cards, *arguments, stages=STAGES):
    config = parse("", ["--config", *arguments]).config
    models, _ = find_models(config)
    return placement_line(config, arrange(config, models, cards, stages), models, cards, stages)


def test_on_the_cpus():
    assert line(NONE, "demo") == "on the CPUs, as resources.*.gpus is 0"


@pytest.mark.parametrize(
    ("cards", "preset", "parts"),
    [
        (pretended(1, 24e9), "qwen2.5-math-1.5b", [
            "1 GPU of 24 GB: expert on 0.49 GPU (weights 3.09 GB, cache 4.69 GB) and amateur on 0.2 GPU "
            "(weights 0.988 GB, cache 2.01 GB) together; ",
            "training worker on 1 GPU (weights 3.09 GB), micro_batch_tokens 4096; ",
            "both models on 0.5 GPU each (weights 3.09 GB, cache 5.12 GB) together ",
            "(resources.* and --device cpu choose otherwise)"]),
        (pretended(1, 24e9), "qwen2.5-math-7b", [
            "amateur on 1 GPU (weights 0.988 GB, cache 2.01 GB), one after the other; ",
            "gradient_checkpointing True; ", "both models on 1 GPU each (weights 15.2 GB, cache 3.32 GB), one after the other "]),
        (pretended(8, 80e9), "qwen2.5-math-1.5b", [
            "6 experts on 1 GPU each", "2 amateurs on 1 GPU each", "4 training workers on 1 GPU each",
            "both models, 4 replicas each on 1 GPU each"]),
    ],
)  # fmt: skip
def test_on_gpus(cards, preset, parts):
    said = line(cards, preset)
    assert "\n" not in said
    for part in parts:
        assert part in said


def test_one_engine_serves_adapters():
    def said(gpus):
        asked = ("qwen2.5-math-1.5b", "--serving.adapters=true")
        return line(pretended(gpus, 80e9), *asked, stages=("evaluation",))

    assert ": both models on 1 GPU (weights 3.09 GB, " in said(1)
    assert ": both models, 8 replicas on 1 GPU each (weights 3.09 GB, " in said(8)


def test_only_the_stages_that_run():
    assert "training" not in line(pretended(1, 24e9), "qwen2.5-math-1.5b", stages=("sampling",))
