"""Imported by benchmarks, which are run as scripts, to have the checkout's `tests` and `recipes`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))
