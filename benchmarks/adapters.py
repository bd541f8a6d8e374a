"""A comparison over merged models against one over adapters: the same answers, starts of endpoints, seconds.

    python benchmarks/adapters.py --from runs/compare --grid GRID.yaml --out runs/adapters [OPTION ...]

RUN is a finished comparison with that grid, whose trainings are taken over; the options are its own, but for
other problems (as --evaluation.max_problems 200), or its answers would be taken over too. Both are asked,
first merged, then with serving.adapters, in runs below OUT.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import checkout  # noqa: F401
import pyarrow.parquet as pq

from tests.ports import free_port


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--from", dest="source", required=True, metavar="RUN", help="a finished comparison")
    add("--grid", required=True, help="its grid")
    add("--out", required=True, type=Path, help="folder of both runs")
    args, options = parser.parse_known_args()
    runs = {}
    for name in ("merged", "adapters"):
        run = args.out / name
        command = [sys.executable, "-m", "lr_ray", "compare", "--run", str(run), *options]
        command += ["--grid", args.grid, "--from", args.source, f"--serving.port={free_port()}"]
        command += [f"--serving.adapters={str(name == 'adapters').lower()}"]
        began = time.monotonic()
        subprocess.run(command, check=True)
        runs[name] = _figures(run) | {"seconds": time.monotonic() - began}
    print(f"{'':<10} {'starts':>8} {'of that':>14} {'whole job':>11}")
    for name, found in runs.items():
        print(
            f"{name:<10} {found['starts']:>8} {found['starting']:>12.1f} s {found['seconds']:>9.1f} s"
        )
    merged, adapters = (found["answers"] for found in runs.values())
    same = sum(adapters[key] == answer for key, answer in merged.items())
    print(f"{same} of {len(merged)} answers are the same, to the character")


def _figures(run: Path) -> dict[str, Any]:
    answers, starts = {}, set()
    for cell in sorted((run / "variants").iterdir()):
        summary = json.loads((cell / "summary.json").read_text())
        starts.add(summary["serving"]["seconds"])  # those that started together say the same
        for file in sorted((cell / "evaluation").glob("*.parquet")):
            for row in pq.read_table(file).to_pylist():
                for label in ("expert", "improved"):
                    key = cell.name, file.stem, row["problem_id"], row["sample"], label
                    answers[key] = row[f"{label}_completion"]
    return {"answers": answers, "starts": len(starts), "starting": sum(starts)}


if __name__ == "__main__":
    main()
