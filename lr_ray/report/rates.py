"""How long a planned run takes, by the seconds that another one measured.

pytest tests/unit/test_plan.py
"""

import re
from typing import Any

from lr_ray.config import Config, flatten, merge, resolve, unflatten, value_at
from lr_ray.errors import UserError
from lr_ray.run.store import Run, read_asked
from lr_ray.training.schedule import settled

# What seconds depend on beside what they are scaled by.
UNSCALED = re.compile(
    r"(max_new_tokens|top_k|dtype|batch_size|batch_by|zero_stage|training\.method)$"
    r"|^resources\.\w+\.(gpus|cpus|accelerator)$"
)
NO_RATES = (
    "not known: there are no measured rates; a small run on the same hardware gives some: lr-ray run "
    "with the same settings, --run SMALL --sampling.max_problems 50 --evaluation.max_problems 50, and then "
    "this command with --rates SMALL"
)


def durations(config: Config, run: Run, answers: int | None) -> list[tuple[str, str]]:
    """The seconds of a run's finished stages, scaled; whatever else differs is named.

    Sampling by problems / expert engines, training's loop by optimizer steps / workers, evaluation by
    answers / replicas; starting engines, endpoint and training's processes takes what it took.
    Raises UserError for a run that has not even sampled by itself, or of other models.
    """
    asked, summary = read_asked(run)["config"], run.read_json("summary.json")
    ours, where = config.model_dump(mode="json"), f"--rates {run.location}"
    for name in ("models.expert", "models.amateur", "sampling.method"):
        if value_at(asked, name) != value_at(ours, name):
            theirs = f"{value_at(asked, name)}, not {value_at(ours, name)}"
            raise UserError(f"{where}: was measured with {name} = {theirs}")
    if "sampling" not in summary:
        raise UserError(f"{where}: sampling is not finished")
    try:
        placed = with_placement(asked, summary)
        seconds = scaled(config, placed, summary, answers)
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise UserError(f"{where}: no rates in run.json and summary.json: {error!r}") from None
    if "sampling" not in seconds:
        other = summary.get("shared", {}).get("decoding", "another one")
        raise UserError(
            f"{where}: its seconds are not those of sampling; give a run that sampled, {other}"
        )
    text = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    missing = [part for part in ("training", "evaluation") if part not in seconds]
    text += f"; {sum(seconds.values()):.0f} s"
    text += f" without {' and '.join(missing)}" if missing else ""
    there, told = flatten(placed), [("duration", f"rough, from {run.location}: {text}")]
    known = {name: value for name, value in flatten(ours).items() if UNSCALED.search(name)}
    for said, names in (
        ("not scaled for another", [k for k in known if k in there and there[k] != known[k]]),
        ("which does not say", sorted({k.rpartition(".")[0] for k in known if k not in there})),
    ):
        told += [("", f"{said} {', '.join(names)}")] if names else []
    return told


def with_placement(asked: dict[str, Any], summary: dict[str, Any]) -> dict[str, Any]:
    """The config with what was chosen for its `auto` when the run was made."""
    for values in summary.get("placement", {}).values():
        asked = merge(asked, unflatten(values))
    return asked


def scaled(
    config: Config, asked: dict[str, Any], summary: dict[str, Any], answers: int | None
) -> dict[str, float]:
    """Seconds of the stages that the measured run has finished, without those of which nothing was timed."""
    was = resolve(asked)
    sampled = summary["sampling"]
    engines = was.sampling.expert.most / config.sampling.expert.most
    problems = config.sampling.max_problems / sampled["problems"]
    seconds = {}
    if count := timed(sampled):
        started = sampled.get("starting_seconds", 0.0)
        share = config.sampling.max_problems / count
        seconds["sampling"] = started + (sampled["seconds"] - started) * share * engines
    trained = summary.get("training")
    if trained and (made := trained["optimizer_steps"] - trained["resumed_at"]):
        kept = (round(problems * sampled.get(part, 0)) for part in ("steps_kept", "trajectories"))
        steps = settled(config.training, *kept).optimizer_steps / made
        workers = trained["workers"] / config.training.workers
        loop = trained["loop_seconds"]
        seconds["training"] = trained["seconds"] - loop + loop * steps * workers
    if evaluated := summary.get("evaluation"):
        seconds["starting the endpoint"] = summary["serving"]["seconds"]
        if answers is not None and (count := asked_for(evaluated)):
            replicas = was.serving.replicas / config.serving.replicas
            share = answers / count
            seconds["evaluation"] = evaluated["seconds"] * share * replicas
    return seconds


def asked_for(evaluated: dict[str, Any]) -> int:
    """How many answers were asked for in the seconds of a summary's `evaluation` part; see `timed`."""
    return int(evaluated.get("answers_timed", evaluated["answers"]))


def timed(sampled: dict[str, Any]) -> int:
    """How many problems both models worked on in the seconds of a summary's `sampling` part.

    Older summaries do not say, and count as if it were all.
    """
    return 0 if "imported" in sampled else int(sampled.get("problems_timed", sampled["problems"]))
