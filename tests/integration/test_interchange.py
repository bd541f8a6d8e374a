"""Training on an imported sample file as a person runs it, against the oracle on the same steps."""

import json
from pathlib import Path

import pytest
import torch

from lr_ray import embedded
from lr_ray.method import oracle
from lr_ray.models.models import load_tokenizer, render_prompt
from lr_ray.training.model import load_expert
from lr_ray.training.schedule import learning_rate
from tests.integration.conftest import AMATEUR, EXPERT, demo_config
from tests.integration.jobs import run_here

STEPS = 3


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> tuple[Path, list[oracle.KeptStep]]:
    """A file of the published fields alone, and the kept steps that it was written from."""
    torch.set_num_threads(1)
    tokenizer = load_tokenizer(EXPERT)
    expert, amateur = oracle.load(EXPERT), oracle.load(AMATEUR)
    lines, kept = [], []
    for problem in embedded.generate("sampling", 6, 0):
        prompt = render_prompt(tokenizer, problem["problem"], None)
        stop = [tokenizer.eos_token_id]
        solution = oracle.solve(expert, amateur, prompt, stop, 128, 0.1, 0.2)
        kept += solution.kept
        for step in solution.kept:
            position = len(step.context) - len(prompt)
            item = {
                "prompt_id": problem["problem"],
                "step": position,
                "prefix": tokenizer.decode(step.context[len(prompt) :]),
                "tokens": [tokenizer.decode([i]) for i in step.token_ids],
                "token_ids": step.token_ids,
                "weights": step.weights,
                "kl_divergence": solution.kl[position],
            }
            lines.append(json.dumps(item) + "\n")
    file = tmp_path_factory.mktemp("samples") / "published.jsonl"
    file.write_text("".join(lines))
    return file, kept


def test_train_job_on_an_imported_file_equals_the_oracle(ray_cluster, samples, tmp_path):
    file, kept = samples
    # Batches of all steps, so that their order does not matter.
    training = {"optimizer_steps": STEPS, "batch_size": len(kept), "lora": {"dropout": 0.0}}
    overrides = [
        f"--training.optimizer_steps={STEPS}",
        f"--training.batch_size={len(kept)}",
        "--training.lora.dropout=0",
    ]
    run = str(tmp_path / "run")
    asked = ["--config", "demo", "--run", run, *overrides, "--samples", str(file)]
    imported = run_here("import_samples", *asked)
    assert imported.returncode == 0, imported.stderr
    assert f"{len(kept)} kept steps in 6 trajectories of 6 problems, 0 lines" in imported.stdout
    trained = run_here("train", "--run", run)
    assert trained.returncode == 0, trained.stderr

    settings = demo_config(training=training).training
    model = load_expert(EXPERT, settings).eval()
    rates = [learning_rate(step, settings) for step in range(STEPS)]
    losses = oracle.train(model, [kept] * STEPS, rates, settings.max_grad_norm)
    summary = json.loads(Path(run, "summary.json").read_text())
    assert summary["training"]["distinct_steps"] == len(kept)
    assert summary["training"]["final_loss"] == pytest.approx(losses[-1], rel=1e-4)
    assert losses[-1] < losses[0]
    assert Path(run, "model/model.safetensors").exists()


def test_jobs_refuse_what_is_there_or_does_not_fit(samples, tmp_path):
    file, _ = samples
    run, out = str(tmp_path / "run"), tmp_path / "out.jsonl"
    asked = ["--config", "demo", "--run", run, "--samples"]
    item = json.loads(file.read_text().splitlines()[0])
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(item | {"tokens": ["?"] * len(item["tokens"])}) + "\n")
    result = run_here("import_samples", *asked, str(other))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "other.jsonl: made with another tokenizer: line 1: token" in result.stderr
    assert not Path(run, "run.json").exists()

    result = run_here("export_samples", "--config", "demo", "--run", run, "--out", str(out))
    assert result.returncode == 2
    assert "no such run; give one that is there" in result.stderr

    assert run_here("import_samples", *asked, str(file)).returncode == 0
    result = run_here("import_samples", *asked, str(file))
    assert (result.returncode, result.stderr.count("\n")) == (2, 1)
    assert "has supervision already" in result.stderr

    export = ["export_samples", "--run", run, "--out", str(out)]
    assert run_here(*export).returncode == 0
    written = [json.loads(text) for text in out.read_text().splitlines()]
    original = [json.loads(text) for text in file.read_text().splitlines()]
    key = lambda i: (i["prompt_id"], i["step"])  # noqa: E731
    for here, there in zip(sorted(written, key=key), sorted(original, key=key), strict=True):
        for name in ("prompt_id", "step", "prefix", "tokens", "token_ids"):
            assert here[name] == there[name]
        assert here["weights"] == pytest.approx(there["weights"], rel=1e-6)
        assert here["kl_divergence"] == pytest.approx(there["kl_divergence"], rel=1e-6)
    result = run_here(*export)
    assert result.returncode == 2
    assert "exists; give another, or --overwrite" in result.stderr
    assert run_here(*export, "--overwrite").returncode == 0
