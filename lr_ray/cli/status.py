"""Say where a run is, from any machine: a run of the pipeline, an evaluation, or a comparison.

lr-ray status --run DIR_OR_URI [--watch 10] [--json]

Reads the run directory alone, and writes nothing. A comparison's variants are runs of their own:
--run RUN/variants/NAME.
"""

import argparse
import json
import time

from lr_ray.cli.front import Parser, number


def main(argv: list[str]) -> int:
    from rich.console import Console

    from lr_ray.report.status import lines, look
    from lr_ray.run.store import Run

    options = _parse(argv)
    run, console = Run(options.run), Console(highlight=False, markup=False)
    while True:
        found = look(run)
        if options.json:
            print(json.dumps(found, allow_nan=False), flush=True)
        else:
            if options.watch:
                console.clear()  # a terminal; elsewhere it does nothing
            for label, text in lines(found):
                console.print(f"{label:<10} {text}", soft_wrap=True)
        if options.watch is None or (found["finished"] and not found["work"]["at_work"]):
            return 0
        if not (options.json or console.is_terminal):
            print(flush=True)
        time.sleep(options.watch)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(prog="lr-ray status", description=__doc__)
    parser.add_argument("--run", metavar="DIR_OR_URI", required=True, help="run directory")
    parser.add_argument(
        "--watch",
        metavar="SECONDS",
        type=number(float, "{} must be a number of seconds above 0, a day at most", most=86400),
        help="say it again so often, until the run is finished and nobody works on it",
    )
    parser.add_argument("--json", action="store_true", help="the same as a JSON object on a line")
    return parser.parse_args(argv)
