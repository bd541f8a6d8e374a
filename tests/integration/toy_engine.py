"""An inference engine on transformers: float32 on the CPU, one request at a time, greedy only."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

from lr_ray.config import Config
from lr_ray.engines.engine import Generate, Generated, Score
from lr_ray.models.models import stop_token_ids


class ToyEngine:
    """See `lr_ray.engines.engine.Engine`."""

    healthy = True

    def __init__(self, role: str, model: str, config: Config, context: int, journal: Any) -> None:
        torch.set_num_threads(1)
        loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        self.model, self.stop = loaded.eval(), stop_token_ids(model)

    def rank(self, order: int) -> None: ...

    def generate(self, requests: Sequence[Generate], counted: bool = True) -> list[list[Generated]]:
        return [[self._greedy(request)] for request in requests]

    def logprobs_at(self, requests: Sequence[Score]) -> list[NDArray[np.float32]]:
        return [self._scored(*request) for request in requests]

    def _greedy(self, request: Generate) -> Generated:
        if request.temperature:
            raise ValueError("this engine is greedy")
        tokens, ids, values = [], [], []
        while len(tokens) < request.max_tokens and not (tokens and tokens[-1] in self.stop):
            top = self._logprobs([*request.prompt, *tokens])[-1].topk(max(1, request.top_k))
            tokens.append(int(top.indices[0]))
            ids.append(top.indices.numpy().astype(np.int32))
            values.append(top.values.numpy())
        reason = "stop" if tokens[-1] in self.stop else "length"
        return Generated(tokens, reason, np.stack(ids), np.stack(values))

    def _scored(
        self, prompt: NDArray, completion: NDArray, counts: NDArray, ids: NDArray
    ) -> NDArray[np.float32]:
        logprobs_TV = self._logprobs([*prompt, *completion][:-1])[len(prompt) - 1 :].numpy()
        known_M = ids < logprobs_TV.shape[1]
        step_M = np.repeat(np.arange(len(completion)), counts)
        found_M = logprobs_TV[step_M, np.where(known_M, ids, 0)]
        return np.where(known_M, found_M, np.float32(-np.inf))

    @torch.no_grad()
    def _logprobs(self, token_ids: list[int]) -> torch.Tensor:
        """float32 `[N, V]` of what follows each of the tokens."""
        return self.model(torch.tensor([token_ids])).logits[0].log_softmax(-1)
