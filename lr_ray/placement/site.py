"""Where a job's stages run, found out before anything expensive starts.

Exercised by `pytest tests/unit/placement tests/integration/test_pretended_gpus.py`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lr_ray.config import Config, uses_gpus
from lr_ray.placement import cards
from lr_ray.placement.arrange import arrange
from lr_ray.placement.cards import NONE, Cards
from lr_ray.placement.sizes import Models, find_models
from lr_ray.runtime.cluster import cluster, joins


@dataclass(frozen=True)
class Site:
    """The GPUs there are, and the models' sizes by which stages are placed on them."""

    cards: Cards = NONE
    models: Models = field(default_factory=lambda: {"expert": None, "amateur": None})

    def arranged(self, config: Config, stages: Sequence[str]) -> Config:
        """See `arrange`."""
        return arrange(config, self.models, self.cards, stages)


@contextlib.contextmanager
def connected() -> Iterator[Cards]:
    """The GPUs of the cluster that RAY_ADDRESS names, connected within; without one, this machine's."""
    if joins() is None:
        yield cards.local()
        return
    with cluster():
        yield cards.of_cluster()


@contextlib.contextmanager
def site(config: Config, stages: Sequence[str], ranks: Sequence[int] = ()) -> Iterator[Site]:
    """Where the stages would run. Raises UserError when one of them does not fit anywhere.

    `ranks`: of the adapters that are served together, where they are others than the config's one.
    """
    if not uses_gpus(config, stages):
        yield Site()
        return
    with connected() as found:
        there = Site(found)
        if found.count or not found.fixed:  # else it ends before a hub is asked for a model's size
            models = find_models(config, fetch=True)[0]
            if expert := models["expert"]:
                models["expert"] = replace(expert, ranks=tuple(ranks))
            there = Site(found, models)
        there.arranged(config, stages)
        yield there
