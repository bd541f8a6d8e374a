"""The whole pipeline through `jobs/full_pipeline.py`: the demo, and a preset of the paper at a small size."""

import contextlib
import json
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from .machine import wrong_engines
from .options import HUB, Options
from .pairs import real_pair
from .record import Record

JOB = Path(__file__).parents[2] / "jobs/full_pipeline.py"
STAGES = ("sampling", "training", "serving", "evaluation")
# Both engines, then the trainer, then both served models share one card.
ROLES = ("expert", "amateur", "trainer", "server")
PRESETS = {"1.5b": "qwen2.5-math-1.5b", "7b": "qwen2.5-math-7b"}
LEAST_S = 60  # of the budget, below which the second run is not begun
GRACE_S = 20


def measure(record: Record, options: Options) -> None:
    reason = wrong_engines(options.device)
    if reason:
        record.skip(reason)
        return
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        demo = ["--config", "demo"]
        if options.tiny:
            demo += ["--sampling.max_problems=32", "--training.optimizer_steps=6"]
            demo += ["--evaluation.max_problems=32"]
        record.attempt("demo", lambda: run(record, options, "demo", demo, Path(folder, "demo")))
        if not options.tiny:
            record.attempt("paper", lambda: paper(record, options, Path(folder, "paper")))


def paper(record: Record, options: Options, run_folder: Path) -> None:
    preset = PRESETS[options.size]
    pair = real_pair(options)
    if pair is None:
        where = " and ".join(HUB[options.size])
        record.skip(f"{preset}: {where} not in Hugging Face's cache; or give --pair EXPERT AMATEUR")
        return
    if record.left() < LEAST_S:
        record.skip(f"{preset}: {record.left():.0f} s of the budget left, {LEAST_S} needed")
        return
    asked = ["--config", preset, f"--models.expert={pair.expert}"]
    asked += [f"--models.amateur={pair.amateur}", "--sampling.max_problems=128"]
    asked += ["--training.optimizer_steps=50", "--evaluation.max_problems=64"]
    asked += ["--evaluation.max_new_tokens=512"]
    if options.data_dir:
        asked += [
            f"--data.data_dir={options.data_dir}",
            f"--evaluation.data_dir={options.data_dir}",
        ]
        asked += ['--evaluation.benchmarks=["gsm8k"]']
    else:
        asked += ["--data.source=demo", '--evaluation.benchmarks=["demo"]']
    run(record, options, f"{preset}, 128 problems, 50 optimizer steps", asked, run_folder)


def run(record: Record, options: Options, name: str, asked: list[str], run_folder: Path) -> None:
    """The job with what is left of the budget; its stages' seconds."""
    if options.device == "cuda":
        asked = asked + [f"--resources.{role}.gpus=auto" for role in ROLES]
    command = [sys.executable, str(JOB), *asked, "--run", str(run_folder)]
    output = run_folder.with_suffix(".out")
    with output.open("w") as stream:
        job = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)
        try:
            code = job.wait(max(1.0, record.left() - GRACE_S))
        except subprocess.TimeoutExpired:
            end(job)
            record.fail(f"{name}: stopped when the rung's time was spent")
            code = 0
    summary = run_folder / "summary.json"
    found = json.loads(summary.read_text()) if summary.exists() else {}
    seconds = {f"{s}_seconds": found[s]["seconds"] for s in STAGES if s in found}
    if seconds:
        record.row(name, **seconds, seconds=found.get("seconds_total"))
    if code:
        said = output.read_text().strip().splitlines() or ["nothing"]
        record.fail(f"{name}: exit code {code}: {said[-1][:300]}")


def end(job: subprocess.Popen) -> None:
    """In order: the job takes its cluster along."""
    job.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.wait(GRACE_S)
    if job.poll() is None:
        job.kill()
        job.wait()
