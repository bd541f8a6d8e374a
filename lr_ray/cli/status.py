"""Say where a run is, from any machine: a run of the pipeline, an evaluation, or a comparison.

lr-ray status --run DIR_OR_URI [--watch 10] [--json]

Reads the run directory alone, and writes nothing. A comparison's sources and variants are runs of their
own: --run RUN/variants/NAME. Training is told as of its last checkpoint.
"""

import argparse
import json
import time
from typing import Any

from rich.console import Console

from lr_ray import report
from lr_ray.cli.front import Formatter, Parser
from lr_ray.config import value_at
from lr_ray.report.status import CURRENT, FINISHED, LATER, Found, Status
from lr_ray.report.terminal import difference_line
from lr_ray.run.store import Run


def main(argv: list[str]) -> int:
    return _watch(_parse(argv))


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(
        prog="lr-ray status", description=__doc__, formatter_class=Formatter, allow_abbrev=False
    )
    parser.add_argument("--run", metavar="DIR_OR_URI", required=True, help="run directory")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=_seconds,
        help="say it again so often, until the run is finished and nobody works on it",
    )
    parser.add_argument("--json", action="store_true", help="the same as a JSON object on a line")
    return parser.parse_args(argv)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number of seconds above 0")
    return seconds


def _watch(options: argparse.Namespace) -> int:
    status, console = Status(Run(options.run)), Console(highlight=False, markup=False)
    while True:
        found = status.look()
        if options.json:
            print(json.dumps(found, allow_nan=False), flush=True)
        else:
            if options.watch:
                console.clear()  # a terminal; elsewhere it does nothing
            for label, text in lines(found):
                console.print(f"{label:<10} {text}", soft_wrap=True)
        if options.watch is None or (found["finished"] and not found["work"]["at_work"]):
            return 0
        if not (options.json or console.is_terminal):
            print(flush=True)
        time.sleep(options.watch)


def lines(found: Found) -> list[tuple[str, str]]:
    """Label and text of each line that a person reads."""
    told = [
        ("run", f"{found['run']} ({found['kind']})"),
        ("config", _config(found["asked"])),
        ("work", _work(found["work"])),
    ]
    told += _stages(found) if "stages" in found else _comparison(found)
    if found["finished"]:
        seconds, page = found["finished"]["seconds"], found["finished"]["page"]
        spent = "" if seconds is None else f"{seconds:.1f} s in all"
        told.append(("finished", "; ".join(filter(None, [spent, page]))))
    return told


def _config(asked: Found) -> str:
    config = asked["config"]
    asks = "asks " + ", ".join(value_at(config, "evaluation.benchmarks"))
    if "endpoint" in config:
        return f"{config['endpoint']}, models {', '.join(config['models'])}; {asks}"
    models, sampling = config["models"], config["sampling"]
    amateur = f", amateur {models['amateur']}" if sampling["method"] == "contrast" else ""
    source = value_at(asked, "data.source") or value_at(config, "data.source")
    most = f"at most {sampling['max_problems']} problems of {source}"
    return f"expert {models['expert']}{amateur}; {most}; {asks}"


def _work(work: Found) -> str:
    if "pid" not in work:
        return "nobody is working on it"
    process = f"process {work['pid']} on {work['host']}"
    ago = f"{'seen' if work['renewed'] else 'started'} {_duration(work['seconds'])} ago"
    if work["at_work"] is None:
        return f"not known, the file system has no locks: {process}, {ago}"
    if work["at_work"]:
        return f"at work: {process}, {ago}"
    return f"nobody is working on it; {process}, {ago}, did not end in order"


def _stages(found: Found) -> list[tuple[str, str]]:
    texts = {"sampling": _sampling, "training": _training, "evaluation": _evaluation}
    told = []
    for name, part in found["stages"].items():
        known = part["state"] in (FINISHED, CURRENT)
        text = texts[name](part) if known else "to come" if part["state"] == LATER else "left out"
        told.append((name, text + _unreadable(part)))
        if name == "training":
            made = ", ".join(f"{folder}/" for folder in found["export"])
            told.append(("export", made or (text if not known else "to come")))
    for name, part in found["accuracy"].items():
        told.append(("accuracy", f"{name}: {_accuracy(part)} on {part['problems']} problems"))
    if found["accuracy_mean"]:
        mean = found["accuracy_mean"]
        told.append(("accuracy", f"mean: {_accuracy(mean)} over {mean['tasks']} tasks"))
    return told


def _sampling(part: Found) -> str:
    if part["state"] == FINISHED:
        return f"finished: {part['shards']} shards, {report.sampling_line(part)}"
    if part["in_all"] is None:
        return f"{part['shards']} shards, problems not staged"
    kept, scored = part["steps_kept"], part["steps_scored"]
    text = f"{part['done']} of {part['in_all']} problems in {part['shards']} shards"
    text += f", {part['trajectories']} trajectories, {part['rejected']} rejected"
    text += f", {kept} of {scored} steps kept ({kept / max(1, scored):.1%})"
    return text + _pace(part, "problems")


def _training(part: Found) -> str:
    if part["state"] == FINISHED:
        return f"finished: {report.training_line(part)}"
    text = f"step {part['done']} of {part['in_all']}"
    if part["loss"] is not None:
        text += f", loss {part['loss']:.3f}"
    if part["checkpoint"] is not None:
        text += f", last checkpoint of step {part['checkpoint']}"
    if part["a_second"] is not None:
        text += f", {60 * part['a_second']:.1f} steps/min"
    return text + _left(part)


def _evaluation(part: Found) -> str:
    if part["state"] == FINISHED:
        return f"finished: {part['answers']} answers, {part['seconds']:.1f} s"
    of = "" if part["in_all"] is None else f" of {part['in_all']}"
    return f"{part['done']}{of} answers" + _pace(part, "answers")


def _pace(part: Found, unit: str) -> str:
    text, rate = "", part["a_second"]
    if rate is not None:
        text = f", {rate:.1f} {unit}/s" if rate >= 1 else f", {60 * rate:.1f} {unit}/min"
    return text + _left(part)


def _left(part: Found) -> str:
    remaining = part["remaining_s"]
    return "" if remaining is None else f", about {_duration(remaining)} left"


def _unreadable(part: Found) -> str:
    names = part.get("unreadable", [])
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"; cannot be read: {names[0]}{more}" if names else ""


def _accuracy(part: Found) -> str:
    """The first model's accuracy, and the others' with their difference from it."""
    texts = []
    for label, model in part["models"].items():
        text = f"{label} {model['accuracy']:.1%}"
        if label in part["differences"]:
            text += f" ({difference_line(part['differences'][label])})"
        texts.append(text)
    return ", ".join(texts)


def _comparison(found: Found) -> list[tuple[str, str]]:
    counts: dict[str, Any] = {state: count for state, count in found["cells"].items() if count}
    text = ", ".join(f"{count} {state}" for state, count in counts.items()) or "none yet"
    of = f"of {found['cells_in_all']}: " if found["cells_in_all"] is not None else ""
    told = [("grid", found["grid"])]
    if found["sources"] is not None:
        told.append(("sampling", f"{found['sources_sampled']} of {found['sources']} sources"))
    else:
        text += f" of those that have a folder; the grid cannot be read: {found['grid_unread']}"
    told.append(("variants", of + text))
    told += [("failed", f"{name}: {reason}") for name, reason in found["failed"].items()]
    return told + ([("now", ", ".join(found["now"]))] if found["now"] else [])


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
