"""Whether two runs sampled the same."""

from collections.abc import Container
from pathlib import Path

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run

KL_TOLERANCE = 1e-5  # float32 engines, whatever batches they ran


def rows(run: Run) -> dict[str, dict]:
    """Supervision rows by problem, each of which has one."""
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    found = {row["problem_id"]: row for row in table.to_pylist()}
    assert len(found) == table.num_rows, "a problem has two rows"
    return found


def shards(folder: Path) -> dict[str, float]:
    """When each shard of a run was written."""
    files = [*folder.glob("supervision/part-*"), *folder.glob("rejected/part-*")]
    return {f.name: f.stat().st_mtime for f in files}


def assert_same(run: Run, other: Run, without: Container[str] = ()) -> None:
    """The same trajectories, token by token, the same kept steps, and the same KL within the tolerance.

    `without`: problems of `other` that are not compared, and not in `run`.
    """
    there = rows(run)
    expected = {problem: row for problem, row in rows(other).items() if problem not in without}
    assert there.keys() == expected.keys()
    for problem_id, row in there.items():
        for column in ("prompt_token_ids", "completion_token_ids", "finish_reason"):
            assert row[column] == expected[problem_id][column]
        for mine, theirs in zip(row["kl"], expected[problem_id]["kl"], strict=True):
            assert abs(mine - theirs) <= KL_TOLERANCE
        mine, theirs = ([s["position"] for s in r["steps"]] for r in (row, expected[problem_id]))
        assert mine == theirs
