"""The pair of `recipes/smollm2.py`, for benchmarks, which are run as scripts."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))

from recipes.smollm2 import make_pair

__all__ = ["make_pair"]
