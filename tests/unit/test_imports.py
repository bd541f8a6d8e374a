"""Imports without garbage collection, and with it again afterwards."""

import gc

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
