"""A run's figures and changed answers as a person reads them at the end of a job.

pytest tests/unit/test_results.py
"""

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape

from lr_ray.errors import counted
from lr_ray.evaluation.results import MEANS, changed, checks_of, disagreements, gains, judge_of
from lr_ray.report.page import PAGE
from lr_ray.run.store import Run

_SHOWN = 3


def sampling_line(part: dict[str, Any]) -> str:
    if "imported" in part:  # of whose files no other steps are known
        return (
            f"imported: {counted(part['trajectories'], 'trajectory')}, "
            f"{counted(part['rejected'], 'line')} rejected, "
            f"{counted(part['steps_kept'], 'kept step')}, {part['seconds']:.1f} s"
        )
    share = part["steps_kept"] / max(1, part["steps_scored"])
    drawn = part.get("samples_drawn")  # by method rejection
    right = f"{part['samples_right']} of {counted(drawn, 'sample')} right, " if drawn else ""
    return (
        f"{right}{counted(part['trajectories'], 'trajectory')}, {part['rejected']} rejected, "
        f"{part['steps_kept']} of {counted(part['steps_scored'], 'step')} kept ({share:.1%}), "
        f"{part['seconds']:.1f} s"
    )


def training_line(part: dict[str, Any]) -> str:
    return (
        f"{counted(part['optimizer_steps'], 'optimizer step')}, "
        f"{counted(part['trained_steps'], 'trained step')} "
        f"({part['distinct_steps']} distinct), the last batch's loss {part['final_loss']:.3f}, "
        f"{part['seconds']:.1f} s"
    )


def print_summary(console: Console, run: Run, summary: dict[str, Any]) -> None:
    """The closing table: accuracy with interval, counts, seconds; then changed answers."""
    rows = [row for name, part in summary.get("accuracy", {}).items() for row in _task(name, part)]
    rows += [row for part in MEANS if part in summary for row in _mean(part, summary[part])]
    for name, found in summary.get("prompt_alone", {}).items():
        rows.append((f"prompt {name}", prompt_line(found)))
    for name, by_kind in summary.get("perturbations", {}).items():
        rows += [row for kind, found in by_kind.items() for row in _perturbed(name, kind, found)]
    if "drift" in summary:
        rows += [("drift", line) for line in drift_lines(summary["drift"])]
    if "sampling" in summary:
        rows.append(("sampled", sampling_line(summary["sampling"])))
    if "training" in summary:
        rows.append(("trained", training_line(summary["training"])))
    stages = [s for s in ("sampling", "training", "serving", "evaluation") if s in summary]
    if stages:
        seconds = ", ".join(f"{stage} {summary[stage]['seconds']:.1f}" for stage in stages)
        rows.append(("seconds", f"{seconds}, total {summary['seconds_total']:.1f}"))
    if run.exists(PAGE):
        rows.append(("page", f"{run.location}/{PAGE}"))
    rows.append(("output", run.location))
    console.print()
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        console.print(f"[bold]{label:<{width}}[/bold]  {escape(text)}", soft_wrap=True)
    for name, part in summary.get("accuracy", {}).items():
        _print_changed(console, run, name, list(part["models"]))
        if part.get("graders_disagree"):
            _print_disagreements(console, run, name, part)


def _task(name: str, part: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for two models, one each for another number of them, and one for odd endings."""
    models, differences = part["models"], part["differences"]
    labels, problems = list(models), f"on {counted(part['problems'], 'problem')}"
    if len(labels) == 2:
        first, second = (f"{models[label]['accuracy']:.1%}" for label in labels)
        found = difference_line(differences[labels[1]])
        rows = [(f"accuracy {name}", f"{first} -> {second}   {found} {problems}")]
    else:
        rows = []
        for label in labels:
            low, high = models[label]["accuracy_ci95"]
            text = f"{label}  {models[label]['accuracy']:.1%} [{low:.1%}, {high:.1%}] {problems}"
            if label in differences:
                text += f"   {difference_line(differences[label])}"
            rows.append((f"accuracy {name}", text))
    if "graders" in part:
        rows.append((f"graders {name}", graders_line(part)))
    for label, found in differences.items():
        shown = [f"{name} {difference_line(gain)}" for name, gain in gains(found).items()]
        if shown:
            rows.append(("", f"{label} against {labels[0]}: {', '.join(shown)}"))
    odd = [f"{label} {said}" for label in labels if (said := _endings(models[label]))]
    return rows + ([("", "; ".join(odd))] if odd else [])


def _perturbed(name: str, kind: str, found: dict[str, Any]) -> list[tuple[str, str]]:
    """A line for each model: before, after, the paired difference, and how many right answers survive."""
    on = f"on {found['problems']} of {counted(found['of'], 'problem')}"
    if not found["models"]:
        return [(f"{kind} {name}", f"safe {on}")]
    rows = []
    for label, model in found["models"].items():
        kept = "" if model["survive"] is None else f", {model['survive']:.1%} of the right survive"
        shown = f"{model['original']:.1%} -> {model['accuracy']:.1%}   {difference_line(model)}"
        rows.append((f"{kind} {name}", f"{label}  {shown}{kept} {on}"))
    return rows


def prompt_line(found: dict[str, Any]) -> str:
    """expert 38.4% same, 42.5% paper: the prompt alone moves -4.1% [-6.9%, -1.3%]."""
    asked = f"{found['model']} {found['same']:.1%} same, {found['paper']:.1%} paper"
    return f"{asked}: the prompt alone moves {difference_line(found)}"


def difference_line(found: dict[str, Any]) -> str:
    """+28.0% [+20.1%, +35.7%]; gained and lost problems and p where they are there."""
    low, high = found["difference_ci95"]
    text = f"{found['difference']:+.1%} [{low:+.1%}, {high:+.1%}]"
    if "gained" in found:
        text += f" {found['gained']} gained {found['lost']} lost"
    if found.get("mcnemar_p") is not None:
        text += f" p={found['mcnemar_p']:.2g}"
    return text


def drift_lines(part: dict[str, Any]) -> list[str]:
    """What `audit.drift` found, the first model's figure before the other's."""
    first, *others = part["models"]
    lines = []
    for other in others:
        pair = part["models"][first], part["models"][other]
        texts = f"KL {pair[1]['kl']:.3g} nats, perplexity {_moved(pair, 'perplexity')}"
        texts += f" on {counted(part['texts'], 'token')} of other texts"
        lines.append(f"{texts}; entropy {_moved(pair, 'entropy')}")
        authors = [model["right_perplexity"] for model in pair]
        right = ", ".join(f"{label}'s {_moved(authors, label)}" for label in (first, other))
        lines.append(f"perplexity of right answers: {right}")
    return lines


def _moved(pair: Sequence[dict[str, Any]], name: str) -> str:
    return " -> ".join("none" if part[name] is None else f"{part[name]:.3g}" for part in pair)


def graders_line(part: dict[str, Any]) -> str:
    """ours 50.0% -> 75.0%, math_verify 50.0% -> 75.0%; 1 answer judged otherwise by one.

    The first is that of the accuracy.
    """
    graders = list(part["graders"].values())
    by = {judge_of(part): [model["accuracy"] for model in part["models"].values()]}
    by |= {check: [found[check] for found in graders] for check in graders[0]}
    shown = ", ".join(f"{name} {' -> '.join(f'{a:.1%}' for a in of)}" for name, of in by.items())
    count = part["graders_disagree"]
    return f"{shown}; {counted(count, 'answer')} judged otherwise by one"


def _endings(model: dict[str, Any]) -> str:
    """What a reader should know of the answers: without one, cut, refused; over several samples."""
    parts = [
        f"{share:.1%} {what}"
        for what, share in (
            ("without an answer", 1 - model["answered"]),
            ("cut by the limit", model["cut"]),
            ("refused", model["refused"]),
        )
        if share > 0
    ]
    if "pass_at_k" in model:
        parts += [f"pass@{k} {share:.1%}" for k, share in model["pass_at_k"].items() if k != "1"]
        parts.append(f"majority {model['majority']:.1%}")
    return ", ".join(parts)


def _mean(name: str, part: dict[str, Any]) -> list[tuple[str, str]]:
    labels = list(part["models"])
    shown = " -> ".join(f"{part['models'][label]['accuracy']:.1%}" for label in labels)
    found = "".join(f"   {difference_line(part['differences'][label])}" for label in labels[1:])
    return [(name.replace("_", " "), f"{shown}{found} over {part['tasks']} tasks")]


def _print_changed(console: Console, run: Run, task: str, labels: list[str]) -> None:
    """Some problems whose verdict changed, gained ones first, with both solutions; a lost one if any."""
    rows = changed(run.answers(task), labels)
    gained, lost = ([row for row in rows if row["change"] == c] for c in ("gained", "lost"))
    for row in (gained[: _SHOWN - bool(lost)] + lost)[:_SHOWN]:
        head = f"[bold]{escape(row['problem_id'])}[/bold] ({row['change']})"
        console.print(f"\n{head} {escape(_short(row['problem']))}", soft_wrap=True)
        width = max(len(label) for label in labels) + 1
        for label in (labels[0], row["model"]):
            mark = "right" if row[f"{label}_correct"] else "wrong"
            said = escape(_short(row[f"{label}_completion"]))
            console.print(f"  {escape(label):<{width}}{mark:<6}{said}", soft_wrap=True)


def _print_disagreements(console: Console, run: Run, task: str, part: dict[str, Any]) -> None:
    """The first answers on which another grader differs from that of the accuracy."""
    table = run.answers(task)
    rows = disagreements(table, list(part["models"]))
    console.print(f"\ngraders disagree, the first {min(_SHOWN, len(rows))} of {len(rows)}")
    for row in rows[:_SHOWN]:
        said = [f"{judge_of(part)} {_mark(row, '')}"]
        said += [f"{check} {_mark(row, f'{check}_')}" for check in checks_of(table, row["model"])]
        shown = f"{row['problem_id']} ({row['model']}) expects {row['expected']}: {', '.join(said)}"
        console.print(escape(_short(shown)), soft_wrap=True)


def _mark(row: dict[str, Any], of: str) -> str:
    return f"{'right' if row[f'{of}correct'] else 'wrong'} by {row[f'{of}answer']!r}"


def _short(text: str) -> str:
    """On one line, with its beginning and its end."""
    line = " ".join(text.split())
    return line if len(line) <= 400 else f"{line[:200]} [...] {line[-180:]}"
