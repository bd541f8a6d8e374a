"""Everything that is to be measured on a GPU, in one command of a quarter of an hour on an H100.

    python benchmarks/gpu.py --out gpu.json
    python benchmarks/gpu.py --rung training --size 7b       # one rung; --rung may be repeated
    python benchmarks/gpu.py --size tiny                     # two minutes on two CPU cores

Rungs, each in a process of its own that is ended when its time is spent, and skipped with the reason
where something is not installed:

    training   random weights of the real shapes: packed step against one forward a kept step
    scoring    the amateur's log-probabilities at 256 tokens a step: transformers, and vLLM's scorer
    precision  bfloat16 against float32: KL, steps above the threshold, greedy tokens, labels
    starts     an engine's start and decoding: compiled, graphs of decoding alone, eager
    sampling   expert and amateur engines: throughput, and the scorer against transformers in float32
    pipeline   jobs/full_pipeline.py: the demo, and the paper's preset at a small size

The first three need torch, transformers and peft alone, and no weights; lr_ray need not be installed
for them. `--size` is the expert's (amateur: 0.5b); without a GPU it is tiny. The end is a table with
device and versions, and `--out` has the same as JSON. Exits with 1 where a rung failed, else 0.
"""

import argparse
import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from gpu_rungs import machine, table
from gpu_rungs.options import NEEDS, RUNGS, SHAPES, SHARES, Options
from gpu_rungs.record import Record, read

ROOT = Path(__file__).resolve().parents[1]
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "TQDM_DISABLE": "1"}
GRACE_S = 25  # for a rung that is told to end: the pipeline takes its cluster along


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rung", choices=RUNGS, action="append", help="default all")
    add("--size", choices=SHAPES, help="default 1.5b; without a GPU tiny")
    add("--device", choices=("cuda", "cpu"), help="default cuda where there is a GPU")
    add("--pair", type=Path, nargs=2, metavar=("EXPERT", "AMATEUR"), help="model directories")
    add("--data-dir", help="folder of gsm8k/{train,test}.jsonl, for the paper's preset; else demo")
    add("--peak-tflops", type=float, help="dense bfloat16 peak; default by the device's name")
    add("--minutes", type=float, default=sum(SHARES.values()) / 60, help="for all rungs together")
    add("--out", type=Path, metavar="FILE.json")
    add("--worker", type=Path, help=argparse.SUPPRESS)  # this process runs one rung into this file
    args = parser.parse_args(argv)
    for path in args.pair or ():
        if not (path / "config.json").is_file():
            parser.error(f"--pair: {path}: no model directory with a config.json")
    return args


def main(argv: Sequence[str]) -> int:
    args = parse(argv)
    absent = machine.missing(["torch"])
    args.device = args.device or ("cpu" if absent or not machine.has_gpu() else "cuda")
    if args.size is None:
        args.size = "1.5b" if args.device == "cuda" else "tiny"
    if args.worker:
        work(args)
        return 0
    print(f"device {args.device}, size {args.size}; {args.minutes:.1f} minutes for all rungs")
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        names = args.rung or RUNGS
        records = [run(name, args, Path(folder, f"{name}.json")) for name in names]
    report: dict[str, Any] = {
        "device": next((r.device for r in records if r.device), machine.device_name("cpu")),
        "driver": machine.driver(),
        "versions": machine.versions(),
        "command": shlex.join(["python", "benchmarks/gpu.py", *argv]),
        "date": time.strftime("%Y-%m-%d"),
        "size": args.size,
        "extrapolated": [] if args.size == "tiny" else table.extrapolated(records),
    }
    print("\n".join(table.lines(report, records)))
    if args.out:
        report["rungs"] = {record.rung: asdict(record) for record in records}
        args.out.write_text(json.dumps(report, indent=1) + "\n")
    return int(any(record.status in ("failed", "stopped") for record in records))


def budget(name: str, args: argparse.Namespace) -> float:
    """Seconds of a rung."""
    return args.minutes * 60 * SHARES[name] / sum(SHARES.values())


def run(name: str, args: argparse.Namespace, file: Path) -> Record:
    """A rung in a process of its own, and what it left in `file`."""
    seconds = budget(name, args)
    absent = machine.missing(NEEDS[name])
    if absent:
        record = Record(name, seconds)
        print(f"{name}:")
        record.skip(f"{', '.join(absent)} not installed")
        record.end()
        return record
    print(f"{name}: at most {seconds:.0f} s", flush=True)
    command = [sys.executable, __file__, "--worker", str(file), "--rung", name]
    command += ["--size", args.size, "--device", args.device, "--minutes", str(args.minutes)]
    for option in ("data_dir", "peak_tflops"):
        if getattr(args, option) is not None:
            command += [f"--{option.replace('_', '-')}", str(getattr(args, option))]
    if args.pair:
        command += ["--pair", *map(str, args.pair)]
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = QUIET | os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    if args.device == "cpu":
        environment["CUDA_VISIBLE_DEVICES"] = ""
        environment.setdefault("OMP_NUM_THREADS", "1")  # as workers and engines have
    started, code = time.monotonic(), None
    with group(command, environment) as process, contextlib.suppress(subprocess.TimeoutExpired):
        code = process.wait(seconds)
    record = read(file) if file.exists() else Record(name, seconds)
    record.seconds = time.monotonic() - started
    if code is None:
        record.failed.append(f"stopped after its {seconds:.0f} s; what it had found is kept")
    elif code:
        record.status = "failed"
        record.failed.append(f"its process exited with {code}")
    return record


@contextlib.contextmanager
def group(command: list[str], environment: dict[str, str]) -> Iterator[subprocess.Popen]:
    """A process that leads a group, all of which ends with the block."""
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(GRACE_S)
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def work(args: argparse.Namespace) -> None:
    name = args.rung[0]
    record = Record(name, budget(name, args))
    record.keep_in(args.worker)
    record.device = machine.device_name(args.device)
    peak = args.peak_tflops or machine.peak_tflops(record.device)
    pair = tuple(path.resolve() for path in args.pair) if args.pair else None
    options = Options(args.size, args.device, pair, args.data_dir, peak)
    rung = import_module(f"gpu_rungs.{name}")
    record.attempt(name, lambda: rung.measure(record, options))
    record.end()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
