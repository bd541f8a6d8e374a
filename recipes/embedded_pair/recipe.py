"""Trains the embedded pair from scratch and writes it as two Hugging Face directories.

python -m recipes.embedded_pair.recipe --out runs/pair
python -m recipes.embedded_pair.recipe --out runs/gap --careless-steps 0 4 8 20 80
"""

import argparse
import copy
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2ForCausalLM

from recipes.embedded_pair import card, tokenizer
from recipes.embedded_pair.documents import CARELESS_MIX, EXPERT_MIX
from recipes.embedded_pair.pretrain import Phase, Shape, new_model, train

SHAPES = {
    "expert": Shape(hidden=96, intermediate=288, heads=3),
    "amateur": Shape(hidden=64, intermediate=192, heads=2),
}
PHASES = {
    "expert": (Phase("expert", EXPERT_MIX, steps=1400, learning_rate=3e-3),),
    # The amateur first learns the arithmetic, then the habit of not writing it down.
    "amateur": (
        Phase("amateur", EXPERT_MIX, steps=1500, learning_rate=4e-3),
        Phase("amateur, careless", CARELESS_MIX, steps=80, learning_rate=6e-4, warmup=0),
    ),
}
MEASURED_PROBLEMS = 500


def make(
    role: str,
    shared: PreTrainedTokenizerFast,
    seed: int,
    max_steps: int | None = None,
    phases: int | None = None,
) -> Qwen2ForCausalLM:
    """Trains one model, or its first `phases`; the same seed gives the same weights on the same machine."""
    torch.set_num_threads(1)
    model = new_model(SHAPES[role], shared, seed)
    for phase in PHASES[role][:phases]:
        steps = phase.steps if max_steps is None else min(max_steps, phase.steps)
        train(model, shared, replace(phase, steps=steps), seed)
    return model


def amateurs(
    shared: PreTrainedTokenizerFast,
    seed: int,
    careless_steps: Sequence[int],
    max_steps: int | None = None,
) -> Iterator[tuple[int, Qwen2ForCausalLM]]:
    """Amateurs that differ in their careless steps alone; the phase before is trained once.

    With as many careless steps as `PHASES` says, the amateur of `make`.
    """
    _, careless = PHASES["amateur"]
    able = make("amateur", shared, seed, max_steps, phases=1)
    for steps in careless_steps:
        model = copy.deepcopy(able)
        if steps:
            train(model, shared, replace(careless, steps=steps), seed)
        yield steps, model


def write(
    name: str,
    model: Qwen2ForCausalLM,
    shared: PreTrainedTokenizerFast,
    readme: str,
    out: Path,
) -> Path:
    """Writes a complete directory beside its final place, then renames it there."""
    out.mkdir(parents=True, exist_ok=True)
    model.generation_config = GenerationConfig(
        do_sample=False, eos_token_id=shared.eos_token_id, pad_token_id=shared.pad_token_id
    )
    target = out / name
    with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=out) as scratch:
        fresh, old = Path(scratch) / "new", Path(scratch) / "old"
        model.save_pretrained(fresh)
        shared.backend_tokenizer.no_padding()  # or the last padded call is written down too
        shared.save_pretrained(fresh)
        (fresh / "README.md").write_text(readme, encoding="utf-8")
        (fresh / "model.safetensors").chmod(0o644)  # safetensors leaves it to its owner alone
        if target.exists():
            os.rename(target, old)
        os.rename(fresh, target)
        shutil.rmtree(old, ignore_errors=True)
    return target


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m recipes.embedded_pair.recipe",
        description="Train the embedded expert and amateur from scratch, on one CPU thread.",
    )
    parser.add_argument(
        "--out", type=Path, required=True, help="directory that gets expert/ and amateur/"
    )
    parser.add_argument("--expert-seed", type=int, default=0, help="expert's seed (default 0)")
    parser.add_argument("--amateur-seed", type=int, default=0, help="amateur's seed (default 0)")
    parser.add_argument("--only", choices=tuple(SHAPES), help="train just one of the two")
    parser.add_argument(
        "--careless-steps",
        type=_steps,
        nargs="+",
        metavar="N",
        help="instead of the pair, amateurs of several strengths: for each N, one in "
        f"amateur-careless-N/ (the pair's has {PHASES['amateur'][1].steps}; 0 is not careless)",
    )
    options = parser.parse_args(arguments)
    if options.careless_steps and options.only:
        parser.error("--careless-steps makes amateurs alone; leave --only out")
    shared = tokenizer.build()
    if options.careless_steps:
        seed = options.amateur_seed
        for steps, model in amateurs(shared, seed, sorted(set(options.careless_steps))):
            accuracy = card.accuracy(model, shared, MEASURED_PROBLEMS)
            readme = card.text("amateur", model, seed, accuracy, MEASURED_PROBLEMS, steps)
            path = write(f"amateur-careless-{steps}", model, shared, readme, options.out)
            print(f"{steps} careless steps: accuracy {accuracy:.3f}, written to {path}", flush=True)
        return 0
    seeds = {"expert": options.expert_seed, "amateur": options.amateur_seed}
    for role, seed in seeds.items():
        if options.only not in (None, role):
            continue
        started = time.perf_counter()
        model = make(role, shared, seed)
        seconds = time.perf_counter() - started
        accuracy = card.accuracy(model, shared, MEASURED_PROBLEMS)
        readme = card.text(role, model, seed, accuracy, MEASURED_PROBLEMS)
        path = write(role, model, shared, readme, options.out)
        print(f"{role}: accuracy {accuracy:.3f}, {seconds:.0f} s, written to {path}", flush=True)
    return 0


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps")
    return int(text)


if __name__ == "__main__":
    raise SystemExit(main())
