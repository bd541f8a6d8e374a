"""How to make the run again: the command, the settings that are not a preset's, versions and models."""

import json
import shlex
from typing import Any

from lr_ray.config import Change, Config, flatten, preset_names, read_tree, resolve
from lr_ray.report.page.source import Source
from lr_ray.run.asked import used_by_imported

TITLE = "Reproduce"


def section(source: Source) -> dict[str, Any] | None:
    if not source.config:
        return None
    flat = flatten(source.config)
    found: dict[str, Any] = {
        "versions": source.asked.get("versions", {}),
        "models": source.asked.get("models", {}),
        "digests": source.asked.get("digests", {}),
        "seeds": {n: v for n, v in flat.items() if n.split(".")[-1] == "seed"},
        "shared": source.summary.get("shared", {}),
        "preset": None,
        "changes": [],
    }
    run = source.run.location
    if "endpoint" in source.config:
        models = ",".join(source.config["models"])
        asked = [("evaluation.benchmarks", flat["evaluation.benchmarks"])]
        parts = ["evaluate", "--endpoint", source.config["endpoint"], "--models", models]
        return found | {"command": _line(parts, run, asked)}
    preset, changes = _nearest(resolve(source.config))
    if source.imported:
        return found | _imported(source, found, preset, changes)
    commands = {"variants": "compare", "verdict": "probe"}
    name = next((command for part, command in commands.items() if part in source.found), "run")
    values = [(change.name, change.now) for change in changes]
    more = _grid(source) if name == "compare" else []
    command = _line([name, "--config", preset, *more], run, values)
    return found | {"command": command, "preset": preset, "changes": _rows(changes)}


def _imported(
    source: Source, found: dict[str, Any], preset: str, changes: list[Change]
) -> dict[str, Any]:
    """What is otherwise of a run whose rows came from files: nothing was sampled, by no amateur."""
    run, used = source.run.location, [c for c in changes if used_by_imported(c.name)]
    files = source.summary.get("sampling", {}).get("imported", [])
    asked = ["import", "--config", preset, "--samples", *files]
    later = {"training": "train", "evaluation": "evaluate"}
    commands = [_line(asked, run, [(c.name, c.now) for c in used])]
    commands += [_line([later[s]], run, []) for s in later if s in source.summary]
    return {
        "command": "\n".join(commands),
        "preset": preset,
        "changes": _rows(used),
        "models": {role: m for role, m in found["models"].items() if role == "expert"},
        "seeds": {name: seed for name, seed in found["seeds"].items() if used_by_imported(name)},
    }


def _rows(changes: list[Change]) -> list[tuple[str, str, str]]:
    return [(c.name, _value(c.before), _value(c.now)) for c in changes]


def _nearest(config: Config) -> tuple[str, list[Change]]:
    """The preset with the fewest settings of another value, and those settings."""
    presets: dict[str, Any] = {
        name: resolve(read_tree(name)).model_dump(mode="json") for name in preset_names()
    }
    changes = {name: config.changes(tree) for name, tree in presets.items()}
    name = min(changes, key=lambda name: len(changes[name]))
    return name, changes[name]


def _grid(source: Source) -> list[str]:
    grid = source.run.read_json("grid.json") if source.run.exists("grid.json") else {}
    given = [("--grid", grid.get("grid")), ("--amateurs", grid.get("amateurs"))]
    return [part for option, value in given if value for part in (option, value)]


def _line(command: list[str], run: str, values: list[tuple[str, Any]]) -> str:
    settings = [part for name, value in values for part in (f"--{name}", _value(value))]
    return shlex.join(["lr-ray", *command, "--run", run, *settings])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
