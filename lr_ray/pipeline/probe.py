"""A few problems sampled with a config's pair and asked of both models, and what that says of a whole run.

Exercised by `pytest tests/integration/test_probe.py`.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from lr_ray.config import Config, Data, changed, resolve, roles_of
from lr_ray.console import quiet_others
from lr_ray.errors import StageError
from lr_ray.grading.graders import find as find_grader
from lr_ray.models.models import resolve_model
from lr_ray.pipeline.job import Job
from lr_ray.pipeline.pipeline import execute
from lr_ray.pipeline.stages import ask_models, serving_of
from lr_ray.placement.site import site
from lr_ray.problems import PROBLEM
from lr_ray.problems.benchmarks import grader_of, unjudged
from lr_ray.report import plan
from lr_ray.report import probe as figures_of
from lr_ray.report.page import write_probe
from lr_ray.report.pair import compatibility
from lr_ray.report.rates import asked_for, scaled, timed, with_placement
from lr_ray.run.paths import temporary
from lr_ray.run.schemas import SCORES
from lr_ray.run.store import SCHEMA_VERSION, Run, read_asked, read_summary, shaped
from lr_ray.runtime.cluster import cluster

FILE, ASKED = "probe.json", "asked"


def probe(config: Config, run: Run, problems: int, name: str, yes: bool = False) -> dict[str, Any]:
    """Samples at most `problems` into `run`, asks both models, and returns what it writes as probe.json.

    `config`: of the run to come, named `name`; `yes` as of `execute`. Scores and answers that are there are
    used. Raises UserError and StageError as a run does, StageError also when nothing was scored.
    """
    few = min(problems, config.sampling.max_problems)
    probed = changed(config, {"sampling.max_problems": few})
    before = _before(run)
    execute(probed, run, ("sampling",), name, yes=yes, has_from=False)
    with run.lock():
        sampled = read_summary(run)["sampling"]
        measured = _Sampled(
            sampled["seconds"], sampled.get("starting_seconds", 0.0), timed(sampled)
        )
        if before and not measured.problems_timed:  # labelled again at most
            measured = before.sampled
        found = _look(run, config, probed, measured, before)
        write_probe(run, read_summary(run), found)
        run.write_json(FILE, found)
    return found


class _Sampled(NamedTuple):
    """A sampling's seconds, those until its engines were at work, and how many problems it took them for."""

    seconds: float
    starting_seconds: float
    problems_timed: int


class _Before(NamedTuple):
    """What an earlier command measured; `asked`: seconds and answers asked in them, None without any."""

    sampled: _Sampled
    asked: dict[str, Any] | None


def _before(run: Run) -> _Before | None:
    """Of the probe.json that is there. Raises UserError where it is of another form."""
    if not run.exists(FILE):
        return None
    there = run.read_json(FILE)
    with shaped(run.location, FILE):
        cost, asked = there["cost"], there["accuracy"]
        started = float(cost.get("probe_start_s", 0.0))
        sampled = _Sampled(float(cost["probe_s"]), started, int(cost["probe_problems"]))
        if asked:
            asked = {"seconds": float(asked["seconds"]), "answers_timed": asked_for(asked)}
        return _Before(sampled, asked)


def _look(
    run: Run, config: Config, probed: Config, sampled: _Sampled, before: _Before | None
) -> dict[str, Any]:
    """What is written. `before`: of the command before."""
    scores = run.read_tables(run.shards("scores"), SCORES)
    if not scores.num_rows:
        raise StageError(
            f"{run.location}: no trajectory was scored; rejected.jsonl has the reasons"
        )
    paths = {
        role: resolve_model(getattr(config.models, role), f"models.{role}")
        for role in ("expert", "amateur")
    }
    there = run.child(ASKED)  # of its own: answers do not depend on labels, which may be made again
    asked = _ask(run, there, probed, paths)
    if asked and before and before.asked and not asked["answers_timed"]:
        asked |= before.asked  # nothing was asked
    figures = figures_of.figures(scores, probed.sampling)
    verdict, why = figures_of.verdict(figures, asked)
    return {
        "schema_version": SCHEMA_VERSION,
        "pair": compatibility(paths["expert"], paths["amateur"]),
        "figures": figures,
        "accuracy": asked,
        "cost": _cost(run, config, sampled, asked),
        "verdict": verdict,
        "why": why,
    }


def _ask(run: Run, there: Run, probed: Config, paths: dict[str, str]) -> dict[str, Any] | None:
    """Accuracies of both models and their gap, asked in the run `there`; None: no answer can be graded."""
    known, grader = _gradable(run, probed.data)
    if not known:
        return None
    with temporary() as folder:
        file = Path(folder, "probe.jsonl")
        texts = [
            json.loads(r["metadata"] or "{}")
            | {"id": r["problem_id"], "problem": r["problem"], "answer": r["answer"]}
            for r in known
        ]
        file.write_text("".join(json.dumps(row) + "\n" for row in texts))
        over = {
            "benchmarks": [str(file)], "grader": grader,
            "fields": {"id": "id", "problem": "problem", "answer": "answer"},
            "max_problems": None, "shots": [0], "samples": 1, "temperature": 0.0, "grader_check": [],
            "perturbations": [], "protocol": "same",  # the same prompt for both
        }  # fmt: skip
        # Both are whole models; no adapter is trained yet.
        config = changed(probed, {"evaluation": over, "serving.adapters": False})
        with site(config, ["evaluation"]) as place, quiet_others(run.log_path()) as console:
            config = place.arranged(config, ["evaluation"])
            there.create()
            job = Job(config, there, paths["expert"], paths["amateur"], console, {}, place)

            @contextlib.contextmanager
            def serve(group: dict[str, str]) -> Iterator[str]:
                with cluster(), serving_of(job, group) as url:
                    yield url

            parts = ask_models(job, paths, serve)
    found, evaluated = parts["accuracy"]["probe"], parts["evaluation"]
    difference = found["differences"]["amateur"]
    low, high = difference["difference_ci95"]
    return {
        "problems": found["problems"],
        "models": found["models"],
        "gap": 0.0 - difference["difference"],  # no -0.0
        "gap_ci95": [0.0 - high, 0.0 - low],
        "answers": evaluated["answers"],
        "answers_timed": evaluated["answers_timed"],
        "seconds": evaluated["seconds"],
    }


def _gradable(run: Run, data: Data) -> tuple[list[dict[str, Any]], str]:
    """The staged problems of which an answer can be right, and their grader.

    The others are no error, as a probe samples problems without an answer too. Raises UserError where
    rows name a grader that there is not.
    """
    rows = run.read_tables(run.shards("problems"), PROBLEM).to_pylist()
    known = [row for row in rows if row["answer"] is not None]
    grader = str(grader_of(data.source, data.grader, [row["metadata"] for row in known]))
    find_grader(grader, "data.grader")
    return [
        row
        for row in known
        if unjudged(row["answer"], grader, json.loads(row["metadata"] or "{}")) is None
    ], grader


def _cost(
    run: Run, config: Config, sampled: _Sampled, asked: dict[str, Any] | None
) -> dict[str, Any]:
    """Seconds of the whole sampling and evaluation as `report.rates` scales the probe's, and device hours.

    None are the whole sampling's where the probe sampled nothing. An upper bound of sampling: in a few
    problems the engines are at first and at last not full, and one model may wait for the other's start.
    """
    summary = read_summary(run)
    summary["sampling"] |= sampled._asdict()
    if asked:
        summary |= {"evaluation": asked, "serving": {"seconds": 0.0}}
    measured = with_placement(read_asked(run)["config"], summary)
    problems, wanted = plan.how_many(config)[0], plan.answers(config)
    whole = changed(resolve(measured), {"sampling.max_problems": problems})
    seconds = scaled(whole, measured, summary, wanted)
    hours, of = 0.0, "CPU"
    for stage in ("sampling", "evaluation"):
        roles = roles_of(whole, stage)
        places = [(_count(whole, role), getattr(whole.resources, role)) for role in roles]
        held = max if stage == "sampling" and whole.resources.sampling == "apart" else sum
        gpus = held(count * place.gpus for count, place in places)
        of = "GPU" if gpus else of
        devices = gpus or held(count * place.cpus for count, place in places)
        hours += seconds.get(stage, 0.0) * devices / 3600
    return {
        "problems": problems,
        "sampling_s": seconds.get("sampling"),
        "answers": wanted,
        "evaluation_s": seconds.get("evaluation"),
        "hours": hours,
        "hours_of": of,
        "probe_problems": sampled.problems_timed,
        "probe_s": sampled.seconds,
        "probe_start_s": sampled.starting_seconds,
    }


def _count(config: Config, role: str) -> int:
    """Engines of a role, of both models where they are served."""
    return 2 * config.serving.replicas if role == "server" else getattr(config.sampling, role).most
