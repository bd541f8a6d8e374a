"""The stages in order over one run directory, with checks before and a summary after.

Commands are thin calls of `execute`. A stage whose part of summary.json is there is finished, and is run
again only where a setting that it depends on was changed, and `yes` given.
"""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from lr_ray import placement, report
from lr_ray.config import STAGES, Config
from lr_ray.console import quiet_others
from lr_ray.doctor import check_config
from lr_ray.errors import UserError
from lr_ray.models.models import fingerprint, resolve_model
from lr_ray.pipeline.job import Job, check, check_problems, facts, moved_models, read_source
from lr_ray.pipeline.sharing import can_share, differing, has_trajectories, share, void
from lr_ray.pipeline.stages import add_drift, label, lacks_drift, run_stage
from lr_ray.placement.site import site
from lr_ray.problems import INDEX
from lr_ray.run.asked import (
    MODEL_BEHIND,
    Difference,
    begin,
    check_made,
    difference,
    fingerprints_of,
)
from lr_ray.run.asked import check as check_stale
from lr_ray.run.stages import SAMPLING, parts_from
from lr_ray.run.store import Run, absent, read_asked, read_summary, shaped
from lr_ray.runtime import interrupts
from lr_ray.runtime.cluster import cluster, joins
from lr_ray.runtime.progress import recorded
from lr_ray.sampling.trajectories import made_with

LABELLING = "labelling"  # as a command's stage: without engines, of scores that are there


def execute(
    config: Config,
    run: Run,
    stages: Sequence[str],
    name: str,
    *,
    source: Run | None = None,
    yes: bool = False,
    has_from: bool = True,
) -> int:
    """Runs the stages that are not finished yet. Returns the exit code.

    `name`: of the config. `source`: a run whose finished stages of the same settings and models are taken
    over into a new one. `yes`: what of the run was made with other settings is made again; without it
    that is a UserError. `has_from`: whether the command has --from, which is advised then.
    """
    started = time.monotonic()
    if source is not None and source.address == run.address:
        raise UserError(f"--from {source.location}: is the run itself; give another --run")
    run.create()
    with run.lock():
        commands = ["sampling" if stage == LABELLING else stage for stage in stages]
        stale = _stale(run, config, stages, yes, has_from)
        summary = read_summary(run)
        for part in parts_from(stale.stale[0]) if stale else ():
            summary.pop(part, None)
        todo = [stage for stage in commands if stage not in summary]
        if not todo:
            _tell_finished(run, config, stages, summary)
            return 0
        source, taken = _sources(run, summary, source)
        if source is None:
            _check_before(run, summary, todo)
            if LABELLING in stages and not stale and not run.shards("scores"):
                raise UserError(absent(run) if run.is_new else _unscored(run))
        else:
            read_asked(source)
        placed = [] if LABELLING in stages else todo  # labels need no engine, and so no GPU
        check_config(config, placed, run)
        with site(config, placed) as there:
            staged = source is not None or run.exists(INDEX)
            models = check(config, todo, staged)
            job = Job(config, run, *models, _terminal(), summary, there)
            log = run.log_path()
            print(f"config     {name}\nrun        {run.location}\nlog        {log}")
            if run.exists("run.json"):
                _check_again(job, stages, stale)
            _begin(job, stages, todo, stale, source)
            if taken and "sampling" in todo and taken.exists(INDEX):  # not removed since
                _read_trajectories(job, taken)
            todo = [stage for stage in todo if stage not in summary]
            _check_before(run, summary, todo)
            if LABELLING in stages and "sampling" in todo:
                raise UserError(_unscored(run))
            if "evaluation" in todo and todo[0] == "sampling":
                _tell_sampled(job)
            with quiet_others(log) as job.console, recorded(run):
                _run_stages(job, todo, started)
        report.print_summary(_terminal(), run, summary)
    return 0


def _sources(
    run: Run, summary: dict[str, Any], source: Run | None
) -> tuple[Run | None, Run | None]:
    """The other run as one to take over from, or as one that was taken over when this one began."""
    if not (run.exists("run.json") and run.exists("summary.json")):
        return source, None
    if source is not None and source.location not in summary.get("shared", {}).values():
        print(f"from       {source.location}: nothing is taken, as {run.location} has begun")
        return None, None
    return None, source


def _tell_sampled(job: Job) -> None:
    """Says which problems are sampled from and asked too, before what they cost."""
    from lr_ray.evaluation.tasks import load_tasks
    from lr_ray.pipeline.evaluation import tell_sampled

    tell_sampled(job.console, job.run, load_tasks(job.config.evaluation))


def _tell_finished(
    run: Run, config: Config, stages: Sequence[str], summary: dict[str, Any]
) -> None:
    """What came out of a run whose stages were all done before; adds figures of drift that it lacks."""
    print(f"{run.location}: {', '.join(stages)} finished before; nothing to do")
    moved = False
    if "evaluation" in stages:
        from lr_ray.pipeline.evaluation import tell_changed

        tell_changed(run, config.evaluation)
        if lacks_drift(config, summary):
            expert = resolve_model(config.models.expert, "models.expert")
            check_made(run, config, "evaluation", facts(config, expert, None, run))
            moved = add_drift(run, config, summary, print)
    with shaped(run.location, "summary.json"):
        if moved or not run.exists(report.PAGE):  # as where there was no room for it
            report.write_page(run, summary)  # first, as it tells what is wrong with a summary
            report.write_cards(run, summary)
        report.print_summary(_terminal(), run, summary)


def _unscored(run: Run) -> str:
    return f"--run {run.location}: not all of its problems have scores; sample them first"


def _check_again(job: Job, stages: Sequence[str], stale: Difference | None) -> None:
    """Raises UserError where the command would refuse later, before anything of the run is removed for it."""
    run, config = job.run, job.config
    known = fingerprints_of(facts(config, job.expert, job.amateur, run))
    found, there = difference(run, config, known), stale.stale if stale else []
    moved = [change for change in found.changes if change.name.startswith(MODEL_BEHIND)]
    if moved and found.stale != there:
        raise UserError(
            f"--run {run.location}: holds a run with another {', '.join(map(str, moved))}; give another "
            "--run, or the model that it was made with"
        )
    if not stale:
        return
    if LABELLING in stages:
        scored = {name.rpartition("/")[2] for name in run.shards("scores")}
        if any(name.rpartition("/")[2] not in scored for name in run.shards("supervision")):
            raise UserError(_unscored(run))
    elif "decoding" in stale.stale:
        check_problems(config)


def _begin(
    job: Job,
    stages: Sequence[str],
    todo: Sequence[str],
    stale: Difference | None,
    source: Run | None,
) -> None:
    """Makes the run one of this config: what is stale is removed, what another run has is taken over."""
    run, config = job.run, job.config
    known = facts(config, job.expert, job.amateur, run)
    if stale:
        void(run, stale.stale[0], job.summary)
        print(f"again      {', '.join(stale.stale)}: {stale}")
    shared: list[str] = []
    if source is not None:
        shared = can_share(source, config, fingerprints_of(known))
        differs = differing(source, config, fingerprints_of(known), shared)
        _check_enough(source, shared, differs, LABELLING if LABELLING in stages else todo[0])
        with source.lock(shared=True):  # refused now, the run is not begun
            pass
        asked = read_asked(source)
        known["models"] = asked.get("models", {}) | known["models"]
        known["data"] = asked.get("data") if shared else known["data"]
    if "sampling" in todo and "decoding" not in shared:
        read_source(run, config)
    begin(run, config, known)
    if source is not None:
        _take(job, source, shared)
        if differs:
            print(f"differs    {differs}")
    labels = "sampling" in todo or source is not None  # of the other run's scores
    if labels and "sampling" not in job.summary and label(job):
        job.console.print("sampling   " + report.sampling_line(job.summary["sampling"]))


def _terminal() -> Console:
    return Console(highlight=False, soft_wrap=True)


def _stale(
    run: Run, config: Config, stages: Sequence[str], yes: bool, has_from: bool
) -> Difference | None:
    """What a run was made with otherwise, if that leaves work of it stale.

    Raises UserError unless `yes`, and when the first stage that is stale is none of the command's.
    """
    if not run.exists("run.json"):
        return None
    found = difference(run, config, fingerprints_of({"models": moved_models(run, config)}))
    if not found.stale:
        return None
    other = f"--from {run.location} with another --run" if has_from else "another --run"
    if not yes:
        check_stale(run, found, f"give --yes for that, {other} to keep both")
    first = found.stale[0]
    does = [name for stage in stages for name in (SAMPLING if stage == "sampling" else (stage,))]
    if first not in does:
        raise UserError(
            f"--run {run.location}: {found} concerns {first}, which this command does not do; give "
            f"it to one that does, or {other}"
        )
    return found


def _check_before(run: Run, summary: dict[str, Any], todo: Sequence[str]) -> None:
    """Raises UserError when a stage before the first one to do is not finished."""
    for stage in STAGES[: STAGES.index(todo[0])] if todo else ():
        if stage not in summary:
            if run.is_new:
                raise UserError(absent(run))
            raise UserError(
                f"--run {run.location}: {stage} is not finished, and {todo[0]} needs it"
            )
    if todo[:1] == ["training"] and not run.shards("supervision"):
        raise UserError(
            f"--run {run.location}: no supervision/part-*.parquet, which training needs"
        )


_NEEDED = {LABELLING: "scoring", "training": "scoring", "evaluation": "training"}


def _check_enough(source: Run, shared: Sequence[str], differs: str, stage: str) -> None:
    """Raises UserError when another run lacks what a command's first stage needs of it."""
    needed = _NEEDED.get(stage)
    if needed is not None and needed not in shared:
        lacks = f"was made with another {differs}" if differs else f"has not finished {needed}"
        raise UserError(
            f"--from {source.location}: {lacks}, and {stage} needs its {needed}; give the values "
            "in its run.json, or do the stages before"
        )


def _take(job: Job, source: Run, stages: Sequence[str]) -> None:
    """Takes over the stages of another run, and says which."""
    with source.lock(shared=True):
        job.summary |= share(source, job.run, stages)
        _read_trajectories(job, source)
    job.run.write_json("summary.json", job.summary)
    job.console.print(
        f"from       {source.location}: {', '.join(stages) or 'nothing has the same settings'}"
    )


def _read_trajectories(job: Job, source: Run) -> None:
    """Has another run's trajectories scored, where its decoding alone was taken over and it kept them."""
    wanted = made_with(job.config, fingerprint(job.expert))
    if list(job.summary.get("shared", {})) == ["decoding"] and has_trajectories(source, **wanted):
        job.sampling_options = {"trajectories": source}


def _note_seconds(job: Job, before: float, started: float) -> None:
    job.summary["seconds_total"] = before + time.monotonic() - started
    job.run.write_json("summary.json", job.summary)


def _run_stages(job: Job, stages: Sequence[str], started: float) -> None:
    """Runs the stages on a cluster, which is not needed for none; writes summary and page."""
    before = job.summary.get("seconds_total", 0.0)
    if stages:
        arranged = job.site.arranged(job.config, stages)
        told = report.placement_line(job.config, arranged, job.site.models, job.site.cards, stages)
        job.console.print(f"placement  {told}")
        with cluster() as ray_logs:
            job.console.print(f"ray logs   {ray_logs}")
            if "evaluation" in stages:
                from lr_ray import serving

                serving.make_way(job.config.serving)
            if joins() is None:  # nobody will start other nodes
                for stage in stages:
                    for wanted in placement.demands(job.site.arranged(job.config, [stage]), stage):
                        placement.check_room(stage, wanted)
            for stage in stages:
                run_stage(job, stage)
                interrupts.again()
                _note_seconds(job, before, started)
    _note_seconds(job, before, started)
    report.write_cards(job.run, job.summary)
    report.write_page(job.run, job.summary)
    report.tell_trackers(job.run, job.config, job.summary)
