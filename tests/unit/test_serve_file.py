"""cluster/serve.yaml, by Serve's own schema and by ours; nothing here starts Ray."""

import importlib
from pathlib import Path

import pytest
import yaml

from lr_ray.config import ServeConfig, resolve
from lr_ray.errors import UserError

FILE = yaml.safe_load((Path(__file__).parents[2] / "cluster/serve.yaml").read_text())


def test_the_file_is_what_serve_deploys():
    from ray.serve.schema import ServeDeploySchema

    (application,) = ServeDeploySchema.model_validate(FILE).applications
    module, name = application.import_path.split(":")
    assert callable(getattr(importlib.import_module(module), name))
    assert FILE["http_options"]["host"] == "127.0.0.1"


def test_its_arguments_are_models_and_the_serving_section():
    config = resolve(FILE["applications"][0]["args"], ServeConfig)
    assert set(config.models) == {"expert", "improved"}
    assert (config.serving.min_replicas, config.serving.max_replicas) == (1, 4)


def test_a_misspelt_argument_is_named():
    arguments = FILE["applications"][0]["args"]
    with pytest.raises(UserError, match=r"serving\.prot; did you mean serving\.port"):
        resolve(arguments | {"serving": {"prot": 1}}, ServeConfig)
