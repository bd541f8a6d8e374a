"""Settings that the expert's and the amateur's vLLM engines share."""

import os
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
}


def engine_env(gpus: float) -> dict[str, str]:
    """Environment of a process that hosts an engine with `gpus` GPUs; vLLM's may be set from outside."""
    ours = COMMON_ENV | (CPU_ENV if gpus == 0 else {})
    return ours | {k: v for k, v in os.environ.items() if k in ours and k.startswith("VLLM_")}


def start_engine(model: str, pool: Pool, place: Place, max_model_len: int, **options: Any) -> Any:
    """A `vllm.LLM` that takes and returns token ids only."""
    os.environ.update(engine_env(place.gpus))
    from vllm import LLM

    return LLM(
        model=model,
        skip_tokenizer_init=True,
        dtype=pool.dtype,
        max_model_len=max_model_len,
        tensor_parallel_size=max(1, int(place.gpus)),
        gpu_memory_utilization=0.9 * min(place.gpus, 1) or 0.9,
        enforce_eager=place.gpus == 0,
        disable_log_stats=True,
        seed=0,
        **options,
    )
