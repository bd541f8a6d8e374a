"""jobs/evaluate.py as a person runs it on an endpoint: figures, kill -9, shots, samples, errors."""

import contextlib
import json
import subprocess
import time

import openai
import pyarrow.parquet as pq
import pytest

from lr_ray import embedded
from lr_ray.config import Evaluation
from lr_ray.embedded import expert_path
from lr_ray.evaluation.answers import Answer, AnswerStore
from lr_ray.evaluation.client import request
from lr_ray.evaluation.evaluate import ServedModel, evaluate, questions
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.grading.judging import is_correct
from lr_ray.models.models import stop_token_ids
from lr_ray.run.store import Run
from tests.integration.jobs import ROOT, command, run_here

MODELS = [ServedModel(name, name, name) for name in ("expert", "improved")]


def asked_of(served, run, *arguments, models="expert,improved"):
    return [
        "evaluate", "--endpoint", served.url, "--models", models, "--run", str(run),
        "--config", "demo", "--evaluation.max_problems=200", "--evaluation.concurrency=32",
        *arguments,
    ]  # fmt: skip


def run_job(*arguments, **options):
    return run_here(*asked_of(*arguments, **options))


def test_every_model_is_asked_alike_and_graded(served, tmp_path):
    evaluation = Evaluation(max_problems=40, max_new_tokens=64, concurrency=16, seed=3)
    asked, graded = [], []
    tables = evaluate(
        load_tasks(evaluation),
        [MODELS],
        lambda group: contextlib.nullcontext(served.url),
        evaluation,
        Run(str(tmp_path)),
        lambda *seen: asked.append(seen),
        lambda *seen: graded.append(seen),
        stop_token_ids(str(expert_path())),
    )
    rows = tables["demo"].to_pylist()
    assert asked == [(n, 80) for n in range(81)]
    assert graded[-1] == (80, 80)
    assert [(r["problem_id"], r["problem"], r["expected"]) for r in rows] == [
        (p["problem_id"], p["problem"], p["answer"]) for p in embedded.generate("heldout", 40, 3)
    ]
    with openai.OpenAI(base_url=served.url, max_retries=0) as client:
        for name in ("expert", "improved"):
            for row in rows[:3]:
                said = client.chat.completions.create(
                    model=name,
                    messages=[{"role": "user", "content": row["problem"]}],
                    temperature=0,
                    max_tokens=64,
                )
                assert row[f"{name}_completion"] == said.choices[0].message.content
            verdicts = [is_correct(r["expected"], r[f"{name}_answer"], "demo") for r in rows]
            assert [r[f"{name}_correct"] for r in rows] == verdicts
    assert 0 < sum(r["expert_correct"] for r in rows) < 40


def test_answers_that_are_there_are_not_asked_again(served, tmp_path):
    evaluation = Evaluation(max_problems=6, max_new_tokens=64, seed=4)
    run = Run(str(tmp_path))
    (task,) = load_tasks(evaluation)
    before = questions(task, MODELS[0], evaluation)[:4]
    with AnswerStore(run) as store:
        for question in before:
            store.add(question.key, Answer("said before: The answer is 7.", "stop"))
    asked = []
    there = lambda group: contextlib.nullcontext(served.url)  # noqa: E731
    tables = evaluate([task], [MODELS], there, evaluation, run, lambda *seen: asked.append(seen))
    assert asked == [(n, 12) for n in range(4, 13)]
    said = tables["demo"]["expert_completion"].to_pylist()
    assert [text.startswith("said before") for text in said] == [True] * 4 + [False] * 2


def test_a_killed_job_goes_on_to_the_same_tables(served, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    undisturbed = run_job(served, whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    assert "from before" not in undisturbed.stdout
    killed = subprocess.Popen(command(*asked_of(served, cut)), stdout=subprocess.DEVNULL, cwd=ROOT)
    while not list(cut.glob("answers/part-*")):
        assert killed.poll() is None
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    there = len(AnswerStore(Run(str(cut))).answers)
    assert 0 < there < 400
    again = run_job(served, cut)
    assert again.returncode == 0, again.stderr
    assert f"{there} of 400 answers are there from before" in again.stdout
    tables = [pq.read_table(folder / "evaluation/demo.parquet") for folder in (whole, cut)]
    assert tables[0].equals(tables[1])
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, cut)]
    assert summaries[0]["accuracy"] == summaries[1]["accuracy"]
    found = summaries[0]["accuracy"]["demo"]
    assert found["models"].keys() == {"expert", "improved"}
    assert found["models"]["expert"]["accuracy"] > found["models"]["improved"]["accuracy"]
    assert found["differences"]["improved"]["lost"] > found["differences"]["improved"]["gained"]
    assert summaries[0]["evaluation"]["conditions"]["max_new_tokens"] == 128
    assert (cut / "report.html").exists()
    assert not (cut / "answers").exists()
    lines = (cut / "evaluation/demo-changed.jsonl").read_text().splitlines()
    assert len(lines) == sum(found["differences"]["improved"][kind] for kind in ("gained", "lost"))

    third = run_job(served, cut)
    assert (third.returncode, "nothing to do" in third.stdout) == (0, True)
    other = run_job(served, cut, "--evaluation.max_new_tokens=64")
    assert other.returncode == 2
    assert "another evaluation.max_new_tokens" in other.stderr


def test_shots_and_samples_are_reported(served, tmp_path):
    done = run_job(
        served, tmp_path, "--evaluation.max_problems=20", "--evaluation.shots=0,1",
        "--evaluation.samples=4", "--evaluation.temperature=0.8", "--evaluation.drift=100",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "drift      left out: an endpoint shows no weights" in done.stdout
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["accuracy"].keys() == {"demo", "demo-1-shot"}
    model = summary["accuracy"]["demo"]["models"]["expert"]
    assert model["pass_at_k"].keys() == {"1", "2", "4"}
    assert model["pass_at_k"]["4"] > model["pass_at_k"]["1"] == pytest.approx(model["accuracy"])
    table = pq.read_table(tmp_path / "evaluation/demo.parquet")
    assert table.num_rows == 80
    assert len(set(table["expert_completion"].to_pylist()[:4])) > 1
    assert summary["accuracy_mean"]["tasks"] == 2
    for line in ("pass@4", "majority", "accuracy mean"):
        assert line in done.stdout


def test_both_protocols_are_asked_of_one_endpoint_and_stand_side_by_side(served, tmp_path):
    done = run_job(
        served, tmp_path, "--evaluation.max_problems=8", "--evaluation.protocol=both",
        "--evaluation.paper.expert_prompt=completion", "--evaluation.paper.stop_token_ids=0,2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["accuracy"].keys() == {"demo", "demo-paper"}
    alone = summary["prompt_alone"]["demo"]
    accuracy = {n: p["models"]["expert"]["accuracy"] for n, p in summary["accuracy"].items()}
    assert alone["same"] == accuracy["demo"]
    assert alone["difference"] == pytest.approx(alone["same"] - alone["paper"])
    assert "the prompt alone moves" in done.stdout
    assert summary["evaluation"]["conditions_paper"]["stop_token_ids"] == [0, 2]
    rows = pq.read_table(tmp_path / "evaluation/demo-paper.parquet").to_pylist()
    options = {"temperature": 0, "max_tokens": 128}
    boxed = r"Please reason step by step, and put your final answer within \boxed{}."
    with openai.OpenAI(base_url=served.url, max_retries=0) as client:
        for row in rows[:3]:
            completed = client.completions.create(
                model="expert", prompt=f"Question: {row['problem']}\nAnswer: ",
                stop="\n\nQuestion:", extra_body={"stop_token_ids": [0, 2]}, **options,
            )  # fmt: skip
            assert row["expert_completion"] == completed.choices[0].text
            asked = [("system", boxed), ("user", row["problem"])]
            messages = [{"role": role, "content": content} for role, content in asked]
            said = client.chat.completions.create(model="improved", messages=messages, **options)
            assert row["improved_completion"] == said.choices[0].message.content


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_no_default_of_a_server_or_a_model_changes_what_is_sampled(temperature):
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    body = request("1+1?", Evaluation(temperature=temperature, seed=3))
    asked = ChatCompletionRequest(model="a", **body.pop("extra_body"), **body)
    generation_config = {
        "temperature": 0.6, "top_p": 0.8, "top_k": 20, "min_p": 0.1, "repetition_penalty": 1.3,
    }  # fmt: skip
    by_config = asked.to_sampling_params(9, generation_config)
    assert by_config == asked.to_sampling_params(9, {})
    assert (by_config.temperature, by_config.top_p, by_config.min_p) == (temperature, 1, 0)
    assert by_config.top_k in (-1, 0)
    penalties = (
        by_config.repetition_penalty,
        by_config.presence_penalty,
        by_config.frequency_penalty,
    )
    assert penalties == (1, 0, 0)


@pytest.mark.parametrize(
    ("models", "arguments", "message"),
    [
        ("expert,nobody", [], "--models nobody: not served"),
        ("expert,expert", [], "names one twice"),
        ("expert", ["--evaluation.benchmarks=gsm9k"], "did you mean gsm8k"),
        ("expert", ["--evaluation.samples=2"], "give a temperature"),
        ("expert", ["--evaluation.protocol=paper"], "give completion or chat"),
    ],
)
def test_what_is_wrong_is_one_line(served, tmp_path, models, arguments, message):
    failed = run_job(served, tmp_path / "run", *arguments, models=models)
    assert failed.returncode == 2
    assert message in failed.stderr
    assert len(failed.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "run/run.json").exists()
