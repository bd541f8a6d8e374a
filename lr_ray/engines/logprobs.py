"""Top-K log-probabilities of a request as two arrays, in place of vLLM's Python lists.

vLLM turns each step's arrays into Python numbers, K of them a token, which costs more than a small
model's forward. `install` makes its output processor copy the arrays instead.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lr_ray.runtime.imports import uncollected


class StepLogprobs:
    """What a request has got so far, most probable token first in each step."""

    def __init__(self, max_steps: int, k: int) -> None:
        # Untouched pages of np.empty cost nothing, however long the request may become.
        self._token_ids = np.empty((max_steps, k), np.int32)
        self._logprobs = np.empty((max_steps, k), np.float32)
        self._steps = 0

    def __len__(self) -> int:
        return self._steps

    def append(self, token_ids: NDArray, logprobs: NDArray) -> None:
        """Rows of vLLM's own: the sampled token before the most probable ones, maybe padded to more."""
        stop = self._steps + len(token_ids)
        k = self._token_ids.shape[1]
        self._token_ids[self._steps : stop] = token_ids[:, 1 : k + 1]
        self._logprobs[self._steps : stop] = logprobs[:, 1 : k + 1]
        self._steps = stop

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """[T, K]"""
        return self._token_ids[: self._steps]

    @property
    def logprobs(self) -> NDArray[np.float32]:
        """[T, K], normalised over the whole vocabulary."""
        return self._logprobs[: self._steps]


def install() -> None:
    """From now on, completions of this process's engines carry a StepLogprobs as `logprobs`."""
    with uncollected():
        from vllm.v1.engine import output_processor
        from vllm.v1.engine.logprobs import LogprobsProcessor

    class ArrayProcessor(LogprobsProcessor):
        @classmethod
        def from_new_request(cls, tokenizer: Any, request: Any) -> Any:
            processor = super().from_new_request(tokenizer, request)
            if processor.logprobs is not None:
                steps, k = request.sampling_params.max_tokens, processor.num_logprobs
                processor.logprobs = StepLogprobs(steps, k)
            return processor

        def _update_sample_logprobs(self, logprobs_lists: Any) -> None:
            self.logprobs.append(logprobs_lists.logprob_token_ids, logprobs_lists.logprobs)

    output_processor.LogprobsProcessor = ArrayProcessor
