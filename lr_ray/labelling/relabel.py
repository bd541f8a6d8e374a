"""A finished run's scores to another run's supervision, by other settings: no engine starts.

Exercised by `pytest tests/unit/test_relabel.py`.
"""

import time
from dataclasses import asdict
from itertools import compress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.config import Sampling
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.label import NO_LABEL, Facts, Labelled, supervise
from lr_ray.labelling.shards import FOLDERS, check_rejected, footers, holders, survey, write_shard
from lr_ray.problems import INDEX, PROBLEM
from lr_ray.run.schemas import REJECTED, SCORES
from lr_ray.run.store import Run, read_asked, read_summary

# What scores follow from; kl_threshold, selection, labels and seed may be others, plausibility larger.
_SHARED = (
    "method",
    "max_problems",
    "max_new_tokens",
    "system_prompt",
    "top_k",
    "expert.dtype",
    "amateur.dtype",
)


def relabel(source: Run, target: Run, sampling: Sampling) -> dict[str, Any]:
    """Writes the target's problems and shards, and returns the `sampling` part of its summary.

    The rows are those that sampling with these settings writes; `shared_seconds` are those that the
    source's sampling took. Replaces what the target had. Raises UserError when the source is not
    finished or does not hold what these settings need, StageError when its shards do not fit together
    or too many trajectories have a kept step without a label.
    """
    started = time.monotonic()
    there = check_source_run(source, target, sampling)
    index = source.read_json(INDEX)
    unusable = Facts(problems=index["rejected"], rejected=index["rejected"])
    for folder in (*FOLDERS, "scores", "trajectories", "problems"):
        target.remove(folder)
    _copy_problems(source, target, index)
    for name, problems in holders(source).items():
        labelled = _relabelled(source, name, problems, sampling)
        write_shard(target, name, labelled, there["exchange"])
    _, facts = survey(target, index["problems"])
    facts += unusable
    check_rejected(target, sampling, facts, facts.problems, index["first_rejected"])
    return {
        **asdict(facts),
        "seconds": time.monotonic() - started,
        "shared_seconds": there["seconds"],
        "exchange": there["exchange"],
    }


def check_source_run(source: Run, target: Run, sampling: Sampling) -> dict[str, Any]:
    """The source's `sampling` part. Raises UserError unless the target can be made of its scores."""
    where = f"--run {source.location}"
    if source.location == target.location:
        raise UserError(f"{where}: cannot be relabelled into itself; give another run")
    asked = Sampling(**read_asked(source)["config"]["sampling"])
    summary = read_summary(source)
    if "sampling" not in summary:
        raise UserError(f"{where}: sampling is not finished, and relabelling needs it")
    for name in _SHARED:
        ours, theirs = _value(sampling, name), _value(asked, name)
        if ours != theirs:
            raise UserError(f"sampling.{name} = {ours}: {where} was sampled with {theirs}")
    if sampling.method != "contrast":
        raise UserError(f"sampling.method = {sampling.method} has no scores to relabel")
    if sampling.plausibility < asked.plausibility:
        raise UserError(
            f"sampling.plausibility = {sampling.plausibility}: {where} holds scores from "
            f"{asked.plausibility} on"
        )
    if not source.shards("scores"):
        raise UserError(f"{where}: has no scores; sample it again")
    return dict(summary["sampling"])


def _value(sampling: Sampling, name: str) -> Any:
    value: Any = sampling
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _copy_problems(source: Run, target: Run, index: dict[str, Any]) -> None:
    """The staged problems, and the rows of their source that were none."""
    for name in source.shards("problems"):
        target.write_table(name, source.read_tables([name], PROBLEM))
    for name, said in footers(source, "rejected").items():
        if "problems" not in said:
            target.write_table(name, source.read_tables([name], REJECTED))
    target.write_json(INDEX, index)


def _relabelled(source: Run, name: str, problems: list[int], sampling: Sampling) -> Labelled:
    """The supervision of one of the source's shards."""
    scores = SCORES.empty_table()
    if source.exists(f"scores/{name}"):
        scores = source.read_tables([f"scores/{name}"], SCORES)
    scores = scores.filter(pc.is_in(scores["index"], pa.array(problems, pa.int64())))
    scored = set(scores["index"].to_pylist())
    bad, bad_index = REJECTED.empty_table(), []
    if source.exists(f"rejected/{name}"):
        bad = source.read_tables([f"rejected/{name}"], REJECTED)
        bad_index = source.read_facts(f"rejected/{name}")["problems"]
        unscored = [reason != NO_LABEL for reason in bad["reason"].to_pylist()]
        bad = bad.filter(pa.array(unscored, pa.bool_()))
        bad_index = list(compress(bad_index, unscored))
    missing = set(problems) - scored - set(bad_index)
    if missing:
        raise StageError(
            f"{source.location}/scores/{name}: lacks {len(missing)} of its problems; "
            f"remove {name} there and sample again"
        )
    return supervise(scores, sampling, bad, bad_index)
