"""Supervision made of another run's scores equals what sampling with those settings writes."""

import json
import uuid

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.relabel import label_scores
from lr_ray.labelling.shards import survey
from lr_ray.pipeline.sharing import can_share, share, void
from lr_ray.problems import INDEX, stage_problems
from lr_ray.run.schemas import REJECTED, SCORES, SUPERVISION, lists
from lr_ray.run.stages import SAMPLING
from lr_ray.run.store import Run
from lr_ray.sampling import sample as sampling_stage
from lr_ray.sampling.graph import write_contrast
from lr_ray.sampling.sample import finish
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


def relabel(source: Run, target: Run, asked: Config) -> dict:
    """The sampling part of the target's summary, made of the source's scores."""
    stages = can_share(source, asked, {})
    assert stages[:2] == ["decoding", "scoring"]
    share(source, target, [stage for stage in stages if stage != "labelling"])
    part = finish(target, asked)
    assert part is not None
    return part


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
        {"selection": "entropy:0.3", "plausibility": 0.6},
        {"selection": "quadrant:unsure_close", "plausibility": 0.6},
    ],
)
def test_relabelled_shards_equal_those_of_sampling(source, tmp_path, changed):
    asked = config(**changed)
    direct = write(Run(str(tmp_path / "direct")), asked)
    target = Run(str(tmp_path / "target"))
    part = relabel(source, target, asked)
    equal(contents(target), contents(direct))
    _, facts = survey(direct, PROBLEMS)
    assert {"problems": PROBLEMS, "rejected": facts.rejected}.items() <= part.items()
    assert part["trajectories"] + part["rejected"] == PROBLEMS
    assert part["exchange"] == EXCHANGE
    assert part["seconds"] > 0
    assert target.read_json(INDEX) == source.read_json(INDEX)
    if not changed:
        assert contents(target) == contents(source)
        assert 3 < facts.rejected < 20  # some were spoilt


def test_a_run_is_labelled_again_where_it_is(source):
    before, scores = contents(source), source.shards("scores")
    for asked in (config(kl_threshold=0.0), config(selection="all", labels="expert"), config()):
        void(source, "labelling", {})
        part = finish(source, asked)
    assert contents(source) == before
    assert source.shards("scores") == scores
    assert part["steps_kept"] == survey(source, PROBLEMS)[1].steps_kept


def test_a_run_in_an_object_store_takes_over_another(source):
    target = Run(f"memory://{uuid.uuid4().hex}")
    relabel(source, target, config())
    assert contents(target) == contents(source)


def test_an_interrupted_batch_is_labelled_as_far_as_no_other_did_its_problems(source):
    before = contents(source)
    write_contrast(trajectories().slice(4, 8), source, config(), EXCHANGE)  # of the first shard
    names = source.shards("scores")
    for name in names[1:3]:  # the second is that of the interrupted batch
        source.remove(name.replace("scores", "supervision"))
    source.remove(names[1].replace("scores", "rejected"))
    part = finish(source, config())
    equal(contents(source), before)
    assert part["problems"] == PROBLEMS
    assert source.shards("scores") == [names[0], *names[2:]]


def test_scores_for_a_larger_plausibility_are_sampled_again(source):
    void(source, "labelling", {})
    assert finish(source, config(plausibility=0.1)) is None
    assert source.shards("scores") == []


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"top_k": 7}, []),
        ({"system_prompt": "x"}, []),
        ({"expert": {"dtype": "bfloat16"}}, []),
        ({"method": "rejection"}, []),
        ({"amateur": {"dtype": "bfloat16"}}, ["decoding"]),
        ({"plausibility": 0.1}, ["decoding", "scoring"]),
        ({"batch_size": 7, "max_rejected": 0.5}, list(SAMPLING)),
        ({"rejection": {"samples": 9}}, list(SAMPLING)),  # of another method
    ],
)
def test_what_is_shared_follows_from_what_settings_affect(source, changed, same):
    assert can_share(source, config(**changed), {}) == same


def test_another_model_behind_the_same_name_shares_nothing_of_it(source):
    asked = source.read_json("run.json")
    asked["models"] = {role: {"fingerprint": role} for role in ("expert", "amateur")}
    source.write_json("run.json", asked)
    assert can_share(source, config(), {"expert": "expert"}) == list(SAMPLING)
    assert can_share(source, config(), {"expert": "expert", "amateur": "new"}) == ["decoding"]
    assert can_share(source, config(), {"expert": "new"}) == []


def test_a_source_that_is_not_finished_shares_nothing(source):
    source.write_json("summary.json", {})
    assert can_share(source, config(), {}) == []


def test_scores_that_were_cut_are_no_finished_run(source):
    name = source.shards("scores")[0]
    source.write_table(name, source.read_tables([name], SCORES).slice(1), source.read_facts(name))
    void(source, "labelling", {})
    assert finish(source, config()) is None


def test_scores_whose_footer_another_tool_has_dropped_are_named(source):
    name = source.shards("scores")[0]
    source.write_table(name, source.read_tables([name], SCORES), {})
    source.remove("supervision")
    with pytest.raises(UserError, match=f"{name}: holds something else than .* 'plausibility'"):
        label_scores(source, config().sampling)


def test_too_many_trajectories_without_a_label_fail(source, tmp_path):
    asked = config(selection="all", max_rejected=0.05)
    with pytest.raises(StageError, match=r"of 40 problems were rejected, more than"):
        relabel(source, Run(str(tmp_path / "target")), asked)
    assert json.loads((tmp_path / "target/problems/index.json").read_text())["problems"] == 40


def test_imported_supervision_is_not_thrown_away(source):
    source.write_json("run.json", source.read_json("run.json") | {"data": {"source": "imported"}})
    before = contents(source)
    with pytest.raises(UserError, match="its supervision was imported"):
        void(source, "labelling", {})
    assert contents(source) == before


def test_seconds_are_of_the_problems_that_this_attempt_sampled(source, monkeypatch):
    def rows(work, todo, build, on_activity, engines):
        table = trajectories().take(pa.array(todo))
        shard = write_contrast(table, work.run, work.config, EXCHANGE)
        yield {name: value for name, (value,) in shard.items()}

    monkeypatch.setattr(sampling_stage, "_rows", rows)

    def timed(**given) -> int:
        for folder in ("supervision", "rejected", "scores"):
            for name in source.shards(folder):
                if "-000000032-" in name:
                    source.remove(name)
        ask = (source, config(), str(expert_path()), None, lambda *seen: None)
        return sampling_stage.sample(*ask, **given)["problems_timed"]

    assert timed() == PROBLEMS - 32
    assert timed(trajectories=source.child("other")) == 0
    assert finish(source, config())["problems_timed"] == 0
    for folder in ("supervision", "rejected", "scores"):
        source.remove(folder)
    assert timed() == PROBLEMS


def test_scores_of_larger_batches_are_not_labelled_as_if_they_were_of_small_ones(source, tmp_path):
    target = Run(str(tmp_path / "target"))
    with pytest.raises(UserError, match=r"scores/part-.* has 1\d rows, and selection top:0\.1 chooses among those of a batch of sampling\.batch_size = 8; give the batch size"):  # fmt: skip
        relabel(source, target, config(selection="top:0.1", batch_size=8))
    again = Run(str(tmp_path / "again"))
    assert relabel(source, again, config(selection="top:0.1", batch_size=16))["steps_kept"]
    assert relabel(source, Run(str(tmp_path / "other")), config(selection="all", batch_size=8))["steps_kept"]  # fmt: skip


@pytest.mark.parametrize("column", ["kl", "plausible", "index"])
def test_scores_without_a_column_are_named(source, column):
    name = source.shards("scores")[0]
    facts, table = source.read_facts(name), source.read_tables([name], SCORES)
    source.write_table(name, table.drop_columns([column]), facts)
    source.remove("supervision")
    with pytest.raises(StageError, match=rf"{name}: row 1: a null in {column}; put the run's own"):
        finish(source, config())
