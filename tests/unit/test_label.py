"""Batches of trajectories to supervision rows: positions, truncation, trajectories without a label."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import Sampling
from lr_ray.labelling.label import Facts, Labelled, supervise
from lr_ray.labelling.scores import score
from lr_ray.run.schemas import TRAJECTORY, lists

K = 3
SETTINGS = Sampling(kl_threshold=0.1, plausibility=0.2)


def log(*rows) -> np.ndarray:
    return np.log(np.array(rows, np.float32))


def batch(trajectories) -> pa.Table:
    """Trajectories as lists of (expert, amateur) probabilities at tokens 7, 8 and 9."""
    lengths = [len(t) for t in trajectories]
    table = pa.table(
        [
            pa.array(range(10, 10 + len(trajectories))),
            pa.array([f"p{i}" for i in range(len(trajectories))]),
            pa.array(["a.jsonl"] * len(trajectories)),
            pa.array(range(1, 1 + len(trajectories))),
            lists([[1, 2]] * len(trajectories), pa.int32()),
            lists([[7] * n for n in lengths], pa.int32()),
            pa.array(["stop"] * len(trajectories)),
            lists([[K] * n for n in lengths], pa.int32()),
            lists([[7, 8, 9] * n for n in lengths], pa.int32()),
            lists([log(*[p for p, _ in t]).ravel() for t in trajectories], pa.float32()),
            pa.array([None] * len(trajectories), pa.string()),
        ],
        schema=TRAJECTORY,
    )
    amateur = [log(*[q for _, q in t]).ravel() for t in trajectories]
    return table.append_column("amateur_logprobs", lists(amateur, pa.float32()))


def label(table: pa.Table, sampling: Sampling, k: int) -> Labelled:
    """As a shard is made of a batch."""
    scored = score(table, sampling.plausibility, k)
    return supervise(scored.scores, sampling, scored.bad, scored.bad_index)


SAME = ((0.9, 0.06, 0.02), (0.9, 0.06, 0.02))
APART = ((0.5, 0.4, 0.01), (0.1, 0.8, 0.01))
UNKNOWN = ((0.9, 0.05, 0.01), (0.0, 0.5, 0.2))


def test_kept_steps_keep_their_place_in_their_trajectory():
    labelled = label(batch([[SAME, APART], [APART], [SAME], [SAME, SAME, APART]]), SETTINGS, K)
    rows = labelled.good.to_pylist()
    assert labelled.bad.num_rows == 0
    assert labelled.good_index == [10, 11, 12, 13]
    assert [[s["position"] for s in row["steps"]] for row in rows] == [[1], [0], [], [2]]
    assert [len(row["kl"]) for row in rows] == [2, 1, 1, 3]
    step = rows[0]["steps"][0]
    assert step["token_ids"] == [7, 8]
    assert step["weights"] == pytest.approx([5 / 5.5, 0.5 / 5.5], abs=1e-5)


def test_a_batch_of_any_size_gives_the_rows_of_its_parts():
    trajectories = [[SAME] * (i % 3) + [APART] * (i % 4 + 1) for i in range(50)]
    whole = label(batch(trajectories), SETTINGS, K)
    parts = [label(batch(trajectories).slice(i, 7), SETTINGS, K) for i in range(0, 50, 7)]
    assert whole.good.equals(pa.concat_tables([p.good for p in parts]))
    assert whole.facts == sum((p.facts for p in parts), Facts())


def test_facts_count_steps_and_hold_the_largest_residuals():
    facts = label(batch([[SAME, APART], [APART]]), SETTINGS, K).facts
    assert (facts.trajectories, facts.rejected) == (2, 0)
    assert (facts.steps_scored, facts.steps_kept, facts.steps_completed) == (3, 2, 0)
    assert facts.largest_expert_residual == pytest.approx(0.09, abs=1e-6)
    assert facts.largest_amateur_residual == pytest.approx(0.09, abs=1e-6)
    assert label(batch([[SAME, APART], [APART]]), SETTINGS, K - 1).facts.steps_completed == 3


def test_trajectory_with_a_kept_step_of_unknown_tokens_is_rejected():
    with np.errstate(divide="ignore"):
        trajectories = batch([[SAME, UNKNOWN, APART], [APART]])
    labelled = label(trajectories, SETTINGS, K)
    (row,) = labelled.bad.to_pylist()
    assert (row["problem_id"], row["file"], row["row"]) == ("p0", "a.jsonl", 1)
    assert "unknown to the amateur" in row["reason"]
    assert (labelled.bad_index, labelled.good_index) == ([10], [11])
    (good,) = labelled.good.to_pylist()
    assert [s["position"] for s in good["steps"]] == [0]
    assert (labelled.facts.steps_scored, labelled.facts.steps_kept) == (1, 1)


@pytest.mark.parametrize("column", ["expert_logprobs", "amateur_logprobs"])
def test_trajectory_with_nan_is_rejected(column):
    trajectories = batch([[SAME, APART], [APART]])
    values = trajectories[column].to_pylist()
    values[0][1] = float("nan")
    place = trajectories.schema.get_field_index(column)
    trajectories = trajectories.set_column(place, column, lists(values, pa.float32()))
    labelled = label(trajectories, SETTINGS, K)
    assert labelled.bad["reason"].to_pylist() == ["an engine gave NaN"]
    assert labelled.good["problem_id"].to_pylist() == ["p1"]
    assert np.isfinite(labelled.facts.largest_expert_residual)


def test_rejected_problems_pass_through():
    table = batch([[APART], [APART]])
    empty = pa.table(
        [
            pa.array([9]),
            ["bad"],
            ["a.jsonl"],
            pa.array([7]),
            *[lists([[]], pa.int32())] * 2,
            ["error"],
            *[lists([[]], pa.int32())] * 2,
            lists([[]], pa.float32()),
            ["too long"],
            lists([[]], pa.float32()),
        ],
        schema=table.schema,
    )
    labelled = label(pa.concat_tables([empty, table]), SETTINGS, K)
    reject = {"problem_id": "bad", "file": "a.jsonl", "row": 7, "reason": "too long"}
    assert labelled.bad.to_pylist() == [reject]
    assert [len(s) for s in labelled.good["steps"].to_pylist()] == [1, 1]
    alone = label(empty, SETTINGS, K)
    assert (alone.good.num_rows, alone.bad.num_rows, alone.facts.rejected) == (0, 1, 1)


MIXED = [[SAME] * (i % 3) + [APART] * (i % 4) + [SAME] * 20 for i in range(30)]


def steps(labelled) -> dict[str, list[dict]]:
    return {row["problem_id"]: row["steps"] for row in labelled.good.to_pylist()}


def positions(labelled) -> dict[str, list[int]]:
    return {name: [s["position"] for s in kept] for name, kept in steps(labelled).items()}


def settings(**changed) -> Sampling:
    return SETTINGS.model_copy(update=changed)


def test_random_steps_within_are_as_many_of_each_trajectory_and_of_seed_and_problem_alone():
    table = batch(MIXED)
    kept = positions(label(table, SETTINGS, K))
    drawn = positions(label(table, settings(selection="random_within"), K))
    assert {n: len(p) for n, p in drawn.items()} == {n: len(p) for n, p in kept.items()}
    assert sum(drawn[n] != kept[n] for n in kept) > 15  # of 22 trajectories that keep a step
    within = settings(selection="random_within")
    parts = [label(table.slice(i, 7), within, K) for i in range(0, 30, 7)]
    assert {n: p for part in parts for n, p in positions(part).items()} == drawn
    assert positions(label(table, settings(selection="random_within", seed=1), K)) != drawn


def test_random_steps_are_as_many_in_all_and_fall_on_any_trajectory():
    table = batch([[APART] * 20] * 50 + [[SAME] * 20] * 50)
    labelled = label(table, settings(selection="random"), K)
    assert labelled.facts.steps_kept == label(table, SETTINGS, K).facts.steps_kept == 1000
    counts = [len(p) for p in positions(labelled).values()]
    assert len(counts) == 100
    # Half of all steps are drawn: 500 in each half of the trajectories, give or take.
    assert abs(sum(counts[:50]) - 500) < 5 * np.sqrt(500 * 0.5)
    again = label(table, settings(selection="random", seed=1), K)
    assert positions(again) != positions(labelled)


@pytest.mark.parametrize("selection", ["random", "random_within"])
def test_random_steps_are_spread_evenly(selection):
    trajectories = [[APART] * 5 + [SAME] * 15] * 400
    drawn = positions(label(batch(trajectories), settings(selection=selection), K))
    counts = np.bincount([step for steps in drawn.values() for step in steps], minlength=20)
    assert counts.sum() == 2000
    assert np.abs(counts - 100).max() < 5 * np.sqrt(100 * 0.75)  # five standard deviations


def test_all_steps_are_kept_with_their_own_labels():
    table = batch(MIXED)
    every = steps(label(table, settings(selection="all"), K))
    chosen = steps(label(table, SETTINGS, K))
    for (name, kept), trajectory in zip(every.items(), MIXED, strict=True):
        assert [s["position"] for s in kept] == list(range(len(trajectory)))
        by_position = {s["position"]: s for s in kept}
        assert [by_position[s["position"]] for s in chosen[name]] == chosen[name]


def test_expert_and_greedy_labels():
    table = batch([[SAME, APART]])
    (kept,) = steps(label(table, settings(labels="expert", selection="all"), K)).values()
    assert [step["token_ids"] for step in kept] == [[7], [7, 8]]
    assert kept[1]["weights"] == pytest.approx([5 / 9, 4 / 9], abs=1e-6)
    (kept,) = steps(label(table, settings(labels="greedy"), K)).values()
    assert kept == [{"position": 1, "token_ids": [7], "weights": [1.0]}]


@pytest.mark.parametrize("labels", ["expert", "greedy"])
@pytest.mark.parametrize("selection", ["kl", "all", "random_within"])
def test_labels_without_the_amateur_need_no_token_of_it(selection, labels):
    with np.errstate(divide="ignore"):
        table = batch([[SAME, UNKNOWN, APART], [APART]])
    labelled = label(table, settings(selection=selection, labels=labels), K)
    assert labelled.good["problem_id"].to_pylist() == ["p0", "p1"]
    assert len(steps(labelled)["p0"]) == (3 if selection == "all" else 2)


def test_nothing_is_kept_where_amateur_and_expert_are_equal():
    table = batch([[SAME] * 9] * 3)
    for selection in ("kl", "random", "random_within"):
        zero = settings(selection=selection, kl_threshold=0.0)
        assert label(table, zero, K).facts.steps_kept == 0


UNSURE = ((0.4, 0.35, 0.2), (0.4, 0.35, 0.2))  # the amateur agrees


def test_a_share_is_of_the_batch_and_has_the_largest_kl():
    order = [
        SAME,
        ((0.5, 0.4, 0.01), (0.3, 0.6, 0.01)),
        APART,
        ((0.5, 0.4, 0.01), (0.05, 0.9, 0.01)),
    ]
    table = batch([[order[(i + j) % 4] for j in range(8)] for i in range(5)])
    every, kept = label(table, SETTINGS, K).good, label(table, settings(selection="top:0.3"), K)
    assert kept.facts.steps_kept == 12  # of 40
    chosen = {(n, p) for n, places in positions(kept).items() for p in places}
    of_kl = {(r["problem_id"], i): kl for r in every.to_pylist() for i, kl in enumerate(r["kl"])}
    assert min(of_kl[step] for step in chosen) >= max(of_kl[s] for s in of_kl.keys() - chosen)
    assert len(chosen & {s for s, kl in of_kl.items() if kl == max(of_kl.values())}) == 10


def test_the_share_of_the_least_sure_steps_asks_nothing_of_the_amateur():
    kept = label(
        batch([[SAME, UNSURE, APART], [APART, SAME]]), settings(selection="entropy:0.4"), K
    )
    assert positions(kept) == {"p0": [1, 2], "p1": []}  # APART of p0 is as unsure as that of p1


@pytest.mark.parametrize(
    ("name", "kept"),
    [("unsure_apart", [2]), ("unsure_close", [1]), ("sure_apart", [3]), ("sure_close", [0, 4, 5])],
)
def test_quadrants_part_the_steps_by_entropy_and_kl(name, kept):
    overconfident = ((0.9, 0.06, 0.02), (0.2, 0.7, 0.05))
    table = batch([[SAME, UNSURE, APART, overconfident, SAME, SAME]])
    assert positions(label(table, settings(selection=f"quadrant:{name}"), K)) == {"p0": kept}


def test_the_first_steps_are_those_that_shorter_trajectories_keep():
    short = [trajectory[:3] for trajectory in MIXED]
    kept = positions(label(batch(MIXED), settings(selection="first:3"), K))
    assert kept == positions(label(batch(short), SETTINGS, K))
    rest = positions(label(batch(MIXED), settings(selection="window:4-99"), K))
    whole = positions(label(batch(MIXED), SETTINGS, K))
    assert {name: kept[name] + rest[name] for name in kept} == whole
    assert 0 < sum(map(len, rest.values())) < sum(map(len, kept.values()))


def test_a_label_at_temperature_one_is_the_papers_and_a_colder_one_is_sharper():
    table = batch([[SAME, APART]])
    paper = label(table, SETTINGS, K).good
    assert label(table, settings(labels="contrast:1"), K).good.equals(paper)
    (kept,) = steps(label(table, settings(labels="contrast:0.5"), K)).values()
    assert kept[0]["weights"] == pytest.approx([25 / 25.25, 0.25 / 25.25], abs=1e-5)  # (p/q) ** 2
