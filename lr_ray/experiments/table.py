"""What came out of a comparison: comparison.json with every number, comparison.md for people.

Exercised by `pytest tests/unit/test_comparison.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from lr_ray.config import Config
from lr_ray.errors import counted
from lr_ray.evaluation.results import SHARED, check_asked_alike, scores_of
from lr_ray.evaluation.statistics import paired_difference, pooled_difference
from lr_ray.evaluation.tasks import task_names
from lr_ray.experiments.grid import Grid, Variant
from lr_ray.experiments.plan import Cell, Plan
from lr_ray.report.page.comparison import has_several_seeds, seeds
from lr_ray.run.store import SCHEMA_VERSION, Run, read_summary

Row = dict[str, Any]


def collect(run: Run, config: Config, grid: Grid, plan: Plan, failed: dict[str, str]) -> Row:
    """The content of comparison.json, from the run directories of the cells.

    `failed`: reason by name of the cells that could not be finished.
    """
    _check_asked_alike(run, config, [c for c in plan.cells if c.name not in failed])
    rows = {v.name: _variant(run, config, v, plan, failed) for v in grid.variants}
    _add_differences(rows, run, config, plan, failed)
    first = next(r["accuracy"] for r in rows.values() if r["accuracy"])
    expert = {b: {"accuracy": p["expert"], "problems": p["problems"]} for b, p in first.items()}
    return {
        "schema_version": SCHEMA_VERSION,
        "grid": {"name": grid.name, "seeds": grid.seeds, "x": grid.x},
        "config": config.model_dump(mode="json"),
        "expert": expert,
        "variants": rows,
        "failed": failed,
    }


def _check_asked_alike(run: Run, config: Config, cells: Sequence[Cell]) -> None:
    """Raises StageError where a benchmark's problems have changed between the cells' evaluations."""
    for benchmark in task_names(config.evaluation):
        first, *others = (run.child(cell.folder) for cell in cells)
        asked = first.answers(benchmark, list(SHARED))
        for there in others:
            other = there.answers(benchmark, list(SHARED))
            check_asked_alike(benchmark, asked, other, there.location)


def _variant(run: Run, config: Config, variant: Variant, plan: Plan, failed: Row) -> Row:
    cells = [cell for cell in plan.cells if cell.variant == variant]
    done = [cell for cell in cells if cell.name not in failed]
    summaries = {c.name: run.child(c.folder).read_json("summary.json") for c in done}
    base = config.identity()
    settings = variant.config.identity()
    return {
        "settings": {name: value for name, value in settings.items() if base.get(name) != value},
        "untrained": variant.untrained,
        "value": variant.value,
        "accuracy": {
            b: pooled_difference(*_verdicts(run, done, b), seed=config.evaluation.seed)
            for b in task_names(config.evaluation)
            if done
        },
        "cost": _cost(run, plan, done, list(summaries.values())),
        "runs": [_run(cell, failed, summaries.get(cell.name, {})) for cell in cells],
    }


def _add_differences(rows: Row, run: Run, config: Config, plan: Plan, failed: Row) -> None:
    """Adds `minus_first` to all variants but the first that is there: by benchmark, `paired_difference`.

    A control is to be told from the method, and each from the expert tells little of that.
    """
    done = {
        n: [c for c in plan.cells if c.variant.name == n and c.name not in failed] for n in rows
    }
    first, *others = (name for name, cells in done.items() if cells)
    for benchmark in task_names(config.evaluation):
        of = {n: _verdicts(run, done[n], benchmark)[1].mean(axis=0) for n in (first, *others)}
        for name in others:
            found = paired_difference(of[first], of[name], config.evaluation.seed)
            rows[name].setdefault("minus_first", {})[benchmark] = found


def _run(cell: Cell, failed: Row, summary: Row) -> Row:
    parts = {part: summary.get(part) for part in ("accuracy", "drift", "sampling", "training")}
    return {"seed": cell.seed, "folder": cell.folder, "failed": failed.get(cell.name), **parts}


def _verdicts(run: Run, cells: Sequence[Cell], benchmark: str) -> tuple[np.ndarray, np.ndarray]:
    """Share of each problem's samples that the expert, [N], and the cells' models, [S, N], solved."""
    columns = ["sample", "expert_correct", "improved_correct"]
    tables = [run.child(cell.folder).answers(benchmark, columns) for cell in cells]
    improved = np.array([scores_of(table, "improved") for table in tables])
    return scores_of(tables[0], "expert"), improved


def _cost(run: Run, plan: Plan, cells: Sequence[Cell], summaries: Sequence[Row]) -> Row:
    """Means over the seeds, null where there is nothing to count: of seconds, of work that was gone on with.

    Sampling's seconds are those of the source, and of the source whose trajectories it took over;
    `sampling_shared` tells that some of them were spent for other variants too.
    """
    sampled = [s["sampling"] for s in summaries if "sampling" in s]
    trained = [s["training"] for s in summaries if "training" in s]
    folders = [cell.source for cell in cells if cell.source]
    needed = {part for folder in folders for part in _chain(plan, folder)}
    users = {c.variant.name for c in plan.cells if needed.intersection(_chain(plan, c.source))}
    scored = sum(part["steps_scored"] for part in sampled)
    figures = ("optimizer_steps", "distinct_steps", "trained_steps", "tokens_forward")
    return {
        "problems": _mean([part["problems"] for part in sampled]),
        "steps_kept": _mean([part["steps_kept"] for part in sampled]),
        "steps_kept_share": sum(p["steps_kept"] for p in sampled) / scored if scored else None,
        **{name: _mean([part[name] for part in trained]) for name in figures},
        "sampling_seconds": _mean(
            [s for f in folders if (s := _seconds(run, plan, f)) is not None]
        ),
        "sampling_shared": len(users) > 1,
        "training_seconds": _mean([p["seconds"] for p in trained if not p.get("resumed_at")]),
    }


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def _chain(plan: Plan, folder: str | None) -> list[str]:
    """A source, and the one whose trajectories it took over; nothing of an untrained variant."""
    return [folder, *_chain(plan, plan.source(folder).trajectories_of)] if folder else []


def _seconds(run: Run, plan: Plan, folder: str) -> float | None:
    """Of a source's `_chain`; None where a command went on with one, as its seconds are of the rest alone."""
    seconds = 0.0
    for name in _chain(plan, folder):
        part = read_summary(run.child(name))["sampling"]
        decodes = "problems_timed" in part and not plan.source(name).trajectories_of
        if decodes and part["problems_timed"] < part["problems"]:
            return None
        seconds += float(part["seconds"])
    return seconds


def render(content: Row) -> str:
    """comparison.md."""
    grid, config = content["grid"], content["config"]
    benchmarks = list(content["expert"])
    head, untouched, problems = ["variant"], ["expert, untouched"], list[str]()
    each = has_several_seeds(content)
    for benchmark, expert in content["expert"].items():
        of = f" {benchmark}" if len(benchmarks) > 1 else ""
        head += [f"accuracy{of}", *["each seed"] * each, "minus expert [95 %]"]
        untouched += [f"{percent(expert['accuracy'])} %", *["-"] * each, "-"]
        problems.append(f"{counted(expert['problems'], 'problem')} of {benchmark}")
    head += ["steps kept", "distinct trained", "trained steps", "tokens forward", "problems"]
    head += ["sampling s", "training s"]
    rows = [[*untouched, *["-"] * 7]]
    rows += [_row(name, row, benchmarks, each) for name, row in content["variants"].items()]
    lines = [
        f"# Comparison: {grid['name']}",
        "",
        f"Expert {config['models']['expert']}, amateur {config['models']['amateur']}; asked "
        f"{', '.join(problems)}, {_asked(config['evaluation'])}; {seeds(content)}.",
        "",
        *markdown(head, rows),
        "",
        "Accuracy is the mean over the seeds. The interval is a paired bootstrap over problems, each "
        "resampled with the expert's verdict and those of all seeds: it says how far the mean of these "
        "models would move on other problems, and nothing of other seeds. Other columns are means over "
        "the seeds. Steps kept are those that have a label (of all that were scored), distinct trained "
        "those of them that training came to, trained steps count repetitions, tokens forward are those "
        "that training computed. Seconds of sampling marked * were spent once for several variants, all "
        "or some of them; seconds of work that was gone on with after an interruption are not known.",
    ]
    lines += _manner(content, benchmarks[0])
    lines += _beside_first(content, benchmarks)
    if content["failed"]:
        lines += ["", "Failed:", ""]
        lines += [f"- {name}: {reason}" for name, reason in content["failed"].items()]
    return "\n".join(lines) + "\n"


def _asked(evaluation: Row) -> str:
    if not evaluation["temperature"]:
        return "greedily"
    times = f"{evaluation['samples']} times each " if evaluation["samples"] > 1 else ""
    return f"{times}at temperature {evaluation['temperature']:g}"


def _manner(content: Row, benchmark: str) -> list[str]:
    """How the answers to a benchmark look and how far the models moved: what a style would change too."""
    asked = {
        name: [run for run in row["runs"] if run["accuracy"]]
        for name, row in content["variants"].items()
    }
    first = next(runs[0] for runs in asked.values() if runs)
    several, drifted = first["accuracy"][benchmark]["samples"] > 1, bool(first["drift"])
    head = ["variant", "characters", "cut"]
    if several:
        most = str(first["accuracy"][benchmark]["samples"])
        head += ["pass@1", f"pass@{most}", "majority"]
    if drifted:
        head += ["KL", "perplexity", "entropy", "expert's right", "own right"]

    def cells(name: str, label: str, runs: Sequence[Row]) -> list[str]:
        told = [run["accuracy"][benchmark]["models"][label] for run in runs]
        found = [name, _of(told, "characters", "{:.0f}"), _of(told, "cut", "{:.1%}")]
        if several:
            at_most = _of([m["pass_at_k"] for m in told], most, "{:.1%}")
            found += [_of(told, "accuracy", "{:.1%}"), at_most, _of(told, "majority", "{:.1%}")]
        if drifted:
            moved = [run["drift"]["models"][label] for run in runs if run["drift"]]
            found += [_of(moved, part, "{:.3g}") for part in ("kl", "perplexity", "entropy")]
            right = [part["right_perplexity"] for part in moved]
            found += [_of(right, author, "{:.3g}") for author in ("expert", label)]
        return found

    rows = [cells("expert, untouched", "expert", [first])]
    rows += [cells(name, "improved", runs) for name, runs in asked.items() if runs]
    lines = ["", f"Answers to {benchmark}: their mean length, and the share cut by the limit."]
    if drifted:
        lines[-1] += (
            " KL from the expert in nats and perplexity are of texts that are not of the domain, entropy in "
            "nats is of the model's own answers; the last two are its perplexity of the right answers of the "
            "expert and of its own."
        )
    return [*lines, "", *markdown(head, rows)]


def _beside_first(content: Row, benchmarks: Sequence[str]) -> list[str]:
    """The other variants minus the first, which is nothing of comparisons from before it was counted."""
    variants = content["variants"]
    first = next(name for name, row in variants.items() if row["accuracy"])
    rows = [
        [name, *(points(row["minus_first"][benchmark]) for benchmark in benchmarks)]
        for name, row in variants.items()
        if row.get("minus_first")
    ]
    if not rows:
        return []
    said = f"Minus {first}, on the same problems, in points with the interval of 95 %."
    return ["", said, "", *markdown(["variant", *benchmarks], rows)]


def _of(parts: Sequence[Row], name: str, shown: str) -> str:
    """The mean of a figure over the seeds."""
    return _shown(_mean([part[name] for part in parts if part.get(name) is not None]), shown)


def _row(name: str, row: Row, benchmarks: Sequence[str], each: bool) -> list[str]:
    cells = [name]
    for benchmark in benchmarks:
        pooled = row["accuracy"].get(benchmark)
        if pooled is None:
            cells += ["failed", *["-"] * each, "-"]
            continue
        of_seeds = [" ".join(map(percent, pooled["accuracy_of_seeds"]))] * each
        cells += [f"{percent(pooled['accuracy'])} %", *of_seeds, points(pooled)]
    cost = row["cost"]
    kept = "-"
    if cost["steps_kept"] is not None:
        kept = f"{_count(cost['steps_kept'])} ({percent(cost['steps_kept_share'] or 0)} %)"
        kept = kept if cost["steps_kept"] else "nothing kept"
    shared = "*" if cost["sampling_shared"] and cost["sampling_seconds"] is not None else ""
    counted = ("distinct_steps", "trained_steps", "tokens_forward", "problems")
    cells += [kept, *(_count(cost[name]) for name in counted)]
    cells.append(_shown(cost["sampling_seconds"], "{:.1f}") + shared)
    return [*cells, _shown(cost["training_seconds"], "{:.1f}")]


def percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}"


def points(found: Row) -> str:
    """A difference of accuracies with its interval, in points."""
    low, high = found["difference_ci95"]
    return f"{100 * found['difference']:+z.1f} [{100 * low:+z.1f}, {100 * high:+z.1f}]"


def _count(value: float | None) -> str:
    return _shown(value, "{:,.0f}").replace(",", " ")


def _shown(value: float | None, shown: str) -> str:
    return "-" if value is None else shown.format(value)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table that is aligned as plain text too; numbers to the right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = zip(cells, widths, strict=True)
        return " | ".join([f"| {first[0]:<{first[1]}}", *(f"{c:>{w}}" for c, w in others)]) + " |"

    rule = "|".join(["", "-" * (widths[0] + 2), *("-" * (w + 1) + ":" for w in widths[1:]), ""])
    return [line(head), rule, *(line(row) for row in rows)]
