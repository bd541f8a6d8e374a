"""Say what this machine or cluster has and lacks, before anything runs. Exit code 0: fit, 2: not.

lr-ray doctor [--config NAME_OR_PATH] [--run DIR_OR_URI] [--json]

Without --config it looks at what the installed packages are made for. With RAY_ADDRESS it looks at each
node of that cluster too.
"""

import argparse
import json
import os
from collections import Counter
from dataclasses import asdict
from typing import Any

from rich.console import Console

from lr_ray import plugins
from lr_ray.cli.front import Parser
from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.config.reading import bare_name
from lr_ray.console import quiet_others
from lr_ray.doctor.checks import asked, judge
from lr_ray.doctor.facts import Facts, gather, gather_nodes
from lr_ray.doctor.finding import Finding, Need, gb
from lr_ray.errors import UserError, counted
from lr_ray.run.store import Run, read_asked
from lr_ray.runtime.cluster import check_address, cluster

_HERE = "here"
Found = dict[str, tuple[Facts | None, list[Finding]]]  # by node; `here` is first


def main(argv: list[str]) -> int:
    options = _parse(argv)
    plugins.load(name for text in options.plugins for name in text.split(","))
    found = examine(options.config, options.run)
    if options.json:
        print(as_json(found))
    else:
        show(found)
    return 0 if is_fit(found) else 2


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="lr-ray doctor", description=__doc__)
    parser.add_argument("--config", metavar="NAME_OR_PATH", help="preset or YAML file to judge by")
    parser.add_argument("--run", metavar="DIR_OR_URI", help="where it would run")
    parser.add_argument(
        "--plugins",
        metavar="MODULE",
        action="append",
        default=[],
        help="modules that the config names",
    )
    parser.add_argument("--json", action="store_true", help="the same as a JSON object on a line")
    return parser.parse_args(argv)


def examine(config_name: str | None, location: str | None) -> Found:
    """Facts and findings of this machine, and of each node where RAY_ADDRESS names a cluster.

    Raises UserError for a config or a run that cannot be read.
    """
    need, folder = Need(), None
    if config_name or location:
        run = Run(location or os.path.join("runs", bare_name(config_name or "")))
        folder = run.root if run.is_local else None
        tree = read_tree(config_name) if config_name else _asked(run)
        if tree is not None:
            need = asked(resolve(merge(tree, {}), Config))
    facts = gather(folder)
    found: Found = {_HERE: (facts, judge(facts, need))}
    if facts.joins:
        found |= _cluster(need, folder, found[_HERE][1])
    return found


def show(found: Found) -> None:
    """A line a finding, its advice below it; nodes with the same findings as here in one line."""
    console = Console(highlight=False, markup=False)
    say = lambda text: console.print(text, soft_wrap=True)  # noqa: E731
    facts, findings = found[_HERE]
    assert facts is not None
    memory = f"{facts.cpus} CPUs, {gb(facts.memory)} memory"
    say(f"      machine      {facts.host}, Python {facts.python}, {memory}")
    _lines(say, findings)
    alike, differing = _grouped(found)
    if alike:
        say(f"      nodes        {len(alike)} as here: {', '.join(alike)}")
    for names, theirs in differing:
        say(f"\n      node         {', '.join(names)}")
        _lines(say, theirs)
    count = Counter(finding.level for _, some in found.values() for finding in some)
    if count["bad"]:
        say(f"\nunfit: {count['bad']} of these would stop a run")
    else:
        more = f", with {count['warn']} to look at" if count["warn"] else ""
        say(f"\nfit: nothing here would stop a run{more}")


def as_json(found: Found) -> str:
    """The same as a JSON object on a line. No secret is among the facts."""
    nodes: dict[str, Any] = {}
    for name, (facts, findings) in found.items():
        told = [asdict(finding) for finding in findings]
        nodes[name] = {"facts": asdict(facts) if facts else None, "findings": told}
    return json.dumps({"fit": is_fit(found), "nodes": nodes}, allow_nan=False)


def is_fit(found: Found) -> bool:
    return all(finding.level != "bad" for _, some in found.values() for finding in some)


def _asked(run: Run) -> dict[str, Any] | None:
    """The config of a run of the pipeline; None for a folder that holds none."""
    if not run.exists("run.json"):
        return None
    tree = dict(read_asked(run)["config"])
    return None if "endpoint" in tree else tree


def _cluster(need: Need, folder: str | None, here: list[Finding]) -> Found:
    """Findings on the nodes; a cluster that cannot be joined is a finding on this machine."""
    try:
        check_address()
        with quiet_others(os.devnull), cluster():  # Ray's own lines would stand between ours
            nodes = gather_nodes(folder)
    except UserError as error:
        what, _, advice = str(error).removeprefix("RAY_ADDRESS: ").partition("; ")
        here.append(Finding("bad", "RAY_ADDRESS", what, advice))
        return {}
    here.append(
        Finding("ok", "RAY_ADDRESS", f"{os.environ['RAY_ADDRESS']}, {counted(len(nodes), 'node')}")
    )
    found: Found = {}
    for name, facts in nodes.items():
        if isinstance(facts, str):
            advice = "install lr_ray there as here"
            found[name] = None, [Finding("bad", "node", f"cannot be asked: {facts}", advice)]
        else:
            found[name] = facts, judge(facts, need)
    if need.gpu and not any(facts and facts.seen.gpus for facts, _ in found.values()):
        advice = "start nodes with GPUs, or ask for none (resources.*.gpus 0)"
        here.append(Finding("bad", "gpu", "no node of the cluster has one", advice))
    return found


def _grouped(found: Found) -> tuple[list[str], list[tuple[list[str], list[Finding]]]]:
    """Nodes that are as this one, and the others, alike ones together."""
    groups: dict[Any, tuple[list[str], list[Finding]]] = {}
    for name, (facts, findings) in found.items():
        groups.setdefault(_key(facts, findings), ([], findings))[0].append(name)
    (alike, _), *others = groups.values()  # this machine is the first of all
    return alike[1:], others


def _key(facts: Facts | None, findings: list[Finding]) -> Any:
    """What makes nodes alike: GPUs, torch and what is not ok; free bytes differ everywhere."""
    gpus = [(g.name, g.memory_bytes, g.driver) for g in facts.seen.gpus] if facts else None
    wrong = tuple(f for f in findings if f.level != "ok" and f.label != "RAY_ADDRESS")
    return str(gpus), facts and facts.torch, wrong


def _lines(say: Any, findings: list[Finding]) -> None:
    for finding in findings:
        say(f"{finding.level:<5} {finding.label:<12} {finding.what}")
        if finding.advice:
            say(f"{'':<18} {finding.advice}")
