"""Whether a cluster has room for what a stage asks for at once."""

import pytest

from lr_ray.errors import StageError
from lr_ray.placement import await_room


def test_room_that_is_there_is_left_free(ray_cluster):
    import ray

    everything = {"expert": [{"CPU": ray.cluster_resources()["CPU"]}]}
    await_room(everything, 0)
    await_room(everything, 0)


def test_what_no_node_has_is_named(ray_cluster):
    wanted = {"expert": [{"CPU": 1.0}], "amateur": [{"CPU": 1.0, "GPU": 3.0}]}
    with pytest.raises(
        StageError, match=r"^resources\.amateur: no node has 1 CPU, 3 GPU; there are"
    ):
        await_room(wanted, 0)


def test_what_does_not_fit_at_once_is_told(ray_cluster):
    import ray

    half = {"CPU": ray.cluster_resources()["CPU"] * 0.6}
    with pytest.raises(StageError, match=r"no room for 1 expert .*, 1 amateur .* at once"):
        await_room({"expert": [half], "amateur": [half]}, 0)
