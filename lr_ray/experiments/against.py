"""A finished run's accuracies beside the paper's figures for its expert.

Reads the run directory alone. Exercised by `pytest tests/unit/test_paper.py`.
"""

import re
from typing import Any

from lr_ray.config import Change, Config, changed, preset_names, read_tree, resolve
from lr_ray.errors import UserError, counted
from lr_ray.evaluation.results import LABELS
from lr_ray.evaluation.tasks import parts_of
from lr_ray.experiments import checks
from lr_ray.experiments.grid import read_grid
from lr_ray.experiments.paper import paper
from lr_ray.experiments.table import markdown, percent
from lr_ray.run.asked import is_imported
from lr_ray.run.store import SCHEMA_VERSION, Run, read_asked, read_summary

INSIDE, OUTSIDE, NOT_COMPARABLE = "inside", "outside", "not comparable"
Found = dict[str, Any]

EXPERT, AMATEUR = LABELS[0], "Qwen2.5-0.5B"  # the amateur of all tables but the fifth
_SFT_PROBLEMS = 7473  # the paper's SFT samples all training problems of GSM8K
# What may differ: spelling and places, how exact scores are, what is told by itself below, and what the
# paper leaves open of its SFT.
_FREE = re.compile(
    r"models\.(expert|amateur|special_tokens_may_differ)|.*\.(seed|data_dir|engine|backend)"
    r"|.*\.fields\..*|.*\.grader(_check)?|sampling\.top_k|(sampling|serving)\.max_model_len"
    r"|sampling\.rejection\.(temperature|max_new_tokens)"
    r"|rounds|evaluation\.(benchmarks|max_problems|shots|protocol|perturbations)"
)
_SET_BY_PROTOCOL = ("evaluation.system_prompt", "evaluation.stop", "evaluation.prefill")


def look(run: Run) -> Found:
    """What is told of a run, as JSON has it: `rows`, one a task and model.

    A row has `task`, `model` (expert or improved), `problems`, `accuracy` and `accuracy_ci95` of the run,
    the `paper`'s accuracy and its `table` (null where it has none), `verdict`, and for one that is not
    comparable `because`. Accuracies are fractions. Raises UserError unless the run has been evaluated.
    """
    if run.exists(checks.ASKED):
        raise UserError(
            f"--run {run.location}: holds a comparison; give a variant's run, {run.location}/variants/NAME"
        )
    asked, summary = read_asked(run), read_summary(run)
    if not summary.get("accuracy"):
        raise UserError(f"--run {run.location}: evaluation is not finished")
    config, imported = resolve(asked["config"]), is_imported(asked)
    lacks = [] if "training" in summary else ["nothing was trained"]
    if imported:
        config = _without_sampling(config)
        lacks.append(
            "the supervision was imported: how it was made, and by which amateur, is not known"
        )
    rows = [
        _row(config, task, label, part, lacks)
        for task, part in summary["accuracy"].items()
        for label in LABELS
    ]
    return {
        "schema_version": SCHEMA_VERSION,
        "run": run.location,
        "expert": config.models.expert,
        "amateur": None if imported or _method(config) == "SFT" else config.models.amateur,
        "method": _method(config),
        "rows": rows,
    }


def lines(found: Found) -> list[str]:
    """The same as a table for people, and why rows are not comparable."""
    reasons = list(dict.fromkeys(reason for row in found["rows"] for reason in row["because"]))
    none = "none, by method rejection" if found["method"] == "SFT" else "not known"
    amateur = found["amateur"] or none
    told = [("expert", found["expert"]), ("amateur", amateur)]
    told += [
        (f"table {number}", f"{table.title}; {table.source}")
        for number, table in paper().tables.items()
        if any(row["table"] == number for row in found["rows"])
    ]
    head = ["benchmark", "model", "problems", "this run", "95 % interval", "paper", "verdict"]
    text = [f"{name:<13} {said}" for name, said in told]
    text += ["", *markdown(head, [_cells(row, reasons) for row in found["rows"]])]
    if reasons:
        text += ["", "Not comparable because of"]
        text += [f"{number:>3}  {reason}" for number, reason in enumerate(reasons, start=1)]
    return text


def _cells(row: Found, reasons: list[str]) -> list[str]:
    low, high = row["accuracy_ci95"]
    numbers = ", ".join(map(str, sorted(reasons.index(said) + 1 for said in row["because"])))
    return [
        row["task"],
        row["model"],
        str(row["problems"]),
        percent(row["accuracy"]),
        f"{percent(low)} to {percent(high)}",
        "-" if row["paper"] is None else percent(row["paper"]),
        row["verdict"] + (f": {numbers}" if numbers else ""),
    ]


def _row(config: Config, task: str, label: str, part: Found, lacks: list[str]) -> Found:
    ours = part["models"][label]
    table, figure, because = _figure(config, task, label)
    if figure is not None:
        because += _reasons(config, task, label, part["problems"])
        because += [] if label == EXPERT else lacks
    low, high = ours["accuracy_ci95"]
    verdict = NOT_COMPARABLE
    if figure is not None and not because:
        verdict = INSIDE if low <= figure <= high else OUTSIDE
    return {
        "task": task,
        "model": label,
        "problems": part["problems"],
        "accuracy": ours["accuracy"],
        "accuracy_ci95": [low, high],
        "paper": figure,
        "table": table,
        "verdict": verdict,
        "because": because,
    }


def _figure(config: Config, task: str, label: str) -> tuple[str | None, float | None, list[str]]:
    """Table and the paper's accuracy, and why there is none or it is of another prompt.

    Models are known by their names alone.
    """
    tables, sets = paper().tables, paper().problems
    benchmark, _, protocol = parts_of(task, config.evaluation)
    expert, method = _name(config.models.expert), _method(config)
    experts = dict.fromkeys(row["expert"] for row in tables["1"].rows)
    if expert not in experts:
        return None, None, [f"another expert, {expert}: the paper has {', '.join(experts)}"]
    if benchmark not in sets or benchmark not in config.evaluation.benchmarks:
        return None, None, [f"another benchmark, {task}: the paper has {', '.join(sets)}"]
    number, because = "1", list[str]()
    row = tables["1"].row(expert=expert, model="baseline" if label == EXPERT else method)
    if label == EXPERT and expert in paper().protocol["base"] and protocol == "same":
        chat = tables["prompts"].row(expert=expert, prompt="chat")
        if chat and benchmark in chat:
            number, row = "prompts", chat
        else:
            raw = paper().protocol["raw"].replace("\n", r"\n")
            because.append(f"another protocol: the paper asks an untouched base model by '{raw}'")
    amateur = _name(config.models.amateur)
    if label != EXPERT and method == "LightR" and amateur != AMATEUR:
        known = [r["amateur"] for r in tables["5"].rows if r["expert"] == expert and r["amateur"]]
        number, row = "5", tables["5"].row(expert=expert, amateur=amateur)
        if row is None:
            there = ", ".join(known or [AMATEUR])
            return None, None, [f"another amateur, {amateur}: the paper has {there} for {expert}"]
    if not row or benchmark not in row:
        return None, None, [f"table {number} has no {benchmark}"]
    return number, round(float(row[benchmark]) / 100, 4), because


def _reasons(config: Config, task: str, label: str, problems: int) -> list[str]:
    """What of the run is otherwise than in the paper, as far as it concerns this model's answers."""
    benchmark, shots, protocol = parts_of(task, config.evaluation)
    found = []
    if shots != (wanted := paper().protocol["shots"].get(benchmark, 0)):
        found.append(f"{counted(shots, 'worked example')}, not {wanted}")
    if problems < (whole := paper().problems[benchmark]):
        found.append(f"{problems} of {whole} problems")
    for change in _changes(config):
        concerns = label != EXPERT or "answers" in change.effects
        if concerns and not (protocol == "paper" and change.name in _SET_BY_PROTOCOL):
            found.append(f"{change.name} = {_shown(change.now)}, not {_shown(change.before)}")
    return found


def _changes(config: Config) -> list[Change]:
    """The settings that matter and are not the paper's, which are those of the expert's preset."""
    reference = _preset_of(config)
    assert reference  # as the paper has a figure of the expert
    if _method(config) == "SFT":
        variants = {v.name: v.config for v in read_grid("ablations", reference).variants}
        reference = changed(variants["paper_sft"], {"sampling.max_problems": _SFT_PROBLEMS})
    changes = config.changes(reference.model_dump(mode="json"))
    return [c for c in changes if c.effects and not _FREE.fullmatch(c.name)]


def _preset_of(config: Config) -> Config | None:
    """The preset of the run's expert, where it is one of the paper's."""
    expert = _name(config.models.expert)
    trees = map(read_tree, preset_names())
    return next((resolve(t) for t in trees if _name(t["models"]["expert"]) == expert), None)


def _without_sampling(config: Config) -> Config:
    """The config of an imported run with its preset's sampling, as its own was never used."""
    if (preset := _preset_of(config)) is None:
        return config
    models = config.models.model_copy(update={"amateur": preset.models.amateur})
    over = {"models": models, "data": preset.data, "sampling": preset.sampling}
    return config.model_copy(update=over)


def _method(config: Config) -> str:
    """The row of table 1 that the run's improved expert would be."""
    return "SFT" if config.sampling.method == "rejection" else "LightR"


def _name(model: str) -> str:
    """The last part of a Hugging Face id or of a directory."""
    return model.rstrip("/").rpartition("/")[2]


def _shown(value: Any) -> str:
    return "null" if value is None else repr(value) if isinstance(value, str) else str(value)
