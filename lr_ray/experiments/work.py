"""The work of a comparison: sources, then each cell's supervision and training, then all answers.

A cell's run directory is that of the pipeline, and what is in its summary.json is finished.
Exercised by `pytest tests/integration/test_compare.py`.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from lr_ray.config import Config, Evaluation
from lr_ray.console import StageProgress
from lr_ray.errors import StageError
from lr_ray.evaluation.answers import AnswerStore
from lr_ray.evaluation.evaluate import grade, identity_of
from lr_ray.evaluation.paper import decided
from lr_ray.evaluation.results import LABELS
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.experiments.asking import (
    Answers,
    Asked,
    Replies,
    ask_all,
    beside_expert,
    take_answers,
    to_ask,
)
from lr_ray.experiments.checks import unfinished
from lr_ray.experiments.grid import Grid
from lr_ray.experiments.plan import Cell, Plan
from lr_ray.experiments.taking import take
from lr_ray.grading.pool import Graders
from lr_ray.models.models import stop_token_ids
from lr_ray.pipeline.evaluation import conditions_of, write_tables
from lr_ray.pipeline.job import Job, facts, improved
from lr_ray.pipeline.sharing import has_trajectories
from lr_ray.pipeline.stages import add_drift, label, run_stage
from lr_ray.placement.site import Site
from lr_ray.report import write_page
from lr_ray.run.asked import begin
from lr_ray.run.paths import temporary
from lr_ray.run.stages import SAMPLING
from lr_ray.run.store import Run, read_summary
from lr_ray.runtime import interrupts
from lr_ray.runtime.progress import Record, recorded

AMATEURS = "models.amateur"  # a sweep of these asks them too


@dataclass
class Bench:
    """The comparison's run directory, and what all of its work needs."""

    run: Run
    config: Config
    grid: Grid
    plan: Plan
    expert: str
    amateurs: dict[str, str]  # directories by the config's names
    console: Console
    site: Site
    record: Record
    others: list[Run]  # whose finished work is taken over
    answered: Run | None  # whose answers of untrained models are, too

    def arranged(self, config: Config) -> Config:
        """With the places of an evaluation."""
        return self.site.arranged(config, ["evaluation"])

    def asked(self, config: Config) -> Evaluation:
        """How its models are asked there."""
        return decided(self.arranged(config).evaluation, self.expert)

    def job(self, folder: str, config: Config) -> Job:
        run = self.run.child(folder)
        amateur = self.amateurs.get(config.models.amateur)
        return Job(config, run, self.expert, amateur, self.console, read_summary(run), self.site)

    def tell(self, now: str, failed: dict[str, str]) -> None:
        """Records where it is at work, and how many variants are finished."""
        total = len(self.plan.cells)
        done = total - len(unfinished(self.run, self.plan))
        said = {"done": done, "total": total, "now": now, "failed": failed}
        self.record.tell(variants=said)

    def begin(self, job: Job, **more: Any) -> None:
        begin(job.run, job.config, facts(job.config, self.expert, job.amateur) | more)


def sample_sources(bench: Bench) -> dict[str, str]:
    """Samples the sources that are not finished; trajectories are taken over where they are kept.

    Returns why, by folder, for those that cannot be sampled.
    """
    failed: dict[str, str] = {}
    for number, source in enumerate(bench.plan.sources, start=1):
        if "sampling" in read_summary(bench.run.child(source.folder)):
            continue
        users = {c.variant.name for c in bench.plan.cells if c.source == source.folder}
        what = f"{number} of {len(bench.plan.sources)}: {source.folder}"
        bench.console.print(f"sampling   {what}, for {', '.join(sorted(users)) or 'others'}")
        job = bench.job(source.folder, source.config)
        job.sampling_options = {"keep_trajectories": source.rescored}
        if source.trajectories_of in failed:
            failed[source.folder] = failed[source.trajectories_of]
            continue
        if source.trajectories_of:
            other = bench.run.child(source.trajectories_of)
            wanted = source.config.sampling.plausibility
            if has_trajectories(other, wanted):  # or an earlier grid had no use for them
                job.sampling_options = {"trajectories": other}
        job.run.create()
        bench.tell(source.folder, failed)
        try:
            with job.run.lock(), recorded(job.run):
                bench.begin(job)
                if bench.others:
                    _take_source(bench, job)
                if "sampling" not in job.summary:
                    run_stage(job, "sampling")
        except StageError as error:
            interrupts.again()
            failed[source.folder] = str(error)
            bench.console.print(f"sampling   {source.folder} failed: {error}")
    return failed


def _take_source(bench: Bench, job: Job) -> None:
    """What others have of a source's sampling: all of it, or scores, which are labelled."""
    if job.run.shards("scores") or not (found := take(job, bench.others, SAMPLING)):
        return
    bench.console.print(f"from       {found}")
    if "sampling" not in job.summary:
        label(job)


def label_cell(bench: Bench, cell: Cell) -> dict[str, Any]:
    """The cell's run with its supervision, without engines. Returns its summary."""
    job = bench.job(cell.folder, cell.config)
    job.run.create()
    if "sampling" in job.summary or cell.source is None:
        bench.begin(job, untrained=cell.variant.untrained)
        return job.summary
    source = bench.run.child(cell.source)
    with job.run.lock():
        bench.begin(job, untrained=False)
        found = take(job, [source, *bench.others], (*SAMPLING, "training"))
        if found and found != source.location:
            bench.console.print(f"from       {found}, for {cell.name}")
        if "sampling" not in job.summary and not label(job):
            raise StageError(f"{source.location}: lacks scores; remove summary.json there")
        job.run.write_json("summary.json", job.summary)
    return job.summary


def train_cells(bench: Bench, cells: Sequence[Cell], unsampled: dict[str, str]) -> dict[str, str]:
    """Trains the cells that are not. Returns why some cannot be, by name; `unsampled`: why, by source."""
    failed = {}
    for number, cell in enumerate(cells, start=1):
        if cell.source in unsampled:
            failed[cell.name] = unsampled[cell.source]
            continue
        bench.tell(cell.folder, failed)
        try:
            _train_cell(bench, cell, f"{number} of {len(cells)}")
        except StageError as error:
            interrupts.again()
            failed[cell.name] = str(error)
            bench.console.print(f"variant    {cell.name} failed: {error}")
    return failed


def _train_cell(bench: Bench, cell: Cell, place: str) -> None:
    summary = label_cell(bench, cell)
    if cell.variant.untrained or "training" in summary:
        return
    bench.console.print(f"[bold]variant[/bold]    {place}: {cell.variant.name}, seed {cell.seed}")
    if not summary["sampling"]["steps_kept"]:
        bench.console.print("variant    nothing kept: it stays the expert")
        return
    job = bench.job(cell.folder, cell.config)
    with job.run.lock(), recorded(job.run):
        run_stage(job, "training")


def evaluate_cells(bench: Bench, cells: Sequence[Cell]) -> None:
    """Asks the expert and every cell's model what they have not answered, and grades the cells."""
    config = bench.arranged(bench.config)
    todo = [c for c in cells if "accuracy" not in read_summary(bench.run.child(c.folder))]
    by_name = {cell.name: cell for cell in todo}
    with temporary() as cache, AnswerStore(bench.run) as store:
        untrained, stops = references(bench), stop_token_ids(bench.expert)
        pending = [*untrained, *(_asked(bench, cell, cache) for cell in todo)]
        if bench.answered:
            take_answers(store, bench.answered, pending, stops)
        at_a_time = "one model" if config.resources.evaluation == "apart" else "two models"
        if config.serving.adapters:
            at_a_time = "the expert with all adapters"
        bench.console.print(
            f"serving    {to_ask(pending, store, stops)} to be asked, {at_a_time} at a time"
        )
        with StageProgress(bench.console, "evaluation", 0, "answers") as progress:
            waiting = lambda said: bench.console.print(f"serving    {said}")  # noqa: E731
            replies = ask_all(
                pending, store, config, stops, bench.expert, progress.update_of, waiting
            )
            with contextlib.closing(replies):  # ends the endpoint before the cluster ends
                for asked, given, expert in beside_expert(replies, pending[0]):
                    if asked.name in by_name:
                        _finish(bench, by_name[asked.name], expert, given, asked.path)


def _asked(bench: Bench, cell: Cell, cache: str) -> Asked:
    """A cell's model, or the expert where the cell has none of its own."""
    run, evaluation = bench.run.child(cell.folder), bench.asked(cell.config)
    if "training" not in read_summary(run):
        return replace(_expert(bench), name=cell.name, evaluation=evaluation)
    path = run.local_folder(improved(bench.config), f"{cache}/{cell.name}")
    return Asked(cell.name, path, identity_of(cell.name, path, bench.config), evaluation)


def _expert(bench: Bench) -> Asked:
    identity = identity_of("expert", bench.expert, bench.config)
    return Asked("expert", bench.expert, identity, bench.asked(bench.config), untrained=True)


def references(bench: Bench) -> list[Asked]:
    """The expert, and a sweep's amateurs by the names of their variants."""
    asked = [_expert(bench)]
    if bench.grid.x == AMATEURS:
        for variant in bench.grid.variants:
            path = bench.amateurs.get(variant.config.models.amateur)
            if path and not variant.untrained:
                name = amateur_name(variant.name)
                identity = identity_of("amateur", path, bench.config)
                asked.append(Asked(name, path, identity, asked[0].evaluation, untrained=True))
    return asked


def amateur_name(variant: str) -> str:
    """Under which a variant's amateur is asked."""
    return f"amateur of {variant}"


def _finish(bench: Bench, cell: Cell, expert: Answers, given: Replies, path: str) -> None:
    """Grades the answers of a cell's model, at `path`, against the expert's and completes its run."""
    evaluation = bench.asked(cell.config)
    job, tasks, tables = bench.job(cell.folder, cell.config), load_tasks(evaluation), {}
    alike = evaluation == bench.asked(bench.config)  # not where the expert's variant has a prefill
    with job.run.lock():
        with Graders() as graders:
            for task in tasks:
                both = {"expert": expert[task.name], "improved": given.answers[task.name]}
                checks = evaluation.grader_check
                tables[task.name] = grade(task, both, graders, checks=checks)
        job.summary |= write_tables(job.run, tasks, tables, evaluation, list(LABELS))
        job.summary["serving"] = {"seconds": given.starting_seconds}
        job.summary["evaluation"] = {
            "answers": len(LABELS) * sum(table.num_rows for table in tables.values()),
            "answers_timed": given.timed,
            "seconds": given.seconds,
            **(
                conditions_of(evaluation, stop_token_ids(bench.expert))
                if alike
                else {"expert_prefill": bench.config.evaluation.prefill}
            ),
        }
        stages = [s for s in ("sampling", "training", "serving", "evaluation") if s in job.summary]
        job.summary["seconds_total"] = sum(job.summary[stage]["seconds"] for stage in stages)
        add_drift(job.run, job.config, job.summary, lambda said: None, path)
        job.run.write_json("summary.json", job.summary)
        write_page(job.run, job.summary)
    accuracy = job.summary["accuracy"].items()
    shown = ", ".join(f"{n} {a['improved']:.1%} ({a['difference']:+.1%})" for n, a in accuracy)
    bench.console.print(f"evaluation {cell.variant.name}, seed {cell.seed}: {shown}")
