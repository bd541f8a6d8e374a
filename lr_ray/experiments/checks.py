"""What can be wrong with a comparison and is found before anything starts.

Exercised by `pytest tests/unit/test_comparison.py`.
"""

from dataclasses import replace

from lr_ray.config import changed
from lr_ray.errors import UserError
from lr_ray.experiments.grid import Grid
from lr_ray.experiments.plan import Cell, Plan, Source
from lr_ray.models.models import check_pair, check_room, resolve_model
from lr_ray.problems import check_source
from lr_ray.run.store import Run, read_asked, read_summary

ASKED = "grid.json"


def check_kind(run: Run) -> None:
    """Raises UserError where the directory holds an ordinary run."""
    if run.exists("run.json") and not run.exists(ASKED):
        raise UserError(f"--run {run.location}: holds a run, not a comparison; give another --run")


def check_cells(run: Run, grid: Grid, plan: Plan) -> None:
    """Raises UserError naming a variant whose settings are not those that its run has."""
    for cell in plan.cells:
        there = run.child(cell.folder)
        if not there.exists("run.json"):
            continue
        asked = read_asked(there)
        other = [str(change) for change in cell.config.changes(asked["config"])]
        untrained = asked.get("untrained", False)  # where `lr-ray train` made it
        if untrained != cell.variant.untrained:
            other.append(f"untrained = {untrained} (now {cell.variant.untrained})")
        if other:
            raise UserError(
                f"--grid {grid.name}: variant {cell.variant.name}: {run.location}/{cell.folder} was made "
                f"with {', '.join(other)}; give the variant another name, or another --run"
            )


def settle_sources(run: Run, grid: Grid, plan: Plan) -> Plan:
    """The plan, with each source that the run has from before at the plausibility it was sampled for.

    That serves larger ones too; raises UserError where a new variant asks for a smaller one.
    """
    settled: dict[str, Source] = {}
    for source in plan.sources:
        there = run.child(source.folder)
        needed = source.config.sampling.plausibility
        held = needed
        if source.trajectories_of:  # which were completed for as much
            held = settled[source.trajectories_of].config.sampling.plausibility
        if there.exists("run.json"):
            held = read_asked(there)["config"]["sampling"]["plausibility"]
        if needed < held and source.relabels:
            raise UserError(
                f"--grid {grid.name}: sampling.plausibility = {needed:g}: {there.location} was "
                f"sampled for {held:g} and more; give another --run"
            )
        config = changed(source.config, {"sampling.plausibility": held})
        settled[source.folder] = replace(source, config=config)
    return Plan(list(settled.values()), plan.cells)


def check_sources(plan: Plan, expert: str) -> dict[str, str]:
    """Directories of the sources' amateurs, by the name that the config has for them.

    Raises UserError where one is missing or does not fit the expert, or a source cannot be read.
    """
    found: dict[str, str] = {}
    for source in plan.sources:
        asked = source.config
        check_source(asked)
        name = asked.models.amateur
        if source.relabels and name not in found:
            found[name] = resolve_model(name, "models.amateur")
            check_pair(expert, found[name], asked.models)
        amateur = found[name] if source.relabels else None
        check_room(expert, amateur, asked.sampling)
    return found


def unfinished(run: Run, plan: Plan) -> list[Cell]:
    """Cells whose run has no accuracy yet."""
    return [cell for cell in plan.cells if "accuracy" not in read_summary(run.child(cell.folder))]
