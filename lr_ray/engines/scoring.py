"""Log-probabilities at chosen token ids, without a run or a cluster: `lr_ray.engines.score`.

Exercised by `pytest tests/integration/test_scorer.py`.
"""

from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lr_ray.config import merge, read_tree, resolve
from lr_ray.config.sections.common import Dtype
from lr_ray.engines.engine import Score
from lr_ray.engines.vllm import VllmEngine, on_cpu, start
from lr_ray.errors import UserError, counted
from lr_ray.models.architectures import check_scores
from lr_ray.models.files import vocabulary_rows
from lr_ray.models.models import context_length, resolve_model

Logprobs = NDArray[np.float32]
_LEAST_ROOM = 2048  # tokens: shorter sequences share an engine

_held: dict[tuple[str, str], tuple[int, VllmEngine]] = {}  # one at most, with its room


@overload
def score(model: str, token_ids: Sequence[int], ids: ArrayLike, dtype: Dtype = ...) -> Logprobs: ...
@overload
def score(
    model: str, token_ids: Sequence[Sequence[int]], ids: Sequence[ArrayLike], dtype: Dtype = ...
) -> list[Logprobs]: ...
def score(
    model: str, token_ids: Any, ids: Any, dtype: Dtype = "float32"
) -> Logprobs | list[Logprobs]:
    """A model's log-probabilities of chosen tokens, given what stands before them: one forward a sequence.

    `model`: a directory or Hugging Face id of any text model that vLLM serves.
    `token_ids`: `[N]` integers of a sequence, which ends where the last prediction is wanted.
    `ids`: `[K]` integers, asked of the token after each of the N; or `[T, K]`, asked after the last T of
    them alone. `dtype`: of weights and activations; the softmax is float32, over all rows of the model.

    Returns float32 `[N, K]` or `[T, K]`, in nats: row n is given `token_ids` up to its own position, and
    -inf stands at ids that the model has no row for. For several sequences, `token_ids` and `ids` are
    lists of these, and so is what is returned; a single `[K]` is asked of all.

    The engine stays for further calls, until another model or dtype, or more room, is asked for.
    Raises UserError for a model that cannot score or a request that does not fit it.
    """
    if len(token_ids) and np.ndim(token_ids[0]) == 0:
        return score(model, [token_ids], [ids], dtype)[0]
    if len(ids) and np.ndim(ids[0]) == 0:
        ids = [ids] * len(token_ids)
    if len(ids) != len(token_ids):
        raise UserError(f"score: {len(token_ids)} sequences, but ids of {len(ids)}")
    path = resolve_model(model, "score: model")
    check_scores(path, f"score: model: {model}")
    asked = [_request(path, i, *pair) for i, pair in enumerate(zip(token_ids, ids, strict=True))]
    todo = [request for request, shape in asked if shape[0] * shape[1]]
    longest = max((len(tokens) + len(after) - 1 for tokens, after, _, _ in todo), default=0)
    answers = iter(_engine(path, dtype, longest).logprobs_at(todo) if todo else [])
    empty = np.empty(0, np.float32)
    return [(next(answers) if shape[0] * shape[1] else empty).reshape(shape) for _, shape in asked]


def _request(path: str, i: int, token_ids: Any, ids: Any) -> tuple[Score, tuple[int, int]]:
    """What an engine is asked for sequence `i`, and the shape of its answer."""
    tokens, wanted = np.asarray(token_ids, np.int64), np.asarray(ids, np.int64)
    if wanted.ndim == 1:
        wanted = np.broadcast_to(wanted, (len(tokens), len(wanted)))
    room, rows = context_length(path), vocabulary_rows(path)
    where = f"score: sequence {i}"
    if tokens.ndim != 1 or wanted.ndim != 2:
        raise UserError(f"{where}: token_ids must be [N], and ids [K] or [T, K]")
    if len(tokens) > room:
        raise UserError(f"{where} has {counted(len(tokens), 'token')}; the model reads {room}")
    if len(wanted) > len(tokens):
        raise UserError(
            f"{where}: ids of {counted(len(wanted), 'position')}; it has {counted(len(tokens), 'token')}"
        )
    if len(tokens) and not 0 <= tokens.min() <= tokens.max() < rows:
        raise UserError(f"{where}: token_ids must be from 0 to {rows - 1}, the model's last")
    if wanted.size and not 0 <= wanted.min() <= wanted.max() < 2**31:
        raise UserError(f"{where}: ids must be from 0 to {2**31 - 1}")
    # An engine is asked of a completion's tokens; what the last one is makes no difference.
    completed = np.append(tokens, 0).astype(np.int32)
    before, (steps, k) = len(tokens) - len(wanted) + 1, wanted.shape
    counts = np.full(steps, k, np.int32)
    request = Score(completed[:before], completed[before:], counts, wanted.ravel().astype(np.int32))
    return request, (steps, k)


def _engine(path: str, dtype: str, longest: int) -> VllmEngine:
    """The engine that is there, or a new one, with room for `longest` tokens."""
    key = path, dtype
    room, engine = _held.get(key, (0, None))
    if engine is None or longest > room or not engine.healthy:
        _held.clear()  # its memory is free before the next one takes it
        engine = None
        asked = {
            "sampling": {"amateur": {"dtype": dtype}},
            "resources": {"amateur": {"gpus": 0 if on_cpu() else 1}},
        }
        room = min(max(_LEAST_ROOM, 1 << (longest - 1).bit_length()), context_length(path))
        engine = start("amateur", path, resolve(merge(read_tree("demo"), asked)), room, None)
        _held[key] = room, engine
    return engine
