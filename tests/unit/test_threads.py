"""Every process that computes on CPUs has the threads of its place, and they soon sleep while they wait."""

import pytest

from lr_ray.config import Place, Pool, Serving
from lr_ray.embedded import expert_path
from lr_ray.sampling.graph import pool_options
from lr_ray.serving.application import model_options
from lr_ray.training.train import cpu_env


def environments(place: Place) -> dict[str, dict[str, str]]:
    return {
        "engine": pool_options(Pool(), place, 1)["runtime_env"]["env_vars"],
        "replica": model_options("m", str(expert_path()), Serving(), place)["runtime_env"]["env_vars"],
        "worker": cpu_env(place),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("cpus", "threads"), [(0, "1"), (0.5, "1"), (1, "1"), (2.5, "2"), (3, "3")]
)
def test_a_process_without_a_gpu_has_a_thread_for_each_whole_cpu(cpus, threads):
    for role, found in environments(Place(gpus=0, cpus=cpus)).items():
        assert found["OMP_NUM_THREADS"] == threads, role
        assert int(found["GOMP_SPINCOUNT"]) <= 1000, role
