"""vLLM model classes that return a causal model's log-probabilities at chosen tokens.

A pooling engine runs one forward over prompt and completion; its pooler applies lm_head to the rows
that predict the completion, in chunks on the device, and gathers float32 log-softmax at the K ids
asked for, so that no row of the vocabulary's width leaves the engine. vLLM finds the classes through
the `vllm.general_plugins` entry point (`register`). Exercised by `pytest tests/integration/test_sampling.py`.

A request carries `extra_kwargs = {"first": row that predicts the first completion token, "counts":
tokens asked of each of the T steps, "ids": those tokens}`, the last two as little-endian int32 bytes,
and gets a float32 tensor as long as `ids`.
"""

from collections.abc import Set
from typing import Any

from lr_ray.models.files import SCORERS

_PREFIX = "LrRayScorer"
_CHUNK_ROWS = 1024  # rows of logits alive at once: 0.6 GB at 152k tokens in float32


def scorer_architecture(architecture: str) -> str:
    """Name under which the scoring variant of a Hugging Face architecture is registered."""
    return _PREFIX + architecture


def register() -> None:
    """Called by vLLM in each of its processes."""
    from vllm import ModelRegistry

    for architecture in SCORERS:
        name = scorer_architecture(architecture)
        if name not in ModelRegistry.get_supported_archs():
            ModelRegistry.register_model(name, f"{__name__}:{name}")


def _build(name: str) -> type:
    """The scoring subclass of one of vLLM's own causal models."""
    import torch
    from vllm.model_executor.layers.pooler import DispatchPooler, Pooler
    from vllm.model_executor.layers.pooler.tokwise import AllPool
    from vllm.model_executor.models.registry import ModelRegistry
    from vllm.v1.pool.metadata import PoolingMetadata

    base = ModelRegistry._try_load_model_cls(name.removeprefix(_PREFIX))
    if base is None:
        raise ImportError(f"vLLM has no model class {name.removeprefix(_PREFIX)}")

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
                logits = self.owner[0].compute_logits(rows[start : start + _CHUNK_ROWS]).float()
                end = ends[start + len(logits) - 1]
                ids, step = ids_M[done:end], step_M[done:end] - start
                picked = logits[step, ids.clamp(max=logits.shape[1] - 1)]
                logprobs = picked - logits.logsumexp(1)[step]
                chunks.append(logprobs.masked_fill(ids >= logits.shape[1], -torch.inf))
                done = end
            return torch.cat(chunks)

    class Scorer(base):  # type: ignore[valid-type, misc]
        is_pooling_model = True

        def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
            super().__init__(vllm_config=vllm_config, prefix=prefix)
            self.pooler = DispatchPooler({"token_classify": LogprobPooler(self)})

    Scorer.__name__ = Scorer.__qualname__ = name
    return Scorer


def __getattr__(name: str) -> type:
    if name.removeprefix(_PREFIX) in SCORERS and name.startswith(_PREFIX):
        globals()[name] = _build(name)
        return globals()[name]
    raise AttributeError(name)
