"""Which runs a grid makes, and which work they share.

A cell is a variant under one seed, in a run directory of its own. A source is a run whose sampling serves
all cells whose scores have the same digest: they are labelled from its scores. Of sources whose trajectories
have the same digest one alone decodes; the others score its trajectories. Exercised by
`pytest tests/unit/test_comparison.py`.
"""

from dataclasses import dataclass, replace

from lr_ray.config import Config, changed, flatten
from lr_ray.experiments.grid import Grid, Variant
from lr_ray.run.stages import digests

_PLAUSIBILITY = "sampling.plausibility"  # scores for a smaller one serve a larger one


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
        seeds = variant.seeds or tuple(grid.seeds)
        sampling = variant.config.sampling
        greedy = sampling.method == "rejection" and not sampling.rejection.temperature
        for seed in seeds[:1] if variant.untrained else seeds:
            drawn = {} if greedy else {"sampling.seed": seed}
            seeded = changed(variant.config, {"training.seed": seed, **drawn})
            folder = None
            if not variant.untrained:
                folder, asked = _source(config, seeded)
                known = sources.get(folder, Source(folder, asked))
                sources[folder] = _plausible(known, seeded.sampling.plausibility)
            cells.append(Cell(variant, seed, seeded, folder))
    return Plan(_chained(sources), cells)


def _source(config: Config, cell: Config) -> tuple[str, Config]:
    """Folder and config of the source of a cell: labelled as the config is, for the cell's plausibility.

    The folder is the same for the same work, in whatever grid.
    """
    labelling = cell.inputs("rows").keys() - cell.inputs("trajectories", "scores").keys()
    own = {
        name: value
        for name, value in flatten(cell.model_dump(mode="json")).items()
        if name.startswith(("models.", "data.", "sampling."))
        and (name not in labelling or name == _PLAUSIBILITY)
    }
    digest, base = (digests(c, {})["scoring"] for c in (cell, config))
    return "base" if digest == base else f"sources/{digest[:8]}", changed(config, own)


def _chained(sources: dict[str, Source]) -> list[Source]:
    """Sampled sources first, then those that score the trajectories of one with another amateur."""
    first, later = list[Source](), list[Source]()
    groups: dict[str, list[Source]] = {}
    for source in sources.values():
        groups.setdefault(digests(source.config, {})["decoding"], []).append(source)
    for group in groups.values():
        # The plausible sets of all must be in the one that is sampled.
        least = min(source.config.sampling.plausibility for source in group)
        group = [_plausible(source, least) for source in group]
        root = next((s for s in group if s.folder == "base"), group[0])
        others = [s for s in group if s is not root]
        first.append(replace(root, rescored=bool(others)))
        later += [replace(source, trajectories_of=root.folder) for source in others]
    return first + later


def _plausible(source: Source, plausibility: float) -> Source:
    """The source for this plausibility as well."""
    least = min(source.config.sampling.plausibility, plausibility)
    return replace(source, config=changed(source.config, {_PLAUSIBILITY: least}))
