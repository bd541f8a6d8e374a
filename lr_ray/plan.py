"""What a run would ask for, before anything starts: processes, GPUs, memory and work of each stage.

    python jobs/full_pipeline.py --config qwen2.5-math-1.5b --plan --gpus 8 --gpu-memory-gb 80

GB are 1e9 bytes. Of an engine's share of a GPU, 0.9 is its own; what the weights leave of that is counted
as cache, though activations need a part. Nothing is downloaded. pytest tests/unit/test_plan.py
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lr_ray.config import Config, Place, merge, resolve, value_at
from lr_ray.errors import UserError
from lr_ray.evaluation.tasks import load_tasks
from lr_ray.models import resolve_model
from lr_ray.problems.benchmarks import BENCHMARKS

_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "intermediate_size", "vocab_size", "tie_word_embeddings", "max_position_embeddings")  # fmt: skip
_MATH = (1536, 28, 12, 2, 8960, 151936, True, 4096)
_MATH_7B = (3584, 28, 28, 4, 18944, 152064, False, 4096)
_HUB = {
    "Qwen/Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151936, True, 32768),
    "Qwen/Qwen2.5-Math-1.5B": _MATH,
    "Qwen/Qwen2.5-Math-1.5B-Instruct": _MATH,
    "Qwen/Qwen2.5-Math-7B": _MATH_7B,
    "Qwen/Qwen2.5-Math-7B-Instruct": _MATH_7B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (*_MATH[:6], False, 131072),
}
_QKV, _MLP = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"}
_USABLE = 0.9  # of an engine's share of a GPU
_STATE_BYTES = 12  # a trained weight and its AdamW moments, in float32


@dataclass(frozen=True)
class Model:
    """An architecture. `cache`: keys and values of a token; `lora`: inputs + outputs, of all layers."""

    parameters: int
    rows: int
    context: int
    heads: int
    kv_heads: int
    cache: int
    lora: dict[str, int]


Models = dict[str, Model | None]  # expert and amateur; None for one that is not known


def describe(config: dict[str, Any]) -> Model:
    """The model of a config.json of Qwen2, Qwen3, Llama or Mistral. Raises KeyError for a missing field."""
    hidden, layers, heads, inner, rows = (config[_FIELDS[i]] for i in (0, 1, 2, 4, 5))
    head_dim, kind = config.get("head_dim") or hidden // heads, config["model_type"]
    kv_heads = config.get("num_key_value_heads") or heads
    wide, narrow = heads * head_dim, kv_heads * head_dim
    shapes = dict.fromkeys(_QKV, (hidden, narrow)) | {"q_proj": (hidden, wide)}
    shapes |= dict.fromkeys(_MLP, (hidden, inner)) | {"down_proj": (inner, hidden)}
    shapes["o_proj"] = (wide, hidden)
    biased = (
        _QKV if kind == "qwen2" else _QKV | {"o_proj"} if config.get("attention_bias") else set()
    )
    biased = biased | (_MLP if config.get("mlp_bias") else set())
    layer = sum(i * o + (o if name in biased else 0) for name, (i, o) in shapes.items())
    layer += 2 * hidden + (2 * head_dim if kind == "qwen3" else 0)  # norms
    tables = 1 if config.get("tie_word_embeddings") else 2
    return Model(
        parameters=tables * rows * hidden + layers * layer + hidden,
        rows=rows,
        context=config["max_position_embeddings"],
        heads=heads,
        kv_heads=kv_heads,
        cache=2 * layers * narrow,
        lora={name: layers * (i + o) for name, (i, o) in shapes.items()},
    )


def find_model(reference: str, field: str) -> Model | str:
    """The architecture behind a reference, or a line on why it is left out of the plan.

    Raises UserError naming `field` for a config.json that cannot be read.
    """
    embedded = reference.startswith("embedded:")
    folder = Path(resolve_model(reference, field) if embedded else reference).expanduser()
    file = folder / "config.json"
    if not file.is_file():
        if reference in _HUB:
            return describe(dict(zip(_FIELDS, _HUB[reference], strict=True), model_type="qwen2"))
        return f"{field}: {file} is not here, and nothing is downloaded; left out of the plan"
    try:
        config = json.loads(file.read_text())
        if config["model_type"] not in ("qwen2", "qwen3", "llama", "mistral"):
            kind = config["model_type"]
            return f"{field}: {file}: cannot count parameters of {kind}; left out of the plan"
        return describe(config)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{field}: {file}: no usable architecture: {error!r}") from None


@dataclass(frozen=True)
class Processes:
    """Alike processes of a stage; bytes are of each. `role` is their section of `resources`."""

    role: str
    place: Place
    least: int
    most: int
    dtype: str
    weights: float | None  # None when the architecture is not known
    token: float = 0  # key-value cache of a token
    sequence: int = 0  # tokens of prompt and answer, at most
    state: float = 0  # of the optimizer

    def room(self, gpu: float) -> float:
        """Bytes of 0.9 of its share of GPUs of `gpu` bytes."""
        return _USABLE * self.place.gpus * gpu

    def fits(self, gpu: float) -> bool:
        """Whether weights, optimizer state and a full-length sequence have room; True on CPU."""
        if self.weights is None or not self.place.gpus:
            return True
        return self.weights + self.state + self.sequence * self.token <= self.room(gpu)


def at_once(stage: list[Processes], most: bool = False) -> int:
    """GPUs that a stage has to have at once for its fewest (or most) processes; shares fill GPUs up."""
    wanted = [p.place.gpus for p in stage for _ in range(p.most if most else p.least)]
    shared: list[float] = []
    for share in sorted((gpus for gpus in wanted if 0 < gpus < 1), reverse=True):
        index = next((i for i, used in enumerate(shared) if used + share <= 1.00001), None)
        if index is None:
            shared.append(share)
        else:
            shared[index] += share
    return len(shared) + sum(int(gpus) for gpus in wanted if gpus >= 1)


def stages(config: Config, models: Models) -> dict[str, list[Processes]]:
    """The processes of each stage."""
    sampling, training, serving = config.sampling, config.training, config.serving
    resources, expert = config.resources, models["expert"]
    roles = ["expert"] if sampling.method == "rejection" else ["expert", "amateur"]
    room = min((model.context for role in roles if (model := models[role])), default=0)
    engines = []
    for role in roles:
        pool, place = getattr(sampling, role), getattr(resources, role)
        memory = _memory(models[role], pool.dtype, room)
        engines.append(Processes(role, place, pool.min_engines, pool.max_engines, **memory))
    workers, least = training.num_workers, training.min_workers or training.num_workers
    memory = _memory(expert, training.dtype, 0)
    if expert and training.zero_stage == 3:
        memory["weights"] /= least
    state = trained(config, expert) * _STATE_BYTES / least if expert else 0
    trainers = Processes("trainer", resources.trainer, least, workers, **memory, state=state)
    replicas, grown = serving.min_replicas, serving.max_replicas or serving.min_replicas
    memory = _memory(expert, serving.dtype, serving.max_model_len)
    servers = Processes("server", resources.server, 2 * replicas, 2 * grown, **memory)
    return {"sampling": engines, "training": [trainers], "evaluation": [servers]}


def _memory(model: Model | None, dtype: str, sequence: int) -> dict[str, Any]:
    size = 4 if dtype == "float32" else 2
    if model is None:
        return {"dtype": dtype, "weights": None}
    bytes_of = {"weights": model.parameters * size, "token": model.cache * size}
    return {"dtype": dtype, "sequence": sequence, **bytes_of}


def trained(config: Config, expert: Model) -> int:
    """Trained parameters: all, or rank * (inputs + outputs) of each layer among LoRA's targets."""
    if config.training.method == "full":
        return expert.parameters
    lora = config.training.lora
    return sum(lora.rank * expert.lora.get(target, 0) for target in lora.targets)


def advise(config: Config, models: Models, stage: str, gpus: int, gpu: float) -> dict[str, Any]:
    """Settings (dotted) with which a stage fits and uses what it can of `gpus`; {} for none found."""
    now = stages(config, models)[stage]
    if any(p.weights is None for p in now):
        return {}
    runs = at_once(now) <= gpus and all(p.fits(gpu) for p in now)
    used = at_once(now, most=True) if runs else 0  # it may only get better
    base = config.model_dump(mode="json")
    for candidate in _candidates(config, models, stage, gpus, gpu):
        over = {k: v for k, v in candidate.items() if v is not None and value_at(base, k) != v}
        tree = base
        for name, value in over.items():
            for part in reversed(name.split(".")):
                value = {part: value}
            tree = merge(tree, value)
        found = stages(resolve(tree), models)[stage]
        if used < at_once(found, most=True) <= gpus and all(p.fits(gpu) for p in found):
            return over
    return {}


def _candidates(
    config: Config, models: Models, stage: str, gpus: int, gpu: float
) -> Iterator[dict[str, Any]]:
    """Values of settings that might fit, the best first; a value of None leaves it as it is."""
    training, expert, amateur = config.training, models["expert"], models["amateur"]
    assert expert is not None
    if stage == "training":
        workers = min(gpus, training.batch_size)
        least = training.min_workers and min(training.min_workers, workers)
        over = {"training.num_workers": workers, "training.min_workers": least}
        for zero in dict.fromkeys((training.zero_stage, 3)):
            yield {"resources.trainer.gpus": 1, **over, "training.zero_stage": zero}
    elif stage == "evaluation":
        halves = _splits(config.resources.server, gpus // 2, expert) if gpus > 1 else [0.5]
        for split in halves:
            count = int(gpus / 2 // split)
            over = {"serving.min_replicas": count}
            over |= {"serving.max_replicas": config.serving.max_replicas and count}
            yield {"resources.server.gpus": split, **over}
    elif config.sampling.method == "rejection":
        for split in _splits(config.resources.expert, gpus, expert):
            yield _pool(config, "expert", split, gpus // split)
    elif gpus == 1:
        # Beside the weights, both get a cache of as many tokens.
        pair = stages(config, models)["sampling"]
        left = _USABLE * gpu - sum(p.weights or 0 for p in pair)
        cache = left / sum(p.token for p in pair)
        share = ((pair[0].weights or 0) + cache * pair[0].token) / (_USABLE * gpu)
        first = min(19, max(1, math.floor(20 * share))) / 20
        yield _pool(config, "expert", first, 1) | _pool(config, "amateur", round(1 - first, 2), 1)
    else:
        assert amateur is not None
        part = gpus * expert.parameters / (expert.parameters + amateur.parameters)
        for split in _splits(config.resources.expert, gpus - 1, expert):
            count = min(max(1, round(part / split)), (gpus - 1) // split)
            ours = _pool(config, "expert", split, count)
            yield ours | _pool(config, "amateur", 1, gpus - split * count)


def _splits(place: Place, most: int, model: Model) -> list[int]:
    """GPUs that a model can be split over: as many as are set if that is possible, then fewest first."""
    heads, kv = model.heads, model.kv_heads
    possible = [n for n in range(1, most + 1) if not heads % n and not (kv % n and n % kv)]
    return sorted(possible, key=lambda n: (n != place.gpus, n))


def _pool(config: Config, role: str, gpus: float, engines: int) -> dict[str, Any]:
    pool = getattr(config.sampling, role)
    engines = min(engines, shards(config))
    least = {f"sampling.{role}.min_engines": min(pool.min_engines, engines)}
    return {f"resources.{role}.gpus": gpus, f"sampling.{role}.max_engines": engines, **least}


def shards(config: Config) -> int:
    """Supervision shards, at most: one a batch of problems."""
    return math.ceil(config.sampling.max_problems / config.sampling.batch_size)


def answers(config: Config) -> int | None:
    """Answers that both models are asked for, at most; None when benchmarks of the hub say how many."""
    asked, each = config.evaluation, 2 * config.evaluation.samples
    hub = asked.data_dir is None and any(name in BENCHMARKS for name in asked.benchmarks)
    if not hub:
        return each * sum(len(task.rows) for task in load_tasks(asked))
    tasks = len(asked.benchmarks) * len(asked.shots)
    return asked.max_problems and each * tasks * asked.max_problems


def warnings(config: Config, models: Models, gpus: int | None, gpu: float) -> list[str]:
    """A line for each thing that cannot work, or leaves GPUs idle, on `gpus` GPUs of `gpu` bytes."""
    said = []
    for stage, processes in stages(config, models).items():
        least, most = at_once(processes), at_once(processes, most=True)
        over = advise(config, models, stage, gpus, gpu) if gpus and most else {}
        flags = " ".join(f"--{name} {value:g}" for name, value in over.items())
        bigger = "it takes more GPUs, or larger ones" if gpus else "--gpus N says what would fit"
        fits = f"it fits with {flags}" if flags else bigger
        misfits = [p for p in processes if not p.fits(gpu)]
        for p in misfits:
            what = "AdamW's state" if p.state else f"a sequence of {p.sequence} tokens"
            room = f"{_USABLE} of its share of the GPUs, {p.room(gpu) / 1e9:.3g} GB"
            said.append(f"resources.{p.role}: its weights and {what} do not fit in {room}; {fits}")
        if gpus and least > gpus:
            said.append(f"{stage} needs {least} GPUs at once, and {gpus} will be there; {fits}")
        elif gpus and not misfits and 0 < most < gpus and flags:
            said.append(
                f"{stage} uses {most} of {gpus} GPUs at most; the others are used with {flags}"
            )
    context = stages(config, models)["sampling"][0].sequence
    tokens, served, expert = config.sampling.max_new_tokens, config.serving, models["expert"]
    if context and tokens >= context:
        said.append(f"sampling.max_new_tokens = {tokens} leaves no room for a prompt in {context}")
    if expert and served.max_model_len > expert.context:
        said.append(
            f"serving.max_model_len = {served.max_model_len} exceeds the {expert.context} tokens "
            "that the expert reads"
        )
    return said
