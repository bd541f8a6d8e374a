"""Whether two runs sampled the same."""

from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run

KL_TOLERANCE = 1e-5  # float32 engines, whatever batches they ran


def rows(run: Run) -> dict[str, dict]:
    """Supervision rows by problem."""
    table = run.read_tables(run.shards("supervision"), SUPERVISION)
    return {row["problem_id"]: row for row in table.to_pylist()}


def assert_same(run: Run, other: Run) -> None:
    """The same trajectories, token by token, and the same KL within the tolerance."""
    there, expected = rows(run), rows(other)
    assert there.keys() == expected.keys()
    for problem_id, row in there.items():
        for column in ("prompt_token_ids", "completion_token_ids", "finish_reason"):
            assert row[column] == expected[problem_id][column]
        for mine, theirs in zip(row["kl"], expected[problem_id]["kl"], strict=True):
            assert abs(mine - theirs) <= KL_TOLERANCE
