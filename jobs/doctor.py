"""Say what this machine or cluster has and lacks, before anything runs. Exit code 0: fit, 2: not.

python jobs/doctor.py [--config NAME_OR_PATH] [--run DIR_OR_URI] [--json]

Without --config it looks at what the installed packages are made for. With RAY_ADDRESS it looks at each
node of that cluster too.
"""

import argparse
import sys

from lr_ray.cli.doctor import as_json, examine, is_fit, show
from lr_ray.cli.front import Parser, guarded


def parse(argv: list[str]) -> argparse.Namespace:
    parser = Parser(description=" ".join(__doc__.split()), allow_abbrev=False)
    parser.add_argument("--config", metavar="NAME_OR_PATH", help="preset or YAML file to judge by")
    parser.add_argument("--run", metavar="DIR_OR_URI", help="where it would run")
    parser.add_argument("--json", action="store_true", help="the same as a JSON object on a line")
    return parser.parse_args(argv)


def work(options: argparse.Namespace) -> int:
    found = examine(options.config, options.run)
    if options.json:
        print(as_json(found))
    else:
        show(found)
    return 0 if is_fit(found) else 2


if __name__ == "__main__":
    raise SystemExit(guarded(lambda: work(parse(sys.argv[1:]))))
