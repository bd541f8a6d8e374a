"""A worker node goes away, all of its processes at once: while a job samples, trains and serves."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from openai import APIConnectionError, APIStatusError, OpenAI
from safetensors.torch import load_file

from lr_ray.run.store import Run
from tests.integration.nodes import Nodes
from tests.integration.supervision import assert_same
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
OPTIONS = [
    "--config", "demo", "--sampling.max_problems=160", "--sampling.batch_size=8",
    "--training.optimizer_steps=300", "--training.checkpoint_every=20",
]  # fmt: skip

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Run:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    for script in ("sample.py", "train.py"):
        command = [sys.executable, str(ROOT / "jobs" / script), *OPTIONS, "--run", str(run)]
        subprocess.run(command, check=True, timeout=400, cwd=ROOT)
    return Run(str(run))


@pytest.fixture(scope="module")
def nodes(tmp_path_factory):
    nodes = Nodes(tmp_path_factory.mktemp("loss"), head_cpus=0)
    yield nodes
    nodes.end()


def wait_for(job: subprocess.Popen, there, within: float = 240) -> None:
    deadline = time.monotonic() + within
    while not there():
        assert job.poll() is None, job.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.1)


def busy(nodes, marks: list[str], title: str) -> str:
    """The node that has a process of this title."""
    for mark in marks:
        for process in nodes.alive(mark):
            if title in " ".join(process.cmdline()):
                return mark
    raise AssertionError(f"no {title} on any node")


def finish(job: subprocess.Popen, killed_at: float, what: str) -> None:
    said, _ = job.communicate(timeout=600)
    assert job.returncode == 0, said[-3000:]
    print(f"{what}: finished {time.monotonic() - killed_at:.0f} s after its node was killed")


def test_a_run_survives_its_nodes(undisturbed, nodes, tmp_path):
    run = tmp_path / "run"
    first, second = nodes.add("--num-cpus=4"), nodes.add("--num-cpus=4")
    with nodes.job("sample.py", *OPTIONS, "--run", str(run)) as job:
        wait_for(job, lambda: len(list(run.glob("supervision/part-*"))) >= 2)
        lost = busy(nodes, [first, second], "MapBatches(ExpertSampler)")
        kept = {path: path.stat().st_mtime_ns for path in run.glob("supervision/part-*")}
        nodes.kill(lost)
        finish(job, time.monotonic(), f"sampling, {len(kept)} of 20 shards there")
    assert_same(Run(str(run)), undisturbed)
    assert [p for p, at in kept.items() if p.stat().st_mtime_ns != at] == []

    left = second if lost == first else first
    other = nodes.add("--num-cpus=4")
    with nodes.job("train.py", *OPTIONS, "--run", str(run)) as job:
        wait_for(job, lambda: list(run.glob("checkpoints/step-*/metrics.json")))
        nodes.kill(busy(nodes, [left, other], "TrainWorker"))
        finish(job, time.monotonic(), "training")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 301))
    resumed_at = max(line["resumed_at"] for line in lines)
    assert 20 <= resumed_at < 300
    print(f"training went on after step {resumed_at}")
    ours, theirs = (
        load_file(f"{place}/adapter/adapter_model.safetensors") for place in (run, undisturbed.root)
    )
    largest = max(float((ours[name] - theirs[name]).abs().max()) for name in theirs)
    print(f"adapters are {largest:.1e} apart")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-5) for name in theirs)
    for mark in (left, other):
        nodes.kill(mark)


def test_an_endpoint_survives_its_node(undisturbed, nodes):
    port = free_port()
    marks = [nodes.add("--num-cpus=4"), nodes.add("--num-cpus=4")]
    serving = ("serve.py", *OPTIONS, "--run", undisturbed.root, f"--serving.port={port}")
    url = f"http://127.0.0.1:{port}/v1"
    with (
        nodes.job(*serving) as job,
        OpenAI(base_url=url, api_key="none", max_retries=0, timeout=30) as client,
    ):

        def answers() -> dict[str, str] | None:
            try:
                return {name: ask(client, name) for name in ("expert", "improved")}
            except (APIConnectionError, APIStatusError):
                return None

        wait_for(job, answers)
        before = answers()
        nodes.kill(busy(nodes, marks, ":LLMServer:"))
        killed_at, failed = time.monotonic(), 0
        while (after := answers()) is None:
            failed += 1
            assert job.poll() is None, job.stdout.read()
            assert time.monotonic() < killed_at + 240
            time.sleep(0.5)
        took = time.monotonic() - killed_at
        print(
            f"serving: both models answered {took:.0f} s after the kill; {failed} attempts failed before"
        )
        assert after == before
        job.terminate()
        assert job.wait(timeout=120) == 143
    for mark in marks:
        nodes.kill(mark)


def test_an_evaluation_whose_node_is_gone_ends_and_goes_on_by_the_same_command(undisturbed, nodes):
    command = ("evaluate.py", *OPTIONS, "--run", undisturbed.root, "--resources.wait_s=20")
    answers = Path(undisturbed.root) / "answers"
    only = nodes.add("--num-cpus=4")
    with nodes.job(*command) as job:
        wait_for(job, lambda: list(answers.glob("part-*.parquet")))
        nodes.kill(only)
        killed_at, (said, _) = time.monotonic(), job.communicate(timeout=240)
        took = time.monotonic() - killed_at
    assert job.returncode == 1, said[-3000:]
    assert "without a replica; waiting for another one" in said
    error = "error: serving: resources.server: no node has 0.5 CPU;"
    assert said.splitlines()[-1].startswith(error), said[-3000:]
    kept = sum(pq.read_metadata(part).num_rows for part in answers.glob("part-*.parquet"))
    print(f"evaluation: ended {took:.0f} s after its only node was killed, {kept} answers kept")
    nodes.add("--num-cpus=4")
    with nodes.job(*command) as job:
        said, _ = job.communicate(timeout=600)
    assert job.returncode == 0, said[-3000:]
    evaluation = json.loads((Path(undisturbed.root) / "summary.json").read_text())["evaluation"]
    assert evaluation["answers_timed"] == evaluation["answers"] - kept


def ask(client: OpenAI, model: str) -> str:
    prompt = [{"role": "user", "content": "What is 12 + 7?"}]
    answer = client.chat.completions.create(
        model=model, messages=prompt, max_tokens=64, temperature=0
    )
    return answer.choices[0].message.content
