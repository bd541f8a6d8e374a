"""How large models are, from their config.json or a table of known ones; no weights are read.

GB are 1e9 bytes. Exercised by `pytest tests/unit/placement/test_sizes.py`.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lr_ray.config import Config
from lr_ray.errors import UserError, reason
from lr_ray.models.adapters import ranks_of
from lr_ray.models.files import weight_files
from lr_ray.models.models import resolve_model

_FIELDS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
           "intermediate_size", "vocab_size", "tie_word_embeddings", "max_position_embeddings")  # fmt: skip
_MATH = (1536, 28, 12, 2, 8960, 151936, True, 4096)
_MATH_7B = (3584, 28, 28, 4, 18944, 152064, False, 4096)
_MATH_72B = (8192, 80, 64, 8, 29568, 152064, False, 4096)
# From the models' published config.json.
_HUB = {
    "Qwen/Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151936, True, 32768),
    "Qwen/Qwen2.5-Math-1.5B": _MATH,
    "Qwen/Qwen2.5-Math-1.5B-Instruct": _MATH,
    "Qwen/Qwen2.5-Math-7B": _MATH_7B,
    "Qwen/Qwen2.5-Math-7B-Instruct": _MATH_7B,
    "Qwen/Qwen2.5-Math-72B": _MATH_72B,
    "Qwen/Qwen2.5-Math-72B-Instruct": _MATH_72B,
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B": (*_MATH[:6], False, 131072),
}
_GEMMA = ("gemma", "gemma2", "gemma3_text")
_MIXED = ("mixtral", "qwen3_moe")  # of experts, of which a token takes a few
_KINDS = ("qwen2", "qwen3", "llama", "mistral", "phi3", *_GEMMA, *_MIXED)
# Whose classes in vLLM take adapters of the embedding and the output layer too (`embedding_modules`).
_EMBEDDED = ("llama", "qwen3", "phi3", *_MIXED)
_NORMED_HEADS = ("qwen3", "qwen3_moe", "gemma3_text")
_QKV, _MLP = {"q_proj", "k_proj", "v_proj"}, {"gate_proj", "up_proj", "down_proj"}


@dataclass(frozen=True)
class Model:
    """An architecture."""

    parameters: int
    rows: int  # of the output layer
    context: int  # tokens
    hidden: int
    intermediate: int  # inner columns that a token takes, of several experts together
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    cache: int  # keys and values of a token, of all layers
    lora: dict[str, int]  # inputs + outputs, of all layers
    # Numbers that vLLM sets aside for each adapter and unit of rank, of all layers that could have one
    # (`vllm.lora.layers`): those that each of several GPUs has whole, and those that they share.
    adapter: tuple[int, int] = (0, 0)
    ranks: tuple[int, ...] = ()  # of the adapters that are served beside it
    columns: int = 0  # inner ones of one expert
    norms: int = 2  # of a layer, over its whole width
    stored: int | None = None  # bytes of quantised weights, by their files

    def weights(self, size: int) -> int:
        """Bytes of all weights, `size` of each one that is not quantised."""
        return self.parameters * size if self.stored is None else self.stored


Models = dict[str, Model | None]  # expert and amateur; None for one that is not known


def describe(config: dict[str, Any]) -> Model:
    """The model of a config.json of one of `_KINDS`.

    Layers with a sliding window are counted as those that keep all tokens; their caches are smaller.
    Raises KeyError for a missing field and ValueError for one that is no number above 0.
    """
    hidden, layers, heads, inner, rows, context = (
        _above_0(config, _FIELDS[i]) for i in (0, 1, 2, 4, 5, 7)
    )
    (kv_heads, head_dim), kind = _heads(config, hidden, heads), config["model_type"]
    wide, narrow = heads * head_dim, kv_heads * head_dim
    shapes = dict.fromkeys(_QKV, (hidden, narrow)) | {"q_proj": (hidden, wide)}
    shapes |= dict.fromkeys(_MLP, (hidden, inner)) | {"down_proj": (inner, hidden)}
    shapes["o_proj"] = (wide, hidden)
    biased = (
        _QKV if kind == "qwen2" else _QKV | {"o_proj"} if config.get("attention_bias") else set()
    )
    biased = biased | (_MLP if config.get("mlp_bias") else set())
    size = {n: i * o + (o if n in biased else 0) for n, (i, o) in shapes.items()}
    norms = 4 if kind in _GEMMA[1:] else 2
    layer = sum(size.values()) + norms * hidden + (2 * head_dim if kind in _NORMED_HEADS else 0)
    mixed, experts, taken, columns = _experts(config, layers, inner)
    layer_of_experts = experts * (3 * hidden * columns + hidden)  # and the router's row for each
    extra = mixed * (layer_of_experts - sum(size[name] for name in _MLP))
    tables = 1 if config.get("tie_word_embeddings", kind in _GEMMA) else 2
    # Experts are no layers of their own, which LoRA could be beside.
    lora = {n: (layers - mixed * (n in _MLP)) * sum(shape) for n, shape in shapes.items()}
    if kind == "phi3":  # whose layers take several of these at once
        lora["qkv_proj"] = layers * (hidden + wide + 2 * narrow)
        lora["gate_up_proj"] = layers * (hidden + 2 * inner)
        lora = {name: lora[name] for name in ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")}
    # LoRA's A of a layer split by outputs and B of one split by inputs: as wide as the model, on each GPU.
    layered = hidden * sum(layers - mixed * (name in _MLP) for name in lora)
    whole = layered + mixed * (3 * experts * hidden + hidden + experts)  # with the router
    whole += 2 * (hidden + rows) * (kind in _EMBEDDED)
    return Model(
        parameters=tables * rows * hidden + layers * layer + extra + hidden,
        rows=rows,
        context=context,
        hidden=hidden,
        intermediate=max(inner * (mixed < layers), taken * columns),
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        cache=2 * layers * narrow,
        lora=lora,
        adapter=(whole, sum(lora.values()) - layered + mixed * 3 * experts * columns),
        columns=columns,
        norms=norms,
    )


def _experts(config: dict[str, Any], layers: int, inner: int) -> tuple[int, int, int, int]:
    """Layers that have experts, how many in each, how many a token takes, and inner columns of one."""
    kind = config["model_type"]
    if kind not in _MIXED:
        return 0, 0, 1, inner
    taken = _above_0(config, "num_experts_per_tok")
    if kind == "mixtral":
        return layers, _above_0(config, "num_local_experts"), taken, inner
    step, dense = config.get("decoder_sparse_step") or 1, config.get("mlp_only_layers") or []
    mixed = sum(i not in dense and (i + 1) % step == 0 for i in range(layers))
    # transformers 5 writes the second name.
    count = "num_experts" if "num_experts" in config else "num_local_experts"
    return mixed, _above_0(config, count), taken, _above_0(config, "moe_intermediate_size")


def _heads(config: dict[str, Any], hidden: int, heads: int) -> tuple[int, int]:
    """Heads of keys and values, and a head's size; a config.json need not have either."""
    given = {f for f in ("num_key_value_heads", "head_dim") if config.get(f) is not None}
    size = 256 if config["model_type"] in _GEMMA else hidden // heads  # where it is not given
    if "head_dim" not in given and not size:
        raise ValueError(f"num_attention_heads = {heads}: must be at most hidden_size, {hidden}")
    return (
        _above_0(config, "num_key_value_heads") if "num_key_value_heads" in given else heads,
        _above_0(config, "head_dim") if "head_dim" in given else size,
    )


def _above_0(config: dict[str, Any], field: str) -> int:
    value = config[field]
    if type(value) is not int or value < 1:
        raise ValueError(f"{field} = {value!r}: must be a whole number above 0")
    return value


def find_model(reference: str, field: str, fetch: bool = False) -> Model | str:
    """The architecture of a model reference, or a line on why its size is not known.

    `fetch` asks the Hugging Face hub for the config.json of a model that its cache lacks. Raises UserError
    naming `field` for a config.json that cannot be read.
    """
    embedded = reference.startswith("embedded:")
    folder = Path(os.path.expanduser(resolve_model(reference, field) if embedded else reference))
    file: Path | None = folder / "config.json"
    if not os.path.isdir(folder):  # not Path's, which raises for a name that is too long
        if reference in _HUB:
            return describe(dict(zip(_FIELDS, _HUB[reference], strict=True), model_type="qwen2"))
        file = _fetched(reference, fetch)
    if file is None or not os.path.isfile(file):
        return f"{field}: {folder}/config.json is not here, and nothing is downloaded; left out of the plan"
    try:
        config = json.loads(file.read_text())
        if config["model_type"] not in _KINDS:
            kind = config["model_type"]
            return f"{field}: {file}: cannot count parameters of {kind}; left out of the plan"
        model = describe(config)
        if not isinstance(config.get("quantization_config"), dict):
            return model
        stored = _stored(file.parent, f"{field}: {reference}")
        if stored is None:
            return f"{field}: quantised weights that are not here have no known size; left out of the plan"
        return replace(model, stored=stored)
    except KeyError as error:
        raise UserError(f"{field}: {file}: no usable architecture: no {error.args[0]}") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{field}: {file}: no usable architecture: {reason(error)}") from None


def _stored(folder: Path, where: str) -> int | None:
    """Bytes of a model's files of weights; None where one is missing."""
    files = [folder / name for name in weight_files(folder, where)]
    return sum(f.stat().st_size for f in files) if all(map(os.path.isfile, files)) else None


def _fetched(reference: str, fetch: bool) -> Path | None:
    """config.json of a hub model, without `fetch` of the hub's cache; None where it is not to be had."""
    from huggingface_hub import hf_hub_download

    if reference.count("/") != 1:
        return None
    try:
        return Path(hf_hub_download(reference, "config.json", local_files_only=not fetch))
    except Exception:  # the hub's own, requests' and httpx' kinds; fetching the weights says why
        return None


def find_models(config: Config, fetch: bool = False) -> tuple[Models, dict[str, str]]:
    """The config's models by role, and a line by role for those whose size is not known."""
    models: Models = {"expert": None, "amateur": None}
    unknown = {}
    for role in ["expert"] if config.sampling.method == "rejection" else list(models):
        found = find_model(getattr(config.models, role), f"models.{role}", fetch)
        if isinstance(found, Model):
            models[role] = found
        else:
            unknown[role] = found
    return models, unknown


def largest(models: Mapping[str, str], adapters: Mapping[str, str] | None = None) -> Model | None:
    """The largest of models by name and reference, with the ranks of the `adapters` that stand on it.

    None where the size of one is not known.
    """
    found = [find_model(reference, f"models.{name}") for name, reference in models.items()]
    known = [model for model in found if isinstance(model, Model)]
    if len(known) < len(found):
        return None
    return replace(max(known, key=lambda m: m.weights(2)), ranks=ranks_of(adapters or {}))
