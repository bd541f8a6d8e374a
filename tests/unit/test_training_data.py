"""Reading supervision for training: a fixed order, and rows that cannot be trained on named."""

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.errors import StageError
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.store import Run
from lr_ray.training.data import Supervision, check_rows

VOCABULARY = 10
KEPT = ({"position": 1, "token_ids": [4, 5], "weights": [0.5, 0.5]},)


def row(problem_id: str, prompt=(1,), completion=(2, 3), steps=KEPT) -> dict:
    return {
        "problem_id": problem_id,
        "prompt_token_ids": list(prompt),
        "completion_token_ids": list(completion),
        "finish_reason": "stop",
        "kl": [0.0] * len(completion),
        "steps": list(steps),
    }


def read(tmp_path, *shards) -> Supervision:
    run = Run(str(tmp_path / "run"))
    for i, rows in enumerate(shards):
        table = pa.Table.from_pylist(list(rows), schema=SUPERVISION)
        run.write_table(f"supervision/part-{i}.parquet", table)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return Supervision(run, VOCABULARY, str(scratch))


def test_rows_come_in_the_order_of_their_ids_whatever_the_shards(tmp_path):
    rows = [row("b", [1, 2], [3, 4]), row("a"), row("c", steps=()), row("d", [7], [8, 9])]
    one = read(tmp_path / "one", rows)
    other = read(tmp_path / "other", rows[2:], rows[:2])
    assert (one.trajectories, len(one), one.step_counts.tolist()) == (4, 3, [1, 1, 1])
    assert [t.token_ids.tolist() for t in one] == [[1, 2, 3], [1, 2, 3, 4], [7, 8, 9]]
    assert [t.index for t in one] == [0, 1, 2]
    # The label replaces completion token 1, so the row before it predicts it.
    assert [t.steps[0].row for t in one] == [1, 2, 1]
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine.token_ids, theirs.token_ids)
        assert np.array_equal(mine.steps[0].weights, theirs.steps[0].weights)


def test_nothing_to_read_is_empty(tmp_path):
    assert len(read(tmp_path)) == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row("x", prompt=[1, 10]), "prompt id 10, but the expert has ids 0 to 9"),
        (row("x", completion=[2, -1]), "completion id -1"),
        (row("x", steps=[KEPT[0] | {"token_ids": [4, 12]}]), "label id 12"),
        (row("x", steps=[KEPT[0] | {"position": 2}]), "step at position 2 of 2 completion tokens"),
        (row("x", steps=[KEPT[0] | {"weights": [0.5, 0.4]}]), "weights sum to 0.9 instead of 1"),
        (row("x", steps=[KEPT[0] | {"weights": [0.5, float("nan")]}]), "weights sum to nan"),
        (row("x", steps=[KEPT[0] | {"weights": [1.5, -0.5]}]), "a label has the weight -0.5"),
        (row("x", steps=[KEPT[0] | {"weights": [1]}]), "a step with 2 label ids and 1 weights"),
        (row("x", steps=[KEPT[0] | {"token_ids": [4, 4]}]), "a label has id 4 twice"),
        (row("x", steps=KEPT * 2), "two steps at position 1"),
        (row("x", prompt=[1, None]), "a null in prompt_token_ids"),
        (row("x") | {"completion_token_ids": None}, "a null in completion_token_ids"),
        (row("x") | {"steps": None}, "a null in steps"),
        (row("x", steps=[KEPT[0], None]), "a null in steps"),
        (row("x", steps=[KEPT[0] | {"position": None}]), "a null in steps.position"),
        (row("x", steps=[KEPT[0] | {"token_ids": None}]), "a null in steps.token_ids"),
        (row("x", steps=[KEPT[0] | {"weights": [None, 1]}]), "a null in steps.weights"),
    ],
)
def test_a_row_that_cannot_be_trained_on_is_named(tmp_path, bad, message):
    with pytest.raises(StageError) as error:
        read(tmp_path, [row("a")], [row("b"), bad])
    assert message in str(error.value)
    assert "supervision/part-1.parquet: row 2 (problem x)" in str(error.value)
    assert "\n" not in str(error.value)


def test_steps_in_any_order_and_equal_ids_of_other_steps_are_taken(tmp_path):
    steps = [KEPT[0], KEPT[0] | {"position": 0}]
    assert read(tmp_path, [row("a", steps=steps), row("a", steps=steps)]).step_counts.tolist() == [
        2,
        2,
    ]


def test_a_row_without_an_id_is_named(tmp_path):
    with pytest.raises(
        StageError, match=r"part-0.parquet: row 1 \(problem None\): a null in problem_id"
    ):
        read(tmp_path, [row(None)])


@pytest.mark.parametrize(("kl", "said"), [([0.0], "1 KL values for 2 completion"), (None, "a null in kl"), ([0.0, None], "a null in kl")])  # fmt: skip
def test_training_does_not_read_the_kl_and_whoever_does_is_told(tmp_path, kl, said):
    bad = row("x") | {"kl": kl}
    assert len(read(tmp_path, [bad])) == 1
    [batch] = pa.Table.from_pylist([row("a"), bad], schema=SUPERVISION).to_batches()
    with pytest.raises(StageError) as error:
        check_rows(batch, "here", VOCABULARY)
    assert str(error.value).startswith(f"here: row 2 (problem x): {said}")


def test_a_truncated_shard_is_named(tmp_path):
    run = Run(str(tmp_path / "run"))
    run.write_table("supervision/part-0.parquet", pa.Table.from_pylist([row("a")], SUPERVISION))
    path = tmp_path / "run/supervision/part-0.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(StageError, match=r"part-0.parquet: not a whole shard"):
        Supervision(run, VOCABULARY, str(tmp_path))
