"""Supervision made of another run's scores equals what sampling with those settings writes."""

import json
import uuid

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.relabel import relabel
from lr_ray.labelling.shards import survey
from lr_ray.problems import INDEX, stage_problems
from lr_ray.run.schemas import REJECTED, SCORES, SUPERVISION, lists
from lr_ray.run.store import Run
from lr_ray.sampling.graph import write_contrast
from tests.unit.test_label import K, batch
from tests.unit.test_stage import with_errors

PROBLEMS = 40
EXCHANGE = {"top_k": K, "expert_vocabulary": 10}


def config(**sampling) -> Config:
    small = {"max_problems": PROBLEMS, "max_rejected": 1.0, "top_k": K, "kl_threshold": 0.3}
    return resolve(merge(read_tree("demo"), {"sampling": small | sampling}))


def trajectories() -> pa.Table:
    """Random steps, some unknown to the amateur, one NaN and two problems with an error."""
    random = np.random.default_rng(0)

    def step():
        p, q = (random.dirichlet([0.7] * 4)[:3] for _ in range(2))
        return tuple(p), tuple(np.where(random.random(3) < 0.15, 0, q))

    with np.errstate(divide="ignore"):
        table = batch([[step() for _ in range(random.integers(1, 12))] for _ in range(PROBLEMS)])
    values = table["amateur_logprobs"].to_pylist()
    values[7][0] = float("nan")
    place = table.schema.get_field_index("amateur_logprobs")
    table = table.set_column(place, "amateur_logprobs", lists(values, pa.float32()))
    table = table.set_column(0, "index", pa.array(range(PROBLEMS)))
    return with_errors(table, *["too long" if i in (3, 21) else None for i in range(PROBLEMS)])


def write(run: Run, sampling: Config) -> Run:
    """What sampling would leave, in shards of 16 problems."""
    stage_problems(run, sampling)
    table = trajectories()
    for start in range(0, PROBLEMS, 16):
        write_contrast(table.slice(start, 16), run, sampling, EXCHANGE)
    run.write_json("run.json", {"schema_version": 1, "config": sampling.model_dump(mode="json")})
    part = {"seconds": 5.0, "exchange": EXCHANGE}
    run.write_json("summary.json", {"sampling": part})
    return run


@pytest.fixture
def source(tmp_path) -> Run:
    return write(Run(str(tmp_path / "source")), config())


def contents(run: Run) -> dict:
    """Every shard's rows and footer, by name."""
    schemas = {"supervision": SUPERVISION, "rejected": REJECTED}
    return {
        name: (run.read_tables([name], schema).to_pylist(), run.read_facts(name))
        for folder, schema in schemas.items()
        for name in run.shards(folder)
    }


def equal(ours: dict, theirs: dict) -> None:
    """Bit by bit, but for the order of the rejected rows of a shard, and their reasons' order."""
    assert ours.keys() == theirs.keys()
    for name, (rows, footer) in ours.items():
        other_rows, other_footer = theirs[name]
        if name.startswith("rejected"):
            key = lambda row: row["problem_id"]  # noqa: E731
            rows, other_rows = sorted(rows, key=key), sorted(other_rows, key=key)
            footer["problems"].sort()
            other_footer["problems"].sort()
        assert footer == other_footer
        assert rows == other_rows


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"kl_threshold": 0.05},
        {"kl_threshold": 2.0, "plausibility": 0.5},
        {"selection": "random", "seed": 3},
        {"selection": "random_within", "labels": "expert"},
        {"selection": "all", "labels": "greedy"},
        {"selection": "all"},
        {"labels": "expert", "plausibility": 0.9},
    ],
)
def test_relabelled_shards_equal_those_of_sampling(source, tmp_path, changed):
    asked = config(**changed)
    direct = write(Run(str(tmp_path / "direct")), asked)
    target = Run(str(tmp_path / "target"))
    part = relabel(source, target, asked.sampling)
    equal(contents(target), contents(direct))
    _, facts = survey(direct, PROBLEMS)
    assert {"problems": PROBLEMS, "rejected": facts.rejected}.items() <= part.items()
    assert part["trajectories"] + part["rejected"] == PROBLEMS
    assert (part["shared_seconds"], part["exchange"]) == (5.0, EXCHANGE)
    assert part["seconds"] > 0
    assert target.read_json(INDEX) == source.read_json(INDEX)
    if not changed:
        assert contents(target) == contents(source)
        assert 3 < facts.rejected < 20  # some were spoilt


def test_an_object_store_and_a_target_that_was_begun_before(source):
    target = Run(f"memory://{uuid.uuid4().hex}")
    relabel(source, target, config(kl_threshold=0.0).sampling)
    relabel(source, target, config(selection="all", labels="expert").sampling)
    part = relabel(source, target, config().sampling)
    assert contents(target) == contents(source)
    assert part["steps_kept"] == survey(source, PROBLEMS)[1].steps_kept


def test_scores_of_an_interrupted_batch_are_not_used(source, tmp_path):
    before = contents(source)
    table = trajectories().slice(4, 8)  # problems that the first shard holds
    write_contrast(table, source, config(), EXCHANGE)
    name = source.shards("scores")[1]
    source.remove(name.replace("scores", "supervision"))
    source.remove(name.replace("scores", "rejected"))
    target = Run(str(tmp_path / "target"))
    relabel(source, target, config().sampling)
    assert contents(target) == before == contents(source)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"plausibility": 0.1}, "plausibility = 0.1: .* holds scores from 0.2 on"),
        ({"top_k": 7}, "sampling.top_k = 7: .* was sampled with 3"),
        ({"system_prompt": "x"}, "sampling.system_prompt = x: .* was sampled with None"),
        ({"expert": {"dtype": "bfloat16"}}, r"sampling.expert.dtype = bfloat16: .* float32"),
        ({"method": "rejection"}, "sampling.method = rejection: .* was sampled with contrast"),
    ],
)
def test_what_scores_do_not_hold_is_refused_before_anything_is_written(
    source, tmp_path, changed, message
):
    with pytest.raises(UserError, match=message):
        relabel(source, Run(str(tmp_path / "target")), config(**changed).sampling)
    assert not (tmp_path / "target").exists()


def test_a_source_that_is_not_whole_is_refused(source, tmp_path):
    target, sampling = Run(str(tmp_path / "target")), config().sampling
    with pytest.raises(UserError, match="cannot be relabelled into itself"):
        relabel(source, source, sampling)
    name = source.shards("scores")[0]
    kept = source.read_tables([name], SCORES)
    source.write_table(name, kept.slice(1))
    with pytest.raises(StageError, match=f"{name}: lacks 1 of its problems"):
        relabel(source, target, sampling)
    source.remove("scores")
    with pytest.raises(UserError, match="has no scores; sample it again"):
        relabel(source, target, sampling)
    source.write_json("summary.json", {})
    with pytest.raises(UserError, match="sampling is not finished"):
        relabel(source, target, sampling)


def test_too_many_trajectories_without_a_label_fail(source, tmp_path):
    asked = config(selection="all", max_rejected=0.05).sampling
    target = Run(str(tmp_path / "target"))
    with pytest.raises(StageError, match=r"of 40 problems were rejected, more than"):
        relabel(source, target, asked)
    assert json.loads((tmp_path / "target/problems/index.json").read_text())["problems"] == 40
