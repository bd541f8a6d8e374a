"""The files of a comparison: written, shown again, and what is told where some are not there."""

from types import SimpleNamespace

import pytest
from rich.console import Console

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import Answer
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.experiments import compare
from lr_ray.experiments.asking import Replies
from lr_ray.experiments.grid import Grid, Variant
from lr_ray.experiments.plan import make_plan
from lr_ray.experiments.work import Bench, _finish, label_cell
from lr_ray.placement.site import Site
from lr_ray.report.page import PAGE
from lr_ray.run.store import Run, read_summary
from tests.unit.page.dom import by_id, read, said
from tests.unit.test_comparison import DEMO, config_with, finished, variant


def bench(run: Run, grid: Grid, config=DEMO) -> SimpleNamespace:
    return SimpleNamespace(run=run, config=config, grid=grid, plan=make_plan(config, grid))


@pytest.fixture
def untrained_alone(tmp_path) -> tuple[SimpleNamespace, dict[str, str]]:
    """A sweep whose trained variants failed, and why."""
    grid = Grid("mine", [0], [
        variant("low", 0.1), variant("prefilled", 0.1, untrained=True, evaluation={"prefill": "So."}),
    ], "sampling.kl_threshold")  # fmt: skip
    there = bench(Run(str(tmp_path)), grid)
    finished(there.run, there.plan.cells[1], [1, 2], 0)
    return there, {"low-0": "loss is nan at step 3"}


def test_a_sweep_of_an_untrained_variant_alone_has_a_table_and_no_picture(untrained_alone):
    there, failed = untrained_alone
    compare._write(there, failed, 1.0)
    page = there.run.fs.cat_file(there.run.path("comparison.md")).decode()
    assert "- low-0: loss is nan at step 3" in page
    assert there.run.read_json("comparison.json")["failed"] == failed
    assert there.run.exists("comparison.html")
    assert not there.run.exists("comparison.svg")


def test_reasons_are_told_where_the_table_cannot_be_written(untrained_alone):
    there, failed = untrained_alone
    told = "1 of 2 runs failed: low-0: loss is nan at step 3; the table could not be written: ValueError: no"
    with pytest.raises(StageError, match=told), compare._reasons_first(there.plan, failed):
        raise ValueError("no")
    with pytest.raises(ValueError, match="no"), compare._reasons_first(there.plan, {}):
        raise ValueError("no")


def settled(there: SimpleNamespace) -> None:
    """Tells of a comparison that was finished before."""
    assert not compare._stale(there.run, there.grid, there.plan)
    compare._show(there.run, there.grid, there.config)


def test_a_finished_comparison_is_told_without_its_page_and_names_the_files_that_are_there(
    untrained_alone, capsys
):
    there, failed = untrained_alone
    compare._write(there, failed, 1.0)
    page = there.run.fs.cat_file(there.run.path("comparison.md")).decode()
    there.run.remove("comparison.md")
    settled(there)
    told = capsys.readouterr().out
    assert told.startswith(page)
    files = f"{there.run.location}/comparison.md, comparison.json"
    assert told.splitlines()[-1] == f"output     {files}"  # no trained variant, and so no picture
    assert there.run.fs.cat_file(there.run.path("comparison.md")).decode() == page
    for name in ("comparison.svg", "comparison-demo.svg", "comparison-more.svg"):
        there.run.write_bytes(name, b"<svg/>")
    settled(there)
    assert capsys.readouterr().out.splitlines()[-1] == f"output     {files}, comparison.svg"
    there.config = config_with(evaluation={"benchmarks": ["demo", "more.jsonl", "gsm8k"]})
    settled(there)
    said = f"output     {files}, comparison-demo.svg, comparison-more.svg"
    assert capsys.readouterr().out.splitlines()[-1] == said


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("variants", []),
        ("variants", {"low": {"runs": 3}}),
        ("seconds_total", "x"),
        ("seconds_total", None),
    ],
)
def test_a_comparison_json_of_another_form_is_named_in_one_line(untrained_alone, part, value):
    there, failed = untrained_alone
    compare._write(there, failed, 1.0)
    content = there.run.read_json("comparison.json")
    there.run.write_json("comparison.json", content | {part: value})
    said = rf"^{there.run.location}/comparison\.json: holds something else than lr_ray writes there"
    of_variants = (there.grid, there.plan)
    with pytest.raises(UserError, match=said):
        compare._stale(there.run, *of_variants) or compare._seconds_before(there.run)


def test_the_table_has_the_seconds_of_all_commands(untrained_alone):
    there, failed = untrained_alone
    assert compare._seconds_before(there.run) == 0
    compare._write(there, failed, 1.5)
    assert compare._seconds_before(there.run) == 1.5


def graded(folder, config, variant):
    """The run of an untrained variant whose answers are there, and its tasks."""
    grid = Grid("mine", [0], [Variant("a", variant, True, None)], None)
    plan = make_plan(config, grid)
    run, expert = Run(str(folder)), str(expert_path())
    amateurs = {"embedded:amateur": str(amateur_path())}
    there = Bench(
        run, config, grid, plan, expert, amateurs, Console(quiet=True), Site(), None, [], None
    )
    label_cell(there, plan.cells[0])
    tasks = load_tasks(variant.evaluation)
    given = {task.name: [Answer("It is 7.", "stop")] * len(task.rows) for task in tasks}
    _finish(there, plan.cells[0], given, Replies(given, 1.0, 2.0, 5), expert)
    return run.child(plan.cells[0].folder), tasks


@pytest.mark.parametrize("before", [None, "Well,"])
def test_a_prefilled_variants_page_shows_the_experts_prompt_as_it_was_asked(tmp_path, before):
    config = config_with(evaluation={"max_problems": 2, "prefill": before})
    folder, _ = graded(
        tmp_path, config, config_with(evaluation={"max_problems": 2, "prefill": "Step by step."})
    )
    page = read(folder.fs.cat_file(folder.path(PAGE)).decode())
    asked = {
        said(d.find("summary")): "".join(d.find("pre").itertext())
        for d in by_id(page, "asked").iter("details")
    }
    assert list(asked) == ["demo, the expert", "demo, the variant's model"]
    assert asked["demo, the expert"].endswith(f"<|im_start|>assistant\n{before or ''}")
    assert asked["demo, the variant's model"].endswith("<|im_start|>assistant\nStep by step.")


def test_a_variants_run_says_of_its_answers_what_any_run_does(tmp_path):
    evaluation = {"max_problems": 6, "protocol": "both", "grader_check": ["math_verify"], "perturbations": ["names"]}  # fmt: skip
    config = resolve(merge(read_tree("demo"), {"evaluation": evaluation}))
    folder, tasks = graded(tmp_path, config, config)
    summary = read_summary(folder)
    assert list(summary["accuracy"]) == ["demo", "demo-paper"]
    assert summary["accuracy"]["demo-paper"]["protocol"] == "paper"
    assert summary["accuracy"]["demo"]["graders"]["improved"].keys() == {"math_verify"}
    assert summary["perturbations"]["demo"]["names"]["of"] == 6
    assert summary["prompt_alone"]["demo"]["difference"] == 0.0
    found = summary["evaluation"]
    assert found["conditions"]["max_new_tokens"] == 128
    assert found["conditions_paper"]["expert"] == "chat"
    assert (found["answers_timed"], found["seconds"]) == (5, 2.0)
    assert found["answers"] == 2 * sum(len(task.rows) for task in tasks)  # both models', as a run's
    page = read(folder.fs.cat_file(folder.path(PAGE)).decode())
    assert "boxed" in said(by_id(page, "asked"))  # as the paper asks
