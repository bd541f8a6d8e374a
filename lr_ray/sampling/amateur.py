"""The amateur's side of sampling: its log-probabilities at the tokens that the expert named."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Config
from lr_ray.engines.guard import guard_of
from lr_ray.engines.loop import Engine, VllmEngine, start_loop
from lr_ray.engines.scorer_model import scorer_architecture
from lr_ray.engines.vllm import start_engine
from lr_ray.models.models import architecture, vocabulary_rows
from lr_ray.run.schemas import lists


class AmateurScorer:
    """Ray Data actor: adds `amateur_logprobs` to trajectories. Holds one vLLM pooling engine."""

    def __init__(self, model: str, config: Config, context: int, journal: Any) -> None:
        """`context`: tokens of prompt and completion that both models have room for."""
        self.vocabulary, self.context = vocabulary_rows(model), context
        start = partial(self.start, model, config, context)
        self.loop = start_loop("amateur", model, journal, start)
        self.guard = guard_of(self.loop, journal)

    def start(self, model: str, config: Config, context: int) -> Engine:
        """The engine that the loop is to have."""
        # The head's type is the expert's too.
        overrides = {
            "architectures": [scorer_architecture(architecture(model))],
            "head_dtype": "model",
        }
        return VllmEngine(
            start_engine(
                model,
                config.sampling.amateur,
                config.resources.amateur,
                context,
                runner="pooling",
                hf_overrides=overrides,
                enforce_eager=True,  # a few large forwards: capturing graphs would take longer
            )
        )

    @property
    def engine(self) -> Any:
        """The `vllm.LLM`."""
        return self.loop.engine.llm

    def __call__(self, batch: pa.Table) -> pa.Table:
        """float32 log-probabilities, as many as the expert's; a trajectory it cannot score gets an error."""
        batch = batch.combine_chunks()
        tokens = zip(batch["prompt_token_ids"], batch["completion_token_ids"], strict=True)
        errors = [
            error or self._unusable(prompt, completion)
            for error, (prompt, completion) in zip(batch["error"].to_pylist(), tokens, strict=True)
        ]
        todo = [i for i, error in enumerate(errors) if error is None]
        first = batch["index"][0].as_py()
        self.loop.rank(first)
        scored = self.guard.run(
            f"amateur {first}+{batch.num_rows}", todo, lambda rows: self.score(batch, rows)
        )
        scores = [np.empty(0, np.float32)] * batch.num_rows
        for i, result in zip(todo, scored, strict=True):
            if isinstance(result, str):
                errors[i] = result
            else:
                scores[i] = result
        column = batch.schema.get_field_index("error")
        batch = batch.set_column(column, "error", pa.array(errors, pa.string()))
        return batch.append_column("amateur_logprobs", lists(scores, pa.float32()))

    def _unusable(self, *tokens: pa.ListScalar) -> str | None:
        """An engine may end at a token that its model has no row for, and takes in only so many."""
        count = sum(len(part) for part in tokens)
        if count > self.context:
            return f"trajectory has {count} tokens; there is room for {self.context}"
        largest = max(pc.max(part.values).as_py() for part in tokens)
        if largest < self.vocabulary:
            return None
        return f"trajectory has token {largest}; the amateur has {self.vocabulary}"

    def score(self, batch: pa.Table, rows: Sequence[int]) -> list[NDArray[np.float32]]:
        """One forward for each of the trajectories at `rows`."""
        from vllm import PoolingParams

        requests, params = [], []
        for row in rows:
            prompt, completion, counts, ids = (
                batch[name][row].values.to_numpy()
                for name in ("prompt_token_ids", "completion_token_ids", "counts", "topk_token_ids")
            )
            tokens = np.concatenate([prompt, completion])[:-1].tolist()
            requests.append(tokens)
            wanted = {
                "first": len(prompt) - 1,
                "counts": counts.astype("<i4").tobytes(),
                "ids": ids.astype("<i4").tobytes(),
            }
            params.append(PoolingParams(task="token_classify", extra_kwargs=wanted))
        outputs = self.loop.run(requests, params)
        return [output.outputs.data.float().cpu().numpy().ravel() for output in outputs]
