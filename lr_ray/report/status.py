"""Where a run is, from its directory alone: nothing is written, and no driver is kept out.

Exercised by `lr-ray status --run RUN` and `pytest tests/unit/test_status.py`.
"""

import fcntl
import re
import time
from datetime import datetime
from typing import Any

from lr_ray.config import STAGES, value_at
from lr_ray.errors import UserError, counted
from lr_ray.evaluation.results import MEANS
from lr_ray.report.page import PAGE
from lr_ray.report.terminal import difference_line, prompt_line, sampling_line, training_line
from lr_ray.run import lock
from lr_ray.run.asked import is_imported
from lr_ray.run.rounds import later_rounds
from lr_ray.run.store import Run, read_asked, read_summary, shaped
from lr_ray.runtime import progress

Found = dict[str, Any]

PIPELINE, ENDPOINT, COMPARISON = "pipeline run", "evaluation of an endpoint", "comparison"
FINISHED, CURRENT, LATER, LEFT_OUT = "finished", "current", "later", "left out"  # of a stage
_PARTS_OF = {"serving": "evaluation", "grading": "evaluation", "importing": "sampling"}
_REMOVED = "neither adapter/ nor model/ is there any more"
_GRID, _TABLE, _PAGES = "grid.json", "comparison.json", ("comparison.html", "comparison.md")


def look(run: Run) -> Found:
    """Everything that is told of the run, as JSON has it.

    `run`, `kind`, `asked` (run.json), `progress` (progress.json, null: there is none), `work` (see
    `at_work`) and `finished` (null: it is not). Of another run than a comparison `export`, `accuracy`,
    `accuracy_mean`, `accuracy_mean_paper`, `prompt_alone` and `stages`: each has its `state`, and a
    finished one its part of summary.json; `rounds`, the same of each round after the first, and why they
    `stopped` early, null where they did not.
    Raises UserError when there is no run, or a file of it cannot be read.
    """
    run.fs.invalidate_cache()  # drivers elsewhere have written since
    work, asked = at_work(run), _asked(run)
    record = run.read_json(progress.FILE) if run.exists(progress.FILE) else None
    found: Found = {"run": run.location, "asked": asked, "work": work, "progress": record}
    variants = (record or {}).get("variants")
    if variants is not None or run.exists(_GRID):
        with shaped(run.location, progress.FILE):
            return found | {"kind": COMPARISON, "finished": _compared(run, variants)}
    with shaped(run.location, "summary.json"):
        return _looked(run, found, read_summary(run))


def _looked(run: Run, found: Found, summary: Found) -> Found:
    """`look` at another run than a comparison."""
    asked, work, record = found["asked"], found["work"], found["progress"]
    kind = ENDPOINT if "endpoint" in asked["config"] else PIPELINE
    alone = kind == ENDPOINT or asked.get("untrained")  # as some of a comparison are
    stages = _stages(STAGES[-1:] if alone else STAGES, summary, record or {})
    if stages.get("sampling", {}).get("state") == FINISHED:
        stages["sampling"]["shards"] = len(run.shards("supervision"))
    later, told = [look(there) for there in later_rounds(run)], summary.get("rounds")
    if later and not work["at_work"]:  # of the round that the last driver was in
        work, record = later[-1]["work"], later[-1]["progress"]
        found |= {"work": work, "progress": record}
    over = all(part["state"] in (FINISHED, LEFT_OUT) for part in stages.values())
    with shaped(run.location, "run.json"):
        rounds = int(asked["config"].get("rounds", 1))
    if rounds > 1:
        over = over and told is not None and bool(told["stopped"] or len(told["rounds"]) >= rounds)
    page = f"{run.location}/{PAGE}" if run.exists(PAGE) else None
    return found | {
        "kind": kind,
        "stages": stages,
        "checkpoint": _checkpoint(run),
        "export": [name for name in ("adapter", "model") if run.exists(name)],
        "accuracy": summary.get("accuracy", {}),
        **{part: summary.get(part) for part in MEANS},
        "prompt_alone": summary.get("prompt_alone", {}),
        "rounds": later,
        "stopped": told and told["stopped"],
        "finished": {"seconds": summary.get("seconds_total"), "page": page} if over else None,
    }


def at_work(run: Run) -> Found:
    """`at_work`, and `host`, `pid` and `seconds` since the last driver's note, where there is one.

    A driver writes it at its start and, in an object store, again and again; one that ended in order has
    removed it. `at_work` is null where the file system does not tell. Jobs that only read are not seen.
    """
    if not run.exists(lock.NOTE):
        return {"at_work": False}
    try:
        note = lock.read_note(run)
    except UserError:
        if run.exists(lock.NOTE):
            raise
        return {"at_work": False}  # its driver has ended meanwhile
    seconds = max(0.0, time.time() - note["seen"])
    held = _held(run.path(".lock")) if run.is_local else seconds < lock.FRESH_S
    return {"at_work": held, "host": note["host"], "pid": note["pid"], "seconds": seconds}


def _held(path: str) -> bool | None:
    # Asked only beside a note: a lock that a driver holds is left as it is, and one that is taken here for
    # microseconds is a killed driver's, as another one that starts has no note yet.
    try:
        with open(path) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError as error:
        return False if isinstance(error, FileNotFoundError) else None
    return False


def _asked(run: Run) -> Found:
    if not run.exists("run.json") and (work := at_work(run))["at_work"]:
        raise UserError(
            f"--run {run.location}: no run there: it has no run.json yet; process {work['pid']} on "
            f"{work['host']} is at work"
        )
    return read_asked(run)


def _stages(names: tuple[str, ...], summary: Found, record: Found) -> Found:
    stage = str(record.get("stage", ""))
    now = _PARTS_OF.get(stage, stage)
    stages: Found = {}
    for place, name in enumerate(names):
        if name in summary:
            stages[name] = {"state": FINISHED, **summary[name]}
        elif any(later in summary for later in names[place:]):
            stages[name] = {"state": LEFT_OUT}
        else:
            stages[name] = {"state": CURRENT if name == now else LATER}
    return stages


def _checkpoint(run: Run) -> int | None:
    """The optimizer step that training goes on after."""
    names = [n for n in run.folders("checkpoints") if run.exists(f"{n}/metrics.json")]
    saved = (re.search(r"/step-(\d+)$", name) for name in names)
    return max((int(match[1]) for match in saved if match), default=None)


def _compared(run: Run, variants: Found | None) -> Found | None:
    """How it ended, None where it has not; the table alone tells where no record has `variants`."""
    there = run.read_json(_TABLE) if run.exists(_TABLE) else {}
    lacking = there.get("failed") if variants is None else variants["done"] < variants["total"]
    if lacking or not there:
        return None
    page = next(filter(run.exists, _PAGES), _PAGES[-1])  # older ones have the table alone
    return {"seconds": there.get("seconds_total"), "page": f"{run.location}/{page}"}


def lines(found: Found) -> list[tuple[str, str]]:
    """Label and text of each line that a person reads. Raises UserError naming a file of another form."""
    told = [("run", f"{found['run']} ({found['kind']})")]
    with shaped(found["run"], "run.json"):
        told.append(("config", _config(found["asked"])))
    with shaped(found["run"], progress.FILE):
        told.append(("work", _work(found["work"], found["progress"])))
        told += _stage_lines(found) if "stages" in found else _variant_lines(found)
    for number, later in enumerate(found.get("rounds", []), start=2):
        told += [("round", f"{number}: {later['run']}"), *_stage_lines(later)]
    if found.get("stopped"):
        told.append(("stopped", found["stopped"]))
    if found["finished"]:
        seconds, page = found["finished"]["seconds"], found["finished"]["page"]
        with shaped(found["run"], _TABLE if found["kind"] == COMPARISON else "summary.json"):
            spent = "" if seconds is None else f"{seconds:.1f} s in all"
        told.append(("finished", "; ".join(filter(None, [spent, page]))))
    return told


def _config(asked: Found) -> str:
    config = asked["config"]
    asks = "asks " + ", ".join(value_at(config, "evaluation.benchmarks"))
    if "endpoint" in config:
        return f"{config['endpoint']}, models {', '.join(config['models'])}; {asks}"
    models, sampling = config["models"], config["sampling"]
    if is_imported(asked):
        return f"expert {models['expert']}; supervision imported; {asks}"
    amateur = f", amateur {models['amateur']}" if sampling["method"] == "contrast" else ""
    source = value_at(asked, "data.source") or value_at(config, "data.source")
    most = f"at most {counted(sampling['max_problems'], 'problem')} of {source}"
    return f"expert {models['expert']}{amateur}; {most}; {asks}"


def _work(work: Found, record: Found | None) -> str:
    if "pid" not in work:  # the last driver ended in order
        if record and record["state"] == progress.FAILED:
            return f"failed {_duration(_age(record))} ago: {record['error']}"
        if record and record["state"] == progress.INTERRUPTED:
            return f"interrupted {_duration(_age(record))} ago; the same command goes on"
        return "nobody is working on it"
    process, seconds = f"process {work['pid']} on {work['host']}", work["seconds"]
    if record and _is_of(record, work):
        seconds = min(seconds, _age(record))
    ago = f"heard of {_duration(seconds)} ago"
    if work["at_work"] is None:
        return f"not known, the file system has no locks: {process}, {ago}"
    if work["at_work"]:
        return f"at work: {process}, {ago}"
    return f"killed or lost: {process}, last {ago}; the same command goes on"


def _is_of(record: Found, work: Found) -> bool:
    """Whether the driver that holds the run has written the record, and not one before it."""
    return (record["host"], record["pid"]) == (work.get("host"), work.get("pid"))


def _age(record: Found) -> float:
    """Seconds since the record was written."""
    return max(0.0, time.time() - datetime.fromisoformat(record["updated_at"]).timestamp())


def _stage_lines(found: Found) -> list[tuple[str, str]]:
    with shaped(found["run"], progress.FILE):
        texts = {CURRENT: _pace(found), LATER: "to come", LEFT_OUT: "left out"}
    with shaped(found["run"], "summary.json"):
        return _told_of_stages(found, texts)


def _told_of_stages(found: Found, texts: dict[str, str]) -> list[tuple[str, str]]:
    told = []
    for name, part in found["stages"].items():
        state = part["state"]
        told.append((name, _finished(name, part) if state == FINISHED else texts[state]))
        if name == "training":
            if state == CURRENT and found["checkpoint"] is not None:
                told[-1] = (name, f"{told[-1][1]}; last checkpoint of step {found['checkpoint']}")
            made = ", ".join(f"{folder}/" for folder in found["export"])
            gone = {CURRENT: texts[LATER], FINISHED: _REMOVED}
            told.append(("export", made or {**texts, **gone}[state]))
    for name, part in found["accuracy"].items():
        problems = counted(part["problems"], "problem")
        told.append(("accuracy", f"{name}: {_accuracy(part)} on {problems}"))
    for part in MEANS:
        if mean := found[part]:
            of = part.removeprefix("accuracy_").replace("_", " ")
            told.append(("accuracy", f"{of}: {_accuracy(mean)} over {mean['tasks']} tasks"))
    told += [("prompt", f"{n}: {prompt_line(part)}") for n, part in found["prompt_alone"].items()]
    return told


def _finished(name: str, part: Found) -> str:
    if name == "sampling":
        return f"finished: {counted(part['shards'], 'shard')}, {sampling_line(part)}"
    if name == "training":
        return f"finished: {training_line(part)}"
    return f"finished: {counted(part['answers'], 'answer')}, {part['seconds']:.1f} s"


def _pace(found: Found) -> str:
    """How far, and how fast where the driver that said so is at work."""
    record, work = found["progress"], found["work"]
    if not record or "stage" not in record:
        return ""
    of = "" if record["stage"] in found.get("stages", ()) else f"{record['stage']} "
    parts = [f"{of}{record['done']} of {record['total']} {record['unit']}", record["note"]]
    if work["at_work"] and _is_of(record, work) and record["state"] == progress.RUNNING:
        rate, left, unit = record["rate"], record["seconds_left"], record["unit"]
        if rate:
            parts.append(f"{rate:.1f} {unit}/s" if rate >= 1 else f"{60 * rate:.1f} {unit}/min")
        if left is not None:
            parts.append(f"about {_duration(max(0.0, left - _age(record)))} left")
    return ", ".join(filter(None, parts))


def _accuracy(part: Found) -> str:
    """The first model's accuracy, and the others' with their difference from it."""
    texts = []
    for label, model in part["models"].items():
        text = f"{label} {model['accuracy']:.1%}"
        if label in part["differences"]:
            text += f" ({difference_line(part['differences'][label])})"
        texts.append(text)
    return ", ".join(texts)


def _variant_lines(found: Found) -> list[tuple[str, str]]:
    record = found["progress"] or {}
    if (variants := record.get("variants")) is None:  # lost, or its driver ended before it told
        return []
    told = [("variants", f"{variants['done']} of {variants['total']} finished")]
    told += [("failed", f"{name}: {reason}") for name, reason in variants["failed"].items()]
    if record["state"] != progress.FINISHED and "stage" in record:
        where = f" in {variants['now']}" if variants["now"] else ""
        told.append(("now", f"{record['stage']}{where}: {_pace(found | {'stages': STAGES})}"))
    return told


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
