"""How each stage runs: what it says while it does, and what it adds to summary.json."""

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from lr_ray import placement, report
from lr_ray.config import Config
from lr_ray.console import StageProgress
from lr_ray.errors import counted
from lr_ray.labelling.label import Facts
from lr_ray.models.adapters import is_adapter
from lr_ray.models.models import resolve_model
from lr_ray.pipeline.job import Job, improved
from lr_ray.placement.arrange import settings
from lr_ray.run.paths import temporary
from lr_ray.run.stages import parts_from
from lr_ray.run.store import Run
from lr_ray.runtime.metrics import StageMetrics

_LOSSES = 20  # optimizer steps that a shown loss is the mean of, as on the page: one varies a lot


def run_stage(job: Job, stage: str) -> None:
    """One stage on the connected cluster; what was made of an older result of it is dropped."""
    for part in parts_from("decoding" if stage == "sampling" else stage):
        job.summary.pop(part, None)
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
            for role, bundles in wanted.items():
                placement.check_model((role == "amateur" and job.amateur) or job.expert, bundles)
    if config != job.config:
        job.summary.setdefault("placement", {})[stage] = settings(config, stage)
    _STAGES[stage](replace(job, config=config))
    job.run.check_owner()  # as where this machine was suspended, and another one goes on
    job.run.remove(report.PAGE)  # it lacks the stage; the same command writes a missing one
    job.run.write_json("summary.json", job.summary)
    if stage == "evaluation":
        job.run.remove("answers")  # the tables hold them all


def _sample(job: Job) -> None:
    from lr_ray.problems import stage_problems
    from lr_ray.sampling.sample import sample

    total = stage_problems(job.run, job.config)
    job.console.print(f"sampling   {counted(total, 'problem')}, starting engines")
    metrics = StageMetrics(job.run, "sampling")
    with StageProgress(job.console, "sampling", total, "problems", metrics.progress) as progress:

        def on_progress(problems: int, facts: Facts, shard: str | None) -> None:
            if progress.first is None and facts.trajectories:
                job.console.print(f"sampling   goes on after {facts.problems} of them")
            kept = f"{facts.steps_kept}/{facts.steps_scored} steps kept"
            parts = [kept] if facts.steps_scored else []
            parts += [f"{facts.rejected} rejected"] if facts.rejected else []
            # part-000000448, without the digest of its problems
            parts += [f"last shard {shard.rpartition('-')[0]}"] if shard else []
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


def label(job: Job) -> bool:
    """Labels scores that have no supervision, without engines. Says whether that finishes the sampling."""
    from lr_ray.sampling.sample import finish

    part = finish(job.run, job.config)
    if part is not None:
        job.summary["sampling"] = part
        job.run.write_json("summary.json", job.summary)
    return part is not None


def _train(job: Job) -> None:
    from lr_ray.training.schedule import settled
    from lr_ray.training.train import check_supervision, train

    checked = check_supervision(job.run, job.expert, job.config.sampling)  # reads all of it
    steps = settled(job.config.training, *checked).optimizer_steps
    job.console.print(
        f"training   {counted(steps, 'optimizer step')} on {counted(checked[0], 'kept step')}"
    )
    metrics = StageMetrics(job.run, "training")
    unit, losses = "optimizer steps", deque[float](maxlen=_LOSSES)
    with StageProgress(job.console, "training", steps, unit, metrics.progress) as progress:

        def on_progress(row: dict[str, Any]) -> None:
            if row["step"] == row["resumed_at"] + 1 > 1:
                job.console.print(
                    f"training   goes on after the checkpoint of step {row['resumed_at']}"
                )
            losses.append(row["loss"])
            mean = sum(losses) / len(losses)
            progress.update(row["step"], f"loss {mean:.3f}, mean of {len(losses)}")
            metrics.set(loss=row["loss"], tokens_per_second=row["tokens"] / row["seconds"])

        result = train(job.run, job.config, job.expert, on_progress, checked)
    job.summary["training"] = result
    job.console.print("training   " + report.training_line(result))


def _evaluate(job: Job) -> None:
    with temporary() as cache:
        served = job.run.local_folder(improved(job.config), cache)
        paths = {"expert": job.expert, "improved": served}
        job.summary |= ask_models(job, paths, lambda group: serving_of(job, group))
    add_drift(job.run, job.config, job.summary, job.console.print)


def lacks_drift(config: Config, summary: dict[str, Any]) -> bool:
    """Whether an evaluated run's summary has not the figures of drift that the config asks for."""
    asked = config.evaluation.drift
    if not asked or "accuracy" not in summary:
        return False
    # Older figures do not say how many tokens were asked for.
    return "drift" not in summary or summary["drift"].get("asked", asked) != asked


def add_drift(
    run: Run,
    config: Config,
    summary: dict[str, Any],
    say: Callable[[str], None],
    improved_path: str | None = None,
) -> bool:
    """Adds `drift` to an evaluated run's summary where it lacks what the config asks for. Says whether.

    `improved_path`: directory of the model that answered, if it is not to be looked for in the run; an
    adapter does not stand alone, and the run's merged model is read in its place.
    """
    if not lacks_drift(config, summary):
        return False
    from lr_ray.audit.drift import drift
    from lr_ray.evaluation.paper import decided

    say("drift      reads both models")
    table = run.answers(next(iter(summary["accuracy"])))
    with temporary() as cache:
        expert = resolve_model(config.models.expert, "models.expert")
        if improved_path is None or is_adapter(improved_path):
            improved_path = run.local_folder("model", cache)
        paths = {"expert": expert, "improved": improved_path}
        variables = config.models.chat_template_kwargs
        summary["drift"] = drift(paths, table, decided(config.evaluation, expert), variables)
    run.write_json("summary.json", summary)
    return True


def ask_models(
    job: Job,
    paths: Mapping[str, str],
    serve: Callable[[dict[str, str]], AbstractContextManager[str]],
) -> dict[str, Any]:
    """Asks model directories by their labels; returns the parts of summary.json of `run_evaluation`.

    `serve` gets those that are up together, and gives their base URL.
    """
    from lr_ray.evaluation.evaluate import ServedModel, identity_of
    from lr_ray.evaluation.paper import decided
    from lr_ray.models.models import stop_token_ids
    from lr_ray.pipeline.evaluation import run_evaluation
    from lr_ray.serving import Watch

    served = [
        ServedModel(n, n, identity_of(n, path, job.config), untrained=n != "improved")
        for n, path in paths.items()
    ]
    together = job.config.serving.adapters or job.config.resources.evaluation != "apart"
    return run_evaluation(
        job.run,
        job.console,
        [served] if together else [[model] for model in served],
        lambda group: serve({model.name: paths[model.name] for model in group}),
        decided(job.config.evaluation, job.expert),
        stop_token_ids(job.expert),
        on_asked=StageMetrics(job.run, "evaluation").progress,
        watch=Watch(job.config, lambda said: job.console.print(f"serving    {said}")),
    )


@contextlib.contextmanager
def serving_of(job: Job, models: dict[str, str]) -> Iterator[str]:
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
            variables=job.config.models.chat_template_kwargs,
        )
    try:
        job.console.print(f"serving    {url} ready in {time.monotonic() - started:.1f} s")
        yield url
    finally:
        serving.stop()


_STAGES = {"sampling": _sample, "training": _train, "evaluation": _evaluate}
