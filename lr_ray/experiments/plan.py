"""Which runs a grid makes, and which work they share.

A cell is a variant under one seed, in a run directory of its own. A source is a run whose sampling serves
several cells: what differs in labelling alone (selection, labels, threshold, plausibility, seed) is
labelled anew from its scores, and one that differs from another in the amateur alone takes over the
other's trajectories. Exercised by `pytest tests/unit/test_comparison.py`.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

from lr_ray.config import Config, merge, resolve
from lr_ray.experiments.grid import Grid, Variant

# Of one source, cells may differ in these.
_LABELLING = ("selection", "labels", "kl_threshold", "plausibility")
_AMATEUR = ("models.amateur", "models.special_tokens_may_differ", "sampling.amateur.dtype")


@dataclass(frozen=True)
class Source:
    """A run that is sampled once. `trajectories_of`: folder of the source whose trajectories it scores."""

    folder: str
    config: Config
    trajectories_of: str | None = None
    rescored: bool = False  # another source takes over this one's trajectories

    @property
    def relabels(self) -> bool:
        """Whether cells are labelled from its scores; they copy its supervision otherwise."""
        return self.config.sampling.method == "contrast"


@dataclass(frozen=True)
class Cell:
    variant: Variant
    seed: int
    config: Config
    source: str | None  # folder; None for an untrained variant

    @property
    def name(self) -> str:
        return f"{self.variant.name}-{self.seed}"

    @property
    def folder(self) -> str:
        return f"variants/{self.name}"


@dataclass(frozen=True)
class Plan:
    sources: list[Source]  # one whose trajectories another takes over comes first
    cells: list[Cell]

    def source(self, folder: str) -> Source:
        return next(s for s in self.sources if s.folder == folder)


def make_plan(config: Config, grid: Grid) -> Plan:
    """All cells of the grid, variant by variant, and the sources that they need.

    An untrained variant gives the same greedy answers under each seed, so it has the first alone.
    """
    cells, sources = [], dict[str, Source]()
    for variant in grid.variants:
        for seed in grid.seeds[:1] if variant.untrained else grid.seeds:
            seeded = _with(variant.config, training={"seed": seed}, sampling={"seed": seed})
            folder = None
            if not variant.untrained:
                source = _source(config, seeded)
                folder = source.folder
                known = sources.get(folder, source)
                least = min(known.config.sampling.plausibility, source.config.sampling.plausibility)
                sources[folder] = _plausible(source, least)
            cells.append(Cell(variant, seed, seeded, folder))
    return Plan(_chained(sources), cells)


def _source(config: Config, cell: Config) -> Source:
    """The source of a cell, with the labelling of the config and the cell's plausibility."""
    sampling = cell.sampling.model_dump(mode="json")
    base = config.sampling.model_dump(mode="json")
    own = {k: base[k] for k in _LABELLING} | {"plausibility": sampling["plausibility"]}
    models = cell.models.model_dump(mode="json")
    if cell.sampling.method == "contrast":
        own |= {"seed": base["seed"], "rejection": base["rejection"]}
    else:  # the expert's alone
        own["plausibility"] = base["plausibility"]
        models |= config.models.model_dump(mode="json")
    asked = _with(config, models=models, data=cell.data.model_dump(), sampling=sampling | own)
    return Source(_folder(config, asked), asked)


def _folder(config: Config, source: Config) -> str:
    """The same for the same work, in whatever grid; the plausibility is settled once all are known."""
    ours, theirs = (_work(c) for c in (source, config))
    if ours == theirs:
        return "base"
    digest = hashlib.sha256(json.dumps(ours, sort_keys=True).encode()).hexdigest()
    return f"sources/{digest[:8]}"


def _work(config: Config) -> dict[str, Any]:
    """What a source's sampling depends on."""
    labelling = [f"sampling.{name}" for name in _LABELLING]
    return {
        name: value
        for name, value in config.identity().items()
        if name.startswith(("models.", "data.", "sampling.")) and name not in labelling
    }


def _chained(sources: dict[str, Source]) -> list[Source]:
    """Sampled sources first, then those that score the trajectories of one with another amateur."""
    first, later = list[Source](), list[Source]()
    groups: dict[str, list[Source]] = {}
    for source in sources.values():
        key = {k: v for k, v in _work(source.config).items() if k not in _AMATEUR}
        groups.setdefault(json.dumps(key, sort_keys=True), []).append(source)
    for group in groups.values():
        if not group[0].relabels:
            first += group
            continue
        # The plausible sets of all must be in the one that is sampled.
        least = min(source.config.sampling.plausibility for source in group)
        group = [_plausible(source, least) for source in group]
        root = next((s for s in group if s.folder == "base"), group[0])
        others = [s for s in group if s is not root]
        first.append(replace(root, rescored=bool(others)))
        later += [replace(source, trajectories_of=root.folder) for source in others]
    return first + later


def _plausible(source: Source, plausibility: float) -> Source:
    return replace(source, config=_with(source.config, sampling={"plausibility": plausibility}))


def _with(config: Config, **sections: Any) -> Config:
    return resolve(merge(config.model_dump(mode="json"), sections))
