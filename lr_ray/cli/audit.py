"""Recompute a sample of a run's supervision with transformers in float32 over the full vocabulary.

lr-ray audit --run runs/demo [--sample 100] [--seed 0]

Writes <run>/audit.json. Exits with 1 when a figure exceeds its bound, with 2 when the run has no
supervision, its models have changed or transformers cannot read them. Needs neither Ray nor vLLM.
"""

import argparse
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from lr_ray.cli.options import parse
from lr_ray.cli.stages import check_contrast
from lr_ray.console import StageProgress, quiet_others
from lr_ray.errors import StageError, UserError, counted
from lr_ray.models.files import check_auditable
from lr_ray.models.models import resolve_model
from lr_ray.pipeline.job import facts
from lr_ray.run.asked import check_made, is_imported
from lr_ray.run.store import SCHEMA_VERSION, read_asked
from lr_ray.run.versions import versions

if TYPE_CHECKING:
    from lr_ray.audit.audit import Audit


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sample",
        type=_count,
        default=100,
        metavar="N",
        help="supervision rows to recompute; all or 0: every row",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the sample")


def _count(text: str) -> int:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of rows, nor all")
    return 0 if text == "all" else int(text)


def main(argv: list[str]) -> int:
    command = parse(__doc__, argv, _add_options, prog="lr-ray audit", shown=["models"])
    config, run, options = command.config, command.run, command.options
    there = read_asked(run)
    if not run.shards("supervision"):
        raise UserError(f"--run {run.location}: no supervision; sample first (lr-ray sample)")
    if is_imported(there):
        raise UserError(f"--run {run.location}: was imported, without the steps to audit it by")
    check_contrast(config.sampling, "an audit can recompute")
    expert = resolve_model(config.models.expert, "models.expert")
    amateur = resolve_model(config.models.amateur, "models.amateur")
    for path, role in ((expert, "expert"), (amateur, "amateur")):
        check_auditable(path, f"models.{role}: {getattr(config.models, role)}")
    asked = facts(config, expert, amateur)
    started = time.monotonic()
    with run.lock(shared=True):
        check_made(run, config, "labelling", asked)
        log = run.log_path()
        print(f"run        {run.location}\nlog        {log}")
        with quiet_others(log) as console, StageProgress(console, "audit", 0, "rows") as progress:
            from lr_ray.audit.audit import audit

            done = audit(
                run, config, expert, amateur, options.sample, options.seed, progress.update_of
            )
        seconds = time.monotonic() - started
        outcome = {
            "schema_version": SCHEMA_VERSION,
            "seed": options.seed,
            "kl_threshold": config.sampling.kl_threshold,
            "plausibility": config.sampling.plausibility,
            "models": asked["models"],
            "versions": versions(),
            "exceeded": [name for name, figure in done.figures.items() if figure.exceeded],
            "seconds": seconds,
        }
        run.write_json("audit.json", asdict(done) | outcome)
    _print_audit(done, options.seed, seconds)
    print(f"\noutput     {run.location}/audit.json")
    exceeded = [figure for figure in done.figures.values() if figure.exceeded]
    if exceeded:
        raise StageError(
            f"{len(exceeded)} of {len(done.figures)} figures exceed their bound: "
            + "; ".join(f"{f.title} {f.value:.3g} (at most {f.bound:g})" for f in exceeded)
        )
    return 0


def _print_audit(done: "Audit", seed: int, seconds: float) -> None:
    """The table that a person reads: what was recomputed, and each figure against its bound."""
    k = f"K = {done.top_k} of {done.vocabulary[0]}"
    print(
        f"audit      {done.rows} of {counted(done.rows_of, 'row')} (seed {seed}), "
        f"{counted(done.steps, 'step')}, {done.steps_kept} kept; {k}, engines in {done.dtype}; "
        f"on {done.device}, {seconds:.1f} s"
    )
    said = ", ".join(
        f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
        for key, value in done.recorded.items()
    )
    print(f"recorded   {said or 'nothing in the shards; K and data types are those of run.json'}\n")
    figures = done.figures.values()
    width = max(len(figure.title) for figure in figures)
    print(f"{'':<{width}} {'value':>10} {'bound':>10}")
    for figure in figures:
        bound = "" if figure.bound is None else f"{figure.bound:g}"
        mark = "EXCEEDED  " if figure.exceeded else ""
        line = f"{figure.title:<{width}} {figure.value:>10.3g} {bound:>10}  {mark}{figure.where}"
        print(line.rstrip())
