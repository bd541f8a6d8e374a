"""Figures of the page that hold for some runs only: by other rules, by rejection, resumed, of several samples."""

import json
import re
import warnings

import pyarrow as pa
import pytest

from lr_ray.config import EndpointConfig, merge, read_tree, resolve
from lr_ray.evaluation.answers import Answer, AnswerStore, question
from lr_ray.evaluation.client import request
from lr_ray.evaluation.results import LABELS, summarise
from lr_ray.labelling.label import supervise
from lr_ray.pipeline.evaluation import evaluate_endpoint
from lr_ray.report import write_page
from lr_ray.report.page import PAGE
from lr_ray.report.page.charts import NEW, chart, intervals, percents
from lr_ray.report.page.source import Source
from lr_ray.run.schemas import REJECTED, SCORES
from lr_ray.run.store import Run, read_summary
from tests.made_up import made_up
from tests.unit.page.dom import by_id, of_class, read, said, table
from tests.unit.problem_sources import jsonl
from tests.unit.test_client import endpoint

__all__ = ["endpoint"]  # a fixture


@pytest.fixture
def run(tmp_path) -> Run:
    return Run(str(tmp_path))


def page_of(run: Run, summary: dict, **sampling):
    """The page of the run, which is said to be of these settings of sampling."""
    asked = run.read_json("run.json")
    asked["config"]["sampling"] |= sampling
    run.write_json("run.json", asked)
    write_page(run, summary)
    return read(run.fs.cat_file(run.path(PAGE)).decode())


def test_what_labels_prefer_at_other_thresholds_is_told_of_contrastive_labels_alone(run):
    summary = made_up(run, problems=4, trajectories=6)
    head = ["KL above, nats", "steps kept", "of all"]
    shown = table(page_of(run, summary, labels="contrast:0.5"), "What other thresholds")
    assert shown[0] == [*head, "label prefers another token"]
    scores = run.read_tables(run.shards("scores"), SCORES).combine_chunks()
    config = run.read_json("run.json")["config"]
    config["sampling"]["labels"] = "greedy"
    greedy = supervise(scores, resolve(config).sampling, REJECTED.empty_table(), [])
    run.write_table("supervision/part-0.parquet", greedy.good)
    root = page_of(run, summary, labels="greedy")
    assert {len(row) for row in table(root, "What other thresholds")} == {len(head)}
    kept = by_id(root, "kept")
    assert "The label of 0.0% of them prefers another token" in said(of_class(kept, "lead")[0])
    charts = [svg.get("aria-label") for svg in of_class(kept, "chart")]
    assert not any(label.startswith("Entropy") for label in charts)  # all are 0


def test_answers_a_second_are_those_that_were_asked_for_in_the_seconds(run, tmp_path):
    summary = made_up(run, problems=4, trajectories=3)
    part = {"answers": 500, "seconds": 100.0}
    for timed, told in (({}, "500 answers, 5 a second"), ({"answers_timed": 1000}, "500 answers, 10 a second"), ({"answers_timed": 0}, "500 answers")):  # fmt: skip
        root = page_of(run, summary | {"evaluation": part | timed})
        assert said(by_id(root, "cost")).endswith(f"Evaluation{told}")


def test_an_evaluation_that_goes_on_says_how_many_answers_its_seconds_are_of(
    endpoint, tmp_path, capfd
):
    rows = [{"problem": f"p{n}", "answer": str(n)} for n in range(5)]
    asked = merge(
        read_tree("demo")["evaluation"], {"benchmarks": [jsonl(tmp_path / "own.jsonl", rows)]}
    )
    config = resolve(
        {"endpoint": endpoint.url, "models": ["a"], "evaluation": asked}, EndpointConfig
    )
    run = Run(str(tmp_path / "run"))
    run.create()
    with AnswerStore(run) as store:
        for row in rows[:3]:
            body = request(row["problem"], config.evaluation)
            store.add(question("a", f"{endpoint.url} a", body).key, Answer("1", "stop"))
    assert evaluate_endpoint(config, run) == 0
    assert sorted(endpoint.asked) == ["p3", "p4"]
    found = read_summary(run)["evaluation"]
    assert (found["answers"], found["answers_timed"]) == (5, 2)
    assert re.search(r"evaluation 5 answers, [\d.]+ s, [\d.]+/s", capfd.readouterr().out)


def test_of_a_step_the_tokens_of_the_runs_own_plausibility_are_shown(run):
    summary = made_up(run, problems=4, trajectories=6)
    scores = run.read_tables(run.shards("scores"), SCORES).combine_chunks()
    for plausibility in (0.2, 0.45):
        config = run.read_json("run.json")["config"]
        config["sampling"]["plausibility"] = plausibility
        made = supervise(scores, resolve(config).sampling, REJECTED.empty_table(), [])
        run.write_table("supervision/part-0.parquet", made.good)
        root = page_of(run, summary, plausibility=plausibility)
        steps = [step for rows in json.loads(by_id(root, "contrast-data").text) for step in rows]
        shares = [row[1] / max(other[1] for other in rows) for (_, *rows) in steps for row in rows]
        assert plausibility <= min(shares) < 0.5 < max(shares) == 1
        labels = [sum(row[3] for row in rows) for _, *rows in steps if any(row[3] for row in rows)]
        assert labels == pytest.approx([1] * len(labels), abs=1e-3)


def test_the_most_memory_of_engines_and_worker_is_told_where_it_is_known(run):
    summary = made_up(run, problems=4, trajectories=3)
    caption = "The most memory that one process held; of a GPU, what torch reserved"
    assert caption not in said(by_id(page_of(run, summary), "cost"))
    gpu = {"host_bytes": 2_140_000_000, "gpu_bytes": 40_000_000_000}
    engines = {"amateur": {"most": 1, "host_bytes": 900_000_000}, "expert": {"most": 2, **gpu}}
    summary["sampling"]["engines"], summary["training"]["memory"] = engines, gpu
    head, *rows = table(page_of(run, summary), caption)
    assert head == ["process", "how many", "host", "GPU"]
    assert rows == [
        ["expert's engine, sampling", "2", "2.1 GB", "40.0 GB"],
        ["amateur's engine, sampling", "1", "0.9 GB", "-"],
        ["training worker", "1", "2.1 GB", "40.0 GB"],
    ]


def test_a_run_by_rejection_names_its_own_limit_its_solutions_and_no_amateur(run):
    summary = made_up(run, problems=4, trajectories=3)
    run.remove("scores")
    drawn = {"samples_drawn": 12, "samples_right": 7, "problems_timed": 3}
    rejection = {"samples": 4, "temperature": 0.7, "max_new_tokens": 2048}
    found = summary | {"sampling": summary["sampling"] | drawn | {"steps_scored": 900}}
    root = page_of(run, found, method="rejection", rejection=rejection)
    limits = said(by_id(root, "asked")).partition("Limits while sampling")[2]
    assert limits.strip().startswith("most tokens of a trajectory2048 temperature0.7")
    cost = said(by_id(root, "cost"))
    assert "3 problems, 7 of 12 solutions right, 900 tokens of them" in cost
    assert "both models" not in cost
    assert "tokens a second" not in cost
    assert "amateur" not in said(root.find("body/header"))
    shorter = page_of(run, found, rejection=rejection | {"max_new_tokens": None})
    assert "most tokens of a trajectory128" in said(by_id(shorter, "asked"))


def test_names_of_any_length_leave_room_for_the_intervals_beside_them():
    names = [
        "expert",
        "math500: $a$ and $b$",
        "olympiadbench: deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib's, of axes without room
        svg = intervals("x", "Said", [(name, NEW, 0.5, (0.4, 0.6)) for name in names], None)
    shown = [e.text for e in read(f"<!doctype html>\n{svg}").iter("text")]
    assert [*names[:2], "olympiadbench:\u2026ill-Qwen-1.5B"] == [s for s in shown if s[-1] != "%"]


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (0.92, 0.95, ["92%", "92.5%", "93%", "93.5%", "94%", "94.5%", "95%"]),
        (-0.02, 0.02, ["-2%", "-1%", "0%", "1%", "2%"]),
        (0.5, 0.504, ["50%", "50.1%", "50.2%", "50.3%", "50.4%"]),
    ],
)
def test_an_axis_of_shares_has_no_digit_that_says_nothing(low, high, ticks):
    with chart("x", "Said", (4.8, 1.0)) as drawn:
        drawn.axes.set(xlim=(low, high), yticks=[])
        percents(drawn.axes.xaxis)
    shown = [e.text for e in read(f"<!doctype html>\n{drawn.svg}").iter("text")]
    assert [text for text in shown if text in ticks] == shown
    assert len(shown) > 2


def test_answers_of_several_samples_are_not_counted_as_problems(run):
    summary = made_up(run, problems=8, trajectories=3)
    one = Source(run, summary).tables["demo"]
    both = [one, one.set_column(one.schema.get_field_index("sample"), "sample", pa.array([1] * 8))]
    rows = sorted(pa.concat_tables(both).to_pylist(), key=lambda row: row["problem_id"])
    two = pa.Table.from_pylist(rows, one.schema)
    run.write_table("evaluation/demo.parquet", two)
    root = page_of(run, summary | {"accuracy": {"demo": summarise(two, LABELS, 0)}})
    counted = table(root, "Answers, each sample by itself, by what both models made of them")[1]
    assert sum(map(int, counted[2:])) == 16
    assert "on 8 problems" in said(by_id(root, "outcome"))
    assert table(root, "How the answers ended")[0][-1] == "over 2 samples"
    head, *rows = table(page_of(run, summary), "How the answers ended")
    assert head[-1] == "refused"  # of one sample the accuracy says it
    assert {len(row) for row in rows} == {len(head)}


def test_seconds_of_a_training_that_was_resumed_are_of_the_command_that_finished_it(run):
    summary = made_up(run, problems=4, trajectories=3)
    lead = said(of_class(by_id(page_of(run, summary), "training"), "lead")[0])
    assert "the command that finished it took 20 s on 1 worker" in lead
    rows = [
        json.loads(line) | {"resumed_at": 0}
        for line in run.fs.cat_file(run.path("metrics.jsonl")).splitlines()
    ]
    run.write_lines("metrics.jsonl", rows)
    lead = said(of_class(by_id(page_of(run, summary), "training"), "lead")[0])
    assert "with repetitions), in 20 s on 1 worker" in lead
    summary["training"]["trained_steps"] = summary["training"]["distinct_steps"]
    lead = said(of_class(by_id(page_of(run, summary), "training"), "lead")[0])
    assert "different kept steps, in 20 s" in lead
    summary["training"]["resumed_at"] = len(rows)  # only the export was left
    lead = said(of_class(by_id(page_of(run, summary), "training"), "lead")[0])
    assert "the command that finished it took 20 s on 1 worker" in lead
