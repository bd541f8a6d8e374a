"""What plugins add, from outside the package: the examples of docs/extending.md, run as they stand there."""

import ast
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from lr_ray import plugins
from lr_ray.cli.front import run_command
from lr_ray.cli.options import parse
from lr_ray.config import Evaluation, Sampling
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.grading.graders import find as find_grader
from lr_ray.grading.pool import Graders
from lr_ray.method.contrast import Labels
from lr_ray.problems import PROBLEM, check_source, stage_problems
from lr_ray.run.store import Run
from lr_ray.sampling.rejection import keep_right
from tests.unit.problem_sources import rejections
from tests.unit.test_label import APART, SAME, UNKNOWN, K, batch, label

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/extending.md").read_text()
EXAMPLES = dict(re.findall(r'```python title="(\w+)\.py"\n(.*?)```', PAGE, re.DOTALL))
MOST_LINES = 25


@pytest.fixture(scope="module", autouse=True)
def examples(tmp_path_factory):
    """The examples as modules of a folder that is the current one, loaded by `--plugins`."""
    folder = tmp_path_factory.mktemp("plugins")
    for name, code in EXAMPLES.items():
        (folder / f"{name}.py").write_text(code)
    before, variable, path = os.getcwd(), os.environ.get(plugins.VARIABLE), list(sys.path)
    os.chdir(folder)
    plugins.load(EXAMPLES)
    yield folder
    os.chdir(before)
    sys.path[:] = path
    if variable is None:
        del os.environ[plugins.VARIABLE]
    else:
        os.environ[plugins.VARIABLE] = variable


def asked(tmp_path, *options: str):
    return parse("a job", ["--config", "demo", "--run", str(tmp_path / "run"), *options])


def test_the_page_has_an_example_of_each_seam_and_each_is_short():
    assert list(EXAMPLES) == ["sums", "unsure", "guided", "anagrams"]
    for name, code in EXAMPLES.items():
        assert len(code.splitlines()) <= MOST_LINES, name
        imported = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.ImportFrom)]
        assert {n.module for n in imported} <= {"lr_ray.plugins", "lr_ray.method.contrast"}
    paths = re.findall(r"`((?:lr_ray|tests)/[^`]+\.py)`", PAGE)
    assert len(paths) == 4
    assert all((ROOT / path).is_file() for path in paths)


def test_a_source_is_staged_and_asked(tmp_path):
    command = asked(tmp_path, "--data.source", "sums:20", "--sampling.max_problems", "5")
    check_source(command.config)
    command.run.create()
    assert stage_problems(command.run, command.config) == 5
    first, *_ = command.run.read_tables(command.run.shards("problems"), PROBLEM).to_pylist()
    a, b = map(int, re.findall(r"\d+", first["problem"]))
    assert max(a, b) <= 20
    assert (first["problem_id"], first["answer"]) == ("train-0", str(a + b))
    assert (first["file"], first["row"]) == ("sums:20", 1)
    evaluation = Evaluation(benchmarks=["sums:99"], max_problems=7)
    [task] = load_tasks(evaluation)
    assert (task.name, task.kind, len(task.rows)) == ("sums_99", "math", 7)
    assert all(row["problem_id"].startswith("test-") for row in task.rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data.source", "sums:x"], "data.source: sums:x: must be sums:BOUND with a whole number"),
        (["--data.source", "sums"], "data.source: sums: must be sums:BOUND"),
        (["--data.source", "demo:9"], "data.source: demo:9: takes no parameter; leave it out"),
        (["--data.source", "smus:20"], r"'smus:20' is no known source .*sums.*needs --plugins MODULE"),
        (["--data.source", "sums:20", "--data.fields.problem", "q"], "data.fields: sums:20 has fields of its own"),
        (["--data.source", "sums:20", "--data.data_dir", "."], "data.data_dir: only a benchmark is read from it"),
        (["--data.grader", "anagarm"], "data.grader: no grader 'anagarm'; did you mean anagram"),
    ],
)  # fmt: skip
def test_a_bad_parameter_of_a_source_is_told_in_one_line(tmp_path, options, message):
    with pytest.raises(UserError, match=message) as error:
        check_source(asked(tmp_path, *options).config)
    assert "\n" not in str(error.value)


ITSELF: dict = {}
ITSELF["itself"] = ITSELF


def unsorted(parameter: str, split: str, seed: int):
    yield {"problem": "a"}
    raise KeyError(parameter)


def test_a_source_that_nothing_could_ask_for_is_refused_where_it_is_registered():
    with pytest.raises(
        ValueError, match=r"'odd:SIZE' has a colon, .* parameter is given; give 'odd'"
    ):
        plugins.sources.register("odd:SIZE")(lambda parameter, split, seed: [])


def test_a_source_of_a_benchmarks_name_is_told_where_it_is_asked_for(tmp_path, monkeypatch):
    registered = dict(plugins.sources._registered)
    monkeypatch.setattr(plugins.sources, "_registered", registered)
    plugins.sources.register("gsm8k")(lambda parameter, split, seed: [{"problem": "a"}])
    told = (
        ": gsm8k is a benchmark, and a plugin registers a problem source of that name too; rename"
    )
    with pytest.raises(UserError, match=f"data.source{told}"):
        check_source(asked(tmp_path, "--data.source", "gsm8k").config)
    with pytest.raises(UserError, match=f"evaluation.benchmarks{told}"):
        load_tasks(Evaluation(benchmarks=["gsm8k"]))
    check_source(asked(tmp_path, "--data.source", "math").config)


@pytest.mark.parametrize(
    ("row", "said"),
    [({("a", 1): 2}, "keys must be str, int"), ({"more": {("a", 1): 2}}, "keys must be str, int"),
     ({"more": ITSELF}, "Circular reference detected")],
)  # fmt: skip
def test_a_row_whose_other_fields_are_no_json_is_rejected(tmp_path, row, said):
    rows = [{"problem": "a"}, {"id": "b", "problem": "b"} | row, row]
    plugins.sources.register(name := f"no json {said} {len(str(row))}")(
        lambda parameter, split, seed: rows
    )
    config = asked(tmp_path, "--data.source", name).config
    check_source(config)
    run = Run(str(tmp_path / "staged"))
    run.create()
    assert stage_problems(run, config) == 1
    bad, other = rejections(run)
    assert bad["problem_id"] == "b"
    assert f"its other fields are not to be had as JSON: {said}" in bad["reason"]
    assert other["reason"].startswith("no field 'problem'; there are ")


@pytest.mark.parametrize(
    ("source", "told"),
    [(lambda parameter, split, seed: None, "after row 0: TypeError: "), (unsorted, "after row 1: KeyError: ''")],
)  # fmt: skip
def test_whatever_a_source_raises_is_told_with_its_row(tmp_path, source, told):
    plugins.sources.register(name := f"raises {source.__name__}")(source)
    with pytest.raises(UserError) as error:
        check_source(asked(tmp_path, "--data.source", name).config)
    assert str(error.value).startswith(f"data.source: {name}: {told}")


def test_a_plugin_that_ends_the_program_is_told(tmp_path, monkeypatch):
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "a_script")
    told = "--plugins a_script: cannot be imported: a_script ends the program; guard that by if __name__"
    with pytest.raises(UserError, match=told):
        plugins.load([])
    monkeypatch.delenv(plugins.VARIABLE)
    with pytest.raises(ValueError, match="a_script ends the program"):
        plugins.selections.check("a_script:rule")


def test_doctor_judges_by_a_config_that_names_what_a_plugin_has(tmp_path, monkeypatch, capsys):
    (tmp_path / "of_doctor.py").write_text(
        "import lr_ray.plugins as p\np.selections.register('by the doctor')(print)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(plugins.VARIABLE, "")  # as it was before, once the test is over
    pair = "models: {expert: embedded:expert, amateur: embedded:amateur}"
    (tmp_path / "mine.yaml").write_text(f"{pair}\nsampling: {{selection: by the doctor}}\n")
    mine = ["doctor", "--config", str(tmp_path / "mine.yaml")]
    assert run_command(mine) == 2
    assert "a plugin's name needs --plugins MODULE" in capsys.readouterr().err
    run_command([*mine, "--plugins", "of_doctor"])
    assert capsys.readouterr().err == ""


def test_rows_of_a_source_are_held_to_what_those_of_files_are(tmp_path):
    rows = [{"problem": "a"}, {"problem": 7}, {"question": "b"}, "c", {"problem": "d", "answer": 2}]
    plugins.sources.register("odd rows")(lambda parameter, split, seed: rows)
    config = asked(tmp_path, "--data.source", "odd rows").config
    check_source(config)
    run = Run(str(tmp_path / "staged"))
    run.create()
    assert stage_problems(run, config) == 2
    index = run.read_json("problems/index.json")
    assert index["rejected"] == 3
    assert index["first_rejected"] == "odd rows, row 2: problem is a number; must be a string"
    message = "evaluation.benchmarks: odd rows, row 1: no answer"
    with pytest.raises(UserError, match=message):
        load_tasks(Evaluation(benchmarks=["odd rows"]))


def kept(table: pa.Table) -> dict[str, list]:
    return {r["problem_id"]: [s["position"] for s in r["steps"]] for r in table.to_pylist()}


def test_a_selection_rule_makes_supervision(tmp_path):
    sampling = asked(tmp_path, "--sampling.selection", "unsure").config.sampling
    trajectories = [[APART, SAME, APART], [SAME, SAME], [SAME, APART]]
    labelled = label(batch(trajectories), sampling, K)
    assert kept(labelled.good) == {"p0": [2], "p1": [], "p2": [1]}
    assert labelled.facts.steps_kept == 2


def test_a_label_rule_makes_supervision(tmp_path):
    sampling = asked(tmp_path, "--sampling.labels", "guided:0.5").config.sampling
    labelled = label(batch([[SAME, APART], [UNKNOWN]]), sampling, K)
    [row] = labelled.good.to_pylist()
    [step] = row["steps"]
    soft = [0.5, 0.4] * np.sqrt([5, 0.5])  # p, and the root of p/q
    assert step["token_ids"] == [7, 8]
    assert step["weights"] == pytest.approx(soft / soft.sum(), abs=1e-5)
    assert labelled.bad["problem_id"].to_pylist() == ["p1"]


def test_a_rule_that_gives_something_else_is_named(tmp_path):
    plugins.selections.register("numbers")(lambda steps: steps.kl)
    plugins.labels.register("too little")(
        lambda steps, keep: type(x := plugins.labels.get("greedy", "")(steps, keep))(
            x.steps, x.offsets, x.token_ids, x.weights / 2
        )
    )
    plugins.labels.register("too much")(
        lambda steps, keep: plugins.labels.get("greedy", "")(steps, ~keep)
    )
    for options, message in (
        (["--sampling.selection", "numbers"], r"selection = numbers: the rule gave float32 of shape"),
        (["--sampling.labels", "too little"], "labels = too little: .*weights that do not sum to 1"),
        (["--sampling.labels", "too much"], "labels = too much: .*labels of steps that are not kept"),
    ):  # fmt: skip
        with pytest.raises(StageError, match=message):
            label(batch([[SAME, APART]]), asked(tmp_path, *options).config.sampling, K)


GREEDY = {"steps": [1], "offsets": [0, 1], "token_ids": [7], "weights": [1.0]}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (None, "None; must be Labels of lr_ray.method.contrast"),
        ({"weights": None}, "weights = None; must be a NumPy array [N] of floats"),
        ({"weights": np.array([1])}, "weights = array([1]); must be a NumPy array [N] of floats"),
        ({"token_ids": np.array([7.0])}, "token_ids = array([7.]); must be a NumPy array [N] of integers"),
        ({"token_ids": np.array([[7]])}, "token_ids = array([[7]]); must be"),
        ({"steps": np.array([9])}, "labels of steps that are not kept"),
        ({"offsets": np.array([], int)}, "a label without a token"),
        ({"offsets": np.array([1, 0], np.uint32)}, "a label without a token"),
        ({"offsets": np.array([0, 2])}, "1 token ids and 1 weights for offsets to 2"),
        ({"weights": np.array([0.5, 0.5])}, "1 token ids and 2 weights for offsets to 1"),
        ({"token_ids": np.array([-1])}, "token ids from -1 to -1; must be from 0 to 2147483647"),
        ({"token_ids": np.array([1 << 31])}, "token ids from 2147483648 to 2147483648; must be"),
        ({"token_ids": np.array([7, 7]), "offsets": np.array([0, 2]), "weights": np.array([0.5, 0.5])},
         "a label with a token twice"),
        ({"token_ids": np.array([7, 8]), "offsets": np.array([0, 2]), "weights": np.array([1.5, -0.5])},
         "the weight -0.5; must be from 0"),
        ({"weights": np.array([np.nan])}, "the weight nan; must be from 0"),
        ({"weights": np.array([2.0])}, "weights that do not sum to 1"),
    ],
)  # fmt: skip
def test_labels_that_are_none_are_told_in_one_line(tmp_path, changed, message):
    fields = {name: np.array(value) for name, value in GREEDY.items()}
    found = None if changed is None else Labels(**fields | changed)
    plugins.labels.register(name := f"none {id(changed)}")(lambda steps, keep: found)
    sampling = Sampling(kl_threshold=0.1, labels=name)
    with pytest.raises(StageError) as error:
        label(batch([[SAME, APART]]), sampling, K)
    assert f"the rule gave {message}" in str(error.value)
    assert "\n" not in str(error.value)


def test_labels_of_wider_types_are_taken(tmp_path):
    wide = Labels(*(np.array(GREEDY[name], np.uint64) for name in ("steps", "offsets", "token_ids")),
                  np.array(GREEDY["weights"]))  # fmt: skip
    plugins.labels.register("wide")(lambda steps, keep: wide)
    sampling = Sampling(kl_threshold=0.1, labels="wide")
    [row] = label(batch([[SAME, APART]]), sampling, K).good.to_pylist()
    assert row["steps"] == [{"position": 1, "token_ids": [7], "weights": [1.0]}]


def test_steps_say_where_they_are_and_how_sure_the_expert_was():
    seen = []
    plugins.selections.register("seen")(lambda steps: seen.append(steps) or steps.kl > 9)
    label(batch([[APART, SAME], [SAME]]), Sampling(selection="seen"), K)
    [steps] = seen
    assert steps.position.tolist() == [0, 1, 0]
    assert steps.trajectory.tolist() == [0, 0, 1]
    plausible = np.array([[0.5, 0.4, 0.1], [0.9, 0.1, 0], [0.9, 0.1, 0]])
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = -np.nansum(plausible * np.log(plausible), axis=1)
    assert steps.entropy == pytest.approx(expected, abs=1e-4)


def test_a_benchmark_is_graded_by_the_grader_of_its_rows():
    [task] = load_tasks(Evaluation(benchmarks=["anagrams"]))
    assert (task.name, task.kind, len(task.rows)) == ("anagrams", "anagram", 3)
    said = ["It is tinsel.", "below", "I do not know"]
    with Graders(workers=1, time_limit_s=60) as pool:
        table = grade(task, {"expert": [Answer(text, "stop") for text in said]}, pool)
    assert table["expert_answer"].to_pylist() == ["tinsel", "below", "know"]
    assert table["expert_correct"].to_pylist() == [True, False, False]


def test_rejection_sampling_grades_by_the_grader_that_data_names():
    plugins.graders.register("last word")(LastWord)
    row = {"index": 0, "problem_id": "p", "file": "a", "row": 1, "answer": "no", "error": None}
    row |= {"prompt_token_ids": [9], "completions": [[1], [2]], "finish_reasons": ["stop"] * 2}
    from lr_ray.run.schemas import SOLUTIONS

    table, texts = pa.Table.from_pylist([row], SOLUTIONS), {1: "I say no", 2: "no I say"}
    for grader, right in (("last word", [[1]]), ("exact", [])):
        labelled = keep_right(table, lambda ids: texts[ids[0]], "a.jsonl", grader)
        assert labelled.good["completion_token_ids"].to_pylist() == right


def test_rejection_sampling_grades_each_row_by_the_grader_that_it_names():
    from lr_ray.run.schemas import SOLUTIONS

    row = {"file": "words", "row": 1, "answer": "no", "error": None, "prompt_token_ids": [9]}
    row |= {"completions": [[1], [2]], "finish_reasons": ["stop"] * 2}
    plugins.graders.register("the last word")(LastWord)
    graders = ("exact", "the last word", None)
    rows = [
        row | {"index": i, "problem_id": f"p{i}", "metadata": grader and json.dumps({"grader": grader})}
        for i, grader in enumerate(graders)
    ]  # fmt: skip
    table, texts = pa.Table.from_pylist(rows, SOLUTIONS), {1: "I say no", 2: r"\boxed{no}"}
    found = keep_right(table, lambda ids: texts[ids[0]], "words").good.to_pylist()
    assert [(r["problem_id"], r["completion_token_ids"]) for r in found] == [
        ("p0", [2]), ("p1", [1]), ("p2", [2]),
    ]  # fmt: skip


class LastWord:
    def read(self, completion, cut, metadata):
        return completion.split()[-1]

    def judge(self, expected, extracted, metadata):
        return expected == extracted


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        ("sampling.selection", "kll", "no selection rule 'kll'; did you mean kl? Known: kl, random, random_within, all, top:SHARE, entropy:SHARE, quadrant:NAME, window:FIRST-LAST, first:STEPS, unsure"),
        ("sampling.labels", "mine", "no label rule 'mine'; known: contrast, contrast:TEMPERATURE, expert, greedy, guided:WEIGHT"),
        ("sampling.engine", "sglang", "no inference engine 'sglang'; known: vllm; a plugin's name needs --plugins MODULE"),
        ("training.backend", "fsdp", "no training backend 'fsdp'; known: deepspeed; a plugin's name needs --plugins"),
        ("training.backend", "no_such:Thing", "'no_such:Thing' cannot be imported: No module named 'no_such'"),
        ("sampling.selection", "tpo:0.1", "no selection rule 'tpo:0.1'; did you mean top:SHARE? Known: kl, "),
        ("sampling.selection", "top", "selection rule 'top' needs a parameter: top:SHARE"),
        ("sampling.selection", "top:SHARE", "selection rule 'top:SHARE', top:SHARE: SHARE must be above 0 and at most 1, such as 0.1"),
        ("sampling.selection", "entropy:2", "selection rule 'entropy:2', entropy:SHARE: SHARE must be above 0 and at most 1"),
        ("sampling.selection", "quadrant:Q3", "selection rule 'quadrant:Q3', quadrant:NAME: NAME must be unsure_apart, unsure_close"),
        ("sampling.selection", "window:64-16", "selection rule 'window:64-16', window:FIRST-LAST: must be the first and the last step"),
        ("sampling.selection", "first:0", "selection rule 'first:0', first:STEPS: STEPS must be a whole number above 0, such as 64"),
        ("sampling.selection", "random:3", "selection rule 'random' takes no parameter; leave it out"),
        ("sampling.labels", "contrast:1e-320", "label rule 'contrast:1e-320', contrast:TEMPERATURE: TEMPERATURE must be above 0, at least 0.001 and at most 100, such as 0.5"),
        ("sampling.labels", "contrast:nan", "label rule 'contrast:nan', contrast:TEMPERATURE: TEMPERATURE must be above 0"),
        ("sampling.labels", "contrst", "no label rule 'contrst'; did you mean contrast? Known: "),
        ("sampling.labels", "guided:x", "label rule 'guided:x', guided:WEIGHT: could not convert string to float: 'x'"),
        ("sampling.selection", "unsure:no", "'unsure:no' cannot be imported: module 'unsure' has no attribute 'no'"),
        ("sampling.selection", "os:sep", "selection rule 'os:sep' is of type str; must be a function or a class"),
        ("sampling.labels", "json:__name__", "label rule 'json:__name__' is of type str; must be a function"),
        ("sampling.engine", "os:environ", "inference engine 'os:environ' is of type _Environ; must be a"),
        ("training.backend", "sys:path", "training backend 'sys:path' is of type list; must be a function"),
        ("sampling.selection", "os:getcwd", "selection rule 'os:getcwd' cannot be called: too many positional arguments; must take (steps)"),
        ("sampling.labels", "json:dumps", "label rule 'json:dumps' cannot be called: too many positional arguments; must take (steps, keep)"),
        ("training.backend", "json:JSONDecoder", "training backend 'json:JSONDecoder' cannot be called: too many positional arguments; must take (expert, training)"),
        ("sampling.engine", "shutil:copyfile", "inference engine 'shutil:copyfile' cannot be called: too many positional arguments; must take (role, model, config, context, journal)"),
    ],
)  # fmt: skip
def test_an_unknown_name_is_refused_with_those_there_are(tmp_path, option, name, message):
    with pytest.raises(UserError, match=f"^config: {option}: {re.escape(message)}") as error:
        asked(tmp_path, f"--{option}", name)
    assert "\n" not in str(error.value)


def test_an_object_of_a_module_needs_no_registration(tmp_path):
    config = asked(tmp_path, "--sampling.selection", "unsure:unsure").config
    found = plugins.selections.get(config.sampling.selection, "sampling.selection")
    assert found is importlib.import_module("unsure").unsure


def test_a_name_is_taken_once():
    rule = plugins.selections.get("unsure", "")
    assert plugins.selections.register("unsure")(rule) is rule  # as when a module is imported twice
    for name in ("unsure", "kl"):
        with pytest.raises(ValueError, match=f"a selection rule '{name}' is there already"):
            plugins.selections.register(name)(lambda steps: steps.kl > 0)


def test_what_cannot_be_called_is_no_rule():
    for registry in (plugins.sources, plugins.selections, plugins.engines):
        with pytest.raises(ValueError, match=f"^{registry.kind} 'seven' is of type int; must be a"):
            registry.register("seven")(7)
        assert "seven" not in registry.names()
    rules = plugins.Registry("label rule", {"nothing:OF": "json:loads"}, "steps, keep")
    with pytest.raises(
        UserError, match=r"^labels: label rule 'nothing:7' is of type int; must be a"
    ):
        rules.get("nothing:7", "labels")


def test_what_is_registered_must_take_the_arguments_that_it_gets():
    for registry, name, takes in (
        (plugins.sources, "short", "parameter, split, seed"),
        (plugins.labels, "short", "steps, keep"),
        (plugins.labels, "short:OF", "parameter"),
    ):
        message = rf"^{registry.kind} '{name}' cannot be called: .*; must take \({takes}\)$"
        with pytest.raises(ValueError, match=message):
            registry.register(name)(lambda: None)
        assert name not in registry.names()
    one = lambda steps, keep, more=None: None  # noqa: E731
    assert plugins.labels.register("with more")(one) is one


def test_a_graders_methods_must_take_what_they_get():
    class Blind(LastWord):
        def judge(self, expected, extracted):
            return True

    plugins.graders.register("blind")(Blind)
    message = r"^data\.grader: 'blind': judge cannot be called: too many .*; must take \(expected, extracted, metadata\)$"  # fmt: skip
    with pytest.raises(UserError, match=message):
        find_grader("blind", "data.grader")


def test_a_grader_is_an_object_that_need_not_be_called(tmp_path, monkeypatch):
    (tmp_path / "judging.py").write_text(
        "class Same:\n"
        "    def read(self, completion, cut, metadata): return completion\n"
        "    def judge(self, expected, extracted, metadata): return expected == extracted\n"
        "same = Same()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert find_grader("judging:same", "data.grader") is importlib.import_module("judging").same
    with pytest.raises(UserError, match=r"^data\.grader: 'os:sep' is no grader; it must have"):
        find_grader("os:sep", "data.grader")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (None, "--plugins broken: cannot be imported: No module named 'broken'; give a module"),
        ("1 +", "--plugins broken: cannot be imported: invalid syntax"),
        ("import no_such", "--plugins broken: cannot be imported: No module named 'no_such'\n"),
        ("{}['mine']", "--plugins broken: cannot be imported: KeyError: 'mine'\n"),
        ("import lr_ray.plugins as p\np.labels.register('greedy')(print)", "a label rule 'greedy' is there already"),
    ],
)  # fmt: skip
def test_a_plugin_that_cannot_be_imported_is_told_in_one_line(tmp_path, monkeypatch, code, message):
    monkeypatch.setenv(plugins.VARIABLE, "")
    monkeypatch.chdir(tmp_path)
    if code:
        (tmp_path / "broken.py").write_text(code)
    script = "from lr_ray import plugins\ntry: plugins.load(['broken'])\nexcept Exception as e: print(type(e).__name__, e)"
    said = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True).stdout  # fmt: skip
    assert said.startswith("UserError --plugins broken: cannot be imported: ")
    assert message in said
    assert said.count("\n") == 1


def test_an_installed_package_needs_no_option(tmp_path):
    """An entry point is found wherever the package's metadata lie on the path."""
    (tmp_path / "theirs.py").write_text(EXAMPLES["unsure"])
    info = tmp_path / "their_rules-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-rules\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[lr_ray.plugins]\nrules = theirs\n")
    job = [sys.executable, "-c", "import lr_ray.plugins as p; print(p.selections.names())"]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    environment = {k: v for k, v in os.environ.items() if k != plugins.VARIABLE}
    for path, found in ((paths, True), (str(ROOT), False)):
        said = subprocess.run(job, env=environment | {"PYTHONPATH": path}, capture_output=True, text=True, check=True).stdout  # fmt: skip
        assert ("unsure" in said) is found


def test_the_grading_command_knows_a_plugins_grader(examples, tmp_path):
    row = {"expected": "silent", "completion": "tinsel", "kind": "anagram", "word": "listen"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    environment = os.environ | {plugins.VARIABLE: "anagrams", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "lr_ray.grading", str(tmp_path / "rows.jsonl")],
        env=environment, cwd=examples, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout) | {"correct": True, "extracted": "tinsel"} == json.loads(
        done.stdout
    )


def test_rays_workers_are_told_unless_the_jobs_submitter_has_told_them(monkeypatch):
    monkeypatch.setenv(plugins.VARIABLE, "sums, unsure")
    assert plugins.runtime_env() == {"env_vars": {plugins.VARIABLE: "sums,unsure"}}
    submitted = json.dumps({"runtime_env": {"env_vars": {plugins.VARIABLE: "sums"}}})
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", submitted)
    assert plugins.runtime_env() == {}
    monkeypatch.setenv(plugins.VARIABLE, "")
    assert plugins.runtime_env() == {}
