"""Plans and packing: every kept step trained as planned, whatever the split."""

import itertools

import numpy as np
import pytest

from lr_ray.training.batches import collate, pack, plan, share
from lr_ray.training.data import Step, Trajectory


def step(row: int, ids=(1, 2), weights=(0.25, 0.75)) -> Step:
    return Step(row, np.array(ids, np.int32), np.array(weights, np.float32))


def trajectory(length: int, rows) -> Trajectory:
    return Trajectory(np.arange(length, dtype=np.int32), tuple(step(r) for r in rows))


def first(batches: int, *asked) -> list[np.ndarray]:
    return list(itertools.islice(plan(*asked), batches))


def test_plan_draws_each_step_once_an_epoch():
    counts = [3, 0, 5, 2]
    batches = first(5, counts, 4, 0, "step")
    drawn = np.concatenate(batches)
    assert drawn.shape == (20, 2)
    everything = {(t, s) for t, n in enumerate(counts) for s in range(n)}
    assert {tuple(pair) for pair in drawn[:10].tolist()} == everything
    assert {tuple(pair) for pair in drawn[10:].tolist()} == everything
    assert drawn[:10].tolist() != drawn[10:].tolist()


def test_plan_follows_the_seed():
    one, other = first(5, [40], 4, 1, "step"), first(5, [40], 4, 2, "step")
    assert np.array_equal(one, first(5, [40], 4, 1, "step"))
    assert not np.array_equal(one, other)


def test_batches_of_trajectories_have_all_their_kept_steps():
    counts = [3, 0, 5, 2]
    drawn = first(6, counts, 2, 0, "trajectory")
    for pairs in drawn:
        for index in set(pairs[:, 0].tolist()):
            of_one = pairs[pairs[:, 0] == index, 1].tolist()
            assert sorted(set(of_one)) == list(range(counts[index]))
    seen = [index for pairs in drawn[:3] for index in dict.fromkeys(pairs[:, 0].tolist())]
    assert sorted(seen[:3]) == [0, 2, 3]


def test_pack_joins_steps_of_a_trajectory_and_cuts_after_the_last():
    trajectories = [trajectory(9, [3, 5, 7]), trajectory(6, [2, 4])]
    packed = pack(trajectories, np.array([[0, 1], [1, 0], [0, 0]]))
    assert [len(p.token_ids) for p in packed] == [6, 3]
    assert [[s.row for s in p.steps] for p in packed] == [[3, 5], [2]]


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("budget", [1, 12, 1000])
@pytest.mark.parametrize("padded", [False, True])
def test_shares_cover_the_batch_with_equal_counts(workers, budget, padded):
    batch = [Trajectory(np.arange(n, dtype=np.int32), (step(n - 1),)) for n in (9, 7, 7, 4, 2)]
    shares = [share(batch, rank, workers, budget, padded) for rank in range(workers)]
    assert len({len(s) for s in shares}) == 1
    lengths = sorted(len(p.token_ids) for s in shares for micro in s for p in micro)
    assert lengths == [2, 4, 7, 7, 9]
    for micro in (m for s in shares for m in s if len(m) > 1):
        sizes = [len(p.token_ids) for p in micro]
        assert (max(sizes) * len(micro) if padded else sum(sizes)) <= budget


def test_padding_counts_only_where_rows_are_padded():
    batch = [Trajectory(np.arange(n, dtype=np.int32), (step(n - 1),)) for n in (9, 5, 4)]
    assert [len(m) for m in share(batch, 0, 1, 18)] == [3]
    assert [len(m) for m in share(batch, 0, 1, 18, padded=True)] == [2, 1]


def test_collate_joins_rows_and_flattens_labels():
    items = [
        Trajectory(np.array([5, 6, 7], np.int32), (step(1), step(2, (9,), (1.0,)))),
        Trajectory(np.array([8, 9], np.int32), (step(1),)),
    ]
    batch = collate(items)
    assert batch.token_ids_N.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_N.tolist() == [0, 1, 2, 0, 1]
    assert batch.length_B.tolist() == [3, 2]
    assert batch.step_token_S.tolist() == [1, 2, 4]
    assert batch.label_step_L.tolist() == [0, 0, 1, 2, 2]
    assert batch.label_id_L.tolist() == [1, 2, 9, 1, 2]
    assert batch.label_weight_L.sum() == pytest.approx(3)


def test_collate_of_nothing_is_one_padding_token():
    batch = collate([])
    assert batch.token_ids_N.shape == batch.position_N.shape == (1,)
    assert (batch.index_B.tolist(), batch.length_B.tolist()) == ([0], [1])
    assert len(batch.step_token_S) == len(batch.label_weight_L) == 0
