"""A comparison from the command line to its table.

Exercised by `pytest tests/integration/test_compare.py`.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import Any

from lr_ray import serving
from lr_ray.config import STAGES, Config
from lr_ray.console import quiet_others
from lr_ray.doctor import check_config
from lr_ray.errors import StageError, UserError, counted, named
from lr_ray.evaluation.answers import AnswerStore
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.results import scores_of
from lr_ray.evaluation.tasks import load_tasks, task_names
from lr_ray.experiments import checks, work
from lr_ray.experiments.asking import answers_of
from lr_ray.experiments.grid import Grid, read_grid
from lr_ray.experiments.plan import Plan, make_plan
from lr_ray.experiments.table import collect, render
from lr_ray.experiments.taking import runs_of
from lr_ray.grading.pool import Graders
from lr_ray.models.models import stop_token_ids
from lr_ray.pipeline.job import check, facts, read_source
from lr_ray.placement.site import site
from lr_ray.report.page import COMPARISON, write_comparison
from lr_ray.run.asked import begin
from lr_ray.run.store import SCHEMA_VERSION, Run, shaped
from lr_ray.runtime.cluster import cluster
from lr_ray.runtime.progress import recorded

TABLE, PAGE = "comparison.json", "comparison.md"
DEFAULT_GRID = "ablations"


def compare(
    config: Config,
    run: Run,
    name: str,
    grid_name: str | None = None,
    amateurs: str | None = None,
    source: Run | None = None,
) -> int:
    """Does what is missing of a comparison. Returns the exit code.

    `name`: of the config; `source`: a run or comparison whose finished work of the same settings and models
    is taken over. `grid_name`, `amateurs` (the folder of the amateurs that it names) and `source`: None
    takes those of the run's earlier command.
    """
    if source is not None and source.address == run.address:
        raise UserError(f"--from {source.location}: is the comparison itself; give another --run")
    if config.rounds > 1:
        raise UserError(f"rounds = {config.rounds}: a comparison has one round; give --rounds 1")
    run.create()
    with run.lock():
        checks.check_kind(run)
        asked = _asked(run, grid_name, amateurs, source)
        grid = read_grid(asked["grid"], config, asked["amateurs"])
        if amateurs and {v.config.models.amateur for v in grid.variants} == {config.models.amateur}:
            said = f"no variant of grid {grid.name} has an amateur of its own; leave it out"
            raise UserError(f"--amateurs {amateurs}: {said}")
        plan = make_plan(config, grid)
        if run.exists("run.json"):
            begin(run, config, None)
            checks.check_cells(run, grid, plan)
        if checks.unfinished(run, plan) or _stale(run, grid, plan):
            _work(config, run, name, grid, checks.settle_sources(run, grid, plan), asked)
        else:
            print(f"{run.location}: {grid.name} finished before; nothing to do\n")
        _show(run, grid, config)
    return 0


def _asked(run: Run, grid: str | None, amateurs: str | None, source: Run | None) -> dict[str, Any]:
    """The grid, the amateurs' folder and the other run: those given, else those of the command before."""
    before = run.read_json(checks.ASKED) if run.exists(checks.ASKED) else {}
    if grid and grid.endswith((".yaml", ".yml")):
        grid = os.path.abspath(grid)  # a later command may be given elsewhere
    return {
        "schema_version": SCHEMA_VERSION,
        "grid": grid or before.get("grid") or DEFAULT_GRID,
        "amateurs": os.path.abspath(amateurs) if amateurs else before.get("amateurs"),
        "from": source.address if source else before.get("from"),
    }


def _stale(run: Run, grid: Grid, plan: Plan) -> bool:
    """Whether the table is not of exactly these variants."""
    if not run.exists(TABLE):
        return True
    there = run.read_json(TABLE)
    wanted = {"name": grid.name, "seeds": grid.seeds, "x": grid.x}
    with shaped(run.location, TABLE):
        cells = [r["folder"] for row in there["variants"].values() for r in row["runs"]]
        return bool(there["grid"] != wanted or cells != [cell.folder for cell in plan.cells])


def _work(
    config: Config, run: Run, name: str, grid: Grid, plan: Plan, asked: dict[str, Any]
) -> None:
    check_config(config, STAGES, run)
    ranks = [c.config.training.lora.rank for c in plan.cells if not c.variant.untrained]
    with site(config, STAGES, ranks) as there:
        started, before = time.monotonic(), _seconds_before(run)
        cells = checks.unfinished(run, plan)
        expert, amateur = check(config, STAGES)
        amateurs = checks.check_sources(plan, expert)
        if amateur:  # not where the config samples by rejection
            amateurs[config.models.amateur] = amateur
        answered = Run(asked["from"], "--from") if asked["from"] else None
        others = runs_of(answered) if answered else []
        log = run.log_path()
        print(f"config     {name}\ngrid       {grid.name}\nrun        {run.location}")
        runs = f"in {counted(len(plan.cells), 'run')} with all seeds"
        print(f"variants   {len(grid.variants)}, {runs}, {len(cells)} to do")
        print(f"log        {log}")
        with quiet_others(log) as console, recorded(run) as record:
            for source in plan.sources:
                read_source(run.child(source.folder), source.config)
            begin(run, config, facts(config, expert, amateur))
            run.write_json(checks.ASKED, asked)
            bench = work.Bench(
                run, config, grid, plan, expert, amateurs, console, there, record, others, answered
            )
            failed: dict[str, str] = {}
            if cells:
                with cluster() as ray_logs:
                    console.print(f"ray logs   {ray_logs}")
                    serving.make_way(config.serving)
                    unsampled = work.sample_sources(bench)
                    failed = work.train_cells(bench, plan.cells, unsampled)
                    bench.tell("", failed)
                    work.evaluate_cells(bench, [c for c in plan.cells if c.name not in failed])
            bench.tell("", failed)
            if len(failed) < len(plan.cells):
                with _reasons_first(plan, failed):
                    _write(bench, failed, before + time.monotonic() - started)
            console.print()
        if failed:
            raise StageError(_reasons(plan, failed))


def _seconds_before(run: Run) -> float:
    """Of the commands that have written a table."""
    if not run.exists(TABLE):
        return 0.0
    there = run.read_json(TABLE)
    with shaped(run.location, TABLE):
        return float(there["seconds_total"])


def _reasons(plan: Plan, failed: dict[str, str]) -> str:
    reasons = "; ".join(f"{name}: {reason}" for name, reason in failed.items())
    return f"{len(failed)} of {len(plan.cells)} runs failed: {reasons}"


@contextlib.contextmanager
def _reasons_first(plan: Plan, failed: dict[str, str]) -> Iterator[None]:
    """Raises StageError with why runs failed, where some did, in place of what is wrong within."""
    try:
        yield
    except Exception as error:
        if not failed:
            raise
        said = f"{_reasons(plan, failed)}; the table could not be written: {named(error)}"
        raise StageError(said) from error


def _write(bench: work.Bench, failed: dict[str, str], seconds: float) -> None:
    """A sweep's pictures, and last the table, which says that all is there. `seconds`: of all commands."""
    run = bench.run
    content = collect(run, bench.config, bench.grid, bench.plan, failed)
    content["seconds_total"] = seconds
    if bench.grid.x == work.AMATEURS:
        _add_gaps(bench, content)
    sweeps: dict[str, bytes] = {}
    if bench.grid.x:
        from lr_ray.experiments.plot import draw, drawable

        for benchmark, name in _pictures(bench.config).items() if drawable(content) else ():
            drawn = draw(content, benchmark)
            sweeps[benchmark] = drawn["svg"]
            for kind, picture in drawn.items():
                run.write_bytes(f"{name}.{kind}", picture)
    write_comparison(run, content, sweeps)
    run.write_bytes(PAGE, render(content).encode())
    run.write_json(TABLE, content)


def _pictures(config: Config) -> dict[str, str]:
    """Names of a sweep's pictures, without what they end with, by benchmark."""
    benchmarks = task_names(config.evaluation)
    return {b: f"comparison-{b}" if len(benchmarks) > 1 else "comparison" for b in benchmarks}


def _add_gaps(bench: work.Bench, content: dict[str, Any]) -> None:
    """Accuracy of each variant's amateur, and the expert's minus it, on the first task."""
    task = load_tasks(bench.config.evaluation)[0]
    stops = stop_token_ids(bench.expert)
    asked = {reference.name: reference for reference in work.references(bench)}
    with Graders() as graders, AnswerStore(bench.run) as store:
        for name, row in content["variants"].items():
            reference = asked.get(work.amateur_name(name))
            answers = reference and answers_of(store, reference, stops)
            if not answers:
                continue
            right = scores_of(grade(task, {"amateur": answers[task.name]}, graders), "amateur")
            row["amateur_accuracy"] = float(right.mean())
            row["amateur_gap"] = content["expert"][task.name]["accuracy"] - row["amateur_accuracy"]


def _show(run: Run, grid: Grid, config: Config) -> None:
    if not run.exists(PAGE):  # removed since
        there = run.read_json(TABLE)
        with shaped(run.location, TABLE):
            page = render(there)
        run.write_bytes(PAGE, page.encode())
    print(run.fs.cat_file(run.path(PAGE)).decode())
    if run.exists(COMPARISON):
        print(f"page       {run.location}/{COMPARISON}")
    pictures = [f"{name}.svg" for name in _pictures(config).values() if grid.x]
    files = [PAGE, TABLE, *filter(run.exists, pictures)]
    print(f"output     {run.location}/{', '.join(files)}")
