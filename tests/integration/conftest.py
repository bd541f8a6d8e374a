"""One Ray cluster for all integration tests, and one sampled run of the embedded pair."""

import fcntl
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.console import quiet_others
from lr_ray.embedded import amateur_path, expert_path
from lr_ray.run.store import Run
from recipes.smollm2 import make_pair, missing
from tests.integration.jobs import run_here
from tests.integration.nodes import Nodes

STEPS, EVERY = 80, 10  # optimizer steps, and those from one checkpoint to the next
# The whole pipeline as small as its stages can be interrupted in.
WHOLE = [
    "--config", "demo", "--sampling.max_problems=64", "--sampling.batch_size=4",
    f"--training.optimizer_steps={STEPS}", f"--training.checkpoint_every={EVERY}",
    "--evaluation.max_problems=40",
]  # fmt: skip
REJECTION = {"method": "rejection", "max_problems": 24, "rejection": {"samples": 3}}
SECRET_OF_HEAD = f"hf_planted{uuid.uuid4().hex}"
EXPERT, AMATEUR = str(expert_path()), str(amateur_path())


def demo_config(**sections) -> Config:
    return resolve(merge(read_tree("demo"), sections))


@pytest.fixture(scope="session")
def ray_cluster():
    from lr_ray.runtime.cluster import cluster

    with cluster() as logs:
        yield logs


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory) -> tuple[str, str]:
    """Directories of a real expert (SmolLM2-135M-Instruct) and an amateur made from it."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    lock_file = tmp_path_factory.getbasetemp().parent / "smollm2.lock"
    with lock_file.open("w") as lock:  # another worker of pytest may be making it
        fcntl.flock(lock, fcntl.LOCK_EX)
        expert, amateur = make_pair()
    return str(expert), str(amateur)


@pytest.fixture(scope="session")
def whole(ray_cluster, tmp_path_factory) -> Path:
    """The folder of a run that has sampled and trained, and that nothing has disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    for job in ("sample", "train"):
        done = run_here(job, *WHOLE, "--run", str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def nodes(tmp_path_factory) -> Iterator[Nodes]:
    """A head of four CPUs that others may join, with a secret in its environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_TOKEN", SECRET_OF_HEAD)
        nodes = Nodes(tmp_path_factory.mktemp("nodes"))
    yield nodes
    nodes.end()


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


@dataclass
class Watched(Sampled):
    """A run of every step of 16 problems, and what was seen of it from outside."""

    log: str = ""  # the driver's
    actors: tuple[str, ...] = ()  # named ones, while it was under way


@pytest.fixture(scope="session")
def cut(ray_cluster, tmp_path_factory) -> Watched:
    """With the fewest tokens that models can exchange; plausible sets beyond them are completed."""
    import ray

    folder, names = tmp_path_factory.mktemp("cut"), set()

    def look(total, facts, shard):
        if facts.problems:
            names.update(actor["name"] for actor in ray.util.list_named_actors(True))

    log = folder / "driver.log"
    with quiet_others(str(log)):
        made = sample_demo(
            folder / "run", options={"on_progress": look},
            top_k=2, kl_threshold=0.0, max_problems=16, batch_size=4,
        )  # fmt: skip
    return Watched(**vars(made), log=log.read_text(), actors=tuple(names))


@pytest.fixture(scope="session")
def rejected(ray_cluster, tmp_path_factory) -> Sampled:
    """Solutions that the expert has sampled itself, the right ones kept; 24 problems in one batch."""
    folder = tmp_path_factory.mktemp("rejected")
    return sample_demo(folder, options={"amateur": None}, batch_size=24, **REJECTION)


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
