"""What `auto` makes of the numbers that a config states beside it."""

import pytest

from lr_ray.placement import needs
from lr_ray.placement.cards import Cards, pretended
from tests.unit.placement.test_arrange import placed


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("cpu", "gpu"), [("expert", "amateur"), ("amateur", "expert")])
def test_a_model_on_the_cpus_leaves_all_gpus_to_the_other(count, cpu, gpu):
    config, _ = placed(pretended(count, 80e9), "qwen2.5-math-1.5b", f"--resources.{cpu}.gpus=0")
    sampling, resources = config.sampling, config.resources
    assert resources.sampling == "together"
    assert (getattr(resources, cpu).gpus, getattr(resources, gpu).gpus) == (0, 1)
    assert (getattr(sampling, cpu).most, getattr(sampling, gpu).most) == (1, count)


@pytest.mark.parametrize(
    ("count", "expert", "amateur", "engines"),
    [
        (8, 1, 1, (6, 2)),  # as where nothing is stated
        (4, 0.4, "auto", (6, 1)),  # two on each of three
        (2, 0.5, 0.5, (3, 1)),
        (2, 0.7, 0.3, (2, 2)),
        (2, 0.4, 0.3, (3, 2)),
        (1, 0.4, 0.3, (1, 1)),
        (5, 2, 0.5, (2, 2)),
    ],
)
def test_stated_gpus_are_all_taken_and_no_more(count, expert, amateur, engines):
    stated = [f"--resources.expert.gpus={expert}", f"--resources.amateur.gpus={amateur}"]
    config, models = placed(pretended(count, 80e9), "qwen2.5-math-1.5b", *stated)
    assert config.resources.sampling == "together"
    assert (config.sampling.expert.most, config.sampling.amateur.most) == engines
    assert needs.at_once(needs.processes(config, models, "sampling"), True, most=True) <= count


def test_shares_of_several_gpus_do_not_reach_over_two_of_them():
    apart = ("--resources.sampling=apart", "--resources.expert.gpus=0.4")
    config, _ = placed(Cards((4, 1), 80e9), "qwen2.5-math-1.5b", *apart)
    assert config.sampling.expert.most == 10
