"""The pages of a comparison and of a probe, and of other kinds of evaluations, read without a browser."""

import random

import pytest

from lr_ray.config import EndpointConfig, Evaluation, Sampling, merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.evaluation.examples import examples
from lr_ray.evaluation.results import summarise
from lr_ray.experiments.plot import draw
from lr_ray.pipeline.evaluation import evaluate_endpoint
from lr_ray.report import page, probe, write_page
from lr_ray.report.page.asked import _kind
from lr_ray.report.pair import compatibility
from lr_ray.run.schemas import SCORES
from lr_ray.run.store import Run, read_summary
from tests.made_up import THRESHOLD, answers, made_up
from tests.unit.page.dom import answers_in, by_id, of_class, read, said, table
from tests.unit.problem_sources import jsonl
from tests.unit.test_client import endpoint
from tests.unit.test_comparison import DEMO, compared

__all__ = ["compared", "endpoint"]  # fixtures


@pytest.fixture
def comparison(compared):
    run, _, content = compared
    run.write_json("run.json", {"config": DEMO.model_dump(mode="json")})
    run.write_json("grid.json", {"grid": "threshold"})
    run.write_bytes("variants/low-0/report.html", b"")
    page.write_comparison(run, content, {"demo": draw(content, "demo")["svg"]})
    return read(run.fs.cat_file(run.path(page.COMPARISON)).decode())


def test_a_comparison_has_a_row_and_an_interval_for_each_variant(comparison):
    head, *found = table(comparison, "Each variant")
    assert head[3:5] == ["minus expert, points [95 %]", "minus low, points [95 %]"]
    rows = {row[0]: row[1:] for row in found}
    assert list(rows) == ["1 low", "2 high", "3 equal", "4 prefilled"]
    assert [row[3].partition(" ")[0] for row in rows.values()] == ["", "-37.5", "-37.5", "+12.5"]
    rows = {name[2:]: row for name, row in rows.items()}
    assert rows["low"][:2] == ["62.5%", "75.0% 50.0%"]
    assert rows["low"][2].startswith("+37.5 [+")
    lead = said(of_class(comparison, "lead")[0])
    assert lead.startswith("Grid mine, 4 variants, 2 seeds (0, 1); 4 problems of demo, ")
    assert rows["low"][-1] == "14"  # 10 s of sampling, 3.5 s of training
    (forest,) = [
        svg
        for svg in of_class(comparison, "chart")
        if svg.get("aria-label").startswith("Difference")
    ]
    assert all(f"{name} " in forest.get("aria-label") for name in rows)


def test_a_comparison_shows_its_sweep_what_accuracy_costs_and_what_failed(comparison):
    said_of = [svg.get("aria-label") for svg in of_class(comparison, "chart")]
    assert any(label.startswith("The sweep on demo") for label in said_of)
    (tokens,) = [s for s in said_of if s.startswith("Accuracy on demo against tokens trained on")]
    assert "low 32, 62.5%" in tokens
    assert any("against seconds of sampling and training" in label for label in said_of)
    assert "equal-1 failed: loss is nan at step 3" in said(comparison)
    links = [a.get("href") for a in comparison.iter("a")]
    assert [link for link in links if not link.startswith("#")] == ["variants/low-0/report.html"]
    command = said(next(by_id(comparison, "reproduce").iter("pre")))
    assert command.startswith("lr-ray compare --config demo --grid threshold --run ")


def test_a_comparison_of_one_variant_says_so(compared):
    run, _, content = compared
    run.write_json("run.json", {"config": DEMO.model_dump(mode="json")})
    one = content | {"variants": {"low": content["variants"]["low"]}}
    page.write_comparison(run, one, {})
    root = read(run.fs.cat_file(run.path(page.COMPARISON)).decode())
    assert said(of_class(root, "lead")[0]).startswith("Grid mine, 1 variant, 2 seeds (0, 1); ")


def test_with_one_seed_no_column_says_its_accuracy_again(compared):
    run, _, content = compared
    run.write_json("run.json", {"config": DEMO.model_dump(mode="json")})
    rows = content["variants"].items()
    one = {name: row | {"runs": row["runs"][:1]} for name, row in rows}
    page.write_comparison(run, content | {"variants": one}, {})
    root = read(run.fs.cat_file(run.path(page.COMPARISON)).decode())
    head, *found = table(root, "Each variant")
    assert head[1:4] == ["accuracy", "minus expert, points [95 %]", "minus low, points [95 %]"]
    assert {len(row) for row in found} == {len(head)}
    text = said(by_id(root, "comparison"))
    assert "mean of the seeds" not in text
    assert "beside it" not in text


def test_a_sweep_takes_the_pages_colours(comparison):
    sweep = next(
        s for s in of_class(comparison, "chart") if s.get("aria-label").startswith("The sweep")
    )
    styles = " ".join(e.get("style", "") for e in sweep.iter())
    assert "var(--new)" in styles
    assert "#" not in styles.replace("url(#", "")


def test_a_probe_has_its_verdict_accuracies_and_trajectories(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=6)
    scores = run.read_tables(run.shards("scores"), SCORES)
    figures = probe.figures(scores, Sampling(kl_threshold=THRESHOLD))
    model = {"accuracy": 0.5, "accuracy_ci95": [0.3, 0.7]}
    accuracy = {
        "problems": 6, "models": {"expert": model, "amateur": model}, "gap": 0.25, "gap_ci95": [0.1, 0.4],
    }  # fmt: skip
    verdict, why = probe.verdict(figures, accuracy)
    found = {
        "pair": compatibility(str(expert_path()), str(amateur_path())),
        "figures": figures,
        "accuracy": accuracy,
        "cost": {
            "problems": 500, "sampling_s": 90.0, "answers": None, "evaluation_s": None, "hours": 0.1,
            "hours_of": "CPU", "probe_problems": 6, "probe_s": 9.0,
        },
        "verdict": verdict,
        "why": why,
    }  # fmt: skip
    page.write_probe(run, {"sampling": summary["sampling"]}, found)
    root = read((tmp_path / page.PROBE).read_text())
    names = [section.get("id") for section in root.iter("section")]
    assert names == ["verdict", "contrast", "kept", "cost", "asked", "reproduce"]
    text = said(by_id(root, "verdict"))
    assert text.startswith(f"Verdict {verdict}: {why}.")
    assert "+25.0 points above the amateur" in text
    assert "at most 90 s for 500 problems" in text
    assert said(next(by_id(root, "reproduce").iter("pre"))).startswith("lr-ray probe --config demo")


def test_an_endpoints_models_are_each_compared_with_the_first(tmp_path):
    run, made = Run(str(tmp_path)), answers(8, 5, random.Random(0))
    names = {"expert": "a", "improved": "b"}
    columns = [
        next((c.replace(old, new, 1) for old, new in names.items() if c.startswith(f"{old}_")), c)
        for c in made.column_names
    ]
    made = made.rename_columns(columns)
    for part in ("completion", "answer", "correct", "verdict", "finish_reason"):
        made = made.append_column(f"c_{part}", made[f"a_{part}"])
    run.write_table("evaluation/math-4-shot.parquet", made)
    config = {
        "endpoint": "http://there/v1",
        "models": ["a", "b", "c"],
        "evaluation": {"benchmarks": ["math"]},
    }
    run.write_json("run.json", {"config": config})
    summary = {
        "accuracy": {"math-4-shot": summarise(made, ["a", "b", "c"], 0)},
        "evaluation": {"answers": 24, "seconds": 3.0},
        "seconds_total": 4.0,
    }
    write_page(run, summary)
    root = read((tmp_path / page.PAGE).read_text())
    assert [section.get("id") for section in root.iter("section")] == [
        "outcome",
        "answers",
        "cost",
        "asked",
        "reproduce",
    ]
    counts = table(root, "Problems by what")[1:]
    assert counts == [
        ["math-4-shot", "b", "4", "2", "1", "1"],
        ["math-4-shot", "c", "0", "0", "5", "3"],
    ]
    assert [task["labels"] for task in answers_in(root)] == [["a", "b", "c"]]
    assert said(by_id(root, "asked")).count("[assistant]") == 4
    assert "--endpoint http://there/v1 --models a,b,c" in said(by_id(root, "reproduce"))


def test_a_base_model_asked_as_the_paper_asks_has_its_own_prompt_beside_the_others(tmp_path):
    run, made = Run(str(tmp_path)), answers(4, 5, random.Random(0))
    asked = made_up(run, problems=4, trajectories=2)
    part = summarise(made, ["expert", "improved"], 0)
    for name in ("gsm8k-2-shot", "gsm8k-paper"):
        run.write_table(f"evaluation/{name}.parquet", made)
    conditions = {
        "expert": "completion",
        "completion": "Question: {question}",
        "stop_token_ids": [0],
    }
    summary = {
        "accuracy": {"gsm8k-2-shot": part, "gsm8k-paper": {**part, "protocol": "paper"}},
        "evaluation": {**asked["evaluation"], "conditions_paper": conditions},
    }
    write_page(run, summary)
    root = read((tmp_path / page.PAGE).read_text())
    prompts = {
        said(d.find("summary")): "".join(d.find("pre").itertext()) for d in root.iter("details")
    }
    raw, shown = prompts["gsm8k-paper, the expert"], prompts["gsm8k-2-shot"]
    assert raw.startswith("Question: <i>0</i>?")
    assert raw.endswith("\nAnswer: ")
    assert prompts["gsm8k-paper"].startswith("<|im_start|>system")
    assert shown.count("<|im_start|>assistant") == 3  # two worked examples, and the answer to come
    text = said(by_id(root, "asked"))
    assert "Asked alike, in the evaluation" in text
    assert "Asked as the paper asked, in the evaluation" in text
    accuracy = [
        svg for svg in of_class(root, "chart") if svg.get("aria-label").startswith("Accuracy")
    ]
    assert len(accuracy) == 1  # of both tasks
    assert "gsm8k-paper: improved" in accuracy[0].get("aria-label")


def test_examples_are_of_the_grader_that_a_files_rows_name(endpoint, tmp_path):
    rows = [{"problem": f"{n}? (A) 1 (B) 2", "answer": "B", "grader": "choice"} for n in range(3)]
    path = jsonl(tmp_path / "own.jsonl", rows)
    evaluation = merge(read_tree("demo")["evaluation"], {"benchmarks": [path], "shots": [2]})
    tree = {"endpoint": endpoint.url, "models": ["a"], "evaluation": evaluation}
    run = Run(str(tmp_path / "run"))
    assert evaluate_endpoint(resolve(tree, EndpointConfig), run) == 0
    asked = endpoint.bodies[-1]["messages"]
    assert asked[0]["content"] == examples("choice", 1)[0].problem
    root = read(run.fs.cat_file(run.path(page.PAGE)).decode())
    (prompt,) = [d for d in root.iter("details") if said(d.find("summary")) == "own-2-shot"]
    shown = "".join(prompt.find("pre").itertext())
    assert all(example.problem in shown for example in examples("choice", 2))
    assert read_summary(run)["accuracy"]["own-2-shot"]["kind"] == "choice"
    before = run.fs.cat_file(run.path(page.PAGE))
    run.remove(page.PAGE)  # as where the job was killed before it
    assert evaluate_endpoint(resolve(tree, EndpointConfig), run) == 0
    assert run.fs.cat_file(run.path(page.PAGE)) == before


def test_examples_of_a_benchmarks_part_are_of_the_benchmarks_kind():
    asked = Evaluation(benchmarks=["mmlu_stem:physics", "gsm8k"])
    assert [_kind(name, asked) for name in ("mmlu_stem_physics", "gsm8k", "demo")] == [
        "choice",
        "math",
        "demo",
    ]


def test_tokens_a_second_are_told_where_the_seconds_are_of_all_of_them(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=4)
    for fields, told in (
        ({}, ["decoded and scored", "tokens a second"]),
        ({"problems_timed": 4}, ["decoded and scored", "tokens a second"]),
        ({"problems_timed": 0}, ["decoded and scored"]),
        ({"imported": ["samples.jsonl"]}, ["of imported steps"]),
    ):
        write_page(run, summary | {"sampling": summary["sampling"] | fields})
        text = said_of_cost(tmp_path)
        words = ("decoded and scored", "tokens a second", "of imported steps")
        assert [word for word in words if word in text] == told


def test_the_page_of_an_imported_run_says_nothing_of_a_sampling_that_never_was(tmp_path):
    run = Run(str(tmp_path))
    summary = made_up(run, problems=4, trajectories=4)
    run.remove("scores")
    asked = run.read_json("run.json") | {"data": {"source": "imported"}}
    over = {"data": {"source": "gsm8k"}, "training": {"seed": 5}}
    models = {
        "expert": {"path": "e", "fingerprint": "f"},
        "amateur": {"path": "a", "fingerprint": None},
    }
    run.write_json("run.json", asked | {"config": merge(asked["config"], over), "models": models})
    files = {"imported": ["a.jsonl", "b c.jsonl"]}
    write_page(run, summary | {"sampling": summary["sampling"] | files})
    text = (tmp_path / page.PAGE).read_text()
    root = read(text)
    assert "embedded:amateur" not in text
    assert "supervision imported" in said(root.find("body/header"))
    assert "Limits while sampling" not in said(by_id(root, "asked"))
    reproduce = by_id(root, "reproduce")
    assert "".join(next(reproduce.iter("pre")).itertext()).splitlines() == [
        f"lr-ray import --config demo --samples a.jsonl 'b c.jsonl' --run {run.location} --training.seed 5",
        f"lr-ray train --run {run.location}",
        f"lr-ray evaluate --run {run.location}",
    ]
    for never in ("data.", "sampling.", "amateur", "gsm8k"):
        assert never not in said(reproduce)


def said_of_cost(folder) -> str:
    return said(by_id(read((folder / page.PAGE).read_text()), "cost"))
