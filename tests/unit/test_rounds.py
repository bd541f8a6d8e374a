"""Rounds: what each is asked, when they end, and what is told of them; nothing here starts Ray."""

import json

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.cli.front import run_command
from lr_ray.config import STAGES, Config, merge, read_tree, resolve
from lr_ray.embedded import expert_path
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.results import LABELS, summarise
from lr_ray.experiments import rounds
from lr_ray.experiments.taking import runs_of
from lr_ray.models.models import fingerprint
from lr_ray.pipeline.sharing import share
from lr_ray.problems import INDEX, PROBLEM, count_problems, stage_problems
from lr_ray.report.status import lines, look
from lr_ray.run.asked import begin
from lr_ray.run.rounds import place_of, result_of, round_of
from lr_ray.run.schemas import SUPERVISION
from lr_ray.run.stages import digests
from lr_ray.run.store import Run, read_summary

PROBLEMS = 200
FACTS = {
    "versions": {},
    "models": {name: {"path": name, "fingerprint": name} for name in ("expert", "amateur")},
    "data": {"source": "demo"},
}


def config(**sections) -> Config:
    return resolve(merge(read_tree("demo"), {"rounds": 3} | sections))


def answers(expert: int, improved: int) -> pa.Table:
    """So many of the first problems are right."""
    columns = {"problem_id": [str(i) for i in range(PROBLEMS)], "sample": [0] * PROBLEMS}
    columns |= {name: ["x"] * PROBLEMS for name in ("problem", "expected")}
    for label, right in zip(LABELS, (expert, improved), strict=True):
        columns[f"{label}_correct"] = [i < right for i in range(PROBLEMS)]
        columns |= {f"{label}_{n}": ["12"] * PROBLEMS for n in ("completion", "answer", "verdict")}
        columns[f"{label}_finish_reason"] = ["stop"] * PROBLEMS
    return pa.table(columns)


def played(run: Run, asked: Config, number: int, right: tuple[int, int] | None) -> dict:
    """A round as its pipeline leaves it, with so many right before and after; None: nothing kept."""
    there = round_of(run, number)
    begin(there, rounds._config(asked, run, number), FACTS)
    kept = 0 if right is None else 25
    part = {"problems": 10, "trajectories": 10, "rejected": 0, "seconds": 1.0}
    summary = {"sampling": part | {"steps_kept": kept, "steps_scored": 100}}
    labels = [{"position": 0, "token_ids": [1, 2], "weights": [0.5, 0.5]}]
    row = {name: [] for name in SUPERVISION.names} | {"problem_id": "a", "finish_reason": "stop"}
    table = pa.Table.from_pylist([row | {"steps": labels if kept else []}], SUPERVISION)
    there.write_table("supervision/part-0.parquet", table)
    if right:
        trained = {"optimizer_steps": 1, "trained_steps": 1, "distinct_steps": 1}
        summary["training"] = trained | {"final_loss": 1.0, "seconds": 1.0}
        there.write_bytes("model/config.json", b"{}")
        there.write_table("evaluation/demo.parquet", answers(*right))
        summary["accuracy"] = {"demo": summarise(answers(*right), LABELS, 0)}
        summary["evaluation"] = {"answers": 2 * PROBLEMS, "seconds": 1.0}
    there.write_json("summary.json", summary | read_summary(there))
    return rounds._write(run, asked, number)


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path / "run"))


def test_the_first_round_is_the_run_itself_and_the_next_take_its_model_and_the_next_problems(run):
    asked = config(data={"skip": 7})
    assert rounds._config(asked, run, 1) == asked
    second, third = (rounds._config(asked, run, n) for n in (2, 3))
    assert (second.models.expert, third.models.expert) == (
        f"{run.root}/model", f"{run.root}/rounds/2/model",
    )  # fmt: skip
    assert second.models.amateur == third.models.amateur == "embedded:amateur"
    assert (second.data.skip, third.data.skip) == (507, 1007)
    assert (second.rounds, second.sampling, second.training) == (1, asked.sampling, asked.training)


def test_the_amateur_can_be_the_expert_before_and_problems_can_be_repeated(run):
    asked = config(models={"amateur_of_rounds": "before"}, data={"repeat_in_rounds": True})
    later = [rounds._config(asked, run, n) for n in (2, 3, 4)]
    assert [c.models.amateur for c in later] == [
        "embedded:expert", f"{run.root}/model", f"{run.root}/rounds/2/model",
    ]  # fmt: skip
    assert [c.data.skip for c in later] == [None] * 3


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_problems_of_the_rounds_are_all_different(run, tmp_path, shuffle):
    file = tmp_path / "problems.jsonl"
    rows = [{"id": f"p{i % 12}", "problem": f"{i % 12} + 1?"} for i in range(20)]  # 12 of them
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"source": str(file), "shuffle": shuffle, "fields": {"id": "id", "answer": None}}
    asked = config(data=data, sampling={"max_problems": 4})
    assert count_problems(asked, 99) == 12
    taken = []
    for number in (1, 2, 3):
        there = round_of(run, number)
        assert stage_problems(there, rounds._config(asked, run, number)) == 4
        staged = there.read_tables(there.shards("problems"), PROBLEM)
        taken += staged["problem_id"].to_pylist()
    assert sorted(taken) == sorted(f"p{i}" for i in range(12))
    assert (taken == [f"p{i}" for i in range(12)]) is not shuffle


def test_a_source_that_is_too_small_is_told_before_anything_starts(run, tmp_path, capsys):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i}?"}) + "\n" for i in range(11)))
    command = ["run", "--config", "demo", "--run", run.location, "--rounds", "3"]
    command += ["--data.source", str(file), "--sampling.max_problems", "4"]
    assert run_command(command) == 2
    assert capsys.readouterr().err == (
        f"error: rounds = 3: data.source {file} has 11 usable problems, and rounds of "
        "sampling.max_problems = 4 each need 12; give a smaller max_problems, fewer rounds or "
        "--data.repeat_in_rounds true\n"
    )
    assert not run.exists("")


def test_a_source_is_counted_anew_where_the_rounds_problems_would_be_others(run, tmp_path):
    file = tmp_path / "problems.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i}?"}) + "\n" for i in range(11)))
    few, more = (
        config(data={"source": str(file)}, sampling={"max_problems": each}) for each in (3, 4)
    )
    rounds._check(few, run)
    begin(round_of(run, 3), rounds._config(few, run, 3), FACTS)
    stage_problems(round_of(run, 3), rounds._config(few, run, 3))
    file.unlink()
    rounds._check(few, run)  # which they have
    file.write_text("".join(json.dumps({"problem": f"{i}?"}) + "\n" for i in range(11)))
    with pytest.raises(UserError, match=r"has 11 usable problems, and rounds of .* need 12"):
        rounds._check(more, run)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["run", "--run", "memory://there", "--rounds", "2"], "give a path that all nodes see"),
        (["run", "--run", "there", "--rounds", "0"], "greater than or equal to 1"),
        (["compare", "--run", "there", "--rounds", "2"], "rounds = 2: a comparison has one round"),
    ],
)
def test_what_rounds_cannot_be_is_told_in_one_line(tmp_path, monkeypatch, capsys, options, said):
    monkeypatch.chdir(tmp_path)
    assert run_command([*options, "--config", "demo"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert list(tmp_path.iterdir()) == []


def test_runs_of_one_round_have_the_digests_that_they_had_before():
    before = config(rounds=1).model_dump(mode="json")
    older = before | {"models": dict(before["models"]), "data": dict(before["data"])}
    del older["rounds"], older["models"]["amateur_of_rounds"]
    del older["data"]["skip"], older["data"]["repeat_in_rounds"]
    assert config(rounds=1).changes(older) == []
    assert "data.skip" not in config().inputs("trajectories")
    same = config(rounds=1), config(rounds=9, models={"amateur_of_rounds": "before"})
    assert digests(same[0], {}) == digests(same[1], {})
    assert digests(config(data={"skip": 3}), {})["decoding"] != digests(config(), {})["decoding"]


def test_all_rounds_are_told_and_the_last_is_the_result(run):
    asked = config()
    played(run, asked, 1, (100, 150))
    found = played(run, asked, 2, (150, 149))  # fewer, but within the interval
    assert (found["stopped"], result_of(run).location) == (None, round_of(run, 2).location)
    found = played(run, asked, 3, (149, 160))
    assert (found["stopped"], found["result"]) == (None, 3)
    assert read_summary(run)["rounds"] == found
    first, _, third = found["rounds"]
    assert third["accuracy"]["demo"]["difference"] == pytest.approx(0.3)  # 60 of 200 more
    assert third["from_before"]["difference"] == pytest.approx(11 / 200)
    assert first["label_entropy"] == pytest.approx(np.log(2))
    assert first["steps_kept_share"] == 0.25
    page = (run.fs.cat_file(run.path("rounds.md"))).decode()
    assert "| 3     | 25 (25.0%) |          0.69 |           - | 80.0 [73.9, 85.0] |" in page
    assert "Result: the improved expert of round 3.\n" in page
    assert run.exists("rounds.svg")
    assert run.exists("rounds.png")


@pytest.mark.parametrize(
    ("right", "reason"),
    [
        (
            (150, 100),
            "accuracy fell in round 2, -25.0 [-31.0, -19.0] points against the round before",
        ),
        (None, "no step was kept in round 2"),
    ],
)
def test_rounds_end_where_one_falls_or_keeps_nothing_and_the_result_is_that_before(
    run, right, reason
):
    played(run, config(), 1, (100, 150))
    found = played(run, config(), 2, right)
    assert (found["stopped"], found["result"]) == (reason, 1)
    assert result_of(run).location == run.location
    told = lines(look(run))
    assert ("stopped", reason) in told
    assert f"Result: the improved expert of round 1, as {reason}.\n" in rounds.render(found)


def test_a_first_round_that_falls_is_told_as_the_only_result_there_is(run):
    found = played(run, config(), 1, (150, 100))
    reason = "accuracy fell in round 1, -25.0 [-31.0, -19.0] points against the untouched expert"
    assert (found["stopped"], found["result"]) == (reason, 1)
    told = f"Result: the improved expert of round 1, the only one, and worse than the untouched expert: {reason}.\n"
    assert told in rounds.render(found)


def test_a_place_names_the_round_only_where_the_expert_is_the_round_befores(run):
    second, third = round_of(run, 2), round_of(run, 3)
    assert place_of(run, run.path("model")) == ("run", 1)
    assert place_of(second, run.path("model")) == ("run", 2)
    assert place_of(third, second.path("model")) == ("run", 3)
    assert place_of(third, run.path("model")) == ("3", 1)


def test_status_tells_of_each_round_and_is_over_with_the_last(run):
    for number in (1, 2):
        played(run, config(), number, (100, 110))
    found = look(run)
    assert found["finished"] is None
    told = lines(found)
    assert ("round", f"2: {run.location}/rounds/2") in told
    assert sum(label == "accuracy" for label, _ in told) == 2
    played(run, config(), 3, (100, 110))
    assert look(run)["finished"]


def test_a_round_that_was_asked_other_problems_is_not_paired(run):
    played(run, config(), 1, (100, 110))
    there = round_of(run, 2)
    begin(there, rounds._config(config(), run, 2), FACTS)
    table = answers(100, 110)
    column = table.column_names.index("expected")
    changed = table.set_column(column, "expected", [["y"] * PROBLEMS])
    there.write_table("evaluation/demo.parquet", changed)
    said = read_summary(run)
    there.write_json("summary.json", {name: said[name] for name in ("sampling", "accuracy")})
    told = r"rounds/2: was asked other problems of demo than what it is compared with, .*; give another --run$"
    with pytest.raises(StageError, match=told):
        rounds._write(run, config(), 2)


def test_more_rounds_can_be_asked_of_a_finished_run(run):
    played(run, config(rounds=1), 1, (100, 110))
    played(run, config(rounds=2), 1, (100, 110))
    assert run.read_json("run.json")["config"]["rounds"] == 2


def test_a_rerun_keeps_what_is_told_of_finished_rounds(run, monkeypatch):
    for number in (1, 2, 3):
        found = played(run, config(), number, (100, 110))
    page = run.fs.cat_file(run.path(rounds.PAGE))
    monkeypatch.setattr(rounds, "_check", lambda config, run: None)
    monkeypatch.setattr(rounds, "_clear", lambda there, expert, yes: None)

    def finished(asked, there, *_, **__):
        """As `execute` of a run that is finished, but of the second round in a run that was renamed."""
        if there.location.endswith("rounds/2"):
            raise UserError("holds a run with another models.expert")

    monkeypatch.setattr(rounds, "execute", finished)
    with pytest.raises(UserError):
        rounds.run_rounds(config(), run, STAGES, "demo")
    assert read_summary(run)["rounds"] == found
    assert run.fs.cat_file(run.path(rounds.PAGE)) == page
    monkeypatch.setattr(rounds, "execute", lambda *_, **__: 0)
    assert rounds.run_rounds(config(), run, STAGES, "demo") == 0
    assert read_summary(run)["rounds"] == found
    assert rounds.run_rounds(config(rounds=2), run, STAGES, "demo") == 0
    assert result_of(run).location == round_of(run, 2).location


def test_what_is_shared_with_another_run_is_the_first_round_and_a_comparison_is_offered_all(run):
    for number in (1, 2):
        played(run, config(), number, (100, 110))
    other = Run(f"{run.location}-other")
    run.write_json(INDEX, {"problems": 0})
    assert "rounds" not in share(run, other, ["decoding", "scoring", "labelling", "evaluation"])
    assert [r.location for r in runs_of(run)] == [run.location, f"{run.location}/rounds/2"]


def test_a_round_of_another_expert_is_made_again_given_a_yes_alone(run):
    played(run, config(), 1, (100, 110))
    played(run, config(), 2, (100, 110))
    second, expert = round_of(run, 2), str(expert_path())
    asked = second.read_json("run.json")
    with pytest.raises(UserError, match=r"was made from another expert than .* give --yes"):
        rounds._clear(second, expert, yes=False)
    assert second.read_json("run.json") == asked
    rounds._clear(second, expert, yes=True)
    assert not second.exists("")
    rounds._clear(second, expert, yes=False)  # nothing is there
    models = asked["models"] | {"expert": {"path": expert, "fingerprint": fingerprint(expert)}}
    second.write_json("run.json", asked | {"models": models})
    rounds._clear(second, expert, yes=True)
    assert second.exists("run.json")
