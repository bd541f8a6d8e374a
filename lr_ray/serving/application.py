"""The Serve application: one deployment a model, and one ingress replica before them.

Built by `endpoint.start`, and by `serve deploy cluster/serve.yaml` through `build`.
pytest tests/integration/endpoint/test_serving.py
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lr_ray.config import Place, ServeConfig, Serving
from lr_ray.config.resources import AUTO
from lr_ray.engines import vllm
from lr_ray.models.adapters import check_on_gpu, engine_options, with_adapters
from lr_ray.models.files import text_config, vocabulary_rows, whole_number
from lr_ray.models.models import fitting, resolve_all
from lr_ray.placement.arrange import for_serving
from lr_ray.placement.cards import of_cluster
from lr_ray.placement.needs import replica_bundles
from lr_ray.placement.processes import SEQUENCES
from lr_ray.placement.sizes import largest
from lr_ray.runtime import threads
from lr_ray.runtime.connection import read_key
from lr_ray.runtime.imports import uncollected
from lr_ray.serving.guard import digest

KEY_VARIABLE = "LR_RAY_API_KEY"
LOGS = {"log_level": "WARNING", "enable_access_log": False}
# A dead replica is seen at once; one that takes long to say that it is well has a busy machine. Three such
# answers too late, after Ray's ten seconds, replace it and lose what it was at.
_HEALTH_TIMEOUT_S = 60.0
# The cache of a CPU engine holds this many full-length sequences, within these bytes.
_CPU_CACHE_SEQUENCES = 64
_CPU_CACHE_BYTES = 2**30
_CACHE_BLOCK_TOKENS = 128


def build(config: ServeConfig) -> Any:
    """The application of a Serve config file, `config` being its args. The key is LR_RAY_API_KEY's."""
    models = resolve_all(config.models)
    key, place = read_key(KEY_VARIABLE), config.resources.server
    whole, adapters = with_adapters(models)
    serving = fitting(config.serving, whole)
    if adapters and place.gpus != 0:
        check_on_gpu(serving.dtype)
    if place.gpus == AUTO:
        place = for_serving(serving, place, largest(whole, adapters), len(whole), of_cluster())
    return build_application(models, serving, place, key, {})


def build_application(
    models: dict[str, str],
    serving: Serving,
    place: Place,
    key: str | None,
    variables: Mapping[str, Any],
) -> Any:
    """`models` maps served names to directories; with a `key`, requests need it.

    Adapters among them answer on the engine of the one model that is there (UserError where it is not one).
    `variables` are those of the chat templates where a request gives no others.
    """
    import ray

    with _loggers_kept(), uncollected():
        from ray import serve
        from ray.llm._internal.serve.core.configs.openai_api_models import ModelCard
        from ray.serve.llm import LLMConfig, build_llm_deployment

        from lr_ray.serving.ingress import ingress_class
        from lr_ray.serving.server import LLMServer
    # A deployment's environment replaces the job's instead of adding to it.
    inherited = ray.get_runtime_context().runtime_env.get("env_vars", {})
    whole, adapters = with_adapters(models)
    deployments, cards = {}, {}
    for name, path in whole.items():
        options = model_options(name, path, serving, place, variables)
        options["engine_kwargs"] |= engine_options(adapters)
        options["runtime_env"]["env_vars"] = inherited | options["runtime_env"]["env_vars"]
        with _loggers_kept():
            # It logs the environment, in which a job's submitter may have put secrets.
            logging.getLogger("ray.serve").setLevel(logging.WARNING)
            deployments[name] = build_llm_deployment(LLMConfig(**options), deployment_cls=LLMServer)
        cards[name] = ModelCard(
            id=name,
            object="model",
            owned_by="lr_ray",
            permission=[],
            metadata={"max_model_len": serving.max_model_len},
        )
    hosts = dict.fromkeys(adapters, next(iter(whole)))
    ingress = serve.deployment(
        ingress_class(
            digest(key) if key else None,
            serving.max_requests,
            hosts,
            {name: vocabulary_rows(path) for name, path in whole.items()},
        ),
        name="Ingress",
        num_replicas=1,
        max_ongoing_requests=2 * serving.max_requests,  # the guard answers those beyond
        logging_config=LOGS,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        graceful_shutdown_timeout_s=serving.drain_s,
        # Placed by memory and load, not by CPUs: engines may have reserved them all.
        ray_actor_options={"num_cpus": 0},
    )
    return ingress.bind(llm_deployments=deployments, model_cards=cards)


def model_options(
    name: str, path: str, serving: Serving, place: Place, variables: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Arguments of `LLMConfig` for the model directory `path`, served as `name`."""
    on_gpu = not vllm.on_cpu()
    engine: dict[str, Any] = {"dtype": serving.dtype, "max_model_len": serving.max_model_len}
    engine |= vllm.HF_FORM
    if next(Path(path).rglob("consolidated*.safetensors"), None):  # at which vLLM takes Mistral's
        engine["tokenizer_mode"] = "hf"
    if variables:
        engine["default_chat_template_kwargs"] = dict(variables)
    environment = dict(vllm.SERVED_ENV)
    if on_gpu:
        engine |= vllm.gpu_options(place) | vllm.GRAPHS_ALONE
        # What placement counts; vLLM takes 1024 where the whole GPU is large, of a slice of one (MIG) too.
        engine["max_num_seqs"] = SEQUENCES
    else:
        engine |= vllm.WHOLE_PROMPTS | {
            "enforce_eager": True,
            "disable_log_stats": True,
            "kv_cache_memory_bytes": cpu_cache_bytes(path, serving),
        }
        environment |= threads.environment(place) | {
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "RAYLLM_VLLM_ENGINE_CLS": "lr_ray.serving.application.cpu_engine",
        }
    if 0 < place.gpus < 1:  # ray.llm tells a task that prepares the replica, not the replica
        environment["VLLM_RAY_PER_WORKER_GPUS"] = f"{place.gpus:g}"
    return {
        "model_loading_config": {"model_id": name, "model_source": path},
        "placement_group_config": {"bundles": replica_bundles(place)},
        "deployment_config": {
            **_replicas(serving),
            "max_constructor_retry_count": 2,
            "health_check_timeout_s": _HEALTH_TIMEOUT_S,
            # Of one that is scaled away or replaced; Ray's 20 s cut answers that take longer.
            "graceful_shutdown_timeout_s": serving.drain_s,
            "logging_config": LOGS,
            # The bundle holds what the engine takes; the replica itself adds nothing to it.
            "ray_actor_options": {"num_cpus": 0},
        },
        "engine_kwargs": engine,
        "log_engine_metrics": on_gpu,
        "runtime_env": {"env_vars": environment},
    }


def _replicas(serving: Serving) -> dict[str, Any]:
    if serving.max_replicas in (None, serving.replicas):
        return {"num_replicas": serving.replicas}
    return {
        "autoscaling_config": {
            "min_replicas": serving.replicas,
            "max_replicas": serving.max_replicas,
            "target_ongoing_requests": serving.replica_requests,
        }
    }


def cpu_cache_bytes(path: str, serving: Serving) -> int:
    """Bytes of a CPU engine's key-value cache: never less than one full-length sequence needs."""
    config, heads = text_config(path), whole_number(path, "num_attention_heads")
    named = config.get("head_dim") is not None
    head_dim = (
        whole_number(path, "head_dim") if named else whole_number(path, "hidden_size") // heads
    )
    size = 4 if serving.dtype == "float32" else 2
    row = whole_number(path, "num_key_value_heads", "num_attention_heads") * head_dim * size
    tokens = (serving.max_model_len // _CACHE_BLOCK_TOKENS + 1) * _CACHE_BLOCK_TOKENS
    sequence = 2 * whole_number(path, "num_hidden_layers") * row * tokens
    return int(max(sequence, min(_CPU_CACHE_SEQUENCES * sequence, _CPU_CACHE_BYTES)))


def cpu_engine(llm_config: Any) -> Any:
    """The engine of a CPU replica, in two processes instead of five.

    `ray.serve.llm` would run vLLM's worker apart from its engine, and a task that downloads the
    model, each with its own import of vLLM. The directory is local and there is one rank.
    """
    from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine

    class CpuEngine(VLLMEngine):
        def _prepare_engine_config(self, callback_ctx: Any) -> Any:
            arguments, frontend, config = super()._prepare_engine_config(callback_ctx)
            config.parallel_config.distributed_executor_backend = "uni"
            return arguments, frontend, config

    llm_config.get_or_create_callback().ctx.run_init_node = False
    return CpuEngine(llm_config)


@contextlib.contextmanager
def _loggers_kept() -> Iterator[None]:
    """Puts back the root logger, which importing `ray.serve.llm` changes, and Serve's level."""
    root, serve = logging.getLogger(), logging.getLogger("ray.serve")
    handlers, levels = list(root.handlers), (root.level, serve.level)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(levels[0])
        serve.setLevel(levels[1])
