"""The processes of each stage, and the GPU memory that each takes. Nothing is started or downloaded.

GB are 1e9 bytes, bytes are of each GPU of a process. Of its share of a GPU an engine takes 0.9 at most,
as vLLM does by default. Exercised by `pytest tests/unit/placement`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lr_ray.config import Config, Place, Serving, roles_of
from lr_ray.config.resources import AUTO
from lr_ray.models.adapters import slots_of
from lr_ray.placement.sizes import Model, Models

Bundle = dict[str, float]

USABLE = 0.9  # of an engine's share of a GPU
PROMPT_TOKENS = 512  # of a prompt, where caches are sized: system turn, problem and template
ANSWER_TOKENS = 1024  # likewise of prompt and answer in an evaluation
SEQUENCES = 256  # at once in an engine on a GPU, for which a cache has room where it can
_FEWEST = 16  # sequences that have room where they can
_BLOCK_TOKENS = 16  # of vLLM's caches
_STATE_BYTES = 16  # a trained weight's float32 copy, two moments of AdamW and gradient
_STEP_BYTES = 4  # of it beside them while AdamW steps: a square root of all second moments
_ROW_BYTES = 40  # of a step in supervision/ and scores/ together: the demo has 39
_CHECKPOINTS = 3  # two are kept while the next is written
_CHECKPOINT_BYTES = 12  # a trained weight and its two moments
# CUDA's context, cuBLAS and NCCL buffers; captured graphs of engines that decode.
_CONTEXT_BYTES, _GRAPH_BYTES = 0.8e9, 1.0e9
BATCHED_TOKENS = 8192  # of one forward of an engine on a GPU
_WORKSPACE_BYTES = 1.5e9  # of training: temporaries of a backward, the allocator's gaps
MOST_BUCKET = 500_000_000  # weights whose gradients are reduced at once: DeepSpeed's own
_GATHERED = 1_000_000_000  # weights that ZeRO 3 has whole at once (DeepSpeed's max_live_parameters)
_SCORED_ROWS = 1024  # rows whose logits exist at once (engines.scorer_model)
_KEPT_LOGIT_BYTES = 12  # of a logit in training: its log-softmax and two gradients, in float32
_HEAD_ROWS = 256  # of logits in training at once (`training.model.HEAD_ROWS`, which needs torch)
_LOGIT_BYTES = 10  # of a scored or sampled logit: bfloat16, float32, and a float32 temporary


@dataclass(frozen=True)
class Processes:
    """Processes of a stage that are all alike."""

    role: str  # their section of `resources`
    place: Place
    least: int
    most: int
    dtype: str
    weights: float | None  # None when the architecture is not known
    overhead: float = 0  # all but weights, state and cache: activations, logits, captured graphs
    state: float = 0  # of the optimizer
    token: float = 0  # keys and values of a token
    sequence: int = 0  # tokens of the longest sequence, which must have room
    usual: int = 0  # tokens of a usual one
    models: int = 1  # that each have an equal part of them

    def room(self, gpu: float) -> float:
        """Bytes of 0.9 of its share of each of its GPUs of `gpu` bytes."""
        return USABLE * min(1.0, self.place.gpus) * gpu

    @property
    def longest(self) -> float:
        """Bytes of one longest sequence, in vLLM's blocks."""
        return self.token * math.ceil(self.sequence / _BLOCK_TOKENS) * _BLOCK_TOKENS

    @property
    def fewest(self) -> float:
        """Bytes of the smallest cache to aim at: one longest sequence, or 16 usual ones."""
        return max(self.longest, self.token * _FEWEST * self.usual)

    @property
    def wanted(self) -> float:
        """Bytes of a cache of 256 usual sequences."""
        return max(self.fewest, self.token * SEQUENCES * self.usual)

    @property
    def fixed(self) -> float:
        """Bytes of everything but the cache."""
        return (self.weights or 0) + self.overhead + self.state

    @property
    def needed(self) -> float:
        """Bytes of a GPU that it cannot run without: with the stated cache, else one longest sequence."""
        return self.fixed + (1e9 * (self.place.cache_gb or 0) or self.longest)

    def fits(self, gpu: float, tight: bool = False) -> bool:
        """Whether its share of a GPU of `gpu` bytes has room; True on CPU and where nothing is known.

        `tight`: for one longest sequence at least, else for 16 usual ones too.
        """
        if self.weights is None or not self.place.gpus:
            return True
        usual = 0 if tight or self.place.cache_gb else self.fixed + self.fewest
        return max(self.needed, usual) <= self.room(gpu)


def at_once(stage: Sequence[Processes], together: bool, most: bool = False) -> int:
    """GPUs that a stage has to have at once for its fewest (or most) processes; shares fill GPUs up.

    Not `together`, its kinds of processes follow one another.
    """
    if not together:
        return max((at_once([kind], True, most) for kind in _kinds(stage)), default=0)
    wanted = [p.place.gpus for p in stage for _ in range(p.most if most else p.least)]
    shared: list[float] = []
    for share in sorted((gpus for gpus in wanted if 0 < gpus < 1), reverse=True):
        index = next((i for i, used in enumerate(shared) if used + share <= 1.00001), None)
        if index is None:
            shared.append(share)
        else:
            shared[index] += share
    return len(shared) + sum(int(gpus) for gpus in wanted if gpus >= 1)


def _kinds(stage: Sequence[Processes]) -> list[Processes]:
    """The groups that run one after another: each role, and each of the served models."""
    return [
        replace(p, least=p.least // 2, most=p.most // 2) if p.role == "server" else p for p in stage
    ]


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
    overhead = engine.overhead + _adapters(model, max(1, int(place.gpus)), _bytes_of(serving.dtype))
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
    size, graphs = _bytes_of(engine.dtype), 0 if scored_rows else _GRAPH_BYTES
    logits = (scored_rows or decoded) * model.rows * _LOGIT_BYTES
    forward = BATCHED_TOKENS * size * (4 * model.hidden + 2 * model.intermediate / ranks)
    return replace(
        engine,
        weights=model.weights(size) / ranks,
        overhead=_CONTEXT_BYTES + graphs + forward + logits,
        token=model.cache * size / min(ranks, model.kv_heads),
    )


def trainers(config: Config, models: Models) -> Processes:
    """The training workers. Their fewest divide what a ZeRO stage partitions."""
    asked, model = config.training, models["expert"]
    least = asked.min_workers or asked.workers
    found = Processes("trainer", config.resources.trainer, least, asked.workers, asked.dtype, None)
    if model is None:
        return found
    size = _bytes_of(asked.dtype)
    kept = asked.batch_size * (1 if asked.batch_by == "step" else config.sampling.longest)
    targets = asked.lora.targets if asked.method == "lora" else ()
    # A trajectory is not split, however few tokens a micro-batch has.
    trajectory = min(PROMPT_TOKENS + config.sampling.longest, config.sampling.room, model.context)
    tokens = max(asked.micro_batch_tokens, trajectory)
    checkpointing, rank = asked.gradient_checkpointing, asked.lora.rank
    activations = activation_bytes(model, targets, rank, tokens, size, checkpointing)
    logits = _KEPT_LOGIT_BYTES * model.rows * min(kept, _HEAD_ROWS)
    count = trained(config, model)
    beside = count if asked.method == "lora" else 0  # LoRA's own weights, beside the frozen ones
    backward = activations + logits + size * min(count, MOST_BUCKET)
    stepping = _STEP_BYTES * count / least  # when activations are gone
    gathered = size * min(model.parameters, _GATHERED) * (asked.zero_stage == 3 and least > 1)
    return replace(
        found,
        weights=(model.parameters + beside) * size / (least if asked.zero_stage == 3 else 1),
        overhead=_CONTEXT_BYTES + _WORKSPACE_BYTES + gathered + max(backward, stepping),
        state=count * _STATE_BYTES / least,
    )


def activation_bytes(
    model: Model,
    lora_targets: Sequence[str],
    rank: int,
    tokens: int,
    dtype_bytes: int,
    checkpointing: bool,
) -> int:
    """Bytes that autograd keeps of a packed forward over `tokens` tokens, logits apart: an estimate.

    Of a Llama or Qwen2 under PyTorch's own kernels. Without `lora_targets` all weights are trained. With
    `checkpointing`, each layer's input and the whole of one layer, which is there while its backward runs.
    On top come what the backward holds for a moment (about three times `intermediate` a token) and the
    padding inside attention, which may double attention's part where rows differ in length.
    """
    hidden, heads = model.hidden, model.heads
    kv_heads = heads if dtype_bytes == 4 else model.kv_heads  # repeated, see `training.rows`
    queries = heads * model.head_dim
    widths = {"o_proj": queries, "down_proj": model.intermediate}
    inputs = [widths.get(target.rpartition(".")[2], hidden) for target in lora_targets]
    norm = 4 * hidden + 4  # normalised in float32
    # Queries, keys, values, output; a logarithm a head.
    attention = dtype_bytes * model.head_dim * 2 * (heads + kv_heads) + 4 * heads
    mlp = dtype_bytes * 3 * model.intermediate  # gate, its activation, up
    lora = dtype_bytes * (sum(inputs) + rank * len(inputs))  # what LoRA's A and B read
    layer = model.norms * norm + attention + mlp + lora
    if not lora_targets:  # a weight's gradient needs its input: of norms and of linear layers
        layer += dtype_bytes * (4 * hidden + queries + model.intermediate)
    numbers = 4 * max(inputs, default=0)  # of the dropout masks
    layers = model.layers
    kept = layers * dtype_bytes * hidden + layer if checkpointing else layers * layer
    return tokens * (kept + norm + numbers)


def trained(config: Config, expert: Model) -> int:
    """Trained parameters: all, or rank * (inputs + outputs) of each layer among LoRA's targets."""
    if config.training.method == "full":
        return expert.parameters
    lora = config.training.lora
    return sum(lora.rank * expert.lora.get(target, 0) for target in lora.targets)


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
        "merged model": float(expert.parameters * _bytes_of(config.training.dtype)),
        "checkpoints": float(_CHECKPOINTS * _CHECKPOINT_BYTES * trained(config, expert)),
    }
    if not together(config, "sampling") and sampling.method == "contrast":
        parts["trajectories"] = 8.0 * steps * min(sampling.top_k, expert.rows)
    return parts


def demands(config: Config, stage: str) -> list[dict[str, list[Bundle]]]:
    """Bundles that must fit at once, by the name in `resources`, for each group that runs after another."""
    kinds = processes(config, {"expert": None, "amateur": None}, stage)
    if together(config, stage):
        return [{p.role: _bundles(p) for p in kinds}]
    return [{p.role: _bundles(p)} for p in _kinds(kinds)]


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


def _bytes_of(dtype: str) -> int:
    return 4 if dtype == "float32" else 2
