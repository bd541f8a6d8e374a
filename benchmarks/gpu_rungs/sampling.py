"""Sampling with real engines in one process, without Ray: throughput, and the scorer against float32."""

import tempfile
from pathlib import Path

from .engines import Sampled, Scored, apart, sample_by_engines, score_by_engine
from .machine import wrong_engines
from .options import Options
from .pairs import Pair, random_pair, real_pair
from .record import Record
from .scoring import exact_logprobs, largest_gap, load_float32

TOLERANCE = 1e-3  # nats


def measure(record: Record, options: Options) -> None:
    reason = wrong_engines(options.device)
    if reason:
        record.skip(reason)
        return
    with tempfile.TemporaryDirectory(prefix="lr_ray-") as folder:
        pair = real_pair(options) or random_pair(options, folder)
        record.note(f"weights: {pair.name}, {options.dtype}, generated problems")
        found: list[Sampled] = []
        record.attempt("engines", lambda: found.append(throughput(record, options, pair, folder)))
        if found:
            record.attempt("scorer", lambda: agreement(record, options, pair, found[0].checked))


def throughput(record: Record, options: Options, pair: Pair, folder: str) -> Sampled:
    most = 32 if options.tiny else 2048
    found: Sampled = apart(
        sample_by_engines,
        str(Path(folder, "run")),
        pair.expert,
        pair.amateur,
        options.dtype,
        options.device,
        most,
        record.left(0.6),
    )
    for part, name in (
        ("expert", "expert decodes"),
        ("amateur", "amateur scores"),
        ("label", "labels"),
    ):
        add_row(record, name, found, found.seconds[part])
    add_row(record, "in turn", found, sum(found.seconds.values()))
    record.note(
        f"engines start in {found.start_seconds:.0f} s, batches of {found.batch}, peak "
        f"{found.peak_gb:.1f} GB with both caches"
    )
    return found


def add_row(record: Record, name: str, found: Sampled, seconds: float) -> None:
    record.row(
        name,
        trajectories=found.trajectories,
        steps=found.steps,
        seconds=seconds,
        trajectories_per_second=found.trajectories / seconds,
        tokens_per_second=found.steps / seconds,
    )


def agreement(record: Record, options: Options, pair: Pair, checked: list) -> None:
    """The scorer's engine in float32, on the tokens that the expert decoded and named."""
    scored: Scored = apart(score_by_engine, pair.amateur, "float32", options.device, checked)
    exact = exact_logprobs(load_float32(pair.amateur, options.device), checked)
    gap = largest_gap(scored.answers, exact)
    record.row(
        "scorer in float32 against transformers",
        trajectories=len(checked),
        steps=sum(len(one.completion) for one in checked),
        gap_to_float32=gap,
    )
    if not gap < TOLERANCE:
        record.fail(f"the scorer is {gap:.1e} nats from transformers; {TOLERANCE:g} is allowed")
