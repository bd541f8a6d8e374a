"""Rounds: the improved expert of one is the expert of the next, each a run of the pipeline of its own.

They end early where one kept nothing, or its improved expert solves fewer held-out problems than its expert,
by a paired 95 % interval that lies below 0. Exercised by `pytest tests -k rounds`.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow.compute as pc

from lr_ray.config import STAGES, Config, changed, value_at
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.results import MEANS, check_asked_alike, scores_of
from lr_ray.evaluation.statistics import pooled_difference
from lr_ray.experiments.plot import draw
from lr_ray.experiments.table import markdown, percent, points
from lr_ray.method.contrast import entropy_terms
from lr_ray.models.models import fingerprint
from lr_ray.pipeline.pipeline import execute
from lr_ray.problems import INDEX, check_source, count_problems
from lr_ray.run.asked import begin, difference, fingerprints_of
from lr_ray.run.rounds import round_of
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run, read_asked, read_summary
from lr_ray.runtime import interrupts

PAGE = "rounds.md"
Found = dict[str, Any]


def run_rounds(
    config: Config,
    run: Run,
    stages: Sequence[str],
    name: str,
    *,
    source: Run | None = None,
    yes: bool = False,
) -> int:
    """Runs what is not finished of the stages, and of the rounds where they are all stages.

    Returns the exit code. Arguments and errors are those of `execute`; `source` is for the first round.
    """
    if config.rounds == 1 or tuple(stages) != STAGES:
        return execute(config, run, stages, name, source=source, yes=yes)
    _check(config, run)
    for number in range(1, config.rounds + 1):
        there, asked = round_of(run, number), _config(config, run, number)
        print(f"round      {number} of {config.rounds}")
        if number > 1:
            _clear(there, asked.models.expert, yes)
        told, before = value_at(read_summary(run), "rounds.rounds") or [], read_summary(there)
        try:
            execute(asked, there, stages, name, source=source, yes=yes)
        except StageError:
            interrupts.again()
            if number == 1 or read_summary(there).get("sampling", {}).get("steps_kept") != 0:
                raise
        source = None
        # What is told of the rounds after it stays, where this one was finished before.
        is_passed = number < min(len(told), config.rounds) and read_summary(there) == before
        found = (_found if is_passed else _write)(run, config, number)
        if found["stopped"]:
            break
    print(f"\n{render(found)}\noutput     {run.location}/{PAGE}")
    return 0


def _check(config: Config, run: Run) -> None:
    """Raises UserError for what would be found wrong only after rounds of work."""
    rounds, each = config.rounds, config.sampling.max_problems
    if not run.is_local:
        raise UserError(
            f"--run {run.location}: of {rounds} rounds each takes the model of the one before from its "
            "directory; give a path that all nodes see"
        )
    if config.data.repeat_in_rounds or _has_problems(run, config):
        return
    check_source(config)
    needed = (config.data.skip or 0) + rounds * each
    if (there := count_problems(config, needed)) < needed:
        raise UserError(
            f"rounds = {rounds}: data.source {config.data.source} has {there} usable problems, and rounds of "
            f"sampling.max_problems = {each} each need {needed}; give a smaller max_problems, fewer rounds "
            "or --data.repeat_in_rounds true"
        )


def _has_problems(run: Run, config: Config) -> bool:
    """Whether the last round has its problems, and would not read others by this config."""
    last = round_of(run, config.rounds)
    if not (last.exists(INDEX) and last.exists("run.json")):
        return False
    return "decoding" not in difference(last, _config(config, run, config.rounds)).affected


def _clear(there: Run, expert: str, yes: bool) -> None:
    """Removes a round made from other weights than the one before has now. Raises UserError without `yes`."""
    if not there.exists("run.json"):
        return
    if fingerprints_of(read_asked(there))["expert"] == fingerprint(expert):
        return
    if not yes:
        raise UserError(
            f"--run {there.location}: was made from another expert than {expert} is; give --yes to "
            "make it again"
        )
    there.remove("")


def _config(config: Config, run: Run, number: int) -> Config:
    """Of a round: other models and the next problems, and itself of one round."""
    if number == 1:
        return config
    experts = [config.models.expert, *(round_of(run, n).path("model") for n in range(1, number))]
    before = config.models.amateur_of_rounds == "before"
    skipped = (config.data.skip or 0) + (number - 1) * config.sampling.max_problems
    skip = config.data.skip if config.data.repeat_in_rounds else skipped
    over = {
        "rounds": 1,
        "models.expert": experts[-1],
        "models.amateur": experts[-2] if before else config.models.amateur,
        "models.amateur_of_rounds": "same",
        "data.skip": skip,
        "data.repeat_in_rounds": False,
        "evaluation.paper.expert_prompt": "chat",  # as it was trained
    }
    return changed(config, over)


def _found(run: Run, config: Config, number: int) -> Found:
    """What came of the rounds up to this one."""
    rows = [_row(run, config, n) for n in range(1, number + 1)]
    stopped = _stopped(rows[-1])
    result = max(1, number - 1) if stopped else number
    return {"asked": config.rounds, "rounds": rows, "stopped": stopped, "result": result}


def _write(run: Run, config: Config, number: int) -> Found:
    """Adds `_found` to the run's summary.json, as `rounds`; the table and its plot."""
    found = _found(run, config, number)
    with run.lock():
        asked = read_asked(run)  # of fewer rounds, where the first was finished before
        begin(run, config, {name: asked[name] for name in ("versions", "models", "data")})
        run.write_json("summary.json", read_summary(run) | {"rounds": found})
        run.write_bytes(PAGE, render(found).encode())
        for name, picture in _pictures(found["rounds"]).items():
            run.write_bytes(name, picture)
    return found


def _pictures(rows: Sequence[Found]) -> dict[str, bytes]:
    """The table's accuracies and kept shares, drawn as a sweep over rounds, by the files' names."""
    variants = {
        f"round {row['round']}": {
            "accuracy": row["accuracy"],
            "untrained": False,
            "value": f"round {row['round']}",
            "cost": {"steps_kept_share": row["steps_kept_share"]},
        }
        for row in rows
    }
    content, tasks = {"grid": {"x": "round"}, "variants": variants}, list(rows[0]["accuracy"])
    return {
        f"rounds{f'-{task}' if len(tasks) > 1 else ''}.{kind}": picture
        for task in tasks
        for kind, picture in draw(content, task).items()
    }


def _row(run: Run, config: Config, number: int) -> Found:
    """What came of a round: `accuracy` of each task is empty where nothing was kept, and so trained.

    It has the figures of `pooled_difference` against the untouched expert, and `from_before`, those against
    the round's own; `from_before` of the row is that of the mean over the tasks, or of the first. `drift` is
    the KL from the round's expert on texts of another kind, where it was measured.
    """
    there = round_of(run, number)
    summary, models = read_summary(there), read_asked(there)["config"]["models"]
    sampled = summary["sampling"]
    accuracy = {}
    for task, part in summary.get("accuracy", {}).items():
        untouched, answers = run.answers(task), there.answers(task)
        check_asked_alike(task, untouched, answers, there.location)
        expert, improved = scores_of(untouched, "expert"), scores_of(answers, "improved")
        accuracy[task] = pooled_difference(expert, [improved], config.evaluation.seed) | {
            "accuracy_ci95": part["models"]["improved"]["accuracy_ci95"],
            "from_before": part["differences"]["improved"],
            "characters": pc.mean(pc.utf8_length(answers["improved_completion"])).as_py(),
        }
    means = [summary[m]["differences"]["improved"] for m in MEANS if m in summary]
    means += [part["from_before"] for part in accuracy.values()]
    return {
        "round": number,
        "run": there.location,
        "expert": models["expert"],
        "amateur": models["amateur"],
        "problems": sampled["problems"],
        "accuracy": accuracy,
        "from_before": means[0] if means else None,
        "label_entropy": _label_entropy(there),
        "drift": value_at(summary, "drift.models.improved.kl"),
        "steps_kept": sampled["steps_kept"],
        "steps_kept_share": sampled["steps_kept"] / max(1, sampled["steps_scored"]),
    }


def _label_entropy(run: Run) -> float | None:
    """Mean entropy of the soft labels, in nats; None where there is none."""
    rows = run.read_tables(run.shards("supervision"), SUPERVISION)
    steps = rows["steps"].combine_chunks().flatten()
    if not len(steps):
        return None
    weights = pc.struct_field(steps, "weights").flatten().to_numpy()
    return float(entropy_terms(weights).sum() / len(steps))


def _stopped(row: Found) -> str | None:
    """Why no round follows, or None."""
    if not row["accuracy"]:
        return f"no step was kept in round {row['round']}"
    if row["from_before"]["difference_ci95"][1] >= 0:
        return None
    before = "the round before" if row["round"] > 1 else "the untouched expert"
    return f"accuracy fell in round {row['round']}, {points(row['from_before'])} points against {before}"


def render(found: Found) -> str:
    """rounds.md."""
    rows = found["rounds"]
    tasks = list(rows[0]["accuracy"])
    head = ["round", "steps kept", "label entropy", "drift, nats"]
    for task in tasks:
        of = f" {task}" if len(tasks) > 1 else ""
        head += [f"accuracy{of} [95 %]", "minus untouched [95 %]", "minus round before [95 %]"]
        head += ["characters an answer"]
    lines = [
        f"# {len(rows)} of {found['asked']} rounds",
        "",
        *markdown(head, [_cells(row, tasks) for row in rows]),
        "",
        f"Untouched expert {rows[0]['expert']}: "
        + ", ".join(f"{percent(rows[0]['accuracy'][task]['expert'])} % on {task}" for task in tasks)
        + ". All are asked the same held-out problems; intervals of differences are paired.",
        "",
        f"Result: the improved expert of round {found['result']}" + _why(found),
    ]
    return "\n".join(lines) + "\n"


def _why(found: Found) -> str:
    """The end of the sentence that names the result."""
    if not found["stopped"]:
        return "."
    if found["result"] == len(found["rounds"]):  # no round before it has a model
        return f", the only one, and worse than the untouched expert: {found['stopped']}."
    return f", as {found['stopped']}."


def _cells(row: Found, tasks: Sequence[str]) -> list[str]:
    cells = [str(row["round"]), f"{row['steps_kept']} ({row['steps_kept_share']:.1%})"]
    cells += ["-" if v is None else f"{v:.2f}" for v in (row["label_entropy"], row["drift"])]
    for task in tasks:
        if not (part := row["accuracy"].get(task)):
            cells += ["-"] * 4
            continue
        low, high = part["accuracy_ci95"]
        cells += [f"{percent(part['accuracy'])} [{percent(low)}, {percent(high)}]"]
        cells += [points(part), points(part["from_before"]), f"{part['characters']:.0f}"]
    return cells
