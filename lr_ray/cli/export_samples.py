"""Write a run's supervision as a sample file that the published LightReasoner code can train on.

lr-ray export --run RUN --out FILE [--overwrite]

FILE is a path or an fsspec URI. lr_ray.interop says what such a file holds.
"""

import argparse
import time

from lr_ray.cli.options import parse
from lr_ray.console import quiet_others
from lr_ray.errors import UserError, counted
from lr_ray.models.models import resolve_model
from lr_ray.pipeline.job import facts
from lr_ray.run.asked import check_made
from lr_ray.run.store import read_asked, read_summary


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", metavar="FILE", required=True, help="path or URI to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a file that is there")


def main(argv: list[str]) -> int:
    command = parse(__doc__, argv, _add_options, prog="lr-ray export", shown=["models.expert"])
    from lr_ray.interop.form import PUBLISHED_SYSTEM_PROMPT, Expert
    from lr_ray.interop.writing import check_out, export

    started = time.monotonic()
    config, run, out = command.config, command.run, command.options.out
    read_asked(run)
    if "sampling" not in read_summary(run):
        raise UserError(f"--run {run.location}: sampling is not finished, and export needs it")
    if config.sampling.method == "rejection":
        raise UserError(
            "sampling.method = rejection: its rows have no KL, which a samples file needs"
        )
    model = resolve_model(config.models.expert, "models.expert")
    check_out(out, command.options.overwrite)
    expert = Expert(model, config.sampling.system_prompt, config.models.chat_template_kwargs)
    with run.lock(shared=True):
        check_made(run, config, "labelling", facts(config, model, None, run))
        with quiet_others(run.log_path()):
            counts = export(run, expert, out)
    steps = counts["steps"]
    print(
        f"exported   {counted(steps, 'kept step')} of {counted(counts['trajectories'], 'trajectory')}, "
        f"{time.monotonic() - started:.1f} s\n"
        f"exact      for lr-ray import, but for trajectories after their last kept step, "
        "the KL of\n           other steps, and finish reasons\n"
        f"published  its training sees another context at {counts['steps_retokenized']} of {steps} "
        "steps, whose prefix tokenizes otherwise,\n"
        f"           drops label tokens at {counts['steps_beyond']} steps (added tokens), "
        f"and cannot read {counts['prompts_unread']} trajectories' problem"
    )
    if config.sampling.system_prompt != PUBLISHED_SYSTEM_PROMPT:
        asked = "none" if expert.system_prompt is None else repr(expert.system_prompt)
        print(f"           its system prompt is {PUBLISHED_SYSTEM_PROMPT!r}, this run's is {asked}")
    print(f"output     {out}")
    return 0
