"""Pages of a run, a comparison and a probe: one file each, which needs nothing else to be read.

A section is a module here and a template of its name. Its `section(source)` returns what the template
shows, or None where the run has nothing of the kind: the page then goes without it. A new one is added by
its name in `SECTIONS`. docs/page.md; pytest tests/unit/page
"""

from types import ModuleType
from typing import Any

import jinja2
from markupsafe import Markup

from lr_ray.console import rate
from lr_ray.errors import plural
from lr_ray.report.page import (
    answers,
    asked,
    charts,
    comparison,
    contrast,
    cost,
    drift,
    kept,
    outcome,
    perturbed,
    reproduce,
    training,
    verdict,
)
from lr_ray.report.page.source import Source
from lr_ray.run.store import Run

PAGE, COMPARISON, PROBE = "report.html", "comparison.html", "probe.html"
SECTIONS = (
    outcome, verdict, comparison, contrast, kept, training, answers, perturbed, drift, cost, asked,
    reproduce,
)  # fmt: skip


def write_page(run: Run, summary: dict[str, Any]) -> None:
    """Writes report.html of a run; does nothing where it has neither scores nor answers nor a training."""
    _write(PAGE, Source(run, summary), run.location)


def write_probe(run: Run, summary: dict[str, Any], found: dict[str, Any]) -> None:
    """Writes probe.html beside probe.json, whose content is `found`."""
    _write(PROBE, Source(run, summary, found), f"probe {run.location}")


def write_comparison(run: Run, content: dict[str, Any], sweeps: dict[str, bytes]) -> None:
    """Writes comparison.html; `content`: of comparison.json; `sweeps`: a picture, SVG, by benchmark."""
    drawn = {b: charts.embed(svg, f"sweep-{b}", f"The sweep on {b}") for b, svg in sweeps.items()}
    _write(COMPARISON, Source(run, {}, {**content, "sweeps": drawn}), f"comparison {run.location}")


def _write(name: str, source: Source, title: str) -> None:
    parts = [(section, section.section(source)) for section in SECTIONS]
    shown = [(section, found) for section, found in parts if found is not None]
    if any(section is not reproduce for section, _ in shown):
        source.run.write_bytes(name, _render(source, title, shown).encode("utf-8", "replace"))


def templates(package: str, autoescape: bool) -> jinja2.Environment:
    """The templates that lie in a package, with what they format figures by."""
    found = jinja2.Environment(
        loader=jinja2.PackageLoader(package, ""),
        autoescape=autoescape,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "points": lambda share: f"{100 * share:+z.1f}",
        "count": lambda number: f"{number:,.0f}".replace(",", "\u202f"),
        "visible": lambda text: text.replace("\n", "\u21b5").replace(" ", "\u2423"),
        "plural": lambda number, noun: (
            f"{number:,} {noun if number == 1 else plural(noun)}".replace(",", "\u202f")
        ),
        "rate": rate,
    }
    return found


def _render(source: Source, title: str, shown: list[tuple[ModuleType, dict[str, Any]]]) -> str:
    environment, sections = templates("lr_ray.report.page", autoescape=True), []
    for section, found in shown:
        name = section.__name__.rpartition(".")[2]
        text = Markup(environment.get_template(f"{name}.html.j2").render(found))
        sections.append({"id": name, "title": section.TITLE, "text": text})
    sampling = source.config.get("sampling", {})
    return environment.get_template("layout.html.j2").render(
        title=title,
        sections=sections,
        config=source.config,
        imported=source.imported,
        sampling=sampling,
        plausibility=sampling.get("plausibility"),
        kinds=answers.KINDS,
    )
