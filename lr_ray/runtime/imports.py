"""Imports of large libraries, which take each process seconds. `benchmarks/imports.py` measures them."""

import contextlib
import gc
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """No garbage collection while modules are imported, nor later of what they made: nearly all of it stays.

    vLLM collects all garbage three times as an engine starts.
    """
    was, before = gc.isenabled(), len(sys.modules)
    if was:
        gc.collect()  # what is garbage by now, such as a user's model on a GPU, would stay for good
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > before:  # else there may be an engine to collect, and nothing to save
            gc.freeze()
        if was:
            gc.enable()
