"""The amateur's side of sampling: its log-probabilities at the tokens that the expert named."""

import numpy as np
import pyarrow as pa

from lr_ray.config import Sampling
from lr_ray.models import architecture, context_length
from lr_ray.sampling.engine import start_engine
from lr_ray.sampling.rows import lists
from lr_ray.sampling.scorer_model import scorer_architecture


class AmateurScorer:
    """Ray Data actor: adds `amateur_logprobs` to trajectories. Holds one vLLM pooling engine."""

    def __init__(self, model: str, sampling: Sampling) -> None:
        self.engine = start_engine(
            model,
            sampling.amateur,
            context_length(model),
            runner="pooling",
            hf_overrides={
                "architectures": [scorer_architecture(architecture(model))],
                "head_dtype": "model",  # as the expert's
            },
        )

    def __call__(self, batch: pa.Table) -> pa.Table:
        """One forward a trajectory: float32 log-probabilities, list of T * K, as the expert's."""
        from vllm import PoolingParams

        requests, params = [], []
        columns = ("prompt_token_ids", "completion_token_ids", "k", "topk_token_ids")
        for prompt, completion, k, ids in zip(*(batch[c] for c in columns), strict=True):
            if completion.values is None or not len(completion.values):
                continue
            tokens = prompt.as_py() + completion.as_py()
            requests.append({"prompt_token_ids": tokens[:-1]})
            wanted = {
                "first": len(prompt.values) - 1,
                "k": k.as_py(),
                "ids": ids.values.to_numpy().astype("<i4").tobytes(),
            }
            params.append(PoolingParams(task="token_classify", extra_kwargs=wanted))
        encode = self.engine.encode
        outputs = iter(
            encode(requests, params, pooling_task="token_classify", use_tqdm=False)
            if requests
            else ()
        )
        scores = [
            next(outputs).outputs.data.float().cpu().numpy().ravel() if n else np.empty(0)
            for n in _lengths(batch["completion_token_ids"])
        ]
        return batch.append_column("amateur_logprobs", lists(scores, pa.float32()))


def _lengths(column: pa.ChunkedArray) -> list[int]:
    import pyarrow.compute as pc

    return pc.list_value_length(column).to_pylist()
