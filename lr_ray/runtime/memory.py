"""The most memory that a process has held so far.

Exercised by `pytest tests/unit/test_activity.py tests/integration/test_sampling.py`.
"""

import re
import sys
from pathlib import Path


def peak() -> dict[str, int]:
    """Of this process: `host_bytes`, resident, and `gpu_bytes`, which torch reserved, where it used a GPU."""
    # getrusage would tell of the process that started this one where that was larger.
    told = re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    found = {"host_bytes": int(told[1]) * 1024} if told else {}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        devices = range(torch.cuda.device_count())
        found["gpu_bytes"] = sum(map(torch.cuda.max_memory_reserved, devices))
    return found


def largest(first: dict[str, int], second: dict[str, int]) -> dict[str, int]:
    """The larger of two processes' figures, each by itself."""
    return {n: max(first.get(n, 0), second.get(n, 0)) for n in {**first, **second}}
