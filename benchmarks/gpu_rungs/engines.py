"""What runs real vLLM engines: each in a process of its own, as engines leave memory and settings behind."""

import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .options import NEW_TOKENS, TOP_K

PARTS = ("expert", "amateur", "label")
CHECKED = 4  # trajectories
SHARE = 0.5  # of the GPU for an engine: two fit, and one leaves the calling process its part


@dataclass
class Scored:
    seconds: float
    start_seconds: float
    peak_gb: float
    answers: list[NDArray[np.float32]]


@dataclass
class Sampled:
    """What both engines made of a number of problems."""

    trajectories: int
    steps: int
    batch: int
    seconds: dict[str, float]  # by PARTS
    start_seconds: float
    peak_gb: float
    checked: list[Any]  # some of the trajectories, as `scoring.Asked`


def apart(work: Callable[..., Any], *args: Any) -> Any:
    """`work(*args)` in a fresh process; what it raises comes as a RuntimeError that has its text."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_told, work, args).result()


def _told(work: Callable[..., Any], args: Sequence[Any]) -> Any:
    try:
        return work(*args)
    except Exception as error:  # of which some cannot go to another process, pydantic's for one
        raise RuntimeError(f"{type(error).__name__}: {error}") from None


def configure(
    expert: str, amateur: str, dtype: str, device: str, problems: int = 1, new_tokens: int = 128
) -> Any:
    from lr_ray.config import merge, read_tree, resolve

    pool = {"dtype": dtype}
    place = {"gpus": SHARE if device == "cuda" else 0}
    sampling = {"max_problems": problems, "top_k": TOP_K, "max_new_tokens": new_tokens}
    over = {
        "models": {"expert": expert, "amateur": amateur},
        "sampling": {**sampling, "expert": pool, "amateur": pool},
        "resources": {"expert": place, "amateur": place},
    }
    return resolve(merge(read_tree("demo"), over))


def score_by_engine(path: str, dtype: str, device: str, asked: Sequence[Any]) -> Scored:
    """The real scorer's log-probabilities at the ids that `asked` names."""
    import pyarrow as pa

    from lr_ray.models.models import context_length
    from lr_ray.run.schemas import lists
    from lr_ray.sampling.amateur import AmateurScorer

    started = time.monotonic()
    config = configure(path, path, dtype, device)
    room = min(context_length(path), 4096)
    scorer = AmateurScorer(path, config, room, None)
    columns = {
        "prompt_token_ids": [one.prompt for one in asked],
        "completion_token_ids": [one.completion for one in asked],
        "counts": [np.full(len(one.ids_TK), one.ids_TK.shape[1], np.int32) for one in asked],
        "topk_token_ids": [one.ids_TK.ravel() for one in asked],
    }
    table = pa.table({name: lists(values, pa.int32()) for name, values in columns.items()})
    scorer.score(table, range(min(8, len(asked))))  # warm
    start_seconds, started = time.monotonic() - started, time.monotonic()
    answers = scorer.score(table, range(len(asked)))
    return Scored(time.monotonic() - started, start_seconds, peak(device), answers)


def sample_by_engines(
    folder: str, expert: str, amateur: str, dtype: str, device: str, most: int, seconds: float
) -> Sampled:
    """Batches of generated problems through expert, amateur and labels in turn, for so many seconds."""
    from in_process import InProcess

    from lr_ray.problems import stage_problems
    from lr_ray.run.store import Run

    started = time.monotonic()
    config = configure(expert, amateur, dtype, device, most + 8, NEW_TOKENS)
    run = Run(folder)
    stage_problems(run, config)
    engines = InProcess(config, run)
    engines.sample(np.arange(8))  # warm
    start_seconds = time.monotonic() - started
    batch = 512 if device == "cuda" else 32
    total, trajectories, steps = dict.fromkeys(PARTS, 0.0), 0, 0
    for start in range(8, most + 8, batch):
        if trajectories and time.monotonic() - started > seconds:
            break
        labelled, spent = engines.sample(np.arange(start, min(start + batch, most + 8)))
        total = {part: total[part] + spent[part] for part in PARTS}
        trajectories += labelled.facts.trajectories
        steps += labelled.facts.steps_scored
    checked = decoded(engines, run)
    size = min(batch, most)
    return Sampled(trajectories, steps, size, total, start_seconds, peak(device), checked)


def decoded(engines: Any, run: Any) -> list[Any]:
    """The first problems' trajectories and the K tokens a step that the expert named."""
    from lr_ray.models.models import render_prompt
    from lr_ray.problems import read_problems

    from .scoring import Asked

    texts = read_problems(run, np.arange(CHECKED))["problem"].to_pylist()
    sampler = engines.sampler
    prompts = [render_prompt(sampler.tokenizer, text, None) for text in texts]
    made = []
    for one in sampler.solve(prompts):
        # Of a step whose plausible set reaches beyond K, the first K.
        starts = np.cumsum(one.counts) - one.counts
        ids_TK = one.token_ids[starts[:, None] + np.arange(sampler.k)]
        made.append(Asked(np.array(one.prompt), np.array(one.completion), ids_TK))
    return made


def peak(device: str) -> float:
    """GB: of the GPU, with the caches that vLLM sets aside, or of this process."""
    import torch
    from packing import peak_gigabytes

    return peak_gigabytes(torch.device(device))
