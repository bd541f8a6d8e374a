"""The expert's trajectories on disk: for several amateurs to score one decoding, or one amateur later.

Exercised by `pytest tests/unit/test_trajectories.py` and `pytest tests/integration/test_sampling.py`.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Config
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.shards import footers, put, shard_name
from lr_ray.problems import read_problems
from lr_ray.run.schemas import TRAJECTORY
from lr_ray.run.stages import digests
from lr_ray.run.store import Run

FOLDER = "trajectories"


def made_with(config: Config, expert: str) -> dict[str, Any]:
    """What trajectories follow from, as it is in the footer of their shards. `expert`: its fingerprint."""
    decoding = digests(config, {"expert": expert})["decoding"]
    return {"decoding": decoding, "plausibility": config.sampling.plausibility}


def _serve(said: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a shard was made by the same settings, for plausible sets that are as large or larger."""
    return (
        said.get("decoding") == wanted["decoding"]
        and said["plausibility"] <= wanted["plausibility"]
    )


def save(batch: pa.Table, run: Run, footer: dict[str, Any]) -> pa.Table:
    """Writes a batch's `schemas.TRAJECTORY`, errors among them, and hands the batch on."""
    run.check_owner()
    index = batch["index"].to_numpy()
    put(run, FOLDER, shard_name(index), batch, {"problems": index.tolist(), **footer})
    return batch


def save_alone(batch: pa.Table, run: Run, footer: dict[str, Any]) -> dict[str, list[Any]]:
    """Writes a batch as `save` does, and returns how many problems it has in a list of one."""
    return {"decoded": [save(batch, run, footer).num_rows]}


def decoded(run: Run, footer: Mapping[str, Any], total: int) -> NDArray[np.bool_]:
    """Which of a run's problems have trajectories that were made with the settings of `footer`."""
    there = np.zeros(total, bool)
    for said in footers(run, FOLDER).values():
        if _serve(said, footer):
            there[said["problems"]] = True
    return there


def plan(source: Run, todo: NDArray, footer: dict[str, Any]) -> list[pa.Table]:
    """Which problems at `todo` to read from which of the source's shards, a table of both a shard.

    Raises UserError when the source has not the trajectories of all of them, or made them with other
    settings.
    """
    where = f"--run {source.location}"
    wanted, blocks = set(todo.tolist()), []
    for name, made in footers(source, FOLDER).items():
        here = sorted(wanted.intersection(made["problems"]))
        if not here:
            continue
        if not _serve(made, footer):
            raise UserError(f"{where}: trajectories were made with other settings")
        wanted.difference_update(here)
        file = name.rsplit("/", 1)[1]
        blocks.append(pa.table({"index": here, "name": [file] * len(here)}))
    if wanted:
        raise UserError(
            f"{where}: has no trajectories of {len(wanted)} of {len(todo)} problems; "
            "sample it to the end with its trajectories kept"
        )
    return blocks


def read(block: pa.Table, source: Run, run: Run) -> pa.Table:
    """The trajectories of a block of `plan`, in the order of their problems.

    Raises StageError when the source and the run number their problems otherwise.
    """
    name = f"{FOLDER}/{block['name'][0]}"
    table = source.read_tables([name], TRAJECTORY)
    table = table.filter(pc.is_in(table["index"], block["index"].combine_chunks()))
    ids = read_problems(run, table["index"].to_numpy())["problem_id"]
    if table.num_rows != block.num_rows or ids.to_pylist() != table["problem_id"].to_pylist():
        raise StageError(f"{source.location}/{name}: is of other problems than {run.location}")
    return table.combine_chunks()
