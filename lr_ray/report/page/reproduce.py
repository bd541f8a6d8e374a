"""How to make the run again: the command, the settings that are not a preset's, versions and models."""

import json
import shlex
from typing import Any

from lr_ray.config import (
    ENDPOINT_PRESET,
    Change,
    Config,
    EndpointConfig,
    Tree,
    endpoint_tree,
    flatten,
    preset_names,
    read_tree,
    resolve,
    value_at,
)
from lr_ray.config.section import walk
from lr_ray.report.page.source import Source
from lr_ray.run.asked import used_by_imported

TITLE = "Reproduce"
_FIELDS = dict(walk(Config))


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
    if "endpoint" in source.config:
        return found | _endpoint(source)
    config = resolve(source.config)
    preset, changes = _nearest(config)
    if source.imported:
        return found | _imported(source, found, preset, changes)
    commands = {"variants": "compare", "verdict": "probe"}
    name = next((command for part, command in commands.items() if part in source.found), "run")
    more = _grid(source) if name == "compare" else []
    command = _line([name, "--config", preset, *more], source, _options(config, changes))
    return found | {"command": command, "preset": preset, "changes": _rows(changes)}


def _endpoint(source: Source) -> dict[str, Any]:
    config = resolve(source.config, EndpointConfig)
    usual = {"evaluation": resolve(endpoint_tree()).evaluation.model_dump(mode="json")}
    changes = config.changes(source.config | usual)
    asked = ["evaluate", "--endpoint", config.endpoint, "--models", ",".join(config.models)]
    command = _line(asked, source, _options(config, changes))
    return {"command": command, "preset": ENDPOINT_PRESET, "changes": _rows(changes)}


def _imported(
    source: Source, found: dict[str, Any], preset: str, changes: list[Change]
) -> dict[str, Any]:
    """What is otherwise of a run whose rows came from files: nothing was sampled, by no amateur."""
    used = [c for c in changes if used_by_imported(c.name)]
    files = source.summary.get("sampling", {}).get("imported", [])
    asked = ["import", "--config", preset, "--samples", *files]
    later = {"training": "train", "evaluation": "evaluate"}
    commands = [_line(asked, source, _options(resolve(source.config), used))]
    commands += [_line([later[s]], source, {}) for s in later if s in source.summary]
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
    trees = {name: resolve(read_tree(name)).model_dump(mode="json") for name in preset_names()}
    found = [(name, config.changes(tree)) for name, tree in trees.items()]

    def distance(preset: tuple[str, list[Change]]) -> tuple[bool, int]:
        # An entry of a preset's mapping cannot be taken away on the command line.
        stays = any(c.now is None and c.name != _option(c.name) for c in preset[1])
        return stays, len(preset[1])

    return min(found, key=distance)


def _grid(source: Source) -> list[str]:
    grid = source.run.read_json("grid.json") if source.run.exists("grid.json") else {}
    given = [("--grid", grid.get("grid")), ("--amateurs", grid.get("amateurs"))]
    return [part for option, value in given if value for part in (option, value)]


def _options(config: Tree, changes: list[Change]) -> dict[str, Any]:
    """The settings as options, those within a mapping as one, with their values."""
    tree = config.model_dump(mode="json")
    return {name: value_at(tree, name) for name in (_option(c.name) for c in changes)}


def _option(name: str) -> str:
    """The field that a dotted name is, or is an entry of."""
    return name if name in _FIELDS else _option(name.rpartition(".")[0])


def _line(command: list[str], source: Source, values: dict[str, Any]) -> str:
    settings = []
    for name, value in values.items():
        typed = "None" if value is None else _value(value)
        settings += [f"--{name}={typed}"] if typed.startswith("-") else [f"--{name}", typed]
    return shlex.join(["lr-ray", *command, "--run", source.run.location, *settings])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
