"""Several models behind one OpenAI-compatible application, with `ray.serve.llm`.

pytest tests/integration/test_serving.py
"""

import contextlib
import errno
import json
import logging
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lr_ray import interrupts
from lr_ray.config import Serving
from lr_ray.errors import StageError, UserError

APPLICATION = "lr_ray"
START_TIMEOUT_S = 900.0
_POLL_S = 0.5
_CONSTRUCTOR_TRIES = 2
# The cache of a CPU engine holds this many full-length sequences, within these bytes.
_CPU_CACHE_SEQUENCES = 64
_CPU_CACHE_BYTES = 2**30
_CACHE_BLOCK_TOKENS = 128


def check_port(serving: Serving) -> None:
    """Raises UserError when this machine cannot listen on serving.host and serving.port."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            serving.host, serving.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            # Skips addresses in TIME_WAIT; a listening socket still makes bind fail.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except socket.gaierror as error:
        raise UserError(f"serving.host: {serving.host!r}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(
                f"serving.port: {serving.port} is taken on {serving.host}; give a free one"
            ) from None
        field = "serving.host" if error.errno == errno.EADDRNOTAVAIL else "serving.port"
        raise UserError(
            f"{field}: cannot listen on {serving.host}:{serving.port}: {error.strerror}"
        ) from None


def base_url(serving: Serving) -> str:
    """Where a client on the machine that listens reaches the application."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(serving.host, serving.host)
    return (
        f"http://[{host}]:{serving.port}/v1" if ":" in host else f"http://{host}:{serving.port}/v1"
    )


def start(
    models: dict[str, str],
    serving: Serving,
    timeout_s: float = START_TIMEOUT_S,
    on_progress: Callable[[int, int], None] | None = None,
) -> str:
    """Starts Serve on the connected Ray cluster and returns the base URL once all models answer.

    `models` maps served names to Hugging Face directories that every node can read. Serve's logs go
    to the Ray session's. `on_progress` gets (models ready, models).
    Raises StageError when Serve already runs on the cluster, when a model cannot be started, or
    after `timeout_s` seconds; whatever was started is shut down by then.
    """
    from ray import serve

    if serve.status().proxies:
        raise StageError("serving: Ray Serve already runs on this cluster; shut it down first")
    deadline = time.monotonic() + timeout_s
    logs = {"log_level": "WARNING", "enable_access_log": False}
    try:
        serve.start(
            proxy_location="HeadOnly",
            http_options={"host": serving.host, "port": serving.port},
            logging_config=logs,
        )
        application = build_application(models, serving, logs)
        target = serve.RunTarget(target=application, name=APPLICATION, logging_config=logs)
        serve.run_many(
            [target],
            wait_for_ingress_deployment_creation=False,
            wait_for_applications_running=False,
        )
        _wait_running(len(models), deadline, on_progress)
        _wait_answers(base_url(serving), list(models), deadline)
    except BaseException:
        stop()
        raise
    return base_url(serving)


def stop() -> None:
    """Shuts Serve down on the connected cluster; returns when its actors are gone."""
    from ray import serve

    serve.shutdown()


def build_application(models: dict[str, str], serving: Serving, logs: dict[str, Any]) -> Any:
    """The Serve application: one deployment a model, and one ingress replica before them."""
    import ray

    with _root_logger_kept():
        from ray.serve.llm import LLMConfig, LLMServingArgs, build_openai_app
    # A deployment's environment replaces the job's instead of adding to it.
    inherited = ray.get_runtime_context().runtime_env.get("env_vars", {})
    configs: list[Any] = []
    for name, path in models.items():
        options = model_options(name, path, serving, logs)
        options["runtime_env"]["env_vars"] = inherited | options["runtime_env"]["env_vars"]
        configs.append(LLMConfig(**options))
    ingress = {
        "num_replicas": 1,
        "logging_config": logs,
        # Placed by memory and load, not by CPUs: engines may have reserved them all.
        "ray_actor_options": {"num_cpus": 0},
    }
    return build_openai_app(
        LLMServingArgs(llm_configs=configs, ingress_deployment_config=ingress).model_dump()
    )


def model_options(name: str, path: str, serving: Serving, logs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of `LLMConfig` for the model directory `path`, served as `name`."""
    on_gpu = serving.gpus > 0
    bundle = {"CPU": serving.cpus}
    engine: dict[str, Any] = {"dtype": serving.dtype, "max_model_len": serving.max_model_len}
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
    ranks = 1
    if on_gpu:
        ranks = max(1, int(serving.gpus))
        share = min(serving.gpus, 1.0)
        bundle["GPU"] = share
        engine |= {"tensor_parallel_size": ranks, "gpu_memory_utilization": 0.9 * share}
    else:
        engine |= {
            "enforce_eager": True,
            "disable_log_stats": True,
            "kv_cache_memory_bytes": cpu_cache_bytes(path, serving),
        }
        environment |= {
            "OMP_NUM_THREADS": str(max(1, int(serving.cpus))),
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "RAYLLM_VLLM_ENGINE_CLS": "lr_ray.serving.cpu_engine",
        }
    return {
        "model_loading_config": {"model_id": name, "model_source": path},
        "placement_group_config": {"bundles": [bundle] * ranks},
        "deployment_config": {
            "num_replicas": serving.replicas,
            "max_constructor_retry_count": _CONSTRUCTOR_TRIES,
            "logging_config": logs,
            # The bundle holds what the engine takes; the replica itself adds nothing to it.
            "ray_actor_options": {"num_cpus": 0},
        },
        "engine_kwargs": engine,
        "log_engine_metrics": on_gpu,
        "runtime_env": {"env_vars": environment},
    }


def cpu_cache_bytes(path: str, serving: Serving) -> int:
    """Bytes of a CPU engine's key-value cache: never less than one full-length sequence needs."""
    config = json.loads(Path(path, "config.json").read_text())
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    row = (
        config.get("num_key_value_heads", heads)
        * head_dim
        * (4 if serving.dtype == "float32" else 2)
    )
    tokens = (serving.max_model_len // _CACHE_BLOCK_TOKENS + 1) * _CACHE_BLOCK_TOKENS
    sequence = 2 * config["num_hidden_layers"] * row * tokens
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


def _wait_running(
    models: int, deadline: float, on_progress: Callable[[int, int], None] | None
) -> None:
    from ray import serve

    while True:
        interrupts.again()  # an import above may have swallowed it
        application = serve.status().applications.get(APPLICATION)
        status = application.status if application else "NOT_STARTED"
        deployments = application.deployments if application else {}
        if status == "DEPLOY_FAILED":
            assert application is not None
            raise StageError(f"serving: {_reason(application)}")
        pending = [name for name, d in deployments.items() if d.status != "HEALTHY"]
        if on_progress and deployments:
            on_progress(models - sum(name.startswith("LLMServer:") for name in pending), models)
        if status == "RUNNING":
            return
        if time.monotonic() > deadline:
            raise StageError(f"serving: not ready in time: {', '.join(pending) or status}")
        time.sleep(_POLL_S)


def _reason(application: Any) -> str:
    """One line: the last line of the first failed deployment's message."""
    failed = [(n, d) for n, d in application.deployments.items() if "FAILED" in d.status]
    name, message = (failed[0][0], failed[0][1].message) if failed else ("", application.message)
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    return f"{name}: {lines[-1] if lines else 'cannot be started'}"


def _wait_answers(url: str, names: list[str], deadline: float) -> None:
    from openai import APIConnectionError, InternalServerError, NotFoundError, OpenAI

    with OpenAI(base_url=url, api_key="none", max_retries=0, timeout=60) as client:
        for name in names:
            while True:
                try:
                    client.completions.create(model=name, prompt="1", max_tokens=1)
                    break
                except (APIConnectionError, InternalServerError, NotFoundError) as error:
                    if time.monotonic() > deadline:
                        raise StageError(f"serving: {name} does not answer: {error}") from None
                    time.sleep(_POLL_S)


@contextlib.contextmanager
def _root_logger_kept() -> Iterator[None]:
    """Importing `ray.serve.llm` replaces the root logger's handlers and level; puts them back."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
