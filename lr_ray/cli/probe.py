"""Sample a few problems with a config's pair, and say what a whole run would get of it.

lr-ray probe --config qwen2.5-math-1.5b [--problems 64] [--run runs/NAME-probe]

The run directory is a run of its own whose sampling is finished, and probe.json in it has all figures.
The last line begins with `verdict`.
"""

import argparse
from typing import TYPE_CHECKING, Any

from lr_ray.cli.options import Command, parse
from lr_ray.cli.stages import SAMPLING, check_contrast
from lr_ray.config import Config, merge, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.run.store import SCHEMA_VERSION, Run, read_asked, read_summary

if TYPE_CHECKING:
    import pyarrow as pa


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--problems", metavar="N", type=_count, default=64, help="problems to sample (64)")
    add(
        "--yes",
        action="store_true",
        help="do again what a changed setting makes stale in the probe",
    )


def _count(text: str) -> int:
    if not (text.isdecimal() and 0 < int(text) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of problems from 1")
    return int(text)


def main(argv: list[str]) -> int:
    command: Command[Config] = parse(
        __doc__, argv, _add_options, prog="lr-ray probe", shown=SAMPLING
    )
    options, config, run = command.options, command.config, command.run
    if options.config is None:
        raise UserError("--config: give that of the run to come; a probe's own has other problems")
    check_contrast(config.sampling, "a probe can read")
    if options.run is None:  # not where the config's ordinary run is
        run = Run(f"{run.location}-probe")
    few = {"max_problems": min(options.problems, config.sampling.max_problems)}
    probed: Config = resolve(merge(config.model_dump(mode="json"), {"sampling": few}))

    from lr_ray.pipeline.pipeline import execute

    there = run.shards("scores")
    execute(probed, run, ("sampling",), command.config_name, yes=options.yes)
    with run.lock(shared=True):
        seconds = read_summary(run)["sampling"]["seconds"]
        if run.exists("probe.json") and run.shards("scores") == there:  # labelled again at most
            seconds = run.read_json("probe.json")["sampling"]["probe_seconds"]
        found = _look(run, config, probed, seconds)
        run.write_json("probe.json", found)
    _print(found, config)
    print(f"\noutput     {run.location}/probe.json\nverdict    {found['verdict']} ({found['why']})")
    return 0


def _look(run: Run, config: Config, probed: Config, seconds: float) -> dict[str, Any]:
    """What probe.json holds of a run whose sampling took `seconds`; `config` is that of the run to come."""
    from lr_ray.models.models import resolve_model
    from lr_ray.report import probe
    from lr_ray.report.pair import compatibility
    from lr_ray.run.schemas import SCORES

    scores = run.read_tables(run.shards("scores"), SCORES)
    if not scores.num_rows:
        raise StageError(
            f"{run.location}: no trajectory was scored; rejected.jsonl has the reasons"
        )
    expert = resolve_model(config.models.expert, "models.expert")
    figures = probe.figures(scores, probed.sampling)
    verdict, why = probe.verdict(figures)
    return {
        "schema_version": SCHEMA_VERSION,
        "pair": compatibility(expert, resolve_model(config.models.amateur, "models.amateur")),
        "figures": figures,
        "expert_accuracy": _accuracy(run, scores, config, expert),
        "sampling": _cost(run, config, seconds),
        "verdict": verdict,
        "why": why,
    }


def _accuracy(run: Run, scores: "pa.Table", config: Config, expert: str) -> dict[str, Any] | None:
    """The expert's, of the trajectories that ended by themselves and whose answer is known; None: none is."""
    from lr_ray.evaluation.statistics import accuracy_interval
    from lr_ray.grading.graders import find
    from lr_ray.grading.pool import Graders, Item
    from lr_ray.models.models import load_tokenizer
    from lr_ray.problems import PROBLEM
    from lr_ray.problems.benchmarks import grader_of

    answers = run.read_tables(run.shards("problems"), PROBLEM)["answer"].to_pylist()
    decode = load_tokenizer(expert).decode
    columns = ("index", "completion_token_ids", "finish_reason")
    items = [
        Item(answers[problem], decode(tokens, skip_special_tokens=True))
        for problem, tokens, ended in zip(*(scores[n].to_pylist() for n in columns), strict=True)
        if ended == "stop" and answers[problem] is not None
    ]
    if not items:
        return None
    kind = grader_of(config.data.source, config.data.grader)
    with Graders() as graders:
        graded = graders.grade_all(find(kind, "data.grader") or kind, items)
    right = [found.verdict.correct for found in graded]
    return {
        "answers": len(right),
        "accuracy": sum(right) / len(right),
        "accuracy_ci95": accuracy_interval(right, 0),
    }


def _cost(run: Run, config: Config, measured_s: float) -> dict[str, Any]:
    """Seconds of the whole sampling as `report.rates` scales the probe's, and hours of the devices held.

    An upper bound: the start of the engines is scaled too.
    """
    from lr_ray.report.plan import how_many
    from lr_ray.report.rates import scaled, with_placement

    summary = read_summary(run)
    summary["sampling"]["seconds"] = measured_s
    measured = with_placement(read_asked(run)["config"], summary)
    problems = how_many(config)[0]
    whole: Config = resolve(merge(measured, {"sampling": {"max_problems": problems}}))
    seconds = scaled(whole, measured, summary, None)["sampling"]
    places = [
        (getattr(whole.sampling, role).most, getattr(whole.resources, role))
        for role in ("expert", "amateur")
    ]
    held = max if whole.resources.sampling == "apart" else sum
    gpus = held(count * place.gpus for count, place in places)
    devices = gpus or held(count * place.cpus for count, place in places)
    return {
        "problems": problems,
        "seconds": seconds,
        "hours": seconds * devices / 3600,
        "hours_of": "GPU" if gpus else "CPU",
        "probe_problems": summary["sampling"]["problems"],
        "probe_seconds": measured_s,
    }


def _print(found: dict[str, Any], config: Config) -> None:
    """All figures as a person reads them."""
    from lr_ray.report.pair import lines

    figures, cost, known = found["figures"], found["sampling"], found["expert_accuracy"]
    share, other = figures["kept_ci95"], figures["disagreement"]
    accuracy = "expert's not known, as no finished trajectory has an answer to compare with"
    if known:
        low, high = known["accuracy_ci95"]
        accuracy = f"expert {known['accuracy']:.1%} [{low:.1%}, {high:.1%}]"
        accuracy += f" of {known['answers']} finished trajectories"
    labels = "none"
    if other is not None:
        labels = f"{other:.1%} prefer another token; entropy {_spread(figures['entropy'])} nats"
    for label, text in [
        ("", ""),
        ("pair", f"expert {config.models.expert}, amateur {config.models.amateur}"),
        *lines(found["pair"]),
        ("sampled", f"{figures['trajectories']} trajectories, {figures['steps']} steps"),
        ("cut", f"{figures['trajectories_cut']:.1%} at {config.sampling.max_new_tokens} tokens"),
        ("kept", f"{figures['kept']:.1%} [{share[0]:.1%}, {share[1]:.1%}] of the steps"),
        ("KL", f"{_spread(figures['kl'])} nats"),
        ("labels", labels),
        ("accuracy", f"{accuracy}; the amateur's not known, as it only scores"),
        (
            "sampling",
            f"{cost['problems']} problems: at most {cost['seconds']:.0f} s, {cost['hours']:.2g} "
            f"{cost['hours_of']} hours, by {cost['probe_seconds']:.0f} s for {cost['probe_problems']}",
        ),
        ("", "training and evaluation: lr-ray plan --rates, once a run has measured them"),
    ]:
        print(f"{label:<10} {text}".rstrip())
    print(f"\n{'kl_threshold':>12} {'kept':>7} {'share':>7} {'another token':>14}")
    for row in figures["thresholds"]:
        line = f"{row['kl_threshold']:>12g} {row['steps_kept']:>7} {row['kept']:>7.1%}"
        share = row["disagreement"]
        print(line if share is None else f"{line} {share:>14.1%}")


def _spread(values: dict[str, float | None]) -> str:
    """mean 0.43, .5 0.2, .75 0.6"""
    return ", ".join(f"{name.removeprefix('0')} {value:.3g}" for name, value in values.items())
