"""Rounds of the demo: accuracy, kept share and drift of each; and the same adapters when killed in round two.

    python benchmarks/rounds.py --out runs/rounds [--rounds 3] [--kill] [OPTION ...]
    python benchmarks/rounds.py --out runs/rounds --in-process [--seeds 0 1] [--optimizer-steps 80]

OPTIONs are those of `lr-ray run`. Drift is the mean KL (nats a token) from the untouched expert to a round's
improved one: on the untouched expert's own answers to held-out problems, and on texts that are not of the
domain (those of `evaluation.drift`). With --kill, a second run begins with the first one's round one,
is ended by SIGTERM as it samples and by SIGKILL as it trains in round two, and goes on each time by the
same command; prints the largest difference of its adapter's weights. The same command goes on.
With --in-process it is the same method in one process, as in gap.py, with both amateurs of
`models.amateur_of_rounds`.
"""

import argparse
import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from gap import (
    EXPERT,
    TOKENIZER,
    Sampled,
    decode,
    labelled_of,
    load,
    logprobs,
    solved,
    trained,
)
from safetensors.numpy import load_file

from lr_ray.config import merge, read_tree, resolve
from lr_ray.embedded import amateur_path, generate
from lr_ray.evaluation.statistics import paired_difference
from lr_ray.experiments.table import markdown
from lr_ray.models.models import render_prompt
from lr_ray.report.probe import figures

ROOT = Path(__file__).parents[1]
TEXTS = ROOT / "lr_ray/audit/texts.txt"
HELD_OUT = 500  # problems, with --in-process
ANSWERED, TOKENS = 100, 200  # held-out problems of the drift, and tokens of a text at once
DRIFTS = ("drift, answers", "drift, texts")
ENDS = ((signal.SIGTERM, "scores/part-*"), (signal.SIGKILL, "checkpoints/step-*"))


def command(run: Path, rounds: int, options: list[str]) -> list[str]:
    job = [sys.executable, str(ROOT / "jobs/full_pipeline.py"), "--config", "demo"]
    return [*job, "--run", str(run), "--rounds", str(rounds), *options]


def finish(asked: list[str]) -> None:
    if subprocess.run(asked, stdout=subprocess.DEVNULL).returncode:
        raise SystemExit(f"error: {' '.join(asked)} failed")


def end(asked: list[str], number: signal.Signals, second: Path, seen: str) -> None:
    """Sends the signal when round two has such a file."""
    process = subprocess.Popen(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not list(second.glob(seen)):
        time.sleep(0.05)
    process.send_signal(number)
    print(f"{number.name} at {seen}: exit code {process.wait()}", flush=True)


def drift(models: list[Path]) -> list[tuple[float, float]]:
    """On held-out answers, and on texts of another kind; of each model."""
    untouched = load(EXPERT)
    rows = generate("heldout", ANSWERED, 2)
    prompts = [render_prompt(TOKENIZER, row["problem"], None) for row in rows]
    answers = prompts, decode(untouched, prompts, 128)
    ids = TOKENIZER(TEXTS.read_text())["input_ids"]
    parts = [ids[i : i + TOKENS] for i in range(0, len(ids) - TOKENS, TOKENS)]
    texts = [part[:1] for part in parts], [part[1:] for part in parts]
    kinds = [(kind, [np.vstack(logprobs(untouched, *kind))]) for kind in (answers, texts)]
    found = []
    for path in models:
        model = load(str(path))
        kl = []
        for kind, (before,) in kinds:
            after = np.vstack(logprobs(model, *kind))
            kl.append(float((np.exp(before) * (before - after)).sum(1).mean()))
        found.append((kl[0], kl[1]))
    return found


def drifts_of(drifts: tuple[float, float]) -> list[str]:
    return [f"{value:.3f}" for value in drifts]


def in_process(out: Path, rounds: int, seeds: list[int], steps: int) -> None:
    problems = generate("heldout", HELD_OUT, 2)
    head = ["amateur, seed, round", "accuracy", "minus untouched", "minus before", "kept"]
    table, untouched = [], solved(load(EXPERT), problems, 128)
    for stays, seed in itertools.product((True, False) if rounds > 1 else (True,), seeds):
        experts, before = [EXPERT], untouched
        for number in range(rounds):
            over = {"data": {"skip": 500 * number or None}, "training": {"optimizer_steps": steps}}
            config = resolve(merge(read_tree("demo"), over))
            first = stays or not number
            amateur = load(str(amateur_path()) if first else experts[-2])
            scores = Sampled(config, experts[-1]).scores(amateur)
            labelled, said = labelled_of(scores, config), figures(scores, config.sampling)
            folder = out / "in-process" / f"{'stays' if stays else 'before'}-{seed}-{number + 1}"
            model = trained(labelled.good, config, seed, experts[-1])
            model.save_pretrained(folder)
            TOKENIZER.save_pretrained(folder)
            after = solved(model, problems, 128)
            cells = [f"{'stays' if stays else 'expert before'}, {seed}, {number + 1}"]
            cells += [f"{100 * np.mean(after):.1f} %"]
            cells += [points(paired_difference(b, after, 0)) for b in (untouched, before)]
            cells += [f"{100 * said['kept']:.1f} %", f"{said['entropy']['mean'] or 0:.2f}"]
            table.append([*cells, *drifts_of(drift([folder])[0])])
            print(*table[-1], flush=True)
            experts.append(str(folder))
            before = after
    print(*markdown([*head, "label entropy", *DRIFTS], table), sep="\n")
    print(f"untouched {100 * np.mean(untouched):.1f} %")


def points(part: dict) -> str:
    low, high = part["difference_ci95"]
    return f"{100 * part['difference']:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def show(run: Path) -> None:
    told = json.loads((run / "summary.json").read_text())["rounds"]
    done = [row for row in told["rounds"] if row["accuracy"]]
    drifts = drift([Path(row["run"], "model") for row in done])
    table = []
    for row, found in zip(done, drifts, strict=True):
        part = row["accuracy"]["demo"]
        cells = [str(row["round"]), f"{100 * part['accuracy']:.1f} %", points(part)]
        cells += [points(part["from_before"]), f"{100 * row['steps_kept_share']:.1f} %"]
        cells += [f"{row['label_entropy']:.2f}", f"{part['characters']:.0f}"]
        table.append([*cells, *drifts_of(found)])
    head = ["round", "accuracy", "minus untouched", "minus before", "kept", "label entropy"]
    print(*markdown([*head, "characters", *DRIFTS], table), sep="\n")
    print(f"stopped: {told['stopped'] or 'no'}; untouched {100 * part['expert']:.1f} %", flush=True)


def kill(whole: Path, run: Path, options: list[str]) -> None:
    if not run.exists():
        shutil.copytree(whole, run, ignore=shutil.ignore_patterns("rounds*"))
        summary = json.loads((run / "summary.json").read_text())
        summary.pop("rounds")
        (run / "summary.json").write_text(json.dumps(summary))
        for number, seen in ENDS:
            end(command(run, 2, options), number, run / "rounds/2", seen)
    finish(command(run, 2, options))
    ours, theirs = (
        load_file(r / "rounds/2/adapter/adapter_model.safetensors") for r in (run, whole)
    )
    largest = max(float(np.abs(ours[name] - theirs[name]).max()) for name in theirs)
    size = max(float(np.abs(weight).max()) for weight in theirs.values())
    print(f"round 2, killed twice: adapters differ by {largest:.1e} at most, of {size:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--in-process", action="store_true")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="with --in-process")
    parser.add_argument("--optimizer-steps", type=int, default=80, help="with --in-process")
    args, options = parser.parse_known_args()
    if args.in_process:
        in_process(args.out, args.rounds, args.seeds, args.optimizer_steps)
        return
    whole = args.out / "whole"
    finish(command(whole, args.rounds, options))
    show(whole)
    if args.kill:
        kill(whole, args.out / "killed", options)


if __name__ == "__main__":
    main()
