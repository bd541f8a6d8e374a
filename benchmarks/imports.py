"""What garbage collection costs while vLLM is imported, which each engine and replica does.

    python benchmarks/imports.py

CPU seconds of a fresh process that imports what the endpoint needs, as Python has it and as our processes do
it; medians of five pairs. The files are read before, so that the disk does not count.
"""

import statistics
import subprocess
import sys

PAIRS = 5
IMPORT = "from ray.serve.llm import LLMConfig"
SCRIPT = """
import time
{before}
    {it}
print(time.process_time())
"""
WAYS = {
    "collected": "if True:",
    "uncollected": "from lr_ray.runtime.imports import uncollected\nwith uncollected():",
}


def measure(way: str) -> float:
    script = SCRIPT.format(before=WAYS[way], it=IMPORT)
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return float(told.stdout.splitlines()[-1])


def main() -> None:
    measure("collected")
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for _ in range(PAIRS):
        for way, found in seconds.items():
            found.append(measure(way))
    medians = {way: statistics.median(found) for way, found in seconds.items()}
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(
        *(f"{way} {median:.2f} s" for way, median in medians.items()),
        f"ratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
        sep=", ",
    )


if __name__ == "__main__":
    main()
