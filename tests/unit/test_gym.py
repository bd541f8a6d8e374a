"""reasoning-gym as source, benchmark and grader; nothing here starts Ray."""

import contextlib
import importlib.util
import itertools
import json
import sys
import threading
from datetime import date, time

import pyarrow as pa
import pytest

from lr_ray.config import Evaluation, merge, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.grading.pool import Graders
from lr_ray.problems import PROBLEM, check_source, gym, stage_problems
from lr_ray.run.schemas import SOLUTIONS
from lr_ray.run.store import Run
from lr_ray.sampling.rejection import keep_right

needs_gym = pytest.mark.skipif(
    importlib.util.find_spec("reasoning_gym") is None,
    reason="needs reasoning_gym: pip install '.[domains]'",
)
with contextlib.suppress(ModuleNotFoundError):
    from lr_ray.grading import gym as verify
SMALL = "coin_flip?max_trials=5"  # so few problems that each seed gives most of them


def config(source, **data):
    return resolve(merge(read_tree("demo"), {"data": {"source": source} | data}))


def texts(parameter, split, seed, count=300):
    return {row["problem"] for row in itertools.islice(gym.rows(parameter, split, seed), count)}


@needs_gym
@pytest.mark.parametrize("name", ["syllogism", "knights_knaves", "gsm_symbolic", SMALL])
def test_what_is_sampled_is_never_held_out_whatever_the_seeds(name):
    held_out = texts(name, "test", 0) | texts(name, "test", 1)
    sampled = texts(name, "train", 0) | texts(name, "train", 1)
    assert held_out
    assert sampled
    assert not held_out & sampled


@needs_gym
def test_problems_are_those_of_the_seed_and_come_to_an_end():
    first, again = (list(gym.rows("leg_counting?size=120", "test", 3)) for _ in range(2))
    assert first == again
    assert len({row["problem"] for row in first}) == 120
    assert texts("leg_counting", "test", 4) != {row["problem"] for row in first}
    assert len(list(gym.rows("family_relationships", "test", 0))) == 500


@needs_gym
def test_a_generator_of_few_problems_ends_in_train_too():
    few = list(gym.rows("count_bits?min_n=1&max_n=40", "train", 0))
    assert 20 < len(few) < 40


@needs_gym
def test_parameters_reach_the_generator():
    row = next(gym.rows("leg_counting?min_animals=1&max_animals=1", "train", 0))
    assert " and " not in row["problem"].split("if you have")[-1]


@needs_gym
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("reasoning_gym:sylogism", "no generator 'sylogism'; did you mean syllogism?"),
        ("reasoning_gym", "no generator ''; there are ab, acre, "),
        ("reasoning_gym:leg_counting?max_animal=5", "leg_counting has no parameter 'max_animal'; did you mean max_animals?"),
        ("reasoning_gym:leg_counting?seed=5", "leg_counting has no parameter 'seed'; there are max_animals, max_instances"),
        ("reasoning_gym:leg_counting?max_animals=five", "max_animals=five: must be of the kind of its default, 10"),
        ("reasoning_gym:leg_counting?max_animals=[", "max_animals=[: must be a YAML value"),
        ("reasoning_gym:leg_counting?max_animals", "max_animals: must be of the kind of its default, 10"),
        ("reasoning_gym:leg_counting?max_animals=1", "leg_counting?max_animals=1: max_animals must be >= min_animals"),
        *((f"reasoning_gym:leg_counting?{part}", f"{part}: must be of the kind of its default, {usual}")
          for part, usual in (("size=0100", 500), ("size=1:30", 500), ("size=1_0", 500), ("max_animals=010", 10))),
        ("reasoning_gym:time_intervals?min_time=8", "min_time=8: must be of the kind of its default, 00:00:00"),
        ("reasoning_gym:time_intervals?min_date=2000-13-01", "min_date=2000-13-01: must be of the kind of its default, 1900-01-01"),
        ("reasoning_gym:polynomial_multiplication?allow_cross_variable_product=yes", "allow_cross_variable_product=yes: must be of the kind of its default, False"),
        ("reasoning_gym:leg_counting?max_animals=!!timestamp x", "max_animals=!!timestamp x: must be a YAML value"),
        ("reasoning_gym:leg_counting?max_animals=!!bool x", "max_animals=!!bool x: must be a YAML value"),
        ("reasoning_gym:leg_counting?size=3&size=4", "leg_counting: size is there twice; give it once"),
        ("reasoning_gym:leg_counting?size=3&max_animals=9&size=3", "leg_counting: size is there twice; give it once"),
        ("reasoning_gym:leg_counting?size=0", "size=0: must be a whole number above 0"),
        *((f"reasoning_gym:{name}", f"{name} makes other problems in each process; take another generator")
          for name in ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note")),
    ],
)  # fmt: skip
def test_a_bad_name_or_parameter_is_told_in_one_line(source, message):
    with pytest.raises(UserError) as error:
        check_source(config(source))
    assert str(error.value).startswith(f"data.source: {source}: {message}")
    with pytest.raises(UserError) as error:
        load_tasks(Evaluation(benchmarks=[source]))
    assert str(error.value).startswith(f"evaluation.benchmarks: {source}: {message}")
    assert "\n" not in str(error.value)


@needs_gym
def test_a_generator_that_never_ends_is_told_in_one_line_and_stopped(monkeypatch):
    monkeypatch.setattr(gym, "_FIRST_S", 1.0)
    before = set(threading.enumerate())
    source = "reasoning_gym:knights_knaves?n_people=60&size=1"
    with pytest.raises(UserError) as error:
        check_source(config(source))
    said = f"data.source: {source}: knights_knaves?n_people=60&size=1: no problem within 1 s; give smaller parameters"
    assert str(error.value) == said
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


@needs_gym
def test_dates_and_times_are_read_as_they_are_written():
    _, given = verify.asked("time_intervals?min_date=2000-01-02&max_time=08:30&size=3")
    assert given == {"min_date": date(2000, 1, 2), "max_time": time(8, 30), "size": 3}


@needs_gym
def test_another_split_is_refused():
    with pytest.raises(UserError, match=r"no split 'dev'; there are 'train' and 'test'"):
        check_source(config("reasoning_gym:syllogism", split="dev"))


def test_without_the_package_its_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "lr_ray.grading.gym", raising=False)
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(UserError, match=r"^data.source: .*pip install '\.\[domains\]'"):
        check_source(config("reasoning_gym:syllogism"))


@needs_gym
def test_an_evaluation_is_graded_by_the_generators_verifier():
    [task] = load_tasks(Evaluation(benchmarks=["reasoning_gym:graph_color?size=4"]))
    assert (task.name, task.kind) == ("reasoning_gym_graph_color_size_4", "reasoning_gym")
    of = [verify.made(*(more[n] for n in ("generator", "seed", "index"))) for more in task.metadata]
    colored = [json.dumps(entry["metadata"]["possible_answer"]) for entry in of]
    one = [json.dumps(dict.fromkeys(json.loads(answer), 1)) for answer in colored]
    said = [f"<answer>{text}</answer>" for text in (colored[0], one[1], colored[2], "none")]
    with Graders(workers=1) as pool:  # whose 5 s a pair do not hold the import
        table = grade(task, {"expert": [Answer(text, "stop") for text in said]}, pool)
    assert table["expert_correct"].to_pylist() == [True, False, True, False]
    assert table["expert_verdict"][1].as_py().startswith("the verifier gives 0")


@needs_gym
@pytest.mark.parametrize(
    ("said", "right"),
    [("{}", True), (r"So \boxed{{{}}}.", True), (r"\boxed{{\text{{{}}}}}", True), ("{}.", True), ('The answer is "{}".', True), ("**{}**", True),
     ("<answer>{}</answer>", True), ("not {}", False)],
)  # fmt: skip
def test_an_answer_is_read_as_models_give_it(said, right):
    row = next(gym.rows("syllogism", "test", 0))
    read = verify.Verifier().read(said.format(row["answer"]), False, row)
    assert verify.Verifier().judge(row["answer"], read, row).correct == right


@needs_gym
def test_rejection_sampling_grades_by_the_verifier_too(tmp_path):
    run = Run(str(tmp_path))
    asked = config("reasoning_gym:leg_counting", shuffle=True)
    asked = asked.model_copy(
        update={"sampling": asked.sampling.model_copy(update={"max_problems": 2})}
    )
    assert stage_problems(run, asked) == 2
    staged = run.read_tables(run.shards("problems"), PROBLEM).to_pylist()
    rows = [
        {
            "index": i,
            "prompt_token_ids": [9],
            "completions": [[i, 1], [i, 0]],
            "finish_reasons": ["stop"] * 2,
        }
        | {name: row[name] for name in ("problem_id", "file", "row", "answer", "metadata")}
        for i, row in enumerate(staged)
    ]

    def decode(ids):
        return f"The answer is {int(staged[ids[0]]['answer']) + ids[1]}."

    kept = keep_right(pa.Table.from_pylist(rows, SOLUTIONS), decode, asked.data.source)
    assert kept.good["completion_token_ids"].to_pylist() == [[0, 0], [1, 0]]
