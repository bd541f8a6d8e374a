"""How large the page of a big evaluation is, and how long a browser takes to show it.

    python benchmarks/page.py [--problems 13500] [--words 170] [--out FOLDER]

Answers are made up, of `--words` words on average. Prints seconds to write, megabytes, and with chromium
the seconds until the page is loaded and until the first answers are unpacked and shown.
"""

import argparse
import tempfile
import time
from pathlib import Path

import checkout  # noqa: F401

from lr_ray.report.page import PAGE, write_page
from lr_ray.run.store import Run
from tests.browser import CHROMIUM, browser
from tests.made_up import made_up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--problems", type=int, default=13_500)
    parser.add_argument("--words", type=int, default=170)
    parser.add_argument("--out", help="folder that keeps the run; without it, a temporary one")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = Run(options.out or folder)
        summary = made_up(run, options.problems, 500, options.words)
        started = time.monotonic()
        write_page(run, summary)
        file = Path(run.path(PAGE))
        print(f"written    {time.monotonic() - started:.1f} s")
        print(f"size       {file.stat().st_size / 1e6:.2f} MB for {options.problems} problems")
        if CHROMIUM is None:
            print("loaded     not measured: no chromium")
            return
        with browser() as page:
            print(f"loaded     {page.open(file):.2f} s")
            started = time.monotonic()
            page.evaluate("document.querySelector('#answers').scrollIntoView()")
            page.wait("document.querySelectorAll('#answers-list ins').length > 0")
            print(f"answers    {time.monotonic() - started:.2f} s after they come into view")
            print(f"console    {page.errors or 'no error'}")


if __name__ == "__main__":
    main()
