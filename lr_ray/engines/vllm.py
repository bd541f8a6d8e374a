"""Settings that the expert's and the amateur's vLLM engines share."""

import os
from importlib import metadata
from typing import Any

from lr_ray.config import Place, Pool

# On CPU: one thread an engine, no compilation of tiny graphs.
CPU_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
COMMON_ENV = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # The engine in the actor's own process: it dies with the actor, and logprobs cross no socket.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # FlashInfer compiles its sampler with nvcc at first use, in the warm-up of greedy engines too.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


def on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, which is what decides where engines run."""
    try:
        return "cpu" in metadata.version("vllm")  # as vLLM itself tells
    except metadata.PackageNotFoundError:
        return True  # the package vllm-cpu


def engine_env() -> dict[str, str]:
    """Environment of a process that hosts an engine; vLLM's variables may be set from outside."""
    ours = COMMON_ENV | (CPU_ENV if on_cpu() else {})
    return ours | {k: v for k, v in os.environ.items() if k in ours and k.startswith("VLLM_")}


def engine_options(
    model: str, pool: Pool, place: Place, max_model_len: int, **options: Any
) -> dict[str, Any]:
    """Arguments of `vllm.LLM` for an engine in `place`; `options` are the expert's or the amateur's.

    A CPU build is one rank whatever GPUs Ray believes in.
    """
    if on_cpu():
        device: dict[str, Any] = {"tensor_parallel_size": 1, "enforce_eager": True}
    else:
        device = {
            "tensor_parallel_size": max(1, int(place.gpus)),
            "gpu_memory_utilization": 0.9 * min(place.gpus or 1, 1),
        }
        if place.cache_gb:
            # Nothing is measured, so that engines on one GPU do not count each other.
            device["kv_cache_memory_bytes"] = int(1e9 * place.cache_gb)
    return {
        "model": model,
        "skip_tokenizer_init": True,
        "dtype": pool.dtype,
        "max_model_len": max_model_len,
        "disable_log_stats": True,
        "seed": 0,
        **device,
        **options,
    }


def start_engine(model: str, pool: Pool, place: Place, max_model_len: int, **options: Any) -> Any:
    """A `vllm.LLM` that takes and returns token ids only."""
    os.environ.update(engine_env())
    from vllm import LLM

    return LLM(**engine_options(model, pool, place, max_model_len, **options))
