"""Batches of trajectories to supervision rows: positions, truncation, trajectories without a label."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import Sampling
from lr_ray.sampling.label import label
from lr_ray.sampling.rows import SUPERVISION, TRAJECTORY, lists

K = 3
SETTINGS = Sampling(kl_threshold=0.1, plausibility=0.2)


def log(*rows) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


def batch(trajectories) -> pa.Table:
    """Trajectories as lists of (expert, amateur) probabilities at tokens 7, 8 and 9."""
    lengths = [len(t) for t in trajectories]
    table = pa.table(
        [
            pa.array([f"p{i}" for i in range(len(trajectories))]),
            lists([[1, 2]] * len(trajectories), pa.int32()),
            lists([[7] * n for n in lengths], pa.int32()),
            pa.array(["stop"] * len(trajectories)),
            pa.array([K] * len(trajectories), pa.int32()),
            lists([[7, 8, 9] * n for n in lengths], pa.int32()),
            lists([log(*[p for p, _ in t]).ravel() for t in trajectories], pa.float32()),
            pa.array([None] * len(trajectories), pa.string()),
        ],
        schema=TRAJECTORY,
    )
    amateur = [log(*[q for _, q in t]).ravel() for t in trajectories]
    return table.append_column("amateur_logprobs", lists(amateur, pa.float32()))


SAME = ((0.9, 0.06, 0.02), (0.9, 0.06, 0.02))
APART = ((0.5, 0.4, 0.01), (0.1, 0.8, 0.01))
FLAT = ((0.2, 0.19, 0.18), (0.6, 0.1, 0.01))


def test_kept_steps_keep_their_place_in_their_trajectory():
    rows = label(batch([[SAME, APART], [APART], [SAME], [SAME, SAME, APART]]), SETTINGS, 50)
    assert rows["error"].null_count == 4
    rows = rows.select(SUPERVISION.names).to_pylist()
    assert [[s["position"] for s in row["steps"]] for row in rows] == [[1], [0], [], [2]]
    assert [len(row["kl"]) for row in rows] == [2, 1, 1, 3]
    step = rows[0]["steps"][0]
    assert step["token_ids"] == [7, 8]
    assert step["weights"] == pytest.approx([5 / 5.5, 0.5 / 5.5], abs=1e-5)


def test_plausible_set_beyond_k_is_an_error_unless_k_is_the_vocabulary():
    trajectories = batch([[APART], [SAME, FLAT]])
    errors = label(trajectories, SETTINGS, vocabulary=50)["error"].to_pylist()
    assert errors[0] is None
    assert "reaches beyond top_k = 3" in errors[1]
    whole = label(trajectories, SETTINGS, vocabulary=K)
    assert whole["error"].null_count == 2
    assert len(whole["steps"][1].as_py()[0]["token_ids"]) == 3


def test_step_whose_plausible_tokens_the_amateur_lacks_is_an_error():
    unknown = ((0.9, 0.05, 0.01), (0.0, 0.5, 0.2))
    with np.errstate(divide="ignore"):
        trajectories = batch([[SAME, unknown], [APART]])
    errors = label(trajectories, SETTINGS, 50)["error"].to_pylist()
    assert "unknown to the amateur" in errors[0]
    assert errors[1] is None


def test_rejected_problems_pass_through():
    table = batch([[APART], [APART]])
    empty = pa.table(
        [
            ["bad"],
            lists([[]], pa.int32()),
            lists([[]], pa.int32()),
            ["error"],
            pa.array([K], pa.int32()),
            lists([[]], pa.int32()),
            lists([[]], pa.float32()),
            ["too long"],
            lists([[]], pa.float32()),
        ],
        schema=table.schema,
    )
    rows = label(pa.concat_tables([empty, table]), SETTINGS, 50)
    assert rows["error"].to_pylist() == ["too long", None, None]
    assert [len(s) for s in rows["steps"].to_pylist()] == [0, 1, 1]
    assert label(empty, SETTINGS, 50)["error"].to_pylist() == ["too long"]
