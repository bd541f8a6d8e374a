"""Sampled solutions to supervision rows: which are right, and what a shard says of the rest."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from lr_ray.config import merge, read_tree, resolve
from lr_ray.config.sections import Rejection
from lr_ray.engines.engine import Generated
from lr_ray.errors import StageError, UserError
from lr_ray.labelling.label import Facts
from lr_ray.labelling.shards import shard_name, survey, write_shard
from lr_ray.pipeline.job import check
from lr_ray.plugins import sources
from lr_ray.problems import INDEX, PROBLEM, stage_problems
from lr_ray.run.schemas import SOLUTIONS
from lr_ray.run.store import Run
from lr_ray.sampling.rejection import NO_ANSWER, SolutionSampler, check_answers, keep_right
from tests.unit.problem_sources import jsonl

NONE = np.empty((1, 0), np.float32)
EOS, RIGHT, WRONG, BOXED = 0, 1, 2, 3
TEXTS = {EOS: "", RIGHT: "The answer is 7.", WRONG: "The answer is 8.", BOXED: r"so \boxed{7}"}


def decode(token_ids: list[int]) -> str:
    return "".join(TEXTS[token] for token in token_ids)


def batch(*problems) -> pa.Table:
    """Problems as (answer, error, samples); a sample that does not end in EOS ran out of tokens."""
    rows = [
        {
            "index": 5 + i,
            "problem_id": f"p{i}",
            "file": "a.jsonl",
            "row": i + 1,
            "answer": answer,
            "prompt_token_ids": [9, 9],
            "completions": samples,
            "finish_reasons": ["stop" if s[-1] == EOS else "length" for s in samples],
            "error": error,
        }
        for i, (answer, error, samples) in enumerate(problems)
    ]
    return pa.Table.from_pylist(rows, SOLUTIONS)


SOLVED = ("7", None, [[RIGHT, EOS], [WRONG, EOS], [RIGHT], [RIGHT, EOS], [WRONG, RIGHT, EOS]])
UNSOLVED = ("7", None, [[WRONG, EOS], [RIGHT]])


def test_right_finished_solutions_are_kept_once_with_all_of_their_tokens():
    kept = keep_right(batch(SOLVED, UNSOLVED), decode, "demo")
    rows = kept.good.to_pylist()
    assert [row["completion_token_ids"] for row in rows] == [[RIGHT, EOS], [WRONG, RIGHT, EOS]]
    assert {row["problem_id"] for row in rows} == {"p0"}
    assert {row["finish_reason"] for row in rows} == {"stop"}
    assert rows[0]["steps"] == [
        {"position": 0, "token_ids": [RIGHT], "weights": [1.0]},
        {"position": 1, "token_ids": [EOS], "weights": [1.0]},
    ]
    assert np.isnan(rows[1]["kl"]).all()
    assert len(rows[1]["kl"]) == 3
    assert kept.facts == Facts(
        problems=2, trajectories=2, steps_scored=5, steps_kept=5, samples_drawn=7, samples_right=3
    )


def test_answers_are_read_as_the_source_gives_them():
    solutions = batch(("7", None, [[BOXED, EOS]]))
    assert keep_right(solutions, decode, "demo").good.num_rows == 0
    assert keep_right(solutions, decode, "gsm8k").good.num_rows == 1


def test_problems_without_answer_or_with_an_error_are_rejected():
    kept = keep_right(
        batch((None, None, [[RIGHT, EOS]]), ("7", "too long", []), SOLVED), decode, "demo"
    )
    assert kept.bad["reason"].to_pylist() == [NO_ANSWER, "too long"]
    assert (kept.good_index, kept.bad_index) == ([7], [5, 6])
    assert (kept.facts.rejected, kept.facts.samples_drawn) == (2, 5)


@pytest.mark.parametrize("problems", [(SOLVED, UNSOLVED), (UNSOLVED, UNSOLVED)])
def test_a_problem_without_a_right_solution_is_finished(tmp_path, problems):
    run, table = Run(str(tmp_path)), batch(*problems)
    write_shard(run, shard_name(table["index"].to_numpy()), keep_right(table, decode, "demo"), {})
    finished, facts = survey(run, 7)
    assert finished.nonzero()[0].tolist() == [5, 6]
    assert facts == keep_right(table, decode, "demo").facts


def demo(**sections):
    return resolve(merge(read_tree("demo"), {"sampling": {"method": "rejection"}} | sections))


def test_a_source_without_answers_is_refused(tmp_path):
    run = Run(str(tmp_path))
    rows = [("p", "text", None, "a.jsonl", 1, None)]
    columns = [pa.array(c, f.type) for c, f in zip(zip(*rows, strict=True), PROBLEM, strict=True)]
    table = pa.Table.from_arrays(columns, schema=PROBLEM)
    run.write_table("problems/part-00000.parquet", table)
    config = demo(data={"source": "a.jsonl", "fields": {"answer": "solution"}})
    with pytest.raises(UserError, match=r"no problem has an answer.*data.fields.answer = solution"):
        check_answers(run, config)
    check_answers(run, resolve(read_tree("demo")))  # which needs none
    answered = table.set_column(2, "answer", pa.array(["7"]))
    run.write_table("problems/part-00001.parquet", answered)
    check_answers(run, config)


def test_an_answer_that_its_grader_finds_in_no_solution_is_rejected_before_any_is_sampled(tmp_path):
    path = jsonl(
        tmp_path / "a.jsonl", [{"problem": f"p{i}", "answer": a} for i, a in enumerate("7xB")]
    )
    for grader, good, reason in (
        ("number", 1, "row 2: answer is 'x'; must be a number (data.grader number)"),
        ("choice", 1, "row 1: answer is '7'; must be a letter A to J (data.grader choice)"),
        ("exact", 3, None),
    ):
        run = Run(str(tmp_path / grader))
        assert stage_problems(run, demo(data={"source": path, "grader": grader})) == good
        assert run.read_json(INDEX)["first_rejected"] == (reason and f"{path}, {reason}")
    made = demo(data={"source": path, "grader": "reasoning_gym"})
    with pytest.raises(StageError, match="row 1: no field 'generator'; must have generator, seed"):
        stage_problems(Run(str(tmp_path / "made")), made)
    judged = resolve(merge(made.model_dump(mode="json"), {"sampling": {"method": "contrast"}}))
    assert stage_problems(Run(str(tmp_path / "contrast")), judged) == 3  # nothing is graded


def test_a_grader_that_a_sources_row_names_must_be_there(tmp_path):
    for name, said in (("nope", "data.grader: no grader 'nope'"), (5, "its grader is no text")):
        row = {"problem": "p", "answer": "7", "grader": name}
        sources.register(f"graded by {name}")(lambda parameter, split, seed, row=row: [row])
        run = Run(str(tmp_path / str(name)))
        with pytest.raises((UserError, StageError), match=said):
            stage_problems(run, demo(data={"source": f"graded by {name}"}))


def test_no_amateur_is_looked_for():
    config = demo(models={"expert": "embedded:expert", "amateur": "no/such/model"})
    expert, amateur = check(config, ["sampling"])
    assert expert
    assert amateur is None
    too_long = demo(sampling={"method": "rejection", "max_new_tokens": 4000})
    with pytest.raises(UserError, match="leaves no room for a prompt; the expert reads 512 tokens"):
        check(too_long, ["sampling"])


class Recorder:
    """An engine that keeps what it is asked, and answers each with one token."""

    def generate(self, requests, counted=True):
        self.requests = list(requests)
        return [[Generated([EOS], "stop", NONE, NONE)] for _ in requests]


def test_one_greedy_solution_has_a_limit_of_its_own():
    asked = demo(
        sampling={
            "method": "rejection",
            "max_new_tokens": 64,
            "rejection": {"samples": 1, "temperature": 0, "max_new_tokens": 200},
        }
    ).sampling
    engine = Recorder()
    solver = SimpleNamespace(sampling=asked, engine=engine)
    (found,) = SolutionSampler.solve(solver, [("p0", [9, 9])])
    (request,) = engine.requests
    assert (request.max_tokens, request.samples, request.temperature) == (200, 1, 0)
    assert (found.completions, found.finish_reasons) == ([[EOS]], ["stop"])
    unset = asked.model_copy(update={"rejection": Rejection()})
    assert (unset.longest, asked.model_copy(update={"method": "contrast"}).longest) == (64, 64)


def test_several_greedy_solutions_are_refused():
    with pytest.raises(UserError, match=r"sampling\.rejection: samples = 4 greedy solutions would"):
        demo(sampling={"rejection": {"temperature": 0}})
