"""The amateur's log-probabilities at K tokens a step: transformers alone, and the real scorer engine.

The arithmetic of `lr_ray.engines.scorer_model`: one forward a trajectory, lm_head over the rows that
predict the completion in chunks, float32 log-softmax gathered at the ids asked for, sent to the host.
"""

import gc
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .machine import missing, wrong_engines
from .options import ENGINES, NEW_TOKENS, SHAPES, TOP_K, Options
from .record import Record

CHUNK_ROWS = 1024  # as the scorer has
BATCH_TOKENS = 8192  # of one forward, padding included
CHECKED = 4  # trajectories


@dataclass
class Asked:
    """A trajectory and the ids asked of each step of its completion."""

    prompt: NDArray[np.int32]
    completion: NDArray[np.int32]  # [T]
    ids_TK: NDArray[np.int32]


def measure(record: Record, options: Options) -> None:
    from training import SIZES

    size = SHAPES[options.size][1]
    asked = random_requests(SIZES[size][5], 16 if options.tiny else 1000)
    record.note(f"{size}, random weights, K = {asked[0].ids_TK.shape[1]}, {options.dtype}")
    absent = missing(ENGINES)
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        keep = None if absent or options.tiny else folder
        record.attempt("transformers", lambda: by_transformers(record, options, asked, keep))
        gc.collect()
        if options.device == "cuda":
            torch.cuda.empty_cache()
        if absent:
            record.skip(f"the vLLM scorer: {', '.join(absent)} not installed")
        else:
            record.attempt("vLLM", lambda: by_vllm(record, options, folder, asked))


def random_requests(vocabulary: int, count: int) -> list[Asked]:
    from training import random_trajectories

    rng = np.random.default_rng(1)
    shape = (NEW_TOKENS, min(TOP_K, vocabulary))
    return [
        Asked(
            t.token_ids[:-NEW_TOKENS],
            t.token_ids[-NEW_TOKENS:],
            rng.integers(0, vocabulary, shape, dtype=np.int32),
        )
        for t in random_trajectories(vocabulary, count)
    ]


def by_transformers(
    record: Record, options: Options, asked: Sequence[Asked], keep: str | None
) -> None:
    """The weights go to the folder `keep`, where there is one."""
    from packing import peak_gigabytes
    from training import random_model

    cuda, size = options.device == "cuda", SHAPES[options.size][1]
    model = random_model(size, torch.device(options.device), options.dtype).eval()
    if keep:
        model.save_pretrained(keep)
    batches = list(in_batches(asked))
    checked = asked[:CHECKED]
    score(model, batches[0])  # warm
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    started, trajectories, tokens = time.perf_counter(), 0, 0
    for batch in batches:
        if trajectories and record.left(0.4) < 0:
            break
        score(model, batch)  # ends on the host, so nothing is left to wait for
        trajectories += len(batch)
        tokens += sum(length(one) for one in batch)
    seconds = time.perf_counter() - started
    peak = peak_gigabytes(model.device)
    record.row(
        "transformers, chunked lm_head",
        **rates(trajectories, tokens, seconds),
        peak_gb=peak,
        gap_to_float32=largest_gap(score(model, checked), exact_logprobs(model.float(), checked)),
    )


def by_vllm(record: Record, options: Options, folder: str, asked: Sequence[Asked]) -> None:
    """The scorer's engine on the same weights; at size tiny the embedded amateur's, which vLLM takes."""
    from .engines import apart, score_by_engine

    reason = wrong_engines(options.device)
    if reason:
        record.skip(f"the vLLM scorer: {reason}")
        return

    name, path = "vLLM scorer", folder
    if options.tiny:
        from lr_ray.embedded import amateur_path

        name, path = "vLLM scorer, embedded amateur", str(amateur_path())
        asked = random_requests(590, len(asked))
    found = apart(score_by_engine, path, options.dtype, options.device, asked)
    tokens = sum(length(one) for one in asked)
    exact = exact_logprobs(load_float32(path, options.device), asked[:CHECKED])
    record.row(
        name,
        **rates(len(asked), tokens, found.seconds),
        peak_gb=found.peak_gb,
        gap_to_float32=largest_gap(found.answers[:CHECKED], exact),
        start_seconds=found.start_seconds,
    )
    if options.device == "cuda":
        record.note("the engine's peak includes the cache that vLLM sets aside")


def rates(trajectories: int, tokens: int, seconds: float) -> dict[str, float]:
    return {
        "trajectories": trajectories,
        "seconds": seconds,
        "trajectories_per_second": trajectories / seconds,
        "tokens_per_second": tokens / seconds,
    }


def length(one: Asked) -> int:
    """Tokens forwarded: all but the last, which predicts nothing."""
    return len(one.prompt) + len(one.completion) - 1


def in_batches(asked: Sequence[Asked]) -> Iterator[list[Asked]]:
    """Longest first, so that a forward pads little."""
    batch: list[Asked] = []
    for one in sorted(asked, key=lambda one: -length(one)):
        if batch and length(batch[0]) * (len(batch) + 1) > BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(one)
    yield batch


@torch.inference_mode()
def score(model: Any, batch: Sequence[Asked]) -> list[NDArray[np.float32]]:
    """float32 `[T, K]` of each trajectory, on the host."""
    longest = max(map(length, batch))
    ids_BT = torch.zeros((len(batch), longest), dtype=torch.long)
    rows = []
    for b, one in enumerate(batch):
        tokens = np.concatenate([one.prompt, one.completion])[:-1]
        ids_BT[b, : len(tokens)] = torch.from_numpy(tokens)
        rows.append(b * longest + np.arange(len(one.prompt) - 1, len(tokens)))
    # No mask: rows are padded on the right and attention is causal.
    hidden_BTH = model.model(input_ids=ids_BT.to(model.device), use_cache=False).last_hidden_state
    index_S = torch.from_numpy(np.concatenate(rows)).to(model.device)
    rows_SH = hidden_BTH.flatten(0, 1)[index_S]
    wanted = torch.from_numpy(np.concatenate([one.ids_TK for one in batch])).to(model.device)
    found_SK = gathered(model.lm_head, rows_SH, wanted.long()).cpu().numpy()
    return np.split(found_SK, np.cumsum([len(one.completion) for one in batch])[:-1])


def gathered(lm_head: Any, rows_SH: Tensor, ids_SK: Tensor) -> Tensor:
    """Log-softmax of each row's logits at its ids, CHUNK_ROWS rows of logits alive at once."""
    chunks = []
    for start in range(0, len(rows_SH), CHUNK_ROWS):
        logits_SV = lm_head(rows_SH[start : start + CHUNK_ROWS]).float()
        picked_SK = logits_SV.gather(1, ids_SK[start : start + CHUNK_ROWS])
        chunks.append(picked_SK - logits_SV.logsumexp(1, keepdim=True))
    return torch.cat(chunks)


def load_float32(path: str | Path, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.to(device).eval()


@torch.inference_mode()
def exact_logprobs(model: Any, asked: Sequence[Asked]) -> list[NDArray[np.float32]]:
    """The same by one forward a trajectory and the whole vocabulary's log-softmax."""
    found = []
    for one in asked:
        tokens = np.concatenate([one.prompt, one.completion])[:-1].astype(np.int64)
        ids = torch.from_numpy(tokens).to(model.device)[None]
        logprobs_TV = model(ids).logits[0, len(one.prompt) - 1 :].float().log_softmax(-1)
        wanted = torch.from_numpy(one.ids_TK).long().to(model.device)
        found.append(logprobs_TV.gather(1, wanted).cpu().numpy())
    return found


def largest_gap(ours: Sequence[NDArray], exact: Sequence[NDArray]) -> float:
    """Nats."""
    gaps = [
        np.abs(one.ravel() - other.ravel()).max() for one, other in zip(ours, exact, strict=True)
    ]
    return float(max(gaps))
