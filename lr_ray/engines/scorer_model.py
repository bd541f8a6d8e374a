"""vLLM model classes that return a causal model's log-probabilities at chosen tokens.

There is one for each text generation class of vLLM's registry. A pooling engine runs one forward over
prompt and completion; its pooler has the model compute the logits of the rows that predict the
completion, in chunks on the device, and gathers float32 log-softmax at the K ids asked for, so that no
row of the vocabulary's width leaves the engine. vLLM finds the classes through the
`vllm.general_plugins` entry point (`register`). Exercised by `pytest tests/integration/test_scorer.py`.

A request carries `extra_kwargs = {"first": row that predicts the first completion token, "counts":
tokens asked of each of the T steps, "ids": those tokens}`, the last two as little-endian int32 bytes,
and gets a float32 tensor as long as `ids`.
"""

from collections.abc import Set
from functools import cache
from typing import Any

from lr_ray.models.architectures import scorable

_PREFIX = "LrRayScorer"
_CHUNK_ROWS = 1024  # rows of logits alive at once: 0.6 GB at 152k tokens in float32


def scorer_architecture(architecture: str) -> str:
    """Name under which the scoring variant of a Hugging Face architecture is registered."""
    return _PREFIX + architecture


def register() -> None:
    """Called by vLLM in each of its processes."""
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    for architecture in scorable():
        name = scorer_architecture(architecture)
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"{__name__}:{name}")
            if architecture in MODELS_CONFIG_MAP:  # what vLLM sets for some models, by their name
                MODELS_CONFIG_MAP[name] = MODELS_CONFIG_MAP[architecture]


def _build(name: str) -> type:
    """The scoring subclass of one of vLLM's own causal models."""
    from vllm.model_executor.layers.pooler import DispatchPooler
    from vllm.model_executor.models.interfaces_base import is_text_generation_model
    from vllm.model_executor.models.registry import ModelRegistry

    architecture = name.removeprefix(_PREFIX)
    base = ModelRegistry._try_load_model_cls(architecture)
    if base is None or not is_text_generation_model(base):
        raise ImportError(f"vLLM has no model class {architecture} that computes logits")
    pooler = _pooler_class()

    class Scorer(base):  # type: ignore[valid-type, misc]
        is_pooling_model = True

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            self.pooler = DispatchPooler({"token_classify": pooler(self)})

    Scorer.__name__ = Scorer.__qualname__ = name
    return Scorer


@cache
def _pooler_class() -> type:
    """What gathers the log-probabilities of a request."""
    import torch
    from vllm.model_executor.layers.pooler import Pooler
    from vllm.model_executor.layers.pooler.tokwise import AllPool
    from vllm.v1.pool.metadata import PoolingMetadata

    def _int32(content: bytes) -> torch.Tensor:
        return torch.frombuffer(bytearray(content), dtype=torch.int32)

    class LogprobPooler(Pooler):
        def __init__(self, owner: Any) -> None:
            super().__init__()
            self.owner = [owner]  # in a list, so that the owner is no submodule of its pooler
            self.all_rows = AllPool()

        def get_supported_tasks(self) -> Set[Any]:
            return {"token_classify"}

        def forward(self, hidden_states: torch.Tensor, pooling_metadata: PoolingMetadata) -> Any:
            rows = self.all_rows(hidden_states, pooling_metadata)
            lengths = pooling_metadata.prompt_lens.tolist()
            params = pooling_metadata.pooling_params
            return [
                # A preempted request starts over: only its last `length` rows are its own.
                None if row is None else self.score(row[-length:], param.extra_kwargs)
                for row, length, param in zip(rows, lengths, params, strict=True)
            ]

        def score(self, hidden: torch.Tensor, request: dict[str, Any] | None) -> torch.Tensor:
            if not request:  # vLLM's own warm-up
                return hidden.new_zeros((hidden.shape[0], 1), dtype=torch.float32)
            counts_T = _int32(request["counts"])
            rows = hidden[request["first"] :]
            if len(rows) != len(counts_T):
                raise RuntimeError(f"{len(counts_T)} steps asked of {len(rows)} rows")
            ids_M = _int32(request["ids"]).long().to(hidden.device)
            step_M = torch.arange(len(rows)).repeat_interleave(counts_T).to(hidden.device)
            ends = counts_T.cumsum(0).tolist()
            chunks, done = [], 0
            for start in range(0, len(rows), _CHUNK_ROWS):
                # The model's own scale, soft cap and bias are applied, its padding is cut off.
                logits = self.owner[0].compute_logits(rows[start : start + _CHUNK_ROWS]).float()
                end = ends[start + len(logits) - 1]
                ids, step = ids_M[done:end], step_M[done:end] - start
                picked = logits[step, ids.clamp(max=logits.shape[1] - 1)]
                logprobs = picked - logits.logsumexp(1)[step]
                chunks.append(logprobs.masked_fill(ids >= logits.shape[1], -torch.inf))
                done = end
            return torch.cat(chunks)

    return LogprobPooler


def __getattr__(name: str) -> type:
    if name.startswith(_PREFIX) and name.removeprefix(_PREFIX) in scorable():
        globals()[name] = _build(name)
        return globals()[name]
    raise AttributeError(name)
