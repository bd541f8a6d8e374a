"""Starting the endpoint beside a Serve that is there already."""

import pytest

from lr_ray import embedded, serving
from lr_ray.config import Resources, Serving
from lr_ray.errors import StageError
from tests.ports import free_port


def test_serve_that_runs_already_is_left_alone(ray_cluster):
    from ray import serve

    serve.start(proxy_location="HeadOnly", http_options={"port": free_port()})
    try:
        with pytest.raises(StageError, match="already runs"):
            serving.start(
                {"expert": str(embedded.expert_path())}, Serving(port=free_port()), Resources()
            )
        assert serve.status().proxies
    finally:
        serve.shutdown()
