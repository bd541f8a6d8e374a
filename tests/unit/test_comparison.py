"""What a comparison shares, refuses, counts and draws; nothing here starts Ray."""

import contextlib
import copy
import json
from dataclasses import replace
from pathlib import Path

import pytest

from lr_ray.config import Config, changed, merge, read_tree, resolve
from lr_ray.errors import StageError, UserError
from lr_ray.evaluation.answers import Answer, AnswerStore
from lr_ray.evaluation.evaluate import grade
from lr_ray.evaluation.results import LABELS, summarise
from lr_ray.evaluation.statistics import paired_difference
from lr_ray.evaluation.tasks import Task
from lr_ray.experiments import asking
from lr_ray.experiments.asking import (
    Asked,
    Replies,
    answers_of,
    ask_all,
    beside_expert,
    groups,
    questions_of,
)
from lr_ray.experiments.checks import check_cells, check_kind, settle_sources, unfinished
from lr_ray.experiments.grid import Grid, Variant, read_grid
from lr_ray.experiments.plan import make_plan
from lr_ray.experiments.plot import Axis, axis_of, draw
from lr_ray.experiments.table import collect, points, render
from lr_ray.grading.pool import Graders
from lr_ray.report.page.comparison import _seconds as page_seconds
from lr_ray.run.store import Run

DEMO = resolve(read_tree("demo"))
PROBLEMS = tuple({"problem_id": str(i), "problem": "?", "answer": "1"} for i in range(4))
TASK = Task("demo", "demo", (), PROBLEMS)


def config_with(**sections) -> Config:
    return resolve(merge(DEMO.model_dump(mode="json"), sections))


def variant(name: str, value=None, untrained=False, **sections) -> Variant:
    return Variant(name, config_with(**sections), untrained, value)


def test_sampling_is_shared_where_only_labelling_differs():
    plan = make_plan(DEMO, read_grid("ablations", DEMO))
    of = {cell.name: cell.source for cell in plan.cells}
    for name in ("lightreasoner", "random-steps", "greedy-labels", "all-steps"):
        assert {of[f"{name}-{seed}"] for seed in (0, 1, 2)} == {"base"}
    # Random solutions are drawn for each seed, and shared by the variants that train on them.
    assert all(of[f"sft-{seed}"] == of[f"sft-3x-{seed}"] for seed in (0, 1, 2))
    assert len({of[f"sft-{seed}"] for seed in (0, 1, 2)}) == 3
    assert len({of[f"paper_sft-{seed}"] for seed in (0, 1, 2)}) == 1  # greedy
    equal = plan.source(of["equal-amateur-0"])
    assert equal.trajectories_of == "base"
    assert equal.config.models.amateur == DEMO.models.expert
    assert plan.source("base").rescored
    assert [s.folder for s in plan.sources].index("base") < plan.sources.index(equal)
    assert "prefilled-expert-0" in of
    assert "prefilled-expert-1" not in of  # greedy: another seed would say the same


def test_each_seed_sets_training_and_sampling():
    plan = make_plan(DEMO, Grid("g", [4, 7], [variant("a")]))
    assert [(c.config.training.seed, c.config.sampling.seed) for c in plan.cells] == [
        (4, 4),
        (7, 7),
    ]
    assert [c.folder for c in plan.cells] == ["variants/a-4", "variants/a-7"]
    assert plan.source("base").config == DEMO


def test_the_base_is_sampled_for_the_smallest_plausibility_of_all_that_use_it():
    variants = [
        variant("wide", sampling={"plausibility": 0.05}),
        variant("narrow", sampling={"plausibility": 0.5}),
        variant("other", models={"amateur": "embedded:expert"}, sampling={"plausibility": 0.01}),
        variant("fewer", sampling={"max_problems": 3, "plausibility": 0.3}),
    ]
    plan = make_plan(DEMO, Grid("g", [0], variants))
    of = {c.variant.name: plan.source(c.source).config.sampling.plausibility for c in plan.cells}
    assert of == {"wide": 0.01, "narrow": 0.01, "other": 0.01, "fewer": 0.3}
    fewer = next(c for c in plan.cells if c.variant.name == "fewer")
    assert plan.source(fewer.source).trajectories_of is None  # of other problems


def few_problems(plausibility: float) -> list[Variant]:
    return [variant("c", sampling={"max_problems": 3, "plausibility": plausibility})]


def test_a_source_is_found_again_by_what_it_is(tmp_path):
    one = make_plan(DEMO, Grid("g", [0], [variant("a", sampling={"max_problems": 3})]))
    two = make_plan(DEMO, Grid("h", [0, 1], [variant("b"), *few_problems(0.5)]))
    (source,) = one.sources
    assert source.folder in [s.folder for s in two.sources]
    run = Run(str(tmp_path))
    _asked(run, source.folder, source.config)
    settled = settle_sources(run, Grid("h", [0], []), two).source(source.folder)
    assert settled.config == source.config  # 0.2 as it is there, though 0.5 would do
    other = variant(
        "e",
        sampling={"max_problems": 3, "plausibility": 0.4},
        models={"amateur": "embedded:expert"},
    )
    chained = make_plan(DEMO, Grid("j", [0], [*few_problems(0.5), other]))
    (root,) = [s for s in chained.sources if s.trajectories_of is None]
    assert root.folder == source.folder
    plausibilities = {
        s.config.sampling.plausibility
        for s in settle_sources(run, Grid("j", [0], []), chained).sources
    }
    assert plausibilities == {0.2}  # that of the trajectories that are taken over
    less = Grid("i", [0], [variant("d", sampling={"max_problems": 3, "plausibility": 0.1})])
    with pytest.raises(
        UserError, match=r"grid i: sampling\.plausibility = 0\.1: .* was sampled for 0\.2"
    ):
        settle_sources(run, less, make_plan(DEMO, less))


def _asked(run: Run, folder: str, config: Config, **more) -> None:
    asked = {"schema_version": 1, "config": config.model_dump(mode="json"), "untrained": False}
    Run(run.path(folder)).write_json("run.json", asked | more)


def test_a_variant_whose_settings_changed_is_refused_by_name(tmp_path):
    run = Run(str(tmp_path))
    before = Grid("g", [0], [variant("a"), variant("b", sampling={"kl_threshold": 0.3})])
    for cell in make_plan(DEMO, before).cells:
        _asked(run, cell.folder, cell.config)
    trained = run.child("variants/a-0")  # by `lr-ray train`, which says nothing of untrained ones
    asked = trained.read_json("run.json")
    del asked["untrained"]
    trained.write_json("run.json", asked)
    more = Grid("g", [0, 1], [*before.variants, variant("c", sampling={"selection": "all"})])
    check_cells(run, more, make_plan(DEMO, more))  # new variants and seeds may come
    other = Grid("g", [0], [variant("a"), variant("b", sampling={"kl_threshold": 0.5})])
    with pytest.raises(UserError, match=r"variant b: .*variants/b-0 was made with sampling\.kl_threshold = 0\.3 \(now 0\.5\)"):  # fmt: skip
        check_cells(run, other, make_plan(DEMO, other))
    untrained = Grid("g", [0], [variant("a", untrained=True)])
    with pytest.raises(UserError, match=r"variant a: .* untrained = False \(now True\)"):
        check_cells(run, untrained, make_plan(DEMO, untrained))


def test_an_ordinary_run_is_not_written_into(tmp_path):
    run = Run(str(tmp_path))
    check_kind(run)
    run.write_json("run.json", {})
    with pytest.raises(UserError, match="holds a run, not a comparison"):
        check_kind(run)
    run.write_json("grid.json", {})
    check_kind(run)


def test_two_directories_are_in_memory_at_once_and_each_is_started_once():
    evaluation, prefilled = DEMO.evaluation, DEMO.evaluation.model_copy(update={"prefill": "So."})
    asked = [Asked(p + e, p, p, v) for p, e, v in (
        ("x", "", evaluation), ("y", "", evaluation), ("z", "", evaluation), ("x", "2", prefilled),
    )]  # fmt: skip
    assert [[a.name for a in group] for group in groups(asked, 2, "e")] == [["x", "y", "x2"], ["z"]]


def test_answers_are_found_when_all_are_there_under_any_name(tmp_path):
    evaluation = DEMO.evaluation.model_copy(update={"max_problems": 2})
    amateur = Asked("amateur of a", "dir", "amateur 1", evaluation, True)
    keys = [q.key for q in questions_of(amateur, [2], "model-1")["demo"]]
    said = [Answer("a\n", "stop"), Answer("", "length")]
    with AnswerStore(Run(str(tmp_path))) as store:
        store.add(keys[0], said[0])
        assert answers_of(store, amateur, [2]) is None
        store.add(keys[1], said[1])
    store = AnswerStore(Run(str(tmp_path)))
    assert answers_of(store, amateur, [2]) == {"demo": said}
    assert answers_of(store, replace(amateur, name="b"), [2]) == {"demo": said}
    assert answers_of(store, replace(amateur, identity="amateur 2"), [2]) is None
    prefilled = evaluation.model_copy(update={"prefill": "So."})
    assert answers_of(store, replace(amateur, evaluation=prefilled), [2]) is None


def test_models_are_graded_beside_the_expert_whenever_its_answers_come():
    expert, a, b, c = (Asked(n, n, n, DEMO.evaluation) for n in ("expert", "a", "b", "c"))
    theirs = {
        asked.name: Replies({"demo": [Answer(asked.name, "stop")]}) for asked in (expert, a, b, c)
    }
    for order in ([expert, a, b, c], [a, b, expert, c], [a, b, c, expert]):
        found = list(beside_expert(((asked, theirs[asked.name]) for asked in order), expert))
        assert found == [
            (asked, theirs[asked.name], theirs["expert"].answers) for asked in (a, b, c)
        ]


@pytest.mark.parametrize(
    ("sections", "served"),
    [
        ({}, [["expert", "adapter"], ["x", "y"]]),
        ({"serving": {"adapters": True}}, [["expert", "adapter"], ["x"], ["y"]]),
        ({"resources": {"evaluation": "apart"}}, [["expert", "adapter"], ["x"], ["y"]]),
    ],
)
def test_no_more_models_are_up_than_gpus_were_shared_out_for(
    tmp_path, monkeypatch, sections, served
):
    found, config = [], changed(DEMO, sections)
    evaluation = DEMO.evaluation.model_copy(update={"max_problems": 1})
    pending = [Asked(n, n, n, evaluation) for n in ("expert", "x", "y", "adapter")]

    def endpoint(paths, config, on_waiting):
        found.append(list(paths))
        return contextlib.nullcontext(("", 0.0))

    def answer(url, questions, evaluation, keep, watch):
        for question in questions:
            keep(question, Answer("", "stop"))

    monkeypatch.setattr(asking, "is_adapter", lambda path: path == "adapter")
    monkeypatch.setattr(asking, "_endpoint", endpoint)
    monkeypatch.setattr(asking, "ask", answer)
    with AnswerStore(Run(str(tmp_path))) as store:
        list(ask_all(pending, store, config, [], "expert", lambda done, total: None, print))
    assert found == served


def test_replies_say_how_many_answers_their_seconds_are_of(tmp_path, monkeypatch):
    evaluation = DEMO.evaluation.model_copy(update={"max_problems": 2})
    expert, a, b = (Asked(n, n, n, evaluation) for n in ("expert", "a", "b"))
    untold = lambda done, total: None  # noqa: E731
    monkeypatch.setattr(asking, "_endpoint", lambda *given: contextlib.nullcontext(("", 0.0)))

    def reply(url, questions, settings, keep, watch):
        for question in questions:
            keep(question, Answer("1", "stop"))

    monkeypatch.setattr(asking, "ask", reply)
    with AnswerStore(Run(str(tmp_path))) as store:
        (key, _) = (q.key for q in questions_of(a, [])["demo"])
        store.add(key, Answer("1", "stop"))
        given = list(ask_all([expert, a, b], store, DEMO, [], "expert", untold, print))
        assert [(m.name, r.timed) for m, r in given] == [("expert", 3), ("a", 3), ("b", 2)]
        (_, first), (_, second), _ = given
        assert first.seconds == second.seconds  # whatever was done with the first
        ((_, again),) = ask_all([a], store, DEMO, [], "expert", untold, print)
        assert again.timed == 0


def finished(run: Run, cell, right: list[int], kept_steps: int) -> None:
    """A finished cell: the expert solves the first of four problems, the model those in `right`."""
    there = Run(run.path(cell.folder))
    said = ["The answer is 0.", "The answer is 1."]
    answers = {
        "expert": [Answer(said[i == 0], "stop") for i in range(4)],
        "improved": [Answer(said[i in right], "stop") for i in range(4)],
    }
    with Graders() as graders:
        table = grade(TASK, answers, graders)
    there.write_table("evaluation/demo.parquet", table)
    summary: dict = {"accuracy": {"demo": summarise(table, LABELS, 0)}}
    if cell.source:
        summary["sampling"] = {
            "problems": 5,
            "steps_kept": kept_steps,
            "steps_scored": 40,
            "seconds": 0.1,
        }
    if kept_steps:
        summary["training"] = {
            "optimizer_steps": 2, "distinct_steps": kept_steps, "trained_steps": 32,
            "tokens_forward": 1000 + cell.seed, "seconds": 3.0 + cell.seed,
        }  # fmt: skip
    there.write_json("summary.json", summary)


@pytest.fixture
def compared(tmp_path) -> tuple[Run, Grid, dict]:
    """Content of comparison.json for a sweep of three, two seeds, one of which failed."""
    run = Run(str(tmp_path))
    grid = Grid("mine", [0, 1], [
        variant("low", 0.1),
        variant("high", 1.6, sampling={"kl_threshold": 1.6}),
        variant("equal", 0.4, models={"amateur": "embedded:expert"}),
        variant("prefilled", 0.1, untrained=True, evaluation={"prefill": "So."}),
    ], "sampling.kl_threshold")  # fmt: skip
    plan = make_plan(DEMO, grid)
    for source, seconds in zip(plan.sources, (10.0, 5.0), strict=True):
        Run(run.path(source.folder)).write_json("summary.json", {"sampling": {"seconds": seconds}})
    right = {"low-0": [0, 1, 2], "low-1": [0, 1], "high-0": [0], "high-1": [0], "equal-0": [0]}
    keeps = {"low": 10, "high": 0, "equal": 20, "prefilled": 0}
    for cell in plan.cells:
        if cell.name != "equal-1":
            finished(run, cell, right.get(cell.name, [1, 2, 3]), keeps[cell.variant.name])
    assert [c.name for c in unfinished(run, plan)] == ["equal-1"]
    return run, grid, collect(run, DEMO, grid, plan, {"equal-1": "loss is nan at step 3"})


def test_variants_that_were_asked_other_problems_are_not_paired(compared):
    run, grid, _ = compared
    plan = make_plan(DEMO, grid)
    there = run.child(plan.cells[-1].folder)
    table = there.answers("demo")
    there.write_table("evaluation/demo.parquet", table.slice(1))
    told = f"^{there.location}: was asked other problems of demo than what it is compared with"
    with pytest.raises(StageError, match=told):
        collect(run, DEMO, grid, plan, {"equal-1": "no"})


def test_accuracies_and_costs_are_those_of_the_runs(compared):
    _, _, content = compared
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert content["expert"] == {"demo": {"accuracy": 0.25, "problems": 4}}
    low, high, equal, prefilled = content["variants"].values()
    pooled = low["accuracy"]["demo"]
    assert pooled["accuracy_of_seeds"] == [0.75, 0.5]
    assert (pooled["accuracy"], pooled["difference"]) == (0.625, 0.375)
    assert low["cost"] == {
        "problems": 5, "steps_kept": 10, "steps_kept_share": 0.25, "optimizer_steps": 2,
        "distinct_steps": 10, "trained_steps": 32, "tokens_forward": 1000.5,
        "sampling_seconds": 10.0, "sampling_shared": True, "training_seconds": 3.5,
    }  # fmt: skip
    assert high["cost"]["training_seconds"] is None
    assert high["accuracy"]["demo"]["difference_ci95"] == [0.0, 0.0]
    assert high["settings"] == {"sampling.kl_threshold": 1.6}
    # The trajectories of the base were needed too.
    assert (equal["cost"]["sampling_seconds"], equal["cost"]["sampling_shared"]) == (15.0, True)
    assert [run["failed"] for run in equal["runs"]] == [None, "loss is nan at step 3"]
    assert equal["accuracy"]["demo"]["seeds"] == 1
    assert len(prefilled["runs"]) == 1
    assert prefilled["accuracy"]["demo"]["accuracy"] == 0.75


def test_the_page_can_be_read_as_it_is(compared):
    page = render(compared[2]).splitlines()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in page if line[:1] == "|"]
    second, third = (i for i in range(1, len(rows)) if rows[i][0] == "variant")
    head, _, *rest = rows[:second]
    table = {row[0]: dict(zip(head[1:], row[1:], strict=True)) for row in rest}
    assert list(table) == ["expert, untouched", "low", "high", "equal", "prefilled"]
    assert table["expert, untouched"]["accuracy"] == "25.0 %"
    assert table["low"]["each seed"] == "75.0 50.0"
    assert table["low"]["minus expert [95 %]"].startswith("+37.5 [+")
    assert table["low"]["steps kept"] == "10 (25.0 %)"
    assert table["low"]["sampling s"] == "10.0*"
    assert table["equal"]["sampling s"] == "15.0*"  # ten of them for the others too
    assert table["high"]["steps kept"] == "nothing kept"
    assert table["prefilled"]["training s"] == "-"
    assert "- equal-1: loss is nan at step 3" in page
    lengths = [len(line) for line in page if line[:1] == "|"]
    for part in (lengths[:second], lengths[second:third], lengths[third:]):
        assert len(set(part)) == 1  # aligned
    assert rows[second] == ["variant", "characters", "cut"]
    assert ["low", "16", "0.0%"] in rows[second:third]
    assert "Minus low, on the same problems, in points with the interval of 95 %." in page
    assert rows[third] == ["variant", "demo"]
    assert [row[0] for row in rows[third + 2 :]] == ["high", "equal", "prefilled"]
    assert rows[third + 2][1].startswith("-37.5 [-")


def test_one_seed_has_no_column_of_its_own(compared):
    content = copy.deepcopy(compared[2])
    for row in content["variants"].values():
        row["runs"] = row["runs"][:1]
    [head, *_] = [line for line in render(content).splitlines() if line[:1] == "|"]
    assert [cell.strip() for cell in head.split("|")[2:4]] == ["accuracy", "minus expert [95 %]"]


def test_each_variant_stands_beside_the_first(compared):
    low, high, equal, prefilled = compared[2]["variants"].values()
    assert "minus_first" not in low
    found = [row["minus_first"]["demo"] for row in (high, equal, prefilled)]
    assert [f["difference"] for f in found] == [-0.375, -0.375, 0.125]
    # Of four problems two seeds of low solve 1, 1, 0.5 and 0, and prefilled 0, 1, 1 and 1.
    expected = paired_difference([1, 1, 0.5, 0], [0, 1, 1, 1], DEMO.evaluation.seed)
    assert found[2] == expected


def test_seconds_of_what_was_gone_on_with_are_not_told_as_those_of_all(compared):
    run, grid, _ = compared
    plan, failed = make_plan(DEMO, grid), {"equal-1": "no"}
    base, other = (Run(run.path(source.folder)) for source in plan.sources)
    part = {"seconds": 5.0, "problems": 9}
    other.write_json("summary.json", {"sampling": part | {"problems_timed": 0}})  # scored alone
    trained = run.child(plan.cells[0].folder)
    summary = trained.read_json("summary.json")
    trained.write_json(
        "summary.json", summary | {"training": summary["training"] | {"resumed_at": 1}}
    )
    told = []
    for timed in (9, 4):
        base.write_json("summary.json", {"sampling": part | {"problems_timed": timed}})
        content = collect(run, DEMO, grid, plan, failed)
        told.append([row["cost"]["sampling_seconds"] for row in content["variants"].values()])
    assert told == [[5.0, 5.0, 10.0, None], [None] * 4]
    costs = content["variants"]["low"]["cost"]
    assert costs["training_seconds"] == 4.0  # of the seed that was not interrupted
    assert page_seconds(costs) is None
    assert "gone on with" in render(content)
    assert "-*" not in render(content)


def test_sampling_that_no_other_variant_needs_is_its_own(tmp_path):
    fewer = variant("fewer", sampling={"max_problems": 3})
    grid, run = Grid("mine", [0], [variant("low"), fewer]), Run(str(tmp_path))
    plan = make_plan(DEMO, grid)
    for source, seconds in zip(plan.sources, (10.0, 5.0), strict=True):
        run.child(source.folder).write_json("summary.json", {"sampling": {"seconds": seconds}})
    for cell in plan.cells:
        finished(run, cell, [0], 10)
    costs = [row["cost"] for row in collect(run, DEMO, grid, plan, {})["variants"].values()]
    told = [(cost["sampling_seconds"], cost["sampling_shared"]) for cost in costs]
    assert told == [(10.0, False), (5.0, False)]


@pytest.mark.parametrize(
    ("evaluation", "own", "said"),
    [
        ({}, {}, "4 problems of demo, greedily; 2 seeds (0, 1)."),
        ({"temperature": 0.7}, {}, "demo, at temperature 0.7; 2 seeds (0, 1)."),
        ({"temperature": 1.0, "samples": 4}, {}, "demo, 4 times each at temperature 1; 2 seeds"),
        ({}, {"low": [4]}, "greedily; 2 seeds (0, 1); 1 seed (4) of low."),
        ({}, {"low": [4], "equal": [4], "high": [5, 6]}, "; 1 seed (4) of low, equal; 2 seeds (5, 6) of high."),
        ({}, {name: [0, 1, 2] for name in ("low", "high", "equal")}, "greedily; 3 seeds (0, 1, 2)."),
    ],
)  # fmt: skip
def test_the_page_says_how_models_were_asked_and_by_which_seeds(compared, evaluation, own, said):
    content = copy.deepcopy(compared[2])
    content["config"]["evaluation"] |= evaluation
    for name, seeds in own.items():
        runs = content["variants"][name]["runs"]
        content["variants"][name]["runs"] = [runs[0] | {"seed": seed} for seed in seeds]
    assert said in render(content)


def test_the_page_has_figures_of_drift_where_they_were_measured(compared):
    content = copy.deepcopy(compared[2])
    expert = {
        "kl": 0,
        "perplexity": 20,
        "entropy": 0.4,
        "right_perplexity": {"expert": 1.2, "improved": 3},
    }
    improved = {
        "perplexity": 24.5,
        "entropy": None,
        "right_perplexity": {"expert": 1.5, "improved": 1.1},
    }
    for row in content["variants"].values():
        for kl, run in enumerate(row["runs"], start=1):
            run["drift"] = {"models": {"expert": expert, "improved": improved | {"kl": kl}}}
    rows = [
        [c.strip() for c in line.strip("|").split("|")] for line in render(content).splitlines()
    ]
    head = ["KL", "perplexity", "entropy", "expert's right", "own right"]
    assert ["variant", "characters", "cut", *head] in rows
    of = {row[0]: row[3:] for row in rows if len(row) == 8}
    assert of["expert, untouched"] == ["0", "20", "0.4", "1.2", "1.2"]
    assert of["low"] == ["1.5", "24.5", "-", "1.5", "1.1"]  # the mean of two seeds


def test_a_sweep_is_drawn_against_its_values(compared):
    pictures = draw(compared[2], "demo")
    assert pictures["png"].startswith(b"\x89PNG")
    text = pictures["svg"].decode()
    assert "</svg>" in text
    for words in ("sampling.kl_threshold", "accuracy on demo", "share of steps kept", "expert"):
        assert f"<!-- {words} -->" in text
    assert pictures == draw(compared[2], "demo")  # the same bytes each time


@pytest.mark.parametrize("gap", [None, 0.25])
def test_dollars_in_names_are_no_formula_in_a_sweeps_picture(compared, gap):
    content = copy.deepcopy(compared[2])
    content["grid"]["x"] = "models.amateur"
    named = {f"{name}: $a$ to $b": row for name, row in content["variants"].items()}
    for row in named.values():
        row |= {"value": "x", "amateur_gap": gap}
        row["accuracy"] = {"$c$": row["accuracy"]["demo"]} if row["accuracy"] else {}
    text = draw(content | {"variants": named}, "$c$")["svg"].decode()
    for words in ("low: $a$ to $b", "accuracy on $c$"):
        assert f"<!-- {words} -->" in text


def test_amateurs_lie_at_their_gap_once_it_is_measured():
    rows = {"a": {"value": "a"}, "b": {"value": "b"}}
    assert axis_of("models.amateur", rows) == Axis([0.0, 1.0], "models.amateur", ["a", "b"])
    measured = {name: row | {"amateur_gap": 0.25} for name, row in rows.items()}
    assert axis_of("models.amateur", measured).places == [0.25, 0.25]


def test_the_axis_is_logarithmic_where_the_values_ask_for_it():
    def log(*values: float) -> bool:
        return axis_of("x", {str(v): {"value": v} for v in values}).log

    assert log(0.02, 1.6)
    assert not log(0, 1.6)
    assert not log(0.2, 0.4)


def test_folders_that_are_taken_over_hold_the_same_files(tmp_path: Path):
    one, two = Run(str(tmp_path / "a")), Run(str(tmp_path / "b"))
    one.write_bytes("rejected/part-1", b"x")
    two.write_bytes("rejected/part-1", b"old")
    two.take(one, "rejected")
    two.take(one, "problems")  # there is none
    assert (tmp_path / "b/rejected/part-1").read_bytes() == b"x"
    assert not two.exists("problems")


def test_a_difference_that_rounds_to_nothing_has_no_minus():
    found = {"difference": -0.0004, "difference_ci95": [-0.002, 1e-17]}
    assert points(found) == "+0.0 [-0.2, +0.0]"
