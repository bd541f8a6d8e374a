"""Finished work of another run or comparison, taken over into the runs of a new one.

Exercised by `pytest tests/unit/test_taking.py`.
"""

from collections.abc import Sequence

from lr_ray.experiments.checks import ASKED
from lr_ray.pipeline.job import Job, facts
from lr_ray.pipeline.sharing import can_share, share
from lr_ray.run.asked import fingerprints_of
from lr_ray.run.rounds import later_rounds
from lr_ray.run.store import Run, read_asked


def runs_of(there: Run) -> list[Run]:
    """The run and its rounds, or all of a comparison's. Raises UserError when it is neither."""
    if not there.exists(ASKED):
        read_asked(there)
        return [there, *later_rounds(there)]
    names = ["base", *there.folders("sources"), *there.folders("variants")]
    return [run for run in map(there.child, names) if run.exists("run.json")]


def take(job: Job, others: Sequence[Run], stages: Sequence[str]) -> str | None:
    """Takes over what one of the others has finished of the first `stages`: the one with the most of them.

    Adds to `job.summary` and returns the location of the other one; None where none has any.
    """
    known = fingerprints_of(facts(job.config, job.expert, job.amateur))
    shared = [[s for s in can_share(other, job.config, known) if s in stages] for other in others]
    found = max(shared, key=len, default=[])
    if "scoring" not in found:  # trajectories alone would be decoded again
        return None
    best = others[shared.index(found)]
    with best.lock(shared=True):
        job.summary |= share(best, job.run, found)
    job.run.write_json("summary.json", job.summary)
    return best.location
