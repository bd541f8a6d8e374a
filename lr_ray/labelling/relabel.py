"""Stage 2 alone: scores that have no supervision are labelled, without an engine.

The same code labels a batch in sampling's last task. Exercised by `pytest tests/unit/test_relabel.py`.
"""

from collections.abc import Sequence
from itertools import compress
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lr_ray.config import Sampling
from lr_ray.config.sections.common import OF_A_BATCH
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.label import NO_LABEL, supervise
from lr_ray.labelling.shards import FOLDERS, footers, write_shard
from lr_ray.run.schemas import REJECTED, SCORES, first_null
from lr_ray.run.store import Run, shaped

_NEEDED = ["index", "problem_id", "prompt_token_ids", "completion_token_ids", "kl", "plausible"]
_INDEX = pa.schema([SCORES.field("index")])


def label_scores(run: Run, sampling: Sampling) -> int:
    """Writes the supervision of every batch that has scores alone. Returns how many batches there were.

    The rows are those that sampling with these settings writes. A batch lacks its supervision when it
    was interrupted, when the labelling was voided, or when its scores are another run's. Scores that were
    kept for a larger plausibility than is asked for are removed, so that they are sampled again.
    """
    there = set(run.shards("supervision"))
    missing = [name for name in run.shards("scores") if _beside(name, "supervision") not in there]
    holders = footers(run, *FOLDERS) if missing else {}
    if sampling.selection.partition(":")[0] in OF_A_BATCH:
        _check_batches(run, sampling, missing)
    labelled = 0
    for name in missing:
        said = run.read_facts(name)
        with shaped(run.location, name):
            lacks = said["plausibility"] > sampling.plausibility
        if lacks:
            run.remove(name)
            continue
        file, rejected = name.rsplit("/", 1)[1], _beside(name, "rejected")
        others = {
            problem
            for other, holder in holders.items()
            if not other.endswith(file)
            for problem in holder.get("problems", ())
        }
        scores = run.read_tables([name], SCORES)
        if null := first_null(scores.select(_NEEDED)):
            where = f"{run.location}/{name}: row {null[0] + 1}: a null in {null[1]}"
            raise StageError(f"{where}; put the run's own file there, or sample again")
        scores = scores.filter(pc.invert(pc.is_in(scores["index"], pa.array(others, pa.int64()))))
        bad, bad_index = _unscored(run, rejected, holders.get(rejected, {}).get("problems", []))
        if not scores.num_rows and not bad_index:  # of an interrupted batch that others did
            run.remove(name)
            continue
        exchange = {key: value for key, value in said.items() if key != "plausibility"}
        write_shard(run, file, supervise(scores, sampling, bad, bad_index), exchange)
        holders[name] = {"problems": [*scores["index"].to_pylist(), *bad_index]}
        labelled += 1
    return labelled


def _check_batches(run: Run, sampling: Sampling, names: Sequence[str]) -> None:
    """Raises UserError where scores lie in larger batches than are asked for, of which the rule chooses."""
    for name in names:
        rows = run.read_tables([name], _INDEX).num_rows
        if rows > sampling.batch_size:
            raise UserError(
                f"{run.location}/{name}: has {rows} rows, and selection {sampling.selection} chooses among "
                f"those of a batch of sampling.batch_size = {sampling.batch_size}; give the batch size "
                "that they were sampled with"
            )


def _unscored(run: Run, rejected: str, problems: list[int]) -> tuple[pa.Table, list[int]]:
    """A batch's rejected rows that have no scores, and which problems they are."""
    if not problems:
        return REJECTED.empty_table(), []
    rows = run.read_tables([rejected], REJECTED)
    unscored = [reason != NO_LABEL for reason in rows["reason"].to_pylist()]
    return rows.filter(pa.array(unscored, pa.bool_())), list(compress(problems, unscored))


def _beside(name: str, folder: str) -> str:
    return f"{folder}/{name.rsplit('/', 1)[1]}"


def exchange_of(run: Run) -> dict[str, Any]:
    """Whose rows a run's are, and how exact their KL, as one of its shards says."""
    for folder in ("supervision", "rejected", "scores"):
        for name in run.shards(folder):
            said = run.read_facts(name)
            own = ("problems", "facts", "plausibility")
            if exchange := {key: value for key, value in said.items() if key not in own}:
                return exchange
    return {}
