"""Sample a few problems with a config's pair, and say what a whole run would get of it.

lr-ray probe --config qwen2.5-math-1.5b [--problems 64] [--run runs/NAME-probe]

The run directory is a run of its own whose sampling is finished, and probe.json in it has all figures.
The last line begins with `verdict`.
"""

import argparse
from typing import Any

from lr_ray.cli.front import number
from lr_ray.cli.options import parse
from lr_ray.cli.stages import SAMPLING, check_contrast
from lr_ray.config import Config
from lr_ray.errors import UserError, counted
from lr_ray.run.store import Run


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    count = number(int, "{!r} is not a number of problems from 1", most=100_000)
    add("--config", metavar="NAME_OR_PATH", help="preset or YAML file of the run to come")
    add(
        "--run", metavar="DIR_OR_URI", help="the probe's directory; without it, runs/<config>-probe"
    )
    add("--problems", metavar="N", type=count, default=64, help="problems to sample (64)")
    add(
        "--yes",
        action="store_true",
        help="do again what a changed setting makes stale in the probe",
    )


def main(argv: list[str]) -> int:
    command = parse(__doc__, argv, _add_options, prog="lr-ray probe", shown=SAMPLING)
    options, config, run = command.options, command.config, command.run
    if options.config is None:
        raise UserError("--config: give that of the run to come; a probe's own has other problems")
    check_contrast(config.sampling, "a probe can read")
    if options.run is None:  # not where the config's ordinary run is
        run = Run(f"{run.location}-probe")
    from lr_ray.pipeline.probe import probe

    found = probe(config, run, options.problems, command.config_name, options.yes)
    _print(found, config)
    where = f"page       {run.location}/probe.html\noutput     {run.location}/probe.json"
    print(f"\n{where}\nverdict    {found['verdict']} ({found['why']})")
    return 0


def _print(found: dict[str, Any], config: Config) -> None:
    """All figures as a person reads them."""
    from lr_ray.report.pair import lines

    figures, cost = found["figures"], found["cost"]
    share, other = figures["kept_ci95"], figures["disagreement"]
    labels = "none"
    if other is not None:
        labels = f"{other:.1%} prefer another token; entropy {_spread(figures['entropy'])} nats"
    sampling = "not measured: the scores were there"
    if cost["sampling_s"] is not None:
        sampling = f"{counted(cost['problems'], 'problem')}: at most {cost['sampling_s']:.0f} s"
    asking = []
    if cost["evaluation_s"]:
        said = f"{counted(cost['answers'], 'answer')}: about {cost['evaluation_s']:.0f} s"
        asking = [("evaluation", said)]
    for label, text in [
        ("", ""),
        ("pair", f"expert {config.models.expert}, amateur {config.models.amateur}"),
        *lines(found["pair"]),
        (
            "sampled",
            f"{counted(figures['trajectories'], 'trajectory')}, {counted(figures['steps'], 'step')}",
        ),
        ("cut", f"{figures['trajectories_cut']:.1%} at {config.sampling.max_new_tokens} tokens"),
        ("kept", f"{figures['kept']:.1%} [{share[0]:.1%}, {share[1]:.1%}] of the steps"),
        ("KL", f"{_spread(figures['kl'])} nats"),
        ("labels", labels),
        ("accuracy", _accuracy(found["accuracy"])),
        ("sampling", sampling),
        *asking,
        (
            "cost",
            f"{cost['hours']:.2g} {cost['hours_of']} hours for these; training: lr-ray plan --rates, "
            "once a run has measured it",
        ),
    ]:
        print(f"{label:<10} {text}".rstrip())
    print(f"\n{'kl_threshold':>12} {'kept':>7} {'share':>7} {'another token':>14}")
    for row in figures["thresholds"]:
        line = f"{row['kl_threshold']:>12g} {row['steps_kept']:>7} {row['kept']:>7.1%}"
        share = row["disagreement"]
        print(line if share is None else f"{line} {share:>14.1%}")


def _accuracy(found: dict[str, Any] | None) -> str:
    if found is None:
        return "not known, as no problem has an answer that can be graded"
    models = found["models"]
    said = [
        f"{label} {figures['accuracy']:.1%}{_interval(figures['accuracy_ci95'])}"
        for label, figures in models.items()
    ]
    gap = found["gap"]
    return f"{', '.join(said)} of {found['problems']}; gap {gap:+.1%}{_interval(found['gap_ci95'])}"


def _interval(ends: list[float]) -> str:
    return f" [{ends[0]:.1%}, {ends[1]:.1%}]"


def _spread(values: dict[str, float | None]) -> str:
    """mean 0.43, .5 0.2, .75 0.6"""
    return ", ".join(f"{name.removeprefix('0')} {value:.3g}" for name, value in values.items())
