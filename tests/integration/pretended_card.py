"""What vLLM makes of our engines' options on a pretended GPU, as a line of JSON. Needs the GPU lock, no GPU.

python tests/integration/pretended_card.py CARD EXPERT AMATEUR    # model directories; no weights needed
"""

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from lr_ray.config import Config, merge, read_tree, resolve
from lr_ray.models.models import engine_room

# Compute capability, name as the driver has it, bytes of memory.
CARDS = {
    "h100": ((9, 0), "NVIDIA H100 80GB HBM3", 85_520_809_984),
    "a100": ((8, 0), "NVIDIA A100-SXM4-80GB", 85_097_971_712),
    "l4": ((8, 9), "NVIDIA L4", 23_700_000_000),
}


class ResolvedError(Exception):
    """Carries the configuration past everything that would touch a device."""

    def __init__(self, config: Any) -> None:
        self.config = config


def pretend(card: str) -> None:
    """Before other modules of vLLM are imported: they keep the platform that they find."""
    import vllm.platforms
    from vllm.platforms.cuda import NonNvmlCudaPlatform
    from vllm.platforms.interface import DeviceCapability

    capability, name, memory = CARDS[card]

    class Pretended(NonNvmlCudaPlatform):
        @classmethod
        def get_device_capability(cls, device_id: int = 0) -> DeviceCapability:
            return DeviceCapability(*capability)

        @classmethod
        def get_device_name(cls, device_id: int = 0) -> str:
            return name

        @classmethod
        def get_device_total_memory(cls, device_id: int = 0) -> int:
            return memory

        @classmethod
        def device_count(cls) -> int:
            return 1

    vllm.platforms._current_platform = Pretended()


def stop_after_configuration() -> None:
    from vllm.engine.arg_utils import EngineArgs

    create = EngineArgs.create_engine_config

    def resolve_only(self: EngineArgs, *arguments: Any, **options: Any) -> Any:
        raise ResolvedError(create(self, *arguments, **options))

    EngineArgs.create_engine_config = resolve_only


def engine_of(start: Callable[[], Any]) -> dict[str, Any]:
    """The configuration of the engine that `start` would start."""
    from vllm.config import set_current_vllm_config
    from vllm.v1.attention.selector import get_attn_backend

    try:
        start()
    except ResolvedError as resolved:
        found = resolved.config
    else:
        raise AssertionError("no engine was started")
    with set_current_vllm_config(found):
        attention = get_attn_backend(
            found.model_config.get_head_size(), found.model_config.dtype, "auto"
        )
    return {
        "v2": found.use_v2_model_runner,
        "architecture": found.model_config.architecture,
        "runner": found.model_config.runner_type,
        "dtype": str(found.model_config.dtype),
        "head_dtype": str(found.model_config.head_dtype),
        "max_model_len": found.model_config.max_model_len,
        "max_logprobs": found.model_config.max_logprobs,
        "seed": found.model_config.seed,
        "chunked_prefill": found.scheduler_config.enable_chunked_prefill,
        "async_scheduling": found.scheduler_config.async_scheduling,
        "prefix_caching": found.cache_config.enable_prefix_caching,
        "memory_share": found.cache_config.gpu_memory_utilization,
        "ranks": found.parallel_config.tensor_parallel_size,
        "executor": found.parallel_config.distributed_executor_backend,
        "eager": found.model_config.enforce_eager,
        "compiled": found.compilation_config.mode.name,
        "graphs": found.compilation_config.cudagraph_mode.name,
        "graph_sizes": len(found.compilation_config.cudagraph_capture_sizes or []),
        "max_num_seqs": found.scheduler_config.max_num_seqs,
        "batched_tokens": found.scheduler_config.max_num_batched_tokens,
        "attention": attention.get_name(),
    }


def serve(model: str, config: Config, **more: Any) -> None:
    """As `ray.serve.llm` makes a replica's configuration of our options."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.usage.usage_lib import UsageContext

    from lr_ray.serving.application import model_options

    options = model_options("expert", model, config.serving, config.resources.server)
    arguments = AsyncEngineArgs(model=model, **options["engine_kwargs"], **more)
    arguments.create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)


def main(card: str, expert: str, amateur: str) -> None:
    from lr_ray.config import Place
    from lr_ray.engines.vllm import engine_env

    # An empty list makes vLLM keep Triton without a driver, as in an actor before its device is known.
    os.environ.update(engine_env(Place()) | {"CUDA_VISIBLE_DEVICES": ""})
    pretend(card)
    stop_after_configuration()
    from lr_ray.sampling.amateur import AmateurScorer
    from lr_ray.sampling.expert import ExpertSampler

    places = {
        "resources": {"expert": {"gpus": 1}, "amateur": {"gpus": 0.5}, "server": {"gpus": 0.5}}
    }
    config = resolve(merge(read_tree("qwen2.5-math-1.5b"), places))
    context = engine_room(expert, amateur, config.sampling)
    adapters = {"enable_lora": True, "max_loras": 2, "max_lora_rank": 8}
    engines = {
        "expert": engine_of(lambda: ExpertSampler(expert, config, context, None, None)),
        "amateur": engine_of(lambda: AmateurScorer(amateur, config, context, None)),
        "server": engine_of(lambda: serve(expert, config)),
        "server of adapters": engine_of(lambda: serve(expert, config, **adapters)),
    }
    print(json.dumps(engines))


if __name__ == "__main__":
    main(*sys.argv[1:])
