"""`--plan`: what a run would ask for, as lines for people, and its duration by measured rates.

python jobs/full_pipeline.py --config qwen2.5-math-1.5b --plan [--gpus 8] [--rates RUN]
"""

import math
import re
from typing import Any

from lr_ray import plan
from lr_ray.cli import Command
from lr_ray.config import Config, flatten, value_at
from lr_ray.errors import UserError
from lr_ray.pipeline import STAGES
from lr_ray.store import Run, read_asked

NOUNS = {"expert": "engine", "amateur": "engine", "trainer": "worker", "server": "replica"}
# What seconds depend on beside what they are scaled by.
UNSCALED = re.compile(
    r"(max_new_tokens|top_k|dtype|batch_size|batch_by|zero_stage|training\.method)$"
    r"|^resources\.\w+\.(gpus|cpus|accelerator)$"
)
COUNT = ("", "thousand", "million", "billion")
NO_RATES = (
    "not known: there are no measured rates; a small run on the same hardware gives some: this command "
    "with --run SMALL --sampling.max_problems 50 --evaluation.max_problems 50 in place of --plan, and "
    "then with --plan --rates SMALL"
)


def lines(command: Command[Config]) -> list[tuple[str, str]]:
    """Label and text of each line of the plan.

    Raises UserError for models, benchmarks or rates that cannot be read, and rates of other models.
    """
    config, options = command.config, command.options
    gpu = 1e9 * (options.gpu_memory_gb or 80)
    there = gpus(options.gpus) if options.gpus else "any number of GPUs"
    told = [("plan", f"{command.config_name}, on {there} of {gpu / 1e9:g} GB")]
    models: plan.Models = {"expert": None, "amateur": None}
    roles = ["expert"] if config.sampling.method == "rejection" else list(models)
    for role in roles:
        name = getattr(config.models, role)
        found = plan.find_model(name, f"models.{role}")
        if isinstance(found, plan.Model):
            models[role] = found
            counted = f"{amount(found.parameters, COUNT)} parameters"
            found = f"{name}: {counted}, reads {found.context} tokens"
        told.append((role, found))
    answers = plan.answers(config)
    stages = plan.stages(config, models)
    for stage, processes in stages.items():
        least, most = plan.at_once(processes), plan.at_once(processes, most=True)
        grown = f", up to {most}" if most > least else ""
        told.append((stage, f"{gpus(least)} at once{grown}"))
        for process in processes:
            told += _processes(process, gpu)
        told.append(("", _amounts(config, models, stage, answers)))
    needed = {stage: plan.at_once(processes) for stage, processes in stages.items()}
    largest = max(needed.values())
    where = " and ".join(stage for stage, count in needed.items() if count == largest > 0)
    told.append(("largest", f"{gpus(largest)} at once" + (f", in {where}" if where else "")))
    told += (
        durations(config, Run(options.rates), answers)
        if options.rates
        else [("duration", NO_RATES)]
    )
    return told + [("!", line) for line in plan.warnings(config, models, options.gpus, gpu)]


def _processes(process: plan.Processes, gpu: float) -> list[tuple[str, str]]:
    """How many, what each asks for, and what its memory holds."""
    role, noun = process.role, NOUNS[process.role]
    each, models = (2, " of each of 2 models") if role == "server" else (1, "")
    least, most = process.least // each, process.most // each
    count = f"{least} {noun}{'s' if least > 1 else ''}{models}"
    count += f", up to {most}" if most > least else ""
    asked = [
        f"{v / 1e9:g} GB memory" if k == "memory" else f"{v:g} {k}"
        for k, v in process.place.bundle().items()
    ]
    told = [(f"  {role}", f"{count}; each asks for {', '.join(asked) or 'nothing'}")]
    if process.weights is None:
        return told
    weights = f"weights {amount(process.weights)} in {process.dtype}"
    if role == "trainer":
        state = f"AdamW's state {amount(process.state)}"
        return [*told, ("", f"{weights}, {state}; gradients and activations come on top")]
    sequence = process.sequence * process.token
    cache = f"cache {amount(process.token)} a token, {amount(sequence)} a sequence of "
    cache += f"{process.sequence} tokens"
    if process.place.gpus:
        left = max(0.0, process.room(gpu) - process.weights)
        weights += f" leave {amount(left)} of {amount(process.room(gpu))}"
        cache += f": room for {left // sequence:.0f}"
    return [*told, ("", f"{weights}; {cache}")]


def _amounts(config: Config, models: plan.Models, stage: str, answers: int | None) -> str:
    """How much a stage has to do."""
    sampling, training, expert = config.sampling, config.training, models["expert"]
    if stage == "sampling":
        problems = f"at most {sampling.max_problems} problems in {plan.shards(config)} shards, "
        tokens = sampling.max_problems * sampling.max_new_tokens
        if sampling.method == "rejection":
            return problems + f"{amount(tokens * sampling.rejection.samples, COUNT)} tokens decoded"
        k = min(sampling.top_k, expert.rows) if expert else sampling.top_k
        return (
            problems + f"{amount(tokens, COUNT)} tokens decoded, {amount(8 * tokens * k)} exchanged"
        )
    if stage == "training":
        unit = "kept steps" if training.batch_by == "step" else "trajectories"
        counted = f"{amount(plan.trained(config, expert), COUNT)} " if expert else ""
        steps = f"{training.optimizer_steps} optimizer steps of {training.batch_size} {unit}"
        return f"{steps}; {counted}trained parameters, by method {training.method}"
    if answers is None:
        return (
            "answers not known before benchmarks of the hub are read; evaluation.max_problems or "
            "evaluation.data_dir says how many"
        )
    tokens = answers * config.evaluation.max_new_tokens
    return f"at most {answers} answers, {amount(tokens, COUNT)} tokens decoded"


def durations(config: Config, run: Run, answers: int | None) -> list[tuple[str, str]]:
    """The seconds of a finished run, scaled; whatever else differs is named.

    Sampling by problems / expert engines, training's loop by optimizer steps / workers, evaluation by
    answers / replicas; starting the endpoint and training's processes takes what it took.
    Raises UserError for a run that is not finished, or of other models.
    """
    asked, summary = read_asked(run)["config"], run.read_json("summary.json")
    ours, where = config.model_dump(mode="json"), f"--rates {run.location}"
    for name in ("models.expert", "models.amateur", "sampling.method"):
        if value_at(asked, name) != value_at(ours, name):
            theirs = f"{value_at(asked, name)}, not {value_at(ours, name)}"
            raise UserError(f"{where}: was measured with {name} = {theirs}")
    for part in (*STAGES, "serving"):
        if part not in summary:
            raise UserError(f"{where}: {part} is not finished")
    try:
        seconds = _scaled(config, asked, summary, answers)
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise UserError(f"{where}: no rates in run.json and summary.json: {error!r}") from None
    text = ", ".join(f"{part} {value:.0f} s" for part, value in seconds.items())
    text += f"; {sum(seconds.values()):.0f} s" if answers is not None else "; without evaluation"
    there, told = flatten(asked), [("duration", f"rough, from {run.location}: {text}")]
    known = {name: value for name, value in flatten(ours).items() if UNSCALED.search(name)}
    for said, names in (
        ("not scaled for another", [k for k in known if k in there and there[k] != known[k]]),
        ("which does not say", sorted({k.rpartition(".")[0] for k in known if k not in there})),
    ):
        told += [("", f"{said} {', '.join(names)}")] if names else []
    return told


def _scaled(
    config: Config, asked: dict[str, Any], summary: dict[str, Any], answers: int | None
) -> dict[str, float]:
    sampled, trained, evaluated = (summary[stage] for stage in STAGES)
    engines = value_at(asked, "sampling.expert.max_engines") / config.sampling.expert.max_engines
    replicas = value_at(asked, "serving.min_replicas") / config.serving.min_replicas
    problems = config.sampling.max_problems / sampled["problems"]
    steps = config.training.optimizer_steps / (trained["optimizer_steps"] - trained["resumed_at"])
    workers = trained["workers"] / config.training.num_workers
    loop = trained["loop_seconds"]
    seconds = {
        "sampling": sampled["seconds"] * problems * engines,
        "training": trained["seconds"] - loop + loop * steps * workers,
        "starting the endpoint": summary["serving"]["seconds"],
    }
    if answers is not None:
        seconds["evaluation"] = evaluated["seconds"] * answers / evaluated["answers"] * replicas
    return seconds


def gpus(count: int) -> str:
    return f"{count} GPU{'s' * (count != 1)}"


def amount(number: float, units: tuple[str, ...] = ("B", "kB", "MB", "GB", "TB")) -> str:
    """Three digits and a unit: 3.09 GB."""
    power = min(len(units) - 1, max(0, math.floor(math.log10(max(1, number)) / 3)))
    return f"{number / 1000**power:.3g} {units[power]}".rstrip()
