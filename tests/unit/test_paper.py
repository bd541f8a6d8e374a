"""The paper's figures, and a run's beside them."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from lr_ray.cli.front import run_command
from lr_ray.config import merge, preset_names, read_tree, resolve
from lr_ray.errors import UserError
from lr_ray.evaluation.statistics import accuracy_interval
from lr_ray.experiments.against import lines, look
from lr_ray.experiments.grid import read_grid
from lr_ray.experiments.paper import paper
from lr_ray.run.store import Run

SETS = list(paper().problems)


def test_averages_are_those_of_their_rows():
    first, second, fifth = (paper().tables[number] for number in ("1", "2", "5"))
    for row in (*first.rows, *fifth.rows):
        figures = [row[name] for name in SETS if name in row]
        assert row["average"] == pytest.approx(np.mean(figures), abs=0.1), row
    for row in second.rows:
        after, before = (
            first.row(expert=row["expert"], model=model)["average"]
            for model in (row["model"], "baseline")
        )
        assert row["gain_points"] == pytest.approx(after - before, abs=0.11), row


def test_tables_that_have_figures_in_common_agree():
    first, fifth = paper().tables["1"], paper().tables["5"]
    for row in fifth.rows:
        model = {"Qwen2.5-0.5B": "LightR", None: "baseline"}.get(row["amateur"])
        if model:
            same = first.row(expert=row["expert"], model=model)
            shared = [name for name in SETS if name in row]
            assert [row[name] for name in shared] == [same[name] for name in shared]
    experts = {row["expert"] for row in first.rows}
    trees = {str(t["models"]["expert"]).split("/")[-1]: t for t in map(read_tree, preset_names())}
    systems = {trees[expert]["evaluation"]["system_prompt"] for expert in experts}
    assert systems == {paper().protocol["system"]}
    assert set(paper().protocol["base"]) < experts


def test_each_table_says_where_it_is_from_and_what_is_missing():
    assert list(paper().tables) == ["1", "2", "5", "6", "7", "8", "prompts"]
    for table in paper().tables.values():
        assert "2510.07962v" in table.source
        assert table.rows or table.missing == "all figures"


def right_of(task: str, label: str) -> int:
    """So many right answers that the paper's figure of the 1.5B model is met."""
    model = {"expert": "baseline", "improved": "LightR"}[label]
    row = paper().tables["1"].row(expert="Qwen2.5-Math-1.5B-Instruct", model=model)
    return round(row[task] / 100 * paper().problems[task])


def part(expert: int, improved: int, problems: int) -> dict:
    models = {}
    for label, right in (("expert", expert), ("improved", improved)):
        scores = np.arange(problems) < right
        models[label] = {
            "accuracy": right / problems,
            "accuracy_ci95": accuracy_interval(scores, 0),
        }
    return {"problems": problems, "models": models}


def run_of(folder: Path, preset: str, accuracy: dict, grid: str | None = None, **over) -> Run:
    config = resolve(merge(read_tree(preset), over))
    if grid:
        config = next(v.config for v in read_grid("ablations", config).variants if v.name == grid)
    run = Run(str(folder))
    run.write_json("run.json", {"schema_version": 1, "config": config.model_dump(mode="json")})
    run.write_json("summary.json", {"training": {}, "accuracy": accuracy})
    return run


def whole(*tasks: str) -> dict:
    return {
        task: part(right_of(task, "expert"), right_of(task, "improved"), paper().problems[task])
        for task in tasks
    }


def verdicts(run: Run) -> dict:
    return {(row["task"], row["model"]): row["verdict"] for row in look(run)["rows"]}


def because(run: Run, model: str = "improved", task: str = "gsm8k") -> list[str]:
    (row,) = (r for r in look(run)["rows"] if (r["model"], r["task"]) == (model, task))
    assert (row["verdict"] == "not comparable") == bool(row["because"])
    return row["because"]


INSTRUCT = "qwen2.5-math-1.5b-instruct"


def test_figures_are_inside_or_outside_the_runs_interval(tmp_path):
    accuracy = whole("gsm8k", "svamp")
    accuracy["gsm8k"] = part(right_of("gsm8k", "expert"), 1000, 1319)
    run = run_of(tmp_path, INSTRUCT, accuracy)
    assert verdicts(run) == {
        ("gsm8k", "expert"): "inside",
        ("gsm8k", "improved"): "outside",
        ("svamp", "expert"): "inside",
        ("svamp", "improved"): "inside",
    }
    row = look(run)["rows"][1]
    assert (row["paper"], row["table"], row["problems"]) == (0.867, "1", 1319)
    assert row["accuracy_ci95"] == accuracy["gsm8k"]["models"]["improved"]["accuracy_ci95"]


def test_an_untouched_base_model_needs_the_papers_prompt_and_a_trained_one_does_not(tmp_path):
    run = run_of(tmp_path, "qwen2.5-math-1.5b", whole("gsm8k", "svamp"))
    (reason,) = because(run, "expert", "svamp")
    assert reason == (
        r"another protocol: the paper asks an untouched base model by 'Question: {question}\nAnswer: '"
    )
    assert because(run, "improved", "svamp") == []
    first = look(run)["rows"][0]  # whose figure under the chat prompt is known
    assert (first["paper"], first["table"], first["verdict"]) == (0.384, "prompts", "outside")
    asked = {"gsm8k-paper": whole("gsm8k")["gsm8k"]}
    assert set(verdicts(run_of(tmp_path, "qwen2.5-math-1.5b", asked)).values()) == {"outside"}


@pytest.mark.parametrize(
    ("over", "expert", "improved"),
    [
        ({"training": {"optimizer_steps": 40}}, [], ["training.optimizer_steps = 40, not 1000"]),
        ({"sampling": {"kl_threshold": 0.1}}, [], ["sampling.kl_threshold = 0.1, not 0.4"]),
        ({"data": {"source": "math"}}, [], ["data.source = 'math', not 'gsm8k'"]),
        ({"evaluation": {"max_new_tokens": 320}}, *[["evaluation.max_new_tokens = 320, not 2048"]] * 2),
        ({"evaluation": {"stop": ["x"]}}, *[["evaluation.stop = ['x'], not []"]] * 2),
        ({"models": {"amateur": "Qwen/Qwen2.5-3B"}}, [],
         ["another amateur, Qwen2.5-3B: the paper has Qwen2.5-0.5B for Qwen2.5-Math-1.5B-Instruct"]),
        ({"training": {"seed": 3, "zero_stage": 3}, "sampling": {"top_k": 1024, "seed": 1},
          "models": {"expert": "models/Qwen2.5-Math-1.5B-Instruct/"}, "evaluation": {"seed": 4}}, [], []),
        ({"rounds": 3, "evaluation": {"perturbations": ["typos"]}}, [], []),
    ],
)  # fmt: skip
def test_what_a_run_did_otherwise_is_named(tmp_path, over, expert, improved):
    run = run_of(tmp_path, INSTRUCT, whole("gsm8k"), **over)
    assert because(run, "expert") == expert
    assert because(run, "improved") == improved


def test_subsets_shots_and_other_sets_are_named(tmp_path):
    accuracy = {"gsm8k": part(90, 90, 100), **whole("mmlu_stem"), "math500": part(5, 5, 500)}
    accuracy["mmlu_stem-5-shot"] = accuracy["mmlu_stem"]
    accuracy["svamp-4-shot"] = part(10, 10, 1000)
    asked = {"benchmarks": ["gsm8k", "mmlu_stem", "math500"], "shots": [0, 5 - 1]}
    run = run_of(tmp_path, INSTRUCT, accuracy, evaluation=asked)
    assert because(run) == ["100 of 1319 problems"]
    assert because(run, task="mmlu_stem") == ["0 worked examples, not 5"]
    assert because(run, task="mmlu_stem-5-shot") == []
    assert because(run, task="math500")[0].startswith(
        "another benchmark, math500: the paper has gsm8k"
    )
    assert because(run, task="svamp-4-shot")[0].startswith(
        "another benchmark"
    )  # it was not asked for


def test_models_are_known_by_their_names_and_none_is_guessed(tmp_path):
    accuracy = whole("gsm8k")
    other = run_of(
        tmp_path, INSTRUCT, accuracy, models={"expert": "Qwen/Qwen2.5-Math-1.5B-instruct"}
    )
    assert because(other, "expert") == because(other, "improved")
    assert because(other)[0].startswith("another expert, Qwen2.5-Math-1.5B-instruct: the paper has")
    assert [row["paper"] for row in look(other)["rows"]] == [None, None]
    fifth = run_of(
        tmp_path,
        "qwen2.5-math-7b",
        accuracy | whole("olympiadbench"),
        models={"amateur": "x/Qwen2.5-1.5B"},
    )
    (row,) = (r for r in look(fifth)["rows"] if (r["model"], r["task"]) == ("improved", "gsm8k"))
    assert (row["paper"], row["table"]) == (0.69, "5")
    assert because(fifth, task="olympiadbench") == ["table 5 has no olympiadbench"]


def test_rejection_sampling_is_held_against_the_papers_sft(tmp_path):
    run = run_of(tmp_path, INSTRUCT, whole("gsm8k"), "paper_sft")
    assert [row["paper"] for row in look(run)["rows"]] == [0.848, 0.854]
    assert because(run) == ["sampling.max_problems = 1000, not 7473"]
    every = {"max_problems": 7473, "rejection": {"max_new_tokens": 512}}
    assert because(run_of(tmp_path, INSTRUCT, whole("gsm8k"), "paper_sft", sampling=every)) == []
    ours = run_of(tmp_path, INSTRUCT, whole("gsm8k"), "sft", sampling=every)
    assert because(ours) == [
        "sampling.rejection.samples = 4, not 1", "training.optimizer_steps = 1000, not 'auto'",
    ]  # fmt: skip


def test_a_run_that_trained_nothing_or_did_not_finish_is_told(tmp_path):
    run = run_of(tmp_path, INSTRUCT, whole("gsm8k"))
    run.write_json("summary.json", {"accuracy": whole("gsm8k")})
    assert because(run) == ["nothing was trained"]
    run.write_json("summary.json", {"training": {}})
    with pytest.raises(UserError, match="evaluation is not finished"):
        look(run)
    run.write_json("grid.json", {})
    with pytest.raises(
        UserError, match=r"holds a comparison; give a variant's run, .*/variants/NAME"
    ):
        look(run)


def test_a_run_of_imported_supervision_is_not_held_to_a_sampling_that_never_was(tmp_path):
    over = {
        "data": {"source": "math"},
        "sampling": {"kl_threshold": 0.1},
        "models": {"amateur": "x"},
    }
    run = run_of(tmp_path, INSTRUCT, whole("gsm8k"), **over)
    run.write_json("run.json", run.read_json("run.json") | {"data": {"source": "imported"}})
    assert because(run, "expert") == []
    reason = "the supervision was imported: how it was made, and by which amateur, is not known"
    assert because(run) == [reason]
    assert look(run)["amateur"] is None
    assert "amateur       not known" in lines(look(run))


def test_the_command_prints_a_table_or_json_and_writes_nothing(tmp_path, capsys):
    run = run_of(tmp_path, "qwen2.5-math-1.5b", whole("svamp"))
    before = sorted(tmp_path.rglob("*"))
    asked = ["compare", "--against", "paper", "--run", str(tmp_path)]
    assert run_command(asked) == 0
    said = capsys.readouterr().out
    assert said.splitlines() == lines(look(run))
    assert re.search(r"\|  68\.8 \| +not comparable: 1 \|", said)
    assert "  1  another protocol: " in said
    assert "README.md of github.com/HKUDS/LightReasoner at commit" in said
    assert run_command([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == look(run)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--config", "demo"], "takes --run alone"),
        (["--grid", "gap"], "takes --run alone"),
        (["--device", "cpu"], "takes --run alone"),
        (["--sampling.kl_threshold", "1"], "was made with another sampling.kl_threshold = 0.4 (now 1.0)"),
    ],
)  # fmt: skip
def test_settings_are_those_of_the_run(tmp_path, capsys, more, said):
    run_of(tmp_path, INSTRUCT, whole("gsm8k"))
    assert run_command(["compare", "--against", "paper", "--run", str(tmp_path), *more]) == 2
    assert said in capsys.readouterr().err
    assert run_command(["compare", "--json", "--config", "demo", "--run", str(tmp_path)]) == 2
    assert "--json: goes with --against" in capsys.readouterr().err


def test_neither_ray_nor_an_engine_is_loaded(tmp_path):
    run_of(tmp_path, INSTRUCT, whole("gsm8k"))
    code = (
        "import sys; from lr_ray.cli.front import run_command as run; "
        f"assert not run(['compare', '--against', 'paper', '--run', {str(tmp_path)!r}]); "
        "print([m for m in ('ray', 'vllm', 'torch', 'transformers') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"
