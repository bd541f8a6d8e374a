"""What is asked: benchmarks, files, examples and the request; nothing here starts an endpoint."""

import datetime
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lr_ray import embedded
from lr_ray.config import Evaluation, Fields
from lr_ray.errors import UserError
from lr_ray.evaluation.client import request
from lr_ray.evaluation.examples import MOST, examples
from lr_ray.evaluation.tasks import load_tasks, parts_of, repeated_rows, task_name, task_names
from lr_ray.grading.judging import is_correct
from lr_ray.grading.reading import extract_answer
from lr_ray.pipeline.evaluation import tell_changed
from lr_ray.run.store import Run
from tests.unit.problem_sources import BENCHMARKS, jsonl, needs_benchmarks

ROWS = {
    "gsm8k": 1319, "math500": 500, "svamp": 1000, "asdiv": 2215, "minerva_math": 272,
    "olympiadbench": 675, "mmlu_stem": 3018,
}  # fmt: skip


def test_demo_is_what_the_generator_gives():
    (task,) = load_tasks(Evaluation(max_problems=3, seed=2))
    assert (task.name, task.kind, task.examples) == ("demo", "demo", ())
    assert list(task.rows) == embedded.generate("heldout", 3, 2)


@needs_benchmarks
def test_each_benchmark_is_read_whole_and_alike():
    tasks = load_tasks(Evaluation(benchmarks=list(ROWS), data_dir=str(BENCHMARKS)))
    assert {task.name: len(task.rows) for task in tasks} == ROWS
    assert {task.name for task in tasks if task.kind == "choice"} == {"mmlu_stem"}
    assert all(row["answer"] and row["problem"] for task in tasks for row in task.rows)


@needs_benchmarks
def test_a_subset_is_drawn_from_everywhere_and_a_smaller_one_is_part_of_it():
    chosen = [
        [row["problem_id"] for row in load_tasks(
            Evaluation(benchmarks=["mmlu_stem"], data_dir=str(BENCHMARKS), max_problems=n, seed=seed)
        )[0].rows]
        for n, seed in ((100, 0), (200, 0), (100, 1))
    ]  # fmt: skip
    everything = [r["problem_id"] for r in load_tasks(
        Evaluation(benchmarks=["mmlu_stem"], data_dir=str(BENCHMARKS))
    )[0].rows]  # fmt: skip
    places = [everything.index(i) for i in chosen[0]]
    assert places == sorted(places)
    assert max(places) > 2000
    assert set(chosen[0]) < set(chosen[1])
    assert set(chosen[0]) != set(chosen[2])


def test_a_file_with_answers_is_a_benchmark(tmp_path):
    path = jsonl(
        tmp_path / "my own.jsonl",
        [{"q": "1+1?", "a": 2, "nr": 7}, {"q": "2+2?", "a": "4", "nr": 8}],
    )
    fields = Fields(problem="q", answer="a", id="nr")
    (task,) = load_tasks(Evaluation(benchmarks=[path], fields=fields))
    assert task.name == "my_own"
    assert task.kind == "math"
    assert [tuple(row.values()) for row in task.rows] == [("7", "1+1?", "2"), ("8", "2+2?", "4")]


@pytest.mark.parametrize("dtype", [pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_says_what_the_same_rows_of_jsonl_say(tmp_path, dtype):
    rows = [
        {"problem": f"{i}?", "answer": letter, "grader": "choice", "level": i, "tags": ["a"]}
        for i, letter in enumerate("AB")
    ]  # fmt: skip
    table = pa.Table.from_pylist(rows)
    graders = table["grader"].cast(dtype)
    pq.write_table(table.set_column(2, "grader", graders), tmp_path / "table.parquet")
    lines = jsonl(tmp_path / "lines.jsonl", rows)
    tasks = load_tasks(Evaluation(benchmarks=[lines, str(tmp_path / "table.parquet")]))
    assert tasks[0].kind == tasks[1].kind == "choice"
    assert tasks[0].metadata == tasks[1].metadata
    assert tasks[1].metadata[1] == {"grader": "choice", "level": 1, "tags": ["a"]}


@pytest.mark.parametrize(
    "values",
    [
        pa.array([b"\xff"]),
        pa.array([b"\xff"], pa.binary(1)),
        pa.array([{"bytes": b"\xff", "path": "a"}]),
        pa.array([[b"\xff"]]),
        pa.array([b"\xff"]).dictionary_encode(),
        pa.array([1], pa.timestamp("ns")),
        pa.array([1], pa.duration("ns")),
        pa.array([datetime.date(2020, 1, 1)]),
    ],
    ids=lambda values: str(values.type),
)
def test_a_column_that_jsonl_could_not_hold_is_left_out(tmp_path, values):
    table = pa.table({"problem": ["1?"], "answer": [1], "other": values})
    pq.write_table(table, tmp_path / "own.parquet")
    (task,) = load_tasks(Evaluation(benchmarks=[str(tmp_path / "own.parquet")]))
    assert task.metadata == ({},)


@pytest.mark.parametrize("other", [pa.string(), pa.list_(pa.string())])
def test_a_column_that_is_not_utf8_is_named(tmp_path, other):
    values = pa.array([b"b\xff"]).view(pa.string())
    if other != pa.string():
        values = pa.ListArray.from_arrays([0, 1], values)
    pq.write_table(
        pa.table({"problem": ["1?"], "answer": [1], "other": values}), tmp_path / "own.parquet"
    )
    with pytest.raises(
        UserError, match=r"^evaluation\.benchmarks: .*own\.parquet.*(row 1|after row 0)"
    ):
        load_tasks(Evaluation(benchmarks=[str(tmp_path / "own.parquet")]))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"problem": "1?", "answer": "1"}, {"problem": "2?"}], r"own\.jsonl, row 2: no answer"),
        ([{"problem": "", "answer": "1"}], r"own\.jsonl, row 1: problem is empty"),
        ([{"question": "1?", "answer": "1"}], r"no field 'problem'.*set evaluation\.fields\.problem"),
        ([{"problem": "1?", "answer": "1", "grader": ["math"]}],
         r"own\.jsonl, row 1: grader is a list; must be a string$"),
        ([{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": "1", "grader": {}}],
         r"own\.jsonl, row 2: grader is an object; must be a string$"),
        ([{"problem": "1?", "answer": "1", "grader": 5}], r"row 1: grader is a number; must be a string$"),
        ([], "no rows"),
        ([{"problem": "1?", "answer": "1"}, {"problem": "2?", "answer": ""}], r"row 2: no answer"),
        ([{"problem": "1?", "answer": " \u200b\u3000"}], r"row 1: no answer"),
        ([{"problem": "1?", "answer": "1"}, {"problem": "1?", "answer": "2"}],
         r"row 2: asks the same as row 1, whose answer is '1' and not '2'; keep the right one"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_be_graded_is_named(tmp_path, rows, message):
    path = jsonl(tmp_path / "own.jsonl", rows)
    with pytest.raises(UserError, match=rf"^evaluation\.benchmarks: .*{message}"):
        load_tasks(Evaluation(benchmarks=[path]))


@pytest.mark.parametrize(
    ("kind", "answer", "right"),
    [
        ("choice", 2, "a letter A to J"),
        ("choice", "twelve", "a letter A to J"),
        ("choice", "K", "a letter A to J"),
        ("choice", "A and C", "a letter A to J"),
        ("number", "a cat", "a number"),
        ("number", "x", "a number"),
        ("demo", "a cat", "a whole number"),
        ("demo", "1/2", "a whole number"),
    ],
)
@pytest.mark.parametrize("by_row", [False, True])
def test_an_answer_that_its_grader_accepts_from_nobody_is_named(
    tmp_path, kind, answer, right, by_row
):
    good = {"problem": "1?", "answer": "B" if kind == "choice" else 1}
    rows = [
        row | {"grader": kind} if by_row else row
        for row in (good, {"problem": "2?", "answer": answer})
    ]
    path = jsonl(tmp_path / "own.jsonl", rows)
    with pytest.raises(UserError) as error:
        load_tasks(Evaluation(benchmarks=[path], grader=None if by_row else kind))
    assert str(error.value) == (
        f"evaluation.benchmarks: {path}, row 2: answer is {str(answer)!r}; must be {right} "
        f"(evaluation.grader {kind})"
    )


@pytest.mark.parametrize(
    ("kind", "answers"),
    [
        ("choice", ["A", "j", "(B)", r"\text{(C)}", "D. five"]),
        (
            "number",
            ["12", "-3.5", "1,234", "3/4", r"\frac{1}{2}", "x = 5", "12 apples", "50%", "twelve"],
        ),
        ("demo", ["12", "-3", "1,234"]),
        ("exact", ["a cat", "2"]),
        ("math", ["a cat", "x+1"]),
    ],
)
def test_an_answer_that_its_grader_can_accept_is_taken(tmp_path, kind, answers):
    rows = [{"problem": f"{i}?", "answer": answer} for i, answer in enumerate(answers)]
    path = jsonl(tmp_path / "own.jsonl", rows)
    (task,) = load_tasks(Evaluation(benchmarks=[path], grader=kind))
    assert [row["answer"] for row in task.rows] == answers


GYM = {"generator": "leg_counting", "seed": 0, "index": 0}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no field 'generator'; must have generator, seed and index"),
        ({k: v for k, v in GYM.items() if k != "index"},
         "no field 'index'; must have generator, seed and index"),
        (GYM | {"generator": None}, "generator is null; must be a string"),
        (GYM | {"seed": "0"}, "seed is a string; must be a whole number"),
        (GYM | {"index": True}, "index is a boolean; must be a whole number"),
    ],
)  # fmt: skip
def test_a_row_that_a_generator_cannot_make_anew_is_named(tmp_path, fields, message):
    pytest.importorskip("reasoning_gym")
    path = jsonl(tmp_path / "own.jsonl", [{"problem": "1?", "answer": "4"} | fields])
    with pytest.raises(UserError) as error:
        load_tasks(Evaluation(benchmarks=[path], grader="reasoning_gym"))
    assert str(error.value) == (
        f"evaluation.benchmarks: {path}, row 1: {message} (evaluation.grader reasoning_gym)"
    )


def test_a_field_grader_is_not_looked_at_where_the_setting_names_one(tmp_path):
    path = jsonl(tmp_path / "own.jsonl", [{"problem": "1?", "answer": "1", "grader": ["A", "B"]}])
    assert load_tasks(Evaluation(benchmarks=[path], grader="number"))[0].kind == "number"


def test_a_row_that_repeats_is_asked_once_and_told(tmp_path):
    rows = [
        {"problem": p, "answer": a} for p, a in (("1?", "1"), ("2?", "2"), ("1? ", " 1"), ("1?", 1))
    ]
    path = jsonl(tmp_path / "own.jsonl", [*rows, {"problem": "3?", "answer": "3"}])
    other = jsonl(tmp_path / "other.jsonl", [{"problem": "4?", "answer": "4"}])
    evaluation = Evaluation(benchmarks=["demo", path, other], max_problems=3)
    tasks = load_tasks(evaluation)
    assert [row["problem"] for row in tasks[1].rows] == ["1?", "2?", "3?"]
    assert repeated_rows(tasks) == {"own": 2}


def test_repeats_are_told_by_their_text_and_not_by_their_id(tmp_path):
    rows = [{"nr": nr, "problem": p, "answer": "1"} for nr, p in ((1, "a?"), (2, "a?"), (3, "b?"))]
    evaluation = Evaluation(
        benchmarks=[jsonl(tmp_path / "own.jsonl", rows)], fields=Fields(id="nr")
    )
    assert [row["problem_id"] for row in load_tasks(evaluation)[0].rows] == ["1", "3"]
    again = jsonl(tmp_path / "again.jsonl", [*rows, {"nr": 3, "problem": "c?", "answer": "1"}])
    with pytest.raises(
        UserError, match=r"again\.jsonl, row 4: has the id '3' of row 3; ids must differ"
    ):
        load_tasks(evaluation.model_copy(update={"benchmarks": [again]}))


@needs_benchmarks
def test_the_rows_of_a_benchmark_are_those_that_others_count():
    evaluation = Evaluation(benchmarks=["asdiv"], data_dir=str(BENCHMARKS))
    tasks = load_tasks(evaluation)
    assert len({row["problem"] for row in tasks[0].rows}) == ROWS["asdiv"] - 1
    assert repeated_rows(tasks) == {}


@pytest.mark.parametrize(
    ("evaluation", "message"),
    [
        (Evaluation(benchmarks=["gsm9k"]), "'gsm9k' is not a known benchmark; did you mean gsm8k"),
        (Evaluation(benchmarks=["no/such.jsonl"]), "no/such.jsonl"),
        (Evaluation(benchmarks=["demo", "demo"]), "demo occurs twice"),
        (Evaluation(benchmarks=["a/x.jsonl", "b/x.parquet"]), "x occurs twice"),
    ],
)
def test_a_benchmark_that_is_not_there_is_named(evaluation, message):
    with pytest.raises(UserError, match=rf"^evaluation\.benchmarks: .*{message}"):
        load_tasks(evaluation)


def test_a_file_of_another_kind_is_told_without_a_list_of_benchmarks(tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("question,answer\n1+1?,2\n")
    with pytest.raises(UserError, match=r"of a kind that is not read; give \.jsonl, [^;]*$"):
        load_tasks(Evaluation(benchmarks=[str(path)]))


def test_a_data_dir_without_the_benchmark_is_named(tmp_path):
    with pytest.raises(UserError, match=r"^evaluation\.data_dir: "):
        load_tasks(Evaluation(benchmarks=["gsm8k"], data_dir=str(tmp_path)))


def test_each_number_of_examples_is_a_task():
    evaluation = Evaluation(benchmarks=["demo"], shots=[0, 2], max_problems=2)
    assert task_names(evaluation) == ["demo", "demo-2-shot"]
    plain, shown = load_tasks(evaluation)
    assert plain.rows == shown.rows
    assert (len(plain.examples), len(shown.examples)) == (0, 2)


@pytest.mark.parametrize(
    "source",
    ["gsm8k", "my-own.set", "mmlu_stem:physics", "d/x-4-shot.jsonl", "y-paper", "z-2-shot-paper"],
)
@pytest.mark.parametrize("shots", [0, 4, 12])
@pytest.mark.parametrize("protocol", ["same", "paper"])
def test_a_tasks_name_is_taken_apart_into_what_it_was_made_of(source, shots, protocol):
    name = task_name(source, shots, protocol)
    asked = Evaluation(benchmarks=["x.jsonl", source, "gsm", "z"])
    assert parts_of(name, asked) == (task_name(source, 0), shots, protocol)
    of_another = task_name("svamp", shots, protocol)
    assert parts_of(of_another, asked) == ("svamp", shots, protocol)


@pytest.mark.parametrize("kind", ["demo", "math", "choice"])
def test_examples_give_their_answer_in_the_form_that_is_read(kind):
    given = examples(kind, MOST)
    assert len({e.problem for e in given}) == MOST
    answers = [extract_answer(e.solution, kind) for e in given]
    assert None not in answers
    if kind == "math":
        assert answers == ["21", "-13", r"\frac{1}{9}", "24", "70", "9", "12", "120"]
    if kind == "choice":
        assert answers == ["C", "A", "B", "D", "B", "D", "A", "C"]
    if kind == "demo":  # the arithmetic that they show is right
        shown = [e.solution.split(". ")[1:-1] for e in given]
        for steps, answer in zip(shown, answers, strict=True):
            for step in steps:
                left, right = step.split("=")
                assert eval(left.replace("/", "//")) == int(right)
            assert is_correct(steps[-1].split("=")[1], answer, "demo")


def test_a_request_is_the_toolkits_conversation():
    evaluation = Evaluation(
        system_prompt="Box it.",
        prefill="So",
        stop=["\n\n"],
        max_new_tokens=9,
        temperature=0.5,
        seed=3,
    )
    body = request("1+1?", evaluation, (2, 5), examples("math", 1), sample=4)
    roles = [(m["role"], m["content"][:6]) for m in body["messages"]]
    assert roles == [
        ("system", "Box it"), ("user", "A bake"), ("assistant", "The ba"), ("user", "1+1?"),
        ("assistant", "So"),
    ]  # fmt: skip
    assert (body["temperature"], body["max_tokens"], body["stop"]) == (0.5, 9, ["\n\n"])
    assert body["seed"] != request("1+1?", evaluation, (2, 5), (), sample=5)["seed"]
    assert body["extra_body"] == {
        "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "stop_token_ids": [2, 5],
        "add_generation_prompt": False, "continue_final_message": True,
    }  # fmt: skip


def test_a_greedy_request_states_every_sampling_field():
    body = request("1+1?", Evaluation())
    assert body["temperature"] == 0
    assert body["extra_body"] == {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
    assert (body["top_p"], body["presence_penalty"], body["frequency_penalty"]) == (1, 0, 0)
    assert (body["n"], body["seed"]) == (1, 0)
    assert [m["role"] for m in body["messages"]] == ["user"]


def test_a_finished_evaluation_tells_that_its_file_holds_other_problems_now(tmp_path, capsys):
    file, run = tmp_path / "mine.jsonl", Run(str(tmp_path / "run"))
    rows = [{"problem": f"What is {i} + 1?", "answer": str(i + 1)} for i in range(3)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluation = Evaluation(benchmarks=["demo", str(file)], shots=[0, 2])
    asked = {"problem": [r["problem"] for r in rows], "expected": [r["answer"] for r in rows]}
    for name in ("mine", "mine-2-shot"):
        run.write_table(f"evaluation/{name}.parquet", pa.table(asked))
    tell_changed(run, evaluation)
    assert capsys.readouterr().out == ""
    file.write_text(json.dumps(rows[0]) + "\n")
    tell_changed(run, evaluation)
    said = f"{run.location}: mine holds other problems now than were asked; give another --run\n"
    assert capsys.readouterr().out == said
    file.unlink()
    tell_changed(run, evaluation)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("reasoning_gym:x?a=1/2&b=3", "reasoning_gym_x_a_1_2_b_3"),
        ("mine:a/b", "mine_a_b"),
        ("a/b.jsonl", "b"),
        ("s3://a/b.jsonl", "b"),
        ("simplecache::https://a/b.parquet", "b"),
    ],
)
def test_a_slash_of_a_parameter_is_no_folder(source, name):
    assert task_name(source, 0) == name


def test_a_name_that_no_file_could_have_is_told_before_anything_is_asked():
    options = "&".join(f"parameter_{i}=10" for i in range(20))
    told = r"results named reasoning_gym_x_.*\.\.\. would have a name of 325 bytes; must have at most 180: "
    with pytest.raises(UserError, match=told):
        task_names(Evaluation(benchmarks=[f"reasoning_gym:x?{options}"]))
