"""Serve models behind an OpenAI-compatible endpoint until Ctrl-C: a run's two, or any directories.

lr-ray serve --run runs/demo [--serving.port 8000]
lr-ray serve --models small=DIR,large=DIR [--resources.server.gpus 1]

With LR_RAY_API_KEY set, requests need it. On Ctrl-C or SIGTERM requests under way finish first.
"""

import argparse
import contextlib
import signal
import tempfile
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from lr_ray import serving
from lr_ray.cli.options import Command, parse
from lr_ray.config import Config, ServeConfig, Serving
from lr_ray.console import quiet_others
from lr_ray.doctor import check_serving
from lr_ray.errors import UserError, counted
from lr_ray.models.adapters import check_on_gpu, with_adapters
from lr_ray.models.models import fitting, resolve_all, resolve_model
from lr_ray.pipeline.job import facts, improved
from lr_ray.placement.arrange import for_serving
from lr_ray.placement.site import connected
from lr_ray.placement.sizes import largest
from lr_ray.run.asked import check_made
from lr_ray.run.paths import temporary
from lr_ray.run.rounds import result_of
from lr_ray.run.store import read_asked, read_summary
from lr_ray.runtime import interrupts
from lr_ray.runtime.cluster import cluster
from lr_ray.runtime.connection import read_key
from lr_ray.serving.application import KEY_VARIABLE

_WAIT_S = 3600.0
_PROG = "lr-ray serve"
SHOWN = ("models.expert", "serving", "resources.server", "resources.wait_s")


def main(argv: list[str]) -> int:
    if any(argument.split("=")[0] == "--models" for argument in argv):
        shown = [*SHOWN, "models"]
        return serve_models(parse(__doc__, argv, None, ServeConfig, {}, _PROG, shown))
    return serve_run(parse(__doc__, argv, _add_options, prog=_PROG, shown=SHOWN))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--models",
        action="append",
        metavar="NAME=DIR,...",
        help="served names and model directories, instead of a run's",
    )


def serve_run(command: Command[Config]) -> int:
    """Serves a run's expert and improved expert, of rounds the result's. Ends by an interruption only."""
    config, run = command.config, command.run
    read_asked(run)
    if "training" not in read_summary(run):
        raise UserError(f"--run {run.location}: training is not finished, and serving needs it")
    key = read_key(KEY_VARIABLE)
    serving.check_port(config.serving)
    check_serving(config.resources, config.serving, run)
    expert = resolve_model(config.models.expert, "models.expert")
    with run.lock(shared=True):
        check_made(run, config, "training", facts(config, expert, None, run))
        log = run.log_path()
        made = result_of(run)
        print(f"run        {made.location}\nlog        {log}")
        with temporary() as cache:
            # The adapter of a later round stands on the round before it.
            folder = improved(config) if made.location == run.location else "model"
            models = {"expert": expert, "improved": made.local_folder(folder, cache)}
            return _serve(models, config, log, key, config.models.chat_template_kwargs)


def serve_models(command: Command[ServeConfig]) -> int:
    """Serves model directories, of no run. Ends by an interruption only."""
    config = command.config
    if command.options.run is not None:
        raise UserError(
            f"--run {command.options.run}: --models serves directories, of no run; give one of the two"
        )
    key = read_key(KEY_VARIABLE)
    serving.check_port(config.serving)
    check_serving(config.resources, config.serving)
    models = resolve_all(config.models)
    log = tempfile.mkstemp(prefix="lr_ray-", suffix=".log")[1]
    print(f"log        {log}")
    return _serve(models, config, log, key, {})


def _serve(
    models: dict[str, str],
    config: Config | ServeConfig,
    log: str,
    key: str | None,
    variables: Mapping[str, Any],
) -> int:
    """Returns the exit code once Ctrl-C has ended it."""
    whole, adapters = with_adapters(models)
    settings, resources = fitting(config.serving, whole), config.resources
    with contextlib.ExitStack() as stack:
        if resources.server.gpus != 0:
            if adapters:
                check_on_gpu(settings.dtype)
            found = stack.enter_context(connected())
            place = for_serving(
                settings, resources.server, largest(whole, adapters), len(whole), found
            )
            resources = resources.model_copy(update={"server": place})
        console = stack.enter_context(quiet_others(log))
        stack.enter_context(cluster())
        console.print(f"serving    starting {', '.join(models)}")
        say = lambda said: console.print(f"serving    {said}")  # noqa: E731
        url = serving.start(
            models, settings, resources, on_waiting=say, key=key, variables=variables
        )
        locked = f"key from {KEY_VARIABLE}" if key else "no key"
        console.print(f"serving    {url}  models: {', '.join(models)}  {locked}  (Ctrl-C ends it)")
        with interrupts.patience(settings.drain_s):
            try:
                while True:
                    time.sleep(_WAIT_S)
            except KeyboardInterrupt:  # the way to end it, and no interruption of any work
                return interrupts.EXIT_CODES[signal.SIGINT]
            finally:
                _end(console, settings)


def _end(console: Console, settings: Serving) -> None:
    shown = 0

    def on_waiting(under_way: int) -> None:
        nonlocal shown
        if under_way != shown:
            console.print(f"serving    ending; waits for {counted(under_way, 'request')} under way")
        shown = under_way

    try:
        left = serving.drain(settings.drain_s, on_waiting)
        cut = f"; cut off {counted(left, 'request')}" if left else ""
        console.print(f"serving    ended{cut}")
    finally:
        serving.stop()
