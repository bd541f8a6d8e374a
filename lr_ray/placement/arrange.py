"""What `auto` means: a config's placement chosen by the models' sizes and the GPUs there are.

A pure function. For each stage it tries the ways to place it, the best first, and takes the first that
fits: both models at once (side by side on one GPU, or a GPU each where there are several), else one after
the other. Numbers that the config states are kept. `pytest tests/unit/placement/test_arrange.py`
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lr_ray.config import STAGES, Config, Place, Serving, changed, roles_of, uses_gpus, value_at
from lr_ray.config.resources import AUTO
from lr_ray.errors import UserError
from lr_ray.models.adapters import check_on_gpu
from lr_ray.placement import needs, ways
from lr_ray.placement.cards import ASSUMED, Cards
from lr_ray.placement.nvidia import BFLOAT16, dotted
from lr_ray.placement.processes import Processes, at_once
from lr_ray.placement.sizes import Model, Models
from lr_ray.placement.ways import Values, gpus_of, is_auto, most_engines, splits

_WAYS = {
    "sampling": ways.sampling, "training": ways.training, "evaluation": ways.evaluation
}  # fmt: skip


def arrange(config: Config, models: Models, cards: Cards, stages: Sequence[str] = STAGES) -> Config:
    """The config with a number for each `auto` of these stages. Raises UserError where one does not fit."""
    for stage in stages:
        if uses_gpus(config, [stage]):
            config = _arranged(config, models, cards, stage)
    return config


def _arranged(config: Config, models: Models, cards: Cards, stage: str) -> Config:
    places = [getattr(config.resources, role) for role in roles_of(config, stage)]
    role = {"sampling": "expert", "evaluation": "server"}.get(stage)
    if role and (stage == "evaluation" or config.sampling.engine == "vllm"):
        _check_split(getattr(config.resources, role), role, models["expert"])
    there = _there_or_to_come(cards, places)
    options = needs.to_float32(config, stage)
    _check_bfloat16(stage, options, dict(config.resources), cards)
    if stage == "evaluation" and config.serving.adapters:
        check_on_gpu(config.serving.dtype)
    for assumed in there:
        if found := _first_fit(config, models, assumed, stage):
            return found
    raise UserError(_no_way(config, models, there[-1], stage))


def _check_split(place: Place, role: str, model: Model | None) -> None:
    """Raises UserError for a stated number of GPUs that vLLM cannot split the model over."""
    if place.gpus == AUTO or place.gpus <= 1 or model is None:
        return
    possible = splits(model, 64)
    if place.gpus not in possible:
        raise UserError(
            f"resources.{role}.gpus {_plain(place.gpus)}: vLLM cannot split the model's {model.heads} "
            f"attention heads ({model.kv_heads} of keys and values), {model.columns} inner columns and "
            f"{model.rows} tokens over so many; give {', '.join(map(str, possible))} or auto"
        )


def _check_bfloat16(
    stage: str, options: Mapping[str, str], resources: Mapping[str, Place], cards: Cards
) -> None:
    """Raises UserError for processes in bfloat16 that may get a GPU without it.

    There vLLM refuses it, and torch's attention keeps all scores in training, which has no room for them.
    `options` take them out of it, by their sections of `resources`.
    """
    oldest = {role: cards.oldest_for(resources[role]) for role in options if resources[role].gpus}
    old = {role: found for role, found in oldest.items() if found and found < BFLOAT16}
    if not old:
        return
    fields = " and ".join(f"resources.{role}.accelerator" for role in old)
    there = any(kind.capability >= BFLOAT16 for kind in cards.kinds)
    newer = f", or name newer ones by {fields}" if there else ""
    raise UserError(
        f"{stage}: bfloat16 takes GPUs of compute capability {dotted(BFLOAT16)} or newer, and there "
        f"is one of {dotted(min(old.values()))}; give {' '.join(options[role] for role in old)}{newer}"
    )


def _there_or_to_come(cards: Cards, places: Sequence[Place]) -> list[Cards]:
    """The GPUs there are, in each size that they may have where no driver says.

    Where there is none, a node of 8, or of what is stated, that an autoscaler may start. Raises UserError
    where none comes.
    """
    if not cards.count and cards.fixed:
        raise UserError(
            "resources: no GPU here that its driver knows of; --device cpu runs the models on the CPUs, "
            "and lr-ray doctor says what is missing for a GPU"
        )
    if not cards.count:
        stated = (int(place.gpus) for place in places if place.gpus != AUTO)
        cards = replace(cards, nodes=(max(8, *stated, 0),))
    return [cards] if cards.measured else [replace(cards, memory=size) for size in ASSUMED]


def _first_fit(config: Config, models: Models, cards: Cards, stage: str) -> Config | None:
    for tight in (False, True):  # caches of few sequences only where there is no other way
        for values in _WAYS[stage](config, models, cards):
            found = _with(config, values)
            if fits(found, models, cards, stage, tight):
                return changed(found, _caches(found, models, cards, stage))
    return None


def _with(config: Config, values: Values) -> Config:
    return changed(config, {name: value for name, value in values.items() if value is not None})


def fits(config: Config, models: Models, cards: Cards, stage: str, tight: bool = False) -> bool:
    """Whether a stage of a config without `auto` has its GPUs, and each process its memory."""
    processes = needs.processes(config, models, stage)
    return _fit(processes, needs.together(config, stage), cards, tight)


def _fit(processes: Sequence[Processes], together: bool, cards: Cards, tight: bool) -> bool:
    split = max((p.place.gpus for p in processes), default=0)
    there = at_once(processes, together) <= cards.count
    for p in processes:
        if p.role == "expert" and p.place.gpus >= 2:  # an engine's GPUs are of one node
            there &= p.least <= most_engines(cards, p.place.gpus)
    fit = all(p.fits(cards.memory_for(p.place), tight) for p in processes)
    return (there or not cards.fixed) and split <= cards.largest_node and fit


def settings(config: Config, stage: str) -> Values:
    """The settings that `arrange` may choose for a stage, with their values."""
    names = [f"resources.{role}.gpus" for role in roles_of(config, stage)]
    names += {
        "sampling": [
            "resources.sampling",
            *(f"sampling.{r}.{m}_engines" for r in roles_of(config, stage) for m in ("min", "max")),
        ],
        "training": [
            "training.num_workers",
            "training.zero_stage",
            "training.micro_batch_tokens",
            "training.gradient_checkpointing",
        ],
        "evaluation": ["resources.evaluation", "serving.min_replicas", "evaluation.concurrency"],
    }[stage]
    tree = config.model_dump(mode="json")
    return {name: value_at(tree, name) for name in names}


def changes(config: Config, arranged: Config, stage: str) -> Values:
    """Settings of a stage that differ between a config and what was arranged of it."""
    before = settings(config, stage)
    return {n: value for n, value in settings(arranged, stage).items() if value != before[n]}


def for_serving(
    serving: Serving, place: Place, model: Model | None, served: int, cards: Cards
) -> Place:
    """The place of each replica of `served` models (of the size of `model`) that are up together.

    Raises UserError when a GPU is asked for and there is none, and when they do not fit.
    """
    if place.gpus == 0:
        return place
    _check_split(place, "server", model)
    there = _there_or_to_come(cards, [place])
    _check_bfloat16("serving", needs.served_to_float32(serving), {"server": place}, cards)
    for assumed, tight in itertools.product(there, (False, True)):
        for share in _shares(serving, place, model, served, assumed):
            p = needs.servers(serving, place.model_copy(update={"gpus": share}), model, served)
            if _fit([p], True, assumed, tight):
                return p.place.model_copy(update={"cache_gb": _cache(p, assumed)})
    asked = f"{there[-1]} with resources.server.gpus {_plain(place.gpus)}"
    if model is None:
        said = "as the size of one is not known, no share of a GPU is chosen"
        advice = "give resources.server.gpus, such as 0.5, serve fewer, or give --device cpu"
        raise UserError(f"serving: {served} models do not fit on {asked}: {said}; {advice}")
    least = needs.servers(serving, place.model_copy(update={"gpus": 1}), model, served)
    raise UserError(
        f"serving: {served} models do not fit on {asked} ({_said(least)}); serve fewer, or give "
        "--device cpu"
    )


def _shares(
    serving: Serving, place: Place, model: Model | None, served: int, cards: Cards
) -> list[float]:
    """GPUs that a replica may take: shares where there are more replicas than GPUs, of a known size."""
    on_each = math.ceil(served * serving.replicas / cards.count)
    crowded = on_each > 1 and (cards.fixed or cards.count == 1)
    if place.gpus != AUTO or not crowded:
        return gpus_of(place, model, cards)
    return [math.floor(100 / on_each) / 100] if model else []


def _caches(config: Config, models: Models, cards: Cards, stage: str) -> Values:
    """A stated cache for each engine, so that none measures memory while another takes some."""
    engines = needs.processes(config, models, stage) if stage != "training" else []
    return {f"resources.{p.role}.cache_gb": _cache(p, cards) for p in engines}


def _cache(p: Processes, cards: Cards) -> float | None:
    """GB for keys and values: those stated, else of 256 sequences where there is room for them."""
    if p.weights is None or not p.place.gpus or p.place.cache_gb:
        return p.place.cache_gb
    memory = cards.memory_for(p.place)
    if memory == math.inf:
        return None
    whole = math.floor(min(p.wanted, p.room(memory) - p.fixed) / 1e7)
    # For less than one sequence vLLM does not start.
    return max(whole, math.ceil(p.longest / 1e7)) / 100


def _no_way(config: Config, models: Models, cards: Cards, stage: str) -> str:
    """Why a stage does not fit, with the least memory that it needs and what would help."""
    fields = ", ".join(
        f"resources.{role}.gpus {_plain(getattr(config.resources, role).gpus)}"
        for role in roles_of(config, stage)
    )
    auto = {f"resources.{role}.gpus": AUTO for role in roles_of(config, stage)}
    auto |= {f"resources.{stage}": AUTO} if stage != "training" else {}
    free = changed(config, auto | {"training.num_workers": AUTO, "serving.min_replicas": AUTO}
                   | {f"sampling.{role}.max_engines": AUTO for role in ("expert", "amateur")}
                   | {f"sampling.{role}.min_engines": 1 for role in ("expert", "amateur")})  # fmt: skip
    found = _first_fit(free, models, cards, stage)
    said = f"{stage} does not fit on {cards} with {fields}{_least(config, models, cards, stage)}"
    if found is None:
        return f"{said}; it takes more GPUs or larger ones, or --device cpu"
    flags = " ".join(f"--{n} {_plain(v)}" for n, v in changes(config, found, stage).items())
    return f"{said}; it fits with {flags}"


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _least(config: Config, models: Models, cards: Cards, stage: str) -> str:
    """The memory that each process takes where it has a GPU to itself, training in its tightest way."""
    roles = (role for role in roles_of(config, stage) if is_auto(config, role))
    whole = changed(config, {f"resources.{role}.gpus": 1 for role in roles})
    tried = [needs.processes(whole, models, stage)]
    if stage == "training":
        settled = [_with(config, values) for values in ways.training(config, models, cards)]
        tried = [needs.processes(one, models, stage) for one in settled]
    least = min(tried, key=lambda found: max(p.needed for p in found))
    said = [_said(p) for p in least if p.weights is not None]
    return f" ({'; '.join(said)})" if said else ""


def _said(p: Processes) -> str:
    return (
        f"{p.role}: {p.needed / 1e9:.3g} GB at least, {(p.weights or 0) / 1e9:.3g} of them weights"
    )
