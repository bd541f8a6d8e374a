"""Make a run of sample files of the published LightReasoner code, ready for lr-ray train.

lr-ray import --config NAME --run RUN --samples FILE [FILE ...]

FILE is a path or an fsspec URI. lr_ray.interop says what such a file holds.
"""

import argparse
from typing import TYPE_CHECKING, Any

from lr_ray.cli.options import Command, parse
from lr_ray.console import StageProgress, quiet_others
from lr_ray.errors import UserError, counted
from lr_ray.models.models import resolve_model
from lr_ray.pipeline.job import facts
from lr_ray.run.asked import IMPORTED, begin
from lr_ray.run.store import Run, read_summary
from lr_ray.runtime.progress import FILE, recorded

if TYPE_CHECKING:
    from lr_ray.interop.form import Expert


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--samples",
        metavar="FILE",
        nargs="+",
        action="extend",
        required=True,
        help="paths or URIs of JSONL files",
    )


def main(argv: list[str]) -> int:
    shown = ["models", "sampling.system_prompt"]
    command = parse(__doc__, argv, _add_options, prog="lr-ray import", shown=shown)
    from lr_ray.interop.form import Expert
    from lr_ray.interop.reading import check_files, remove_leftovers

    config, run, files = command.config, command.run, command.options.samples
    run.create()
    with run.lock():
        if is_begun := run.exists("run.json"):
            begin(run, config, None)
        summary = read_summary(run)
        if "sampling" in summary:
            raise UserError(f"--run {run.location}: has supervision already; give another --run")
        model = resolve_model(config.models.expert, "models.expert")
        expert = Expert(model, config.sampling.system_prompt, config.models.chat_template_kwargs)
        size = check_files(files, expert)
        remove_leftovers(run)
        known = facts(config, model, None) | {"data": IMPORTED}
        # None: it was not looked at, and sampling into this run is refused.
        known["models"]["amateur"] = {"path": config.models.amateur, "fingerprint": None}
        begin(run, config, known)
        log = run.log_path()
        print(f"config     {command.config_name}\nrun        {run.location}\nlog        {log}")
        try:
            part = _imported(command, expert, size, log)
        except UserError:
            if not is_begun:
                _unbegin(run)
            raise
        total = summary.get("seconds_total", 0.0) + part["seconds"]
        run.write_json("summary.json", summary | {"sampling": part, "seconds_total": total})
    _report(part, expert.system_prompt, run)
    return 0


def _imported(command: Command, expert: "Expert", size: int, log: str) -> dict[str, Any]:
    from lr_ray.interop.reading import import_files

    config, run, read = command.config, command.run, 0
    with (
        quiet_others(log) as console,
        recorded(run),
        StageProgress(console, "importing", size >> 20, "MiB") as progress,
    ):

        def on_progress(count: int) -> None:
            nonlocal read
            read += count
            progress.update(read >> 20)

        return import_files(run, config, expert, command.options.samples, on_progress)


def _unbegin(run: Run) -> None:
    """Leaves of files that were refused the reasons alone."""
    run.remove(FILE)
    run.remove("run.json")
    if run.is_new:
        run.remove("logs")


def _report(part: dict[str, Any], system_prompt: str | None, run: Run) -> None:
    """What came in, what differs from what was sampled, and what no such file holds."""
    from lr_ray.interop.form import PUBLISHED_SYSTEM_PROMPT

    print(
        f"imported   {counted(part['lines'], 'line')}: {counted(part['steps_kept'], 'kept step')} in "
        f"{counted(part['trajectories'], 'trajectory')} of {counted(part['problems'], 'problem')}, "
        f"{counted(part['rejected'], 'line')} rejected, {part['seconds']:.1f} s\n"
        f"contexts   {part['steps_from_text']} of {part['steps_kept']} steps tokenized from text, "
        f"{part['steps_retokenized']} with another number of tokens than their step says; "
        f"{part['trajectories_split']} trajectories for steps that nest in no other"
    )
    if part["problems_repeated"]:
        print(
            f"repeated   {part['problems_repeated']} times lines of a problem came after another "
            "problem's: sorted by prompt_id and step, they share trajectories"
        )
    if part["prompts_rendered"]:
        asked = "none" if system_prompt is None else repr(system_prompt)
        if system_prompt != PUBLISHED_SYSTEM_PROMPT:
            asked += f"; the published code's is {PUBLISHED_SYSTEM_PROMPT!r}"
        print(
            f"prompt     {part['prompts_rendered']} steps: rendered from prompt_id with "
            f"sampling.system_prompt {asked}"
        )
    print(
        "lost       not in such files: trajectories from their last kept step on, the KL of steps "
        "not kept,\n"
        "           token ids of text-only prefixes, finish reasons, label mass beyond the rows "
        "both models have\n"
        f"output     {run.location}   next: lr-ray train --run {run.location}"
    )
