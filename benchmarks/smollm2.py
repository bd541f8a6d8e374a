"""The pair of `recipes/smollm2.py`, for benchmarks, which are run as scripts."""

import checkout  # noqa: F401

from recipes.smollm2 import make_pair, missing

__all__ = ["make_pair", "missing"]
