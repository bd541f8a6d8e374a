"""How long an engine of the expert takes to start, and how fast it then decodes, by how it runs its model."""

import os
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from .engines import apart
from .machine import wrong_engines
from .options import NEW_TOKENS, Options
from .pairs import random_pair, real_pair
from .record import Record

CACHE_GB = 8.0  # stated, so that nothing is measured
SEQUENCES, PROMPT = {"cuda": 256, "cpu": 4}, 64  # prompts of so many tokens


@dataclass
class Started:
    import_seconds: float
    start_seconds: float  # after the import, until it can be asked
    first_seconds: float  # of a first batch, where kernels may be compiled
    seconds: float  # of a second one
    tokens: int  # of each batch


def forms(device: str) -> dict[str, dict[str, Any]]:
    """Options by name, in the order in which they are measured."""
    from lr_ray.engines.vllm import GRAPHS_ALONE

    eager = {"eager": {"enforce_eager": True}}
    if device == "cpu":  # whose engines have no other form
        return eager
    return eager | {
        "graphs of decoding alone, not compiled": GRAPHS_ALONE,
        "compiled, nothing cached": {},
        "compiled, from the cache": {},
    }


def measure(record: Record, options: Options) -> None:
    reason = wrong_engines(options.device)
    if reason:
        record.skip(reason)
        return
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        pair = real_pair(options) or random_pair(options, folder)
        record.note(f"weights: {pair.name}, {options.dtype}; {SEQUENCES[options.device]} sequences")
        for name, asked in forms(options.device).items():
            if record.left(0.9) < 0:
                record.skip(f"{name}: no time left")
                continue
            record.attempt(name, partial(add_row, record, options, pair, folder, name, asked))


def add_row(record: Record, options: Options, pair, folder: str, name: str, asked: Any) -> None:
    found: Started = apart(start, pair.expert, options.dtype, options.device, folder, asked)
    record.row(
        name,
        import_seconds=found.import_seconds,
        start_seconds=found.start_seconds,
        first_seconds=found.first_seconds,
        seconds=found.seconds,
        tokens_per_second=found.tokens / found.seconds,
    )


def start(path: str, dtype: str, device: str, folder: str, asked: dict[str, Any]) -> Started:
    """Starts an engine whose compiled code is cached under `folder`, and decodes two batches."""
    # vLLM's, inductor's and Triton's caches of this machine would make a first start another's second.
    os.environ["VLLM_CACHE_ROOT"] = str(Path(folder, "vllm"))
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(Path(folder, "inductor"))
    os.environ["TRITON_CACHE_DIR"] = str(Path(folder, "triton"))
    began = time.monotonic()
    from lr_ray.config import Place, Pool
    from lr_ray.engines.vllm import Steps, engine_env, start_engine
    from lr_ray.models.models import context_length

    place = Place(gpus=0.25 if device == "cuda" else 0, cache_gb=CACHE_GB)
    os.environ.update(engine_env(place))
    from vllm import LLMEngine, SamplingParams

    assert LLMEngine  # whose import is most of vLLM's
    imported = time.monotonic()
    size = SEQUENCES[device]
    room = min(context_length(path), 1024)
    pool = Pool.model_validate({"dtype": dtype})
    steps = Steps(start_engine(path, pool, place, room, max_num_seqs=size, **asked))
    started = time.monotonic()
    params = SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True, detokenize=False)
    spent: list[float] = []
    for number in (1, 2):  # the second's prompts are others, which no prefix cache knows
        begun = time.monotonic()
        for i in range(size):
            steps.add(f"{number}-{i}", [number, *[i + 3] * (PROMPT - 1)], params)
        while steps.llm_engine.has_unfinished_requests():
            steps.step()
        spent.append(time.monotonic() - begun)
    first, second = spent
    return Started(imported - began, started - imported, first, second, size * NEW_TOKENS)
