"""The ways to place each stage, the best first, as values of settings. The first that fits is taken.

A value of None leaves a setting as it is. `pytest tests/unit/placement/test_arrange.py`
"""

import math
from collections.abc import Iterator
from typing import Any

from lr_ray.config import Config, Place, changed
from lr_ray.config.resources import AUTO
from lr_ray.placement import needs
from lr_ray.placement.cards import Cards
from lr_ray.placement.processes import SEQUENCES, USABLE
from lr_ray.placement.sizes import Model, Models

_ITEMS_A_WORKER = 4  # of a batch: with fewer, a GPU waits for launches rather than works
_LEAST_MICRO_BATCH = 2048  # tokens
_PADDED_ROWS = 64  # vLLM pads a vocabulary to a multiple
_SPARE = 0.97  # of a GPU that two engines share, so that rounded shares fit

Values = dict[str, Any]  # of settings, by dotted names


def sampling(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    if config.sampling.method == "rejection":
        yield from _alone(config, models, cards)
        return
    for way in _ways(config.resources.sampling):
        place = _together if way == "together" else _alone
        for values in place(config, models, cards):
            yield {"resources.sampling": way, **values}


def _ways(asked: str) -> tuple[str, ...]:
    return ("together", "apart") if asked == AUTO else (asked,)


def _alone(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    """Each role with all GPUs to itself."""
    for split in gpus_of(config.resources.expert, models["expert"], cards):
        values = _pool(config, "expert", split, most_engines(cards, split), cards)
        if config.sampling.method == "contrast":
            amateur = gpus_of(config.resources.amateur, None, cards)[0]
            values |= _pool(config, "amateur", amateur, most_engines(cards, amateur), cards)
        yield values


def _together(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    asked = config.resources.expert.gpus, config.resources.amateur.gpus
    if 0 in asked:  # what runs on the CPUs takes no GPU from the other
        yield from _alone(config, models, cards)
    elif cards.count == 1:
        yield from _side_by_side(config, models, cards) if AUTO in asked else [{}]
    else:
        yield from _a_gpu_each(config, models, cards)


def _side_by_side(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    """Two engines on one GPU, each with a share for its weights and its part of the cache."""
    whole = changed(config, {"resources.expert.gpus": 1, "resources.amateur.gpus": 1})
    pair = needs.sampling(whole, models)
    if any(p.weights is None for p in pair):
        return  # nothing says that both fit
    room = _SPARE * USABLE * cards.memory
    caches = [
        (p.fewest, p.wanted) if p.place.cache_gb is None else (1e9 * p.place.cache_gb,) * 2
        for p in pair
    ]
    left = room - sum(p.fixed for p in pair) - sum(fewest for fewest, _ in caches)
    if left < 0:
        return
    more = sum(wanted - fewest for fewest, wanted in caches)
    part = min(1.0, left / more) if more else 0.0
    values: Values = {}
    for p, (fewest, wanted) in zip(pair, caches, strict=True):
        cache = fewest + part * (wanted - fewest)
        share = math.ceil(100 * (p.fixed + cache) / (USABLE * cards.memory)) / 100
        values[f"resources.{p.role}.gpus"] = share if is_auto(config, p.role) else None
        if share == 1:
            return
    for role, other in (("expert", "amateur"), ("amateur", "expert")):
        stated = getattr(config.resources, other).gpus
        if stated != AUTO and stated < 1:
            values[f"resources.{role}.gpus"] = round(1 - stated, 2)
    yield values


def _a_gpu_each(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    """Whole GPUs, shared out by the models' sizes: decoding and scoring are bound by reading weights.

    What one pool leaves by a stated number of engines is the other's.
    """
    expert, amateur = models["expert"], models["amateur"]
    large, small = (m.parameters if m else 1 for m in (expert, amateur))
    stated, others = config.sampling.expert.max_engines, config.sampling.amateur.max_engines
    each = gpus_of(config.resources.amateur, None, cards)[0]
    for split in gpus_of(config.resources.expert, expert, cards):
        if split + each > cards.count:
            continue
        wanted = round(cards.count * large / (large + small) / split)
        most = min(int((cards.count - each) // split), most_engines(cards, split))
        most = most if stated == AUTO else min(most, stated)
        count = min(max(1, wanted), most)
        while count > 1 and not _beside(count, split, each, cards):
            count -= 1
        while others != AUTO and count < most and _beside(count + 1, split, each, cards) >= others:
            count += 1
        ours = _pool(config, "expert", split, count, cards)
        yield ours | _pool(config, "amateur", each, _beside(count, split, each, cards), cards)


def _beside(count: int, split: float, each: float, cards: Cards) -> int:
    """Engines of `each` GPUs that have room beside `count` of `split`, whose shares fill GPUs up."""
    whole, left = int(cards.count - split * count), 0
    if split < 1:
        on_one = _held(1, split)
        full, rest = divmod(count, on_one)
        whole = cards.count - full - (rest > 0)
        left = full * _held(1 - on_one * split, each)
        left += _held(1 - rest * split, each) if rest else 0
    return whole * _held(1, each) + left if each < 1 else int(whole // each)


def _held(room: float, share: float) -> int:
    """Shares that fit into so much of one GPU."""
    return int((room + 1e-5) / share)


def _pool(config: Config, role: str, gpus: float, engines: int, cards: Cards) -> Values:
    """An engine's GPUs, and as many engines as there is room and work for; all at once on fixed GPUs."""
    pool = getattr(config.sampling, role)
    values: Values = {f"resources.{role}.gpus": gpus if is_auto(config, role) else None}
    if pool.max_engines == AUTO and cards.known:
        most = max(pool.min_engines, min(engines, needs.shards(config)))
        values[f"sampling.{role}.max_engines"] = most
        values[f"sampling.{role}.min_engines"] = most if cards.fixed else None
    return values


def is_auto(config: Config, role: str) -> bool:
    return bool(getattr(config.resources, role).gpus == AUTO)


def gpus_of(place: Place, model: Model | None, cards: Cards) -> list[float]:
    """GPUs that an engine may take: those stated, else those that its model can be split over."""
    if place.gpus != AUTO:
        return [place.gpus]
    return [float(n) for n in splits(model, cards.largest_node)]


def splits(model: Model | None, most: int) -> list[int]:
    """GPUs that vLLM can split a model over, fewest first; one for a model that is not known."""
    if model is None:
        return [1]
    kv, rows = model.kv_heads, -(-model.rows // _PADDED_ROWS) * _PADDED_ROWS
    whole = math.gcd(model.heads, model.columns, rows)
    return [n for n in range(1, most + 1) if not whole % n and not (kv % n and n % kv)]


def most_engines(cards: Cards, split: float) -> int:
    """Engines of so many GPUs, or of such a share of one, that all nodes have room for."""
    if not split:
        return 1
    return sum(int(node // split) if split >= 1 else node * _held(1, split) for node in cards.nodes)


def training(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    """To save memory: fewer tokens a forward, then gradient checkpointing, then ZeRO 3 over all GPUs."""
    asked, auto = config.training, config.resources.trainer.gpus == AUTO
    place: Values = {"resources.trainer.gpus": 1 if auto else None}
    useful = max(1, min(cards.count, asked.batch_size // _ITEMS_A_WORKER)) if cards.known else 1
    if not auto and config.resources.trainer.gpus < 1:
        useful = 1  # NCCL takes no two workers on one GPU
    workers = [useful, cards.count] if asked.num_workers == AUTO else [asked.workers]
    if not auto:
        yield place | {"training.num_workers": workers[0] if asked.num_workers == AUTO else None}
        return
    sizes = [asked.micro_batch_tokens]
    while sizes[-1] // 2 >= _LEAST_MICRO_BATCH:
        sizes.append(sizes[-1] // 2)
    ways = (asked.zero_stage, workers[0]), (3, workers[0]), (3, workers[-1])
    for zero, count in dict.fromkeys(ways):
        for checkpointing in dict.fromkeys((asked.gradient_checkpointing, True)):
            for tokens in sizes:
                yield place | {
                    "training.num_workers": count,
                    "training.zero_stage": zero,
                    "training.gradient_checkpointing": checkpointing,
                    "training.micro_batch_tokens": tokens,
                }


def evaluation(config: Config, models: Models, cards: Cards) -> Iterator[Values]:
    place = config.resources.server
    for way in _ways(config.resources.evaluation):
        served = 2 if way == "together" and not config.serving.adapters else 1
        shares = gpus_of(place, models["expert"], cards)
        if served > 1 and place.gpus == AUTO and cards.count == 1:
            shares = [0.5] if models["expert"] else []
        for share in shares:
            several = share >= 1 and cards.known
            replicas = max(1, most_engines(cards, share) // served) if several else 1
            if config.serving.max_replicas:
                replicas = min(replicas, config.serving.max_replicas)
            auto = config.serving.min_replicas == AUTO
            at_once = min(config.serving.max_requests, served * SEQUENCES * replicas, 4096)
            yield {
                "resources.evaluation": way,
                "resources.server.gpus": share if place.gpus == AUTO else None,
                "serving.min_replicas": replicas if auto else None,
                "evaluation.concurrency": (
                    at_once if config.evaluation.concurrency == AUTO else None
                ),
            }
