"""A run's figures and changed answers as a person reads them at the end of a job."""

from typing import Any

from rich.console import Console
from rich.markup import escape

from lr_ray.store import Run

_SHOWN = 3


def sampling_line(part: dict[str, Any]) -> str:
    share = part["steps_kept"] / max(1, part["steps_scored"])
    drawn = part.get("samples_drawn")  # by method rejection
    right = f"{part['samples_right']} of {drawn} samples right, " if drawn else ""
    return (
        f"{right}{part['trajectories']} trajectories, {part['rejected']} rejected, "
        f"{part['steps_kept']} of {part['steps_scored']} steps kept ({share:.1%}), "
        f"{part['seconds']:.1f} s"
    )


def training_line(part: dict[str, Any]) -> str:
    return (
        f"{part['optimizer_steps']} optimizer steps, {part['trained_steps']} trained steps "
        f"({part['distinct_steps']} distinct), loss {part['final_loss']:.3f}, "
        f"{part['seconds']:.1f} s"
    )


def print_summary(console: Console, run: Run, summary: dict[str, Any]) -> None:
    """The closing table: accuracy with interval, counts, seconds; then changed answers."""
    rows = []
    for name, row in summary.get("accuracy", {}).items():
        low, high = row["difference_ci95"]
        rows.append(
            (
                f"accuracy {name}",
                f"{row['expert']:.1%} -> {row['improved']:.1%}   "
                f"{row['difference']:+.1%} [{low:+.1%}, {high:+.1%}] on {row['problems']} problems",
            )
        )
    if "sampling" in summary:
        rows.append(("sampled", sampling_line(summary["sampling"])))
    if "training" in summary:
        rows.append(("trained", training_line(summary["training"])))
    stages = [s for s in ("sampling", "training", "serving", "evaluation") if s in summary]
    if stages:
        seconds = ", ".join(f"{stage} {summary[stage]['seconds']:.1f}" for stage in stages)
        rows.append(("seconds", f"{seconds}, total {summary['seconds_total']:.1f}"))
    rows.append(("output", run.location))
    console.print()
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        console.print(f"[bold]{label:<{width}}[/bold]  {text}", soft_wrap=True)
    for name in summary.get("accuracy", {}):
        print_changed(console, run, name)


def print_changed(console: Console, run: Run, benchmark: str) -> None:
    """Problems whose verdict changed, gained ones first, with both solutions."""
    import pyarrow.parquet as pq

    rows = pq.read_table(run.path(f"evaluation/{benchmark}.parquet"), filesystem=run.fs).to_pylist()
    changed = [r for r in rows if r["expert_correct"] != r["improved_correct"]]
    changed.sort(key=lambda r: r["expert_correct"])
    for row in changed[:_SHOWN]:
        verdict = "lost" if row["expert_correct"] else "gained"
        console.print(
            f"\n[bold]{row['problem_id']}[/bold] ({verdict}) {escape(row['problem'])}",
            soft_wrap=True,
        )
        for label in ("expert", "improved"):
            mark = "right" if row[f"{label}_correct"] else "wrong"
            console.print(
                f"  {label:<9}{mark:<6}{escape(row[f'{label}_completion'].strip())}", soft_wrap=True
            )
