"""What --plan prints, counts and refuses: the job as a person runs it, and its parts."""

import gzip
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from lr_ray.cli.front import run_command
from lr_ray.cli.options import parse
from lr_ray.config import STAGES, Config, read_tree, resolve
from lr_ray.placement import arrange, find_models
from lr_ray.placement.arrange import settings
from lr_ray.placement.cards import pretended
from lr_ray.plugins import sources
from lr_ray.report import rates
from lr_ray.report.plan import answers, how_many, warnings

ROOT = Path(__file__).parents[2]
JOB = ROOT / "jobs/full_pipeline.py"


def configured(preset: str, *overrides: str) -> Config:
    return parse("", ["--config", preset, *overrides]).config


def warned(config: Config) -> list[str]:
    return warnings(config, find_models(config)[0])


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def job(capsys):
    """`lr-ray run` in this process."""

    def run(*arguments: str) -> Done:
        return Done(run_command(["run", *arguments]), *capsys.readouterr())

    return run


def test_lengths_beyond_the_context_are_told():
    lines = warned(configured("demo", "--sampling.max_new_tokens", "512"))
    assert lines == ["sampling.max_new_tokens = 512 leaves no room for a prompt in 512"]
    lines = warned(configured("demo", "--sampling.max_model_len", "600"))
    assert lines == ["sampling.max_model_len = 600 exceeds the 512 tokens that are read"]
    lines = warned(configured("demo", "--serving.max_model_len", "600"))
    assert lines == [
        "serving.max_model_len = 600 exceeds the 512 tokens that the expert reads"
    ]  # fmt: skip


def test_a_plugins_source_is_read_as_a_file_is(tmp_path, job, monkeypatch):
    def twenty(parameter, split, seed):
        if parameter:
            raise ValueError("takes no parameter; leave it out")
        return ({"problem": f"{i}+{i}", "answer": str(2 * i)} for i in range(20))

    monkeypatch.setitem(sources._registered, "twenty", twenty)
    assert how_many(configured("demo", "--data.source", "twenty", "--data.skip", "3")) == (17, True)
    assert how_many(configured("demo", "--sampling.max_problems", "9")) == (9, False)
    run = ("--plan", "--config", "demo", "--run", str(tmp_path / "run"), "--data.source")
    bad = job(*run, "twenty:x")
    said = "error: data.source: twenty:x: takes no parameter; leave it out\n"
    assert (bad.returncode, bad.stderr) == (2, said)
    rows = [json.dumps({"problem": f"p{i}"}) for i in range(3000)]
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress("\n".join(rows).encode())[:-30])
    done = job(*run, str(cut))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"error: data.source: {cut}: cannot be read after row ")


def test_answers_are_counted_where_the_problems_are_here(tmp_path):
    file = tmp_path / "asked.jsonl"
    file.write_text('{"problem": "1+1", "answer": "2"}\n{"problem": "2+2", "answer": "4"}\n')
    asks = ("--evaluation.benchmarks", str(file), "--evaluation.shots", "0,1")
    assert answers(configured("demo", *asks)) == 2 * 2 * 2
    assert answers(configured("demo")) == 2 * 1000
    assert answers(configured("qwen2.5-math-1.5b")) is None
    few = ("--evaluation.max_problems", "10", "--evaluation.samples", "3", "--evaluation.temperature", "1")  # fmt: skip
    assert answers(configured("qwen2.5-math-1.5b", *few)) == 2 * 7 * 10 * 3


def test_models_that_are_not_here_are_left_out(job):
    done = job("--config", "demo", "--plan", "--gpus", "1", "--models.amateur", "org/unknown")
    assert done.returncode == 0
    assert "models.amateur: org/unknown/config.json is not here" in done.stdout
    assert done.stdout.count(" weights ") == 3  # expert, trainer, server


def test_the_job_prints_a_plan_and_starts_nothing(tmp_path):
    run = tmp_path / "run"
    code = (
        "import atexit, runpy, sys; sys.argv = sys.argv[1:]; "
        "atexit.register(lambda: print([m for m in ('torch', 'ray', 'vllm') if m in sys.modules])); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    arguments = ("--config", "demo", "--run", str(run), "--plan", "--gpus", "1")
    command = [sys.executable, "-c", code, str(JOB), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "[]"
    assert "538 thousand parameters, reads 512 tokens" in done.stdout
    assert "at most 500 problems in 8 shards" in done.stdout
    assert "302 MB exchanged" in done.stdout  # 500 * 128 * 590 * 8 bytes
    assert "no measured rates" in done.stdout
    assert "\n!" not in done.stdout
    assert not run.exists()


def finished_run(folder: Path, preset: str = "demo") -> Path:
    """A run of 100 problems with one engine, 10 optimizer steps after a checkpoint, 200 answers."""
    config = resolve(read_tree(preset)).model_dump(mode="json")
    summary = {
        "sampling": {"problems": 100, "seconds": 10.0},
        "training": {"optimizer_steps": 30, "resumed_at": 20, "workers": 1, "seconds": 15.0, "loop_seconds": 10.0},
        "evaluation": {"answers": 200, "seconds": 4.0},
        "serving": {"seconds": 40.0},
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({"schema_version": 1, "config": config}))
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_rates_are_scaled(job, tmp_path):
    run = finished_run(tmp_path)
    done = job(
        *("--config", "demo", "--plan", "--rates", str(run), "--training.num_workers", "2"),
        *("--sampling.expert.max_engines", "5", "--serving.min_replicas", "2"),
        *("--training.batch_size", "32", "--resources.expert.cpus", "2"),
    )
    assert done.returncode == 0
    told = done.stdout.partition("duration")[2].splitlines()
    # 10 s * 5 / 5, 5 s + 10 s * 8 / 2, 4 s * 10 / 2
    assert told[0].split(": ", 1)[1] == (
        "sampling 10 s, training 45 s, starting the endpoint 40 s, evaluation 20 s; 115 s"
    )
    assert told[1].strip() == (
        "not scaled for another training.batch_size, resources.expert.cpus"
    )  # fmt: skip


def test_rates_are_scaled_by_the_rows_that_were_counted(job, tmp_path):
    run, file = finished_run(tmp_path), tmp_path / "few.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i} + 1?"}) + "\n" for i in range(30)))
    few = ("--config", "demo", "--plan", "--rates", str(run), "--data.source", str(file))
    assert "sampling 3 s, training" in job(*few).stdout  # 10 s * 30 / 100, of at most 500
    fewer = job(*few, "--data.skip", "10", "--sampling.max_problems", "25")
    assert "sampling 2 s, training" in fewer.stdout


def test_rates_are_of_the_problems_that_were_sampled_in_the_seconds(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    plan_of = ("--config", "demo", "--plan", "--rates", str(run))
    summary["sampling"] |= {"problems_timed": 25}  # the attempt that finished it
    (run / "summary.json").write_text(json.dumps(summary))
    assert "sampling 200 s, training" in job(*plan_of).stdout
    summary["sampling"] |= {"starting_seconds": 8.0}
    (run / "summary.json").write_text(json.dumps(summary))
    assert "sampling 48 s, training" in job(*plan_of).stdout  # 8 s + 2 s * 500 / 25
    shared = {"shared": {"decoding": "runs/first", "scoring": "runs/first"}}
    for nothing in ({"problems_timed": 0}, {"imported": ["samples.jsonl"]}):
        part = {"problems": 100, "seconds": 0.6} | nothing
        (run / "summary.json").write_text(json.dumps(summary | shared | {"sampling": part}))
        done = job(*plan_of)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "not those of sampling; give a run that sampled, runs/first" in done.stderr


def test_rates_are_of_the_answers_that_were_asked_for_in_the_seconds(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    for timed, told in ((400, "evaluation 20 s; "), (0, "starting the endpoint 40 s; ")):
        summary["evaluation"] |= {"answers_timed": timed}  # 4 s, and 2000 answers to come
        (run / "summary.json").write_text(json.dumps(summary))
        said = job("--config", "demo", "--plan", "--rates", str(run)).stdout
        assert told in said
        assert ("s without evaluation" in said) == (timed == 0)


def test_a_training_that_was_only_exported_in_its_seconds_has_no_rate(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    summary["training"] |= {"resumed_at": 30}
    (run / "summary.json").write_text(json.dumps(summary))
    done = job("--config", "demo", "--plan", "--rates", str(run))
    assert done.returncode == 0
    assert (
        "sampling 50 s, starting the endpoint 40 s, evaluation 40 s; 130 s without training"
        in done.stdout
    )


def test_a_run_that_has_only_sampled_gives_the_rate_of_that(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps({"sampling": summary["sampling"]}))
    done = job("--config", "demo", "--plan", "--rates", str(run))
    assert "sampling 50 s; 50 s without training and evaluation" in done.stdout


def test_steps_that_follow_from_what_is_kept_are_scaled_with_it(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    summary["sampling"] |= {"steps_kept": 64, "trajectories": 100}
    (run / "summary.json").write_text(json.dumps(summary))
    done = job(
        *("--config", "demo", "--plan", "--rates", str(run)), "--training.optimizer_steps=auto"
    )
    assert "once through what is kept, in batches of 16 kept steps" in done.stdout
    assert "training 25 s" in done.stdout  # 5 s + 10 s * (64 * 5 / 16) / 10


def test_engines_that_were_chosen_for_a_measured_run_are_read_off_its_summary(job, tmp_path):
    run = finished_run(tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    summary["placement"] = {"sampling": {"sampling.expert.max_engines": 4}}
    (run / "summary.json").write_text(json.dumps(summary))
    assert "sampling 200 s" in job("--config", "demo", "--plan", "--rates", str(run)).stdout


def test_what_was_chosen_for_auto_differs_only_where_it_was_another(monkeypatch):
    asked = configured("qwen2.5-math-1.5b")
    ours, wider = (
        arrange(asked, find_models(asked)[0], pretended(count, 80e9)) for count in (1, 2)
    )
    sampled = {"problems": 50, "seconds": 10, "steps_kept": 500, "trajectories": 50}
    chosen = {stage: settings(ours, stage) for stage in STAGES}
    run = SimpleNamespace(
        location="RUN", read_json=lambda name: {"sampling": sampled, "placement": chosen}
    )
    monkeypatch.setattr(rates, "read_asked", lambda run: {"config": asked.model_dump(mode="json")})
    assert len(rates.durations(ours, run, 100)) == 1
    (_, other) = rates.durations(wider, run, 100)[1]
    assert other.startswith("not scaled for another resources.expert.gpus, resources.amateur.gpus")
    assert "trainer" not in other


def test_rows_of_files_are_counted_and_the_device_is_told(job, tmp_path):
    file = tmp_path / "four.jsonl"
    file.write_text("".join(json.dumps({"problem": f"{i} + 1?"}) + "\n" for i in range(4)))
    real = ("--config", "qwen2.5-math-1.5b", "--plan", "--data.source", str(file))
    done = job(*real, "--device", "cpu")
    assert "plan       qwen2.5-math-1.5b, on CPUs alone" in done.stdout
    assert "\n           4 problems in 1 shard," in done.stdout
    assert "\nsampling   on CPUs\n" in done.stdout
    assert "GPU" not in done.stdout
    assert "sequences of 640 tokens" in done.stdout  # not of the 4096 that the models read


@pytest.mark.parametrize("gpus", [8, 32, 128])
def test_a_large_expert_on_many_gpus_can_be_ordered(job, gpus):
    done = job(
        "--config", "qwen2.5-math-7b", "--models.expert", "Qwen/Qwen2.5-Math-72B", "--plan",
        "--sampling.max_problems", "100000", "--gpus", str(gpus),
    )  # fmt: skip
    assert done.returncode == 0
    nodes = f" in {gpus // 8} nodes" if gpus > 8 else ""
    assert f"on {gpus} GPUs of 80 GB{nodes}\n" in done.stdout
    assert f"sampling   {gpus} GPUs at once\n" in done.stdout
    assert "each asks for 1 CPU, 4 GPU" in done.stdout
    assert "disk       at most about 147 GB in the run directory" in done.stdout
    assert "\n!" not in done.stdout


def test_a_stage_that_does_not_fit_is_told_and_the_others_are_planned(job):
    asked = ("--config", "qwen2.5-math-7b", "--plan", "--gpus", "1", "--training.num_workers", "2")
    done = job(*asked)
    assert "training   does not fit" in done.stdout
    assert "evaluation 1 GPU at once" in done.stdout
    assert "\n!          training does not fit on 1 GPU of 80 GB with resources" in done.stdout


def test_rates_that_do_not_apply_are_refused(job, tmp_path):
    run = finished_run(tmp_path, "qwen2.5-math-1.5b")
    plan_of = ("--config", "demo", "--plan", "--rates", str(run))
    done = job(*plan_of)
    assert done.returncode == 2
    assert "was measured with models.expert = Qwen/Qwen2.5-Math-1.5B, not embedded:expert" in done.stderr  # fmt: skip
    summary = json.loads((finished_run(tmp_path) / "summary.json").read_text())
    for broken, reason in (
        ({k: v for k, v in summary.items() if k != "sampling"}, "sampling is not finished"),
        (summary | {"sampling": {}}, "no rates in run.json and summary.json"),
    ):
        (run / "summary.json").write_text(json.dumps(broken))
        done = job(*plan_of)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert reason in done.stderr
    done = job(*plan_of[:-1], str(tmp_path / "none"))
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--gpus", "2"), "--gpus has an effect with --plan alone"),
        (("--gpu-memory-gb", "40"), "--gpu-memory-gb has an effect with --plan alone"),
        (("--rates", "runs/x"), "--rates has an effect with --plan alone"),
        (("--plan", "--gpus", "0"), "0 must be a number of GPUs from 1"),
        (("--plan", "--gpus", "two"), "two must be a number of GPUs from 1"),
        (("--plan", "--gpu-memory-gb", "nan"), "nan must be a number of GB above 0"),
        (("--plan", "--models.expert", "embedded:x"), "models.expert: embedded:x is not one of"),
    ],
)
def test_bad_uses_are_one_line(job, tmp_path, arguments, message):
    done = job("--config", "demo", "--run", str(tmp_path / "run"), *arguments)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert message in done.stderr
    assert not (tmp_path / "run").exists()
