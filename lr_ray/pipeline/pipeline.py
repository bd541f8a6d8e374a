"""The stages in order over one run directory, with checks before and a summary after.

Jobs are thin calls of `execute`. A stage whose part of summary.json is there is finished and is
never run again.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console

from lr_ray import placement, report
from lr_ray.config import STAGES, Config
from lr_ray.console import StageProgress, quiet_others
from lr_ray.doctor import check_config
from lr_ray.errors import UserError
from lr_ray.evaluation.prompts import check_expert
from lr_ray.labelling.label import Facts
from lr_ray.models.models import check_pair, check_room, fingerprint, fits_context, resolve_model
from lr_ray.placement.arrange import settings
from lr_ray.placement.site import Site, site
from lr_ray.problems import check_source
from lr_ray.run.store import Run, begin, read_summary
from lr_ray.run.versions import versions
from lr_ray.runtime.cluster import check_address
from lr_ray.runtime.connection import check_environment
from lr_ray.runtime.metrics import StageMetrics
from lr_ray.runtime.progress import recorded
from lr_ray.training.trackers import check_trackers

# Parts of summary.json that a stage writes.
_PARTS = {
    "sampling": ("sampling",),
    "training": ("training",),
    "evaluation": ("evaluation", "serving", "accuracy", "accuracy_mean"),
}


@dataclass
class Job:
    """What every stage needs."""

    config: Config
    run: Run
    expert: str
    amateur: str | None
    console: Console
    summary: dict[str, Any]
    site: Site = field(default_factory=Site)
    sampling_options: dict[str, Any] = field(default_factory=dict)  # of `sampling.stage.sample`


def execute(
    config: Config,
    run: Run,
    stages: tuple[str, ...],
    name: str,
    *,
    source: Run | None = None,
    yes: bool = False,
) -> int:
    """Runs the stages that are not finished yet. Returns the exit code. `name`: of the config."""
    if source:
        raise UserError("--from: stages are not shared among runs yet")
    started = time.monotonic()
    run.create()
    with run.lock():
        if run.exists("run.json"):
            begin(run, config, None)
        summary = read_summary(run)
        todo = [stage for stage in stages if stage not in summary]
        if not todo:
            print(f"{run.location}: {', '.join(stages)} finished before; nothing to do")
            report.print_summary(Console(highlight=False), run, summary)
            return 0
        for stage in STAGES[: STAGES.index(todo[0])]:
            if stage not in summary:
                raise UserError(
                    f"--run {run.location}: {stage} is not finished, and {todo[0]} needs it"
                )
        check_config(config, todo, run)
        log = run.log_path()
        head = f"config     {name}\nrun        {run.location}\nlog        {log}"
        with site(config, todo) as there:
            expert, amateur = check(config, todo)
            print(head)
            with quiet_others(log) as console, recorded(run):
                arranged = there.arranged(config, todo)
                told = report.placement_line(config, arranged, there.models, there.cards, todo)
                console.print(f"placement  {told}")
                if "sampling" in todo:
                    read_source(run, config)
                begin(run, config, facts(config, expert, amateur))
                job = Job(config, run, expert, amateur, console, summary, there)
                _run_stages(job, todo, started)
        report.print_summary(Console(highlight=False), run, summary)
    return 0


def read_source(run: Run, config: Config) -> None:
    """Reads the source before run.json binds the run to it, so that a wrong one can be corrected."""
    from lr_ray.problems import check_rows, stage_problems
    from lr_ray.sampling.rejection import check_answers

    if not run.exists("run.json"):
        run.remove("problems")  # of another source
    stage_problems(run, config)
    check_rows(run, config)
    check_answers(run, config)


def facts(config: Config, expert: str, amateur: str | None) -> dict[str, Any]:
    """What run.json says beside the config. Without the amateur's directory, only the expert's model."""
    models = {"expert": {"path": config.models.expert, "fingerprint": fingerprint(expert)}}
    if amateur:
        models["amateur"] = {"path": config.models.amateur, "fingerprint": fingerprint(amateur)}
    data = config.data.model_dump() | {"max_problems": config.sampling.max_problems}
    return {"versions": versions(), "models": models, "data": data}


def check(config: Config, stages: Sequence[str]) -> tuple[str, str | None]:
    """Everything that can be wrong and is cheap to find. Returns the models' directories.

    The amateur is looked for only when there is sampling to do, by method contrast.
    """
    if "evaluation" in stages:
        from lr_ray.evaluation.tasks import load_tasks
        from lr_ray.serving import base_url, check_port

        load_tasks(config.evaluation)
        check_port(config.serving)
        check_environment(base_url(config.serving))
    check_address()
    if "training" in stages:
        check_trackers(config.training.trackers)
    expert = resolve_model(config.models.expert, "models.expert")
    check_expert(expert, config, stages)
    if "evaluation" in stages:
        fits_context(expert, config.serving.max_model_len, "the expert")
    if "sampling" not in stages:
        return expert, None
    check_source(config)
    if config.sampling.method == "rejection":
        check_room(expert, None, config.sampling.max_new_tokens)
        return expert, None
    amateur = resolve_model(config.models.amateur, "models.amateur")
    check_pair(expert, amateur, config.models)
    check_room(expert, amateur, config.sampling.max_new_tokens)
    return expert, amateur


def _run_stages(job: Job, stages: list[str], started: float) -> None:
    from lr_ray.runtime.cluster import cluster

    before = job.summary.get("seconds_total", 0.0)
    with cluster() as ray_logs:
        job.console.print(f"ray logs   {ray_logs}")
        if not os.environ.get("RAY_ADDRESS"):  # nobody will start other nodes
            for stage in stages:
                for wanted in placement.demands(job.site.arranged(job.config, [stage]), stage):
                    placement.check_room(stage, wanted)
        for stage in stages:
            run_stage(job, stage)
            job.summary["seconds_total"] = before + time.monotonic() - started
            job.run.write_json("summary.json", job.summary)
    report.write_page(job.run, job.summary)


def run_stage(job: Job, stage: str) -> None:
    """One stage on the connected cluster; what was made of an older result of it is dropped."""
    void_from(job.summary, stage)
    if stage != "evaluation":
        job.run.remove("answers")  # an evaluation that was interrupted asked an older model
    job.run.write_json("summary.json", job.summary)
    placement.check_visible(job.run)
    config = job.site.arranged(job.config, [stage])
    if stage != "evaluation":  # serving waits by itself
        for wanted in placement.demands(config, stage):
            placement.await_room(
                wanted,
                config.resources.wait_s,
                lambda said: job.console.print(f"{stage:<10} {said}"),
            )
    if config != job.config:
        job.summary.setdefault("placement", {})[stage] = settings(config, stage)
    _STAGES[stage](replace(job, config=config))
    job.run.write_json("summary.json", job.summary)
    if stage == "evaluation":
        job.run.remove("answers")  # the tables hold them all


def void_from(summary: dict[str, Any], stage: str) -> None:
    """Drops a stage's parts and those of later stages, which were made of an older result."""
    for later in STAGES[STAGES.index(stage) :]:
        for part in _PARTS[later]:
            summary.pop(part, None)


def _sample(job: Job) -> None:
    from lr_ray.problems import stage_problems
    from lr_ray.sampling.sample import sample

    total = stage_problems(job.run, job.config)
    job.console.print(f"sampling   {total} problems, starting engines")
    metrics = StageMetrics(job.run, "sampling")
    with StageProgress(job.console, "sampling", total, "problems", metrics.progress) as progress:

        def on_progress(problems: int, facts: Facts) -> None:
            if progress.first is None and facts.trajectories:
                job.console.print(f"sampling   goes on after {facts.problems} of them")
            kept = f"{facts.steps_kept}/{facts.steps_scored} steps kept"
            parts = [kept] if facts.steps_scored else []
            parts += [f"{facts.rejected} rejected"] if facts.rejected else []
            progress.update_of(facts.problems, problems, ", ".join(parts))
            if facts.steps_scored:
                metrics.set(kept_step_share=facts.steps_kept / facts.steps_scored)

        def on_decoded(done: int, total: int) -> None:
            progress.update_of(done, total, "decoded; the amateur scores them afterwards")

        result = sample(
            job.run,
            job.config,
            job.expert,
            job.amateur,
            on_progress,
            on_decoded=on_decoded,
            on_activity=progress.show,
            **job.sampling_options,
        )
    job.summary["sampling"] = result
    job.console.print("sampling   " + report.sampling_line(result))


def _train(job: Job) -> None:
    from lr_ray.training.train import check_supervision, train

    steps = job.config.training.optimizer_steps
    kept = check_supervision(job.run, job.expert, job.config.sampling)
    job.console.print(f"training   {steps} optimizer steps on {kept} kept steps")
    metrics = StageMetrics(job.run, "training")
    with StageProgress(job.console, "training", steps, "steps", metrics.progress) as progress:

        def on_progress(row: dict[str, Any]) -> None:
            if row["step"] == row["resumed_at"] + 1 > 1:
                job.console.print(
                    f"training   goes on after the checkpoint of step {row['resumed_at']}"
                )
            progress.update(row["step"], f"loss {row['loss']:.3f}")
            metrics.set(loss=row["loss"], tokens_per_second=row["tokens"] / row["seconds"])

        result = train(job.run, job.config, job.expert, on_progress)
    job.summary["training"] = result
    job.console.print("training   " + report.training_line(result))


def _evaluate(job: Job) -> None:
    from lr_ray.evaluation.evaluate import ServedModel
    from lr_ray.models.models import stop_token_ids
    from lr_ray.pipeline.evaluation import run_evaluation

    with tempfile.TemporaryDirectory() as cache:
        paths = {"expert": job.expert, "improved": job.run.local_folder("model", cache)}
        # A fingerprint looks at parts of the weights only, so the label belongs to the identity.
        served = [ServedModel(n, n, f"{n} {fingerprint(path)}") for n, path in paths.items()]
        together = job.config.resources.evaluation != "apart"
        parts = run_evaluation(
            job.run,
            job.console,
            [served] if together else [[model] for model in served],
            lambda group: _serving(job, {model.name: paths[model.name] for model in group}),
            job.config.evaluation,
            stop_token_ids(job.expert),
            on_asked=StageMetrics(job.run, "evaluation").progress,
        )
    job.summary |= parts


@contextlib.contextmanager
def _serving(job: Job, models: dict[str, str]) -> Iterator[str]:
    """The base URL of an endpoint of the model directories, which ends with the context."""
    from lr_ray import serving

    started = time.monotonic()
    job.console.print(f"serving    starting {' and '.join(models)}")
    with StageProgress(job.console, "serving", len(models), "models") as progress:
        url = serving.start(
            models,
            job.config.serving,
            job.config.resources,
            on_progress=progress.update_of,
            on_waiting=lambda said: job.console.print(f"serving    {said}"),
        )
    try:
        job.console.print(f"serving    {url} ready in {time.monotonic() - started:.1f} s")
        yield url
    finally:
        serving.stop()


_STAGES = {"sampling": _sample, "training": _train, "evaluation": _evaluate}
