"""What the evidence's run directories say, as one Markdown page: OUT/results.md."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

Found = dict[str, Any]
LARGE = "large", "large-controls", "large-whole"
DOMAIN = "domain-rates", "domain-controls", "domain-rules"


def results(out: Path) -> str:
    """The page, of the steps that are finished."""
    parts = [
        _probes(out),
        *(
            _comparison(out / name)
            for name in ("rates", "gsm8k", "controls", "others", "math", "rules", *LARGE, *DOMAIN)
        ),
        *(_run(out / name) for name in ("domain", "perturbed", "domain-perturbed")),
        *(
            _training(out / name)
            for name in ("rates", "gsm8k", "controls", "rules", *LARGE, *DOMAIN)
        ),
    ]
    parts += [_audits(out), _hours(out)]
    return "# The real pair\n\n" + "\n".join(part for part in parts if part)


def _read(file: Path) -> Found | None:
    return json.loads(file.read_text()) if file.exists() else None


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _ends(ends: Iterable[float], sign: str = "") -> str:
    return "[" + ", ".join(f"{100 * end:{sign}.1f}" for end in ends) + "]"


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _probes(out: Path) -> str:
    """Each probe's figures and verdict."""
    rows = []
    for file in sorted(out.glob("probes/*/probe.json")):
        found = json.loads(file.read_text())
        figures, known = found["figures"], found["accuracy"]
        accuracies = (
            [_percent(m["accuracy"]) for m in known["models"].values()] if known else ["-"] * 2
        )
        gap = f"{100 * known['gap']:+.1f} {_ends(known['gap_ci95'], '+')}" if known else "-"
        rows.append([
            file.parent.name, str(figures["trajectories"]),
            f"{_percent(figures['kept'])} {_ends(figures['kept_ci95'])}",
            ", ".join(f"{value:.3g}" for value in figures["kl"].values()),
            _percent(figures["disagreement"]),
            "-" if figures["entropy"]["mean"] is None else f"{figures['entropy']['mean']:.2f}",
            *accuracies, gap, _percent(figures["trajectories_cut"]), found["verdict"],
        ])  # fmt: skip
    heads = ["pair", "problems", "kept [95 %]", "KL .5 .75 .9 .95 .99, nats", "another token"]
    heads += ["label entropy", "expert", "amateur", "gap [95 %]", "cut", "verdict"]
    return f"## Probes\n\n{_table(heads, rows)}" if rows else ""


def _comparison(folder: Path) -> str:
    """A comparison's table, for each benchmark."""
    found = _read(folder / "comparison.json")
    if found is None:
        return ""
    text = f"## {folder.name}\n"
    for benchmark, expert in found["expert"].items():
        rows = [["expert, untouched", _percent(expert["accuracy"]), "", "", "", ""]]
        for name, row in found["variants"].items():
            pooled = row["accuracy"].get(benchmark)
            if pooled is None:
                continue
            runs = [run["accuracy"][benchmark] for run in row["runs"] if run["accuracy"]]
            changes = [run["differences"]["improved"] for run in runs]
            moved = " ".join(f"+{change['gained']} -{change['lost']}" for change in changes)
            cut = [run["models"]["improved"]["cut"] for run in runs]
            rows.append([
                name, _percent(pooled["accuracy"]),
                f"{100 * pooled['difference']:+.1f} {_ends(pooled['difference_ci95'], '+')}",
                " ".join(_percent(value) for value in pooled["accuracy_of_seeds"]), moved,
                " ".join(map(_percent, cut)),
            ])  # fmt: skip
        heads = ["variant", "accuracy", "minus expert [95 %]", "each seed", "gained, lost", "cut"]
        text += f"\n{benchmark}, {expert['problems']} problems:\n\n{_table(heads, rows)}"
    return text


def _run(folder: Path) -> str:
    """The accuracies of a single run, before and after."""
    summary = _read(folder / "summary.json") or {}
    found = summary.get("accuracy")
    if not found:
        return ""
    rows = [
        [
            name, str(a["problems"]), _percent(a["expert"]), _percent(a["improved"]),
            f"{100 * a['difference']:+.1f} {_ends(a['difference_ci95'], '+')}",
            "+{gained} -{lost}".format(**a["differences"]["improved"]),
        ]
        for name, a in found.items()
    ]  # fmt: skip
    heads = ["benchmark", "problems", "expert", "improved", "difference [95 %]", "gained, lost"]
    text = f"## {folder.name}\n\n{_table(heads, rows)}"
    return text + "".join(_perturbed(*item) for item in summary.get("perturbations", {}).items())


def _perturbed(benchmark: str, found: Found) -> str:
    """Each model's accuracy on the variants of a benchmark's problems."""
    rows = []
    for name, part in found.items():
        rows += [
            [
                name, str(part["problems"]), model, _percent(a["original"]), _percent(a["accuracy"]),
                f"{100 * a['difference']:+.1f} {_ends(a['difference_ci95'], '+')}",
                _percent(a["survive"]),
            ]
            for model, a in part["models"].items()
        ] or [[name, "0", *[""] * 5]]  # fmt: skip
    heads = ["perturbation", "problems", "model", "as it stands", "perturbed", "difference [95 %]"]
    return f"\n{benchmark}, perturbed:\n\n{_table([*heads, 'right answers kept'], rows)}"


def _training(folder: Path) -> str:
    """What each model of a comparison was trained on."""
    found = _read(folder / "comparison.json")
    if found is None:
        return ""
    rows = []
    for name, row in found["variants"].items():
        cost = row["cost"]
        if cost["trained_steps"] is None:
            continue
        kept = f"{cost['steps_kept']:.0f} ({_percent(cost['steps_kept_share'])})"
        counts = [
            "-" if cost[n] is None else f"{cost[n]:.0f}"
            for n in ("optimizer_steps", "trained_steps", "training_seconds")
        ]
        rows.append([name, f"{cost['problems']:.0f}", kept, *counts])
    heads = ["variant", "problems", "steps kept", "optimizer steps", "steps trained", "training s"]
    return f"## Training of {folder.name}\n\n{_table(heads, rows)}"


def _audits(out: Path) -> str:
    rows = []
    for file in sorted(out.glob("audits/*/audit.json")):
        figures = json.loads(file.read_text())["figures"].values()
        rows += [
            [file.parent.name, f["title"], f"{f['value']:.3g}", f"{f['bound'] or '-'}"]
            for f in figures
        ]
    return (
        f"## Audits\n\n{_table(['sampled with', 'figure', 'value', 'bound'], rows)}" if rows else ""
    )


def _hours(out: Path) -> str:
    found = _read(out / "seconds.json")
    if found is None:
        return ""
    rows = [[name, f"{seconds:.0f}"] for name, seconds in found.items()]
    rows.append(["all", f"{sum(found.values()):.0f} ({sum(found.values()) / 3600:.1f} hours)"])
    return f"## Seconds, all attempts together\n\n{_table(['step', 's'], rows)}"
