"""Plans and packing: every kept step trained as planned, whatever the split."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.sampling.rows import SUPERVISION
from lr_ray.training.batches import (
    Step,
    Trajectory,
    collate,
    pack,
    plan,
    read_trajectories,
    share,
)


def step(row: int, ids=(1, 2), weights=(0.25, 0.75)) -> Step:
    return Step(row, np.array(ids, np.int32), np.array(weights, np.float32))


def trajectory(length: int, rows) -> Trajectory:
    return Trajectory(np.arange(length, dtype=np.int32), tuple(step(r) for r in rows))


def test_plan_draws_each_step_once_an_epoch():
    counts = [3, 0, 5, 2]
    batches = plan(counts, batch_steps=4, batches=5, seed=0)
    drawn = np.concatenate(batches)
    assert drawn.shape == (20, 2)
    everything = {(t, s) for t, n in enumerate(counts) for s in range(n)}
    assert {tuple(pair) for pair in drawn[:10].tolist()} == everything
    assert {tuple(pair) for pair in drawn[10:].tolist()} == everything
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_plan_follows_the_seed_and_its_prefix_does_not_depend_on_the_length():
    one, other = plan([40], 4, 5, seed=1), plan([40], 4, 5, seed=2)
    assert np.array_equal(one, plan([40], 4, 5, seed=1))
    assert not np.array_equal(one, other)
    assert np.array_equal(one, plan([40], 4, 9, seed=1)[:5])


def test_pack_joins_steps_of_a_trajectory_and_cuts_after_the_last():
    trajectories = [trajectory(9, [3, 5, 7]), trajectory(6, [2, 4])]
    packed = pack(trajectories, np.array([[0, 1], [1, 0], [0, 0]]))
    assert [len(p.token_ids) for p in packed] == [6, 3]
    assert [[s.row for s in p.steps] for p in packed] == [[3, 5], [2]]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_shares_cover_the_batch_with_equal_counts(workers, budget):
    batch = [Trajectory(np.arange(n, dtype=np.int32), (step(n - 1),)) for n in (9, 7, 7, 4, 2)]
    shares = [share(batch, rank, workers, budget) for rank in range(workers)]
    assert len({len(s) for s in shares}) == 1
    lengths = sorted(len(p.token_ids) for s in shares for micro in s for p in micro)
    assert lengths == [2, 4, 7, 7, 9]
    for micro in (m for s in shares for m in s if len(m) > 1):
        assert max(len(p.token_ids) for p in micro) * len(micro) <= budget


def test_collate_pads_right_and_flattens_labels():
    items = [
        Trajectory(np.array([5, 6, 7], np.int32), (step(1), step(2, (9,), (1.0,)))),
        Trajectory(np.array([8, 9], np.int32), (step(1),)),
    ]
    batch = collate(items)
    assert batch.token_ids_BT.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.mask_BT.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.step_batch_S.tolist() == [0, 0, 1]
    assert batch.step_row_S.tolist() == [1, 2, 1]
    assert batch.label_step_L.tolist() == [0, 0, 1, 2, 2]
    assert batch.label_id_L.tolist() == [1, 2, 9, 1, 2]
    assert batch.label_weight_L.sum() == pytest.approx(3)


def test_collate_of_nothing_is_one_padding_token():
    batch = collate([])
    assert batch.token_ids_BT.shape == (1, 1)
    assert len(batch.step_row_S) == len(batch.label_weight_L) == 0


def row(problem_id: str, prompt, completion, steps) -> dict:
    return {
        "problem_id": problem_id,
        "prompt_token_ids": prompt,
        "completion_token_ids": completion,
        "finish_reason": "stop",
        "kl": [0.0] * len(completion),
        "steps": steps,
    }


def test_rows_are_read_in_the_order_of_their_ids():
    kept = [{"position": 1, "token_ids": [4, 5], "weights": [0.5, 0.5]}]
    rows = [row("b", [1, 2], [3, 4], kept), row("a", [1], [2, 3], kept), row("c", [1], [2], [])]
    trajectories = read_trajectories(pa.Table.from_pylist(rows, schema=SUPERVISION))
    assert [t.token_ids.tolist() for t in trajectories] == [[1, 2, 3], [1, 2, 3, 4]]
    # The label replaces completion token 1, so the row before it predicts it.
    assert [t.steps[0].row for t in trajectories] == [1, 2]
