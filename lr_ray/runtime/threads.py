"""Threads of the processes that compute on CPUs: engines, served replicas, training workers.

`benchmarks/threads.py` measures what their waiting costs; `pytest tests/unit/test_threads.py`.
"""

from lr_ray.config import Place

_SPIN = "1000"  # turns; fewer are slower where the cores are free, more where they are shared


def count(place: Place) -> int:
    """One for each whole CPU of the place, at least one."""
    return max(1, int(place.cpus))


def environment(place: Place) -> dict[str, str]:
    """Variables that a process needs before it imports torch.

    A thread that waits for the others of its process spins for microseconds and then sleeps. By GNU OpenMP's
    default it spins on, which takes the core from whatever else runs on it: the other model's engine, or
    another job.
    """
    return {"OMP_NUM_THREADS": str(count(place)), "GOMP_SPINCOUNT": _SPIN}
