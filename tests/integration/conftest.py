"""One Ray cluster for all integration tests, and one sampled run of the embedded pair."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.smollm2 import make_pair, missing
from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.run.store import Run

EXPERT, AMATEUR = str(expert_path()), str(amateur_path())


def demo_config(**sections) -> Config:
    return resolve(merge(read_tree("demo"), sections))


@pytest.fixture(scope="session")
def ray_cluster():
    from lr_ray.runtime.cluster import cluster

    with cluster() as logs:
        yield logs


@pytest.fixture(scope="session")
def smollm2() -> tuple[str, str]:
    """Directories of a real expert (SmolLM2-135M-Instruct) and an amateur made from it."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    expert, amateur = make_pair()
    return str(expert), str(amateur)


@dataclass
class Sampled:
    """A run whose sampling stage is finished."""

    run: Run
    config: Config
    summary: dict
    progress: list
    activity: list  # notes and seconds left


@pytest.fixture(scope="session")
def sampled(ray_cluster, tmp_path_factory) -> Sampled:
    return sample_demo(tmp_path_factory.mktemp("sampled"), options={"keep_trajectories": True})


def sample_demo(folder: Path, data=None, options=None, resources=None, **sampling) -> Sampled:
    from lr_ray.sampling.sample import sample

    config = demo_config(
        sampling={"max_problems": 64, "batch_size": 16} | sampling,
        data=data or {},
        resources=resources or {},
    )
    run = Run(str(folder))
    progress: list = []
    activity: list = []
    arguments = {
        "amateur": AMATEUR,
        "on_progress": lambda *seen: progress.append(seen),
        "on_activity": lambda *seen: activity.append(seen),
    }
    summary = sample(run, config, EXPERT, **arguments | (options or {}))
    return Sampled(run, config, summary, progress, activity)
