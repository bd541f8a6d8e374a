"""reasoning-gym's procedural generators as sources and benchmarks: see lr_ray.grading.gym.

pytest tests/unit/test_gym.py
"""

import contextlib
import ctypes
import itertools
import threading
from collections.abc import Callable, Iterator
from typing import Any

from lr_ray.problems.rows import Row, digest

_BARREN = 1000  # draws without a problem that is new, after which there are no more
_TEST_SIZE = 500
# Their problems hang on the order of Python's sets, which is another one in each process: the grader would
# make another problem than was asked.
_BY_PROCESS = ("isomorphic_strings", "knight_swap", "polynomial_multiplication", "ransom_note")
_FIRST_S = 30.0  # that a generator has for its first problem; some search a space without an end
_ANY = "whatever the verifier accepts"  # in the place of an answer, where the generator gives none


def rows(parameter: str, split: str, seed: int) -> Iterator[Row]:
    """Problems of a generator, no text twice; `size` says how many, else train comes to no end.

    A problem is of split test where a hash of its text says so (a quarter is), else of train: whatever
    seeds and parameters are, what is sampled and what is held out never meet. Raises ValueError for a
    bad split, name or parameter, and where there is no first problem within _FIRST_S.
    """
    try:
        from lr_ray.grading.gym import CHUNK, asked, made
    except ModuleNotFoundError as error:
        raise ValueError(f"no module {error.name}; pip install '.[domains]'") from None
    if split not in ("train", "test"):
        raise ValueError(f"no split {split!r}; there are 'train' and 'test'")
    start = (2 * seed + (split == "test") << 20) % 2**32
    name, given = asked(parameter)
    if name in _BY_PROCESS:
        raise ValueError(f"{name} makes other problems in each process; take another generator")
    size = given.pop("size", _TEST_SIZE if split == "test" else None)
    if size is not None and (type(size) is not int or size < 1):
        raise ValueError(f"size={size}: must be a whole number above 0")
    _check_begins(lambda: made(parameter, start, 0), parameter)
    seen: set[str] = set()
    barren = 0
    for chunk in itertools.count(start, CHUNK):
        for index in range(CHUNK):
            if len(seen) == size or barren == _BARREN:
                return
            entry = made(parameter, chunk, index)
            key = digest(entry["question"])
            barren += 1
            if (int(key, 16) % 4 == 0) == (split == "test") and key not in seen:
                seen.add(key)
                barren = 0
                answer = _ANY if entry["answer"] is None else str(entry["answer"])
                row = {"problem": entry["question"], "answer": answer, "grader": "reasoning_gym"}
                yield row | {"generator": parameter, "seed": chunk, "index": index}


def _check_begins(make: Callable[[], Any], parameter: str) -> None:
    """Raises ValueError where the first problem is not made in time, and has its thread end."""

    def attempt() -> None:
        with contextlib.suppress(Exception):  # told when the problem is made again
            make()

    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(_FIRST_S)
    if thread.is_alive():
        ended = ctypes.py_object(SystemExit)  # raised in the thread, at its next line of Python
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), ended)
        raise ValueError(
            f"{parameter}: no problem within {_FIRST_S:.0f} s; give smaller parameters"
        )
