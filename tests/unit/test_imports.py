"""Imports without garbage collection, and with it again afterwards."""

import gc
import subprocess
import sys

import pytest

from lr_ray.runtime.imports import uncollected


def test_nothing_is_collected_inside_and_all_is_as_before_after_an_error():
    def fail():
        with uncollected():
            assert not gc.isenabled()
            raise ImportError

    assert gc.isenabled()
    with pytest.raises(ImportError):
        fail()
    assert gc.isenabled()


def test_a_process_that_collects_nothing_is_left_so():
    gc.disable()
    try:
        with uncollected():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_was_garbage_before_does_not_stay():
    script = """
import gc, weakref
from lr_ray.runtime.imports import uncollected
class Model: pass
model = Model()
model.itself, gone = model, weakref.ref(model)
del model
with uncollected():
    import doctest
print(gone())
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["None"]


def test_what_an_import_makes_is_not_looked_through_again():
    script = """
import gc
from lr_ray.runtime.imports import uncollected
with uncollected():
    import doctest
frozen = gc.get_freeze_count()
kept = [[]]
with uncollected():
    import doctest
print(frozen > 1000, gc.get_freeze_count() <= frozen, gc.is_tracked(kept))
"""
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["True", "True", "True"]
