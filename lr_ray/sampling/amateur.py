"""The amateur's side of sampling: its log-probabilities at the tokens that the expert named."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from lr_ray.config import Config
from lr_ray.engines.engine import Score
from lr_ray.engines.guard import start_guarded
from lr_ray.errors import counted
from lr_ray.models.files import vocabulary_rows
from lr_ray.run.schemas import lists


class AmateurScorer:
    """Ray Data actor: adds `amateur_logprobs` to trajectories. Holds one engine."""

    def __init__(self, model: str, config: Config, context: int, journal: Any) -> None:
        """`context`: tokens of prompt and completion that both models have room for."""
        self.vocabulary, self.context = vocabulary_rows(model), context
        self.engine, self.guard = start_guarded("amateur", model, config, context, journal)

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
        self.engine.rank(first)
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
            return f"trajectory has {counted(count, 'token')}; there is room for {self.context}"
        largest = max(pc.max(part.values).as_py() for part in tokens)
        if largest < self.vocabulary:
            return None
        return f"trajectory has token {largest}; the amateur has {self.vocabulary}"

    def score(self, batch: pa.Table, rows: Sequence[int]) -> list[NDArray[np.float32]]:
        """The amateur's log-probabilities of the trajectories at `rows`."""
        names = ("prompt_token_ids", "completion_token_ids", "counts", "topk_token_ids")
        requests = [Score(*(batch[name][row].values.to_numpy() for name in names)) for row in rows]
        return self.engine.logprobs_at(requests)
