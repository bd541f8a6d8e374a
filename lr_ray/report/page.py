"""report.html: what a run found, on one page without scripts or outside files.

pytest tests/unit/test_results.py
"""

from typing import Any

import jinja2

from lr_ray.evaluation.results import MEANS, changed, checks_of, disagreements, gains, judge_of
from lr_ray.run.store import Run

PAGE = "report.html"
_MOST = 50  # changed problems of a kind that are shown


def write_page(run: Run, summary: dict[str, Any]) -> None:
    """Writes report.html of a run whose evaluation is finished; does nothing for another."""
    if "accuracy" not in summary:
        return
    run.write_bytes(PAGE, render(run, summary).encode())


def render(run: Run, summary: dict[str, Any]) -> str:
    import pyarrow.parquet as pq

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lr_ray.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{share:.1%}"
    environment.filters["gains"] = gains
    environment.filters["signed"] = lambda share: f"{100 * share:+.1f}"
    tasks = []
    for name, part in summary["accuracy"].items():
        table = pq.read_table(run.path(f"evaluation/{name}.parquet"), filesystem=run.fs)
        rows = changed(table, list(part["models"]))
        kinds = {kind: [r for r in rows if r["change"] == kind] for kind in ("gained", "lost")}
        labels = list(part["models"])
        task = {"name": name, **part, "changed": kinds, "checks": checks_of(table, labels[0])}
        task["judge"] = judge_of(part)
        tasks.append(task | {"disagree": disagreements(table, labels)})
    asked = run.read_json("run.json") if run.exists("run.json") else {}
    template = environment.get_template("page.html.j2")
    means = {part: summary[part] for part in MEANS if part in summary}
    return template.render(
        run=run.location, summary=summary, tasks=tasks, means=means, asked=asked, most=_MOST
    )
