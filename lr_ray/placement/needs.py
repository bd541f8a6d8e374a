"""The processes of each stage, and the GPU memory that each takes. Nothing is started or downloaded.

Bytes are of each GPU of a process. Exercised by `pytest tests/unit/placement`.
"""

import math
from dataclasses import replace

from lr_ray.config import Config, Place, Serving, roles_of
from lr_ray.config.resources import AUTO
from lr_ray.models.adapters import slots_of
from lr_ray.placement.processes import (
    CONTEXT_BYTES,
    PROMPT_TOKENS,
    SEQUENCES,
    Processes,
    bytes_of,
    kinds,
)
from lr_ray.placement.sizes import Model, Models
from lr_ray.placement.trainer import trained, trainers

Bundle = dict[str, float]

ANSWER_TOKENS = 1024  # of prompt and answer in an evaluation, where its cache is sized
_ROW_BYTES = 40  # of a step in supervision/ and scores/ together: the demo has 39
_CHECKPOINTS = 3  # two are kept while the next is written
_CHECKPOINT_BYTES = 12  # a trained weight and its two moments
_GRAPH_BYTES = 1.0e9  # captured graphs of engines that decode
BATCHED_TOKENS = 8192  # of one forward of an engine on a GPU
_SCORED_ROWS = 1024  # rows whose logits exist at once (engines.scorer_model)
_LOGIT_BYTES = 10  # of a scored or sampled logit: bfloat16, float32, and a float32 temporary


def processes(config: Config, models: Models, stage: str) -> list[Processes]:
    """Those of a stage in which nothing is `auto`; of both served models in one row."""
    if stage == "sampling":
        return sampling(config, models)
    if stage == "training":
        return [trainers(config, models)]
    expert, served = models["expert"], 1 if config.serving.adapters else 2  # engines
    if expert:
        own = (config.training.lora.rank,) if config.serving.adapters else ()
        expert = replace(expert, ranks=own and (expert.ranks or own))  # a comparison's are known
    return [servers(config.serving, config.resources.server, expert, served)]


def to_float32(config: Config, stage: str) -> dict[str, str]:
    """The options that take a stage out of bfloat16, by the sections of `resources` of its processes.

    Of vLLM's engines and of our own training: what a plugin does with its dtype is not known.
    """
    if stage == "evaluation":
        return served_to_float32(config.serving)
    if stage == "training":
        ours = config.training.dtype == "bfloat16" and config.training.backend == "deepspeed"
        return {"trainer": "--training.dtype float32"} if ours else {}
    if config.sampling.engine != "vllm":
        return {}
    dtypes = {role: getattr(config.sampling, role).dtype for role in roles_of(config, stage)}
    return {r: f"--sampling.{r}.dtype float32" for r, d in dtypes.items() if d == "bfloat16"}


def served_to_float32(serving: Serving) -> dict[str, str]:
    """As `to_float32`, for an endpoint; on GPUs vLLM serves no adapters in float32."""
    if serving.dtype != "bfloat16":
        return {}
    merged = " --serving.adapters false" if serving.adapters else ""
    return {"server": f"--serving.dtype float32{merged}"}


def sampling(config: Config, models: Models) -> list[Processes]:
    """The engines, expert first."""
    asked = config.sampling
    rejection = asked.method == "rejection"
    contexts = [m.context for m in models.values() if m]
    longest = min(asked.room, *contexts) if contexts else 0
    usual = min(PROMPT_TOKENS + asked.longest, longest)
    engines = []
    for role in ("expert",) if rejection else ("expert", "amateur"):
        pool, place, model = getattr(asked, role), getattr(config.resources, role), models[role]
        engine = Processes(role, place, pool.min_engines, pool.most, pool.dtype, None)
        if model:
            scored = min(_SCORED_ROWS, asked.max_new_tokens) if role == "amateur" else 0
            engine = replace(engine, sequence=longest, usual=usual)
            engine = _sized(engine, model, scored, decoded_at_once(config))
        engines.append(engine)
    return engines


def decoded_at_once(config: Config) -> int:
    """Sequences that the expert's engine decodes at once on a GPU."""
    return min(max(config.sampling.sequences, SEQUENCES), 1024)


def servers(serving: Serving, place: Place, model: Model | None, served: int) -> Processes:
    """The replicas of `served` models of one size, with room for the adapters beside one."""
    least, most = serving.replicas, serving.max_replicas or serving.replicas
    least, most = served * least, served * most
    found = Processes("server", place, least, most, serving.dtype, None, models=served)
    if model is None:
        return found
    usual = min(ANSWER_TOKENS, serving.max_model_len)
    engine = _sized(found, model, 0)
    overhead = engine.overhead + _adapters(model, max(1, int(place.gpus)), bytes_of(serving.dtype))
    return replace(engine, overhead=overhead, sequence=serving.max_model_len, usual=usual)


def _adapters(model: Model, gpus: int, size: int) -> float:
    """Bytes on each GPU of vLLM's buffers for LoRA: slots x rank x (inputs + outputs) of all its layers.

    A slot is as large as the largest adapter would be beside every layer, whatever its targets. Of the
    outputs of layers that are split over GPUs, and of the inputs of those behind them, each has a part.
    """
    if not model.ranks:
        return 0
    slots, rank = slots_of(model.ranks)
    whole, shared = model.adapter
    return slots * rank * size * (whole + shared / gpus)


def _sized(
    engine: Processes, model: Model, scored_rows: int, decoded: int = SEQUENCES
) -> Processes:
    """With the memory of an engine of the model, split over its GPUs. One that scores captures no graph."""
    ranks = max(1, int(engine.place.gpus))
    size, graphs = bytes_of(engine.dtype), 0 if scored_rows else _GRAPH_BYTES
    logits = (scored_rows or decoded) * model.rows * _LOGIT_BYTES
    forward = BATCHED_TOKENS * size * (4 * model.hidden + 2 * model.intermediate / ranks)
    return replace(
        engine,
        weights=model.weights(size) / ranks,
        overhead=CONTEXT_BYTES + graphs + forward + logits,
        token=model.cache * size / min(ranks, model.kv_heads),
    )


def shards(config: Config) -> int:
    """Supervision shards, at most: one a batch of problems."""
    return math.ceil(config.sampling.max_problems / config.sampling.batch_size)


def disk(config: Config, models: Models, problems: int) -> dict[str, float]:
    """Bytes of a run directory's parts, at most; nothing where the expert is not known."""
    expert, sampling = models["expert"], config.sampling
    if expert is None:
        return {}
    steps = problems * sampling.longest
    parts = {
        "shards": float(_ROW_BYTES * steps),
        "merged model": float(expert.parameters * bytes_of(config.training.dtype)),
        "checkpoints": float(_CHECKPOINTS * _CHECKPOINT_BYTES * trained(config, expert)),
    }
    if not together(config, "sampling") and sampling.method == "contrast":
        parts["trajectories"] = 8.0 * steps * min(sampling.top_k, expert.rows)
    return parts


def demands(config: Config, stage: str) -> list[dict[str, list[Bundle]]]:
    """Bundles that must fit at once, by the name in `resources`, for each group that runs after another."""
    found = processes(config, {"expert": None, "amateur": None}, stage)
    if together(config, stage):
        return [{p.role: _bundles(p) for p in found}]
    return [{p.role: _bundles(p)} for p in kinds(found)]


def _bundles(p: Processes) -> list[Bundle]:
    one = replica_bundles(p.place) if p.role == "server" else [p.place.bundle()]
    return one * p.least


def replica_bundles(place: Place) -> list[Bundle]:
    """A replica's bundles, one for each GPU that its model is split over."""
    ranks = max(1, int(place.gpus))
    return [{name: amount / ranks for name, amount in place.bundle().items()}] * ranks


def together(config: Config, stage: str) -> bool:
    """Whether a stage's kinds of processes hold their GPUs at once; `auto` is where nothing was arranged."""
    if stage == "evaluation" and config.serving.adapters:  # on one engine
        return True
    return getattr(config.resources, stage, AUTO) != "apart"
