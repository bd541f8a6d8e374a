"""What sampling asks of an inference engine: one model that generates, or scores tokens that are there.

vllm.py has the engine that is built in. A toy one on transformers is tests/integration/toy_engine.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Generate:
    """What to generate from a prompt, up to a token that ends the model's answers."""

    prompt: list[int]
    max_tokens: int
    top_k: int = 0  # log-probabilities that are wanted of each step
    samples: int = 1
    temperature: float = 0.0  # 0 is greedy
    seed: int | None = None  # of the samples, whatever else is under way


class Generated(NamedTuple):
    """One sample. The log-probabilities are those of temperature 1, normalised over the vocabulary."""

    token_ids: list[int]  # [T] with the token that ended it
    finish_reason: str  # stop, or length where max_tokens ended it
    top_ids_TK: NDArray[np.int32]  # most probable first; K is 0 where none were wanted
    top_logprobs_TK: NDArray[np.float32]


class Score(NamedTuple):
    """Tokens whose log-probability is wanted, of each step of a completion that is there."""

    prompt: NDArray[np.int32]
    completion: NDArray[np.int32]  # [T]
    counts: NDArray[np.int32]  # [T] tokens that are asked for of each step
    token_ids: NDArray[np.int32]  # [M] those of the first step, then those of the second


class Engine(Protocol):
    """A model in an actor of sampling, called from several threads at once.

    `sampling.engine` names a class of these, or a function that makes one, of (role, model directory,
    config, context, journal). The role is expert, which generates, or amateur, which scores; `context` is
    how many tokens of prompt and completion there is room for, and `journal` an actor that may be told how
    it goes (`loop.start_loop`), or None.
    """

    healthy: bool
    """False once it has failed for good: its actor then ends, and another one takes over."""

    def rank(self, order: int) -> None:
        """Requests of the calling thread go before those of a higher order, where an engine has a queue."""

    def generate(self, requests: Sequence[Generate], counted: bool = True) -> list[list[Generated]]:
        """The samples of each request. `counted`: each is a problem's, in what the journal is told.

        Raises ValueError for a request that the engine does not take.
        """

    def logprobs_at(self, requests: Sequence[Score]) -> list[NDArray[np.float32]]:
        """`[M]` of each request: log-probabilities given what is before a step, -inf of an unknown token."""
